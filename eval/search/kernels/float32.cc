// All pairs of two sets of vectors whose dot product may exceed a threshold, without ever writing
// the matrix of products.
//
// Rows (probes) and columns (distractors) are packed into panels first. A kernel computes a block
// of products in registers or tiles, compares it with the rows' thresholds and emits the indices of
// what passes. The caller lowers the thresholds by a bound of the kernel's error and computes what
// was emitted again with `exact`.
//
// This is the kernel of float32, compiled once for every form (see ../screen.py), whose
// instructions the compiler's macros tell.

#include <algorithm>
#include <cstdint>

#include "collect.h"
#include "form.h"
#include "product.h"
#include "simd.h"

namespace vargfacenet {
namespace {

// A float32 block is kScreenRows x kScreenColumns products in registers. Two vectors wide and not
// kVectors, so that a whole number of columns fills kCachedColumns.
constexpr int kScreenVectors = 2;
#if defined(__AVX512F__)
constexpr int kScreenRows = 12;
#else
constexpr int kScreenRows = 6;
#endif
constexpr int kScreenColumns = kScreenVectors * kLanes;

typedef double Doubles __attribute__((vector_size(4 * sizeof(double))));

constexpr int64_t kCachedColumns = 512;  // 1 MB of float32 at 512 dimensions: stays in L2

// One block of products; `rows` is a panel (d, kScreenRows), `columns` one (d, kScreenColumns).
inline void block_f32(const float* rows, const float* columns, int64_t d,
                      Vec (&sums)[kScreenRows][kScreenVectors]) {
  for (auto& row : sums) {
    for (Vec& sum : row) sum = Vec{};
  }
  const auto row_of = [&](int64_t k) { return columns + k * kScreenColumns; };
  add_products(d, rows, 1, kScreenRows, row_of, sums);
}

// Whether any product reaches the threshold of its row.
inline bool any_passes(const Vec (&sums)[kScreenRows][kScreenVectors], const float* thresholds) {
  Indices hit{};
  for (int r = 0; r < kScreenRows; ++r) {
    const Vec threshold = splat(thresholds[r]);
    for (int v = 0; v < kScreenVectors; ++v) hit |= sums[r][v] >= threshold;
  }
  int found = 0;
  for (int lane = 0; lane < kLanes; ++lane) found |= hit[lane];
  return found;
}

// Collects what passes of a block that begins at (row, column) and may reach beyond (na, nb).
inline void emit_block(const Vec (&sums)[kScreenRows][kScreenVectors], const float* thresholds,
                       int64_t row, int64_t column, int64_t na, int64_t nb, Collector& collector) {
  for (int r = 0; r < kScreenRows && row + r < na; ++r) {
    for (int c = 0; c < kScreenColumns && column + c < nb; ++c) {
      if (sums[r][c / kLanes][c % kLanes] >= thresholds[r]) collector.add(row + r, column + c);
    }
  }
}

inline Doubles to_doubles(const float* from) {
#if defined(__AVX__)
  return (Doubles)_mm256_cvtps_pd(_mm_loadu_ps(from));
#else
  return Doubles{from[0], from[1], from[2], from[3]};
#endif
}

}  // namespace

extern "C" {

int VARGFACENET_EXPORT(float32_panel_rows)() { return kScreenRows; }
int VARGFACENET_EXPORT(float32_panel_columns)() { return kScreenColumns; }

// x (n, d) -> panels of float32_panel_rows() or float32_panel_columns() rows, the last padded with
// zeros
void VARGFACENET_EXPORT(pack_rows_float32)(const float* x, int64_t n, int64_t d, float* packed) {
  pack_rows<kScreenRows>(x, n, d, d, 1, packed);
}
void VARGFACENET_EXPORT(pack_columns_float32)(const float* x, int64_t n, int64_t d, float* packed) {
  pack_rows<kScreenColumns>(x, n, d, d, 1, packed);
}

// Emits every (i, j) with product >= thresholds[i]. Returns how many there are; more than
// `capacity` means that the output is incomplete and the search was broken off.
// thresholds: one a row, padded to the panel with any value.
int64_t VARGFACENET_EXPORT(screen_float32)(const float* rows, int64_t na, const float* columns,
                                           int64_t nb, int64_t d, const float* thresholds,
                                           uint32_t* out_rows, uint32_t* out_columns,
                                           int64_t capacity) {
  Output output{out_rows, out_columns, capacity};
  return screen_blocks<kScreenRows, kScreenColumns, kCachedColumns>(
      na, nb, output, [&](int64_t i, int64_t j, Collector& collector) {
        Vec sums[kScreenRows][kScreenVectors];
        block_f32(rows + i * d, columns + j * d, d, sums);
        if (any_passes(sums, thresholds + i)) {
          emit_block(sums, thresholds + i, i, j, na, nb, collector);
        }
      });
}

// Dot products in float64, in one fixed order, rounded to float32: the score of pairs (i, j).
void VARGFACENET_EXPORT(exact)(const float* a, const float* b, int64_t d, const int64_t* rows,
                               const int64_t* columns, int64_t n, float* out) {
  constexpr int kWide = 4, kSums = 2;  // wider ones would live in memory without AVX-512
#pragma omp parallel for schedule(static)
  for (int64_t p = 0; p < n; ++p) {
    const float *x = a + rows[p] * d, *y = b + columns[p] * d;
    Doubles sums[kSums] = {};
    int64_t k = 0;
    for (; k + kSums * kWide <= d; k += kSums * kWide) {
      for (int s = 0; s < kSums; ++s) {
        sums[s] += to_doubles(x + k + s * kWide) * to_doubles(y + k + s * kWide);
      }
    }
    double total = 0;
    for (const Doubles& sum : sums) {
      for (int lane = 0; lane < kWide; ++lane) total += sum[lane];
    }
    for (; k < d; ++k) total += static_cast<double>(x[k]) * y[k];
    out[p] = static_cast<float>(total);
  }
}

}  // extern "C"

}  // namespace vargfacenet
