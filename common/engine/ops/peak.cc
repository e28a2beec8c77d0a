// The most float32 arithmetic that this machine's registers allow: the yardstick of the benchmarks.

#include <omp.h>

#include "simd.h"

namespace vargfacenet {
namespace {

// One thread's multiply-adds on registers alone, `count` times kRows * kVectors of them.
float spin(int64_t count) {
  Vec sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = splat(0.001f * (r + v));
  }
  const Vec a = splat(0.999f), b = splat(1e-6f);
  for (int64_t i = 0; i < count; ++i) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) sums[r][v] = multiply_add(sums[r][v], a, b);
    }
  }
  float total = 0;
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) total += sum_of_lanes(sums[r][v]);
  }
  return total;
}

}  // namespace
}  // namespace vargfacenet

// Billions of float32 operations a second on `threads` threads for about `seconds`.
extern "C" double vg_peak_gflops(int threads, double seconds) {
  using vargfacenet::kLanes;
  using vargfacenet::kRows;
  using vargfacenet::kVectors;
  constexpr int64_t kCount = 200000;
  volatile float sink = 0;
  int64_t rounds = 0;
  const double started = omp_get_wtime();
  double spent = 0;
  do {
#pragma omp parallel num_threads(threads)
    sink = vargfacenet::spin(kCount);
    ++rounds;
    spent = omp_get_wtime() - started;
  } while (spent < seconds);
  return 2.0 * kLanes * kRows * kVectors * kCount * rounds * threads / spent / 1e9;
}
