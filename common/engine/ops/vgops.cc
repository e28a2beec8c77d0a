// Operators of the network's hot places for MXNet 1.9 on CPU, loaded with mx.library.load.
//
// Why they exist: MXNet's own symbolic PReLU multiplies the gradient of some slopes by the slope
// (it overwrites its input in place), and between oneDNN's group convolutions and 1x1 convolutions
// it leaves BatchNorm with a clash of blocked layouts that sends it to a reference implementation.
// An operator that works on plain (N, C, ...) arrays between them removes both.
//
// Sums run in double, over positions first and then over the batch, and one thread owns a channel
// (or a row of one image and channel), so results do not depend on the number of threads.

#include <algorithm>
#include <cmath>

#include "simd.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

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
inline float preactivation(const float* x, const float* shortcut, float scale, int64_t i) {
  float value = x[i];
  if (kScale) value *= scale;
  if (kAdd) value += shortcut[i];
  return value;
}

template <bool kScale, bool kAdd>
MXReturnValue prelu_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  using Inputs = PreluInputs<kScale, kAdd>;
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const auto data = inputs->at(0);
  outputs->at(0) = data;
  if (kScale) inputs->at(Inputs::kScaleAt) = {data[0], data[1], 1, 1};
  if (kAdd) inputs->at(Inputs::kShortcut) = data;
  inputs->at(Inputs::kSlope) = {data[1]};
  return MX_SUCCESS;
}

template <bool kScale, bool kAdd>
MXReturnValue prelu_forward(const Attributes&, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  using Inputs = PreluInputs<kScale, kAdd>;
  const Layout layout(inputs->at(0));
  const float* x = floats(inputs, 0);
  const float* scale = kScale ? floats(inputs, Inputs::kScaleAt) : nullptr;
  const float* shortcut = kAdd ? floats(inputs, Inputs::kShortcut) : nullptr;
  const float* slope = floats(inputs, Inputs::kSlope);
  float* y = floats(outputs, 0);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t r = 0; r < layout.rows(); ++r) {
    const int64_t start = r * layout.positions;
    const float negative = slope[r % layout.channels];
    const float factor = kScale ? scale[r] : 1.f;
#pragma omp simd
    for (int64_t i = start; i < start + layout.positions; ++i) {
      const float value = preactivation<kScale, kAdd>(x, shortcut, factor, i);
      y[i] = value > 0.f ? value : value * negative;
    }
  }
  return MX_SUCCESS;
}

template <bool kScale, bool kAdd>
MXReturnValue prelu_backward(const Attributes&, Tensors* inputs, Tensors* outputs,
                             const OpResource&) {
  using Inputs = PreluInputs<kScale, kAdd>;
  const Layout layout(inputs->at(1));
  const float* dy = floats(inputs, 0);
  const float* x = floats(inputs, 1);
  const float* scale = kScale ? floats(inputs, 1 + Inputs::kScaleAt) : nullptr;
  const float* shortcut = kAdd ? floats(inputs, 1 + Inputs::kShortcut) : nullptr;
  const float* slope = floats(inputs, 1 + Inputs::kSlope);
  float* dx = floats(outputs, 0);
  float* dscale = kScale ? floats(outputs, Inputs::kScaleAt) : nullptr;
  float* dshortcut = kAdd ? floats(outputs, Inputs::kShortcut) : nullptr;
  float* dslope = floats(outputs, Inputs::kSlope);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; ++c) {
    const float negative = slope[c];
    double slope_sum = 0;
    for (int64_t n = 0; n < layout.batch; ++n) {
      const int64_t start = layout.row(n, c);
      const float factor = kScale ? scale[n * layout.channels + c] : 1.f;
      double scale_sum = 0;
#pragma omp simd reduction(+ : slope_sum, scale_sum)
      for (int64_t i = start; i < start + layout.positions; ++i) {
        const float value = preactivation<kScale, kAdd>(x, shortcut, factor, i);
        const float dvalue = value > 0.f ? dy[i] : dy[i] * negative;
        slope_sum += value > 0.f ? 0.f : dy[i] * value;
        if (kScale) scale_sum += dvalue * x[i];
        dx[i] = kScale ? dvalue * factor : dvalue;
        if (kAdd) dshortcut[i] = dvalue;
      }
      if (kScale) dscale[n * layout.channels + c] = static_cast<float>(scale_sum);
    }
    dslope[c] = static_cast<float>(slope_sum);
  }
  return MX_SUCCESS;
}

// -------------------------------------------------------------------------------- global pool
// y = mean of x over its positions; input x (N, C, H, W), output (N, C, 1, 1). In
// training MXNet's own takes as long as all convolutions together, nearly all of it in the
// gradient.

MXReturnValue pool_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  outputs->at(0) = {inputs->at(0)[0], inputs->at(0)[1], 1, 1};
  return MX_SUCCESS;
}

MXReturnValue pool_forward(const Attributes&, Tensors* inputs, Tensors* outputs,
                           const OpResource&) {
  const Layout layout(inputs->at(0));
  const float* x = floats(inputs, 0);
  float* y = floats(outputs, 0);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t r = 0; r < layout.rows(); ++r) {
    const int64_t start = r * layout.positions;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = start; i < start + layout.positions; ++i) sum += x[i];
    y[r] = static_cast<float>(sum / layout.positions);
  }
  return MX_SUCCESS;
}

MXReturnValue pool_backward(const Attributes&, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  const Layout layout(inputs->at(1));
  const float* dy = floats(inputs, 0);
  float* dx = floats(outputs, 0);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t r = 0; r < layout.rows(); ++r) {
    const int64_t start = r * layout.positions;
    std::fill(dx + start, dx + start + layout.positions, dy[r] / layout.positions);
  }
  return MX_SUCCESS;
}

// ---------------------------------------------------------------------------------- SE scale
// y = x * scale; inputs x (N, C, H, W), scale (N, C, 1, 1).

MXReturnValue scale_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const auto data = inputs->at(0);
  outputs->at(0) = data;
  inputs->at(1) = {data[0], data[1], 1, 1};
  return MX_SUCCESS;
}

MXReturnValue scale_forward(const Attributes&, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  const Layout layout(inputs->at(0));
  const float* x = floats(inputs, 0);
  const float* scale = floats(inputs, 1);
  float* y = floats(outputs, 0);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t r = 0; r < layout.rows(); ++r) {
    const int64_t start = r * layout.positions;
#pragma omp simd
    for (int64_t i = start; i < start + layout.positions; ++i) y[i] = x[i] * scale[r];
  }
  return MX_SUCCESS;
}

MXReturnValue scale_backward(const Attributes&, Tensors* inputs, Tensors* outputs,
                             const OpResource&) {
  const Layout layout(inputs->at(1));
  const float* dy = floats(inputs, 0);
  const float* x = floats(inputs, 1);
  const float* scale = floats(inputs, 2);
  float* dx = floats(outputs, 0);
  float* dscale = floats(outputs, 1);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t r = 0; r < layout.rows(); ++r) {
    const int64_t start = r * layout.positions;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = start; i < start + layout.positions; ++i) {
      sum += dy[i] * x[i];
      dx[i] = dy[i] * scale[r];
    }
    dscale[r] = static_cast<float>(sum);
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

// Calls body(start, lanes) for all vectors of an array.
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
// (C,), which are auxiliary states. Outputs y, and the mean and 1/sqrt(variance + eps) it used.
//
// The library interface does not tell an operator whether the network trains, so the graph does:
// `mode` is the output of a Dropout of a one, which is 1 exactly when it does not train.
// Training normalises with the batch's mean and biased variance and moves the running averages
// towards them; otherwise the running averages are used and stay as they are. They move in the
// forward pass: MXNet moves its own in the backward pass without telling its engine, so that a
// reader may get the old ones.

enum NormOutput { kY, kUsedMean, kUsedInverse, kNormOutputs };
enum Activation { kNone, kPrelu, kSwish };

template <Activation kAct>
struct NormInputs {
  enum { kX, kGamma, kBeta, kSlope, kMode = 3 + (kAct == kPrelu), kMean, kVariance, kCount };
};

// All three take zero as negative, and NaN, which stays NaN.
inline Vec prelu(Vec value, Vec slope) { return value > 0.f ? value : value * slope; }
inline Vec prelu_gradient(Vec value, Vec gradient, Vec slope) {
  return value > 0.f ? gradient : gradient * slope;
}
inline Vec negative_part(Vec value) { return value > 0.f ? Vec{} : value; }

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

bool training(const float* mode) { return mode[0] != 1.f; }

struct NormOptions {
  float epsilon;
  float momentum;

  explicit NormOptions(const Attributes& attributes)
      : epsilon(number(attributes.at("eps"))), momentum(number(attributes.at("momentum"))) {}
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
  *outputs = kNormOutputs;
  return MX_SUCCESS;
}

template <Activation kAct>
MXReturnValue norm_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const auto data = inputs->at(0);
  using Inputs = NormInputs<kAct>;
  for (int i = 1; i < Inputs::kCount; ++i) inputs->at(i) = {data[1]};
  inputs->at(Inputs::kMode) = {1};
  outputs->at(0) = data;
  outputs->at(1) = outputs->at(2) = {data[1]};
  return MX_SUCCESS;
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

// Calls body(start, lanes) for all vectors of channel c, end_stretch() now and then between them.
template <typename Body, typename End>
inline void for_channel(const Layout& layout, int64_t c, Body body, End end_stretch) {
  int64_t count = 0;
  for (int64_t n = 0; n < layout.batch; ++n) {
    const int64_t row = layout.row(n, c);
    for (int64_t done = 0; done < layout.positions;) {
      const int64_t length = std::min(kStretch, layout.positions - done);
      for_vectors(length, [&](int64_t i, int64_t lanes) { body(row + done + i, lanes); });
      done += length;
      count += length;
      if (count >= kStretch) {
        end_stretch();
        count = 0;
      }
    }
  }
}

// Mean and biased variance of channel c in one pass.
void channel_statistics(const Layout& layout, const float* x, int64_t c, double* mean,
                        double* variance) {
  // Sums about a sample of the channel: no cancellation when the mean is far from zero.
  const float origin = x[layout.row(0, c)];
  const Vec origins = splat(origin);
  Sum sum, squares;
  for_channel(
      layout, c,
      [&](int64_t i, int64_t lanes) {
        const Vec value = keep_first(load_first(x + i, lanes) - origins, lanes);
        sum.add(value);
        squares.add(value * value);
      },
      [&] {
        sum.end_stretch();
        squares.end_stretch();
      });
  const double count = static_cast<double>(layout.batch * layout.positions);
  const double shift = sum.total() / count;
  const double spread = squares.total() / count - shift * shift;
  *mean = origin + shift;
  *variance = spread < 0 ? 0 : spread;  // keeps NaN
}

template <Activation kAct>
MXReturnValue norm_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                           const OpResource&) {
  using Inputs = NormInputs<kAct>;
  const NormOptions options(attributes);
  const Layout layout(inputs->at(Inputs::kX));
  const float* x = floats(inputs, Inputs::kX);
  const float* gamma = floats(inputs, Inputs::kGamma);
  const float* beta = floats(inputs, Inputs::kBeta);
  const float* slope = kAct == kPrelu ? floats(inputs, Inputs::kSlope) : nullptr;
  const bool train = training(floats(inputs, Inputs::kMode));
  float* running_mean = floats(inputs, Inputs::kMean);
  float* running_variance = floats(inputs, Inputs::kVariance);
  float* y = floats(outputs, kY);
  float* used_mean = floats(outputs, kUsedMean);
  float* used_inverse = floats(outputs, kUsedInverse);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; ++c) {
    double mean = running_mean[c], variance = running_variance[c];
    if (train) {
      channel_statistics(layout, x, c, &mean, &variance);
      const float keep = options.momentum, take = 1.f - options.momentum;
      running_mean[c] = running_mean[c] * keep + static_cast<float>(mean) * take;
      running_variance[c] = running_variance[c] * keep + static_cast<float>(variance) * take;
    }
    const float centre = used_mean[c] = static_cast<float>(mean);
    used_inverse[c] = static_cast<float>(1.0 / std::sqrt(variance + options.epsilon));
    const Vec centres = splat(centre);
    const Vec factors = splat(gamma[c] * used_inverse[c]);
    const Vec offsets = splat(beta[c]);
    const Vec slopes = splat(kAct == kPrelu ? slope[c] : 1.f);
    for (int64_t n = 0; n < layout.batch; ++n) {
      const int64_t row = layout.row(n, c);
      for_vectors(layout.positions, [&](int64_t i, int64_t lanes) {
        const Vec value = (load_first(x + row + i, lanes) - centres) * factors + offsets;
        store_first(y + row + i, activate<kAct>(value, slopes), lanes);
      });
    }
  }
  return MX_SUCCESS;
}

template <Activation kAct>
MXReturnValue norm_backward(const Attributes&, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  using Inputs = NormInputs<kAct>;
  constexpr int kInputs = kNormOutputs;  // after the gradients of the outputs
  constexpr int kOutputs = kInputs + Inputs::kCount;
  const Layout layout(inputs->at(kInputs + Inputs::kX));
  const float* dy = floats(inputs, 0);
  const float* x = floats(inputs, kInputs + Inputs::kX);
  const float* gamma = floats(inputs, kInputs + Inputs::kGamma);
  const float* beta = floats(inputs, kInputs + Inputs::kBeta);
  const float* slope = kAct == kPrelu ? floats(inputs, kInputs + Inputs::kSlope) : nullptr;
  const bool train = training(floats(inputs, kInputs + Inputs::kMode));
  const float* mean = floats(inputs, kOutputs + kUsedMean);
  const float* inverse = floats(inputs, kOutputs + kUsedInverse);
  float* dx = floats(outputs, Inputs::kX);
  float* dgamma = floats(outputs, Inputs::kGamma);
  float* dbeta = floats(outputs, Inputs::kBeta);
  float* dslope = kAct == kPrelu ? floats(outputs, Inputs::kSlope) : nullptr;
  const double count = static_cast<double>(layout.batch * layout.positions);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; ++c) {
    const float factor = gamma[c] * inverse[c];
    const Vec centres = splat(mean[c]), factors = splat(factor), offsets = splat(beta[c]);
    const Vec slopes = splat(kAct == kPrelu ? slope[c] : 1.f);
    Sum dz_sum, dz_centred_sum, slope_sum;
    for_channel(
        layout, c,
        [&](int64_t i, int64_t lanes) {
          const Vec centred = load_first(x + i, lanes) - centres;
          const Vec gradient = load_first(dy + i, lanes);  // zero behind the row, as all below
          const Vec z = centred * factors + offsets;
          const Vec dz = activation_gradient<kAct>(z, gradient, slopes);
          dz_sum.add(dz);
          dz_centred_sum.add(dz * centred);
          if (kAct == kPrelu) slope_sum.add(negative_part(z) * gradient);
          if (kAct == kSwish) store_first(dx + i, dz, lanes);  // too dear to compute again below
        },
        [&] {
          dz_sum.end_stretch();
          dz_centred_sum.end_stretch();
          slope_sum.end_stretch();
        });
    const double dz_total = dz_sum.total(), dz_centred_total = dz_centred_sum.total();
    dgamma[c] = static_cast<float>(dz_centred_total * inverse[c]);
    dbeta[c] = static_cast<float>(dz_total);
    if (kAct == kPrelu) dslope[c] = static_cast<float>(slope_sum.total());
    // The batch's mean and variance depend on x; the running ones do not.
    const Vec mean_term = splat(train ? dz_total / count : 0.0);
    const Vec variance_term =
        splat(train ? dz_centred_total * inverse[c] * inverse[c] / count : 0.0);
    for (int64_t n = 0; n < layout.batch; ++n) {
      const int64_t row = layout.row(n, c);
      for_vectors(layout.positions, [&](int64_t i, int64_t lanes) {
        const Vec centred = load_first(x + row + i, lanes) - centres;
        const float* from = kAct == kSwish ? dx : dy;
        Vec dz = load_first(from + row + i, lanes);
        if (kAct == kPrelu) dz = prelu_gradient(centred * factors + offsets, dz, slopes);
        store_first(dx + row + i, factors * (dz - mean_term - centred * variance_term), lanes);
      });
    }
  }
  floats(outputs, Inputs::kMode)[0] = 0.f;
  for (int state : {Inputs::kMean, Inputs::kVariance}) {
    for (int64_t c = 0; c < layout.channels; ++c) floats(outputs, state)[c] = 0.f;
  }
  return MX_SUCCESS;
}

// ------------------------------------------------------ BatchNorm in parts, between which ranks talk
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
    double mean, variance;
    channel_statistics(layout, x, c, &mean, &variance);
    means[c] = static_cast<float>(mean);
    variances[c] = static_cast<float>(variance);
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
        layout, c,
        [&](int64_t i, int64_t lanes) {
          const Vec gradient = load_first(dy + i, lanes);  // zero behind the row, as the product
          gradients.add(gradient);
          products.add(gradient * (load_first(x + i, lanes) - centres));
          store_first(dx + i, gradient * factors, lanes);
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

REGISTER_OP(vg_prelu)
    .setForward(prelu_forward<false, false>, "cpu")
    .setBackward(prelu_backward<false, false>, "cpu")
    .setParseAttrs(arity<2>)
    .setInferType(float32_only)
    .setInferShape(prelu_shape<false, false>);

REGISTER_OP(vg_add_prelu)
    .setForward(prelu_forward<false, true>, "cpu")
    .setBackward(prelu_backward<false, true>, "cpu")
    .setParseAttrs(arity<3>)
    .setInferType(float32_only)
    .setInferShape(prelu_shape<false, true>);

REGISTER_OP(vg_scale_add_prelu)
    .setForward(prelu_forward<true, true>, "cpu")
    .setBackward(prelu_backward<true, true>, "cpu")
    .setParseAttrs(arity<4>)
    .setInferType(float32_only)
    .setInferShape(prelu_shape<true, true>);

REGISTER_OP(vg_global_pool)
    .setForward(pool_forward, "cpu")
    .setBackward(pool_backward, "cpu")
    .setParseAttrs(arity<1>)
    .setInferType(float32_only)
    .setInferShape(pool_shape);

REGISTER_OP(vg_scale)
    .setForward(scale_forward, "cpu")
    .setBackward(scale_backward, "cpu")
    .setParseAttrs(arity<2>)
    .setInferType(float32_only)
    .setInferShape(scale_shape);

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

REGISTER_OP(vg_bn)
    .setForward(norm_forward<kNone>, "cpu")
    .setBackward(norm_backward<kNone>, "cpu")
    .setParseAttrs(norm_arity<kNone>)
    .setInferType(float32_only)
    .setInferShape(norm_shape<kNone>)
    .setInferSType(dense_only)
    .setMutateInputs(norm_auxiliary<kNone>);

REGISTER_OP(vg_bn_prelu)
    .setForward(norm_forward<kPrelu>, "cpu")
    .setBackward(norm_backward<kPrelu>, "cpu")
    .setParseAttrs(norm_arity<kPrelu>)
    .setInferType(float32_only)
    .setInferShape(norm_shape<kPrelu>)
    .setInferSType(dense_only)
    .setMutateInputs(norm_auxiliary<kPrelu>);

REGISTER_OP(vg_bn_swish)
    .setForward(norm_forward<kSwish>, "cpu")
    .setBackward(norm_backward<kSwish>, "cpu")
    .setParseAttrs(norm_arity<kSwish>)
    .setInferType(float32_only)
    .setInferShape(norm_shape<kSwish>)
    .setInferSType(dense_only)
    .setMutateInputs(norm_auxiliary<kSwish>);

}  // namespace vargfacenet

mxnet::ext::MXReturnValue initialize(int version) {
  if (version / 100 == 109) return mxnet::ext::MX_SUCCESS;
  MX_ERROR_MSG << "the vg_ operators are written for MXNet 1.9, not " << version;
  return mxnet::ext::MX_FAIL;
}
