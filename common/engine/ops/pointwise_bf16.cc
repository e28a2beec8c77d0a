// 1x1 convolutions whose products are of bfloat16 numbers: both sides of each are rounded as they
// are packed, arrays stay float32. Blocks, panels and slices are those of conv.cc.

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "bf16.h"
#include "conv.h"
#include "simd.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

// A matrix (rows, depth) of rounded numbers: pair (r, k) at data[r * row + k * step], zeros behind
// the last row and the last number up to whole blocks and pairs.
struct Rounded {
  const Pair* data;
  int64_t row, step;
};

Rounded round_matrix(const Strided& a, int64_t rows, int64_t depth) {
  const int64_t pairs = pairs_of(depth), padded = round_up(rows, kRows);
  Pair* data = pair_scratch<4>(padded * pairs);
  if (a.step == 1) {
    std::fill(data + rows * pairs, data + padded * pairs, 0);
#pragma omp parallel for schedule(static) if (rows * depth > kParallelSize)
    for (int64_t r = 0; r < rows; ++r) {
      if (depth % 2) data[(r + 1) * pairs - 1] = 0;
      round_row(a.data + r * a.row, depth, reinterpret_cast<Half*>(data + r * pairs));
    }
    return {data, pairs, 1};
  }
#pragma omp parallel for schedule(static) if (rows * depth > kParallelSize)
  for (int64_t k = 0; k < pairs; ++k) {
    const float* first = a.data + 2 * k * a.step;
    Pair* to = data + k * padded;
    round_pairs(first, 2 * k + 1 < depth ? first + a.step : nullptr, rows, to);
    std::fill(to + rows, to + padded, 0);
  }
  return {data, 1, padded};
}

// out (kRows, kPanel) = or += a (kRows, depth) b (depth, kPanel).
template <bool kAccumulate>
void product_block(int64_t pairs, const Rounded& a, const Pair* b, float* out, int64_t out_pitch) {
  Vec sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = kAccumulate ? load(out + r * out_pitch + v * kLanes) : Vec{};
    }
  }
  add_pairs(
      pairs, a.data, a.row, a.step, [&](int64_t k) { return b + k * kPanel; }, sums);
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(out + r * out_pitch + v * kLanes, sums[r][v]);
  }
}

// A piece of a panel's pairs (pairs, kPanel); row k of its numbers is at from + k * pitch.
void load_panel(const float* from, int64_t depth, int64_t pitch, const Piece& piece, Pair* panel) {
  for (int64_t k = 0; k < depth; k += 2, from += 2 * pitch, panel += kPanel) {
    const float* second = k + 1 < depth ? from + pitch : nullptr;
    if (piece.length == kPanel) {
      round_pairs(from, second, kPanel, panel);  // a length that the compiler knows
    } else {
      round_pairs(from, second, piece.length, panel + piece.offset);
    }
  }
}

void multiply(const Strided& a, const float* bias, const Layout& x_layout, const float* x,
              const Layout& y_layout, float* y) {
  const int64_t rows = y_layout.channels, depth = x_layout.channels, pairs = pairs_of(depth);
  const int64_t positions = x_layout.positions, columns = x_layout.batch * positions;
  const Rounded rounded = round_matrix(a, rows, depth);
  const int64_t panels = panels_of(x_layout);
#pragma omp parallel for schedule(static) if (rows * depth * columns > 16 * kParallelSize)
  for (int64_t index = 0; index < panels; ++index) {
    const Panel panel(x_layout, index);
    Pair* b = pair_scratch<0>(pairs * kPanel);
    if (panel.count < kPanel) std::fill(b, b + pairs * kPanel, 0);
    for (int64_t i = 0; i < panel.piece_count; ++i) {
      const Piece& piece = panel.pieces[i];
      load_panel(x + x_layout.row(piece.image, 0) + piece.position, depth, positions, piece, b);
    }
    const bool whole = panel.in_one_image() && bias == nullptr;
    for (int64_t row = 0; row < rows; row += kRows) {
      const Rounded tile{rounded.data + row * rounded.row, rounded.row, rounded.step};
      if (whole && row + kRows <= rows) {
        product_block<false>(pairs, tile, b, y + panel.start(y_layout, row), positions);
        continue;
      }
      float block[kRows * kPanel];
      product_block<false>(pairs, tile, b, block, kPanel);
      panel.store_block(block, bias, row, y_layout, y);
    }
  }
}

constexpr int64_t kChunkPairs = 6 * kLanes;  // a panel of them fits the first cache
constexpr int64_t kChunk = 2 * kChunkPairs;  // columns at a time

// sum (rows, width) += dy (rows, columns) times x (width, columns) transposed, for the columns of
// the chunks begin..end-1.
void add_chunks(const Layout& dy_layout, const float* dy, const Layout& x_layout, const float* x,
                int64_t begin, int64_t end, float* sum) {
  const int64_t rows = round_up(dy_layout.channels, kRows);
  const int64_t width = round_up(x_layout.channels, kPanel);
  const int64_t columns = x_layout.batch * x_layout.positions;
  Half* a = half_scratch<0>(rows * kChunk);
  Half* gathered = half_scratch<1>(width * kChunk);
  Pair* b = pair_scratch<2>(kChunkPairs * kPanel);
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t first = chunk * kChunk, count = std::min(kChunk, columns - first);
    gather_columns<Half, round_row>(dy_layout, dy, first, count, rows, kChunk, a);
    gather_columns<Half, round_row>(x_layout, x, first, count, width, kChunk, gathered);
    for (int64_t k = 0; k < width; k += kPanel) {
      // Pairs are moved as the floats of their bits.
      const float* from = reinterpret_cast<const float*>(gathered + k * kChunk);
      for (int64_t p = 0; p < kChunkPairs; p += kLanes) {
        for (int v = 0; v < kVectors; ++v) {
          transpose(from + v * kLanes * kChunkPairs + p, kChunkPairs,
                    reinterpret_cast<float*>(b + p * kPanel + v * kLanes), kPanel);
        }
      }
      for (int64_t row = 0; row < rows; row += kRows) {
        const Rounded tile{reinterpret_cast<const Pair*>(a + row * kChunk), kChunkPairs, 1};
        product_block<true>(kChunkPairs, tile, b, sum + row * width + k, width);
      }
    }
  }
}

// How many slices sum apart depends on the shapes alone.
void multiply_transposed(const Layout& dy_layout, const float* dy, const Layout& x_layout,
                         const float* x, float* product, int64_t row_step, int64_t step) {
  constexpr int64_t kMostSlices = 16;
  const int64_t outputs = dy_layout.channels, depth = x_layout.channels;
  const int64_t columns = x_layout.batch * x_layout.positions;
  const int64_t chunks = (columns + kChunk - 1) / kChunk;
  const int64_t slices = std::min(std::max<int64_t>(chunks / 2, 1), kMostSlices);
  const int64_t rows = round_up(outputs, kRows), width = round_up(depth, kPanel);
  const int64_t size = rows * width;
  float* sums = scratch<3>(slices * size);
#pragma omp parallel for schedule(static)
  for (int64_t slice = 0; slice < slices; ++slice) {
    float* sum = sums + slice * size;
    std::fill(sum, sum + size, 0.f);
    add_chunks(dy_layout, dy, x_layout, x, slice * chunks / slices, (slice + 1) * chunks / slices,
               sum);
  }
  add_slices(sums, slices, rows, width, outputs, depth, product, row_step, step);
}

struct Bfloat16 {
  static constexpr auto multiply = vargfacenet::multiply;
  static constexpr auto multiply_transposed = vargfacenet::multiply_transposed;
};

}  // namespace

REGISTER_OP(vg_pointwise_bf16)
    .setForward(pointwise_forward<Bfloat16>, "cpu")
    .setBackward(pointwise_backward<Bfloat16>, "cpu")
    .setParseAttrs(pointwise_arity)
    .setInferType(float32_only)
    .setInferShape(pointwise_shape);

REGISTER_OP(vg_mixed_pointwise_bf16)
    .setForward(mixed_forward<Bfloat16>, "cpu")
    .setBackward(mixed_backward<Bfloat16>, "cpu")
    .setParseAttrs(mixed_arity)
    .setInferType(float32_only)
    .setInferShape(mixed_shape);

}  // namespace vargfacenet

// Whether the products are single instructions here, not float32 multiply-adds that take longer.
extern "C" int vg_fast_bf16() {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}
