// What became of the frames of one run, over all streams.
#pragma once

#include <array>
#include <cstdint>

#include "duly/v1/inference.pb.h"
#include "histogram.h"

namespace duly_load {

struct Tally {
  // Frames whose intended send lies in here are measured; those before warm up. Monotonic clock, ns.
  int64_t measure_from_ns = 0;
  int64_t measure_to_ns = 0;

  bool measures(int64_t intended_ns) const { return intended_ns >= measure_from_ns && intended_ns < measure_to_ns; }

  int64_t sent = 0;
  int64_t unanswered = 0;
  // By outcome status.
  std::array<int64_t, duly::v1::OutcomeStatus_ARRAYSIZE> outcomes{};
  int64_t outcome_last_ns = 0;

  // Intended send to result.
  Histogram latency;
  // Open loop: intended send to when this client got round to it.
  Histogram lag;
};

}  // namespace duly_load
