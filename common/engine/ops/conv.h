// What the convolutions with MXNet's attributes share.

#ifndef VARGFACENET_CONV_H_
#define VARGFACENET_CONV_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "simd.h"
#include "storage.h"
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
template <typename Storage>
void sum_channels(const Layout& layout, const typename Storage::Element* dy, float* dbias) {
  constexpr int kGroup = Storage::kChannels;
  for (int64_t c = 0; c < layout.channels; c += kGroup) {
    Sum sums[kGroup];
    for (int64_t n = 0; n < layout.batch; ++n) {
      const auto* row = dy + row_of<Storage>(layout, n, c);
      for_vectors(layout.positions, [&](int64_t i, int64_t lanes) {
        Vec values[kGroup];
        Storage::read(row + i, layout.positions, lanes, values);
        for (int g = 0; g < kGroup; ++g) sums[g].add(values[g]);
        if (i % kStretch == 0) {
          for (Sum& sum : sums) sum.end_stretch();
        }
      });
    }
    for (int g = 0; g < kGroup; ++g) dbias[c + g] = static_cast<float>(sums[g].total());
  }
}

// Types; `In` and `Out` are of data and y.
template <typename In, typename Out>
MXReturnValue conv_types(const Attributes&, Types* inputs, Types* outputs) {
  Types in(inputs->size(), kFloats);
  in[kData] = In::kType;
  return set_types(in, inputs) && set_types({Out::kType}, outputs) ? MX_SUCCESS : MX_FAIL;
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

template <typename Storage>
MXReturnValue mixed_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const Slices slices(attributes);
  auto shape = inputs->at(kData);
  unsigned channels = 0, filters = 0;
  for (size_t i = 0; i < slices.count(); ++i) {
    const unsigned in = slices.channels[i], out = slices.filters[i];
    if (!fill_elements<Storage>(in) || !fill_elements<Storage>(out)) return MX_FAIL;
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

template <typename In, typename Out>
MXReturnValue grouped_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const unsigned filters = whole(attributes, "num_filter");
  const unsigned groups = whole(attributes, "num_group");
  const unsigned stride = whole(attributes, "stride");
  const auto shape = inputs->at(kData);
  if (shape.size() != 4 || shape[1] % groups != 0 || filters % groups != 0) {
    MX_ERROR_MSG << "a grouped 3x3 convolution wants (N, C, H, W) and a number of groups that "
                    "divides C and num_filter, not "
                 << shape.size() << " axes, C " << shape[1] << ", num_filter " << filters
                 << ", num_group " << groups;
    return MX_FAIL;
  }
  const bool filled = fill_elements<In>(shape[1] / groups) && fill_elements<Out>(filters / groups);
  if (!filled) return MX_FAIL;
  inputs->at(kWeight) = {filters, shape[1] / groups, 3, 3};
  if (has_bias(attributes)) inputs->at(kBias) = {filters};
  outputs->at(0) = {shape[0], filters, (shape[2] - 1) / stride + 1, (shape[3] - 1) / stride + 1};
  return MX_SUCCESS;
}

// Whether anybody reads the gradient of the data; where not, `dx` is filled with what is not a
// number, in float32 as in bfloat16.
inline bool input_gradient_wanted(const Attributes& attributes, const MXTensor& data, float* dx) {
  const auto found = attributes.find("input_gradient");
  const bool wanted = found == attributes.end() || found->second != "False";
  const int64_t floats = data.dtype == kFloats ? data.size() : data.size() / 2;
  if (!wanted) std::memset(dx, 0xff, floats * sizeof(float));
  return wanted;
}

// Slices of the batch whose gradients of the weights are summed apart: they give the threads even
// work where groups are few. Their number depends on the shapes alone.
inline int64_t batch_slices(int64_t batch, int64_t groups) {
  return std::min<int64_t>(batch, (16 + groups - 1) / groups);
}

// ---------------------------------------------------------------------------------- pair arrays
// The convolutions of conv.cc and grouped.cc, for operators that have one inside of them.

using Pass = MXReturnValue(const Attributes&, Tensors*, Tensors*, const OpResource&);
Pass pointwise_bf16_forward, pointwise_bf16_backward, grouped_bf16_forward, grouped_bf16_backward;

}  // namespace vargfacenet

#endif  // VARGFACENET_CONV_H_
