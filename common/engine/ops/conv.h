// What the convolutions with MXNet's attributes share.

#ifndef VARGFACENET_CONV_H_
#define VARGFACENET_CONV_H_

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
    if (found == attributes.end() || !(number(found->second) >= 1)) {
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

}  // namespace vargfacenet

#endif  // VARGFACENET_CONV_H_
