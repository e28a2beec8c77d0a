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

// Compiled once for every form (see ../screen.py), whose instructions the compiler's macros tell.

#include <cmath>
#include <limits>
#include <vector>

#include "collect.h"
#include "form.h"
#include "simd.h"

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define VARGFACENET_VNNI 1
#endif

namespace vargfacenet {
namespace {

constexpr int kDepth = 16;  // sizes are rounded up to it
constexpr int kGroup = 4;   // bytes of a 32-bit sum
// A block is kPanelRows x kColumnVectors vectors of sums in registers; kGroups groups of a row are
// multiplied at a time.
#ifdef VARGFACENET_VNNI
constexpr int kRowRange = 127, kColumnRange = 127, kGroups = 1;
#else
constexpr int kRowRange = 31, kColumnRange = 63, kGroups = 4;
static_assert(4 * 2 * (2 * kRowRange + 1) * kColumnRange <= std::numeric_limits<int16_t>::max());
#endif
#if defined(__AVX512F__)
constexpr int kPanelRows = 12;
#elif defined(VARGFACENET_VNNI)
constexpr int kPanelRows = 6;
#else
constexpr int kPanelRows = 4;
#endif
constexpr int kColumnVectors = 2;
constexpr int kPanelColumns = kColumnVectors * kLanes;
constexpr int kStep = kGroups * kGroup;  // bytes of a row that are multiplied at a time
constexpr int64_t kCached = 512;         // columns

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

#if defined(__AVX512F__)
typedef __m512i Bytes;
inline Bytes load_bytes(const void* from) { return _mm512_loadu_si512(from); }
inline Bytes splat_int(int32_t value) { return _mm512_set1_epi32(value); }
inline Bytes larger(Bytes a, Bytes b) { return _mm512_max_epi32(a, b); }
inline Vec to_float(Bytes sums) { return (Vec)_mm512_cvtepi32_ps(sums); }
inline uint32_t mask_of_reaching(Vec values, Vec limits) {
  return _mm512_cmp_ps_mask((__m512)values, (__m512)limits, _CMP_GE_OQ);
}
#else
typedef __m256i Bytes;
inline Bytes load_bytes(const void* from) {
  return _mm256_loadu_si256(reinterpret_cast<const Bytes*>(from));
}
inline Bytes splat_int(int32_t value) { return _mm256_set1_epi32(value); }
inline Bytes larger(Bytes a, Bytes b) { return _mm256_max_epi32(a, b); }
inline Vec to_float(Bytes sums) { return (Vec)_mm256_cvtepi32_ps(sums); }
inline uint32_t mask_of_reaching(Vec values, Vec limits) {
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)values, (__m256)limits, _CMP_GE_OQ));
}
#endif

inline Bytes in_register(Bytes value) {
  Vec same = (Vec)value;
  keep_in_register(same);
  return (Bytes)same;
}

inline Bytes splat_group(const uint8_t* from) {
  int32_t group;
  std::memcpy(&group, from, sizeof group);
  return splat_int(group);
}

typedef Bytes Sums[kPanelRows][kColumnVectors];

#ifdef VARGFACENET_VNNI
inline Bytes add_dots(Bytes sums, Bytes row, Bytes columns) {
#if defined(__AVX512F__)
  return _mm512_dpbusd_epi32(sums, row, columns);
#else
  return _mm256_dpbusd_avx_epi32(sums, row, columns);
#endif
}

// sums += the products of kStep elements of every row with those of every column
inline void add_step(const uint8_t* rows, const int8_t* columns, Sums& sums) {
  Bytes column[kColumnVectors];
  for (int v = 0; v < kColumnVectors; ++v) {
    column[v] = in_register(load_bytes(columns + v * kLanes * kStep));
  }
#pragma GCC unroll 16
  for (int r = 0; r < kPanelRows; ++r) {
    const Bytes row = in_register(splat_group(rows + r * kStep));
    for (int v = 0; v < kColumnVectors; ++v) sums[r][v] = add_dots(sums[r][v], row, column[v]);
  }
}
#else
#if defined(__AVX512F__)
inline Bytes multiply_pairs(Bytes row, Bytes columns) { return _mm512_maddubs_epi16(row, columns); }
inline Bytes add_pairs(Bytes a, Bytes b) { return _mm512_add_epi16(a, b); }
inline Bytes add_dots(Bytes sums, Bytes pairs) {
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#else
inline Bytes multiply_pairs(Bytes row, Bytes columns) { return _mm256_maddubs_epi16(row, columns); }
inline Bytes add_pairs(Bytes a, Bytes b) { return _mm256_add_epi16(a, b); }
inline Bytes add_dots(Bytes sums, Bytes pairs) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

// sums += the products of kStep elements of every row with those of every column
inline void add_step(const uint8_t* rows, const int8_t* columns, Sums& sums) {
  constexpr int kNext = kLanes * kGroup;
#pragma GCC unroll 16
  for (int r = 0; r < kPanelRows; ++r) {
    Bytes row[kGroups];
    for (int g = 0; g < kGroups; ++g) row[g] = splat_group(rows + r * kStep + g * kGroup);
    for (int v = 0; v < kColumnVectors; ++v) {
      const int8_t* from = columns + v * kLanes * kStep;
      Bytes pairs = multiply_pairs(row[0], load_bytes(from));
      for (int g = 1; g < kGroups; ++g) {
        pairs = add_pairs(pairs, multiply_pairs(row[g], load_bytes(from + g * kNext)));
      }
      sums[r][v] = add_dots(sums[r][v], pairs);
    }
  }
}
#endif

// rows: a panel (depth / kStep, kPanelRows, kStep); columns: one (depth / kStep, kColumnVectors,
// kGroups, kLanes, kGroup), so that what is loaded for a vector lies one behind the other
inline void block_int8(const uint8_t* rows, const int8_t* columns, const int32_t* shifts,
                       int64_t depth, Sums& sums) {
  for (int v = 0; v < kColumnVectors; ++v) {
    const Bytes start = load_bytes(shifts + v * kLanes);
    for (auto& row : sums) row[v] = start;
  }
  for (int64_t k = 0; k < depth; k += kStep) {
    add_step(rows, columns, sums);
    rows += kPanelRows * kStep;
    columns += kPanelColumns * kStep;
  }
  // GCC 12 would copy the sums to where they are read next in every step, some of them to memory
#pragma GCC unroll 16
  for (int r = 0; r < kPanelRows; ++r) {
    for (int v = 0; v < kColumnVectors; ++v) sums[r][v] = in_register(sums[r][v]);
  }
}

struct Columns {
  const float *steps, *errors;
};

// Which pairs of a row with a vector of columns may reach its threshold: see screen_int8.
inline uint32_t passes(Bytes sums, float threshold, float lift, Columns of, int v) {
  const Vec steps = load(of.steps + v * kLanes), errors = load(of.errors + v * kLanes);
  const Vec highest = multiply_add(splat(lift), errors, to_float(sums) * steps);
  return mask_of_reaching(highest, splat(threshold));
}

// Whether any pair of a block passes.
inline bool any_passes(const Sums& sums, const float* thresholds, const float* lifts, Columns of) {
  uint32_t any = 0;
#pragma GCC unroll 16
  for (int r = 0; r < kPanelRows; ++r) {
    for (int v = 0; v < kColumnVectors; ++v) {
      any |= passes(sums[r][v], thresholds[r], lifts[r], of, v);
    }
  }
  return any != 0;
}

// What stands for all rows of a panel: the lowest threshold and the largest lift.
struct PanelLimits {
  float threshold = std::numeric_limits<float>::infinity(), lift = 0;

  PanelLimits(const float* thresholds, const float* lifts, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) {
      if (thresholds[r] < threshold) threshold = thresholds[r];  // not by what is no number
      lift = std::max(lift, lifts[r]);
    }
  }
};

// Whether any pair of a block may pass, by the largest sum of every column: a pair that passes by
// its row's limits passes by these, since no operation here gives less for more, rounded or not.
// To look at every sum of every block took 2 % of a search in 512 dimensions.
inline bool any_may_pass(const Sums& sums, const PanelLimits& limits, Columns of) {
  uint32_t any = 0;
  for (int v = 0; v < kColumnVectors; ++v) {
    Bytes largest = sums[0][v];
#pragma GCC unroll 16
    for (int r = 1; r < kPanelRows; ++r) largest = larger(largest, sums[r][v]);
    any |= passes(largest, limits.threshold, limits.lift, of, v);
  }
  return any != 0;
}

inline void copy_sums(const Sums& from, Sums& to) {
#pragma GCC unroll 16
  for (int r = 0; r < kPanelRows; ++r) {
    for (int v = 0; v < kColumnVectors; ++v) to[r][v] = from[r][v];
  }
}

// Collects what passes of a block that begins at (row, column) and may reach beyond (na, nb).
__attribute__((noinline)) void emit_int8(const Sums& sums, const float* thresholds,
                                         const float* lifts, Columns of, int64_t row,
                                         int64_t column, int64_t na, int64_t nb,
                                         Collector& collector) {
  for (int r = 0; r < kPanelRows && row + r < na; ++r) {
    for (int v = 0; v < kColumnVectors; ++v) {
      uint32_t hits = passes(sums[r][v], thresholds[r], lifts[r], of, v);
      for (; hits; hits &= hits - 1) {
        const int64_t at = column + v * kLanes + __builtin_ctz(hits);
        if (at < nb) collector.add(row + r, at);
      }
    }
  }
}

}  // namespace

extern "C" {

int VARGFACENET_EXPORT(int8_panel_rows)() { return kPanelRows; }
int VARGFACENET_EXPORT(int8_panel_columns)() { return kPanelColumns; }
int VARGFACENET_EXPORT(int8_depth)() { return kDepth; }

// x (n, d) -> panels (depth / kStep, kPanelRows, kStep) of n rounded up to whole panels, zeros
// behind; steps (n), errors (n).
void VARGFACENET_EXPORT(pack_rows_int8)(const float* x, int64_t n, int64_t d, uint8_t* packed,
                                        float* steps, float* errors) {
  const int64_t depth = ceil_div(d, kDepth) * kDepth;
#pragma omp parallel for schedule(static)
  for (int64_t panel = 0; panel < ceil_div(n, kPanelRows); ++panel) {
    uint8_t* out = packed + panel * kPanelRows * depth;
    std::memset(out, kRowRange + 1, kPanelRows * depth);
    for (int64_t r = 0; r < kPanelRows && panel * kPanelRows + r < n; ++r) {
      const int64_t i = panel * kPanelRows + r;
      errors[i] = quantise(x + i * d, d, kRowRange, steps + i, [&](int64_t k, int q) {
        const int64_t group = k / kStep * kPanelRows + r;
        out[group * kStep + k % kStep] = static_cast<uint8_t>(q + kRowRange + 1);
      });
    }
  }
}

// x (n, d) -> panels (depth / kStep, kColumnVectors, kGroups, kLanes, kGroup) of n rounded up;
// steps (n), errors (n), shifts (n): minus what the rows' shift adds to a product.
void VARGFACENET_EXPORT(pack_columns_int8)(const float* x, int64_t n, int64_t d, int8_t* packed,
                                           float* steps, float* errors, int32_t* shifts) {
  const int64_t depth = ceil_div(d, kDepth) * kDepth;
#pragma omp parallel for schedule(static)
  for (int64_t panel = 0; panel < ceil_div(n, kPanelColumns); ++panel) {
    int8_t* out = packed + panel * kPanelColumns * depth;
    std::memset(out, 0, kPanelColumns * depth);
    for (int64_t c = 0; c < kPanelColumns && panel * kPanelColumns + c < n; ++c) {
      const int64_t j = panel * kPanelColumns + c;
      int32_t sum = 0;
      errors[j] = quantise(x + j * d, d, kColumnRange, steps + j, [&](int64_t k, int q) {
        const int64_t group = k / kStep * kColumnVectors + c / kLanes;
        const int64_t within = k % kStep / kGroup * kLanes + c % kLanes;
        out[group * kLanes * kStep + within * kGroup + k % kGroup] = static_cast<int8_t>(q);
        sum += q;
      });
      shifts[j] = -(kRowRange + 1) * sum;
    }
  }
}

// Emits every (i, j) with (q_i q_j) steps[j] + lifts[i] errors[j] >= thresholds[i], as
// screen_float32 does. The caller divides by the rows' steps: thresholds are (threshold - error_i
// |y|) / step_i, lifts (|x| + error_i) / step_i. All are padded to whole panels, with any value.
int64_t VARGFACENET_EXPORT(screen_int8)(const uint8_t* rows, int64_t na, const int8_t* columns,
                                        int64_t nb, int64_t d, const float* thresholds,
                                        const float* lifts, const float* steps, const float* errors,
                                        const int32_t* shifts, uint32_t* out_rows,
                                        uint32_t* out_columns, int64_t capacity) {
  Output output{out_rows, out_columns, capacity};
  const int64_t depth = ceil_div(d, kDepth) * kDepth;
  std::vector<PanelLimits> limits;
  for (int64_t i = 0; i < na; i += kPanelRows) {
    limits.emplace_back(thresholds + i, lifts + i, std::min<int64_t>(kPanelRows, na - i));
  }
  return screen_blocks<kPanelRows, kPanelColumns, kCached>(
      na, nb, output, [&](int64_t i, int64_t j, Collector& collector) {
        Sums sums;
        block_int8(rows + i * depth, columns + j * depth, shifts + j, depth, sums);
        const Columns of{steps + j, errors + j};
        if (!any_may_pass(sums, limits[i / kPanelRows], of)) return;
        if (!any_passes(sums, thresholds + i, lifts + i, of)) return;
        Sums copy;  // for a loop over them, or they would be in memory while they are summed
        copy_sums(sums, copy);
        emit_int8(copy, thresholds + i, lifts + i, of, i, j, na, nb, collector);
      });
}

}  // extern "C"

}  // namespace vargfacenet
