// Durations in constant memory, exact to 0.1 %.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace duly_load {

// Counts durations in log-linear buckets: 1,024 to each power of two, up to 2^40 ns (18 minutes).
class Histogram {
 public:
  void add(int64_t duration_ns) {
    ++counts_[bucket(std::clamp<int64_t>(duration_ns, 0, (int64_t{1} << kTopBit) - 1))];
    ++total_;
  }

  int64_t total() const { return total_; }

  // The duration that a share `quantile` of all stays at or below, in milliseconds; 0 where there are none.
  double quantile_ms(double quantile) const {
    int64_t left = static_cast<int64_t>(quantile * static_cast<double>(total_));
    for (size_t i = 0; i < counts_.size(); ++i) {
      left -= counts_[i];
      if (left < 0) return middle_ns(i) / 1e6;
    }
    return 0.0;
  }

 private:
  static constexpr int kLinearBits = 10;
  static constexpr int kTopBit = 40;

  static size_t bucket(int64_t value) {
    if (value < (2 << kLinearBits)) return static_cast<size_t>(value);
    const int shift = 63 - __builtin_clzll(static_cast<uint64_t>(value)) - kLinearBits;
    return (static_cast<size_t>(shift) << kLinearBits) + static_cast<size_t>(value >> shift);
  }

  static double middle_ns(size_t index) {
    if (index < (2u << kLinearBits)) return static_cast<double>(index);
    const size_t shift = (index >> kLinearBits) - 1;
    const size_t mantissa = index - (shift << kLinearBits);
    return (static_cast<double>(mantissa) + 0.5) * static_cast<double>(uint64_t{1} << shift);
  }

  std::vector<int64_t> counts_ = std::vector<int64_t>((kTopBit - kLinearBits + 1) << kLinearBits);
  int64_t total_ = 0;
};

}  // namespace duly_load
