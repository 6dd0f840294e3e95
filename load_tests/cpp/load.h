// Drives the streams of one run: opens them, keeps them busy, waits for what is missing.
#pragma once

#include <string>

#include "options.h"
#include "tally.h"

namespace duly_load {

struct Report {
  Tally tally;
  // Time over which the measured frames were sent, s.
  double measured_seconds = 0;
  // What went wrong; empty: nothing.
  std::string error;
};

// Runs to the end. Returns early, with an error, as soon as one stream fails.
Report run_load(const Options& options);

}  // namespace duly_load
