// Cosines of embeddings and a sample of class centres, and the update of those centres where they
// lie: the rows of the sample are read once for each, and written once, wherever they are.
//
// Centres and momenta are (rows, width) of float32 or float16; a row holds width / size centres of
// `size` values. A sample names rows; the c-th of its centres is part c % k of row sampled[c / k],
// k = width / size. Products are those of common/cpp/product.h.
//
// recognition/partial_fc/products.py has the mathematics, and the same in NumPy.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <omp.h>

#include "product.h"
#include "simd.h"

namespace vargfacenet {
namespace {

constexpr float kNormAddend = 1e-10f;     // of a squared length, as everywhere in the head
constexpr int64_t kBlock = 4 * kPanel;    // centres that are updated at a time
constexpr int kDroppedBits = 13;          // of float32's mantissa that float16 has not
constexpr float kLargestHalf = 65504.f;
constexpr float kSmallestNormal = 1.f / 16384;  // of float16; below, it counts in steps of 2^-24

typedef uint16_t Half;  // the bits of a float16
typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float to_float(Half half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#else
  const uint32_t sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
  if (rest < 0x400u) return float_of(sign | bits_of(rest * (1.f / 16777216)));
  if (rest >= 0x7c00u) return float_of(sign | 0x7f800000u | (rest & 0x3ffu) << kDroppedBits);
  return float_of(sign | ((rest << kDroppedBits) + (112u << 23)));
#endif
}

// Of a value that float16 has, or no number.
Half exact_half(float value) {
#if defined(__F16C__)
  return _cvtss_sh(value, 0);
#else
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u;
  const float size = std::fabs(value);
  if (size != size) return sign | 0x7e00u;
  if (size < kSmallestNormal) return sign | static_cast<uint32_t>(size * 16777216.f);
  return sign | ((bits_of(size) - (112u << 23)) >> kDroppedBits);
#endif
}

// Lanes that look random, of lanes that do not (a multiply-xorshift mixer of 32 bits).
Words mixed(Words x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

// A float16 neighbour of each value, the upper or the lower at random so that the mean is the
// value; `noise` has kDroppedBits random bits a lane. centres.py's round_at_random says why.
Vec rounded_at_random(Vec value, Words noise) {
  const Words kMask = Words{} + ((1u << kDroppedBits) - 1);
  noise &= kMask;
  value = value > kLargestHalf ? splat(kLargestHalf) : value;
  value = value < -kLargestHalf ? splat(-kLargestHalf) : value;
  Vec result = (Vec)(((Words)value + noise) & ~kMask);
  result = result > kLargestHalf ? splat(kLargestHalf) : result;
  result = result < -kLargestHalf ? splat(-kLargestHalf) : result;
  // near zero float16 is as fine as float32 is from 0.5 to 1, whose own rounding is used there
  const Vec share = (__builtin_convertvector((Indices)noise, Vec) + 0.5f) *
                        splat(1.f / (1 << kDroppedBits)) - 0.5f;
  volatile float shift = 0.75f;  // or the compiler takes the sum and difference for nothing
  const Vec step = splat(shift);
  const Vec small = (value + share * splat(1.f / 16777216) + step) - step;
  const Vec size = value < 0.f ? -value : value;
  return size < kSmallestNormal ? small : result;
}

void read_row(const float* from, int64_t count, float* to) { copy_row(from, count, to); }

void read_row(const Half* from, int64_t count, float* to) {
  int64_t i = 0;
#if defined(__F16C__) && defined(__AVX__)
  for (; i + 8 <= count; i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(halves));
  }
#endif
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

void write_row(const float* from, int64_t count, uint32_t, float* to) {
  copy_row(from, count, to);
}

// `key` is another number for every row, array and step.
void write_row(const float* from, int64_t count, uint32_t key, Half* to) {
  Words lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  for_vectors(count, [&](int64_t i, int64_t lanes) {
    const Words noise = mixed(mixed(lane + static_cast<uint32_t>(i)) ^ (Words{} + key));
    float values[kLanes];
    store(values, rounded_at_random(load_first(from + i, lanes), noise));
    for (int64_t c = 0; c < lanes; ++c) to[i + c] = exact_half(values[c]);
  });
}

// Where the centres of a sample are.
template <typename Value>
struct Sample {
  Value* values;
  const int64_t* rows;  // null: all, in order
  int64_t size, per_row;

  Value* centre(int64_t c) const {
    const int64_t row = c / per_row;
    return values + ((rows ? rows[row] : row) * per_row + c % per_row) * size;
  }
};

// Sampled rows lie anywhere, where no hardware foresees them: ask for centres first..first+count-1
// (those there are of `total`) while others are worked on.
template <typename Value>
void fetch(const Sample<Value>& sample, int64_t first, int64_t count, int64_t total) {
  for (int64_t c = first; c < std::min(first + count, total); ++c) {
    const char* row = reinterpret_cast<const char*>(sample.centre(c));
    for (size_t byte = 0; byte < sample.size * sizeof(Value); byte += 64) {
      __builtin_prefetch(row + byte);
    }
  }
}

// (images, size) in rows of `width` floats, zeros behind them and in the rows up to kRows.
void pad_rows(const float* from, int64_t images, int64_t size, int64_t width, float* to) {
  std::fill_n(to, round_up(images, kRows) * width, 0.f);
  for (int64_t n = 0; n < images; ++n) copy_row(from + n * size, size, to + n * width);
}

// Cosines (images, total) and factors of the centres first..first+count-1, count <= kPanel.
template <typename Value>
void panel_cosines(const Sample<Value>& sample, const float* unit, int64_t images, int64_t first,
                   int64_t count, int64_t total, float* cosine, float* factor) {
  const int64_t size = sample.size, depth = round_up(size, kLanes), width = round_up(size, kPanel);
  float* rows = scratch<0>(kPanel * depth);
  float* panel = scratch<1>(depth * kPanel);
  float factors[kPanel] = {};
  if (count < kPanel || depth > size) std::fill_n(rows, kPanel * depth, 0.f);
  for (int64_t c = 0; c < count; ++c) {
    read_row(sample.centre(first + c), size, rows + c * depth);
    factors[c] = factor[first + c] = unit_factor(rows + c * depth, size, kNormAddend);
  }
  for (int64_t k = 0; k < depth; k += kLanes) {
    for (int v = 0; v < kVectors; ++v) {
      transpose(rows + v * kLanes * depth + k, depth, panel + k * kPanel + v * kLanes, kPanel);
    }
  }
  const int64_t next = (kPanel * kRows + images - 1) / images;  // the next panel, bit by bit
  for (int64_t row = 0; row < images; row += kRows) {
    fetch(sample, first + kPanel + row / kRows * next, next, total);
    float block[kRows * kPanel];
    product_block<false>(depth, unit + row * width, width, 1, panel, kPanel, block, kPanel);
    for (int64_t r = 0; r < std::min<int64_t>(kRows, images - row); ++r) {
      float* to = cosine + (row + r) * total + first;
      for_vectors(count, [&](int64_t i, int64_t lanes) {
        store_first(to + i, load(block + r * kPanel + i) * load(factors + i), lanes);
      });
    }
  }
}

template <typename Value>
void sample_cosines(const float* unit, int64_t images, const Sample<Value>& sample, int64_t count,
                    float* cosine, float* factor) {
  const int64_t width = round_up(sample.size, kPanel);
  std::vector<float> padded(round_up(images, kRows) * width);
  pad_rows(unit, images, sample.size, width, padded.data());
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < count; first += kPanel) {
    panel_cosines(sample, padded.data(), images, first, std::min<int64_t>(kPanel, count - first),
                  count, cosine, factor);
  }
}

// What an update does; `rate` is the learning rate over the number of images.
struct Update {
  float rate, decay, mom;  // decay: learning rate times weight decay
  uint32_t key;
};

// A centre, its momentum, and the sum over the images of (gradient of the cosine) times (unit
// embedding) over the centre's length: momentum and centre move, in `weight` and `momentum`.
void move(const float* sum, float factor, const Update& update, int64_t size, float* weight,
          float* momentum) {
  Vec dots = {};
  for_vectors(size, [&](int64_t i, int64_t lanes) {
    dots = multiply_add(load_first(sum + i, lanes), load_first(weight + i, lanes), dots);
  });
  const float along = update.rate * sum_of_lanes(dots) * factor * factor;
  const Vec rate = splat(update.rate), mom = splat(update.mom);
  const Vec back = splat(update.decay - along);
  for_vectors(size, [&](int64_t i, int64_t lanes) {
    const Vec old = load_first(weight + i, lanes);
    const Vec change = load_first(sum + i, lanes) * rate + old * back;
    const Vec moved = load_first(momentum + i, lanes) * mom - change;
    store_first(momentum + i, moved, lanes);
    store_first(weight + i, old + moved, lanes);
  });
}

// Centres first..first+count-1, count <= kBlock: they move, and what the embeddings get of them is
// added to `gradient`; `unit` and `gradient` have rows of round_up(size, kPanel).
template <typename Value>
void update_block(const Sample<Value>& weights, const Sample<Value>& momenta, const float* unit,
                  int64_t images, const float* cosine, int64_t total, const float* factor,
                  int64_t first, int64_t count, const Update& update, float* gradient) {
  const int64_t size = weights.size, width = round_up(size, kPanel);
  float* q = scratch<0>(round_up(images, kRows) * kBlock);
  float* centres = scratch<1>(kBlock * width);
  float* sums = scratch<2>(kBlock * width);
  float* momentum = scratch<3>(width);
  std::fill_n(q + images * kBlock, (round_up(images, kRows) - images) * kBlock, 0.f);
  for (int64_t n = 0; n < images; ++n) {
    for_vectors(count, [&](int64_t i, int64_t lanes) {
      const Vec value = load_first(cosine + n * total + first + i, lanes);
      store_first(q + n * kBlock + i, value * load_first(factor + first + i, lanes), lanes);
    });
    std::fill(q + n * kBlock + count, q + (n + 1) * kBlock, 0.f);
  }
  for (int64_t c = 0; c < count; ++c) {
    read_row(weights.centre(first + c), size, centres + c * width);
    std::fill(centres + c * width + size, centres + (c + 1) * width, 0.f);
  }
  const int64_t next = (kBlock * kPanel + width - 1) / width;  // the next block, bit by bit
  for (int64_t d = 0; d < width; d += kPanel) {
    fetch(momenta, first + d / kPanel * next, next, total);
    fetch(weights, first + kBlock + d / kPanel * next, next, total);
    for (int64_t row = 0; row < images; row += kRows) {
      product_block<true>(count, q + row * kBlock, kBlock, 1, centres + d, width,
                          gradient + row * width + d, width);
    }
    for (int64_t c = 0; c < count; c += kRows) {
      product_block<false>(images, q + c, 1, kBlock, unit + d, width, sums + c * width + d, width);
    }
  }
  for (int64_t c = 0; c < count; ++c) {
    float* weight = centres + c * width;
    Value *to_weight = weights.centre(first + c), *to_momentum = momenta.centre(first + c);
    read_row(to_momentum, size, momentum);
    move(sums + c * width, factor[first + c], update, size, weight, momentum);
    const uint32_t key = update.key + 2 * static_cast<uint32_t>(first + c);
    write_row(weight, size, key, to_weight);
    write_row(momentum, size, key + 1, to_momentum);
  }
}

template <typename Value>
void update_sample(const float* unit, int64_t images, const Sample<Value>& weights,
                   const Sample<Value>& momenta, int64_t count, const float* cosine,
                   const float* factor, const Update& update, float* gradient) {
  const int64_t size = weights.size, width = round_up(size, kPanel);
  const int64_t area = round_up(images, kRows) * width;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  const int64_t slices = std::min<int64_t>(blocks, omp_get_max_threads());
  std::vector<float> padded(area), partial(slices * area);
  pad_rows(unit, images, size, width, padded.data());
#pragma omp parallel for schedule(static, 1) num_threads(slices)
  for (int64_t slice = 0; slice < slices; ++slice) {
    for (int64_t b = slice * blocks / slices; b < (slice + 1) * blocks / slices; ++b) {
      const int64_t first = b * kBlock;
      update_block(weights, momenta, padded.data(), images, cosine, count, factor, first,
                   std::min(kBlock, count - first), update, partial.data() + slice * area);
    }
  }
  for (int64_t n = 0; n < images; ++n) {
    for (int64_t i = 0; i < size; ++i) {
      double sum = 0;
      for (int64_t slice = 0; slice < slices; ++slice) sum += partial[slice * area + n * width + i];
      gradient[n * size + i] = static_cast<float>(sum);
    }
  }
}

}  // namespace
}  // namespace vargfacenet

using namespace vargfacenet;

#define VGC_FUNCTIONS(name, Value)                                                                \
  /* unit (images, size); weights (.., per_row * size); rows (count / per_row,) or null; cosine */ \
  /* (images, count); factor (count,): 1 / length of each centre */                               \
  extern "C" void vgc_cosines_##name(const float* unit, int64_t images, int64_t size,             \
                                     Value* weights, const int64_t* rows, int64_t per_row,        \
                                     int64_t count, float* cosine, float* factor) {               \
    sample_cosines(unit, images, Sample<Value>{weights, rows, size, per_row}, count, cosine,      \
                   factor);                                                                       \
  }                                                                                               \
  /* cosine: the gradient of the cosines; gradient (images, size): that of unit, written */       \
  extern "C" void vgc_update_##name(const float* unit, int64_t images, int64_t size,              \
                                    Value* weights, Value* momenta, const int64_t* rows,          \
                                    int64_t per_row, int64_t count, const float* cosine,          \
                                    const float* factor, float rate, float decay, float mom,      \
                                    uint32_t key, float* gradient) {                              \
    update_sample(unit, images, Sample<Value>{weights, rows, size, per_row},                      \
                  Sample<Value>{momenta, rows, size, per_row}, count, cosine, factor,             \
                  Update{rate, decay, mom, key}, gradient);                                       \
  }

VGC_FUNCTIONS(float32, float)
VGC_FUNCTIONS(float16, vargfacenet::Half)
