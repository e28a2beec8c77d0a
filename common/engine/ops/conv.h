// What the convolutions with MXNet's attributes share.

#ifndef VARGFACENET_CONV_H_
#define VARGFACENET_CONV_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "simd.h"
#include "tensor.h"

namespace vargfacenet {

enum ConvInput { kData, kWeight, kBias };

inline bool has_bias(const Attributes& attributes) {
  const auto found = attributes.find("no_bias");
  return found == attributes.end() || found->second != "True";
}

inline unsigned whole(const Attributes& attributes, const char* name) {
  return static_cast<unsigned>(number(attributes.at(name)));
}

inline MXReturnValue conv_arity(const Attributes& attributes, int* inputs, int* outputs) {
  for (const char* name : {"num_filter", "num_group", "stride"}) {
    const auto found = attributes.find(name);
    const float value = found == attributes.end() ? 0 : number(found->second);
    if (!(value >= 1) || value != std::floor(value)) {
      MX_ERROR_MSG << "a convolution needs a positive whole number as " << name;
      return MX_FAIL;
    }
  }
  *inputs = has_bias(attributes) ? 3 : 2;
  *outputs = 1;
  return MX_SUCCESS;
}

// dbias (O,) from dy (N, O, ...).
inline void sum_channels(const Layout& layout, const float* dy, float* dbias) {
  for (int64_t c = 0; c < layout.channels; ++c) {
    double sum = 0;
    for (int64_t n = 0; n < layout.batch; ++n) {
      const float* row = dy + layout.row(n, c);
      for (int64_t i = 0; i < layout.positions; ++i) sum += row[i];
    }
    dbias[c] = static_cast<float>(sum);
  }
}

// Gradients that threads sum apart, slice after slice, `pitch` floats from one to the next.
inline float sum_of_slices(const float* first, int64_t slices, int64_t pitch) {
  float total = 0;
  for (int64_t slice = 0; slice < slices; ++slice) total += first[slice * pitch];
  return total;
}

// ------------------------------------------------------------------ attributes and shapes of 1x1
// data (N, K, ...), weight (O, K, 1, 1), bias (O,), y (N, O, ...).

inline MXReturnValue pointwise_arity(const Attributes& attributes, int* inputs, int* outputs) {
  if (conv_arity(attributes, inputs, outputs) != MX_SUCCESS) return MX_FAIL;
  if (whole(attributes, "num_group") != 1 || whole(attributes, "stride") != 1) {
    MX_ERROR_MSG << "a pointwise convolution has one group and a stride of 1, not "
                 << attributes.at("num_group") << " and " << attributes.at("stride");
    return MX_FAIL;
  }
  return MX_SUCCESS;
}

inline MXReturnValue pointwise_shape(const Attributes& attributes, Shapes* inputs,
                                     Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const unsigned filters = whole(attributes, "num_filter");
  auto shape = inputs->at(kData);
  inputs->at(kWeight) = {filters, shape[1], 1, 1};
  if (has_bias(attributes)) inputs->at(kBias) = {filters};
  shape[1] = filters;
  outputs->at(0) = shape;
  return MX_SUCCESS;
}

// 1x1 of channel slices: slices of the channels of data (N, C, ...), each with weights
// (O_i, C_i, 1, 1) of its own, put together again: what a group convolution does whose groups need
// not be of one size. Attributes `channels` and `filters`: C_i and O_i.

struct Slices {
  std::vector<int64_t> channels, filters;

  explicit Slices(const Attributes& attributes)
      : channels(whole_numbers(attributes.at("channels"))),
        filters(whole_numbers(attributes.at("filters"))) {}
  size_t count() const { return channels.size(); }
};

inline MXReturnValue mixed_arity(const Attributes& attributes, int* inputs, int* outputs) {
  if (attributes.count("channels") == 0 || attributes.count("filters") == 0 ||
      Slices(attributes).count() == 0 ||
      Slices(attributes).count() != Slices(attributes).filters.size()) {
    MX_ERROR_MSG << "vg_mixed_pointwise needs as many whole numbers as channels as as filters";
    return MX_FAIL;
  }
  *inputs = 1 + static_cast<int>(Slices(attributes).count());
  *outputs = 1;
  return MX_SUCCESS;
}

inline MXReturnValue mixed_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const Slices slices(attributes);
  auto shape = inputs->at(kData);
  unsigned channels = 0, filters = 0;
  for (size_t i = 0; i < slices.count(); ++i) {
    const unsigned in = slices.channels[i], out = slices.filters[i];
    inputs->at(1 + i) = {out, in, 1, 1};
    channels += in;
    filters += out;
  }
  if (channels != shape[1]) {
    MX_ERROR_MSG << "vg_mixed_pointwise: the slices have " << channels << " channels, the input "
                 << shape[1];
    return MX_FAIL;
  }
  shape[1] = filters;
  outputs->at(0) = shape;
  return MX_SUCCESS;
}

// ------------------------------------------------------------ attributes and shapes of grouped 3x3
// Padding 1, stride 1 or 2: data (N, C, H, W), weight (O, C / groups, 3, 3), bias (O,),
// y (N, O, Ho, Wo). With the attribute `input_gradient` False the gradient of the data is NaN, for
// where nobody reads it: it may be the network's input.

constexpr int kTaps = 9;

inline MXReturnValue grouped_arity(const Attributes& attributes, int* inputs, int* outputs) {
  if (conv_arity(attributes, inputs, outputs) != MX_SUCCESS) return MX_FAIL;
  if (whole(attributes, "stride") > 2) {
    MX_ERROR_MSG << "a grouped 3x3 convolution has a stride of 1 or 2, not "
                 << attributes.at("stride");
    return MX_FAIL;
  }
  return MX_SUCCESS;
}

inline MXReturnValue grouped_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const unsigned filters = whole(attributes, "num_filter");
  const unsigned groups = whole(attributes, "num_group");
  const unsigned stride = whole(attributes, "stride");
  const auto shape = inputs->at(kData);
  if (shape.size() != 4 || shape[1] % groups != 0 || filters % groups != 0) {
    MX_ERROR_MSG << "a grouped 3x3 convolution wants (N, C, H, W) and a number of groups that "
                    "divides C and num_filter, not " << shape.size() << " axes, C " << shape[1]
                 << ", num_filter " << filters << ", num_group " << groups;
    return MX_FAIL;
  }
  inputs->at(kWeight) = {filters, shape[1] / groups, 3, 3};
  if (has_bias(attributes)) inputs->at(kBias) = {filters};
  outputs->at(0) = {shape[0], filters, (shape[2] - 1) / stride + 1, (shape[3] - 1) / stride + 1};
  return MX_SUCCESS;
}

// Whether anybody reads the gradient of the data; where not, `dx` is filled with NaN.
inline bool input_gradient_wanted(const Attributes& attributes, const MXTensor& data, float* dx) {
  const auto found = attributes.find("input_gradient");
  const bool wanted = found == attributes.end() || found->second != "False";
  if (!wanted) std::fill(dx, dx + data.size(), std::nanf(""));
  return wanted;
}

// Slices of the batch whose gradients of the weights are summed apart: they give the threads even
// work where groups are few. Their number depends on the shapes alone.
inline int64_t batch_slices(int64_t batch, int64_t groups) {
  return std::min<int64_t>(batch, (16 + groups - 1) / groups);
}

// ------------------------------------------------------------------------------ 1x1 operators
// y[n] = weight x[n] (+ bias). All images are one matrix of N * positions columns, cut into panels
// of kPanel columns. `Products` says how matrices are multiplied:
// - multiply(a, bias, x_layout, x, y_layout, y):
//   y (N, rows, P) = a (rows, depth) x (N, depth, P) + bias (rows,) or nothing
// - multiply_transposed(dy_layout, dy, x_layout, x, product, row_step, step): product (O, K) = sum
//   over the images of dy (O, P) times x (K, P) transposed; its element (o, k) goes to
//   o * row_step + k * step

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

// One panel of a layout's columns.
struct Panel {
  int64_t first, count, piece_count = 0;
  Piece pieces[kPanel];

  Panel(const Layout& layout, int64_t index)
      : first(index * kPanel),
        count(std::min<int64_t>(kPanel, layout.batch * layout.positions - first)) {
    for_pieces(first, count, layout.positions,
               [&](const Piece& piece) { pieces[piece_count++] = piece; });
  }
  bool in_one_image() const { return pieces[0].length == kPanel; }
  // Where row `row` of the first piece lies.
  int64_t start(const Layout& layout, int64_t row) const {
    return layout.row(pieces[0].image, row) + pieces[0].position;
  }
  // y's channels from `channel` on = rows of a block (kRows, kPanel), + bias or nothing.
  void store_block(const float* block, const float* bias, int64_t channel, const Layout& layout,
                   float* y) const {
    for (int64_t r = 0; r < std::min<int64_t>(kRows, layout.channels - channel); ++r) {
      for (int64_t i = 0; i < piece_count; ++i) {
        const Piece& piece = pieces[i];
        copy_plus(block + r * kPanel + piece.offset, piece.length, bias ? bias[channel + r] : 0.f,
                  y + layout.row(piece.image, channel + r) + piece.position);
      }
    }
  }
};

inline int64_t panels_of(const Layout& layout) {
  return (layout.batch * layout.positions + kPanel - 1) / kPanel;
}

// Columns first..first+count-1 of x as rows of `pitch` numbers, taken over by `place`; zeros up to
// the pitch and up to `rows` of them.
template <typename Number, void (*place)(const float*, int64_t, Number*)>
void gather_columns(const Layout& layout, const float* x, int64_t first, int64_t count,
                    int64_t rows, int64_t pitch, Number* gathered) {
  if (count < pitch || rows > layout.channels) {
    std::fill(gathered, gathered + rows * pitch, Number{});
  }
  for_pieces(first, count, layout.positions, [&](const Piece& piece) {
    for (int64_t k = 0; k < layout.channels; ++k) {
      place(x + layout.row(piece.image, k) + piece.position, piece.length,
            gathered + k * pitch + piece.offset);
    }
  });
}

// product (O, K), its element (o, k) at o * row_step + k * step, from the sums of each slice
// (rows, width), of which the first O rows and K columns count.
inline void add_slices(float* sums, int64_t slices, int64_t rows, int64_t width, int64_t outputs,
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

// A matrix (rows, depth) with element (r, k) at data[r * row + k * step].
struct Strided {
  const float* data;
  int64_t row, step;
};

// dweight (O, K), the sides changed where blocks of kRows and kPanel fit the other way better.
template <typename Products>
void weight_gradient(const Layout& dy_layout, const float* dy, const Layout& x_layout,
                     const float* x, float* dweight) {
  const int64_t outputs = dy_layout.channels, depth = x_layout.channels;
  if (round_up(outputs, kRows) * round_up(depth, kPanel) <=
      round_up(depth, kRows) * round_up(outputs, kPanel)) {
    Products::multiply_transposed(dy_layout, dy, x_layout, x, dweight, depth, 1);
  } else {
    Products::multiply_transposed(x_layout, x, dy_layout, dy, dweight, 1, depth);
  }
}

template <typename Products>
MXReturnValue pointwise_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                                const OpResource&) {
  const Layout layout(inputs->at(kData));
  const float* bias = has_bias(attributes) ? floats(inputs, kBias) : nullptr;
  Products::multiply({floats(inputs, kWeight), layout.channels, 1}, bias, layout,
                     floats(inputs, kData), Layout(outputs->at(0)), floats(outputs, 0));
  return MX_SUCCESS;
}

template <typename Products>
MXReturnValue pointwise_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                                 const OpResource&) {
  const Layout dy_layout(inputs->at(0)), layout(inputs->at(1 + kData));
  const float* dy = floats(inputs, 0);
  const int64_t rows = layout.channels;
  Products::multiply({floats(inputs, 1 + kWeight), 1, rows}, nullptr, dy_layout, dy, layout,
                     floats(outputs, kData));
  weight_gradient<Products>(dy_layout, dy, layout, floats(inputs, 1 + kData),
                            floats(outputs, kWeight));
  if (has_bias(attributes)) sum_channels(dy_layout, dy, floats(outputs, kBias));
  return MX_SUCCESS;
}

template <typename Products>
MXReturnValue mixed_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  const Slices slices(attributes);
  const Layout layout(inputs->at(kData)), y_layout(outputs->at(0));
  const float* x = floats(inputs, kData);
  float* y = floats(outputs, 0);
  for (size_t i = 0; i < slices.count(); ++i) {
    Products::multiply({floats(inputs, 1 + i), slices.channels[i], 1}, nullptr,
                       layout.part(slices.channels[i]), x, y_layout.part(slices.filters[i]), y);
    x += slices.channels[i] * layout.positions;
    y += slices.filters[i] * layout.positions;
  }
  return MX_SUCCESS;
}

template <typename Products>
MXReturnValue mixed_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                             const OpResource&) {
  const Slices slices(attributes);
  const Layout dy_layout(inputs->at(0)), layout(inputs->at(1 + kData));
  const float* dy = floats(inputs, 0);
  const float* x = floats(inputs, 1 + kData);
  float* dx = floats(outputs, kData);
  for (size_t i = 0; i < slices.count(); ++i) {
    const Layout part = layout.part(slices.channels[i]);
    const Layout dy_part = dy_layout.part(slices.filters[i]);
    Products::multiply({floats(inputs, 2 + i), 1, part.channels}, nullptr, dy_part, dy, part, dx);
    weight_gradient<Products>(dy_part, dy, part, x, floats(outputs, 1 + i));
    x += part.channels * layout.positions;
    dx += part.channels * layout.positions;
    dy += dy_part.channels * layout.positions;
  }
  return MX_SUCCESS;
}

}  // namespace vargfacenet

#endif  // VARGFACENET_CONV_H_
