// Vectors of floats as wide as this machine's registers, and the block sizes that fill them.
//
// Written with the compilers' vector types; what they lack (a fused multiply-add that does not
// depend on -ffp-contract) comes from intrinsics.
//
// How all C++ of the project is written; clang-format with the .clang-format at the root agrees:
// - Google's format at 100 columns; braces around the body of every loop that has a line of its
// own.
// - Types in CamelCase, functions and variables in snake_case, members with an underscore behind,
//   constants, enumerators and template values as kName; nothing in capitals but macros.
// - A library's code is in namespace vargfacenet, what one file alone uses in a nameless one
//   within; only what Python calls is extern "C", and begins with the library's letters.
// - A comment above a function gives the arrays' shapes in the order of memory, (rows, depth);
//   sizes are int64_t.

#ifndef VARGFACENET_SIMD_H_
#define VARGFACENET_SIMD_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace vargfacenet {

// A product's block is kRows rows by kVectors vectors: as many sums as the registers hold beside
// one row of operands.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 8;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRows = 4;
#else
constexpr int kLanes = 4, kRows = 4;
#endif
constexpr int kVectors = 3;
constexpr int kPanel = kLanes * kVectors;  // columns of a block

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef float UnalignedVec
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const UnalignedVec*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<UnalignedVec*>(to) = value; }

#if defined(__AVX512F__)
inline Vec splat(float value) { return (Vec)_mm512_set1_ps(value); }
inline Vec multiply_add(Vec a, Vec b, Vec sum) {
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
}
#elif defined(__AVX__) && defined(__FMA__)
inline Vec splat(float value) { return (Vec)_mm256_set1_ps(value); }
inline Vec multiply_add(Vec a, Vec b, Vec sum) {
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
}
#elif defined(__aarch64__)
inline Vec splat(float value) { return (Vec)vdupq_n_f32(value); }
inline Vec multiply_add(Vec a, Vec b, Vec sum) {
  return (Vec)vfmaq_f32((float32x4_t)sum, (float32x4_t)a, (float32x4_t)b);
}
#else
inline Vec splat(float value) { return Vec{} + value; }
inline Vec multiply_add(Vec a, Vec b, Vec sum) { return a * b + sum; }
#endif

inline Vec broadcast(const float* from) { return splat(*from); }

// Has a value stay in a register. GCC would read it again for every product that it is part of,
// more often than a processor can load.
template <typename Vector>
inline void keep_in_register(Vector& value) {
#if defined(__AVX512F__)
  asm("" : "+v"(value));
#elif defined(__SSE__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
}

inline float sum_of_lanes(Vec value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)value);
#else
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += value[i];
  return sum;
#endif
}

#if defined(__AVX__) && !defined(__AVX512F__)
// All bits set in the first `count` <= kLanes.
inline __m256i mask_of_first(int64_t count) {
  alignas(32) static constexpr int32_t kMasks[2 * kLanes] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMasks + kLanes - count));
}
#endif

// The first `count` <= kLanes floats, zeros behind them.
inline Vec load_first(const float* from, int64_t count) {
  if (count == kLanes) return load(from);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#elif defined(__AVX__)
  return (Vec)_mm256_maskload_ps(from, mask_of_first(count));
#else
  float values[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) values[i] = from[i];
  return load(values);
#endif
}

// Zeros in place of all but the first `count` <= kLanes.
inline Vec keep_first(Vec value, int64_t count) {
  if (count == kLanes) return value;
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_mov_ps(static_cast<__mmask16>((1u << count) - 1), (__m512)value);
#elif defined(__AVX__)
  return (Vec)_mm256_and_ps((__m256)value, _mm256_castsi256_ps(mask_of_first(count)));
#else
  for (int64_t i = count; i < kLanes; ++i) value[i] = 0.f;
  return value;
#endif
}

inline void store_first(float* to, Vec value, int64_t count) {
  if (count == kLanes) return store(to, value);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), (__m512)value);
#elif defined(__AVX__)
  // A masked store takes some processors a dozen cycles.
  __m128 rest = _mm256_castps256_ps128((__m256)value);
  if (count & 4) {
    _mm_storeu_ps(to, rest);
    to += 4;
    rest = _mm256_extractf128_ps((__m256)value, 1);
  }
  if (count & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(to), rest);
    to += 2;
    rest = _mm_movehl_ps(rest, rest);
  }
  if (count & 1) _mm_store_ss(to, rest);
#else
  float values[kLanes];
  store(values, value);
  for (int64_t i = 0; i < count; ++i) to[i] = values[i];
#endif
}

// Calls body(start, lanes) for every vector of a row; only the last may have less than kLanes.
template <typename Body>
inline void for_vectors(int64_t count, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, kLanes);
  if (i < count) body(i, count - i);
}

// A sum of many vectors: in float for a stretch that is short enough, then in double.
class Sum {
 public:
  void add(Vec value) { recent_ = recent_ + value; }
  void end_stretch() {
    for (int i = 0; i < kLanes; ++i) total_[i] += recent_[i];
    recent_ = Vec{};
  }
  double total() {
    end_stretch();
    double sum = 0;
    for (double lane : total_) sum += lane;
    return sum;
  }

 private:
  Vec recent_ = {};
  double total_[kLanes] = {};
};
constexpr int64_t kStretch = 256 * kLanes;  // floats

// 1 / length of a row; `addend` goes to the squared length, so that a row of zeros has one.
inline float unit_factor(const float* row, int64_t size, float addend) {
  Sum squares;
  int64_t count = 0;
  for_vectors(size, [&](int64_t i, int64_t lanes) {
    const Vec value = load_first(row + i, lanes);
    squares.add(value * value);
    if (++count % 256 == 0) squares.end_stretch();
  });
  return static_cast<float>(1 / std::sqrt(squares.total() + addend));
}

// to = from + add. The rows of small pictures are too short for the library's copying.
inline void copy_plus(const float* from, int64_t count, float add, float* to) {
  const Vec addend = splat(add);
  for_vectors(count, [&](int64_t i, int64_t lanes) {
    store_first(to + i, load_first(from + i, lanes) + addend, lanes);
  });
}

inline void copy_row(const float* from, int64_t count, float* to) {
  if (count < kLanes) return store_first(to, load_first(from, count), count);
  for (int64_t i = 0; i + kLanes < count; i += kLanes) store(to + i, load(from + i));
  store(to + count - kLanes, load(from + count - kLanes));  // overlaps the one before
}

typedef int32_t Indices __attribute__((vector_size(kLanes * sizeof(int32_t))));

inline Vec shuffle(Vec a, Vec b, Indices from) {
#if defined(__clang__)
  Vec result;
  for (int i = 0; i < kLanes; ++i) result[i] = from[i] < kLanes ? a[from[i]] : b[from[i] - kLanes];
  return result;
#else
  return __builtin_shuffle(a, b, from);
#endif
}

// Every other float of `from` (count in all): the first, third ... to `odd`, the others to `even`.
inline void deinterleave(const float* from, int64_t count, float* odd, float* even) {
  Indices first;
  for (int i = 0; i < kLanes; ++i) first[i] = 2 * i;
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Vec low = load(from + i), high = load(from + i + kLanes);
    store(odd + i / 2, shuffle(low, high, first));
    store(even + i / 2, shuffle(low, high, first + 1));
  }
  if (i == count) return;
  const int64_t rest = count - i;
  const Vec low = load_first(from + i, std::min<int64_t>(rest, kLanes));
  const Vec high = rest <= kLanes ? Vec{} : load_first(from + i + kLanes, rest - kLanes);
  store_first(odd + i / 2, shuffle(low, high, first), (rest + 1) / 2);
  store_first(even + i / 2, shuffle(low, high, first + 1), rest / 2);
}

// The reverse.
inline void interleave(const float* odd, const float* even, int64_t count, float* to) {
  Indices low, high;
  for (int i = 0; i < kLanes; ++i) {
    low[i] = i / 2 + (i % 2) * kLanes;
    high[i] = low[i] + kLanes / 2;
  }
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Vec a = load(odd + i / 2), b = load(even + i / 2);
    store(to + i, shuffle(a, b, low));
    store(to + i + kLanes, shuffle(a, b, high));
  }
  if (i == count) return;
  const int64_t rest = count - i;
  const Vec a = load_first(odd + i / 2, (rest + 1) / 2), b = load_first(even + i / 2, rest / 2);
  store_first(to + i, shuffle(a, b, low), std::min<int64_t>(rest, kLanes));
  if (rest > kLanes) store_first(to + i + kLanes, shuffle(a, b, high), rest - kLanes);
}

// log2(kLanes) perfect shuffles of kRows rows.
template <int kRows>
inline void perfect_shuffles(Vec (&rows)[kRows]) {
  Indices low, high;
  for (int i = 0; i < kLanes; ++i) {
    low[i] = i / 2 + (i % 2) * kLanes;
    high[i] = low[i] + kLanes / 2;
  }
  Vec mixed[kRows];
  for (int step = 1; step < kLanes; step *= 2) {
    for (int i = 0; i < kRows / 2; ++i) {
      mixed[2 * i] = shuffle(rows[i], rows[i + kRows / 2], low);
      mixed[2 * i + 1] = shuffle(rows[i], rows[i + kRows / 2], high);
    }
    for (int i = 0; i < kRows; ++i) rows[i] = mixed[i];
  }
}

// Transposes a kLanes x kLanes block.
#if defined(__AVX__) && !defined(__AVX512F__)
inline void transpose(Vec (&rows)[kLanes]) {
  __m256 pairs[kLanes], fours[kLanes];  // each half of a register on its own, then the halves
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm256_unpacklo_ps((__m256)rows[i], (__m256)rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps((__m256)rows[i], (__m256)rows[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < kLanes; i += 4) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256 first = pairs[i + half], second = pairs[i + half + 2];
      fours[i + 2 * half] = _mm256_shuffle_ps(first, second, _MM_SHUFFLE(1, 0, 1, 0));
      fours[i + 2 * half + 1] = _mm256_shuffle_ps(first, second, _MM_SHUFFLE(3, 2, 3, 2));
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kLanes / 2; ++i) {
    rows[i] = (Vec)_mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    rows[i + 4] = (Vec)_mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}
#else
inline void transpose(Vec (&rows)[kLanes]) { perfect_shuffles(rows); }
#endif

// Turns kRows rows of kLanes numbers, (kLanes, kRows) as they follow each other, into (kRows,
// kLanes).
template <int kRows>
inline void rotate(Vec (&rows)[kRows]) {
  if constexpr (kRows == kLanes) {
    transpose(rows);
  } else if constexpr (kRows > 1) {
    perfect_shuffles(rows);
  }
}

inline void transpose(const float* from, int64_t from_pitch, float* to, int64_t to_pitch) {
  Vec rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = load(from + i * from_pitch);
  transpose(rows);
  for (int i = 0; i < kLanes; ++i) store(to + i * to_pitch, rows[i]);
}

// e to the power of x <= 0, within 2e-7 of the value; 0 below -87.
inline Vec exponential(Vec x) {
  const float kMagic = 12582912.f;  // 1.5 * 2^23: adding it rounds to whole numbers
  const Vec floor_value = splat(-87.f);
  const Vec clipped = x < floor_value ? floor_value : x;
  const Vec rounded = multiply_add(clipped, splat(1.44269504f), splat(kMagic));
  const Vec power = rounded - splat(kMagic);
  Vec rest = multiply_add(power, splat(-0.693145752f), clipped);  // ln 2 in two parts
  rest = multiply_add(power, splat(-1.42860677e-6f), rest);
  Vec value = splat(1.f / 720);
  for (float coefficient : {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f}) {
    value = multiply_add(value, rest, splat(coefficient));
  }
  const Indices exponent = ((Indices)rounded - (Indices)splat(kMagic)) << 23;
  value = (Vec)((Indices)value + exponent);
  value = x == x ? value : x;  // not a number stays so
  return x < floor_value ? Vec{} : value;
}

// 1 / (1 + e to the power of -x), within 3e-7 of the value.
inline Vec sigmoid(Vec x) {
  const Vec small = exponential(x > 0.f ? -x : x);
  const Vec large = splat(1.f) / (small + 1.f);
  return x > 0.f ? large : small * large;
}

// Below this many elements starting the threads costs more than it saves.
constexpr int64_t kParallelSize = 65536;

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Memory of the calling thread that stays from call to call; `kSlot` tells one buffer from another.
template <int kSlot>
float* scratch(int64_t size) {
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<float, Free> buffer;
  thread_local int64_t capacity = 0;
  if (capacity < size) {
    capacity = round_up(size, 1024);
    buffer.reset();
    buffer.reset(static_cast<float*>(std::aligned_alloc(64, capacity * sizeof(float))));
    if (!buffer) {
      capacity = 0;
      throw std::bad_alloc();
    }
  }
  return buffer.get();
}

}  // namespace vargfacenet

#endif  // VARGFACENET_SIMD_H_
