// 3x3 convolutions over a few channels a group, on plain (N, C, H, W) arrays.
//
// A vector holds one position of kLanes output channels: the weights of a tap are a vector, what
// they multiply is one number, read in a plane where a ring of zeros is around the picture. So
// every stride goes without gathering, every position that is computed is one of the output, and
// a few neighbours in a row (a run) fill the registers with sums. Outputs are transposed on their
// way into the picture. The gradient of the input goes the same way, with the channels changed.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "channels.h"
#include "conv.h"
#include "product.h"
#include "simd.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

// ---------------------------------------------------------------------------------- geometry

int64_t vectors_of(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

// The size of a picture, and of the plane in which a ring of zeros is around it.
struct Frame {
  int64_t height, width;

  int64_t positions() const { return height * width; }
  int64_t pitch() const { return width + 2; }
  int64_t plane() const { return (height + 2) * pitch(); }
};

// Planes of `channels` pictures that lie one after the other; the ring is there already.
void load_planes(const Frame& frame, const float* pictures, int64_t channels, float* planes) {
  for (int64_t c = 0; c < channels; ++c, planes += frame.plane()) {
    for (int64_t y = 0; y < frame.height; ++y, pictures += frame.width) {
      copy_row(pictures, frame.width, planes + (y + 1) * frame.pitch() + 1);
    }
  }
}

struct Geometry {
  int64_t batch, groups, stride;
  int64_t in_channels, out_channels;  // of one group
  Frame in, out;

  Geometry(const Attributes& attributes, const MXTensor& data, int64_t filters)
      : batch(data.shape[0]),
        groups(whole(attributes, "num_group")),
        stride(whole(attributes, "stride")),
        in_channels(data.shape[1] / groups),
        out_channels(filters / groups),
        in{data.shape[2], data.shape[3]},
        out{(in.height - 1) / stride + 1, (in.width - 1) / stride + 1} {}

  int64_t in_start(int64_t image, int64_t group) const {
    return (image * groups + group) * in_channels * in.positions();
  }
  int64_t out_start(int64_t image, int64_t group) const {
    return (image * groups + group) * out_channels * out.positions();
  }
  int64_t weights() const { return out_channels * in_channels * kTaps; }  // of one group
};

// -------------------------------------------------------------------------------- sum of taps

// How many sums fill the registers. Two vectors of channels share what they are multiplied with,
// at any kPlaces positions; one vector alone wants more positions, and as they would want too many
// pointers, runs of neighbours in a row. The pictures' widths are mostly multiples of kNeighbours.
constexpr int kPlaces = 6, kNeighbours = 7, kRuns = kLanes == 16 ? 4 : 2;
constexpr int64_t kBeyond = 2 * kNeighbours + 2;  // floats that a run may read behind a plane

// Neighbours in a row of outputs: where the first reads its first tap in a plane, where its vector
// goes, in floats.
struct Run {
  int64_t in, out, count;
};

// Outputs that sum over the same taps; tap k reads `offsets[k]` behind where its output reads.
struct Sweep {
  int64_t vectors;            // of channels
  int64_t in_step, out_step;  // from one output of a run to the next
  std::vector<int64_t> offsets;
  std::vector<Run> runs;

  Sweep(int64_t channels, int64_t in_step, int64_t out_step)
      : vectors(vectors_of(channels)), in_step(in_step), out_step(out_step) {}
  int64_t depth() const { return static_cast<int64_t>(offsets.size()); }
  void add_row(int64_t count, int64_t in, int64_t out) {
    const int64_t length = vectors == 1 ? kNeighbours : 1;
    for (int64_t i = 0; i < count; i += length) {
      runs.push_back({in + i * in_step, out + i * out_step, std::min(length, count - i)});
    }
  }
};

// y from planes of x, taps in the order of a filter's weights.
Sweep forward_sweep(const Geometry& g) {
  Sweep sweep(g.out_channels, g.stride, kLanes);
  for (int64_t k = 0; k < g.in_channels * kTaps; ++k) {
    const int64_t tap = k % kTaps;
    sweep.offsets.push_back(k / kTaps * g.in.plane() + tap / 3 * g.in.pitch() + tap % 3);
  }
  for (int64_t row = 0; row < g.out.height; ++row) {
    sweep.add_row(g.out.width, row * g.stride * g.in.pitch(), row * g.out.width * kLanes);
  }
  return sweep;
}

// dx from planes of dy, at rows and columns of one phase: row, row + stride ... Only every
// stride-th tap leads to them.
struct Phase {
  std::vector<int64_t> taps;
  Sweep sweep;

  Phase(const Geometry& g, int64_t row, int64_t column)
      : sweep(g.in_channels, 1, g.stride * kLanes) {
    const auto leads = [&](int64_t at, int64_t tap) { return (at + 1 - tap) % g.stride == 0; };
    const auto offset = [&](int64_t at, int64_t tap) { return 1 + (at + 1 - tap) / g.stride; };
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      if (leads(row, tap / 3) && leads(column, tap % 3)) taps.push_back(tap);
    }
    for (int64_t o = 0; o < g.out_channels; ++o) {
      for (const int64_t tap : taps) {
        sweep.offsets.push_back(o * g.out.plane() + offset(row, tap / 3) * g.out.pitch() +
                                offset(column, tap % 3));
      }
    }
    const int64_t columns = (g.in.width - column + g.stride - 1) / g.stride;
    for (int64_t y = row; y < g.in.height; y += g.stride) {
      sweep.add_row(columns, y / g.stride * g.out.pitch(), (y * g.in.width + column) * kLanes);
    }
  }
};

std::vector<Phase> phases_of(const Geometry& g) {
  std::vector<Phase> phases;
  for (int64_t row = 0; row < g.stride; ++row) {
    for (int64_t column = 0; column < g.stride; ++column) phases.emplace_back(g, row, column);
  }
  return phases;
}

// What a sum of taps reads and writes, from a vector of channels on: weights (vectors, depth,
// kLanes), bias (vectors, kLanes), out with `pitch` floats of each vector.
struct Operands {
  const float *planes, *weights, *bias;
  float* out;
  int64_t pitch;
};

template <int kVectors, int kStep, int kCount, int kLength>
void sum_runs(const Sweep& sweep, const Run* runs, const Operands& at) {
  const int64_t depth = sweep.depth();
  const int64_t* offsets = sweep.offsets.data();
  const float* from[kCount];
  for (int r = 0; r < kCount; ++r) from[r] = at.planes + runs[r].in;
  Vec sums[kVectors][kCount][kLength];
  for (int v = 0; v < kVectors; ++v) {
    const Vec bias = load(at.bias + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < kLength; ++i) sums[v][r][i] = bias;
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec weights[kVectors];
    for (int v = 0; v < kVectors; ++v) weights[v] = load(at.weights + (v * depth + k) * kLanes);
    const int64_t offset = offsets[k];
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < kLength; ++i) {
        const Vec value = splat(from[r][offset + i * kStep]);
        for (int v = 0; v < kVectors; ++v) {
          sums[v][r][i] = multiply_add(weights[v], value, sums[v][r][i]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < kLength; ++i) {
      if (kLength > 1 && i >= runs[r].count) continue;
      for (int v = 0; v < kVectors; ++v) {
        store(at.out + v * at.pitch + runs[r].out + i * sweep.out_step, sums[v][r][i]);
      }
    }
  }
}

template <int kVectors>
void sum_places(const Sweep& sweep, const Operands& at) {
  const int64_t count = static_cast<int64_t>(sweep.runs.size());
  const Run* runs = sweep.runs.data();
  if (count < kPlaces) {
    for (int64_t i = 0; i < count; ++i) sum_runs<kVectors, 1, 1, 1>(sweep, runs + i, at);
    return;
  }
  for (int64_t i = 0; i < count; i += kPlaces) {  // the last ones overlap
    sum_runs<kVectors, 1, kPlaces, 1>(sweep, runs + std::min(i, count - kPlaces), at);
  }
}

template <int kStep>
void sum_neighbours(const Sweep& sweep, const Operands& at) {
  const int64_t count = static_cast<int64_t>(sweep.runs.size());
  const Run* runs = sweep.runs.data();
  int64_t i = 0;
  for (; i + kRuns <= count; i += kRuns) {
    sum_runs<1, kStep, kRuns, kNeighbours>(sweep, runs + i, at);
  }
  for (; i < count; ++i) sum_runs<1, kStep, 1, kNeighbours>(sweep, runs + i, at);
}

// For all vectors of channels.
void sum_taps(const Sweep& sweep, Operands at) {
  if (sweep.vectors == 1) {
    (sweep.in_step == 1 ? sum_neighbours<1> : sum_neighbours<2>)(sweep, at);
    return;
  }
  for (int64_t v = 0; v < sweep.vectors; v += 2) {
    (v + 1 < sweep.vectors ? sum_places<2> : sum_places<1>)(sweep, at);
    at.weights += 2 * sweep.depth() * kLanes;
    at.bias += 2 * kLanes;
    at.out += 2 * at.pitch;
  }
}

// `channels` pictures that lie one after the other, from vectors (vectors, positions, kLanes).
void store_pictures(const float* vectors, int64_t positions, int64_t channels, float* pictures) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    store_channels(vectors + c * positions, positions, std::min<int64_t>(kLanes, channels - c),
                   pictures + c * positions);
  }
}

// ------------------------------------------------------------------------------------ forward

MXReturnValue grouped_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                              const OpResource&) {
  const Geometry g(attributes, inputs->at(kData), outputs->at(0).shape[1]);
  const float* x = floats(inputs, kData);
  const float* bias = has_bias(attributes) ? floats(inputs, kBias) : nullptr;
  float* y = floats(outputs, 0);
  const Sweep sweep = forward_sweep(g);
  const int64_t depth = sweep.depth(), packed_size = sweep.vectors * kLanes * depth;
  float* packed = scratch<3>(g.groups * packed_size);
  for (int64_t group = 0; group < g.groups; ++group) {
    pack_rows<kLanes>(floats(inputs, kWeight) + group * g.weights(), g.out_channels, depth, depth,
                      1, packed + group * packed_size);
  }
  const int64_t padded = sweep.vectors * kLanes, pitch = g.out.positions() * kLanes;
  float* starts = zeros(scratch<4>(g.groups * padded), g.groups * padded);
  for (int64_t o = 0; bias && o < g.groups * g.out_channels; ++o) {
    starts[o / g.out_channels * padded + o % g.out_channels] = bias[o];
  }
#pragma omp parallel
  {
    const int64_t size = g.in_channels * g.in.plane() + kBeyond;
    float* planes = zeros(scratch<0>(size), size);
    float* out = scratch<1>(sweep.vectors * pitch);
#pragma omp for collapse(2) schedule(static)
    for (int64_t image = 0; image < g.batch; ++image) {
      for (int64_t group = 0; group < g.groups; ++group) {
        load_planes(g.in, x + g.in_start(image, group), g.in_channels, planes);
        sum_taps(sweep,
                 {planes, packed + group * packed_size, starts + group * padded, out, pitch});
        store_pictures(out, g.out.positions(), g.out_channels, y + g.out_start(image, group));
      }
    }
  }
  return MX_SUCCESS;
}

// ----------------------------------------------------------------------------------- backward

// What the gradient of the input needs of a group's weights: for each phase (vectors of input
// channels, out_channels, taps of the phase, kLanes).
void pack_for_input(const Geometry& g, const std::vector<Phase>& phases, const float* weight,
                    float* packed) {
  for (const Phase& phase : phases) {
    for (int64_t c = 0; c < g.in_channels; c += kLanes) {
      for (int64_t o = 0; o < g.out_channels; ++o) {
        const float* kernels = weight + (o * g.in_channels + c) * kTaps;
        for (const int64_t tap : phase.taps) {
          for (int64_t l = 0; l < kLanes; ++l) {
            *packed++ = c + l < g.in_channels ? kernels[l * kTaps + tap] : 0.f;
          }
        }
      }
    }
  }
}

constexpr int kTriples = kLanes == 16 ? 4 : 2;  // rows of taps at a time

// Rows of the output whose gradients have been turned into vectors (vectors, rows, width, kLanes).
struct Band {
  int64_t rows, width;
  const float* vectors;

  int64_t pitch() const { return rows * width * kLanes; }
};

// sums (kVectors, kCount, 3, kLanes) of the vectors, `sum_pitch` floats apart, += products of their
// gradients with what kCount rows of taps multiplied.
template <int kVectors, int kStride, int kCount>
void correlate(const Band& band, const float* const taps[kCount], int64_t tap_pitch, float* sums,
               int64_t sum_pitch) {
  const float* gradients = band.vectors;
  const int64_t pitch = band.pitch();
  Vec block[kVectors][kCount][3] = {};
  for (int64_t y = 0; y < band.rows; ++y) {
    const float* from[kCount];
    for (int r = 0; r < kCount; ++r) from[r] = taps[r] + y * kStride * tap_pitch;
    for (int64_t x = 0; x < band.width; ++x, gradients += kLanes) {
      Vec gradient[kVectors];
      for (int v = 0; v < kVectors; ++v) gradient[v] = load(gradients + v * pitch);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        for (int t = 0; t < 3; ++t) {
          const Vec value = splat(from[r][x * kStride + t]);
          for (int v = 0; v < kVectors; ++v) {
            block[v][r][t] = multiply_add(gradient[v], value, block[v][r][t]);
          }
        }
      }
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    for (int r = 0; r < kCount; ++r) {
      for (int t = 0; t < 3; ++t) {
        float* sum = sums + v * sum_pitch + (r * 3 + t) * kLanes;
        store(sum, load(sum) + block[v][r][t]);
      }
    }
  }
}

// All taps of all input channels; `planes` begin with the first row that the band reads.
template <int kVectors, int kStride>
void correlate_all(const Geometry& g, const Band& band, const float* planes, float* sums) {
  const int64_t triples = g.in_channels * 3, pitch = g.in.pitch();  // a channel and a row of taps
  for (int64_t i = 0; i < triples;) {
    const float* taps[kTriples];
    const int64_t count = triples - i < kTriples ? 1 : kTriples;
    for (int64_t r = 0; r < count; ++r) {
      taps[r] = planes + (i + r) / 3 * g.in.plane() + (i + r) % 3 * pitch;
    }
    (count == 1 ? correlate<kVectors, kStride, 1> : correlate<kVectors, kStride, kTriples>)(
        band, taps, pitch, sums + i * 3 * kLanes, triples * 3 * kLanes);
    i += count;
  }
}

// Rows of a band: those whose vectors, two of channels at a time, stay in the second cache.
int64_t band_rows(const Frame& out) {
  constexpr int64_t kPositions = 1024;
  return std::max<int64_t>(1, std::min(out.height, kPositions / out.width));
}

// sums (vectors of output channels, in_channels, kTaps, kLanes) += those of one image and group;
// `vectors` is where a band goes.
void weight_gradient(const Geometry& g, const float* planes, const float* dy, float* vectors,
                     float* sums) {
  for (int64_t row = 0; row < g.out.height; row += band_rows(g.out)) {
    const Band band{std::min(band_rows(g.out), g.out.height - row), g.out.width, vectors};
    const float* inputs = planes + row * g.stride * g.in.pitch();
    for (int64_t o = 0; o < g.out_channels; o += 2 * kLanes) {
      const int64_t end = std::min(g.out_channels, o + 2 * kLanes);
      for (int64_t c = o; c < end; c += kLanes) {
        float* first = c == o ? vectors : vectors + band.pitch();
        load_channels(dy + c * g.out.positions() + row * g.out.width, g.out.positions(),
                      band.rows * g.out.width, std::min<int64_t>(kLanes, end - c),
                      [&](int64_t i) { return first + i * kLanes; });
      }
      const bool two = end - o > kLanes;
      const auto all = g.stride == 1 ? (two ? correlate_all<2, 1> : correlate_all<1, 1>)
                                     : (two ? correlate_all<2, 2> : correlate_all<1, 2>);
      all(g, band, inputs, sums + o * g.in_channels * kTaps);
    }
  }
}

// Gradient of the input of one image and group, from planes of the output's gradient; `vectors`
// (vectors, positions, kLanes) is where it is summed.
void input_gradient(const Geometry& g, const std::vector<Phase>& phases, const float* planes,
                    const float* weights, const float* zero, float* vectors, float* dx) {
  for (const Phase& phase : phases) {
    sum_taps(phase.sweep, {planes, weights, zero, vectors, g.in.positions() * kLanes});
    weights += phase.sweep.vectors * phase.sweep.depth() * kLanes;
  }
  store_pictures(vectors, g.in.positions(), g.in_channels, dx);
}

MXReturnValue grouped_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                               const OpResource&) {
  const Geometry g(attributes, inputs->at(1 + kData), inputs->at(0).shape[1]);
  const float* dy = floats(inputs, 0);
  const float* x = floats(inputs, 1 + kData);
  float* dx = floats(outputs, kData);
  const bool wanted = input_gradient_wanted(attributes, inputs->at(1 + kData), dx);
  const std::vector<Phase> phases = phases_of(g);
  const int64_t packed_size = vectors_of(g.in_channels) * kLanes * g.out_channels * kTaps;
  float* packed = scratch<3>(g.groups * packed_size);
  for (int64_t group = 0; group < g.groups; ++group) {
    pack_for_input(g, phases, floats(inputs, 1 + kWeight) + group * g.weights(),
                   packed + group * packed_size);
  }
  const int64_t slices = batch_slices(g.batch, g.groups);
  const int64_t sums_size = vectors_of(g.out_channels) * kLanes * g.in_channels * kTaps;
  float* sums = zeros(scratch<4>(slices * g.groups * sums_size), slices * g.groups * sums_size);
#pragma omp parallel
  {
    const int64_t in_size = g.in_channels * g.in.plane() + kBeyond;
    const int64_t out_size = g.out_channels * g.out.plane() + kBeyond;
    float* planes = zeros(scratch<0>(in_size), in_size);
    float* gradient_planes = zeros(scratch<1>(out_size), out_size);
    const int64_t padded = vectors_of(g.in_channels) * kLanes;
    const float* zero = zeros(scratch<5>(padded), padded);
    float* vectors = scratch<2>(
        std::max(padded * g.in.positions(), 2 * kLanes * band_rows(g.out) * g.out.width));
#pragma omp for collapse(2) schedule(static)
    for (int64_t slice = 0; slice < slices; ++slice) {
      for (int64_t group = 0; group < g.groups; ++group) {
        float* sum = sums + (slice * g.groups + group) * sums_size;
        const int64_t end = (slice + 1) * g.batch / slices;
        for (int64_t image = slice * g.batch / slices; image < end; ++image) {
          const float* gradient = dy + g.out_start(image, group);
          const int64_t start = g.in_start(image, group);
          load_planes(g.in, x + start, g.in_channels, planes);
          weight_gradient(g, planes, gradient, vectors, sum);
          if (!wanted) continue;
          load_planes(g.out, gradient, g.out_channels, gradient_planes);
          input_gradient(g, phases, gradient_planes, packed + group * packed_size, zero, vectors,
                         dx + start);
        }
      }
    }
  }
  float* dweight = floats(outputs, kWeight);
  const int64_t kernels = g.in_channels * kTaps;
  for (int64_t group = 0; group < g.groups; ++group) {
    for (int64_t o = 0; o < g.out_channels; ++o) {
      for (int64_t k = 0; k < kernels; ++k) {
        const float* sum = sums + group * sums_size + (o / kLanes * kernels + k) * kLanes;
        *dweight++ = sum_of_slices(sum + o % kLanes, slices, g.groups * sums_size);
      }
    }
  }
  if (has_bias(attributes)) sum_channels(Layout(inputs->at(0)), dy, floats(outputs, kBias));
  return MX_SUCCESS;
}

}  // namespace

REGISTER_OP(vg_grouped)
    .setForward(grouped_forward, "cpu")
    .setBackward(grouped_backward, "cpu")
    .setParseAttrs(grouped_arity)
    .setInferType(float32_only)
    .setInferShape(grouped_shape);

}  // namespace vargfacenet
