// All pairs of two sets of vectors whose dot product may exceed a threshold, without ever writing
// the matrix of products.
//
// Rows (probes) and columns (distractors) are packed into panels first. A kernel computes a block
// of products in registers or tiles, compares it with the rows' thresholds and emits the indices of
// what passes. The caller lowers the thresholds by a bound of the kernel's error and computes what
// was emitted again with `vgs_exact`.
//
// Compiled for the machine it runs on (see common/native.py), so the instruction set is chosen by
// the compiler's macros; that the operating system lets a process use AMX is asked at run time.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "collect.h"
#include "product.h"
#include "simd.h"

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__AVX512F__) && defined(__linux__)
#define VARGFACENET_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
constexpr int64_t kCachedTiles = 64;     // 64 x 16 columns: 1 MB of bfloat16
constexpr int kTile = 16;

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

uint16_t to_bfloat16(float value) {  // nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float from_bfloat16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Place of element k of row i in a bfloat16 tile [d/32][16 x 32]: as the left operand row by row,
// as the right one in pairs of k.
template <bool kRight>
int64_t tile_place(int64_t i, int64_t k) {
  const int64_t within = k % 32;
  return (k / 32) * 512 + (kRight ? (within / 2) * 32 + i * 2 + within % 2 : i * 32 + within);
}

template <bool kRight>
void pack_bf16(const float* x, int64_t n, int64_t d, uint16_t* packed, float* error) {
  const int64_t padded = round_up(d, 32);
#pragma omp parallel for schedule(static)
  for (int64_t tile = 0; tile < ceil_div(n, kTile); ++tile) {
    uint16_t* out = packed + tile * kTile * padded;
    std::memset(out, 0, sizeof(uint16_t) * kTile * padded);
    for (int64_t i = 0; i < kTile && tile * kTile + i < n; ++i) {
      const float* row = x + (tile * kTile + i) * d;
      double squares = 0;
      for (int64_t k = 0; k < d; ++k) {
        const uint16_t half = to_bfloat16(row[k]);
        const double lost = static_cast<double>(row[k]) - from_bfloat16(half);
        squares += lost * lost;
        out[tile_place<kRight>(i, k)] = half;
      }
      error[tile * kTile + i] = static_cast<float>(std::sqrt(squares));
    }
  }
}

#ifdef VARGFACENET_AMX
struct __attribute__((packed)) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

void configure_tiles() {
  TileConfig config;
  std::memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes[tile] = 64;
    config.rows[tile] = kTile;
  }
  _tile_loadconfig(&config);
}

// 32 x 32 products: two row tiles and two column tiles, each [d/32][512].
inline void block_bf16(const uint16_t* a0, const uint16_t* a1, const uint16_t* b0,
                       const uint16_t* b1, int64_t depth, float (*products)[kTile * kTile]) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < depth; ++k) {
    _tile_loadd(4, a0 + k * 512, 64);
    _tile_loadd(6, b0 + k * 512, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b1 + k * 512, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a1 + k * 512, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, products[0], 64);
  _tile_stored(1, products[1], 64);
  _tile_stored(2, products[2], 64);
  _tile_stored(3, products[3], 64);
}

inline void emit_tile(const float* products, const float* thresholds, int64_t row, int64_t column,
                      int64_t na, int64_t nb, Collector& collector) {
  uint32_t some = 0;
  __mmask16 passed[kTile];
  for (int r = 0; r < kTile; ++r) {
    passed[r] = _mm512_cmp_ps_mask(_mm512_load_ps(products + r * kTile),
                                   _mm512_set1_ps(thresholds[r]), _CMP_GE_OQ);
    some |= passed[r];
  }
  if (!some) return;
  for (int r = 0; r < kTile && row + r < na; ++r) {
    for (uint32_t mask = passed[r]; mask; mask &= mask - 1) {
      const int64_t at = column + __builtin_ctz(mask);
      if (at < nb) collector.add(row + r, at);
    }
  }
}
#endif

}  // namespace

extern "C" {

int vgs_panel_rows() { return kScreenRows; }
int vgs_panel_columns() { return kScreenColumns; }

// 1 if the bfloat16 kernel can run: compiled for AMX, and the operating system grants its state.
int vgs_has_bf16() {
#ifdef VARGFACENET_AMX
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return 0;
#endif
}

// x (n, d) -> panels of vgs_panel_rows() or vgs_panel_columns() rows, the last padded with zeros
void vgs_pack_rows_f32(const float* x, int64_t n, int64_t d, float* packed) {
  pack_rows<kScreenRows>(x, n, d, d, 1, packed);
}
void vgs_pack_columns_f32(const float* x, int64_t n, int64_t d, float* packed) {
  pack_rows<kScreenColumns>(x, n, d, d, 1, packed);
}

// x (n, d) -> tiles of 16 rows, d padded to a multiple of 32; error[i] = |x_i - bfloat16(x_i)|
void vgs_pack_rows_bf16(const float* x, int64_t n, int64_t d, uint16_t* packed, float* error) {
  pack_bf16<false>(x, n, d, packed, error);
}
void vgs_pack_columns_bf16(const float* x, int64_t n, int64_t d, uint16_t* packed, float* error) {
  pack_bf16<true>(x, n, d, packed, error);
}

// Emits every (i, j) with product >= thresholds[i]. Returns how many there are; more than
// `capacity` means that the output is incomplete and the search was broken off.
// thresholds: one a row, padded to the panel with any value.
int64_t vgs_screen_f32(const float* rows, int64_t na, const float* columns, int64_t nb, int64_t d,
                       const float* thresholds, uint32_t* out_rows, uint32_t* out_columns,
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

int64_t vgs_screen_bf16(const uint16_t* rows, int64_t na, const uint16_t* columns, int64_t nb,
                        int64_t d, const float* thresholds, uint32_t* out_rows,
                        uint32_t* out_columns, int64_t capacity) {
#ifdef VARGFACENET_AMX
  Output output{out_rows, out_columns, capacity};
  const int64_t depth = ceil_div(d, 32), size = depth * 512;
  const int64_t row_tiles = ceil_div(na, kTile), column_tiles = ceil_div(nb, kTile);
  const int64_t row_chunk = kRowChunk / kTile;
#pragma omp parallel
  {
    Collector collector(output);
    configure_tiles();
    alignas(64) float products[4][kTile * kTile];
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t j0 = 0; j0 < column_tiles; j0 += kCachedTiles) {
      for (int64_t i0 = 0; i0 < row_tiles; i0 += row_chunk) {
        if (output.full()) continue;
        const int64_t j1 = std::min(j0 + kCachedTiles, column_tiles);
        const int64_t i1 = std::min(i0 + row_chunk, row_tiles);
        for (int64_t i = i0; i < i1; i += 2) {
          for (int64_t j = j0; j < j1; j += 2) {
            const bool second_row = i + 1 < i1, second_column = j + 1 < j1;
            const uint16_t *a = rows + i * size, *b = columns + j * size;
            block_bf16(a, second_row ? a + size : a, b, second_column ? b + size : b, depth,
                       products);
            for (int q = 0; q < 4; ++q) {
              if ((q > 1 && !second_row) || (q % 2 && !second_column)) continue;
              const int64_t row = (i + q / 2) * kTile, column = (j + q % 2) * kTile;
              emit_tile(products[q], thresholds + row, row, column, na, nb, collector);
            }
          }
        }
      }
    }
    _tile_release();
  }
  return output.total;
#else
  return -1;
#endif
}

// Dot products in float64, in one fixed order, rounded to float32: the score of pairs (i, j).
void vgs_exact(const float* a, const float* b, int64_t d, const int64_t* rows,
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
