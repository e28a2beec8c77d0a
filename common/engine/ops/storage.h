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

// Where the row of a channel, or of two with the given one first, begins.
template <typename Storage>
inline int64_t row_of(const Layout& layout, int64_t image, int64_t channel) {
  return layout.row(image, channel) / Storage::kChannels;
}

}  // namespace vargfacenet

#endif  // VARGFACENET_STORAGE_H_
