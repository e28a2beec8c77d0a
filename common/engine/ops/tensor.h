// What the operators share: MXNet's library interface under short names, arrays seen as
// (batch, channels, positions), attributes as numbers.
//
// Rules that all operators here keep:
// - float32, contiguous, channels on axis 1; a 2-D (N, C) input has one position a channel.
// - Who sums what in which order depends on the shapes and the number of threads alone, never on
//   who comes first: the same threads give the same bits.
// - Backward functions get: output gradients, inputs, outputs; they write one array an input.

#ifndef VARGFACENET_TENSOR_H_
#define VARGFACENET_TENSOR_H_

#include <mxnet/lib_api.h>

#include <cmath>
#include <cstdint>
#include <locale>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "simd.h"

namespace vargfacenet {

using mxnet::ext::MX_FAIL;
using mxnet::ext::MX_SUCCESS;
using mxnet::ext::MXReturnValue;
using mxnet::ext::MXTensor;
using mxnet::ext::OpResource;

using Attributes = std::unordered_map<std::string, std::string>;
using Tensors = std::vector<MXTensor>;
using Types = std::vector<int>;
using Shapes = std::vector<std::vector<unsigned int>>;

// An array seen as (batch, channels, positions), or a part of its channels.
struct Layout {
  int64_t batch;
  int64_t channels;
  int64_t positions = 1;
  int64_t pitch;  // channels from one image to the next

  explicit Layout(const MXTensor& tensor)
      : batch(tensor.shape[0]), channels(tensor.shape[1]), pitch(channels) {
    for (size_t axis = 2; axis < tensor.shape.size(); ++axis) positions *= tensor.shape[axis];
  }
  int64_t rows() const { return batch * channels; }
  int64_t row(int64_t image, int64_t channel) const {
    return (image * pitch + channel) * positions;
  }
  // That of `count` channels; their array begins at the first of them.
  Layout part(int64_t count) const {
    Layout result = *this;
    result.channels = count;
    return result;
  }
  bool parallel() const { return rows() * positions > kParallelSize; }
};

inline float* floats(Tensors* tensors, size_t index) { return tensors->at(index).data<float>(); }

template <int kInputs>
MXReturnValue arity(const Attributes&, int* inputs, int* outputs) {
  *inputs = kInputs;
  *outputs = 1;
  return MX_SUCCESS;
}

constexpr int kFloats = mxnet::ext::kFloat32;

// Sets unknown types to the wanted ones; false, with a message, where one is another.
inline bool set_types(const Types& wanted, Types* types) {
  for (size_t i = 0; i < types->size(); ++i) {
    int& type = types->at(i);
    if (type != -1 && type != wanted[i]) {
      MX_ERROR_MSG << "the vg_ operators work on float32 only, those with _bf16 in their names on "
                      "what vg_to_bf16 made of it; bind the official symbol for other types";
      return false;
    }
    type = wanted[i];
  }
  return true;
}

inline MXReturnValue float32_only(const Attributes&, Types* inputs, Types* outputs) {
  const Types in(inputs->size(), kFloats), out(outputs->size(), kFloats);
  return set_types(in, inputs) && set_types(out, outputs) ? MX_SUCCESS : MX_FAIL;
}

inline bool shape_known(const Shapes& shapes) { return shapes[0].size() >= 2; }

// A number at the start of `text`. Not std::stof, which reads "0.9" as 0 in a program that has set
// a locale with decimal commas.
inline float number(const std::string& text) {
  std::istringstream stream(text);
  stream.imbue(std::locale::classic());
  float value = std::nanf("");
  stream >> value;
  return value;
}

// Those in a text such as "(3, 5, 7)".
inline std::vector<int64_t> whole_numbers(const std::string& text) {
  std::vector<int64_t> numbers;
  bool inside = false;
  for (const char letter : text) {
    const bool digit = letter >= '0' && letter <= '9';
    if (digit && !inside) numbers.push_back(0);
    if (digit) numbers.back() = numbers.back() * 10 + (letter - '0');
    inside = digit;
  }
  return numbers;
}

}  // namespace vargfacenet

#endif  // VARGFACENET_TENSOR_H_
