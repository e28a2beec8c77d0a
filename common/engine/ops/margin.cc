// Softmax cross entropy with a margin on the target's cosine, straight from embeddings and class
// centres: no array of one-hot labels, none of normalised centres, one of cosines.
//
// Inputs embedding (N, D), centres (C, D), label (N,), the number of a class. Outputs loss (N,),
// correct (N,), which is 1 where the target's logit is the largest; for the gradient the shift
// (N,) that makes exp(logit - shift) the probability, the cosines (N, C) and the factors (C,) that
// give the centres unit length.
//
// Logits are s times a value: of the target cos(m1 theta + m2) - m3, of the others their cosine, or
// with an alpha above 0 ArcNegFace's t (1 + cos) - 1, where the weight t is a constant to the
// gradient. With detach the margin is one as well: the target's value goes with its cosine. With
// smoothing e the loss is the cross entropy with (1 - e) one-hot + e / C.
// recognition/losses/ has the definitions and the reasons for the clipping.

#include <algorithm>
#include <cmath>
#include <limits>

#include <omp.h>

#include "product.h"
#include "simd.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

enum MarginInput { kEmbedding, kCentres, kLabel, kMarginInputs };
enum MarginOutput { kLoss, kCorrect, kShift, kCosine, kFactor, kMarginOutputs };

constexpr double kPi = 3.14159265358979323846;
constexpr double kCosineLimit = 1 - 1e-6;
constexpr float kNormFloor = 1e-10f;  // added to a squared length, as L2Normalization does

// The target's cosine with its margin, and the derivative; what the other classes have is beside it.
struct Margin {
  double scale, m1, m2, m3, alpha, sigma, smoothing;
  bool detach;

  explicit Margin(const Attributes& attributes)
      : scale(number(attributes.at("s"))),
        m1(number(attributes.at("m1"))),
        m2(number(attributes.at("m2"))),
        m3(number(attributes.at("m3"))),
        alpha(number(attributes.at("alpha"))),
        sigma(number(attributes.at("sigma"))),
        smoothing(number(attributes.at("smoothing"))),
        detach(number(attributes.at("detach")) != 0) {}

  double limit() const { return (kPi - m2) / m1; }
  bool of_angle() const { return m1 != 1 || m2 != 0; }
  static double angle(double cosine) {
    return std::acos(std::min(std::max(cosine, -kCosineLimit), kCosineLimit));
  }
  double operator()(double cosine) const {
    if (!of_angle()) return cosine - m3;
    const double theta = angle(cosine);
    if (theta < limit()) return std::cos(m1 * theta + m2) - m3;
    return cosine - (kPi - limit()) * std::sin(limit()) - m3;
  }
  double derivative(double cosine) const {
    if (detach || !of_angle()) return 1;
    const double theta = angle(cosine);
    if (theta >= limit()) return 1;
    if (std::abs(cosine) > kCosineLimit) return 0;
    return m1 * std::sin(m1 * theta + m2) / std::sin(theta);
  }
};

// Values of the classes that are not the target, of one image: the cosines or, weighted, what
// ArcNegFace makes of them; `target` is the target's value.
template <bool kWeighted>
struct Others {
  Vec target, alpha, pace;

  Others(const Margin& margin, double target)
      : target(splat(target)), alpha(splat(margin.alpha)), pace(splat(-1 / margin.sigma)) {}

  // Derivative of a value by its cosine.
  Vec weight(Vec cosine) const {
    if (!kWeighted) return splat(1);
    const Vec distance = cosine - target;
    return alpha * exponential(distance * distance * pace);
  }
  Vec value(Vec cosine) const {
    return kWeighted ? weight(cosine) * (cosine + 1) - 1 : cosine;
  }
};

MXReturnValue margin_arity(const Attributes& attributes, int* inputs, int* outputs) {
  for (const char* name : {"s", "m1", "m2", "m3", "alpha", "sigma", "smoothing", "detach"}) {
    if (attributes.count(name) == 0) {
      MX_ERROR_MSG << "vg_margin_softmax needs the attribute " << name;
      return MX_FAIL;
    }
  }
  *inputs = kMarginInputs;
  *outputs = kMarginOutputs;
  return MX_SUCCESS;
}

MXReturnValue margin_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs) || inputs->at(kCentres).size() != 2) return MX_SUCCESS;
  const unsigned images = inputs->at(kEmbedding)[0], classes = inputs->at(kCentres)[0];
  inputs->at(kCentres) = {classes, inputs->at(kEmbedding)[1]};
  inputs->at(kLabel) = {images};
  outputs->at(kLoss) = outputs->at(kCorrect) = outputs->at(kShift) = {images};
  outputs->at(kCosine) = {images, classes};
  outputs->at(kFactor) = {classes};
  return MX_SUCCESS;
}

int64_t target_of(const float* label, int64_t row, int64_t classes) {
  return std::min(std::max<int64_t>(static_cast<int64_t>(label[row]), 0), classes - 1);
}

struct Head {
  int64_t images, size, classes;
  const float *embedding, *centres, *label;
};

// `count` rows of `size` floats, each times its factor, in rows of round_up(size, kPanel) floats;
// the rest of those and of the last kRows rows is zero.
void unit_rows(const float* rows, int64_t count, int64_t size, const float* factors, float* unit) {
  const int64_t width = round_up(size, kPanel);
  std::fill(unit, unit + round_up(count, kRows) * width, 0.f);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t i = 0; i < size; ++i) unit[r * width + i] = rows[r * size + i] * factors[r];
  }
}

// Cosines and factors of classes first..first+count-1, count <= kPanel.
void panel_cosines(const Head& head, const float* unit, int64_t first, int64_t count, float* cosine,
                   float* factor) {
  const int64_t depth = round_up(head.size, kLanes), width = round_up(head.size, kPanel);
  float* rows = scratch<0>(kPanel * depth);  // the panel's centres, zeros behind them
  float* panel = scratch<1>(depth * kPanel);
  float factors[kPanel] = {};
  if (count < kPanel || depth > head.size) std::fill(rows, rows + kPanel * depth, 0.f);
  for (int64_t c = 0; c < count; ++c) {
    const float* centre = head.centres + (first + c) * head.size;
    copy_row(centre, head.size, rows + c * depth);
    factors[c] = factor[first + c] = unit_factor(centre, head.size, kNormFloor);
  }
  for (int64_t k = 0; k < depth; k += kLanes) {
    for (int v = 0; v < kVectors; ++v) {
      transpose(rows + v * kLanes * depth + k, depth, panel + k * kPanel + v * kLanes, kPanel);
    }
  }
  for (int64_t row = 0; row < head.images; row += kRows) {
    float block[kRows * kPanel];
    product_block<false>(depth, unit + row * width, width, 1, panel, kPanel, block, kPanel);
    for (int64_t r = 0; r < std::min<int64_t>(kRows, head.images - row); ++r) {
      float* to = cosine + (row + r) * head.classes + first;
      for_vectors(count, [&](int64_t i, int64_t lanes) {
        store_first(to + i, load(block + r * kPanel + i) * load(factors + i), lanes);
      });
    }
  }
}

// Loss, correctness and shift of one image from the values of all classes; that of the target is
// not looked at, `own` stands for it.
void row_loss(const Margin& margin, const float* values, double own, int64_t classes,
              int64_t target, float* loss, float* correct, float* shift) {
  float largest = -std::numeric_limits<float>::infinity();
  int64_t best = -1;
  for (int64_t c = 0; c < classes; ++c) {
    if (values[c] > largest && c != target) {
      largest = values[c];
      best = c;
    }
  }
  const double logit = margin.scale * own;
  const double top = best < 0 ? logit : std::max(logit, margin.scale * largest);
  const Vec scales = splat(margin.scale), tops = splat(top);
  Sum sum, all;
  int64_t count = 0;
  const auto add = [&](int64_t from, int64_t to) {
    for_vectors(to - from, [&](int64_t i, int64_t lanes) {
      const Vec value = load_first(values + from + i, lanes);
      sum.add(keep_first(exponential(value * scales - tops), lanes));
      all.add(value);
      if (++count % 256 == 0) {
        sum.end_stretch();
        all.end_stretch();
      }
    });
  };
  add(0, target);
  add(target + 1, classes);
  const double log_sum = std::log(sum.total() + std::exp(logit - top));
  const double mean = margin.scale * (all.total() + own) / classes;
  *loss = static_cast<float>(top + log_sum - logit + margin.smoothing * (logit - mean));
  *shift = static_cast<float>(top + log_sum);
  // The first of equal logits is the network's answer.
  const double other = margin.scale * largest;
  *correct = best < 0 || logit > other || (logit == other && target < best) ? 1.f : 0.f;
}

template <bool kWeighted>
void loss_of_image(const Margin& margin, const float* cosine, int64_t classes, int64_t target,
                   float* loss, float* correct, float* shift) {
  const double own = margin(cosine[target]);
  const float* values = cosine;
  if (kWeighted) {
    float* row = scratch<2>(classes);
    const Others<kWeighted> others(margin, own);
    for_vectors(classes, [&](int64_t i, int64_t lanes) {
      store_first(row + i, others.value(load_first(cosine + i, lanes)), lanes);
    });
    values = row;
  }
  row_loss(margin, values, own, classes, target, loss, correct, shift);
}

MXReturnValue margin_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                             const OpResource&) {
  const Margin margin(attributes);
  const Head head{inputs->at(kEmbedding).shape[0], inputs->at(kEmbedding).shape[1],
                  inputs->at(kCentres).shape[0],   floats(inputs, kEmbedding),
                  floats(inputs, kCentres),        floats(inputs, kLabel)};
  float* cosine = floats(outputs, kCosine);
  float* factor = floats(outputs, kFactor);
  float* unit = scratch<4>(round_up(head.images, kRows) * round_up(head.size, kPanel));
  std::vector<float> factors(head.images);
  for (int64_t n = 0; n < head.images; ++n) {
    factors[n] = unit_factor(head.embedding + n * head.size, head.size, kNormFloor);
  }
  unit_rows(head.embedding, head.images, head.size, factors.data(), unit);
  const int64_t panels = (head.classes + kPanel - 1) / kPanel;
#pragma omp parallel for schedule(static)
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t first = panel * kPanel;
    panel_cosines(head, unit, first, std::min<int64_t>(kPanel, head.classes - first), cosine,
                  factor);
  }
  const auto image = margin.alpha > 0 ? loss_of_image<true> : loss_of_image<false>;
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < head.images; ++n) {
    image(margin, cosine + n * head.classes, head.classes,
          target_of(head.label, n, head.classes), floats(outputs, kLoss) + n,
          floats(outputs, kCorrect) + n, floats(outputs, kShift) + n);
  }
  return MX_SUCCESS;
}

constexpr int64_t kBlock = 4 * kPanel;  // classes whose gradients are computed at a time

// What the gradient needs of every image beside its cosines.
struct Rows {
  std::vector<float> gradient, shift;  // of the loss; of the logits
  std::vector<int64_t> target;
  std::vector<float> target_gradient;  // of the target's cosine
  std::vector<double> own;             // the target's value
};

// q (images, kBlock): gradients of the cosines of classes first..first+count-1, zeros behind; and
// of each the sum of gradient times cosine, over the images (kBlock,) and added to `along` (N,).
template <bool kWeighted>
void cosine_gradients(const Head& head, const Rows& rows, const Margin& margin,
                      const float* cosine, int64_t first, int64_t count, float* q,
                      float* by_class, double* along) {
  std::fill(by_class, by_class + kBlock, 0.f);
  std::fill(q, q + round_up(head.images, kRows) * kBlock, 0.f);
  for (int64_t n = 0; n < head.images; ++n) {
    const float* from = cosine + n * head.classes + first;
    float* to = q + n * kBlock;
    const Vec scales = splat(margin.scale), shifts = splat(rows.shift[n]);
    const Vec factor = splat(rows.gradient[n] * margin.scale);
    const Vec wanted = splat(margin.smoothing / head.classes);
    const Others<kWeighted> others(margin, rows.own[n]);
    for_vectors(count, [&](int64_t i, int64_t lanes) {
      const Vec one = load_first(from + i, lanes);
      const Vec probability = exponential(others.value(one) * scales - shifts);
      store_first(to + i, (probability - wanted) * others.weight(one) * factor, lanes);
    });
    const int64_t target = rows.target[n] - first;
    if (target >= 0 && target < count) to[target] = rows.target_gradient[n];
    Vec sum = {};
    for_vectors(count, [&](int64_t i, int64_t lanes) {
      const Vec product = load_first(to + i, lanes) * load_first(from + i, lanes);
      sum = sum + product;
      store_first(by_class + i, load_first(by_class + i, lanes) + product, lanes);
    });
    along[n] += sum_of_lanes(sum);
  }
}

// Gradients of one block of classes: dcentres is written, the embeddings' is added to dunit.
void block_gradient(const Head& head, const Rows& rows, const Margin& margin, const float* cosine,
                    const float* factor, const float* unit, int64_t first, float* dunit,
                    double* along, float* dcentres) {
  const int64_t count = std::min(kBlock, head.classes - first);
  const int64_t size = head.size, width = round_up(size, kPanel);
  float* q = scratch<0>(round_up(head.images, kRows) * kBlock);
  float by_class[kBlock], factors[kBlock] = {};
  const auto gradients = margin.alpha > 0 ? cosine_gradients<true> : cosine_gradients<false>;
  gradients(head, rows, margin, cosine, first, count, q, by_class, along);
  std::copy_n(factor + first, count, factors);
  for (int64_t n = 0; n < head.images; ++n) {
    for (int64_t c = 0; c < kBlock; ++c) q[n * kBlock + c] *= factors[c];
  }
  for (int64_t d = 0; d < width; d += kPanel) {
    const float* centres = head.centres + first * size + d;
    int64_t pitch = size;
    const int64_t columns = std::min<int64_t>(kPanel, size - d);
    if (columns < kPanel) {  // the last panel reads no further than the rows go
      float* copy = scratch<1>(kBlock * kPanel);
      std::fill(copy, copy + count * kPanel, 0.f);
      for (int64_t c = 0; c < count; ++c) copy_row(centres + c * size, columns, copy + c * kPanel);
      centres = copy;
      pitch = kPanel;
    }
    for (int64_t row = 0; row < head.images; row += kRows) {
      product_block<true>(count, q + row * kBlock, kBlock, 1, centres, pitch,
                          dunit + row * width + d, width);
    }
    for (int64_t c = 0; c < count; c += kRows) {
      float block[kRows * kPanel];
      product_block<false>(head.images, q + c, 1, kBlock, unit + d, width, block, kPanel);
      for (int64_t r = 0; r < std::min<int64_t>(kRows, count - c); ++r) {
        const Vec back = splat(by_class[c + r] * factors[c + r] * factors[c + r]);
        float* to = dcentres + (first + c + r) * size + d;
        for_vectors(columns, [&](int64_t i, int64_t lanes) {
          const Vec centre = load_first(centres + (c + r) * pitch + i, lanes);
          store_first(to + i, load(block + r * kPanel + i) - centre * back, lanes);
        });
      }
    }
  }
}

MXReturnValue margin_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                              const OpResource&) {
  constexpr int kInputs = kMarginOutputs, kOutputs = kInputs + kMarginInputs;
  const Margin margin(attributes);
  const MXTensor& embedding = inputs->at(kInputs + kEmbedding);
  const Head head{embedding.shape[0],
                  embedding.shape[1],
                  inputs->at(kInputs + kCentres).shape[0],
                  floats(inputs, kInputs + kEmbedding),
                  floats(inputs, kInputs + kCentres),
                  floats(inputs, kInputs + kLabel)};
  const float* cosine = floats(inputs, kOutputs + kCosine);
  const float* factor = floats(inputs, kOutputs + kFactor);
  const int64_t images = head.images, size = head.size, width = round_up(size, kPanel);
  Rows rows;
  std::vector<float> factors(images);
  for (int64_t n = 0; n < images; ++n) {
    rows.gradient.push_back(floats(inputs, kLoss)[n]);
    rows.shift.push_back(floats(inputs, kOutputs + kShift)[n]);
    rows.target.push_back(target_of(head.label, n, head.classes));
    const double target = cosine[n * head.classes + rows.target[n]];
    rows.own.push_back(margin(target));
    const double probability = std::exp(margin.scale * rows.own[n] - rows.shift[n]);
    const double wanted = 1 - margin.smoothing + margin.smoothing / head.classes;
    rows.target_gradient.push_back(rows.gradient[n] * margin.scale * (probability - wanted) *
                                   margin.derivative(target));
    factors[n] = unit_factor(head.embedding + n * size, size, kNormFloor);
  }
  float* unit = scratch<4>(round_up(images, kRows) * width);
  unit_rows(head.embedding, images, size, factors.data(), unit);
  const int64_t blocks = (head.classes + kBlock - 1) / kBlock;
  const int64_t slices = std::min<int64_t>(blocks, omp_get_max_threads());
  const int64_t sums = round_up(images, kRows) * width;
  float* dunit = scratch<3>(slices * sums);
  std::vector<double> along(slices * images);
#pragma omp parallel for schedule(static, 1) num_threads(slices)
  for (int64_t slice = 0; slice < slices; ++slice) {
    std::fill_n(dunit + slice * sums, sums, 0.f);
    for (int64_t b = slice * blocks / slices; b < (slice + 1) * blocks / slices; ++b) {
      block_gradient(head, rows, margin, cosine, factor, unit, b * kBlock, dunit + slice * sums,
                     along.data() + slice * images, floats(outputs, kCentres));
    }
  }
  float* dembedding = floats(outputs, kEmbedding);
  for (int64_t n = 0; n < images; ++n) {
    double total = 0;
    for (int64_t slice = 0; slice < slices; ++slice) total += along[slice * images + n];
    for (int64_t i = 0; i < size; ++i) {
      double sum = 0;
      for (int64_t slice = 0; slice < slices; ++slice) {
        sum += dunit[slice * sums + n * width + i];
      }
      dembedding[n * size + i] =
          static_cast<float>((sum - total * unit[n * width + i]) * factors[n]);
    }
    floats(outputs, kLabel)[n] = 0.f;
  }
  return MX_SUCCESS;
}

}  // namespace

REGISTER_OP(vg_margin_softmax)
    .setForward(margin_forward, "cpu")
    .setBackward(margin_backward, "cpu")
    .setParseAttrs(margin_arity)
    .setInferType(float32_only)
    .setInferShape(margin_shape);

}  // namespace vargfacenet
