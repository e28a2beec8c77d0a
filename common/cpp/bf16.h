// Products of bfloat16 numbers with sums in float32.
//
// bfloat16 is the upper half of a float32: 8 bits of mantissa, the same range. Two numbers that
// follow each other along the depth of a product are a pair in 32 bits, the first in the lower
// half, as AVX512_BF16 reads them: one instruction multiplies the pairs of kLanes columns and adds
// both products to their sums. Elsewhere the same is done with float32 multiply-adds, in which
// such a product is exact.
//
// Rounding is to the nearest, ties to even. AVX512_BF16 takes denormals for zeros and adds the
// second product of a pair first, so the bits of a sum depend on the CPU.

#ifndef VARGFACENET_BF16_H_
#define VARGFACENET_BF16_H_

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace vargfacenet {

typedef uint16_t Half __attribute__((may_alias));
typedef uint32_t Pair;
typedef uint32_t Pairs __attribute__((vector_size(kLanes * sizeof(uint32_t))));
constexpr uint32_t kSecond = 0xffff0000;  // bits of a pair's second number

inline int64_t pairs_of(int64_t count) { return (count + 1) / 2; }

template <typename Element, int kSlot>
Element* scratch_of(int64_t size) {
  return reinterpret_cast<Element*>(scratch<kSlot>(size));
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

// Bits of the nearest bfloat16 of every lane, in the upper half; the lower is not cleared.
inline Pairs rounded(Vec values) {
  const Pairs bits = (Pairs)values;
  const Pairs is_number = (Pairs)((bits & 0x7fffffff) <= 0x7f800000);
  return (is_number & (bits + 0x7fff + (bits >> 16 & 1))) | (~is_number & (bits | 0x400000));
}

// The first `count` <= kLanes numbers.
inline void store_rounded(Half* to, Vec values, int64_t count) {
#if defined(__AVX512BF16__)
  const __m256i halves = (__m256i)_mm512_cvtneps_pbh((__m512)values);
#else
  typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t))));
  const Halves halves = __builtin_convertvector(rounded(values) >> 16, Halves);
#endif
  if (count == kLanes) {
    std::memcpy(to, &halves, kLanes * sizeof(uint16_t));
  } else {
    std::memcpy(to, &halves, count * sizeof(uint16_t));
  }
}

// The bits of two numbers as a pair.
inline Pair pair_of(float first, float second) {
  return rounded(first) >> 16 | (rounded(second) & kSecond);
}

// The same of every lane.
inline Pairs round_to_pairs(Vec first, Vec second) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
  alignas(64) static constexpr int16_t kOrder[2 * kLanes] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  return (Pairs)_mm512_permutexvar_epi16(_mm512_load_si512(kOrder), halves);
#else
  return rounded(first) >> 16 | (rounded(second) & kSecond);
#endif
}

inline Vec first_of(Pairs pairs) { return (Vec)(pairs << 16); }
inline Vec second_of(Pairs pairs) { return (Vec)(pairs & kSecond); }

// Of two rows of pairs, a and b, the first numbers of both as pairs, and the second ones.
inline Pairs firsts(Pairs a, Pairs b) { return (a & ~kSecond) | b << 16; }
inline Pairs seconds(Pairs a, Pairs b) { return a >> 16 | (b & kSecond); }

// --------------------------------------------------------------------------------- rows of pairs

// Bits are moved as those of floats.
inline Pairs load(const Pair* from) { return (Pairs)load(reinterpret_cast<const float*>(from)); }
inline void store(Pair* to, Pairs value) { store(reinterpret_cast<float*>(to), (Vec)value); }
inline Pairs load_first(const Pair* from, int64_t count) {
  return (Pairs)load_first(reinterpret_cast<const float*>(from), count);
}
inline void store_first(Pair* to, Pairs value, int64_t count) {
  store_first(reinterpret_cast<float*>(to), (Vec)value, count);
}
inline void copy_row(const Pair* from, int64_t count, Pair* to) {
  copy_row(reinterpret_cast<const float*>(from), count, reinterpret_cast<float*>(to));
}

// ------------------------------------------------------------------------------------ products

inline Pairs broadcast(const Pair* from) { return Pairs{} + *from; }

// sum + both products of each pair.
inline Vec multiply_add(Pairs a, Pairs b, Vec sum) {
#if defined(__AVX512BF16__)
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  sum = multiply_add(first_of(a), first_of(b), sum);
  return multiply_add(second_of(a), second_of(b), sum);
#endif
}

}  // namespace vargfacenet

#endif  // VARGFACENET_BF16_H_
