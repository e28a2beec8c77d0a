// Pictures with a position's channels side by side: a vector holds one position of kLanes channels.

#ifndef VARGFACENET_CHANNELS_H_
#define VARGFACENET_CHANNELS_H_

#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace vargfacenet {

// Positions of the channels at `from` + l * pitch, l < lanes, to vectors at place(position); zeros
// for the other lanes.
template <typename Place>
inline void load_channels(const float* from, int64_t pitch, int64_t positions, int64_t lanes,
                          Place place) {
  const int64_t count = std::min<int64_t>(kLanes, positions);
  for (int64_t p = 0; p < positions; p += kLanes) {
    const int64_t at = std::min(p, positions - count);  // the last vectors overlap
    Vec rows[kLanes];
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; ++l) {
      rows[l] = l < lanes ? load_first(from + l * pitch + at, count) : Vec{};
    }
    transpose(rows);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i < count) store(place(at + i), rows[i]);
    }
  }
}

// The reverse, from vectors that lie one after the other.
inline void store_channels(const float* vectors, int64_t positions, int64_t lanes, float* to) {
  const int64_t count = std::min<int64_t>(kLanes, positions);
  for (int64_t p = 0; p < positions; p += kLanes) {
    const int64_t at = std::min(p, positions - count);
    Vec rows[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      rows[i] = i < count ? load(vectors + (at + i) * kLanes) : Vec{};
    }
    transpose(rows);
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; ++l) {
      if (l < lanes) store_first(to + l * positions + at, rows[l], count);
    }
  }
}

template <typename Element>
inline Element* zeros(Element* memory, int64_t size) {
  std::fill(memory, memory + size, Element{});
  return memory;
}

}  // namespace vargfacenet

#endif  // VARGFACENET_CHANNELS_H_
