// Pairs that a kernel finds, collected by several threads into one output of a fixed size.

#ifndef VARGFACENET_COLLECT_H_
#define VARGFACENET_COLLECT_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

namespace vargfacenet {

constexpr int64_t kRowChunk = 960;  // rows of one task; a multiple of every panel's rows and 32

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Emitted pairs, shared by the threads. Each thread collects some before it reserves places.
struct Output {
  uint32_t *rows, *columns;
  int64_t capacity;
  std::atomic<int64_t> total{0};
  bool full() const { return total.load(std::memory_order_relaxed) > capacity; }
};

class Collector {
 public:
  explicit Collector(Output& output) : output_(output) {}
  ~Collector() { flush(); }
  void add(int64_t row, int64_t column) {
    rows_[count_] = static_cast<uint32_t>(row);
    columns_[count_] = static_cast<uint32_t>(column);
    if (++count_ == kSize) flush();
  }

 private:
  static constexpr int kSize = 1024;
  void flush() {
    const int64_t place = output_.total.fetch_add(count_);
    const int64_t room = std::min<int64_t>(count_, output_.capacity - place);
    if (room > 0) {
      std::memcpy(output_.rows + place, rows_, room * sizeof(uint32_t));
      std::memcpy(output_.columns + place, columns_, room * sizeof(uint32_t));
    }
    count_ = 0;
  }
  Output& output_;
  int count_ = 0;
  uint32_t rows_[kSize], columns_[kSize];
};

// Looks at all (na, nb) products in blocks of kBlockRows x kBlockColumns: kCached columns at a
// time, which stay in the cache, against chunks of rows. `block(i, j, collector)` looks at the
// block that begins at row i and column j. Returns how many pairs were found.
template <int kBlockRows, int kBlockColumns, int64_t kCached, typename Block>
inline int64_t screen_blocks(int64_t na, int64_t nb, Output& output, Block block) {
  static_assert(kRowChunk % kBlockRows == 0 && kCached % kBlockColumns == 0);
#pragma omp parallel
  {
    Collector collector(output);
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t j0 = 0; j0 < nb; j0 += kCached) {
      for (int64_t i0 = 0; i0 < na; i0 += kRowChunk) {
        if (output.full()) continue;
        const int64_t j1 = std::min(j0 + kCached, nb), i1 = std::min(i0 + kRowChunk, na);
        for (int64_t i = i0; i < i1; i += kBlockRows) {
          for (int64_t j = j0; j < j1; j += kBlockColumns) block(i, j, collector);
        }
      }
    }
  }
  return output.total;
}

}  // namespace vargfacenet

#endif  // VARGFACENET_COLLECT_H_
