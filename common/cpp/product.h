// A block of a matrix product that fills the registers, and matrices packed for it.

#ifndef VARGFACENET_PRODUCT_H_
#define VARGFACENET_PRODUCT_H_

#include <algorithm>
#include <cstdint>

#include "bf16.h"
#include "simd.h"

namespace vargfacenet {

// sums (rows, vectors) += a (rows, depth) b (depth, vectors * kLanes), one after the other along
// the depth; a's element (r, k) lies at a[r * row + k * step], row k of b at b_row(k). Elements are
// floats, or pairs of bfloat16 numbers.
template <typename Element, int kBlockRows, int kBlockVectors, typename RowOfB>
__attribute__((always_inline)) inline void add_products(int64_t depth, const Element* a,
                                                        int64_t row, int64_t step, RowOfB b_row,
                                                        Vec (&sums)[kBlockRows][kBlockVectors]) {
  for (int64_t k = 0; k < depth; ++k) {
    const Element* from = b_row(k);
    decltype(load(from)) columns[kBlockVectors];
    for (int v = 0; v < kBlockVectors; ++v) {
      columns[v] = load(from + v * kLanes);
      keep_in_register(columns[v]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kBlockRows; ++r) {
      auto factor = broadcast(a + r * row + k * step);
      keep_in_register(factor);
      for (int v = 0; v < kBlockVectors; ++v) {
        sums[r][v] = multiply_add(factor, columns[v], sums[r][v]);
      }
    }
  }
}

// out (kRows, kPanel) = or += a (kRows, depth) b (depth, kPanel); `a` as in add_products.
template <bool kAccumulate, typename Element>
inline void product_block(int64_t depth, const Element* a, int64_t row, int64_t step,
                          const Element* b, int64_t b_pitch, float* out, int64_t out_pitch) {
  Vec sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = kAccumulate ? load(out + r * out_pitch + v * kLanes) : Vec{};
    }
  }
  add_products(depth, a, row, step, [&](int64_t k) { return b + k * b_pitch; }, sums);
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(out + r * out_pitch + v * kLanes, sums[r][v]);
  }
}

// Rows block..block+kWidth-1 of a (rows, depth) as (depth, kWidth), zeros behind the last row.
template <int kWidth>
inline void pack_block(const float* a, int64_t block, int64_t rows, int64_t depth, int64_t row,
                       int64_t step, float* packed) {
  const int64_t valid = std::min<int64_t>(kWidth, rows - block);
  for (int64_t r = 0; r < kWidth; ++r) {
    const float* from = a + (block + r) * row;
    for (int64_t k = 0; k < depth; ++k) packed[k * kWidth + r] = r < valid ? from[k * step] : 0.f;
  }
}

// a (rows, depth) as (rows / kWidth, depth, kWidth).
template <int kWidth>
inline void pack_rows(const float* a, int64_t rows, int64_t depth, int64_t row, int64_t step,
                      float* packed) {
#pragma omp parallel for schedule(static) if (rows * depth > kParallelSize)
  for (int64_t block = 0; block < rows; block += kWidth) {
    pack_block<kWidth>(a, block, rows, depth, row, step, packed + block * depth);
  }
}

}  // namespace vargfacenet

#endif  // VARGFACENET_PRODUCT_H_
