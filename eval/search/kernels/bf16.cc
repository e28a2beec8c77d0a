// The screen on bfloat16 in AMX's tiles. The operating system must have granted their state to the
// process before, see cpu.cc.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "collect.h"
#include "form.h"
#include "simd.h"

namespace vargfacenet {
namespace {

constexpr int64_t kCachedTiles = 64;  // 64 x 16 columns: 1 MB of bfloat16 at 512 dimensions
constexpr int kTile = 16;

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

}  // namespace

extern "C" {

// x (n, d) -> tiles of 16 rows, d padded to a multiple of 32; error[i] = |x_i - bfloat16(x_i)|
void VARGFACENET_EXPORT(pack_rows_bf16)(const float* x, int64_t n, int64_t d, uint16_t* packed,
                                        float* error) {
  pack_bf16<false>(x, n, d, packed, error);
}
void VARGFACENET_EXPORT(pack_columns_bf16)(const float* x, int64_t n, int64_t d, uint16_t* packed,
                                           float* error) {
  pack_bf16<true>(x, n, d, packed, error);
}

// As screen_float32, of what was packed here.
int64_t VARGFACENET_EXPORT(screen_bf16)(const uint16_t* rows, int64_t na, const uint16_t* columns,
                                        int64_t nb, int64_t d, const float* thresholds,
                                        uint32_t* out_rows, uint32_t* out_columns,
                                        int64_t capacity) {
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
}

}  // extern "C"

}  // namespace vargfacenet
