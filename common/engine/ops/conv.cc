// 1x1 convolutions on plain (N, C, H, W) arrays, where most of a VarGNet's arithmetic is, and on
// arrays of pairs (storage.h). 3x3 over a few channels a group are in grouped.cc, those of one
// channel a group in depthwise.cc.
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
#include "storage.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

// ------------------------------------------------------------------------------ 1x1 convolution
// y[n] = weight x[n] (+ bias): data (N, K, ...), weight (O, K, 1, 1), bias (O,), y (N, O, ...).
// All images are one matrix of N * positions columns, cut into panels of kPanel columns. Layouts
// are of elements: a pair of channels is one along the depth.

template <typename Storage>
Layout elements_of(const MXTensor& tensor) {
  Layout layout(tensor);
  layout.channels /= Storage::kChannels;
  layout.pitch /= Storage::kChannels;
  return layout;
}

// Columns offset..offset+length-1 of a panel, which are neighbours in one image.
struct Piece {
  int64_t image, position, offset, length;
};

// Calls piece(Piece) for the runs of columns first..first+count-1 that lie in one image.
template <typename Body>
inline void for_pieces(int64_t first, int64_t count, int64_t positions, Body piece) {
  int64_t image = first / positions, position = first % positions;
  for (int64_t done = 0; done < count; ++image, position = 0) {
    const int64_t length = std::min(count - done, positions - position);
    piece(Piece{image, position, done, length});
    done += length;
  }
}

// A matrix (rows, depth) with element (r, k) at data[r * row + k * step].
template <typename Element>
struct Matrix {
  const Element* data;
  int64_t row, step;
};
using Weights = Matrix<float>;

// Blocks of weights (rows, depth) as products read them; zeros behind the last row.
template <typename Storage>
class Blocks;

// Read where they lie, since packing them takes as long as multiplying by few columns.
template <>
class Blocks<Float32> {
 public:
  Blocks(const Weights& a, int64_t rows, int64_t depth)
      : a_(a), full_(rows / kRows * kRows), rest_(scratch<4>(depth * kRows)) {
    if (full_ < rows) pack_block<kRows>(a.data, full_, rows, depth, a.row, a.step, rest_);
  }
  Matrix<float> at(int64_t row) const {
    if (row < full_) return {a_.data + row * a_.row, a_.row, a_.step};
    return {rest_, 1, kRows};
  }

 private:
  Weights a_;
  int64_t full_;
  float* rest_;
};

// Rounded, in pairs along the depth.
template <>
class Blocks<Bfloat16> {
 public:
  Blocks(const Weights& a, int64_t rows, int64_t depth) {
    const int64_t padded = round_up(rows, kRows);
    Pair* data = scratch_of<Pair, 4>(padded * depth);
    if (a.step == 1) {
      std::fill(data + rows * depth, data + padded * depth, 0);
#pragma omp parallel for schedule(static) if (rows * depth > kParallelSize)
      for (int64_t r = 0; r < rows; ++r) {
        round_row(a.data + r * a.row, 2 * depth, reinterpret_cast<Half*>(data + r * depth));
      }
      packed_ = {data, depth, 1};
      return;
    }
#pragma omp parallel for schedule(static) if (rows * depth > kParallelSize)
    for (int64_t k = 0; k < depth; ++k) {  // rows are neighbours
      const float* first = a.data + 2 * k * a.step;
      for_vectors(rows, [&](int64_t r, int64_t lanes) {
        const Vec one = load_first(first + r, lanes), other = load_first(first + a.step + r, lanes);
        store_first(data + k * padded + r, round_to_pairs(one, other), lanes);
      });
      std::fill(data + k * padded + rows, data + (k + 1) * padded, 0);
    }
    packed_ = {data, 1, padded};
  }
  Matrix<Pair> at(int64_t row) const {
    return {packed_.data + row * packed_.row, packed_.row, packed_.step};
  }

 private:
  Matrix<Pair> packed_;
};

// A piece of a panel (depth, kPanel); row k of it is at from + k * pitch.
template <typename Element>
inline void load_panel(const Element* from, int64_t depth, int64_t pitch, const Piece& piece,
                       Element* panel) {
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
template <bool kWrite, typename Element>
inline void prefetch(const Element* row) {
  constexpr int kLine = 16;  // elements
  for (int i = 0; i < kPanel; i += kLine) __builtin_prefetch(row + i, kWrite);
  __builtin_prefetch(row + kPanel - 1, kWrite);
}

// to (kRows, kPanel) = a (kRows, depth) b (depth, kPanel), in rows of `pitch` elements.
template <typename Storage>
inline void whole_block(int64_t depth, const Matrix<typename Storage::Element>& a,
                        const typename Storage::Element* b, typename Storage::Element* to,
                        int64_t pitch) {
  Vec sums[kRows][kVectors] = {};
  add_products(depth, a.data, a.row, a.step, [&](int64_t k) { return b + k * kPanel; }, sums);
  constexpr int kGroup = Storage::kChannels;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r += kGroup) {
    for (int v = 0; v < kVectors; ++v) {
      Vec values[kGroup];
      for (int g = 0; g < kGroup; ++g) values[g] = sums[r + g][v];
      Storage::write(values, 0, kLanes, to + r / kGroup * pitch + v * kLanes);
    }
  }
}

// Row `row` of a block (kRows, kPanel) and those that share its elements, plus the bias, to the
// output.
template <typename Storage>
inline void store_piece(const float* block, const Piece& piece, int64_t row, const float* bias,
                        const Layout& layout, typename Storage::Element* y) {
  constexpr int kGroup = Storage::kChannels;
  auto* to = y + layout.row(piece.image, row / kGroup) + piece.position;
  for_vectors(piece.length, [&](int64_t i, int64_t lanes) {
    Vec values[kGroup];
    Float32::read(block + row % kRows * kPanel + piece.offset + i, kPanel, lanes, values);
    for (int g = 0; bias && g < kGroup; ++g) values[g] = values[g] + bias[row + g];
    Storage::write(values, 0, lanes, to + i);
  });
}

// y (N, rows, P) = a (rows, depth) x (N, depth, P) + bias (rows,) or nothing.
template <typename Storage>
void multiply(const Weights& a, const float* bias, const Layout& x_layout,
              const typename Storage::Element* x, const Layout& y_layout,
              typename Storage::Element* y) {
  using Element = typename Storage::Element;
  constexpr int kGroup = Storage::kChannels;
  const int64_t rows = y_layout.channels * kGroup;
  const int64_t depth = x_layout.channels, positions = x_layout.positions;
  const Blocks<Storage> weights(a, rows, depth);
  const int64_t columns = x_layout.batch * positions;
  const int64_t panels = (columns + kPanel - 1) / kPanel;
  const int64_t blocks = (rows + kRows - 1) / kRows, share = (depth + blocks - 1) / blocks;
#pragma omp parallel for schedule(static) if (rows * depth * columns > 16 * kParallelSize)
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t first = panel * kPanel, count = std::min<int64_t>(kPanel, columns - first);
    Element* b = scratch_of<Element, 0>(depth * kPanel);
    if (count < kPanel) std::fill(b, b + depth * kPanel, Element{});
    Piece pieces[kPanel];
    int64_t piece_count = 0;
    for_pieces(first, count, positions, [&](const Piece& piece) {
      pieces[piece_count++] = piece;
      load_panel(x + x_layout.row(piece.image, 0) + piece.position, depth, positions, piece, b);
    });
    const bool whole = pieces[0].length == kPanel && bias == nullptr;
    const int64_t ahead = first + kPanel;  // next panel: each block asks for a share of its rows
    for (int64_t row = 0; row < rows; row += kRows) {
      const Matrix<Element> tile = weights.at(row);
      for (int64_t next = row + kRows; next < std::min(rows, row + 2 * kRows); next += kGroup) {
        prefetch<true>(y + y_layout.row(pieces[0].image, next / kGroup) + pieces[0].position);
      }
      const int64_t begin = row / kRows * share, end = std::min(depth, begin + share);
      for (int64_t k = begin; ahead < columns && k < end; ++k) {
        prefetch<false>(x + x_layout.row(ahead / positions, k) + ahead % positions);
      }
      if (whole && row + kRows <= rows) {
        Element* to = y + y_layout.row(pieces[0].image, row / kGroup) + pieces[0].position;
        whole_block<Storage>(depth, tile, b, to, positions);
        continue;
      }
      float block[kRows * kPanel];
      product_block<false>(depth, tile.data, tile.row, tile.step, b, kPanel, block, kPanel);
      for (int64_t r = row; r < std::min(rows, row + kRows); r += kGroup) {
        for (int64_t i = 0; i < piece_count; ++i) {
          store_piece<Storage>(block, pieces[i], r, bias, y_layout, y);
        }
      }
    }
  }
}

// ------------------------------------------------------------------- gradient of the weights
// Sums over columns: the position of an image, for pairs the same position of two images, which a
// missing one follows as zeros. All channels, not elements, are rows then.

template <typename Storage>
constexpr int kImages = Storage::kChannels;  // in an element

// Columns of one image, or of two, to rows of `pitch` elements.
inline void gather(const Layout& layout, const float* x, const Piece& piece, int64_t pitch,
                   float* to) {
  for (int64_t k = 0; k < layout.channels; ++k) {
    copy_row(x + layout.row(piece.image, k) + piece.position, piece.length, to + k * pitch);
  }
}
inline void gather(const Layout& layout, const Pair* x, const Piece& piece, int64_t pitch,
                   Pair* to) {
  const int64_t image = 2 * piece.image;
  const bool two = image + 1 < layout.batch;
  for (int64_t k = 0; k < layout.channels; ++k, to += 2 * pitch) {
    const Pair* first = x + layout.row(image, k) + piece.position;
    const Pair* second = first + layout.row(1, 0);
    for_vectors(piece.length, [&](int64_t i, int64_t lanes) {
      const Pairs one = load_first(first + i, lanes);
      const Pairs other = two ? load_first(second + i, lanes) : Pairs{};
      store_first(to + i, firsts(one, other), lanes);
      store_first(to + pitch + i, seconds(one, other), lanes);
    });
  }
}

// Columns first..first+count-1 of x as rows of one piece of memory, zeros up to the pitch.
template <typename Storage>
void gather_columns(const Layout& layout, const typename Storage::Element* x, int64_t first,
                    int64_t count, int64_t rows, int64_t pitch,
                    typename Storage::Element* gathered) {
  if (count < pitch || rows > layout.channels * Storage::kChannels) {
    std::fill(gathered, gathered + rows * pitch, typename Storage::Element{});
  }
  for_pieces(first, count, layout.positions,
             [&](const Piece& piece) { gather(layout, x, piece, pitch, gathered + piece.offset); });
}

// How many threads sum apart: for pairs the shapes alone say it.
template <typename Storage>
int64_t slices_of(int64_t chunks) {
  constexpr int64_t kMostSlices = 16;
  if (Storage::kChannels == 1) return std::min<int64_t>(chunks, omp_get_max_threads());
  return std::min(std::max<int64_t>(chunks / 2, 1), kMostSlices);
}

// product (O, K), its element (o, k) at o * row_step + k * step, from the sums of each slice
// (rows, width), of which the first O rows and K columns count.
void add_slices(float* sums, int64_t slices, int64_t rows, int64_t width, int64_t outputs,
                int64_t depth, float* product, int64_t row_step, int64_t step) {
#pragma omp parallel for schedule(static) if (slices * rows * width > kParallelSize)
  for (int64_t row = 0; row < outputs; ++row) {
    float* total = sums + row * width;
    for (int64_t slice = 1; slice < slices; ++slice) {
      const float* sum = total + slice * rows * width;
      for (int64_t k = 0; k < depth; ++k) total[k] += sum[k];
    }
    for (int64_t k = 0; k < depth; ++k) product[row * row_step + k * step] = total[k];
  }
}

// product (O, K) = sum over the images of dy (O, P) times x (K, P) transposed; its element (o, k)
// goes to o * row_step + k * step.
template <typename Storage>
void multiply_transposed(const Layout& dy_layout, const typename Storage::Element* dy,
                         const Layout& x_layout, const typename Storage::Element* x, float* product,
                         int64_t row_step, int64_t step) {
  using Element = typename Storage::Element;
  constexpr int64_t kChunk = 12 * kLanes;  // columns at a time: a panel of x fits the first cache
  const int64_t outputs = dy_layout.channels * Storage::kChannels;
  const int64_t depth = x_layout.channels * Storage::kChannels;
  const int64_t images = (x_layout.batch + kImages<Storage> - 1) / kImages<Storage>;
  const int64_t columns = images * x_layout.positions;
  const int64_t chunks = (columns + kChunk - 1) / kChunk;
  const int64_t rows = round_up(outputs, kRows), width = round_up(depth, kPanel);
  const int64_t slices = slices_of<Storage>(chunks);
  float* sums = scratch<3>(slices * rows * width);
#pragma omp parallel for schedule(static)
  for (int64_t slice = 0; slice < slices; ++slice) {
    float* sum = sums + slice * rows * width;
    std::fill(sum, sum + rows * width, 0.f);
    Element* a = scratch_of<Element, 0>(rows * kChunk);
    Element* gathered = scratch_of<Element, 1>(width * kChunk);
    float* b = scratch<2>(kChunk * kPanel);
    for (int64_t chunk = slice * chunks / slices; chunk < (slice + 1) * chunks / slices; ++chunk) {
      const int64_t first = chunk * kChunk, count = std::min(kChunk, columns - first);
      gather_columns<Storage>(dy_layout, dy, first, count, rows, kChunk, a);
      gather_columns<Storage>(x_layout, x, first, count, width, kChunk, gathered);
      for (int64_t k = 0; k < width; k += kPanel) {
        const auto* from = reinterpret_cast<const float*>(gathered + k * kChunk);
        for (int64_t p = 0; p < kChunk; p += kLanes) {
          for (int v = 0; v < kVectors; ++v) {
            transpose(from + v * kLanes * kChunk + p, kChunk, b + p * kPanel + v * kLanes, kPanel);
          }
        }
        const auto* panel = reinterpret_cast<const Element*>(b);
        for (int64_t row = 0; row < rows; row += kRows) {
          product_block<true>(kChunk, a + row * kChunk, kChunk, 1, panel, kPanel,
                              sum + row * width + k, width);
        }
      }
    }
  }
  add_slices(sums, slices, rows, width, outputs, depth, product, row_step, step);
}

// dweight (O, K), the sides changed where blocks of kRows and kPanel fit the other way better.
template <typename Storage>
void weight_gradient(const Layout& dy_layout, const typename Storage::Element* dy,
                     const Layout& x_layout, const typename Storage::Element* x, float* dweight) {
  const int64_t outputs = dy_layout.channels * Storage::kChannels;
  const int64_t depth = x_layout.channels * Storage::kChannels;
  if (round_up(outputs, kRows) * round_up(depth, kPanel) <=
      round_up(depth, kRows) * round_up(outputs, kPanel)) {
    multiply_transposed<Storage>(dy_layout, dy, x_layout, x, dweight, depth, 1);
  } else {
    multiply_transposed<Storage>(x_layout, x, dy_layout, dy, dweight, 1, depth);
  }
}

// ----------------------------------------------------------------------------------- operators

template <typename Storage>
MXReturnValue pointwise_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                                const OpResource&) {
  const float* bias = has_bias(attributes) ? floats(inputs, kBias) : nullptr;
  const int64_t depth = inputs->at(kData).shape[1];
  multiply<Storage>({floats(inputs, kWeight), depth, 1}, bias,
                    elements_of<Storage>(inputs->at(kData)), elements<Storage>(inputs, kData),
                    elements_of<Storage>(outputs->at(0)), elements<Storage>(outputs, 0));
  return MX_SUCCESS;
}

template <typename Storage>
MXReturnValue pointwise_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                                 const OpResource&) {
  const Layout dy_layout = elements_of<Storage>(inputs->at(0));
  const Layout layout = elements_of<Storage>(inputs->at(1 + kData));
  const auto* dy = elements<Storage>(inputs, 0);
  const int64_t rows = inputs->at(1 + kData).shape[1];
  multiply<Storage>({floats(inputs, 1 + kWeight), 1, rows}, nullptr, dy_layout, dy, layout,
                    elements<Storage>(outputs, kData));
  weight_gradient<Storage>(dy_layout, dy, layout, elements<Storage>(inputs, 1 + kData),
                           floats(outputs, kWeight));
  if (has_bias(attributes)) {
    sum_channels<Storage>(Layout(inputs->at(0)), dy, floats(outputs, kBias));
  }
  return MX_SUCCESS;
}

template <typename Storage>
MXReturnValue mixed_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  const Slices slices(attributes);
  const Layout layout = elements_of<Storage>(inputs->at(kData));
  const Layout y_layout = elements_of<Storage>(outputs->at(0));
  const auto* x = elements<Storage>(inputs, kData);
  auto* y = elements<Storage>(outputs, 0);
  for (size_t i = 0; i < slices.count(); ++i) {
    const Layout part = layout.part(slices.channels[i] / Storage::kChannels);
    const Layout y_part = y_layout.part(slices.filters[i] / Storage::kChannels);
    multiply<Storage>({floats(inputs, 1 + i), slices.channels[i], 1}, nullptr, part, x, y_part, y);
    x += part.channels * layout.positions;
    y += y_part.channels * layout.positions;
  }
  return MX_SUCCESS;
}

template <typename Storage>
MXReturnValue mixed_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                             const OpResource&) {
  const Slices slices(attributes);
  const Layout dy_layout = elements_of<Storage>(inputs->at(0));
  const Layout layout = elements_of<Storage>(inputs->at(1 + kData));
  const auto* dy = elements<Storage>(inputs, 0);
  const auto* x = elements<Storage>(inputs, 1 + kData);
  auto* dx = elements<Storage>(outputs, kData);
  for (size_t i = 0; i < slices.count(); ++i) {
    const Layout part = layout.part(slices.channels[i] / Storage::kChannels);
    const Layout dy_part = dy_layout.part(slices.filters[i] / Storage::kChannels);
    multiply<Storage>({floats(inputs, 2 + i), 1, slices.channels[i]}, nullptr, dy_part, dy, part,
                      dx);
    weight_gradient<Storage>(dy_part, dy, part, x, floats(outputs, 1 + i));
    x += part.channels * layout.positions;
    dx += part.channels * layout.positions;
    dy += dy_part.channels * layout.positions;
  }
  return MX_SUCCESS;
}

}  // namespace

MXReturnValue pointwise_bf16_forward(const Attributes& attributes, Tensors* inputs,
                                     Tensors* outputs, const OpResource& resource) {
  return pointwise_forward<Bfloat16>(attributes, inputs, outputs, resource);
}

MXReturnValue pointwise_bf16_backward(const Attributes& attributes, Tensors* inputs,
                                      Tensors* outputs, const OpResource& resource) {
  return pointwise_backward<Bfloat16>(attributes, inputs, outputs, resource);
}

#define REGISTER_POINTWISE(name, Storage)              \
  REGISTER_OP(name)                                    \
      .setForward(pointwise_forward<Storage>, "cpu")   \
      .setBackward(pointwise_backward<Storage>, "cpu") \
      .setParseAttrs(pointwise_arity)                  \
      .setInferType(conv_types<Storage, Storage>)      \
      .setInferShape(stored_shape<Storage, Storage, pointwise_shape>)

REGISTER_POINTWISE(vg_pointwise, Float32);
REGISTER_POINTWISE(vg_pointwise_bf16, Bfloat16);

#define REGISTER_MIXED_POINTWISE(name, Storage)    \
  REGISTER_OP(name)                                \
      .setForward(mixed_forward<Storage>, "cpu")   \
      .setBackward(mixed_backward<Storage>, "cpu") \
      .setParseAttrs(mixed_arity)                  \
      .setInferType(conv_types<Storage, Storage>)  \
      .setInferShape(mixed_shape<Storage>)

REGISTER_MIXED_POINTWISE(vg_mixed_pointwise, Float32);
REGISTER_MIXED_POINTWISE(vg_mixed_pointwise_bf16, Bfloat16);

}  // namespace vargfacenet
