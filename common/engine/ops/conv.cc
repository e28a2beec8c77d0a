// Convolutions on plain (N, C, H, W) arrays, where most of a VarGNet's arithmetic is: 1x1, and 3x3
// over a few channels a group. Those of one channel a group are in depthwise.cc.
//
// oneDNN's own reach about the same speed, but on arrays in its blocked layouts, a different one
// for each kind; turning one into the other and back to the plain arrays of the operators between
// them took a third of a training step.

#include <algorithm>
#include <cstring>

#include <omp.h>

#include "product.h"
#include "simd.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

enum ConvInput { kData, kWeight, kBias };

bool has_bias(const Attributes& attributes) {
  const auto found = attributes.find("no_bias");
  return found == attributes.end() || found->second != "True";
}

MXReturnValue conv_arity(const Attributes& attributes, int* inputs, int* outputs) {
  for (const char* name : {"num_filter", "num_group", "stride"}) {
    const auto found = attributes.find(name);
    if (found == attributes.end() || !(number(found->second) >= 1)) {
      MX_ERROR_MSG << "a convolution needs a positive whole number as " << name;
      return MX_FAIL;
    }
  }
  *inputs = has_bias(attributes) ? 3 : 2;
  *outputs = 1;
  return MX_SUCCESS;
}

unsigned whole(const Attributes& attributes, const char* name) {
  return static_cast<unsigned>(number(attributes.at(name)));
}

// ------------------------------------------------------------------------------ 1x1 convolution
// y[n] = weight x[n] (+ bias): data (N, K, ...), weight (O, K, 1, 1), bias (O,), y (N, O, ...).
// All images are one matrix of N * positions columns, cut into panels of kPanel columns.

MXReturnValue pointwise_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const unsigned filters = whole(attributes, "num_filter");
  auto shape = inputs->at(kData);
  inputs->at(kWeight) = {filters, shape[1], 1, 1};
  if (has_bias(attributes)) inputs->at(kBias) = {filters};
  shape[1] = filters;
  outputs->at(0) = shape;
  return MX_SUCCESS;
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
struct Strided {
  const float* data;
  int64_t row, step;
};

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

// y (N, rows, P) = a (rows, depth) x (N, depth, P) + bias (rows,) or nothing. Blocks of `a` are
// read where they lie, since packing them takes as long as multiplying by few columns.
void multiply(const Strided& a, const float* bias, const Layout& x_layout, const float* x,
              const Layout& y_layout, float* y) {
  const int64_t rows = y_layout.channels;
  const int64_t depth = x_layout.channels, positions = x_layout.positions;
  const int64_t full = rows / kRows * kRows;  // behind them a block with zeros at its end
  float* rest = scratch<4>(depth * kRows);
  if (full < rows) pack_block<kRows>(a.data, full, rows, depth, a.row, a.step, rest);
  const int64_t columns = x_layout.batch * positions;
  const int64_t panels = (columns + kPanel - 1) / kPanel;
#pragma omp parallel for schedule(static) if (rows * depth * columns > 16 * kParallelSize)
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t first = panel * kPanel, count = std::min<int64_t>(kPanel, columns - first);
    float* b = scratch<0>(depth * kPanel);
    if (count < kPanel) std::fill(b, b + depth * kPanel, 0.f);
    Piece pieces[kPanel];
    int64_t piece_count = 0;
    for_pieces(first, count, positions, [&](const Piece& piece) {
      pieces[piece_count++] = piece;
      load_panel(x + x_layout.row(piece.image, 0) + piece.position, depth, positions, piece, b);
    });
    const bool whole = pieces[0].length == kPanel && bias == nullptr;
    for (int64_t row = 0; row < rows; row += kRows) {
      const Strided tile =
          row < full ? Strided{a.data + row * a.row, a.row, a.step} : Strided{rest, 1, kRows};
      if (whole && row < full) {
        float* to = y + y_layout.row(pieces[0].image, row) + pieces[0].position;
        product_block<false>(depth, tile.data, tile.row, tile.step, b, kPanel, to, positions);
        continue;
      }
      float block[kRows * kPanel];
      product_block<false>(depth, tile.data, tile.row, tile.step, b, kPanel, block, kPanel);
      for (int64_t r = 0; r < std::min<int64_t>(kRows, rows - row); ++r) {
        for (int64_t i = 0; i < piece_count; ++i) {
          const Piece& piece = pieces[i];
          copy_plus(block + r * kPanel + piece.offset, piece.length, bias ? bias[row + r] : 0.f,
                    y + y_layout.row(piece.image, row + r) + piece.position);
        }
      }
    }
  }
}

// Columns first..first+count-1 of x as rows of one piece of memory, zeros up to the pitch.
void gather_columns(const Layout& layout, const float* x, int64_t first, int64_t count,
                    int64_t rows, int64_t pitch, float* gathered) {
  if (count < pitch || rows > layout.channels) std::fill(gathered, gathered + rows * pitch, 0.f);
  for_pieces(first, count, layout.positions, [&](const Piece& piece) {
    for (int64_t k = 0; k < layout.channels; ++k) {
      copy_row(x + layout.row(piece.image, k) + piece.position, piece.length,
               gathered + k * pitch + piece.offset);
    }
  });
}

// product (O, K) = sum over the images of dy (O, P) times x (K, P) transposed; its element (o, k)
// goes to o * row_step + k * step.
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
      gather_columns(dy_layout, dy, first, count, rows, kChunk, a);
      gather_columns(x_layout, x, first, count, width, kChunk, gathered);
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
#pragma omp parallel for schedule(static) if (slices * rows * width > kParallelSize)
  for (int64_t row = 0; row < outputs; ++row) {
    float* total = sums + row * width;
    for (int64_t slice = 1; slice < slices; ++slice) {
      const float* sum = sums + (slice * rows + row) * width;
      for (int64_t k = 0; k < depth; ++k) total[k] += sum[k];
    }
    for (int64_t k = 0; k < depth; ++k) product[row * row_step + k * step] = total[k];
  }
}

// dweight (O, K), the sides changed where blocks of kRows and kPanel fit the other way better.
void weight_gradient(const Layout& dy_layout, const float* dy, const Layout& x_layout,
                     const float* x, float* dweight) {
  const int64_t outputs = dy_layout.channels, depth = x_layout.channels;
  if (round_up(outputs, kRows) * round_up(depth, kPanel) <=
      round_up(depth, kRows) * round_up(outputs, kPanel)) {
    multiply_transposed(dy_layout, dy, x_layout, x, dweight, depth, 1);
  } else {
    multiply_transposed(x_layout, x, dy_layout, dy, dweight, 1, depth);
  }
}

void sum_channels(const Layout& layout, const float* dy, float* dbias) {
  for (int64_t c = 0; c < layout.channels; ++c) {
    double sum = 0;
    for (int64_t n = 0; n < layout.batch; ++n) {
      const float* row = dy + layout.row(n, c);
      for (int64_t i = 0; i < layout.positions; ++i) sum += row[i];
    }
    dbias[c] = static_cast<float>(sum);
  }
}

MXReturnValue pointwise_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                                const OpResource&) {
  const Layout layout(inputs->at(kData));
  const float* bias = has_bias(attributes) ? floats(inputs, kBias) : nullptr;
  multiply({floats(inputs, kWeight), layout.channels, 1}, bias, layout, floats(inputs, kData),
           Layout(outputs->at(0)), floats(outputs, 0));
  return MX_SUCCESS;
}

MXReturnValue pointwise_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                                 const OpResource&) {
  const Layout dy_layout(inputs->at(0)), layout(inputs->at(1 + kData));
  const float* dy = floats(inputs, 0);
  const int64_t rows = layout.channels;
  multiply({floats(inputs, 1 + kWeight), 1, rows}, nullptr, dy_layout, dy, layout,
           floats(outputs, kData));
  weight_gradient(dy_layout, dy, layout, floats(inputs, 1 + kData), floats(outputs, kWeight));
  if (has_bias(attributes)) sum_channels(dy_layout, dy, floats(outputs, kBias));
  return MX_SUCCESS;
}

// ------------------------------------------------------------- 1x1 convolutions of channel slices
// Slices of the channels of data (N, C, ...), each with weights (O_i, C_i, 1, 1) of its own, put
// together again: what a group convolution does whose groups need not be of one size. Attributes
// `channels` and `filters`: C_i and O_i.

struct Slices {
  std::vector<int64_t> channels, filters;

  explicit Slices(const Attributes& attributes)
      : channels(whole_numbers(attributes.at("channels"))),
        filters(whole_numbers(attributes.at("filters"))) {}
  size_t count() const { return channels.size(); }
};

MXReturnValue mixed_arity(const Attributes& attributes, int* inputs, int* outputs) {
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

MXReturnValue mixed_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
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

MXReturnValue mixed_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  const Slices slices(attributes);
  const Layout layout(inputs->at(kData)), y_layout(outputs->at(0));
  const float* x = floats(inputs, kData);
  float* y = floats(outputs, 0);
  for (size_t i = 0; i < slices.count(); ++i) {
    multiply({floats(inputs, 1 + i), slices.channels[i], 1}, nullptr,
             layout.part(slices.channels[i]), x, y_layout.part(slices.filters[i]), y);
    x += slices.channels[i] * layout.positions;
    y += slices.filters[i] * layout.positions;
  }
  return MX_SUCCESS;
}

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
    multiply({floats(inputs, 2 + i), 1, part.channels}, nullptr, dy_part, dy, part, dx);
    weight_gradient(dy_part, dy, part, x, floats(outputs, 1 + i));
    x += part.channels * layout.positions;
    dx += part.channels * layout.positions;
    dy += dy_part.channels * layout.positions;
  }
  return MX_SUCCESS;
}

// ------------------------------------------------------------------------ grouped 3x3, padding 1
// data (N, C, H, W), weight (O, C / groups, 3, 3), bias (O,), y (N, O, Ho, Wo), stride 1 or 2.
//
// A channel is copied into a plane with zeros around it, where row r + 1 and column c + 1 hold what
// the picture has at (r, c). The zero column on the left of a row also ends the row before it, the
// zero row on top of an image the image before it, so that several small images lie in one plane.
// Seen as one long row, the input that tap (i, j) multiplies lies at a fixed distance from the
// output: a convolution is a sum of shifted rows, and the few positions between rows and images
// are computed for nothing. At stride 2 a plane falls apart into four phases, one for each parity
// of row and column, of the output's pitch each.

constexpr int kTaps = 9;

struct Geometry {
  int64_t batch, groups, stride;
  int64_t in_channels, out_channels;  // of one group
  int64_t height, width, out_height, out_width;
  int64_t pitch, rows;  // of one image in a plane

  Geometry(const Attributes& attributes, const MXTensor& data, int64_t filters)
      : batch(data.shape[0]),
        groups(whole(attributes, "num_group")),
        stride(whole(attributes, "stride")),
        in_channels(data.shape[1] / groups),
        out_channels(filters / groups),
        height(data.shape[2]),
        width(data.shape[3]),
        out_height((height - 1) / stride + 1),
        out_width((width - 1) / stride + 1),
        pitch(out_width + 1),
        rows(out_height + 1) {}

  int64_t phases() const { return stride * stride; }
  int64_t phase(int tap) const { return stride == 1 ? 0 : tap / 3 % 2 * 2 + tap % 3 % 2; }
  // Images that share a plane: enough for a few blocks of positions.
  int64_t together() const {
    return std::max<int64_t>(1, std::min(batch, 8 * kPanel / (rows * pitch)));
  }
  int64_t positions(int64_t images) const { return images * rows * pitch; }
  // Floats of a plane of `images` images, with what the last block reads behind its end.
  int64_t plane(int64_t images) const {
    return round_up(round_up(positions(images), kPanel) + 2 * pitch + 2, kLanes);
  }
};

MXReturnValue grouped_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const unsigned filters = whole(attributes, "num_filter");
  const unsigned groups = whole(attributes, "num_group");
  const unsigned stride = whole(attributes, "stride");
  const auto shape = inputs->at(kData);
  inputs->at(kWeight) = {filters, shape[1] / groups, 3, 3};
  if (has_bias(attributes)) inputs->at(kBias) = {filters};
  outputs->at(0) = {shape[0], filters, (shape[2] - 1) / stride + 1, (shape[3] - 1) / stride + 1};
  return MX_SUCCESS;
}

// Image `index` of a plane (all phases of it) from the channel's picture.
void fill_input(const Geometry& geometry, const float* picture, int64_t index, int64_t plane,
                float* to) {
  const int64_t pitch = geometry.pitch, width = geometry.width;
  for (int64_t y = 0; y < geometry.height; ++y) {
    const float* row = picture + y * width;
    if (geometry.stride == 1) {
      copy_row(row, width, to + (index * geometry.rows + y + 1) * pitch + 1);
      continue;
    }
    float* even = to + (y + 1) % 2 * 2 * plane + (index * geometry.rows + (y + 1) / 2) * pitch;
    float* odd = even + plane;
    deinterleave(row, width, odd, even + 1);
  }
}

// Image `index` of a plane from an output's gradient: one row down and one column to the right, as
// the input at stride 1.
void fill_output(const Geometry& geometry, const float* picture, int64_t index, float* to) {
  for (int64_t y = 0; y < geometry.out_height; ++y) {
    copy_row(picture + y * geometry.out_width, geometry.out_width,
             to + (index * geometry.rows + y + 1) * geometry.pitch + 1);
  }
}

// out (kRows, positions) = sum over k of weights[k] (kRows) times the row at planes + offsets[k].
void sum_shifted(int64_t depth, const float* weights, const float* planes, const int64_t* offsets,
                 int64_t positions, float* out, int64_t out_pitch) {
  for (int64_t at = 0; at < positions; at += kPanel) {
    Vec sums[kRows][kVectors] = {};
    const auto shifted = [&](int64_t k) { return planes + offsets[k] + at; };
    add_products(depth, weights, 1, kRows, shifted, sums);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) store(out + r * out_pitch + at + v * kLanes, sums[r][v]);
    }
  }
}

// Where a group's channels lie: those of an array with `channels` in all, `count` of them a group.
struct GroupRows {
  int64_t channels, count, size;
  int64_t start(int64_t image, int64_t group, int64_t channel) const {
    return (image * channels + group * count + channel) * size;
  }
};

GroupRows input_rows(const Geometry& g) {
  return {g.groups * g.in_channels, g.in_channels, g.height * g.width};
}

GroupRows output_rows(const Geometry& g) {
  return {g.groups * g.out_channels, g.out_channels, g.out_height * g.out_width};
}

// Distance of what `tap` multiplies from its output, in a plane (of its phase).
int64_t tap_distance(const Geometry& geometry, int tap) {
  const int64_t row = tap / 3 / geometry.stride, column = tap % 3 / geometry.stride;
  return row * geometry.pitch + column;
}

// All channels of a group, images first..first+images-1, as planes of `plane` floats.
void load_inputs(const Geometry& geometry, const float* x, int64_t group, int64_t first,
                 int64_t images, int64_t plane, float* planes) {
  const GroupRows rows = input_rows(geometry);
  std::fill(planes, planes + geometry.in_channels * geometry.phases() * plane, 0.f);
  for (int64_t c = 0; c < geometry.in_channels; ++c) {
    for (int64_t i = 0; i < images; ++i) {
      fill_input(geometry, x + rows.start(first + i, group, c), i, plane,
                 planes + c * geometry.phases() * plane);
    }
  }
}

void load_gradients(const Geometry& geometry, const float* dy, int64_t group, int64_t first,
                    int64_t images, int64_t plane, float* planes) {
  const GroupRows rows = output_rows(geometry);
  std::fill(planes, planes + round_up(geometry.out_channels, kRows) * plane, 0.f);
  for (int64_t o = 0; o < geometry.out_channels; ++o) {
    for (int64_t i = 0; i < images; ++i) {
      fill_output(geometry, dy + rows.start(first + i, group, o), i, planes + o * plane);
    }
  }
}

MXReturnValue grouped_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                              const OpResource&) {
  const Geometry g(attributes, inputs->at(kData), outputs->at(0).shape[1]);
  const float* x = floats(inputs, kData);
  const float* weight = floats(inputs, kWeight);
  const float* bias = has_bias(attributes) ? floats(inputs, kBias) : nullptr;
  float* y = floats(outputs, 0);
  const int64_t depth = g.in_channels * kTaps, together = g.together();
  const int64_t plane = g.plane(together), batches = (g.batch + together - 1) / together;
  const GroupRows rows = output_rows(g);
  const int64_t packed_rows = round_up(g.out_channels, kRows);
  float* packed = scratch<3>(g.groups * packed_rows * depth);
  for (int64_t group = 0; group < g.groups; ++group) {
    pack_rows<kRows>(weight + group * g.out_channels * depth, g.out_channels, depth, depth, 1,
                     packed + group * packed_rows * depth);
  }
  std::vector<int64_t> offsets(depth);
  for (int64_t k = 0; k < depth; ++k) {
    const int tap = k % kTaps;
    offsets[k] = (k / kTaps * g.phases() + g.phase(tap)) * plane + tap_distance(g, tap);
  }
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t batch = 0; batch < batches; ++batch) {
    for (int64_t group = 0; group < g.groups; ++group) {
      const int64_t first = batch * together, images = std::min(together, g.batch - first);
      float* planes = scratch<0>(g.in_channels * g.phases() * plane);
      float* out = scratch<2>(kRows * plane);
      load_inputs(g, x, group, first, images, plane, planes);
      for (int64_t block = 0; block < g.out_channels; block += kRows) {
        const int64_t valid = std::min<int64_t>(kRows, g.out_channels - block);
        sum_shifted(depth, packed + (group * packed_rows + block) * depth, planes, offsets.data(),
                    g.positions(images), out, plane);
        for (int64_t r = 0; r < valid; ++r) {
          const float add = bias ? bias[group * g.out_channels + block + r] : 0.f;
          for (int64_t i = 0; i < images; ++i) {
            float* to = y + rows.start(first + i, group, block + r);
            const float* from = out + r * plane + i * g.rows * g.pitch;
            for (int64_t row = 0; row < g.out_height; ++row) {
              copy_plus(from + row * g.pitch, g.out_width, add, to + row * g.out_width);
            }
          }
        }
      }
    }
  }
  return MX_SUCCESS;
}

// The taps that lead to one phase of the input, and for each output channel and such tap where the
// gradient lies that it multiplies.
struct PhaseTaps {
  std::vector<int> taps;
  std::vector<int64_t> offsets;

  PhaseTaps(const Geometry& g, int64_t phase, int64_t plane) {
    for (int tap = 0; tap < kTaps; ++tap) {
      if (g.phase(tap) == phase) taps.push_back(tap);
    }
    const int64_t last = g.stride == 1 ? 2 : 1;
    for (int64_t o = 0; o < g.out_channels; ++o) {
      for (int tap : taps) {
        const int64_t row = last - tap / 3 / g.stride, column = last - tap % 3 / g.stride;
        offsets.push_back(o * plane + row * g.pitch + column);
      }
    }
  }
};

// A channel of an input gradient, from the computed rows of all its phases to the picture.
void store_input(const Geometry& g, const float* from, int64_t phase_size, float* picture) {
  for (int64_t y = 0; y < g.height; ++y) {
    float* to = picture + y * g.width;
    if (g.stride == 1) {
      copy_row(from + y * g.pitch, g.width, to);
      continue;
    }
    const float* even = from + (y + 1) % 2 * 2 * phase_size + (y + 1) / 2 * g.pitch;
    interleave(even + phase_size, even + 1, g.width, to);
  }
}

// What the input gradient needs of a group's weights: for each block of input channels and each
// phase, (out_channels, taps of the phase, kRows).
void pack_for_data_gradient(const Geometry& g, const std::vector<PhaseTaps>& phases,
                            const float* weight, float* packed) {
  for (int64_t block = 0; block < g.in_channels; block += kRows) {
    for (const PhaseTaps& phase : phases) {
      for (int64_t o = 0; o < g.out_channels; ++o) {
        const float* kernels = weight + (o * g.in_channels + block) * kTaps;
        for (int tap : phase.taps) {
          for (int r = 0; r < kRows; ++r) {
            *packed++ = block + r < g.in_channels ? kernels[r * kTaps + tap] : 0.f;
          }
        }
      }
    }
  }
}

// Input gradient of one group and images first..first+images-1, from planes of output gradients.
void data_gradient(const Geometry& g, const std::vector<PhaseTaps>& phases, const float* packed,
                   const float* gradients, int64_t plane, int64_t group, int64_t first,
                   int64_t images, float* dx) {
  const GroupRows rows = input_rows(g);
  const int64_t phase_size = kRows * plane;
  float* out = scratch<4>(g.phases() * phase_size);
  for (int64_t block = 0; block < g.in_channels; block += kRows) {
    for (int64_t phase = 0; phase < g.phases(); ++phase) {
      const std::vector<int64_t>& offsets = phases[phase].offsets;
      sum_shifted(offsets.size(), packed, gradients, offsets.data(), g.positions(images),
                  out + phase * phase_size, plane);
      packed += offsets.size() * kRows;
    }
    const int64_t valid = std::min<int64_t>(kRows, g.in_channels - block);
    for (int64_t r = 0; r < valid; ++r) {
      for (int64_t i = 0; i < images; ++i) {
        store_input(g, out + r * plane + i * g.rows * g.pitch, phase_size,
                    dx + rows.start(first + i, group, block + r));
      }
    }
  }
}

// sums (kRows, 3) of vectors += products of kRows rows of gradients with three rows of inputs.
inline void correlate(int64_t positions, const float* gradients, int64_t pitch,
                      const float* const inputs[3], float* sums) {
  Vec block[kRows][3];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < 3; ++t) block[r][t] = load(sums + (r * 3 + t) * kLanes);
  }
  for (int64_t at = 0; at < positions; at += kLanes) {
    Vec columns[3];
    for (int t = 0; t < 3; ++t) columns[t] = load(inputs[t] + at);
    for (int r = 0; r < kRows; ++r) {
      const Vec gradient = load(gradients + r * pitch + at);
      for (int t = 0; t < 3; ++t) {
        block[r][t] = multiply_add(gradient, columns[t], block[r][t]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < 3; ++t) store(sums + (r * 3 + t) * kLanes, block[r][t]);
  }
}

// sums of one group (blocks, in_channels * 3, kRows, 3, kLanes) += one plane of images.
void group_weight_gradient(const Geometry& g, const float* planes, const float* gradients,
                           int64_t plane, int64_t images, float* sums) {
  constexpr int64_t kChunk = 32 * kLanes;     // positions at a time: their rows fit the first cache
  const int64_t triples = g.in_channels * 3;  // a channel and a row of taps
  const float* origin = gradients + g.pitch + 1;
  const int64_t positions = round_up(g.positions(images) - g.pitch - 1, kLanes);
  for (int64_t at = 0; at < positions; at += kChunk) {
    const int64_t count = std::min(kChunk, positions - at);
    float* sum = sums;
    for (int64_t o = 0; o < g.out_channels; o += kRows) {
      for (int64_t triple = 0; triple < triples; ++triple, sum += kRows * 3 * kLanes) {
        const float* inputs[3];
        for (int t = 0; t < 3; ++t) {
          const int tap = triple % 3 * 3 + t;
          inputs[t] =
              planes + (triple / 3 * g.phases() + g.phase(tap)) * plane + tap_distance(g, tap) + at;
        }
        correlate(count, origin + o * plane + at, plane, inputs, sum);
      }
    }
  }
}

// Output channel by output channel, the sums over the lanes: dweight (out_channels, in_channels,
// 9).
void finish_weight_gradient(const Geometry& g, const float* sums, float* dweight) {
  const int64_t triples = g.in_channels * 3;
  for (int64_t o = 0; o < g.out_channels; ++o) {
    for (int64_t triple = 0; triple < triples; ++triple) {
      const float* sum = sums + ((o / kRows * triples + triple) * kRows + o % kRows) * 3 * kLanes;
      for (int t = 0; t < 3; ++t) *dweight++ = sum_of_lanes(load(sum + t * kLanes));
    }
  }
}

MXReturnValue grouped_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                               const OpResource&) {
  const Geometry g(attributes, inputs->at(1 + kData), inputs->at(0).shape[1]);
  const float* dy = floats(inputs, 0);
  const float* x = floats(inputs, 1 + kData);
  const float* weight = floats(inputs, 1 + kWeight);
  float* dx = floats(outputs, kData);
  float* dweight = floats(outputs, kWeight);
  const int64_t together = g.together(), plane = g.plane(together);
  std::vector<PhaseTaps> phases;
  for (int64_t phase = 0; phase < g.phases(); ++phase) phases.emplace_back(g, phase, plane);
  // Slices of the batch give the threads even work where groups are few.
  const int64_t slices = std::min<int64_t>(g.batch, (16 + g.groups - 1) / g.groups);
  const int64_t size = g.out_channels * g.in_channels * kTaps;
  float* slice_sums = scratch<0>(slices * g.groups * size);
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t slice = 0; slice < slices; ++slice) {
    for (int64_t group = 0; group < g.groups; ++group) {
      float* packed = scratch<1>(round_up(g.in_channels, kRows) * g.out_channels * kTaps);
      float* planes = scratch<2>(g.in_channels * g.phases() * plane);
      float* gradients = scratch<3>(round_up(g.out_channels, kRows) * plane);
      const int64_t sums_size = round_up(g.out_channels, kRows) * g.in_channels * kTaps * kLanes;
      float* sums = scratch<5>(sums_size);
      std::fill(sums, sums + sums_size, 0.f);
      pack_for_data_gradient(g, phases, weight + group * size, packed);
      const int64_t end = (slice + 1) * g.batch / slices;
      for (int64_t first = slice * g.batch / slices; first < end; first += together) {
        const int64_t images = std::min(together, end - first);
        load_inputs(g, x, group, first, images, plane, planes);
        load_gradients(g, dy, group, first, images, plane, gradients);
        data_gradient(g, phases, packed, gradients, plane, group, first, images, dx);
        group_weight_gradient(g, planes, gradients, plane, images, sums);
      }
      finish_weight_gradient(g, sums, slice_sums + (slice * g.groups + group) * size);
    }
  }
  for (int64_t i = 0; i < g.groups * size; ++i) {
    float total = 0;
    for (int64_t slice = 0; slice < slices; ++slice) {
      total += slice_sums[slice * g.groups * size + i];
    }
    dweight[i] = total;
  }
  if (has_bias(attributes)) sum_channels(Layout(inputs->at(0)), dy, floats(outputs, kBias));
  return MX_SUCCESS;
}

}  // namespace

REGISTER_OP(vg_pointwise)
    .setForward(pointwise_forward, "cpu")
    .setBackward(pointwise_backward, "cpu")
    .setParseAttrs(conv_arity)
    .setInferType(float32_only)
    .setInferShape(pointwise_shape);

REGISTER_OP(vg_mixed_pointwise)
    .setForward(mixed_forward, "cpu")
    .setBackward(mixed_backward, "cpu")
    .setParseAttrs(mixed_arity)
    .setInferType(float32_only)
    .setInferShape(mixed_shape);

REGISTER_OP(vg_grouped)
    .setForward(grouped_forward, "cpu")
    .setBackward(grouped_backward, "cpu")
    .setParseAttrs(conv_arity)
    .setInferType(float32_only)
    .setInferShape(grouped_shape);

}  // namespace vargfacenet
