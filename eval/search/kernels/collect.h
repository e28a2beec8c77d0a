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

}  // namespace vargfacenet

#endif  // VARGFACENET_COLLECT_H_
