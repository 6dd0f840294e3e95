#include "options.h"

#include <getopt.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace duly_load {
namespace {

constexpr char kUsage[] =
    R"(duly_load_client --target HOST:PORT|unix:PATH --model NAME [options]

Streams random FP32 frames to a server of duly.v1 and reports what became of them. No TLS.

  --mode closed|open      closed: `window` frames in flight on each stream; open: frames leave by a fixed schedule,
                          whatever the server does, and latency counts from the intended send     [closed]
  --streams N             streams, over one connection                                            [1]
  --window N              closed loop: frames in flight on each stream                            [1]
  --message-frames N      frames in each message, held back until there are so many               [1]
  --rate HZ               open loop: frames a second on each stream, phases spread evenly         [30]
  --frame-bytes N         payload of a frame; 0: the size of the model's input                    [0]
  --seconds T             how long to measure                                                     [5]
  --warmup-seconds T      how long to send before that                                            [1]
  --frames N              closed loop: send N frames in all, instead of --seconds and --warmup-seconds
  --budget-ms B           budget of every frame                                                   [100]
  --drain-seconds T       how long to wait for missing answers at the end                         [10]
  --class CRITICAL|STANDARD|BEST_EFFORT                                                           [STANDARD]
  --backlog ALL|LATEST|KEEP_LAST                                                                  [ALL]
  --backlog-frames N      KEEP_LAST: frames that wait
  --same-host             server and client share a clock: budgets count from the intended send
  --stream-prefix NAME    stream names are NAME-0, NAME-1, ...                                    [load]
  --seed N                of the random payloads                                                  [1]
  --json                  print one JSON object instead of text
)";

[[noreturn]] void usage_error(const std::string& what) {
  std::fprintf(stderr, "duly_load_client: %s\nTry --help.\n", what.c_str());
  std::exit(2);
}

double number(const std::string& option, const char* text, double low, double high) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !std::isfinite(value) || value < low || value > high) {
    char message[256];
    std::snprintf(message, sizeof message, "--%s: '%.80s' is not a number from %g to %g", option.c_str(), text, low,
                  high);
    usage_error(message);
  }
  return value;
}

int64_t integer(const std::string& option, const char* text, double low, double high) {
  const double value = number(option, text, low, high);
  if (value != std::floor(value)) usage_error("--" + option + ": '" + text + "' is not a whole number");
  return static_cast<int64_t>(value);
}

template <typename T>
T choice(const std::string& option, const std::string& text, const std::map<std::string, T>& values) {
  const auto found = values.find(text);
  if (found != values.end()) return found->second;
  std::string names;
  for (const auto& [name, value] : values) names += (names.empty() ? "" : ", ") + name;
  usage_error("--" + option + ": '" + text + "' is none of " + names);
}

}  // namespace

Options parse_options(int argc, char** argv) {
  static const option kOptions[] = {
      {"target", required_argument, nullptr, 0},        {"model", required_argument, nullptr, 0},
      {"mode", required_argument, nullptr, 0},          {"streams", required_argument, nullptr, 0},
      {"window", required_argument, nullptr, 0},        {"rate", required_argument, nullptr, 0},
      {"frame-bytes", required_argument, nullptr, 0},   {"seconds", required_argument, nullptr, 0},
      {"warmup-seconds", required_argument, nullptr, 0}, {"frames", required_argument, nullptr, 0},
      {"budget-ms", required_argument, nullptr, 0},     {"drain-seconds", required_argument, nullptr, 0},
      {"class", required_argument, nullptr, 0},         {"backlog", required_argument, nullptr, 0},
      {"message-frames", required_argument, nullptr, 0},
      {"backlog-frames", required_argument, nullptr, 0}, {"same-host", no_argument, nullptr, 0},
      {"stream-prefix", required_argument, nullptr, 0}, {"seed", required_argument, nullptr, 0},
      {"json", no_argument, nullptr, 0},                {"help", no_argument, nullptr, 0},
      {nullptr, 0, nullptr, 0}};
  Options options;
  int index = 0;
  for (int got; (got = getopt_long(argc, argv, "", kOptions, &index)) != -1;) {
    if (got == '?') std::exit(2);  // getopt has said why
    const std::string name = kOptions[index].name;
    if (name == "target") options.target = optarg;
    else if (name == "model") options.model = optarg;
    else if (name == "mode")
      options.mode = choice<Mode>(name, optarg, {{"closed", Mode::kClosed}, {"open", Mode::kOpen}});
    else if (name == "streams") options.streams = static_cast<int>(integer(name, optarg, 1, 10'000));
    else if (name == "window") options.window = static_cast<int>(integer(name, optarg, 1, 4'096));
    else if (name == "message-frames") options.message_frames = static_cast<int>(integer(name, optarg, 1, 4'096));
    else if (name == "rate") options.rate_hz = number(name, optarg, 0.001, 100'000);
    else if (name == "frame-bytes") options.frame_bytes = integer(name, optarg, 0, 256e6);
    else if (name == "seconds") options.seconds = number(name, optarg, 0.001, 86'400);
    else if (name == "warmup-seconds") options.warmup_seconds = number(name, optarg, 0, 86'400);
    else if (name == "frames") options.frames = integer(name, optarg, 1, 1e12);
    else if (name == "budget-ms") options.budget_ms = number(name, optarg, 0.001, 600'000);
    else if (name == "drain-seconds") options.drain_seconds = number(name, optarg, 0, 3'600);
    else if (name == "class")
      options.stream_class = choice<duly::v1::StreamClass>(name, optarg,
                                                           {{"CRITICAL", duly::v1::STREAM_CLASS_CRITICAL},
                                                            {"STANDARD", duly::v1::STREAM_CLASS_STANDARD},
                                                            {"BEST_EFFORT", duly::v1::STREAM_CLASS_BEST_EFFORT}});
    else if (name == "backlog")
      options.backlog = choice<duly::v1::BacklogPolicy>(name, optarg,
                                                        {{"ALL", duly::v1::BACKLOG_POLICY_ALL},
                                                         {"LATEST", duly::v1::BACKLOG_POLICY_LATEST},
                                                         {"KEEP_LAST", duly::v1::BACKLOG_POLICY_KEEP_LAST}});
    else if (name == "backlog-frames") options.backlog_frames = static_cast<int>(integer(name, optarg, 1, 4'096));
    else if (name == "same-host") options.same_host = true;
    else if (name == "stream-prefix") options.stream_prefix = optarg;
    else if (name == "seed") options.seed = static_cast<uint64_t>(integer(name, optarg, 0, 1e15));
    else if (name == "json") options.json = true;
    else if (name == "help") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
  }
  if (optind < argc) usage_error(std::string("'") + argv[optind] + "' belongs to no option");
  if (options.target.empty()) usage_error("--target is missing: HOST:PORT or unix:PATH");
  if (options.model.empty()) usage_error("--model is missing");
  if (options.frame_bytes % 4 != 0) usage_error("--frame-bytes: FP32 data takes a multiple of 4 bytes");
  if (options.mode == Mode::kClosed && options.window < options.message_frames)
    usage_error("--message-frames: no more frames than --window are ever there to be sent together");
  if (options.frames > 0 && options.mode == Mode::kOpen) usage_error("--frames goes with --mode closed");
  if ((options.backlog == duly::v1::BACKLOG_POLICY_KEEP_LAST) != (options.backlog_frames > 0))
    usage_error("--backlog-frames goes with --backlog KEEP_LAST, and only with it");
  if (options.frames > 0) options.warmup_seconds = 0;
  return options;
}

}  // namespace duly_load
