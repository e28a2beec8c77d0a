// Operators of the network's hot places for MXNet 1.9 on CPU, loaded with mx.library.load.
//
// Why they exist: MXNet's own symbolic PReLU multiplies the gradient of some slopes by the slope
// (it overwrites its input in place), and between oneDNN's group convolutions and 1x1 convolutions
// it leaves BatchNorm with a clash of blocked layouts that sends it to a reference implementation.
// An operator that works on plain (N, C, ...) arrays between them removes both.
//
// Rules that all operators here keep:
// - float32, contiguous, channels on axis 1; a 2-D (N, C) input has one position a channel.
// - Sums run in double, over positions first and then over the batch, and one thread owns a
//   channel (or a row of one image and channel), so results do not depend on the thread count.
// - Backward functions get: output gradients, inputs, outputs; they write one array an input.

#include <mxnet/lib_api.h>

#include <algorithm>
#include <cmath>
#include <locale>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

using mxnet::ext::MX_FAIL;
using mxnet::ext::MX_SUCCESS;
using mxnet::ext::MXReturnValue;
using mxnet::ext::MXTensor;
using mxnet::ext::OpResource;

using Attributes = std::unordered_map<std::string, std::string>;
using Tensors = std::vector<MXTensor>;
using Types = std::vector<int>;
using Shapes = std::vector<std::vector<unsigned int>>;

// Below this many elements starting the threads costs more than it saves.
constexpr int64_t kParallelSize = 65536;

// An array seen as (batch, channels, positions).
struct Layout {
  int64_t batch;
  int64_t channels;
  int64_t positions = 1;

  explicit Layout(const MXTensor& tensor) : batch(tensor.shape[0]), channels(tensor.shape[1]) {
    for (size_t axis = 2; axis < tensor.shape.size(); ++axis) positions *= tensor.shape[axis];
  }
  int64_t rows() const { return batch * channels; }
  int64_t row(int64_t image, int64_t channel) const {
    return (image * channels + channel) * positions;
  }
  bool parallel() const { return rows() * positions > kParallelSize; }
};

float* floats(Tensors* tensors, size_t index) { return tensors->at(index).data<float>(); }

template <int kInputs>
MXReturnValue arity(const Attributes&, int* inputs, int* outputs) {
  *inputs = kInputs;
  *outputs = 1;
  return MX_SUCCESS;
}

MXReturnValue float32_only(const Attributes&, Types* inputs, Types* outputs) {
  for (Types* types : {inputs, outputs}) {
    for (int& type : *types) {
      if (type != -1 && type != mxnet::ext::kFloat32) {
        MX_ERROR_MSG << "the vg_ operators work on float32 only; bind the official symbol for "
                        "other types";
        return MX_FAIL;
      }
      type = mxnet::ext::kFloat32;
    }
  }
  return MX_SUCCESS;
}

bool shape_known(const Shapes& shapes) { return shapes[0].size() >= 2; }

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
// training MXNet's own takes as long as all convolutions together, nearly all of it in the gradient.

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

// ------------------------------------------------------------------------ BatchNorm, then PReLU
// Inputs x (N, C, ...), gamma (C,), beta (C,), slope (C,), mode (1,), running mean and variance
// (C,), which are auxiliary states. Outputs y, and the mean and 1/sqrt(variance + eps) it used.
//
// The library interface does not tell an operator whether the network trains, so the graph does:
// `mode` is the output of a Dropout of a one, which is 1 exactly when it does not train.
// Training normalises with the batch's mean and biased variance and moves the running averages
// towards them; otherwise the running averages are used and stay as they are. They move in the
// forward pass: MXNet moves its own in the backward pass without telling its engine, so that a
// reader may get the old ones.

enum NormInput { kX, kGamma, kBeta, kSlope, kMode, kMean, kVariance, kNormInputs };
enum NormOutput { kY, kUsedMean, kUsedInverse, kNormOutputs };

bool training(const float* mode) { return mode[0] != 1.f; }

struct NormOptions {
  float epsilon;
  float momentum;
  bool fix_gamma;

  explicit NormOptions(const Attributes& attributes)
      : epsilon(number(attributes.at("eps"))),
        momentum(number(attributes.at("momentum"))),
        fix_gamma(attributes.at("fix_gamma") == "True") {}

  // Not std::stof, which reads "0.9" as 0 in a program that has set a locale with decimal commas.
  static float number(const std::string& text) {
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    float value = std::nanf("");
    stream >> value;
    return value;
  }
};

MXReturnValue norm_arity(const Attributes& attributes, int* inputs, int* outputs) {
  for (const char* name : {"eps", "momentum", "fix_gamma"}) {
    if (attributes.count(name) == 0) {
      MX_ERROR_MSG << "vg_bn_prelu needs the attribute " << name;
      return MX_FAIL;
    }
  }
  *inputs = kNormInputs;
  *outputs = kNormOutputs;
  return MX_SUCCESS;
}

MXReturnValue norm_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const auto data = inputs->at(0);
  for (int i = 1; i < kNormInputs; ++i) inputs->at(i) = {data[1]};
  inputs->at(kMode) = {1};
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

MXReturnValue norm_auxiliary(const Attributes&, std::vector<int>* indices) {
  *indices = {kMean, kVariance};
  return MX_SUCCESS;
}

// Mean and biased variance of channel c; one pass is exact enough since the sums are double.
void channel_statistics(const Layout& layout, const float* x, int64_t c, double* mean,
                        double* variance) {
  // Sums about a sample of the channel: no cancellation when the mean is far from zero.
  const double origin = x[layout.row(0, c)];
  double sum = 0, squares = 0;
  for (int64_t n = 0; n < layout.batch; ++n) {
    const int64_t start = layout.row(n, c);
#pragma omp simd reduction(+ : sum, squares)
    for (int64_t i = start; i < start + layout.positions; ++i) {
      const double value = x[i] - origin;
      sum += value;
      squares += value * value;
    }
  }
  const double count = static_cast<double>(layout.batch * layout.positions);
  const double shift = sum / count, spread = squares / count - shift * shift;
  *mean = origin + shift;
  *variance = spread < 0 ? 0 : spread;  // keeps NaN
}

MXReturnValue norm_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                           const OpResource&) {
  const NormOptions options(attributes);
  const Layout layout(inputs->at(kX));
  const float* x = floats(inputs, kX);
  const float* gamma = floats(inputs, kGamma);
  const float* beta = floats(inputs, kBeta);
  const float* slope = floats(inputs, kSlope);
  const bool train = training(floats(inputs, kMode));
  float* running_mean = floats(inputs, kMean);
  float* running_variance = floats(inputs, kVariance);
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
    const float factor = (options.fix_gamma ? 1.f : gamma[c]) * used_inverse[c];
    const float offset = beta[c];
    const float negative = slope[c];
    for (int64_t n = 0; n < layout.batch; ++n) {
      const int64_t start = layout.row(n, c);
#pragma omp simd
      for (int64_t i = start; i < start + layout.positions; ++i) {
        const float value = (x[i] - centre) * factor + offset;
        y[i] = value > 0.f ? value : value * negative;
      }
    }
  }
  return MX_SUCCESS;
}

MXReturnValue norm_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  constexpr int kInputs = kNormOutputs;  // after the gradients of the outputs
  constexpr int kOutputs = kInputs + kNormInputs;
  const NormOptions options(attributes);
  const Layout layout(inputs->at(kInputs + kX));
  const float* dy = floats(inputs, 0);
  const float* x = floats(inputs, kInputs + kX);
  const float* gamma = floats(inputs, kInputs + kGamma);
  const float* beta = floats(inputs, kInputs + kBeta);
  const float* slope = floats(inputs, kInputs + kSlope);
  const bool train = training(floats(inputs, kInputs + kMode));
  const float* mean = floats(inputs, kOutputs + kUsedMean);
  const float* inverse = floats(inputs, kOutputs + kUsedInverse);
  float* dx = floats(outputs, kX);
  float* dgamma = floats(outputs, kGamma);
  float* dbeta = floats(outputs, kBeta);
  float* dslope = floats(outputs, kSlope);
  const double count = static_cast<double>(layout.batch * layout.positions);
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t c = 0; c < layout.channels; ++c) {
    const float centre = mean[c], offset = beta[c];
    const float factor = (options.fix_gamma ? 1.f : gamma[c]) * inverse[c];
    const float negative = slope[c];
    double dz_sum = 0, dz_centred_sum = 0, slope_sum = 0;
    for (int64_t n = 0; n < layout.batch; ++n) {
      const int64_t start = layout.row(n, c);
#pragma omp simd reduction(+ : dz_sum, dz_centred_sum, slope_sum)
      for (int64_t i = start; i < start + layout.positions; ++i) {
        const float z = (x[i] - centre) * factor + offset;
        const float dz = z > 0.f ? dy[i] : dy[i] * negative;
        dz_sum += dz;
        dz_centred_sum += dz * (x[i] - centre);
        slope_sum += z > 0.f ? 0.f : dy[i] * z;
      }
    }
    dgamma[c] = options.fix_gamma ? 0.f : static_cast<float>(dz_centred_sum * inverse[c]);
    dbeta[c] = static_cast<float>(dz_sum);
    dslope[c] = static_cast<float>(slope_sum);
    // The batch's mean and variance depend on x; the running ones do not.
    const float mean_term = train ? dz_sum / count : 0.0;
    const float variance_term = train ? dz_centred_sum * inverse[c] * inverse[c] / count : 0.0;
    for (int64_t n = 0; n < layout.batch; ++n) {
      const int64_t start = layout.row(n, c);
#pragma omp simd
      for (int64_t i = start; i < start + layout.positions; ++i) {
        const float centred = x[i] - centre;
        const float z = centred * factor + offset;
        const float dz = z > 0.f ? dy[i] : dy[i] * negative;
        dx[i] = factor * (dz - mean_term - centred * variance_term);
      }
    }
  }
  floats(outputs, kMode)[0] = 0.f;
  for (int state : {kMean, kVariance}) {
    for (int64_t c = 0; c < layout.channels; ++c) floats(outputs, state)[c] = 0.f;
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

REGISTER_OP(vg_bn_prelu)
    .setForward(norm_forward, "cpu")
    .setBackward(norm_backward, "cpu")
    .setParseAttrs(norm_arity)
    .setInferType(float32_only)
    .setInferShape(norm_shape)
    .setInferSType(dense_only)
    .setMutateInputs(norm_auxiliary);

MXReturnValue initialize(int version) {
  if (version / 100 == 109) return MX_SUCCESS;
  MX_ERROR_MSG << "the vg_ operators are written for MXNet 1.9, not " << version;
  return MX_FAIL;
}
