// Drives the streams of one run: opens them, keeps them busy, waits for what is missing.
#pragma once

#include <string>
#include <vector>

#include "options.h"
#include "tally.h"

namespace duly_load {

struct Report {
  Tally tally;
  // Time over which the measured frames were sent, s.
  double measured_seconds = 0;
  // Of each stream, the share of its measured frames that was answered ON_TIME.
  std::vector<double> on_time_ratios;
  // What went wrong; empty: nothing.
  std::string error;
};

// Runs to the end. Returns early, with an error, as soon as one stream fails.
Report run_load(const Options& options);

}  // namespace duly_load
