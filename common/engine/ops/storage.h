// What the arrays between operators hold, and what convolutions multiply.
//
// Float32: plain (N, C, H, W) float32.
//
// Bfloat16: (N, C, H, W) for an even C, in which position p of the channels 2 c and 2 c + 1 lies
// side by side as a pair, so that memory is (N, C / 2, H, W) of pairs. MXNet takes these arrays for
// float16, a type of that size that it moves and never computes with: `bfloat16.py` sees to it that
// our operators alone read them. Sums over channels multiply pairs as they lie in memory, all
// others take a pair apart by a shift or a mask.

#ifndef VARGFACENET_STORAGE_H_
#define VARGFACENET_STORAGE_H_

#include <cstdint>

#include "bf16.h"
#include "simd.h"
#include "tensor.h"

namespace vargfacenet {

// `kGroup` channels are read and written at a time, of which an array of floats has a row each, an
// array of pairs one for two of them. `from` and `to` point into the first row; from row to row it
// is `positions`.

struct Float32 {
  using Element = float;
  static constexpr int kChannels = 1;  // in an element
  static constexpr int kType = mxnet::ext::kFloat32;

  template <int kGroup>
  static void read(const float* from, int64_t positions, int64_t lanes, Vec (&values)[kGroup]) {
    for (int g = 0; g < kGroup; ++g) values[g] = load_first(from + g * positions, lanes);
  }
  template <int kGroup>
  static void write(const Vec (&values)[kGroup], int64_t positions, int64_t lanes, float* to) {
    for (int g = 0; g < kGroup; ++g) store_first(to + g * positions, values[g], lanes);
  }
};

struct Bfloat16 {
  using Element = Pair;
  static constexpr int kChannels = 2;
  static constexpr int kType = mxnet::ext::kFloat16;

  template <int kGroup>
  static void read(const Pair* from, int64_t, int64_t lanes, Vec (&values)[kGroup]) {
    static_assert(kGroup == 2, "a row holds two channels");
    const Pairs pairs = load_first(from, lanes);
    values[0] = first_of(pairs);
    values[1] = second_of(pairs);
  }
  template <int kGroup>
  static void write(const Vec (&values)[kGroup], int64_t, int64_t lanes, Pair* to) {
    static_assert(kGroup == 2, "a row holds two channels");
    store_first(to, round_to_pairs(values[0], values[1]), lanes);
  }
};

template <typename Storage>
inline typename Storage::Element* elements(Tensors* tensors, size_t index) {
  return tensors->at(index).data<typename Storage::Element>();
}

// Whether channels, of a whole array or of a group of it, fill its elements; a message where not,
// since an operator would read and write behind them.
template <typename Storage>
inline bool fill_elements(int64_t channels) {
  if (channels % Storage::kChannels == 0) return true;
  MX_ERROR_MSG << "bfloat16 wants an even number of channels, in each group as well, not "
               << channels;
  return false;
}

using ShapeFunction = MXReturnValue (*)(const Attributes&, Shapes*, Shapes*);

// `kShape`, for an operator whose first input and output hold `In` and `Out`.
template <typename In, typename Out, ShapeFunction kShape>
MXReturnValue stored_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  if (kShape(attributes, inputs, outputs) != MX_SUCCESS) return MX_FAIL;
  if (!shape_known(*inputs)) return MX_SUCCESS;
  const bool filled = fill_elements<In>(inputs->at(0)[1]) && fill_elements<Out>(outputs->at(0)[1]);
  return filled ? MX_SUCCESS : MX_FAIL;
}

// Where the row of a channel, or of two with the given one first, begins.
template <typename Storage>
inline int64_t row_of(const Layout& layout, int64_t image, int64_t channel) {
  return layout.row(image, channel) / Storage::kChannels;
}

}  // namespace vargfacenet

#endif  // VARGFACENET_STORAGE_H_
