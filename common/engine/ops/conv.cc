// 1x1 convolutions on plain (N, C, H, W) arrays, where most of a VarGNet's arithmetic is. 3x3 over
// a few channels a group are in grouped.cc, those of one channel a group in depthwise.cc.
//
// oneDNN's own reach about the same speed, but on arrays in its blocked layouts, a different one
// for each kind; turning one into the other and back to the plain arrays of the operators between
// them took a third of a training step.

#include <algorithm>
#include <cstring>

#include <omp.h>

#include "conv.h"
#include "product.h"
#include "simd.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

// A piece of a panel (depth, kPanel); row k of it is at from + k * pitch.
inline void load_panel(const float* from, int64_t depth, int64_t pitch, const Piece& piece,
                       float* panel) {
  if (piece.length < kPanel) {
    for (int64_t k = 0; k < depth; ++k) {
      copy_row(from + k * pitch, piece.length, panel + k * kPanel + piece.offset);
    }
    return;
  }
  for (int64_t k = 0; k < depth; ++k) {
    for (int v = 0; v < kVectors; ++v) {
      store(panel + k * kPanel + v * kLanes, load(from + k * pitch + v * kLanes));
    }
  }
}

// Asks for the part of a row that a panel has, before it is read or written. Rows of many channels
// go on at once, more than a processor foresees, and a store that waits holds up all behind it.
template <bool kWrite>
inline void prefetch(const float* row) {
  constexpr int kLine = 16;  // floats
  for (int i = 0; i < kPanel; i += kLine) __builtin_prefetch(row + i, kWrite);
  __builtin_prefetch(row + kPanel - 1, kWrite);
}

// Blocks of `a` are read where they lie, since packing them takes as long as multiplying by few
// columns.
void multiply(const Strided& a, const float* bias, const Layout& x_layout, const float* x,
              const Layout& y_layout, float* y) {
  const int64_t rows = y_layout.channels;
  const int64_t depth = x_layout.channels, positions = x_layout.positions;
  const int64_t full = rows / kRows * kRows;  // behind them a block with zeros at its end
  float* rest = scratch<4>(depth * kRows);
  if (full < rows) pack_block<kRows>(a.data, full, rows, depth, a.row, a.step, rest);
  const int64_t columns = x_layout.batch * positions;
  const int64_t panels = panels_of(x_layout);
  const int64_t blocks = (rows + kRows - 1) / kRows, share = (depth + blocks - 1) / blocks;
#pragma omp parallel for schedule(static) if (rows * depth * columns > 16 * kParallelSize)
  for (int64_t index = 0; index < panels; ++index) {
    const Panel panel(x_layout, index);
    float* b = scratch<0>(depth * kPanel);
    if (panel.count < kPanel) std::fill(b, b + depth * kPanel, 0.f);
    for (int64_t i = 0; i < panel.piece_count; ++i) {
      const Piece& piece = panel.pieces[i];
      load_panel(x + x_layout.row(piece.image, 0) + piece.position, depth, positions, piece, b);
    }
    const bool whole = panel.in_one_image() && bias == nullptr;
    const int64_t ahead = panel.first + kPanel;  // next panel: each block asks for a share of its rows
    for (int64_t row = 0; row < rows; row += kRows) {
      const Strided tile =
          row < full ? Strided{a.data + row * a.row, a.row, a.step} : Strided{rest, 1, kRows};
      for (int64_t next = row + kRows; next < std::min(rows, row + 2 * kRows); ++next) {
        prefetch<true>(y + panel.start(y_layout, next));
      }
      const int64_t begin = row / kRows * share, end = std::min(depth, begin + share);
      for (int64_t k = begin; ahead < columns && k < end; ++k) {
        prefetch<false>(x + x_layout.row(ahead / positions, k) + ahead % positions);
      }
      if (whole && row < full) {
        product_block<false>(depth, tile.data, tile.row, tile.step, b, kPanel,
                             y + panel.start(y_layout, row), positions);
        continue;
      }
      float block[kRows * kPanel];
      product_block<false>(depth, tile.data, tile.row, tile.step, b, kPanel, block, kPanel);
      panel.store_block(block, bias, row, y_layout, y);
    }
  }
}

void multiply_transposed(const Layout& dy_layout, const float* dy, const Layout& x_layout,
                         const float* x, float* product, int64_t row_step, int64_t step) {
  constexpr int64_t kChunk = 12 * kLanes;  // columns at a time: a panel of x fits the first cache
  const int64_t outputs = dy_layout.channels, depth = x_layout.channels;
  const int64_t columns = x_layout.batch * x_layout.positions;
  const int64_t chunks = (columns + kChunk - 1) / kChunk;
  const int64_t rows = round_up(outputs, kRows), width = round_up(depth, kPanel);
  const int64_t slices = std::min<int64_t>(chunks, omp_get_max_threads());
  float* sums = scratch<3>(slices * rows * width);
#pragma omp parallel for schedule(static, 1) num_threads(slices)
  for (int64_t slice = 0; slice < slices; ++slice) {
    float* sum = sums + slice * rows * width;
    std::fill(sum, sum + rows * width, 0.f);
    float* a = scratch<0>(rows * kChunk);
    float* gathered = scratch<1>(width * kChunk);
    float* b = scratch<2>(kChunk * kPanel);
    for (int64_t chunk = slice * chunks / slices; chunk < (slice + 1) * chunks / slices; ++chunk) {
      const int64_t first = chunk * kChunk, count = std::min(kChunk, columns - first);
      gather_columns<float, copy_row>(dy_layout, dy, first, count, rows, kChunk, a);
      gather_columns<float, copy_row>(x_layout, x, first, count, width, kChunk, gathered);
      for (int64_t k = 0; k < width; k += kPanel) {
        for (int64_t p = 0; p < kChunk; p += kLanes) {
          for (int v = 0; v < kVectors; ++v) {
            transpose(gathered + (k + v * kLanes) * kChunk + p, kChunk, b + p * kPanel + v * kLanes,
                      kPanel);
          }
        }
        for (int64_t row = 0; row < rows; row += kRows) {
          product_block<true>(kChunk, a + row * kChunk, kChunk, 1, b, kPanel, sum + row * width + k,
                              width);
        }
      }
    }
  }
  add_slices(sums, slices, rows, width, outputs, depth, product, row_step, step);
}

struct Float32 {
  static constexpr auto multiply = vargfacenet::multiply;
  static constexpr auto multiply_transposed = vargfacenet::multiply_transposed;
};

}  // namespace

REGISTER_OP(vg_pointwise)
    .setForward(pointwise_forward<Float32>, "cpu")
    .setBackward(pointwise_backward<Float32>, "cpu")
    .setParseAttrs(pointwise_arity)
    .setInferType(float32_only)
    .setInferShape(pointwise_shape);

REGISTER_OP(vg_mixed_pointwise)
    .setForward(mixed_forward<Float32>, "cpu")
    .setBackward(mixed_backward<Float32>, "cpu")
    .setParseAttrs(mixed_arity)
    .setInferType(float32_only)
    .setInferShape(mixed_shape);

}  // namespace vargfacenet
