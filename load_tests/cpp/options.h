// What one run of the load client does, as its command line says.
#pragma once

#include <cstdint>
#include <string>

#include "duly/v1/inference.pb.h"

namespace duly_load {

enum class Mode { kClosed, kOpen };

struct Options {
  std::string target;
  std::string model;
  std::string stream_prefix = "load";
  Mode mode = Mode::kClosed;
  int streams = 1;
  // Closed loop: frames in flight on each stream.
  int window = 1;
  // Frames in each message; the last one may have fewer.
  int message_frames = 1;
  // Open loop: frames a second on each stream.
  double rate_hz = 30.0;
  // Payload of one frame, bytes; 0: what the model's one input holds.
  int64_t frame_bytes = 0;
  double seconds = 5.0;
  double warmup_seconds = 1.0;
  // Closed loop: stop after this many frames over all streams instead of after `seconds`; 0: off.
  int64_t frames = 0;
  double budget_ms = 100.0;
  // How long to wait for the answers that are still missing after the last frame.
  double drain_seconds = 10.0;
  duly::v1::StreamClass stream_class = duly::v1::STREAM_CLASS_STANDARD;
  duly::v1::BacklogPolicy backlog = duly::v1::BACKLOG_POLICY_ALL;
  int backlog_frames = 0;
  // Client and server share a clock: budgets count from the intended send instead of from receipt.
  bool same_host = false;
  uint64_t seed = 1;
  bool json = false;
};

// Reads the command line. Prints what is wrong to stderr and exits with 2 where it can't be used; exits with 0 after
// --help.
Options parse_options(int argc, char** argv);

}  // namespace duly_load
