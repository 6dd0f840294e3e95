// Theory of operation: one thread handles every completion of every stream. In the closed loop it also sends: each
// answered frame is followed by the next. In the open loop a second thread, the pacer, sends by the clock, as gRPC's
// own timers round up to milliseconds. One lock covers all streams; without a pacer nobody contends for it.
#include "load.h"

#include <grpcpp/grpcpp.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "stream.h"

namespace duly_load {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kOpenTimeoutNs = 30 * kSecondNs;
constexpr int64_t kCancelTimeoutNs = 10 * kSecondNs;
constexpr int64_t kTickNs = 20'000'000;
constexpr int kMessageBytesMax = 256 << 20;

int64_t to_ns(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

class Run {
 public:
  explicit Run(const Options& options) : options_(options) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    stub_ = duly::v1::InferenceService::NewStub(
        grpc::CreateCustomChannel(options.target, grpc::InsecureChannelCredentials(), arguments));
  }

  Report run() {
    for (int i = 0; i < options_.streams; ++i) streams_.emplace_back(options_, i, *stub_, completions_, report_.tally);
    const auto opened = [](const Stream& stream) { return stream.opened(); };
    const auto ended = [](const Stream& stream) { return stream.ended(); };
    if (!handle_until(now_ns() + kOpenTimeoutNs, opened))
      fail("not every stream was opened within " + std::to_string(kOpenTimeoutNs / kSecondNs) + " s");
    if (report_.error.empty()) {
      start_sending();
      if (options_.mode == Mode::kOpen) {
        std::thread pacer([this] { pace(); });
        handle_until(INT64_MAX, [this](const Stream&) { return pacer_done_.load(); });
        stop_pacer(pacer);
      } else {
        handle_until(stop_ns_, [this](const Stream&) { return frames_left_ == 0; });
      }
      for (Stream& stream : streams_) stream.finish_sending();
      sending_ = false;
      handle_until(now_ns() + to_ns(options_.drain_seconds), ended);
    }
    if (!std::all_of(streams_.begin(), streams_.end(), ended)) {
      if (std::all_of(streams_.begin(), streams_.end(), [](const Stream& stream) { return stream.all_answered(); }))
        fail("every frame was answered, but the server did not end every stream after it was half-closed");
      for (Stream& stream : streams_) stream.cancel();
      aborting_ = true;
      handle_until(now_ns() + kCancelTimeoutNs, ended);
    }
    completions_.Shutdown();
    void* tag;
    for (bool ok; completions_.Next(&tag, &ok);) {
    }
    summarise();
    return std::move(report_);
  }

 private:
  void start_sending() {
    const int64_t start_ns = now_ns();
    Tally& tally = report_.tally;
    tally.measure_from_ns = start_ns + to_ns(options_.warmup_seconds);
    stop_ns_ = options_.frames > 0 ? INT64_MAX : tally.measure_from_ns + to_ns(options_.seconds);
    tally.measure_to_ns = stop_ns_;
    frames_left_ = options_.frames > 0 ? options_.frames : INT64_MAX;
    sending_ = true;
    if (options_.mode == Mode::kOpen) return;
    for (int i = 0; i < options_.window; ++i)
      for (Stream& stream : streams_) send_closed(stream, start_ns);
  }

  void send_closed(Stream& stream, int64_t now) {
    if (!sending_ || frames_left_ == 0 || now >= stop_ns_) return;
    --frames_left_;
    stream.send(now);
  }

  // The pacer's thread: frame k of stream i leaves at start + (k + i/streams) / rate.
  void pace() {
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    const int64_t start_ns = report_.tally.measure_from_ns - to_ns(options_.warmup_seconds);
    const double gap_ns = 1e9 / options_.rate_hz / options_.streams;
    std::unique_lock lock(mutex_);
    for (int64_t n = 0;; ++n) {
      const int64_t intended_ns = start_ns + static_cast<int64_t>(gap_ns * static_cast<double>(n));
      if (intended_ns >= stop_ns_) break;
      const auto at = std::chrono::steady_clock::time_point(std::chrono::nanoseconds(intended_ns));
      if (stop_.wait_until(lock, at, [this] { return stop_pacer_; })) return;
      if (report_.tally.measures(intended_ns)) report_.tally.lag.add(now_ns() - intended_ns);
      streams_[static_cast<size_t>(n) % streams_.size()].send(intended_ns);
    }
    pacer_done_ = true;  // also where it came late: every frame of the schedule is sent
  }

  void stop_pacer(std::thread& pacer) {
    {
      const std::lock_guard lock(mutex_);
      stop_pacer_ = true;
    }
    stop_.notify_one();
    pacer.join();
  }

  // Handles completions until `done` holds for every stream (true), or until the time is up or a stream has failed.
  template <typename Done>
  bool handle_until(int64_t until_ns, Done done) {
    size_t met = 0;  // streams before this one are done, and stay so
    while (true) {
      while (met < streams_.size() && done(streams_[met])) ++met;
      if (met == streams_.size()) return true;
      const int64_t now = now_ns();
      if (now >= until_ns || (!aborting_ && !report_.error.empty())) return false;
      const auto wait = std::chrono::nanoseconds(std::min(kTickNs, until_ns - now));
      void* tag = nullptr;
      bool ok = false;
      const auto wake_at = std::chrono::system_clock::now() + wait;
      if (completions_.AsyncNext(&tag, &ok, wake_at) != grpc::CompletionQueue::GOT_EVENT) continue;
      const std::lock_guard lock(mutex_);
      const auto bits = reinterpret_cast<uintptr_t>(tag);
      Stream& stream = *reinterpret_cast<Stream*>(bits & ~uintptr_t{7});
      const int answered = stream.on_completion(static_cast<Op>(bits & 7), ok);
      if (!stream.error().empty()) fail(stream.error());
      if (options_.mode == Mode::kClosed)
        for (int i = 0; i < answered; ++i) send_closed(stream, now_ns());
    }
  }

  void fail(const std::string& what) {
    if (report_.error.empty()) report_.error = what;
  }

  void summarise() {
    Tally& tally = report_.tally;
    for (const Stream& stream : streams_) tally.unanswered += stream.unanswered_measured();
    const double elapsed_seconds = static_cast<double>(tally.outcome_last_ns - tally.measure_from_ns) / 1e9;
    report_.measured_seconds = options_.frames > 0 ? elapsed_seconds : options_.seconds;
  }

  const Options& options_;
  std::unique_ptr<duly::v1::InferenceService::Stub> stub_;
  grpc::CompletionQueue completions_;
  std::deque<Stream> streams_;
  Report report_;
  std::mutex mutex_;
  std::condition_variable stop_;
  int64_t stop_ns_ = 0;
  int64_t frames_left_ = 0;
  bool sending_ = false;
  bool aborting_ = false;
  bool stop_pacer_ = false;
  std::atomic<bool> pacer_done_ = false;
};

}  // namespace

Report run_load(const Options& options) { return Run(options).run(); }

}  // namespace duly_load
