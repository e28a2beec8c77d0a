// 3x3 convolutions over a few channels a group, on plain (N, C, H, W) arrays and on arrays of pairs
// (storage.h).
//
// A vector holds one position of kLanes output channels: the weights of a tap are a vector, what
// they multiply is one number, read in a plane where a ring of zeros is around the picture. So
// every position that is computed is one of the output, and a few neighbours in a row (a run) fill
// the registers with sums. Half as many channels leave room for two neighbours in a vector.
// Outputs are transposed on their way into the picture. The gradient of the input goes the same
// way, with the channels changed.
//
// Elements of a plane are numbers, or pairs along what a product sums over. For outputs and the
// gradient of the input these are channels, which lie in pairs already; for the gradient of the
// weights they are the same position of two images.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "channels.h"
#include "conv.h"
#include "product.h"
#include "simd.h"
#include "storage.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

// ---------------------------------------------------------------------------------- geometry

int64_t vectors_of(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

// The size of a picture, and of the plane in which a ring of zeros is around it. A row that is read
// with a stride of 2 has its columns 0, 2 ... first and 1, 3 ... behind them, so that neighbours of
// the output read neighbours.
struct Frame {
  int64_t height, width;
  bool split = false;

  int64_t positions() const { return height * width; }
  int64_t half() const { return (width + 3) / 2; }
  int64_t pitch() const { return split ? 2 * half() : width + 2; }
  int64_t plane() const { return (height + 2) * pitch(); }
  int64_t column(int64_t at) const { return split ? at % 2 * half() + at / 2 : at; }
};

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
        in{data.shape[2], data.shape[3], stride == 2},
        out{(in.height - 1) / stride + 1, (in.width - 1) / stride + 1} {}

  // Numbers before those of an image and group.
  int64_t in_start(int64_t image, int64_t group) const {
    return (image * groups + group) * in_channels * in.positions();
  }
  int64_t out_start(int64_t image, int64_t group) const {
    return (image * groups + group) * out_channels * out.positions();
  }
  int64_t weights() const { return out_channels * in_channels * kTaps; }  // of one group
};

// -------------------------------------------------------------------------------------- planes

// A row of a plane from read(start, lanes), the ring is there already.
template <typename Element, typename Read>
inline void fill_row(const Frame& frame, Read read, Element* row) {
  if (!frame.split) {
    for_vectors(frame.width,
                [&](int64_t i, int64_t lanes) { store_first(row + 1 + i, read(i, lanes), lanes); });
    return;
  }
  Indices second;
  for (int i = 0; i < kLanes; ++i) second[i] = 2 * i;
  for (int64_t i = 0; i < frame.width; i += 2 * kLanes) {
    const int64_t rest = std::min<int64_t>(2 * kLanes, frame.width - i);
    const Vec low = (Vec)read(i, std::min<int64_t>(kLanes, rest));
    const Vec high = rest > kLanes ? (Vec)read(i + kLanes, rest - kLanes) : Vec{};
    float* to = reinterpret_cast<float*>(row);
    store_first(to + frame.half() + i / 2, shuffle(low, high, second), (rest + 1) / 2);
    store_first(to + 1 + i / 2, shuffle(low, high, second + 1), rest / 2);
  }
}

// A plane from the pictures whose rows read(position, lanes) sees as one long row.
template <typename Element, typename Read>
inline void fill_plane(const Frame& frame, Read read, Element* plane) {
  for (int64_t y = 0; y < frame.height; ++y) {
    fill_row(
        frame, [&](int64_t i, int64_t lanes) { return read(y * frame.width + i, lanes); },
        plane + (y + 1) * frame.pitch());
  }
}

// Planes of `channels` pictures that lie one after the other, for products over channels.
template <typename Element>
void load_channel_planes(const Frame& frame, const Element* pictures, int64_t channels,
                         Element* planes) {
  const int64_t rows = std::is_same<Element, float>::value ? channels : channels / 2;
  for (int64_t c = 0; c < rows; ++c) {
    const Element* picture = pictures + c * frame.positions();
    fill_plane(
        frame, [&](int64_t i, int64_t lanes) { return load_first(picture + i, lanes); },
        planes + c * frame.plane());
  }
}
void load_channel_planes(const Frame& frame, const float* pictures, int64_t channels,
                         Pair* planes) {
  for (int64_t c = 0; c < channels; c += 2) {
    const float* first = pictures + c * frame.positions();
    const float* second = c + 1 < channels ? first + frame.positions() : nullptr;
    fill_plane(
        frame,
        [&](int64_t i, int64_t lanes) {
          return round_to_pairs(load_first(first + i, lanes),
                                second ? load_first(second + i, lanes) : Vec{});
        },
        planes + c / 2 * frame.plane());
  }
}

// Planes of `channels` pictures, for sums over positions: of one image, or of two, the second
// `image` elements behind the first or, where that is 0, zeros.
void load_image_planes(const Frame& frame, const float* pictures, int64_t, int64_t channels,
                       float* planes) {
  load_channel_planes(frame, pictures, channels, planes);
}
void load_image_planes(const Frame& frame, const float* pictures, int64_t image, int64_t channels,
                       Pair* planes) {
  for (int64_t c = 0; c < channels; ++c) {
    const float* picture = pictures + c * frame.positions();
    fill_plane(
        frame,
        [&](int64_t i, int64_t lanes) {
          return round_to_pairs(load_first(picture + i, lanes),
                                image ? load_first(picture + image + i, lanes) : Vec{});
        },
        planes + c * frame.plane());
  }
}
void load_image_planes(const Frame& frame, const Pair* pictures, int64_t image, int64_t channels,
                       Pair* planes) {
  for (int64_t c = 0; c < channels; ++c) {
    const Pair* picture = pictures + c / 2 * frame.positions();
    fill_plane(
        frame,
        [&](int64_t i, int64_t lanes) {
          const Pairs one = load_first(picture + i, lanes);
          const Pairs other = image ? load_first(picture + image + i, lanes) : Pairs{};
          return c % 2 ? seconds(one, other) : firsts(one, other);
        },
        planes + c * frame.plane());
  }
}

// -------------------------------------------------------------------------------- sum of taps

// How many sums fill the registers. Two vectors of channels share what they are multiplied with,
// at any kPlaces positions; one vector alone wants more positions, and as they would want too many
// pointers, runs of neighbours in a row: a few long ones or more short ones. The pictures' widths
// are mostly multiples of kLong.
constexpr int kPlaces = 6, kLong = 7, kShort = 4;
constexpr int kSums = kLanes == 16 ? 28 : 14;
constexpr int64_t kBeyond = 4 * kLong;  // elements that a run may read behind a plane

// Neighbours in a row of outputs: where the first reads its first tap in a plane, where its numbers
// go, how many positions.
struct Run {
  int64_t in, out, count;
};

// Outputs that sum over the same taps; tap k reads `offsets[k]` behind where its output reads.
struct Sweep {
  int64_t vectors;   // of channels
  int64_t shared;    // positions in a vector: 1, or 2 of half as many channels
  int64_t length;    // vectors of a run
  int64_t out_step;  // from one position of a run to the next, in numbers
  std::vector<int64_t> offsets;
  std::vector<Run> runs;

  // Of every `step`-th position in a row, `columns` of them.
  Sweep(int64_t channels, int64_t step, int64_t columns)
      : vectors(vectors_of(channels)),
        shared(channels <= kLanes / 2 ? 2 : 1),
        length(vectors > 1                            ? 1
               : shared == 2 && columns <= 2 * kShort ? kShort
                                                      : kLong),
        out_step(step * lanes()) {}
  int64_t depth() const { return static_cast<int64_t>(offsets.size()); }
  int64_t lanes() const { return kLanes / shared; }  // of a position
  void add_row(int64_t count, int64_t in, int64_t position) {
    const int64_t together = length * shared;
    for (int64_t i = 0; i < count; i += together) {
      runs.push_back({in + i, position * lanes() + i * out_step, std::min(together, count - i)});
    }
  }
  // Weights of `rows` elements of what is summed over, as (vectors, depth, kLanes). weight(channel,
  // row, tap) is an element; zeros behind the last channel.
  template <typename Element, typename Weight>
  void pack(int64_t channels, int64_t rows, const std::vector<int64_t>& taps, Weight weight,
            Element* packed) const {
    for (int64_t v = 0; v < vectors; ++v) {
      for (int64_t row = 0; row < rows; ++row) {
        for (const int64_t tap : taps) {
          for (int64_t lane = 0; lane < kLanes; ++lane) {
            const int64_t channel = shared == 2 ? lane / 2 : v * kLanes + lane;
            *packed++ = channel < channels ? weight(channel, row, tap) : Element{};
          }
        }
      }
    }
  }
};

std::vector<int64_t> all_taps() {
  std::vector<int64_t> taps(kTaps);
  for (int64_t tap = 0; tap < kTaps; ++tap) taps[tap] = tap;
  return taps;
}

// y from `rows` planes of x, taps in the order of a filter's weights.
Sweep forward_sweep(const Geometry& g, int64_t rows) {
  Sweep sweep(g.out_channels, 1, g.out.width);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      sweep.offsets.push_back(row * g.in.plane() + tap / 3 * g.in.pitch() + g.in.column(tap % 3));
    }
  }
  for (int64_t row = 0; row < g.out.height; ++row) {
    sweep.add_row(g.out.width, row * g.stride * g.in.pitch(), row * g.out.width);
  }
  return sweep;
}

// dx from `rows` planes of dy, at rows and columns of one phase: row, row + stride ... Only every
// stride-th tap leads to them.
struct Phase {
  std::vector<int64_t> taps;
  Sweep sweep;

  Phase(const Geometry& g, int64_t rows, int64_t row, int64_t column)
      : sweep(g.in_channels, g.stride, (g.in.width - column + g.stride - 1) / g.stride) {
    const auto leads = [&](int64_t at, int64_t tap) { return (at + 1 - tap) % g.stride == 0; };
    const auto offset = [&](int64_t at, int64_t tap) { return 1 + (at + 1 - tap) / g.stride; };
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      if (leads(row, tap / 3) && leads(column, tap % 3)) taps.push_back(tap);
    }
    for (int64_t o = 0; o < rows; ++o) {
      for (const int64_t tap : taps) {
        sweep.offsets.push_back(o * g.out.plane() + offset(row, tap / 3) * g.out.pitch() +
                                offset(column, tap % 3));
      }
    }
    const int64_t columns = (g.in.width - column + g.stride - 1) / g.stride;
    for (int64_t y = row; y < g.in.height; y += g.stride) {
      sweep.add_row(columns, y / g.stride * g.out.pitch(), y * g.in.width + column);
    }
  }
};

std::vector<Phase> phases_of(const Geometry& g, int64_t rows) {
  std::vector<Phase> phases;
  for (int64_t row = 0; row < g.stride; ++row) {
    for (int64_t column = 0; column < g.stride; ++column) phases.emplace_back(g, rows, row, column);
  }
  return phases;
}

// Two elements that follow each other, in every two lanes.
template <typename Element>
inline auto broadcast_two(const Element* from) {
  typedef uint64_t Wide __attribute__((vector_size(kLanes * sizeof(float))));
  uint64_t both;
  std::memcpy(&both, from, sizeof both);
  return (decltype(load(from)))(Wide{} + both);
}

// Numbers of a position's channels, as they go into the array.
inline void place(float* to, Vec value, int64_t count) { store_first(to, value, count); }
inline void place(Half* to, Vec value, int64_t count) { store_rounded(to, value, count); }

// Those of one position; or of two, which lie in every second lane, `step` from each other.
template <int kShared, typename Number>
inline void place_positions(Number* to, Vec value, int64_t positions, int64_t step) {
  constexpr int kHalf = kLanes / 2;
  if (kShared == 1) return place(to, value, kLanes);
  Indices apart;
  for (int i = 0; i < kLanes; ++i) apart[i] = i % kHalf * 2 + i / kHalf;
  value = shuffle(value, value, apart);
  if (positions >= 2 && step == kHalf) return place(to, value, kLanes);
  place(to, value, kHalf);
  Indices upper;
  for (int i = 0; i < kLanes; ++i) upper[i] = (i + kHalf) % kLanes;
  if (positions >= 2) place(to + step, shuffle(value, value, upper), kHalf);
}

// What a sum of taps reads and writes, from a vector of channels on: weights (vectors, depth,
// kLanes), bias (vectors, kLanes), out with `pitch` numbers of each vector.
template <typename Element, typename Number>
struct Operands {
  const Element *planes, *weights;
  const float* bias;
  Number* out;
  int64_t pitch;
};

template <int kVectors, int kShared, int kCount, int kLength, typename Element, typename Number>
void sum_runs(const Sweep& sweep, const Run* runs, const Operands<Element, Number>& at) {
  const int64_t depth = sweep.depth();
  const int64_t* offsets = sweep.offsets.data();
  const Element* from[kCount];
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
    decltype(load(at.weights)) weights[kVectors];
    for (int v = 0; v < kVectors; ++v) weights[v] = load(at.weights + (v * depth + k) * kLanes);
    const int64_t offset = offsets[k];
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < kLength; ++i) {
        const Element* one = from[r] + offset + i * kShared;
        const auto value = kShared == 1 ? broadcast(one) : broadcast_two(one);
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
      const int64_t left = runs[r].count - i * kShared;
      if (kLength > 1 && left <= 0) continue;
      for (int v = 0; v < kVectors; ++v) {
        Number* to = at.out + v * at.pitch + runs[r].out + i * kShared * sweep.out_step;
        place_positions<kShared>(to, sums[v][r][i], left, sweep.out_step);
      }
    }
  }
}

template <int kVectors, typename Element, typename Number>
void sum_places(const Sweep& sweep, const Operands<Element, Number>& at) {
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

template <int kShared, int kLength, typename Element, typename Number>
void sum_neighbours(const Sweep& sweep, const Operands<Element, Number>& at) {
  constexpr int kRuns = kSums / kLength;
  const int64_t count = static_cast<int64_t>(sweep.runs.size());
  const Run* runs = sweep.runs.data();
  int64_t i = 0;
  for (; i + kRuns <= count; i += kRuns) {
    sum_runs<1, kShared, kRuns, kLength>(sweep, runs + i, at);
  }
  for (; i < count; ++i) sum_runs<1, kShared, 1, kLength>(sweep, runs + i, at);
}

// For all vectors of channels.
template <typename Element, typename Number>
void sum_taps(const Sweep& sweep, Operands<Element, Number> at) {
  if (sweep.vectors == 1) {
    if (sweep.shared == 1) return sum_neighbours<1, kLong>(sweep, at);
    if (sweep.length == kLong) return sum_neighbours<2, kLong>(sweep, at);
    return sum_neighbours<2, kShort>(sweep, at);
  }
  for (int64_t v = 0; v < sweep.vectors; v += 2) {
    (v + 1 < sweep.vectors ? sum_places<2, Element, Number> : sum_places<1, Element, Number>)(sweep,
                                                                                              at);
    at.weights += 2 * sweep.depth() * kLanes;
    at.bias += 2 * kLanes;
    at.out += 2 * at.pitch;
  }
}

// --------------------------------------------------------------------------- back to pictures

// kDepth rows of `positions`, of which `rows` are wanted, from (positions, kDepth) elements that
// are moved as floats.
template <int kDepth>
void store_rows(const float* from, int64_t positions, int64_t rows, float* to) {
  const int64_t count = std::min<int64_t>(kLanes, positions);
  for (int64_t p = 0; p < positions; p += kLanes) {
    const int64_t at = std::min(p, positions - count);  // the last vectors overlap
    Vec block[kDepth];
#pragma GCC unroll 16
    for (int i = 0; i < kDepth; ++i) block[i] = load(from + at * kDepth + i * kLanes);
    rotate(block);
#pragma GCC unroll 16
    for (int i = 0; i < kDepth; ++i) {
      if (i < rows) store_first(to + i * positions + at, block[i], count);
    }
  }
}

// `channels` pictures that lie one after the other, from numbers (vectors, positions, lanes).
template <typename Number, typename Element>
void store_pictures(const Sweep& sweep, const Number* numbers, int64_t pitch, int64_t positions,
                    int64_t channels, Element* pictures) {
  constexpr int kWide = kLanes * sizeof(Number) / sizeof(Element);
  const int64_t rows = channels * sizeof(Number) / sizeof(Element);
  for (int64_t v = 0; v < sweep.vectors; ++v) {
    const auto* from = reinterpret_cast<const float*>(numbers + v * pitch);
    auto* to = reinterpret_cast<float*>(pictures + v * kWide * positions);
    (sweep.shared == 1 ? store_rows<kWide> : store_rows<kWide / 2>)(from, positions,
                                                                    rows - v * kWide, to);
  }
}

// What numbers of one channel are in an array.
template <typename Storage>
using NumberOf = std::conditional_t<Storage::kChannels == 1, float, Half>;

// Numbers that `store_pictures` may read behind (vectors, positions, lanes).
constexpr int64_t kSlack = kLanes * kLanes;

// ------------------------------------------------------------------------------------ forward

// An element of the weights along what is summed over: channel `row` or both of a pair, whose
// second may be missing, `step` floats apart.
template <typename Element>
inline Element weights_at(const float* weight, int64_t row, int64_t channels, int64_t step) {
  if constexpr (std::is_same<Element, float>::value) return weight[row * step];
  const float second = 2 * row + 1 < channels ? weight[(2 * row + 1) * step] : 0.f;
  return pair_of(weight[2 * row * step], second);
}

// `In` and `Out` are of x and y; products are of elements of y.
template <typename In, typename Out>
MXReturnValue grouped_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                              const OpResource&) {
  using Element = typename Out::Element;
  using Number = NumberOf<Out>;
  const Geometry g(attributes, inputs->at(kData), outputs->at(0).shape[1]);
  const auto* x = elements<In>(inputs, kData);
  const float* bias = has_bias(attributes) ? floats(inputs, kBias) : nullptr;
  auto* y = elements<Out>(outputs, 0);
  const int64_t rows = (g.in_channels + Out::kChannels - 1) / Out::kChannels;
  const Sweep sweep = forward_sweep(g, rows);
  const int64_t packed_size = sweep.vectors * kLanes * sweep.depth();
  Element* packed = scratch_of<Element, 3>(g.groups * packed_size);
  for (int64_t group = 0; group < g.groups; ++group) {
    const float* weight = floats(inputs, kWeight) + group * g.weights();
    const auto at = [&](int64_t channel, int64_t row, int64_t tap) {
      const float* kernels = weight + channel * g.in_channels * kTaps + tap;
      return weights_at<Element>(kernels, row, g.in_channels, kTaps);
    };
    sweep.pack(g.out_channels, rows, all_taps(), at, packed + group * packed_size);
  }
  const int64_t padded = sweep.vectors * kLanes, pitch = g.out.positions() * sweep.lanes();
  float* starts = zeros(scratch<4>(g.groups * padded), g.groups * padded);
  for (int64_t o = 0; bias && o < g.groups * g.out_channels; ++o) {
    float* start = starts + o / g.out_channels * padded + o % g.out_channels * sweep.shared;
    std::fill(start, start + sweep.shared, bias[o]);
  }
#pragma omp parallel
  {
    const int64_t size = rows * g.in.plane() + kBeyond;
    Element* planes = zeros(scratch_of<Element, 0>(size), size);
    Number* out = scratch_of<Number, 1>(sweep.vectors * pitch + kSlack);
#pragma omp for collapse(2) schedule(static)
    for (int64_t image = 0; image < g.batch; ++image) {
      for (int64_t group = 0; group < g.groups; ++group) {
        load_channel_planes(g.in, x + g.in_start(image, group) / In::kChannels, g.in_channels,
                            planes);
        sum_taps<Element, Number>(
            sweep, {planes, packed + group * packed_size, starts + group * padded, out, pitch});
        store_pictures(sweep, out, pitch, g.out.positions(), g.out_channels,
                       y + g.out_start(image, group) / Out::kChannels);
      }
    }
  }
  return MX_SUCCESS;
}

// ----------------------------------------------------------------------------------- backward

constexpr int kTriples = kLanes == 16 ? 4 : 2;  // rows of taps at a time

// Rows of the output whose gradients have been turned into vectors (vectors, rows, width, kLanes).
template <typename Element>
struct Band {
  int64_t rows, width;
  const Element* vectors;

  int64_t pitch() const { return rows * width * kLanes; }
};

// sums (kVectors, kCount, 3, kLanes) of the vectors, `sum_pitch` floats apart, += products of their
// gradients with what kCount rows of taps multiplied.
template <int kVectors, int kCount, typename Element>
void correlate(const Frame& in, int64_t stride, const Band<Element>& band,
               const Element* const taps[kCount], float* sums, int64_t sum_pitch) {
  const Element* gradients = band.vectors;
  const int64_t pitch = band.pitch();
  const int64_t columns[3] = {in.column(0), in.column(1), in.column(2)};
  Vec block[kVectors][kCount][3] = {};
  for (int64_t y = 0; y < band.rows; ++y) {
    const Element* from[kCount];
    for (int r = 0; r < kCount; ++r) from[r] = taps[r] + y * stride * in.pitch();
    for (int64_t x = 0; x < band.width; ++x, gradients += kLanes) {
      decltype(load(gradients)) gradient[kVectors];
      for (int v = 0; v < kVectors; ++v) gradient[v] = load(gradients + v * pitch);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        for (int t = 0; t < 3; ++t) {
          const auto value = broadcast(from[r] + x + columns[t]);
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
template <int kVectors, typename Element>
void correlate_all(const Geometry& g, const Band<Element>& band, const Element* planes,
                   float* sums) {
  const int64_t triples = g.in_channels * 3;  // a channel and a row of taps
  for (int64_t i = 0; i < triples;) {
    const Element* taps[kTriples];
    const int64_t count = triples - i < kTriples ? 1 : kTriples;
    for (int64_t r = 0; r < count; ++r) {
      taps[r] = planes + (i + r) / 3 * g.in.plane() + (i + r) % 3 * g.in.pitch();
    }
    (count == 1 ? correlate<kVectors, 1, Element>
                : correlate<kVectors, kTriples, Element>)(g.in, g.stride, band, taps,
                                                          sums + i * 3 * kLanes,
                                                          triples * 3 * kLanes);
    i += count;
  }
}

// Rows of a band: those whose vectors, two of channels at a time, stay in the second cache.
int64_t band_rows(const Frame& out) {
  constexpr int64_t kPositions = 1024;
  return std::max<int64_t>(1, std::min(out.height, kPositions / out.width));
}

// Vectors (count, kLanes) of `lanes` channels of the gradients that begin at `dy`: of one image, or
// of two, the second `image` elements behind the first or, where that is 0, zeros.
void load_vectors(const float* dy, int64_t, int64_t positions, int64_t count, int64_t lanes,
                  float* vectors) {
  load_channels(dy, positions, count, lanes, [&](int64_t i) { return vectors + i * kLanes; });
}
void load_vectors(const Pair* dy, int64_t image, int64_t positions, int64_t count, int64_t lanes,
                  Pair* vectors) {
  const int64_t together = std::min<int64_t>(kLanes, count);
  for (int64_t p = 0; p < count; p += kLanes) {
    const int64_t at = std::min(p, count - together);  // the last vectors overlap
    Vec rows[kLanes];
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; l += 2) {
      const Pair* from = dy + l / 2 * positions + at;
      const bool there = l < lanes;
      const Pairs one = there ? load_first(from, together) : Pairs{};
      const Pairs other = there && image ? load_first(from + image, together) : Pairs{};
      rows[l] = (Vec)firsts(one, other);
      rows[l + 1] = (Vec)seconds(one, other);
    }
    transpose(rows);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i < together) store(vectors + (at + i) * kLanes, (Pairs)rows[i]);
    }
  }
}

// sums (vectors of output channels, in_channels, kTaps, kLanes) += those of one element's images
// and of a group; `vectors` is where a band goes.
template <typename Element>
void weight_gradient(const Geometry& g, const Element* planes, const Element* dy, int64_t image,
                     Element* vectors, float* sums) {
  constexpr int64_t kChannels = std::is_same<Element, float>::value ? 1 : 2;
  const int64_t positions = g.out.positions();
  for (int64_t row = 0; row < g.out.height; row += band_rows(g.out)) {
    const int64_t rows = std::min(band_rows(g.out), g.out.height - row);
    const Band<Element> band{rows, g.out.width, vectors};
    const Element* inputs = planes + row * g.stride * g.in.pitch();
    for (int64_t o = 0; o < g.out_channels; o += 2 * kLanes) {
      const int64_t end = std::min(g.out_channels, o + 2 * kLanes);
      for (int64_t c = o; c < end; c += kLanes) {
        load_vectors(dy + c / kChannels * positions + row * g.out.width, image, positions,
                     rows * g.out.width, std::min<int64_t>(kLanes, end - c),
                     c == o ? vectors : vectors + band.pitch());
      }
      (end - o > kLanes
           ? correlate_all<2, Element>
           : correlate_all<1, Element>)(g, band, inputs, sums + o * g.in_channels * kTaps);
    }
  }
}

template <typename In, typename Out>
MXReturnValue grouped_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                               const OpResource&) {
  using Element = typename Out::Element;
  using Number = NumberOf<In>;
  constexpr int64_t kTogether = Out::kChannels;  // images of an element
  const Geometry g(attributes, inputs->at(1 + kData), inputs->at(0).shape[1]);
  const auto* dy = elements<Out>(inputs, 0);
  const auto* x = elements<In>(inputs, 1 + kData);
  auto* dx = elements<In>(outputs, kData);
  const bool wanted =
      input_gradient_wanted(attributes, inputs->at(1 + kData), floats(outputs, kData));
  const int64_t rows = (g.out_channels + Out::kChannels - 1) / Out::kChannels;
  const std::vector<Phase> phases = phases_of(g, rows);
  const Sweep& sweep = phases[0].sweep;  // all have the same vectors
  const int64_t packed_size = sweep.vectors * kLanes * rows * kTaps;
  Element* packed = scratch_of<Element, 3>(g.groups * packed_size);
  for (int64_t group = 0; wanted && group < g.groups; ++group) {
    const float* weight = floats(inputs, 1 + kWeight) + group * g.weights();
    const auto at = [&](int64_t channel, int64_t row, int64_t tap) {
      const float* kernels = weight + channel * kTaps + tap;
      return weights_at<Element>(kernels, row, g.out_channels, g.in_channels * kTaps);
    };
    Element* to = packed + group * packed_size;
    for (const Phase& phase : phases) {
      phase.sweep.pack(g.in_channels, rows, phase.taps, at, to);
      to += phase.sweep.vectors * kLanes * phase.sweep.depth();
    }
  }
  const int64_t pairs = (g.batch + kTogether - 1) / kTogether;
  const int64_t slices = batch_slices(pairs, g.groups);
  const int64_t sums_size = vectors_of(g.out_channels) * kLanes * g.in_channels * kTaps;
  float* sums = zeros(scratch<4>(slices * g.groups * sums_size), slices * g.groups * sums_size);
#pragma omp parallel
  {
    const int64_t in_size = g.in_channels * g.in.plane() + kBeyond;
    const int64_t out_size = rows * g.out.plane() + kBeyond;
    Element* planes = zeros(scratch_of<Element, 0>(in_size), in_size);
    Element* gradient_planes = zeros(scratch_of<Element, 1>(out_size), out_size);
    const int64_t padded = sweep.vectors * kLanes, pitch = g.in.positions() * sweep.lanes();
    const float* zero = zeros(scratch<5>(padded), padded);
    Number* numbers = scratch_of<Number, 2>(sweep.vectors * pitch + kSlack);
    Element* vectors = scratch_of<Element, 6>(2 * kLanes * band_rows(g.out) * g.out.width);
#pragma omp for collapse(2) schedule(static)
    for (int64_t slice = 0; slice < slices; ++slice) {
      for (int64_t group = 0; group < g.groups; ++group) {
        float* sum = sums + (slice * g.groups + group) * sums_size;
        const int64_t end = std::min((slice + 1) * pairs / slices * kTogether, g.batch);
        for (int64_t first = slice * pairs / slices * kTogether; first < end; first += kTogether) {
          const int64_t count = std::min(kTogether, end - first);
          const auto* gradient = dy + g.out_start(first, group) / Out::kChannels;
          const int64_t start = g.in_start(first, group) / In::kChannels;
          const int64_t in_image = count < 2 ? 0 : g.in_start(1, 0) / In::kChannels;
          const int64_t out_image = count < 2 ? 0 : g.out_start(1, 0) / Out::kChannels;
          load_image_planes(g.in, x + start, in_image, g.in_channels, planes);
          weight_gradient(g, planes, gradient, out_image, vectors, sum);
          for (int64_t image = 0; wanted && image < count; ++image) {
            load_channel_planes(g.out, gradient + image * out_image, g.out_channels,
                                gradient_planes);
            const Element* weights = packed + group * packed_size;
            for (const Phase& phase : phases) {
              sum_taps<Element, Number>(phase.sweep,
                                        {gradient_planes, weights, zero, numbers, pitch});
              weights += phase.sweep.vectors * kLanes * phase.sweep.depth();
            }
            store_pictures(sweep, numbers, pitch, g.in.positions(), g.in_channels,
                           dx + start + image * in_image);
          }
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
  if (has_bias(attributes)) {
    sum_channels<Out>(Layout(inputs->at(0)), dy, floats(outputs, kBias));
  }
  return MX_SUCCESS;
}

}  // namespace

MXReturnValue grouped_bf16_forward(const Attributes& attributes, Tensors* inputs,
                                   Tensors* outputs, const OpResource& resource) {
  return grouped_forward<Bfloat16, Bfloat16>(attributes, inputs, outputs, resource);
}

MXReturnValue grouped_bf16_backward(const Attributes& attributes, Tensors* inputs,
                                    Tensors* outputs, const OpResource& resource) {
  return grouped_backward<Bfloat16, Bfloat16>(attributes, inputs, outputs, resource);
}

#define REGISTER_GROUPED(name, In, Out)              \
  REGISTER_OP(name)                                  \
      .setForward(grouped_forward<In, Out>, "cpu")   \
      .setBackward(grouped_backward<In, Out>, "cpu") \
      .setParseAttrs(grouped_arity)                  \
      .setInferType(conv_types<In, Out>)             \
      .setInferShape(grouped_shape<In, Out>)

REGISTER_GROUPED(vg_grouped, Float32, Float32);
REGISTER_GROUPED(vg_grouped_bf16, Bfloat16, Bfloat16);
REGISTER_GROUPED(vg_grouped_to_bf16, Float32, Bfloat16);  // rounds its data

}  // namespace vargfacenet
