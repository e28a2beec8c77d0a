// 3x3 convolutions over a few channels a group, whose products are of bfloat16 numbers.
//
// A channel is rounded into a plane with zeros around it, where row r + 1 and column c + 1 hold
// what the picture has at (r, c). The zero column on the left of a row also ends the row before it,
// the zero row on top of an image the image before it, so that several small images lie in one
// plane. Seen as one long row, the input that tap (i, j) multiplies lies at a fixed distance from
// the output: a convolution is a sum of shifted rows, and the few positions between rows and images
// are computed for nothing. At stride 2 a plane falls apart into four phases, one for each parity
// of row and column, of the output's pitch each.
//
// The pairs of a product are along what it sums over. For outputs and the gradient of the input
// these are channels: planes of pairs are zipped from those of two channels. For the gradient of
// the weights they are positions, which lie beside each other in a plane as it is.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bf16.h"
#include "conv.h"
#include "simd.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

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

  int64_t weights() const { return out_channels * in_channels * kTaps; }  // of one group
  int64_t phases() const { return stride * stride; }
  int64_t phase(int tap) const { return stride == 1 ? 0 : tap / 3 % 2 * 2 + tap % 3 % 2; }
  // Images that share a plane: enough for a few blocks of positions.
  int64_t together() const {
    return std::max<int64_t>(1, std::min(batch, 8 * kPanel / (rows * pitch)));
  }
  int64_t positions(int64_t images) const { return images * rows * pitch; }
  // Numbers of a plane (of one phase), with what the last blocks read behind its end; as many pairs
  // are whole vectors.
  int64_t plane() const {
    const int64_t read = round_up(positions(together()), kPanel) + 2 * pitch + 2 + 2 * kLanes;
    return round_up(read, kLanes);
  }
  // Distance of what `tap` multiplies from its output, in a plane (of its phase).
  int64_t tap_distance(int tap) const { return tap / 3 / stride * pitch + tap % 3 / stride; }
  // Where a channel of a group begins in the arrays.
  int64_t in_start(int64_t image, int64_t group, int64_t channel) const {
    return ((image * groups + group) * in_channels + channel) * height * width;
  }
  int64_t out_start(int64_t image, int64_t group, int64_t channel) const {
    return ((image * groups + group) * out_channels + channel) * out_height * out_width;
  }
};

// -------------------------------------------------------------------------------------- planes

// Image `index` of a plane (all phases of it) from the channel's picture.
void fill_input(const Geometry& g, const float* picture, int64_t index, Half* to) {
  for (int64_t y = 0; y < g.height; ++y, picture += g.width) {
    if (g.stride == 1) {
      round_row(picture, g.width, to + (index * g.rows + y + 1) * g.pitch + 1);
      continue;
    }
    Half* even = to + (y + 1) % 2 * 2 * g.plane() + (index * g.rows + (y + 1) / 2) * g.pitch;
    round_every_second(picture, (g.width + 1) / 2, even + g.plane());
    round_every_second(picture + 1, g.width / 2, even + 1);
  }
}

// Planes (in_channels, phases) of a group and images first..first+images-1.
void load_inputs(const Geometry& g, const float* x, int64_t group, int64_t first, int64_t images,
                 Half* planes) {
  const int64_t size = g.phases() * g.plane();
  std::fill(planes, planes + g.in_channels * size, 0);
  for (int64_t c = 0; c < g.in_channels; ++c) {
    for (int64_t i = 0; i < images; ++i) {
      fill_input(g, x + g.in_start(first + i, group, c), i, planes + c * size);
    }
  }
}

// Planes (out_channels) of gradients, one row down and one column to the right, as the input at
// stride 1; planes of zeros behind them for whole blocks of kRows.
void load_gradients(const Geometry& g, const float* dy, int64_t group, int64_t first,
                    int64_t images, Half* planes) {
  std::fill(planes, planes + round_up(g.out_channels, kRows) * g.plane(), 0);
  for (int64_t o = 0; o < g.out_channels; ++o) {
    for (int64_t i = 0; i < images; ++i) {
      const float* picture = dy + g.out_start(first + i, group, o);
      for (int64_t y = 0; y < g.out_height; ++y) {
        round_row(picture + y * g.out_width, g.out_width,
                  planes + o * g.plane() + (i * g.rows + y + 1) * g.pitch + 1);
      }
    }
  }
}

// Pairs of the channels 0 and 1, 2 and 3 ..., `size` numbers each; zeros stand for the channel
// that an odd number of them lacks.
void zip_channels(const Half* planes, int64_t channels, int64_t size, Pair* pairs) {
  for (int64_t c = 0; c < channels; c += 2, planes += 2 * size, pairs += size) {
    if (c + 1 == channels) {
      std::copy(planes, planes + size, pairs);
      continue;
    }
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      pairs[i] = planes[i] | static_cast<uint32_t>(planes[size + i]) << 16;
    }
  }
}

// The bits of two weights as a pair; the second may be missing.
Pair weight_pair(const float* first, const float* second) {
  return rounded(*first) >> 16 | (second ? rounded(*second) & kSecond : 0);
}

// out (kRows, positions) = sum over k of weights[k] (kRows) times the row at planes + offsets[k].
void sum_shifted(const std::vector<int64_t>& offsets, const Pair* weights, const Pair* planes,
                 int64_t positions, float* out, int64_t out_pitch) {
  const int64_t depth = static_cast<int64_t>(offsets.size());
  for (int64_t at = 0; at < positions; at += kPanel) {
    Vec sums[kRows][kVectors] = {};
    const auto shifted = [&](int64_t k) { return planes + offsets[k] + at; };
    add_pairs(depth, weights, 1, kRows, shifted, sums);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) store(out + r * out_pitch + at + v * kLanes, sums[r][v]);
    }
  }
}

// ------------------------------------------------------------------------------------- forward

// Weights of a group as (blocks of output channels, pairs of input channels, kTaps, kRows).
void pack_for_output(const Geometry& g, const float* weight, Pair* packed) {
  for (int64_t block = 0; block < g.out_channels; block += kRows) {
    for (int64_t c = 0; c < g.in_channels; c += 2) {
      for (int tap = 0; tap < kTaps; ++tap) {
        for (int64_t o = block; o < block + kRows; ++o) {
          const float* first = weight + (o * g.in_channels + c) * kTaps + tap;
          const float* second = c + 1 < g.in_channels ? first + kTaps : nullptr;
          *packed++ = o < g.out_channels ? weight_pair(first, second) : 0;
        }
      }
    }
  }
}

MXReturnValue grouped_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                              const OpResource&) {
  const Geometry g(attributes, inputs->at(kData), outputs->at(0).shape[1]);
  const float* x = floats(inputs, kData);
  const float* bias = has_bias(attributes) ? floats(inputs, kBias) : nullptr;
  float* y = floats(outputs, 0);
  const int64_t together = g.together(), plane = g.plane(), phases = g.phases();
  const int64_t in_pairs = pairs_of(g.in_channels), depth = in_pairs * kTaps;
  const int64_t packed_size = round_up(g.out_channels, kRows) * depth;
  Pair* packed = pair_scratch<3>(g.groups * packed_size);
  for (int64_t group = 0; group < g.groups; ++group) {
    const float* weight = floats(inputs, kWeight) + group * g.weights();
    pack_for_output(g, weight, packed + group * packed_size);
  }
  std::vector<int64_t> offsets;
  for (int64_t c = 0; c < in_pairs; ++c) {
    for (int tap = 0; tap < kTaps; ++tap) {
      offsets.push_back((c * phases + g.phase(tap)) * plane + g.tap_distance(tap));
    }
  }
  const int64_t batches = (g.batch + together - 1) / together;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t batch = 0; batch < batches; ++batch) {
    for (int64_t group = 0; group < g.groups; ++group) {
      const int64_t first = batch * together, images = std::min(together, g.batch - first);
      Half* planes = half_scratch<0>(g.in_channels * phases * plane);
      Pair* pairs = pair_scratch<1>(in_pairs * phases * plane);
      float* out = scratch<2>(kRows * plane);
      load_inputs(g, x, group, first, images, planes);
      zip_channels(planes, g.in_channels, phases * plane, pairs);
      for (int64_t block = 0; block < g.out_channels; block += kRows) {
        sum_shifted(offsets, packed + group * packed_size + block * depth, pairs,
                    g.positions(images), out, plane);
        for (int64_t r = 0; r < std::min<int64_t>(kRows, g.out_channels - block); ++r) {
          const float add = bias ? bias[group * g.out_channels + block + r] : 0.f;
          for (int64_t i = 0; i < images; ++i) {
            float* to = y + g.out_start(first + i, group, block + r);
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

// ------------------------------------------------------------------------ gradient of the input

// The taps that lead to one phase of the input, and for each pair of output channels and such tap
// where the gradients lie that it multiplies.
struct PhaseTaps {
  std::vector<int> taps;
  std::vector<int64_t> offsets;

  PhaseTaps(const Geometry& g, int64_t phase) {
    for (int tap = 0; tap < kTaps; ++tap) {
      if (g.phase(tap) == phase) taps.push_back(tap);
    }
    const int64_t last = g.stride == 1 ? 2 : 1;
    for (int64_t o = 0; o < pairs_of(g.out_channels); ++o) {
      for (const int tap : taps) {
        const int64_t row = last - tap / 3 / g.stride, column = last - tap % 3 / g.stride;
        offsets.push_back(o * g.plane() + row * g.pitch + column);
      }
    }
  }
};

// Weights of a group as (blocks of input channels, phases, pairs of output channels, taps of the
// phase, kRows).
void pack_for_input(const Geometry& g, const std::vector<PhaseTaps>& phases, const float* weight,
                    Pair* packed) {
  const int64_t filter = g.in_channels * kTaps;
  for (int64_t block = 0; block < g.in_channels; block += kRows) {
    for (const PhaseTaps& phase : phases) {
      for (int64_t o = 0; o < g.out_channels; o += 2) {
        for (const int tap : phase.taps) {
          for (int64_t c = block; c < block + kRows; ++c) {
            const float* first = weight + o * filter + c * kTaps + tap;
            const float* second = o + 1 < g.out_channels ? first + filter : nullptr;
            *packed++ = c < g.in_channels ? weight_pair(first, second) : 0;
          }
        }
      }
    }
  }
}

// A channel of the gradient, from the computed rows of all its phases to the picture.
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

// dx of one group and images first..first+images-1, from planes of pairs of gradients.
void data_gradient(const Geometry& g, const std::vector<PhaseTaps>& phases, const Pair* packed,
                   const Pair* gradients, int64_t group, int64_t first, int64_t images, float* dx) {
  const int64_t phase_size = kRows * g.plane();
  float* out = scratch<4>(g.phases() * phase_size);
  for (int64_t block = 0; block < g.in_channels; block += kRows) {
    for (int64_t phase = 0; phase < g.phases(); ++phase) {
      const std::vector<int64_t>& offsets = phases[phase].offsets;
      sum_shifted(offsets, packed, gradients, g.positions(images), out + phase * phase_size,
                  g.plane());
      packed += offsets.size() * kRows;
    }
    for (int64_t r = 0; r < std::min<int64_t>(kRows, g.in_channels - block); ++r) {
      for (int64_t i = 0; i < images; ++i) {
        store_input(g, out + r * g.plane() + i * g.rows * g.pitch, phase_size,
                    dx + g.in_start(first + i, group, block + r));
      }
    }
  }
}

// ---------------------------------------------------------------------- gradient of the weights

// sums (kRows, 3, kLanes) += products of kRows rows of gradients with three rows of inputs.
inline void correlate(int64_t positions, const Half* gradients, int64_t pitch,
                      const Half* const inputs[3], float* sums) {
  Vec block[kRows][3];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < 3; ++t) block[r][t] = load(sums + (r * 3 + t) * kLanes);
  }
  for (int64_t at = 0; at < positions; at += 2 * kLanes) {
    Pairs columns[3];
    for (int t = 0; t < 3; ++t) columns[t] = load_pairs(inputs[t] + at);
    for (int r = 0; r < kRows; ++r) {
      const Pairs gradient = load_pairs(gradients + r * pitch + at);
      for (int t = 0; t < 3; ++t) block[r][t] = add_pair(gradient, columns[t], block[r][t]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < 3; ++t) store(sums + (r * 3 + t) * kLanes, block[r][t]);
  }
}

// sums of one group (blocks, in_channels * 3, kRows, 3, kLanes) += one plane of images.
void add_weight_gradient(const Geometry& g, const Half* planes, const Half* gradients,
                         int64_t images, float* sums) {
  constexpr int64_t kChunk = 64 * kLanes;     // positions at a time: their rows fit the first cache
  const int64_t triples = g.in_channels * 3;  // a channel and a row of taps
  const int64_t plane = g.plane();
  const Half* origin = gradients + g.pitch + 1;
  const int64_t positions = round_up(g.positions(images) - g.pitch - 1, 2 * kLanes);
  for (int64_t at = 0; at < positions; at += kChunk) {
    const int64_t count = std::min(kChunk, positions - at);
    float* sum = sums;
    for (int64_t o = 0; o < g.out_channels; o += kRows) {
      for (int64_t triple = 0; triple < triples; ++triple, sum += kRows * 3 * kLanes) {
        const Half* inputs[3];
        for (int t = 0; t < 3; ++t) {
          const int tap = triple % 3 * 3 + t;
          const Half* channel = planes + (triple / 3 * g.phases() + g.phase(tap)) * plane;
          inputs[t] = channel + g.tap_distance(tap) + at;
        }
        correlate(count, origin + o * plane + at, plane, inputs, sum);
      }
    }
  }
}

// dweight (out_channels, in_channels, kTaps) of one group: the sums over the lanes.
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
  const bool wanted = input_gradient_wanted(attributes, inputs->at(1 + kData), dx);
  const int64_t together = g.together(), plane = g.plane(), size = g.weights();
  const int64_t in_rows = round_up(g.in_channels, kRows),
                out_rows = round_up(g.out_channels, kRows);
  const int64_t out_pairs = pairs_of(g.out_channels);
  std::vector<PhaseTaps> phases;
  for (int64_t phase = 0; phase < g.phases(); ++phase) phases.emplace_back(g, phase);
  const int64_t slices = batch_slices(g.batch, g.groups);
  float* slice_sums = scratch<0>(slices * g.groups * size);
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t slice = 0; slice < slices; ++slice) {
    for (int64_t group = 0; group < g.groups; ++group) {
      Pair* packed = pair_scratch<1>(in_rows * out_pairs * kTaps);
      Half* planes = half_scratch<2>(g.in_channels * g.phases() * plane);
      Half* gradients = half_scratch<3>(out_rows * plane);
      Pair* gradient_pairs = pair_scratch<6>(out_pairs * plane);
      const int64_t sums_size = out_rows * g.in_channels * kTaps * kLanes;
      float* sums = scratch<5>(sums_size);
      std::fill(sums, sums + sums_size, 0.f);
      pack_for_input(g, phases, weight + group * size, packed);
      const int64_t end = (slice + 1) * g.batch / slices;
      for (int64_t first = slice * g.batch / slices; first < end; first += together) {
        const int64_t images = std::min(together, end - first);
        load_inputs(g, x, group, first, images, planes);
        load_gradients(g, dy, group, first, images, gradients);
        add_weight_gradient(g, planes, gradients, images, sums);
        if (!wanted) continue;
        zip_channels(gradients, g.out_channels, plane, gradient_pairs);
        data_gradient(g, phases, packed, gradient_pairs, group, first, images, dx);
      }
      finish_weight_gradient(g, sums, slice_sums + (slice * g.groups + group) * size);
    }
  }
  for (int64_t i = 0; i < g.groups * size; ++i) {
    dweight[i] = sum_of_slices(slice_sums + i, slices, g.groups * size);
  }
  if (has_bias(attributes)) sum_channels(Layout(inputs->at(0)), dy, floats(outputs, kBias));
  return MX_SUCCESS;
}

}  // namespace

REGISTER_OP(vg_grouped_bf16)
    .setForward(grouped_forward, "cpu")
    .setBackward(grouped_backward, "cpu")
    .setParseAttrs(grouped_arity)
    .setInferType(float32_only)
    .setInferShape(grouped_shape);

}  // namespace vargfacenet
