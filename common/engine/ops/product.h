// A block of a matrix product that fills the registers, and matrices packed for it.

#ifndef VARGFACENET_PRODUCT_H_
#define VARGFACENET_PRODUCT_H_

#include <algorithm>
#include <cstdint>

#include "simd.h"
#include "tensor.h"

namespace vargfacenet {

// out (kRows, kPanel) = or += a (kRows, depth) b (depth, kPanel); a's element (r, k) lies at
// a[r * row + k * step].
template <bool kAccumulate>
inline void product_block(int64_t depth, const float* a, int64_t row, int64_t step, const float* b,
                          int64_t b_pitch, float* out, int64_t out_pitch) {
  Vec sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = kAccumulate ? load(out + r * out_pitch + v * kLanes) : Vec{};
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec columns[kVectors];
    for (int v = 0; v < kVectors; ++v) columns[v] = load(b + k * b_pitch + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec factor = splat(a[r * row + k * step]);
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = multiply_add(factor, columns[v], sums[r][v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(out + r * out_pitch + v * kLanes, sums[r][v]);
  }
}

// Rows block..block+kRows-1 of a (rows, depth) as (depth, kRows), zeros behind the last row.
inline void pack_block(const float* a, int64_t block, int64_t rows, int64_t depth, int64_t row,
                       int64_t step, float* packed) {
  const int64_t valid = std::min<int64_t>(kRows, rows - block);
  for (int64_t k = 0; k < depth; ++k) {
    for (int r = 0; r < kRows; ++r) {
      packed[k * kRows + r] = r < valid ? a[(block + r) * row + k * step] : 0.f;
    }
  }
}

// a (rows, depth) as (rows / kRows, depth, kRows).
inline void pack_rows(const float* a, int64_t rows, int64_t depth, int64_t row, int64_t step,
                      float* packed) {
#pragma omp parallel for schedule(static) if (rows * depth > kParallelSize)
  for (int64_t block = 0; block < rows; block += kRows) {
    pack_block(a, block, rows, depth, row, step, packed + block * depth);
  }
}

}  // namespace vargfacenet

#endif  // VARGFACENET_PRODUCT_H_
