// Between plain arrays of float32 and arrays of pairs of bfloat16 numbers (storage.h): the casts
// before and after what knows one of them alone, and sums of pair arrays for several readers.

#include <string>
#include <vector>

#include "simd.h"
#include "storage.h"
#include "tensor.h"

namespace vargfacenet {
namespace {

MXReturnValue same_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  if (!fill_elements<Bfloat16>(inputs->at(0)[1])) return MX_FAIL;
  for (auto& shape : *outputs) shape = inputs->at(0);
  return MX_SUCCESS;
}

template <typename In, typename Out>
MXReturnValue cast_types(const Attributes&, Types* inputs, Types* outputs) {
  const Types out(outputs->size(), Out::kType);
  return set_types({In::kType}, inputs) && set_types(out, outputs) ? MX_SUCCESS : MX_FAIL;
}

// to = the sum of `from`, every array with the channels and positions of the layout.
template <typename In, typename Out>
void sum(const Layout& layout, const std::vector<typename In::Element*>& from,
         const std::vector<typename Out::Element*>& to) {
  constexpr int kGroup = 2;
#pragma omp parallel for schedule(static) if (layout.parallel())
  for (int64_t r = 0; r < layout.rows(); r += kGroup) {
    const int64_t in = r / In::kChannels * layout.positions;
    const int64_t out = r / Out::kChannels * layout.positions;
    for_vectors(layout.positions, [&](int64_t i, int64_t lanes) {
      Vec values[kGroup];
      In::read(from[0] + in + i, layout.positions, lanes, values);
      for (size_t a = 1; a < from.size(); ++a) {
        Vec more[kGroup];
        In::read(from[a] + in + i, layout.positions, lanes, more);
        for (int g = 0; g < kGroup; ++g) values[g] = values[g] + more[g];
      }
      for (auto* array : to) Out::write(values, layout.positions, lanes, array + out + i);
    });
  }
}

template <typename In, typename Out>
MXReturnValue cast(const Attributes&, Tensors* inputs, Tensors* outputs, const OpResource&) {
  sum<In, Out>(Layout(inputs->at(0)), {elements<In>(inputs, 0)}, {elements<Out>(outputs, 0)});
  return MX_SUCCESS;
}

// vg_sum_bf16: the sum of `terms` arrays, written for `copies` readers, whose gradients are summed
// in float32 and rounded once. One term is one array for several readers.

int64_t number_of(const Attributes& attributes, const char* name) {
  return static_cast<int64_t>(number(attributes.at(name)));
}

MXReturnValue sum_arity(const Attributes& attributes, int* inputs, int* outputs) {
  for (const char* name : {"terms", "copies"}) {
    if (attributes.count(name) == 0 || !(number(attributes.at(name)) >= 1)) {
      MX_ERROR_MSG << "vg_sum_bf16 needs a positive whole number as " << name;
      return MX_FAIL;
    }
  }
  *inputs = static_cast<int>(number_of(attributes, "terms"));
  *outputs = static_cast<int>(number_of(attributes, "copies"));
  return MX_SUCCESS;
}

MXReturnValue sum_types(const Attributes&, Types* inputs, Types* outputs) {
  const Types in(inputs->size(), Bfloat16::kType), out(outputs->size(), Bfloat16::kType);
  return set_types(in, inputs) && set_types(out, outputs) ? MX_SUCCESS : MX_FAIL;
}

MXReturnValue sum_arrays(Tensors* inputs, int64_t count, Tensors* outputs) {
  std::vector<Pair*> from, to;
  for (int64_t i = 0; i < count; ++i) from.push_back(elements<Bfloat16>(inputs, i));
  for (size_t i = 0; i < outputs->size(); ++i) to.push_back(elements<Bfloat16>(outputs, i));
  sum<Bfloat16, Bfloat16>(Layout(inputs->at(0)), from, to);
  return MX_SUCCESS;
}

MXReturnValue sum_forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                          const OpResource&) {
  return sum_arrays(inputs, number_of(attributes, "terms"), outputs);
}

MXReturnValue sum_backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                           const OpResource&) {
  return sum_arrays(inputs, number_of(attributes, "copies"), outputs);
}

MXReturnValue sum_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  if (!shape_known(*inputs)) return MX_SUCCESS;
  for (auto& shape : *inputs) shape = inputs->at(0);
  return same_shape(attributes, inputs, outputs);
}

}  // namespace

REGISTER_OP(vg_sum_bf16)
    .setForward(sum_forward, "cpu")
    .setBackward(sum_backward, "cpu")
    .setParseAttrs(sum_arity)
    .setInferType(sum_types)
    .setInferShape(sum_shape);

// vg_to_bf16: float32 -> pairs, rounded; vg_from_bf16: pairs -> float32.
REGISTER_OP(vg_to_bf16)
    .setForward(cast<Float32, Bfloat16>, "cpu")
    .setBackward(cast<Bfloat16, Float32>, "cpu")
    .setParseAttrs(arity<1>)
    .setInferType(cast_types<Float32, Bfloat16>)
    .setInferShape(same_shape);

REGISTER_OP(vg_from_bf16)
    .setForward(cast<Bfloat16, Float32>, "cpu")
    .setBackward(cast<Float32, Bfloat16>, "cpu")
    .setParseAttrs(arity<1>)
    .setInferType(cast_types<Bfloat16, Float32>)
    .setInferShape(same_shape);

}  // namespace vargfacenet

// Whether products of pairs are single instructions here, not float32 multiply-adds that take
// longer.
extern "C" int vg_fast_bf16() {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}
