// Operators of the network's hot places for MXNet 1.9 on CPU, loaded with mx.library.load.
//
// Why they exist: MXNet's own symbolic PReLU multiplies the gradient of some slopes by the slope
// (it overwrites its input in place), and between oneDNN's group convolutions and 1x1 convolutions
// it leaves BatchNorm with a clash of blocked layouts that sends it to a reference implementation.
// An operator that works on plain (N, C, ...) arrays between them removes both.
//
// Sums run over positions first, in float for stretches and in double over those (`Sum`), and then
// over the batch, and one thread owns a channel (or a row of one image and channel), so results do
// not depend on the number of threads.

#include <algorithm>
#include <cmath>

#include "conv.h"
#include "simd.h"
#include "storage.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

// What `Storage` or the like says of an operator's arrays (storage.h) is what those hold that have
// positions; channels, and single numbers of an image and channel, are float32 always.

// Calls body(start, lanes) for all vectors of a row, end_stretch() now and then between them.
template <typename Body, typename End>
inline void for_stretches(int64_t count, Body body, End end_stretch) {
  for (int64_t done = 0; done < count; done += kStretch) {
    for_vectors(std::min(kStretch, count - done),
                [&](int64_t i, int64_t lanes) { body(done + i, lanes); });
    end_stretch();
  }
}

// ------------------------------------------------------------------------------- several readers
// An operator with the attribute `copies` has its output that often, for as many readers. MXNet
// would add up their gradients in an operator of its own, with one more pass over each and, of
// pairs, a wrong result; so the backward function adds them as it reads them.

int64_t copies_of(const Attributes& attributes) {
  const auto found = attributes.find("copies");
  return found == attributes.end() ? 1 : static_cast<int64_t>(number(found->second));
}

// The arrays of `copies` outputs, or of their gradients, from index 0 on.
template <typename Storage>
std::vector<typename Storage::Element*> copies_at_start(Tensors* tensors, int64_t copies) {
  std::vector<typename Storage::Element*> found;
  for (int64_t i = 0; i < copies; ++i) found.push_back(elements<Storage>(tensors, i));
  return found;
}

template <typename Storage, int kGroup>
inline void write_all(const std::vector<typename Storage::Element*>& arrays, int64_t at,
                      const Vec (&values)[kGroup], int64_t positions, int64_t lanes) {
  for (auto* array : arrays) Storage::write(values, positions, lanes, array + at);
}

template <typename Storage, int kGroup>
inline void read_sum(const std::vector<typename Storage::Element*>& arrays, int64_t at,
                     int64_t positions, int64_t lanes, Vec (&values)[kGroup]) {
  Storage::read(arrays[0] + at, positions, lanes, values);
  for (size_t i = 1; i < arrays.size(); ++i) {
    Vec more[kGroup];
    Storage::read(arrays[i] + at, positions, lanes, more);
    for (int g = 0; g < kGroup; ++g) values[g] = values[g] + more[g];
  }
}

// ------------------------------------------------------------------------------------- PReLU
// y = v > 0 ? v : slope * v with v = x, or x + shortcut, or x * scale + shortcut.
// Inputs x (N, C, ...), [scale (N, C, 1, 1)], [shortcut (N, C, ...)], slope (C,). The sums are
// rounded like MXNet's own operators (no fused multiply-add), so the forward is theirs bit by bit.

template <bool kScale, bool kAdd>
struct PreluInputs {
  static constexpr int kScaleAt = 1;
  static constexpr int kShortcut = 1 + kScale;
  static constexpr int kSlope = 1 + kScale + kAdd;
  static constexpr int kCount = 2 + kScale + kAdd;
};

template <bool kScale, bool kAdd>
MXReturnValue prelu_arity(const Attributes& attributes, int* inputs, int* outputs) {
  *inputs = PreluInputs<kScale, kAdd>::kCount;
  *outputs = static_cast<int>(copies_of(attributes));
  return MX_SUCCESS;
}

template <bool kScale, bool kAdd, typename Storage>
MXReturnValue prelu_types(const Attributes& attributes, Types* inputs, Types* outputs) {
  Types in(inputs->size(), kFloats), out(outputs->size(), Storage::kType);
  in[0] = Storage::kType;
  if (kAdd) in[PreluInputs<kScale, kAdd>::kShortcut] = Storage::kType;
  return set_types(in, inputs) && set_types(out, outputs) ? MX_SUCCESS : MX_FAIL;
}

template <bool kScale, bool kAdd>
MXReturnValue prelu_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  using Inputs = PreluInputs<kScale, kAdd>;
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const auto data = inputs->at(0);
  for (auto& shape : *outputs) shape = data;
  if (kScale) inputs->at(Inputs::kScaleAt) = {data[0], data[1], 1, 1};
  if (kAdd) inputs->at(Inputs::kShortcut) = data;
  inputs->at(Inputs::kSlope) = {data[1]};
  return MX_SUCCESS;
}

// All three take zero as negative, and NaN, which stays NaN.
inline Vec prelu(Vec value, Vec slope) { return value > 0.f ? value : value * slope; }
inline Vec prelu_gradient(Vec value, Vec gradient, Vec slope) {
  return value > 0.f ? gradient : gradient * slope;
}
inline Vec negative_part(Vec value) { return value > 0.f ? Vec{} : value; }

template <bool kScale, bool kAdd, typename Storage>
MXReturnValue prelu_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  using Inputs = PreluInputs<kScale, kAdd>;
  constexpr int kGroup = Storage::kChannels;
  const Layout layout(inputs->at(0));
  const auto* x = elements<Storage>(inputs, 0);
  const float* scale = kScale ? floats(inputs, Inputs::kScaleAt) : nullptr;
  const auto* shortcut = kAdd ? elements<Storage>(inputs, Inputs::kShortcut) : nullptr;
  const float* slope = floats(inputs, Inputs::kSlope);
  const auto y = copies_at_start<Storage>(outputs, copies_of(attributes));
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t r = 0; r < layout.rows(); r += kGroup) {
    const int64_t start = r / kGroup * layout.positions;
    Vec slopes[kGroup], factors[kGroup];
    for (int g = 0; g < kGroup; ++g) {
      slopes[g] = splat(slope[r % layout.channels + g]);
      factors[g] = splat(kScale ? scale[r + g] : 1.f);
    }
    for_vectors(layout.positions, [&](int64_t i, int64_t lanes) {
      Vec values[kGroup], added[kGroup];
      Storage::read(x + start + i, layout.positions, lanes, values);
      if (kAdd) Storage::read(shortcut + start + i, layout.positions, lanes, added);
      for (int g = 0; g < kGroup; ++g) {
        if (kScale) values[g] = values[g] * factors[g];
        if (kAdd) values[g] = values[g] + added[g];
        values[g] = prelu(values[g], slopes[g]);
      }
      write_all<Storage>(y, start + i, values, layout.positions, lanes);
    });
  }
  return MX_SUCCESS;
}

template <bool kScale, bool kAdd, typename Storage>
MXReturnValue prelu_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                             const OpResource&) {
  using Inputs = PreluInputs<kScale, kAdd>;
  constexpr int kGroup = Storage::kChannels;
  const int64_t first = copies_of(attributes);  // input, after the gradients of the outputs
  const Layout layout(inputs->at(first));
  const auto dy = copies_at_start<Storage>(inputs, first);
  const auto* x = elements<Storage>(inputs, first);
  const float* scale = kScale ? floats(inputs, first + Inputs::kScaleAt) : nullptr;
  const auto* shortcut = kAdd ? elements<Storage>(inputs, first + Inputs::kShortcut) : nullptr;
  const float* slope = floats(inputs, first + Inputs::kSlope);
  auto* dx = elements<Storage>(outputs, 0);
  float* dscale = kScale ? floats(outputs, Inputs::kScaleAt) : nullptr;
  auto* dshortcut = kAdd ? elements<Storage>(outputs, Inputs::kShortcut) : nullptr;
  float* dslope = floats(outputs, Inputs::kSlope);
  const int64_t positions = layout.positions;
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; c += kGroup) {
    Vec slopes[kGroup];
    Sum slope_sums[kGroup];
    for (int g = 0; g < kGroup; ++g) slopes[g] = splat(slope[c + g]);
    for (int64_t n = 0; n < layout.batch; ++n) {
      const int64_t start = row_of<Storage>(layout, n, c);
      Vec factors[kGroup];
      Sum scale_sums[kGroup];
      for (int g = 0; g < kGroup; ++g) {
        factors[g] = splat(kScale ? scale[n * layout.channels + c + g] : 1.f);
      }
      for_stretches(
          positions,
          [&](int64_t i, int64_t lanes) {
            Vec inner[kGroup], added[kGroup], gradients[kGroup], dvalues[kGroup];
            Storage::read(x + start + i, positions, lanes, inner);
            if (kAdd) Storage::read(shortcut + start + i, positions, lanes, added);
            read_sum<Storage>(dy, start + i, positions, lanes, gradients);
            for (int g = 0; g < kGroup; ++g) {
              Vec value = kScale ? inner[g] * factors[g] : inner[g];
              if (kAdd) value = value + added[g];
              slope_sums[g].add(negative_part(value) * gradients[g]);
              dvalues[g] = prelu_gradient(value, gradients[g], slopes[g]);
              if (kScale) scale_sums[g].add(dvalues[g] * inner[g]);
            }
            if (kAdd) Storage::write(dvalues, positions, lanes, dshortcut + start + i);
            for (int g = 0; kScale && g < kGroup; ++g) dvalues[g] = dvalues[g] * factors[g];
            Storage::write(dvalues, positions, lanes, dx + start + i);
          },
          [&] {
            for (int g = 0; g < kGroup; ++g) {
              slope_sums[g].end_stretch();
              if (kScale) scale_sums[g].end_stretch();
            }
          });
      for (int g = 0; kScale && g < kGroup; ++g) {
        dscale[n * layout.channels + c + g] = static_cast<float>(scale_sums[g].total());
      }
    }
    for (int g = 0; g < kGroup; ++g) dslope[c + g] = static_cast<float>(slope_sums[g].total());
  }
  return MX_SUCCESS;
}

// -------------------------------------------------------------------------------- global pool
// y = mean of x over its positions; input x (N, C, H, W), output (N, C, 1, 1) float32. In
// training MXNet's own takes as long as all convolutions together, nearly all of it in the
// gradient.

MXReturnValue pool_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  outputs->at(0) = {inputs->at(0)[0], inputs->at(0)[1], 1, 1};
  return MX_SUCCESS;
}

template <typename Storage>
MXReturnValue pool_types(const Attributes&, Types* inputs, Types* outputs) {
  return set_types({Storage::kType}, inputs) && set_types({kFloats}, outputs) ? MX_SUCCESS
                                                                              : MX_FAIL;
}

template <typename Storage>
MXReturnValue pool_forward(const Attributes&, Tensors* inputs, Tensors* outputs,
                           const OpResource&) {
  constexpr int kGroup = Storage::kChannels;
  const Layout layout(inputs->at(0));
  const auto* x = elements<Storage>(inputs, 0);
  float* y = floats(outputs, 0);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t r = 0; r < layout.rows(); r += kGroup) {
    const auto* row = x + r / kGroup * layout.positions;
    Sum sums[kGroup];
    for_stretches(
        layout.positions,
        [&](int64_t i, int64_t lanes) {
          Vec values[kGroup];
          Storage::read(row + i, layout.positions, lanes, values);
          for (int g = 0; g < kGroup; ++g) sums[g].add(values[g]);
        },
        [&] {
          for (Sum& sum : sums) sum.end_stretch();
        });
    for (int g = 0; g < kGroup; ++g) {
      y[r + g] = static_cast<float>(sums[g].total() / layout.positions);
    }
  }
  return MX_SUCCESS;
}

template <typename Storage>
MXReturnValue pool_backward(const Attributes&, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  constexpr int kGroup = Storage::kChannels;
  const Layout layout(inputs->at(1));
  const float* dy = floats(inputs, 0);
  auto* dx = elements<Storage>(outputs, 0);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t r = 0; r < layout.rows(); r += kGroup) {
    auto* row = dx + r / kGroup * layout.positions;
    Vec values[kGroup];
    for (int g = 0; g < kGroup; ++g) values[g] = splat(dy[r + g] / layout.positions);
    for_vectors(layout.positions, [&](int64_t i, int64_t lanes) {
      Storage::write(values, layout.positions, lanes, row + i);
    });
  }
  return MX_SUCCESS;
}

// ---------------------------------------------------------------------------------- SE scale
// y = x * scale; inputs x (N, C, H, W), scale (N, C, 1, 1) float32.

MXReturnValue scale_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const auto data = inputs->at(0);
  outputs->at(0) = data;
  inputs->at(1) = {data[0], data[1], 1, 1};
  return MX_SUCCESS;
}

template <typename Storage>
MXReturnValue scale_types(const Attributes&, Types* inputs, Types* outputs) {
  const bool fit = set_types({Storage::kType, kFloats}, inputs);
  return fit && set_types({Storage::kType}, outputs) ? MX_SUCCESS : MX_FAIL;
}

template <typename Storage>
MXReturnValue scale_forward(const Attributes&, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  constexpr int kGroup = Storage::kChannels;
  const Layout layout(inputs->at(0));
  const auto* x = elements<Storage>(inputs, 0);
  const float* scale = floats(inputs, 1);
  auto* y = elements<Storage>(outputs, 0);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t r = 0; r < layout.rows(); r += kGroup) {
    const int64_t start = r / kGroup * layout.positions;
    for_vectors(layout.positions, [&](int64_t i, int64_t lanes) {
      Vec values[kGroup];
      Storage::read(x + start + i, layout.positions, lanes, values);
      for (int g = 0; g < kGroup; ++g) values[g] = values[g] * scale[r + g];
      Storage::write(values, layout.positions, lanes, y + start + i);
    });
  }
  return MX_SUCCESS;
}

template <typename Storage>
MXReturnValue scale_backward(const Attributes&, Tensors* inputs, Tensors* outputs,
                             const OpResource&) {
  constexpr int kGroup = Storage::kChannels;
  const Layout layout(inputs->at(1));
  const auto* dy = elements<Storage>(inputs, 0);
  const auto* x = elements<Storage>(inputs, 1);
  const float* scale = floats(inputs, 2);
  auto* dx = elements<Storage>(outputs, 0);
  float* dscale = floats(outputs, 1);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t r = 0; r < layout.rows(); r += kGroup) {
    const int64_t start = r / kGroup * layout.positions;
    Sum sums[kGroup];
    for_stretches(
        layout.positions,
        [&](int64_t i, int64_t lanes) {
          Vec values[kGroup], gradients[kGroup];
          Storage::read(x + start + i, layout.positions, lanes, values);
          Storage::read(dy + start + i, layout.positions, lanes, gradients);
          for (int g = 0; g < kGroup; ++g) {
            sums[g].add(gradients[g] * values[g]);
            gradients[g] = gradients[g] * scale[r + g];
          }
          Storage::write(gradients, layout.positions, lanes, dx + start + i);
        },
        [&] {
          for (Sum& sum : sums) sum.end_stretch();
        });
    for (int g = 0; g < kGroup; ++g) dscale[r + g] = static_cast<float>(sums[g].total());
  }
  return MX_SUCCESS;
}

// -------------------------------------------------------------------------------------- Swish
// y = x * sigmoid(x); input x (N, C, ...).

inline Vec swish_gradient(Vec x, Vec gradient) {
  const Vec gate = sigmoid(x);
  return gradient * (gate + x * gate * (1.f - gate));
}

MXReturnValue swish_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  if (shape_known(*inputs)) outputs->at(0) = inputs->at(0);
  return MX_SUCCESS;
}

// Calls body(start, lanes) for all vectors of an array of floats.
template <typename Body>
inline void for_all(const Layout& layout, Body body) {
  const int64_t size = layout.rows() * layout.positions;
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t i = 0; i < size; i += kStretch) {
    for_vectors(std::min(kStretch, size - i), [&](int64_t at, int64_t n) { body(i + at, n); });
  }
}

MXReturnValue swish_forward(const Attributes&, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  const float* x = floats(inputs, 0);
  float* y = floats(outputs, 0);
  for_all(Layout(inputs->at(0)), [&](int64_t i, int64_t lanes) {
    const Vec value = load_first(x + i, lanes);
    store_first(y + i, value * sigmoid(value), lanes);
  });
  return MX_SUCCESS;
}

MXReturnValue swish_backward(const Attributes&, Tensors* inputs, Tensors* outputs,
                             const OpResource&) {
  const float* dy = floats(inputs, 0);
  const float* x = floats(inputs, 1);
  float* dx = floats(outputs, 0);
  for_all(Layout(inputs->at(1)), [&](int64_t i, int64_t lanes) {
    store_first(dx + i, swish_gradient(load_first(x + i, lanes), load_first(dy + i, lanes)), lanes);
  });
  return MX_SUCCESS;
}

// -------------------------------------------------- BatchNorm, with a PReLU or Swish or without
// Inputs x (N, C, ...), gamma (C,), beta (C,), [slope (C,)], mode (1,), running mean and variance
// (C,), which are auxiliary states.
//
// The library interface does not tell an operator whether the network trains, so the graph does:
// `mode` is the output of a Dropout of a one, which is 1 exactly when it does not train.
// Training normalises with the batch's mean and biased variance and moves the running averages
// towards them; otherwise the running averages are used and stay as they are. They move in the
// forward pass: MXNet moves its own in the backward pass without telling its engine, so that a
// reader may get the old ones.

enum Activation { kNone, kPrelu, kSwish };

template <Activation kAct>
struct NormInputs {
  enum { kX, kGamma, kBeta, kSlope, kMode = 3 + (kAct == kPrelu), kMean, kVariance, kCount };
};

template <Activation kAct>
inline Vec activate(Vec value, Vec slope) {
  if (kAct == kPrelu) return prelu(value, slope);
  return kAct == kSwish ? value * sigmoid(value) : value;
}

template <Activation kAct>
inline Vec activation_gradient(Vec value, Vec gradient, Vec slope) {
  if (kAct == kPrelu) return prelu_gradient(value, gradient, slope);
  return kAct == kSwish ? swish_gradient(value, gradient) : gradient;
}

// Whether the gradient before the activation is kept in the array of that of x: a Swish's, which
// is too dear to compute twice, where it need not be rounded for that.
template <Activation kAct, typename In>
constexpr bool kKeeps = kAct == kSwish && In::kChannels == 1;

bool training(const float* mode) { return mode[0] != 1.f; }

struct NormOptions {
  float epsilon;
  float momentum;

  explicit NormOptions(const Attributes& attributes)
      : epsilon(number(attributes.at("eps"))), momentum(number(attributes.at("momentum"))) {}
};

// Outputs: y once for each reader, its mean over the positions (N, C, 1, 1) if the attribute
// `pool` is True, and the mean and 1/sqrt(variance + eps) that were used.
struct NormOutputs {
  int64_t copies;
  bool pool;

  explicit NormOutputs(const Attributes& attributes) : copies(copies_of(attributes)) {
    const auto found = attributes.find("pool");
    pool = found != attributes.end() && found->second == "True";
  }
  int64_t pooled() const { return copies; }
  int64_t used_mean() const { return copies + pool; }
  int64_t used_inverse() const { return used_mean() + 1; }
  int64_t count() const { return used_mean() + 2; }
};

template <Activation kAct>
MXReturnValue norm_arity(const Attributes& attributes, int* inputs, int* outputs) {
  for (const char* name : {"eps", "momentum"}) {
    if (attributes.count(name) == 0) {
      MX_ERROR_MSG << "a BatchNorm needs the attribute " << name;
      return MX_FAIL;
    }
  }
  *inputs = NormInputs<kAct>::kCount;
  *outputs = static_cast<int>(NormOutputs(attributes).count());
  return MX_SUCCESS;
}

template <Activation kAct>
MXReturnValue norm_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const auto data = inputs->at(0);
  const NormOutputs which(attributes);
  using Inputs = NormInputs<kAct>;
  for (int i = 1; i < Inputs::kCount; ++i) inputs->at(i) = {data[1]};
  inputs->at(Inputs::kMode) = {1};
  for (int64_t i = 0; i < which.copies; ++i) outputs->at(i) = data;
  if (which.pool) outputs->at(which.pooled()) = {data[0], data[1], 1, 1};
  outputs->at(which.used_mean()) = outputs->at(which.used_inverse()) = {data[1]};
  return MX_SUCCESS;
}

template <typename In, typename Out>
MXReturnValue norm_types(const Attributes& attributes, Types* inputs, Types* outputs) {
  Types in(inputs->size(), kFloats), out(outputs->size(), kFloats);
  in[0] = In::kType;
  std::fill_n(out.begin(), copies_of(attributes), static_cast<int>(Out::kType));
  return set_types(in, inputs) && set_types(out, outputs) ? MX_SUCCESS : MX_FAIL;
}

MXReturnValue dense_only(const Attributes&, Types* inputs, Types* outputs) {
  for (Types* types : {inputs, outputs}) {
    for (int& type : *types) type = mxnet::ext::kDefaultStorage;
  }
  return MX_SUCCESS;
}

template <Activation kAct>
MXReturnValue norm_auxiliary(const Attributes&, std::vector<int>* indices) {
  *indices = {NormInputs<kAct>::kMean, NormInputs<kAct>::kVariance};
  return MX_SUCCESS;
}

// Calls body(image, start, lanes) for all vectors of a channel, end_stretch() now and then between
// them.
template <typename Body, typename End>
inline void for_channel(const Layout& layout, Body body, End end_stretch) {
  int64_t count = 0;
  for (int64_t n = 0; n < layout.batch; ++n) {
    for (int64_t done = 0; done < layout.positions;) {
      const int64_t length = std::min(kStretch, layout.positions - done);
      for_vectors(length, [&](int64_t i, int64_t lanes) { body(n, done + i, lanes); });
      done += length;
      count += length;
      if (count >= kStretch) {
        end_stretch();
        count = 0;
      }
    }
  }
}

// Means and biased variances of kGroup channels from c on, in one pass.
template <typename Storage, int kGroup>
void channel_statistics(const Layout& layout, const typename Storage::Element* x, int64_t c,
                        double (&means)[kGroup], double (&variances)[kGroup]) {
  // Sums about a sample of the channel: no cancellation when the mean is far from zero.
  Vec origins[kGroup];
  Storage::read(x + row_of<Storage>(layout, 0, c), layout.positions, 1, origins);
  for (Vec& origin : origins) origin = splat(origin[0]);
  Sum sums[kGroup], squares[kGroup];
  for_channel(
      layout,
      [&](int64_t n, int64_t i, int64_t lanes) {
        Vec values[kGroup];
        Storage::read(x + row_of<Storage>(layout, n, c) + i, layout.positions, lanes, values);
        for (int g = 0; g < kGroup; ++g) {
          const Vec value = keep_first(values[g] - origins[g], lanes);
          sums[g].add(value);
          squares[g].add(value * value);
        }
      },
      [&] {
        for (int g = 0; g < kGroup; ++g) {
          sums[g].end_stretch();
          squares[g].end_stretch();
        }
      });
  const double count = static_cast<double>(layout.batch * layout.positions);
  for (int g = 0; g < kGroup; ++g) {
    const double shift = sums[g].total() / count;
    const double spread = squares[g].total() / count - shift * shift;
    means[g] = origins[g][0] + shift;
    variances[g] = spread < 0 ? 0 : spread;  // keeps NaN
  }
}

// The numbers of kGroup channels from c on by which a BatchNorm normalises, each in all lanes;
// `inputs` has its inputs from index `first` on.
template <Activation kAct, int kGroup>
struct ChannelNorms {
  Vec centres[kGroup], factors[kGroup], offsets[kGroup], slopes[kGroup];

  ChannelNorms(Tensors* inputs, int64_t first, const float* mean, const float* inverse, int64_t c) {
    using Inputs = NormInputs<kAct>;
    const float* gamma = floats(inputs, first + Inputs::kGamma);
    const float* beta = floats(inputs, first + Inputs::kBeta);
    const float* slope = kAct == kPrelu ? floats(inputs, first + Inputs::kSlope) : nullptr;
    for (int g = 0; g < kGroup; ++g) {
      centres[g] = splat(mean[c + g]);
      factors[g] = splat(gamma[c + g] * inverse[c + g]);
      offsets[g] = splat(beta[c + g]);
      slopes[g] = splat(kAct == kPrelu ? slope[c + g] : 1.f);
    }
  }
};

// y of kGroup channels from c on, and their means over the positions unless `pooled` is null.
template <Activation kAct, typename In, typename Out, int kGroup>
void normalise(const Layout& layout, const typename In::Element* x, int64_t c,
               const ChannelNorms<kAct, kGroup>& by,
               const std::vector<typename Out::Element*>& y, float* pooled) {
  const int64_t positions = layout.positions;
  for (int64_t n = 0; n < layout.batch; ++n) {
    const int64_t from = row_of<In>(layout, n, c), to = row_of<Out>(layout, n, c);
    Sum sums[kGroup];
    for_stretches(
        positions,
        [&](int64_t i, int64_t lanes) {
          Vec values[kGroup];
          In::read(x + from + i, positions, lanes, values);
          for (int g = 0; g < kGroup; ++g) {
            const Vec value = (values[g] - by.centres[g]) * by.factors[g] + by.offsets[g];
            values[g] = activate<kAct>(value, by.slopes[g]);
          }
          write_all<Out>(y, to + i, values, positions, lanes);
          for (int g = 0; pooled && g < kGroup; ++g) sums[g].add(keep_first(values[g], lanes));
        },
        [&] {
          for (int g = 0; pooled && g < kGroup; ++g) sums[g].end_stretch();
        });
    for (int g = 0; pooled && g < kGroup; ++g) {
      const double mean = sums[g].total() / positions;
      pooled[n * layout.channels + c + g] = static_cast<float>(mean);
    }
  }
}

// `In` and `Out` are of x and y.
template <Activation kAct, typename In, typename Out>
MXReturnValue norm_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                           const OpResource&) {
  using Inputs = NormInputs<kAct>;
  constexpr int kGroup = std::max(In::kChannels, Out::kChannels);
  const NormOptions options(attributes);
  const NormOutputs which(attributes);
  const Layout layout(inputs->at(Inputs::kX));
  const auto* x = elements<In>(inputs, Inputs::kX);
  const bool train = training(floats(inputs, Inputs::kMode));
  float* running_mean = floats(inputs, Inputs::kMean);
  float* running_variance = floats(inputs, Inputs::kVariance);
  const auto y = copies_at_start<Out>(outputs, which.copies);
  float* pooled = which.pool ? floats(outputs, which.pooled()) : nullptr;
  float* used_mean = floats(outputs, which.used_mean());
  float* used_inverse = floats(outputs, which.used_inverse());
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; c += kGroup) {
    double means[kGroup], variances[kGroup];
    if (train) channel_statistics<In>(layout, x, c, means, variances);
    for (int g = 0; g < kGroup; ++g) {
      const int64_t channel = c + g;
      if (train) {
        const float keep = options.momentum, take = 1.f - options.momentum;
        float &mean = running_mean[channel], &variance = running_variance[channel];
        mean = mean * keep + static_cast<float>(means[g]) * take;
        variance = variance * keep + static_cast<float>(variances[g]) * take;
      } else {
        means[g] = running_mean[channel];
        variances[g] = running_variance[channel];
      }
      used_mean[channel] = static_cast<float>(means[g]);
      used_inverse[channel] = static_cast<float>(1.0 / std::sqrt(variances[g] + options.epsilon));
    }
    const ChannelNorms<kAct, kGroup> by(inputs, 0, used_mean, used_inverse, c);
    normalise<kAct, In, Out>(layout, x, c, by, y, pooled);
  }
  return MX_SUCCESS;
}

template <Activation kAct, typename In, typename Out>
MXReturnValue norm_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  using Inputs = NormInputs<kAct>;
  constexpr int kGroup = std::max(In::kChannels, Out::kChannels);
  const NormOutputs which(attributes);
  const int64_t in = which.count();  // inputs, after the gradients of the outputs
  const int64_t out = in + Inputs::kCount;
  const Layout layout(inputs->at(in + Inputs::kX));
  const auto dy = copies_at_start<Out>(inputs, which.copies);
  const float* dpooled = which.pool ? floats(inputs, which.pooled()) : nullptr;
  const auto* x = elements<In>(inputs, in + Inputs::kX);
  const bool train = training(floats(inputs, in + Inputs::kMode));
  const float* mean = floats(inputs, out + which.used_mean());
  const float* inverse = floats(inputs, out + which.used_inverse());
  auto* dx = elements<In>(outputs, Inputs::kX);
  float* dgamma = floats(outputs, Inputs::kGamma);
  float* dbeta = floats(outputs, Inputs::kBeta);
  float* dslope = kAct == kPrelu ? floats(outputs, Inputs::kSlope) : nullptr;
  const double count = static_cast<double>(layout.batch * layout.positions);
  const int64_t positions = layout.positions;
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; c += kGroup) {
    const ChannelNorms<kAct, kGroup> by(inputs, in, mean, inverse, c);
    Sum dz_sums[kGroup], dz_centred_sums[kGroup], slope_sums[kGroup];
    // Gradients of y at a place; zero behind a row, as all that is made of them.
    const auto read_gradients = [&](int64_t n, int64_t i, int64_t lanes, Vec(&gradients)[kGroup]) {
      read_sum<Out>(dy, row_of<Out>(layout, n, c) + i, positions, lanes, gradients);
      for (int g = 0; dpooled && g < kGroup; ++g) {
        const float share = dpooled[n * layout.channels + c + g] / positions;
        gradients[g] = gradients[g] + keep_first(splat(share), lanes);
      }
    };
    for_channel(
        layout,
        [&](int64_t n, int64_t i, int64_t lanes) {
          const int64_t at = row_of<In>(layout, n, c) + i;
          Vec values[kGroup], gradients[kGroup];
          In::read(x + at, positions, lanes, values);
          read_gradients(n, i, lanes, gradients);
          for (int g = 0; g < kGroup; ++g) {
            const Vec centred = values[g] - by.centres[g];
            const Vec z = centred * by.factors[g] + by.offsets[g];
            const Vec dz = activation_gradient<kAct>(z, gradients[g], by.slopes[g]);
            dz_sums[g].add(dz);
            dz_centred_sums[g].add(dz * centred);
            if (kAct == kPrelu) slope_sums[g].add(negative_part(z) * gradients[g]);
            gradients[g] = dz;
          }
          if (kKeeps<kAct, In>) In::write(gradients, positions, lanes, dx + at);
        },
        [&] {
          for (int g = 0; g < kGroup; ++g) {
            dz_sums[g].end_stretch();
            dz_centred_sums[g].end_stretch();
            if (kAct == kPrelu) slope_sums[g].end_stretch();
          }
        });
    Vec mean_terms[kGroup], variance_terms[kGroup];
    for (int g = 0; g < kGroup; ++g) {
      const double dz_total = dz_sums[g].total(), dz_centred_total = dz_centred_sums[g].total();
      const float scale = inverse[c + g];
      dgamma[c + g] = static_cast<float>(dz_centred_total * scale);
      dbeta[c + g] = static_cast<float>(dz_total);
      if (kAct == kPrelu) dslope[c + g] = static_cast<float>(slope_sums[g].total());
      // The batch's mean and variance depend on x; the running ones do not.
      mean_terms[g] = splat(train ? dz_total / count : 0.0);
      variance_terms[g] = splat(train ? dz_centred_total * scale * scale / count : 0.0);
    }
    for (int64_t n = 0; n < layout.batch; ++n) {
      const int64_t row = row_of<In>(layout, n, c);
      for_vectors(positions, [&](int64_t i, int64_t lanes) {
        Vec values[kGroup], dz[kGroup];
        In::read(x + row + i, positions, lanes, values);
        if (kKeeps<kAct, In>) {
          In::read(dx + row + i, positions, lanes, dz);
        } else {
          read_gradients(n, i, lanes, dz);
        }
        for (int g = 0; g < kGroup; ++g) {
          const Vec centred = values[g] - by.centres[g];
          if (!kKeeps<kAct, In>) {
            const Vec z = centred * by.factors[g] + by.offsets[g];
            dz[g] = activation_gradient<kAct>(z, dz[g], by.slopes[g]);
          }
          dz[g] = by.factors[g] * (dz[g] - mean_terms[g] - centred * variance_terms[g]);
        }
        In::write(dz, positions, lanes, dx + row + i);
      });
    }
  }
  floats(outputs, Inputs::kMode)[0] = 0.f;
  for (int state : {Inputs::kMean, Inputs::kVariance}) {
    for (int64_t c = 0; c < layout.channels; ++c) floats(outputs, state)[c] = 0.f;
  }
  return MX_SUCCESS;
}

// ------------------------------------------------- BatchNorm and PReLU inside of a convolution
// vg_bn_prelu_pointwise_bf16, vg_bn_prelu_grouped_bf16: a convolution of pairs that alone reads
// what a PReLU behind a BatchNorm gives. That array is not kept for the backward pass, which
// computes it again, the same bits, from what the BatchNorm read: half the memory of both for one
// more pass over them.
// Inputs x, gamma, beta, slope, weight, [bias], mode, running mean and variance; outputs y, and the
// mean and 1/sqrt(variance + eps) that were used.

struct PointwiseOfPairs {
  static constexpr auto arity = pointwise_arity;
  static constexpr auto shape = stored_shape<Bfloat16, Bfloat16, pointwise_shape>;
  static constexpr auto forward = pointwise_bf16_forward;
  static constexpr auto backward = pointwise_bf16_backward;
};

struct GroupedOfPairs {
  static constexpr auto arity = grouped_arity;
  static constexpr auto shape = grouped_shape<Bfloat16, Bfloat16>;
  static constexpr auto forward = grouped_bf16_forward;
  static constexpr auto backward = grouped_bf16_backward;
};

// Where the inputs of either part are, of tensors as of shapes.
class NormConvInputs {
 public:
  using Norm = NormInputs<kPrelu>;

  explicit NormConvInputs(const Attributes& attributes) : weights_(has_bias(attributes) ? 2 : 1) {}
  int count() const { return Norm::kCount + weights_; }
  int state(int of_norm) const { return of_norm + weights_; }  // Norm::kMode and those behind it

  // Both take them from index `first` on.
  template <typename Item>
  std::vector<Item> of_norm(const std::vector<Item>& all, int first = 0) const {
    const auto begin = all.begin() + first;
    std::vector<Item> found(begin, begin + Norm::kMode);
    found.insert(found.end(), begin + state(Norm::kMode), begin + count());
    return found;
  }
  template <typename Item>
  std::vector<Item> of_convolution(const Item& data, const std::vector<Item>& all,
                                   int first = 0) const {
    std::vector<Item> found{data};
    const auto begin = all.begin() + first + Norm::kMode;
    found.insert(found.end(), begin, begin + weights_);
    return found;
  }

 private:
  int weights_;
};

constexpr int kNormConvOutputs = 3;

template <typename Convolution>
MXReturnValue norm_conv_arity(const Attributes& attributes, int* inputs, int* outputs) {
  if (norm_arity<kPrelu>(attributes, inputs, outputs) != MX_SUCCESS) return MX_FAIL;
  if (Convolution::arity(attributes, inputs, outputs) != MX_SUCCESS) return MX_FAIL;
  *inputs = NormConvInputs(attributes).count();
  *outputs = kNormConvOutputs;
  return MX_SUCCESS;
}

MXReturnValue norm_conv_types(const Attributes&, Types* inputs, Types* outputs) {
  Types in(inputs->size(), kFloats), out(outputs->size(), kFloats);
  in[0] = out[0] = Bfloat16::kType;
  return set_types(in, inputs) && set_types(out, outputs) ? MX_SUCCESS : MX_FAIL;
}

template <typename Convolution>
MXReturnValue norm_conv_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const NormConvInputs which(attributes);
  Shapes normed = which.of_norm(*inputs), between(kNormConvOutputs);
  constexpr auto norm_shapes = stored_shape<Bfloat16, Bfloat16, norm_shape<kPrelu>>;
  if (norm_shapes(attributes, &normed, &between) != MX_SUCCESS) return MX_FAIL;
  Shapes convolved = which.of_convolution(between[0], *inputs), y(1);
  if (Convolution::shape(attributes, &convolved, &y) != MX_SUCCESS) return MX_FAIL;
  using Norm = NormConvInputs::Norm;
  std::copy_n(normed.begin(), +Norm::kMode, inputs->begin());
  std::copy(convolved.begin() + kWeight, convolved.end(), inputs->begin() + Norm::kMode);
  std::copy(normed.begin() + Norm::kMode, normed.end(),
            inputs->begin() + which.state(Norm::kMode));
  *outputs = {y[0], between[1], between[2]};
  return MX_SUCCESS;
}

MXReturnValue norm_conv_auxiliary(const Attributes& attributes, std::vector<int>* indices) {
  using Norm = NormConvInputs::Norm;
  const NormConvInputs which(attributes);
  *indices = {which.state(Norm::kMean), which.state(Norm::kVariance)};
  return MX_SUCCESS;
}

// An array like x in memory that stays for the next one.
MXTensor between_norm_and_convolution(const MXTensor& x) {
  MXTensor result = x;
  result.data_ptr = scratch_of<Pair, 7>(x.size() / Bfloat16::kChannels);
  return result;
}

template <typename Convolution>
MXReturnValue norm_conv_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                                const OpResource& resource) {
  const NormConvInputs which(attributes);
  const MXTensor between = between_norm_and_convolution(inputs->at(0));
  Tensors normed = which.of_norm(*inputs), norms{between, outputs->at(1), outputs->at(2)};
  norm_forward<kPrelu, Bfloat16, Bfloat16>(attributes, &normed, &norms, resource);
  Tensors convolved = which.of_convolution(between, *inputs), y{outputs->at(0)};
  return Convolution::forward(attributes, &convolved, &y, resource);
}

template <typename Convolution>
MXReturnValue norm_conv_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                                 const OpResource& resource) {
  constexpr int kIn = kNormConvOutputs, kGroup = Bfloat16::kChannels;
  const NormConvInputs which(attributes);
  const MXTensor &x = inputs->at(kIn), between = between_norm_and_convolution(x);
  const MXTensor &mean = inputs->at(kIn + which.count() + 1);
  const MXTensor &inverse = inputs->at(kIn + which.count() + 2);
  const Layout layout(x);
  Tensors normed = which.of_norm(*inputs, kIn);
  const auto* from = static_cast<const Pair*>(x.data_ptr);
  const std::vector<Pair*> to{static_cast<Pair*>(between.data_ptr)};
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; c += kGroup) {
    const ChannelNorms<kPrelu, kGroup> by(&normed, 0, static_cast<const float*>(mean.data_ptr),
                                          static_cast<const float*>(inverse.data_ptr), c);
    normalise<kPrelu, Bfloat16, Bfloat16>(layout, from, c, by, to, nullptr);
  }
  // The gradient of the array between goes where that of x will be: a BatchNorm reads a gradient
  // before it writes in its place.
  Tensors convolved = which.of_convolution(between, *inputs, kIn);
  convolved.insert(convolved.begin(), inputs->at(0));
  Tensors gradients = which.of_convolution(outputs->at(0), *outputs);
  if (Convolution::backward(attributes, &convolved, &gradients, resource) != MX_SUCCESS) {
    return MX_FAIL;
  }
  Tensors norms{outputs->at(0), inputs->at(1), inputs->at(2)};
  norms.insert(norms.end(), normed.begin(), normed.end());
  norms.insert(norms.end(), {between, mean, inverse});
  Tensors norm_gradients = which.of_norm(*outputs);
  return norm_backward<kPrelu, Bfloat16, Bfloat16>(attributes, &norms, &norm_gradients, resource);
}

// ------------------------------------------------- BatchNorm in parts, between which ranks talk
// vg_moments: x (N, C, ...) -> mean and biased variance (C,) of each channel.

enum Moment { kMomentMean, kMomentVariance, kMoments };

MXReturnValue moments_arity(const Attributes&, int* inputs, int* outputs) {
  *inputs = 1;
  *outputs = kMoments;
  return MX_SUCCESS;
}

MXReturnValue moments_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  for (auto& shape : *outputs) shape = {inputs->at(0)[1]};
  return MX_SUCCESS;
}

MXReturnValue moments_forward(const Attributes&, Tensors* inputs, Tensors* outputs,
                              const OpResource&) {
  const Layout layout(inputs->at(0));
  const float* x = floats(inputs, 0);
  float* means = floats(outputs, kMomentMean);
  float* variances = floats(outputs, kMomentVariance);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; ++c) {
    double mean[1], variance[1];
    channel_statistics<Float32>(layout, x, c, mean, variance);
    means[c] = static_cast<float>(mean[0]);
    variances[c] = static_cast<float>(variance[0]);
  }
  return MX_SUCCESS;
}

MXReturnValue moments_backward(const Attributes&, Tensors* inputs, Tensors* outputs,
                               const OpResource&) {
  const Layout layout(inputs->at(kMoments));
  const float* x = floats(inputs, kMoments);
  const float* means = floats(inputs, kMoments + 1 + kMomentMean);
  float* dx = floats(outputs, 0);
  const float share = 1.f / (layout.batch * layout.positions);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; ++c) {
    const Vec centres = splat(means[c]);
    const Vec flat = splat(floats(inputs, kMomentMean)[c] * share);
    const Vec slope = splat(2 * floats(inputs, kMomentVariance)[c] * share);
    for (int64_t n = 0; n < layout.batch; ++n) {
      const int64_t row = layout.row(n, c);
      for_vectors(layout.positions, [&](int64_t i, int64_t lanes) {
        store_first(dx + row + i, flat + slope * (load_first(x + row + i, lanes) - centres), lanes);
      });
    }
  }
  return MX_SUCCESS;
}

// vg_recentre: (x - centre) * scale + offset; x (N, C, ...), the others (C,).

enum RecentreInput { kRecentred, kCentre, kFactor, kOffset, kRecentreInputs };

MXReturnValue recentre_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  outputs->at(0) = inputs->at(0);
  for (int i = 1; i < kRecentreInputs; ++i) inputs->at(i) = {inputs->at(0)[1]};
  return MX_SUCCESS;
}

MXReturnValue recentre_forward(const Attributes&, Tensors* inputs, Tensors* outputs,
                               const OpResource&) {
  const Layout layout(inputs->at(kRecentred));
  const float* x = floats(inputs, kRecentred);
  float* y = floats(outputs, 0);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; ++c) {
    const Vec centres = splat(floats(inputs, kCentre)[c]);
    const Vec factors = splat(floats(inputs, kFactor)[c]);
    const Vec offsets = splat(floats(inputs, kOffset)[c]);
    for (int64_t n = 0; n < layout.batch; ++n) {
      const int64_t row = layout.row(n, c);
      for_vectors(layout.positions, [&](int64_t i, int64_t lanes) {
        const Vec value = (load_first(x + row + i, lanes) - centres) * factors + offsets;
        store_first(y + row + i, value, lanes);
      });
    }
  }
  return MX_SUCCESS;
}

MXReturnValue recentre_backward(const Attributes&, Tensors* inputs, Tensors* outputs,
                                const OpResource&) {
  const Layout layout(inputs->at(1 + kRecentred));
  const float* dy = floats(inputs, 0);
  const float* x = floats(inputs, 1 + kRecentred);
  float* dx = floats(outputs, kRecentred);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; ++c) {
    const float factor = floats(inputs, 1 + kFactor)[c];
    const Vec centres = splat(floats(inputs, 1 + kCentre)[c]), factors = splat(factor);
    Sum gradients, products;
    for_channel(
        layout,
        [&](int64_t n, int64_t i, int64_t lanes) {
          const int64_t at = layout.row(n, c) + i;
          const Vec gradient = load_first(dy + at, lanes);  // zero behind the row, as the product
          gradients.add(gradient);
          products.add(gradient * (load_first(x + at, lanes) - centres));
          store_first(dx + at, gradient * factors, lanes);
        },
        [&] {
          gradients.end_stretch();
          products.end_stretch();
        });
    const double total = gradients.total();
    floats(outputs, kCentre)[c] = static_cast<float>(-factor * total);
    floats(outputs, kFactor)[c] = static_cast<float>(products.total());
    floats(outputs, kOffset)[c] = static_cast<float>(total);
  }
  return MX_SUCCESS;
}

}  // namespace

// Registered once for plain arrays and once, with `_bf16` behind the name, for arrays of pairs.
#define REGISTER_PRELU(name, kScale, kAdd, Storage)              \
  REGISTER_OP(name)                                              \
      .setForward(prelu_forward<kScale, kAdd, Storage>, "cpu")   \
      .setBackward(prelu_backward<kScale, kAdd, Storage>, "cpu") \
      .setParseAttrs(prelu_arity<kScale, kAdd>)                  \
      .setInferType(prelu_types<kScale, kAdd, Storage>)          \
      .setInferShape(stored_shape<Storage, Storage, prelu_shape<kScale, kAdd>>)

REGISTER_PRELU(vg_prelu, false, false, Float32);
REGISTER_PRELU(vg_prelu_bf16, false, false, Bfloat16);
REGISTER_PRELU(vg_add_prelu, false, true, Float32);
REGISTER_PRELU(vg_add_prelu_bf16, false, true, Bfloat16);
REGISTER_PRELU(vg_scale_add_prelu, true, true, Float32);
REGISTER_PRELU(vg_scale_add_prelu_bf16, true, true, Bfloat16);

#define REGISTER_POOL(name, Storage)              \
  REGISTER_OP(name)                               \
      .setForward(pool_forward<Storage>, "cpu")   \
      .setBackward(pool_backward<Storage>, "cpu") \
      .setParseAttrs(arity<1>)                    \
      .setInferType(pool_types<Storage>)          \
      .setInferShape(stored_shape<Storage, Float32, pool_shape>)

REGISTER_POOL(vg_global_pool, Float32);
REGISTER_POOL(vg_global_pool_bf16, Bfloat16);

#define REGISTER_SCALE(name, Storage)              \
  REGISTER_OP(name)                                \
      .setForward(scale_forward<Storage>, "cpu")   \
      .setBackward(scale_backward<Storage>, "cpu") \
      .setParseAttrs(arity<2>)                     \
      .setInferType(scale_types<Storage>)          \
      .setInferShape(stored_shape<Storage, Storage, scale_shape>)

REGISTER_SCALE(vg_scale, Float32);
REGISTER_SCALE(vg_scale_bf16, Bfloat16);

REGISTER_OP(vg_swish)
    .setForward(swish_forward, "cpu")
    .setBackward(swish_backward, "cpu")
    .setParseAttrs(arity<1>)
    .setInferType(float32_only)
    .setInferShape(swish_shape);

REGISTER_OP(vg_moments)
    .setForward(moments_forward, "cpu")
    .setBackward(moments_backward, "cpu")
    .setParseAttrs(moments_arity)
    .setInferType(float32_only)
    .setInferShape(moments_shape);

REGISTER_OP(vg_recentre)
    .setForward(recentre_forward, "cpu")
    .setBackward(recentre_backward, "cpu")
    .setParseAttrs(arity<kRecentreInputs>)
    .setInferType(float32_only)
    .setInferShape(recentre_shape);

#define REGISTER_NORM(name, kAct, In, Out)                    \
  REGISTER_OP(name)                                           \
      .setForward(norm_forward<kAct, In, Out>, "cpu")         \
      .setBackward(norm_backward<kAct, In, Out>, "cpu")       \
      .setParseAttrs(norm_arity<kAct>)                        \
      .setInferType(norm_types<In, Out>)                      \
      .setInferShape(stored_shape<In, Out, norm_shape<kAct>>) \
      .setInferSType(dense_only)                              \
      .setMutateInputs(norm_auxiliary<kAct>)

#define REGISTER_NORMS(name, kAct)                          \
  REGISTER_NORM(name, kAct, Float32, Float32);              \
  REGISTER_NORM(name##_to_bf16, kAct, Float32, Bfloat16);   \
  REGISTER_NORM(name##_from_bf16, kAct, Bfloat16, Float32); \
  REGISTER_NORM(name##_bf16, kAct, Bfloat16, Bfloat16)

REGISTER_NORMS(vg_bn, kNone);
REGISTER_NORMS(vg_bn_prelu, kPrelu);
REGISTER_NORMS(vg_bn_swish, kSwish);

#define REGISTER_NORM_CONV(name, Convolution)              \
  REGISTER_OP(name)                                        \
      .setForward(norm_conv_forward<Convolution>, "cpu")   \
      .setBackward(norm_conv_backward<Convolution>, "cpu") \
      .setParseAttrs(norm_conv_arity<Convolution>)         \
      .setInferType(norm_conv_types)                       \
      .setInferShape(norm_conv_shape<Convolution>)         \
      .setInferSType(dense_only)                           \
      .setMutateInputs(norm_conv_auxiliary)

REGISTER_NORM_CONV(vg_bn_prelu_pointwise_bf16, PointwiseOfPairs);
REGISTER_NORM_CONV(vg_bn_prelu_grouped_bf16, GroupedOfPairs);

}  // namespace vargfacenet

mxnet::ext::MXReturnValue initialize(int version) {
  if (version / 100 == 109) return mxnet::ext::MX_SUCCESS;
  MX_ERROR_MSG << "the vg_ operators are written for MXNet 1.9, not " << version;
  return mxnet::ext::MX_FAIL;
}
