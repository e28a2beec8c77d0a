// The screen on bytes: embeddings rounded to small integers, whose products are exact.
//
// Every embedding x has a step of its own, the largest |x_k| over the range, and becomes integers
// q with |x - step q| = error. For a pair, |xy - step_x step_y (q_x q_y)| is at most
// error_x |y| + (|x| + error_x) error_y, by Cauchy-Schwarz: a pair is emitted unless that shows
// that it is below the threshold.
//
// Processors multiply unsigned by signed bytes, so the rows are shifted to 1..2 range + 1 and every
// column starts from minus what the shift adds. Where the sums of two products have 16 bits
// (before VNNI), the ranges are small enough that four of them fit.

#include <cmath>
#include <limits>

#include "collect.h"
#include "simd.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define VARGFACENET_INT8 1
#elif defined(__AVX2__) && !defined(__AVX512F__)
#define VARGFACENET_INT8 1
#endif
#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
#define VARGFACENET_VNNI 1
#endif

namespace vargfacenet {
namespace {

constexpr int kDepth = 16;  // elements that are multiplied at a time: 4 groups of 4
constexpr int kGroup = 4;   // bytes of a 32-bit sum
#ifdef VARGFACENET_VNNI
constexpr int kRowRange = 127, kColumnRange = 127;
#else
constexpr int kRowRange = 31, kColumnRange = 63;
static_assert(4 * 2 * (2 * kRowRange + 1) * kColumnRange <= std::numeric_limits<int16_t>::max());
#endif
#if defined(__AVX512F__)
constexpr int kPanelRows = 12;
#else
constexpr int kPanelRows = 4;
#endif
constexpr int kColumnVectors = 2;
constexpr int kPanelColumns = kColumnVectors * kLanes;
constexpr int64_t kCached = 512;  // columns: 256 KB at 512 dimensions

// What an integer stands for is at least this, so that thresholds over it stay finite.
constexpr float kLeastStep = 1e-20f;

// x (d) -> integers of at most `range`; returns what is lost, step is what one of them stands for.
template <typename Put>
float quantise(const float* x, int64_t d, int range, float* step, Put put) {
  float largest = 0;
  for (int64_t k = 0; k < d; ++k) largest = std::max(largest, std::fabs(x[k]));
  *step = std::max(largest / range, kLeastStep);
  double squares = 0;
  for (int64_t k = 0; k < d; ++k) {
    const float scaled = std::nearbyint(x[k] / *step);
    const int q = static_cast<int>(std::min<float>(std::max<float>(scaled, -range), range));
    const double lost = x[k] - static_cast<double>(*step) * q;
    squares += lost * lost;
    put(k, q);
  }
  return std::nextafter(static_cast<float>(std::sqrt(squares)), INFINITY);
}

#ifdef VARGFACENET_INT8
#if defined(__AVX512F__)
typedef __m512i Bytes;
inline Bytes load_bytes(const void* from) { return _mm512_loadu_si512(from); }
inline Bytes splat_int(int32_t value) { return _mm512_set1_epi32(value); }
inline Vec to_float(Bytes sums) { return (Vec)_mm512_cvtepi32_ps(sums); }
#else
typedef __m256i Bytes;
inline Bytes load_bytes(const void* from) {
  return _mm256_loadu_si256(reinterpret_cast<const Bytes*>(from));
}
inline Bytes splat_int(int32_t value) { return _mm256_set1_epi32(value); }
inline Vec to_float(Bytes sums) { return (Vec)_mm256_cvtepi32_ps(sums); }
#endif

inline Bytes splat_group(const uint8_t* from) {
  int32_t group;
  std::memcpy(&group, from, sizeof group);
  return splat_int(group);
}

// sums (kLanes) += the products of 16 elements of a row with those of kLanes columns
inline Bytes add_dots(Bytes sums, const Bytes (&row)[4], const int8_t* columns) {
  constexpr int kNext = kLanes * kGroup;
#if defined(VARGFACENET_VNNI) && defined(__AVX512F__)
  for (int g = 0; g < 4; ++g) {
    sums = _mm512_dpbusd_epi32(sums, row[g], load_bytes(columns + g * kNext));
  }
  return sums;
#elif defined(VARGFACENET_VNNI)
  for (int g = 0; g < 4; ++g) {
    sums = _mm256_dpbusd_avx_epi32(sums, row[g], load_bytes(columns + g * kNext));
  }
  return sums;
#elif defined(__AVX512F__)
  Bytes pairs = _mm512_maddubs_epi16(row[0], load_bytes(columns));
  for (int g = 1; g < 4; ++g) {
    const Bytes more = _mm512_maddubs_epi16(row[g], load_bytes(columns + g * kNext));
    pairs = _mm512_add_epi16(pairs, more);
  }
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#else
  Bytes pairs = _mm256_maddubs_epi16(row[0], load_bytes(columns));
  for (int g = 1; g < 4; ++g) {
    const Bytes more = _mm256_maddubs_epi16(row[g], load_bytes(columns + g * kNext));
    pairs = _mm256_add_epi16(pairs, more);
  }
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

// rows: a panel (depth / 16, kPanelRows, 16); columns: one (depth / 4, kPanelColumns, 4)
inline void block_int8(const uint8_t* rows, const int8_t* columns, const int32_t* shifts,
                       int64_t depth, Bytes (&sums)[kPanelRows][kColumnVectors]) {
  for (int v = 0; v < kColumnVectors; ++v) {
    const Bytes start = load_bytes(shifts + v * kLanes);
    for (auto& row : sums) row[v] = start;
  }
  // vector by vector within a panel, so that the four groups of a vector lie one behind the other
  for (int64_t k = 0; k < depth; k += kDepth) {
#pragma GCC unroll 16
    for (int r = 0; r < kPanelRows; ++r) {
      Bytes row[4];
      for (int g = 0; g < 4; ++g) row[g] = splat_group(rows + r * kDepth + g * kGroup);
      for (int v = 0; v < kColumnVectors; ++v) {
        sums[r][v] = add_dots(sums[r][v], row, columns + v * kLanes * kDepth);
      }
    }
    rows += kPanelRows * kDepth;
    columns += kPanelColumns * kDepth;
  }
}

struct Columns {
  const float *steps, *errors;
};

// Which pairs of a row with a vector of columns may reach its threshold: see vgs_screen_int8.
inline Indices passes(Bytes sums, float threshold, float lift, Columns of, int v) {
  const Vec steps = load(of.steps + v * kLanes), errors = load(of.errors + v * kLanes);
  return multiply_add(splat(lift), errors, to_float(sums) * steps) >= splat(threshold);
}

inline void emit_int8(const Bytes (&sums)[kPanelRows][kColumnVectors], const float* thresholds,
                      const float* lifts, Columns of, int64_t row, int64_t column, int64_t na,
                      int64_t nb, Collector& collector) {
  Indices any{};
  for (int r = 0; r < kPanelRows; ++r) {
    for (int v = 0; v < kColumnVectors; ++v) {
      any |= passes(sums[r][v], thresholds[r], lifts[r], of, v);
    }
  }
  int found = 0;
  for (int lane = 0; lane < kLanes; ++lane) found |= any[lane];
  if (!found) return;
  for (int r = 0; r < kPanelRows && row + r < na; ++r) {
    for (int v = 0; v < kColumnVectors; ++v) {
      const Indices hit = passes(sums[r][v], thresholds[r], lifts[r], of, v);
      const int64_t first = column + v * kLanes;
      for (int lane = 0; lane < kLanes && first + lane < nb; ++lane) {
        if (hit[lane]) collector.add(row + r, first + lane);
      }
    }
  }
}
#endif

}  // namespace

extern "C" {

int vgs_has_int8() {
#ifdef VARGFACENET_INT8
  return 1;
#else
  return 0;
#endif
}
int vgs_int8_panel_rows() { return kPanelRows; }
int vgs_int8_panel_columns() { return kPanelColumns; }
int vgs_int8_depth() { return kDepth; }

// x (n, d) -> panels (depth / 16, kPanelRows, 16) of n rounded up to whole panels, zeros behind;
// steps (n), errors (n).
void vgs_pack_rows_int8(const float* x, int64_t n, int64_t d, uint8_t* packed, float* steps,
                        float* errors) {
  const int64_t depth = ceil_div(d, kDepth) * kDepth;
#pragma omp parallel for schedule(static)
  for (int64_t panel = 0; panel < ceil_div(n, kPanelRows); ++panel) {
    uint8_t* out = packed + panel * kPanelRows * depth;
    std::memset(out, kRowRange + 1, kPanelRows * depth);
    for (int64_t r = 0; r < kPanelRows && panel * kPanelRows + r < n; ++r) {
      const int64_t i = panel * kPanelRows + r;
      errors[i] = quantise(x + i * d, d, kRowRange, steps + i, [&](int64_t k, int q) {
        const int64_t group = k / kDepth * kPanelRows + r;
        out[group * kDepth + k % kDepth] = static_cast<uint8_t>(q + kRowRange + 1);
      });
    }
  }
}

// x (n, d) -> panels (depth / 16, vectors, 4, kLanes, 4) of n rounded up to whole panels;
// steps (n), errors (n), shifts (n): minus what the rows' shift adds to a product.
void vgs_pack_columns_int8(const float* x, int64_t n, int64_t d, int8_t* packed, float* steps,
                           float* errors, int32_t* shifts) {
  const int64_t depth = ceil_div(d, kDepth) * kDepth;
#pragma omp parallel for schedule(static)
  for (int64_t panel = 0; panel < ceil_div(n, kPanelColumns); ++panel) {
    int8_t* out = packed + panel * kPanelColumns * depth;
    std::memset(out, 0, kPanelColumns * depth);
    for (int64_t c = 0; c < kPanelColumns && panel * kPanelColumns + c < n; ++c) {
      const int64_t j = panel * kPanelColumns + c;
      int32_t sum = 0;
      errors[j] = quantise(x + j * d, d, kColumnRange, steps + j, [&](int64_t k, int q) {
        const int64_t group = k / kDepth * kColumnVectors + c / kLanes;
        const int64_t within = k % kDepth / kGroup * kLanes + c % kLanes;
        out[group * kLanes * kDepth + within * kGroup + k % kGroup] = static_cast<int8_t>(q);
        sum += q;
      });
      shifts[j] = -(kRowRange + 1) * sum;
    }
  }
}

// Emits every (i, j) with (q_i q_j) steps[j] + lifts[i] errors[j] >= thresholds[i], as
// vgs_screen_f32 does. The caller divides by the rows' steps: thresholds are (threshold - error_i
// |y|) / step_i, lifts (|x| + error_i) / step_i. All are padded to whole panels, with any value.
int64_t vgs_screen_int8(const uint8_t* rows, int64_t na, const int8_t* columns, int64_t nb,
                        int64_t d, const float* thresholds, const float* lifts, const float* steps,
                        const float* errors, const int32_t* shifts, uint32_t* out_rows,
                        uint32_t* out_columns, int64_t capacity) {
#ifdef VARGFACENET_INT8
  Output output{out_rows, out_columns, capacity};
  const int64_t depth = ceil_div(d, kDepth) * kDepth;
  return screen_blocks<kPanelRows, kPanelColumns, kCached>(
      na, nb, output, [&](int64_t i, int64_t j, Collector& collector) {
        Bytes sums[kPanelRows][kColumnVectors];
        block_int8(rows + i * depth, columns + j * depth, shifts + j, depth, sums);
        emit_int8(sums, thresholds + i, lifts + i, {steps + j, errors + j}, i, j, na, nb,
                  collector);
      });
#else
  return -1;
#endif
}

}  // extern "C"

}  // namespace vargfacenet
