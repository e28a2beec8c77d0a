// Products of bfloat16 numbers with sums in float32.
//
// bfloat16 is the upper half of a float32: 8 bits of mantissa, the same range. Two numbers that
// follow each other along the depth of a product are a pair in 32 bits, the first in the lower
// half, as AVX512_BF16 reads them: one instruction multiplies the pairs of kLanes columns and adds
// both products to their sums. Elsewhere the same is done with float32 multiply-adds, in which
// such a product is exact.
//
// Rounding is done on integers, to the nearest, ties to even, with denormals as they are, on every
// CPU alike. AVX512_BF16 itself takes denormals for zeros and adds the second product of a pair
// first, so the bits of a sum depend on the CPU.

#ifndef VARGFACENET_BF16_H_
#define VARGFACENET_BF16_H_

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace vargfacenet {

typedef uint16_t Half __attribute__((may_alias));
typedef uint32_t Pair __attribute__((may_alias));
typedef uint32_t Pairs __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint32_t UnalignedPairs
    __attribute__((vector_size(kLanes * sizeof(uint32_t)), aligned(sizeof(uint16_t)), may_alias));

constexpr uint32_t kSecond = 0xffff0000;  // bits of a pair's second number

inline int64_t pairs_of(int64_t count) { return (count + 1) / 2; }

template <int kSlot>
Half* half_scratch(int64_t size) {
  return reinterpret_cast<Half*>(scratch<kSlot>(pairs_of(size)));
}

template <int kSlot>
Pair* pair_scratch(int64_t size) {
  return reinterpret_cast<Pair*>(scratch<kSlot>(size));
}

// ------------------------------------------------------------------------------------ rounding

// Bits of a float as those of the nearest bfloat16, in the upper half; the lower is not cleared.
inline uint32_t rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t nearest = bits + 0x7fff + (bits >> 16 & 1);
  const bool is_number = (bits & 0x7fffffff) <= 0x7f800000;
  return is_number ? nearest : bits | 0x400000;  // with this bit it stays not a number
}

inline void round_row(const float* from, int64_t count, Half* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint16_t>(rounded(from[i]) >> 16);
}

// from[0], from[2] ...: `count` of them.
inline void round_every_second(const float* from, int64_t count, Half* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint16_t>(rounded(from[2 * i]) >> 16);
}

// Pairs of two rows; without a second one its numbers are zeros.
inline void round_pairs(const float* first, const float* second, int64_t count, Pair* to) {
  if (second == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) to[i] = rounded(first[i]) >> 16;
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    to[i] = rounded(first[i]) >> 16 | (rounded(second[i]) & kSecond);
  }
}

// ------------------------------------------------------------------------------------ products

// Pairs of numbers that follow each other; or pairs that lie there already.
inline Pairs load_pairs(const Half* from) {
  return (Pairs) * reinterpret_cast<const UnalignedPairs*>(from);
}
inline Pairs load_pairs(const Pair* from) {
  return (Pairs) * reinterpret_cast<const UnalignedPairs*>(from);
}

// sum + both products of each pair.
inline Vec add_pair(Pairs a, Pairs b, Vec sum) {
#if defined(__AVX512BF16__)
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  sum = multiply_add((Vec)(a << 16), (Vec)(b << 16), sum);
  return multiply_add((Vec)(a & kSecond), (Vec)(b & kSecond), sum);
#endif
}

// sums (rows, vectors) += a (rows, depth) b (depth, vectors * kLanes), one pair after the other;
// a's pair (r, k) lies at a[r * row + k * step], row k of b's pairs at b_row(k).
template <int kBlockRows, int kBlockVectors, typename RowOfB>
__attribute__((always_inline)) inline void add_pairs(int64_t pairs, const Pair* a, int64_t row,
                                                     int64_t step, RowOfB b_row,
                                                     Vec (&sums)[kBlockRows][kBlockVectors]) {
  for (int64_t k = 0; k < pairs; ++k) {
    const auto* from = b_row(k);
    Pairs columns[kBlockVectors];
    for (int v = 0; v < kBlockVectors; ++v) columns[v] = load_pairs(from + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kBlockRows; ++r) {
      const Pairs factor = Pairs{} + a[r * row + k * step];
      for (int v = 0; v < kBlockVectors; ++v) {
        sums[r][v] = add_pair(factor, columns[v], sums[r][v]);
      }
    }
  }
}

}  // namespace vargfacenet

#endif  // VARGFACENET_BF16_H_
