#include "stream.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

namespace duly_load {
namespace {

constexpr int64_t kSameHostUncertaintyNs = 1'000'000;

const char* status_name(grpc::StatusCode code) {
  static const char* const kNames[] = {
      "OK",
      "CANCELLED",
      "UNKNOWN",
      "INVALID_ARGUMENT",
      "DEADLINE_EXCEEDED",
      "NOT_FOUND",
      "ALREADY_EXISTS",
      "PERMISSION_DENIED",
      "RESOURCE_EXHAUSTED",
      "FAILED_PRECONDITION",
      "ABORTED",
      "OUT_OF_RANGE",
      "UNIMPLEMENTED",
      "INTERNAL",
      "UNAVAILABLE",
      "DATA_LOSS",
      "UNAUTHENTICATED",
  };
  return code >= 0 && code <= grpc::UNAUTHENTICATED ? kNames[code] : "of an unknown number";
}

int64_t wall_minus_monotonic_ns() {
  using std::chrono::nanoseconds;
  const auto wall = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<nanoseconds>(wall).count() - now_ns();
}

std::string random_floats(int64_t bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> values(-1.0f, 1.0f);
  std::string data(static_cast<size_t>(bytes), '\0');
  for (size_t at = 0; at < data.size(); at += sizeof(float)) {
    const float value = values(random);
    std::copy_n(reinterpret_cast<const char*>(&value), sizeof value, &data[at]);
  }
  return data;
}

}  // namespace

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Stream::Stream(const Options& options, int index, duly::v1::InferenceService::Stub& stub,
               grpc::CompletionQueue& completions, Tally& tally)
    : options_(options),
      name_(options.stream_prefix + "-" + std::to_string(index)),
      seed_(options.seed + static_cast<uint64_t>(index)),
      tally_(tally),
      call_(stub.PrepareAsyncStream(&context_, &completions)),
      wall_minus_monotonic_ns_(wall_minus_monotonic_ns()) {
  duly::v1::OpenStream& open = *request_.mutable_open();
  open.set_model(options.model);
  open.set_stream_name(name_);
  open.set_stream_class(options.stream_class);
  open.set_backlog_policy(options.backlog);
  open.set_backlog_frames(options.backlog_frames);
  open.set_ordering(duly::v1::ORDERING_UNORDERED);
  open.set_default_budget_nano(static_cast<int64_t>(options.budget_ms * 1e6));
  if (options.same_host) {
    open.mutable_clock()->set_offset_nano(0);
    open.mutable_clock()->set_uncertainty_nano(kSameHostUncertaintyNs);
  }
  call_->StartCall(tag(Op::kStart));
}

int Stream::on_completion(Op op, bool ok) {
  --operations_;
  switch (op) {
    case Op::kStart:
      if (!ok) {
        call_->Finish(&status_, tag(Op::kFinish));
        return 0;
      }
      writing_ = true;
      call_->Write(request_, tag(Op::kWrite));
      call_->Read(&response_, tag(Op::kRead));
      return 0;
    case Op::kWrite:
      writing_ = false;
      if (ok) write_next();  // else the call is broken, which the read under way finds out
      return 0;
    case Op::kRead: {
      if (!ok) {
        call_->Finish(&status_, tag(Op::kFinish));
        return 0;
      }
      int answered = 0;
      if (response_.has_opened()) on_opened(response_.opened());
      else if (response_.has_outcomes()) answered = on_outcomes(response_.outcomes());
      call_->Read(&response_, tag(Op::kRead));
      return answered;
    }
    case Op::kHalfClose:
      return 0;
    case Op::kFinish:
      finished_ = true;
      if (cancelled_) return 0;
      if (!status_.ok())
        fail(std::string("the server ended it with status ") + status_name(status_.error_code()) + ": " +
             status_.error_message());
      else if (!half_closed_)
        fail("the server ended it, without an error, before all frames were sent");
      return 0;
  }
  return 0;
}

void Stream::send(int64_t intended_ns) {
  waiting_.push_back(intended_ns);
  write_next();
}

void Stream::finish_sending() {
  finishing_ = true;
  write_next();
}

void Stream::cancel() {
  cancelled_ = true;
  context_.TryCancel();
}

int64_t Stream::unanswered_measured() const {
  const auto measured = [this](int64_t intended_ns) { return tally_.measures(intended_ns); };
  return std::count_if(waiting_.begin(), waiting_.end(), measured) +
         std::count_if(intended_ns_.begin(), intended_ns_.end(), measured);
}

void* Stream::tag(Op op) {
  ++operations_;
  return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(this) | static_cast<uintptr_t>(op));
}

// gRPC takes one write at a time.
void Stream::write_next() {
  if (writing_ || !opened_) return;
  if (waiting_.empty()) return half_close_when_idle();
  const int count = static_cast<int>(std::min<size_t>(waiting_.size(), options_.message_frames));
  if (count < options_.message_frames && !finishing_) return;
  duly::v1::FrameBatch& batch = *request_.mutable_frames();
  while (batch.frames_size() > count) batch.mutable_frames()->RemoveLast();
  for (duly::v1::Frame& frame : *batch.mutable_frames()) {
    const int64_t intended_ns = waiting_.front();
    waiting_.pop_front();
    frame.set_frame_id(next_id_++);
    frame.set_capture_time_unix_nano(intended_ns + wall_minus_monotonic_ns_);
    intended_ns_.push_back(intended_ns);
    if (tally_.measures(intended_ns)) ++tally_.sent;
  }
  writing_ = true;
  call_->Write(request_, tag(Op::kWrite));  // serialises before it returns
}

void Stream::half_close_when_idle() {
  if (!finishing_ || half_closed_ || writing_ || !waiting_.empty() || finished_) return;
  half_closed_ = true;
  call_->WritesDone(tag(Op::kHalfClose));
}

// Checks that the frames that were asked for suit the model, and makes the one that will be sent.
void Stream::on_opened(const duly::v1::StreamOpened& opened) {
  if (opened_) return fail("the server opened it twice");
  int64_t bytes = options_.frame_bytes;
  duly::v1::Tensor tensor;
  if (opened.inputs_size() > 1)
    return fail("the model takes " + std::to_string(opened.inputs_size()) + " inputs; this client sends one");
  if (opened.inputs_size() == 1) {
    const duly::v1::TensorSpec& input = opened.inputs(0);
    if (input.datatype() != duly::v1::DATA_TYPE_FP32)
      return fail("input '" + input.name() + "' is " + duly::v1::DataType_Name(input.datatype()) +
                  "; this client sends FP32");
    int64_t fixed_bytes = sizeof(float);
    int free_dimensions = 0;
    for (const int64_t extent : input.shape()) {
      if (extent < 0) ++free_dimensions;
      else fixed_bytes *= extent;
    }
    if (free_dimensions == 0 && bytes == 0) bytes = fixed_bytes;
    const bool fits = free_dimensions == 0
                          ? bytes == fixed_bytes
                          : free_dimensions == 1 && fixed_bytes > 0 && bytes % fixed_bytes == 0;
    if (!fits)
      return fail("input '" + input.name() + "' takes " + std::to_string(fixed_bytes) + " bytes" +
                  (free_dimensions > 0 ? " times its free dimensions (one at most here)" : "") +
                  ", --frame-bytes says " + std::to_string(bytes));
    for (const int64_t extent : input.shape()) tensor.add_shape(extent < 0 ? bytes / fixed_bytes : extent);
    tensor.set_name(input.name());
    tensor.set_datatype(duly::v1::DATA_TYPE_FP32);
  }
  if (bytes == 0) return fail("the server does not say how large a frame is: pass --frame-bytes");
  if (options_.mode == Mode::kClosed) {
    if (opened.frames_in_flight_max() > 0 && options_.window > opened.frames_in_flight_max())
      return fail("--window " + std::to_string(options_.window) + " is above the server's credit of " +
                  std::to_string(opened.frames_in_flight_max()) + " frames in flight");
    if (opened.bytes_in_flight_max() > 0 && options_.window * bytes > opened.bytes_in_flight_max())
      return fail("--window " + std::to_string(options_.window) + " frames of " + std::to_string(bytes) +
                  " bytes are above the server's credit of " + std::to_string(opened.bytes_in_flight_max()) + " bytes");
  }
  tensor.set_data(random_floats(bytes, seed_));
  for (int i = 0; i < options_.message_frames; ++i) *request_.mutable_frames()->add_frames()->add_tensors() = tensor;
  opened_ = true;
}

int Stream::on_outcomes(const duly::v1::OutcomeBatch& batch) {
  const int64_t now = now_ns();
  tally_.outcome_last_ns = now;
  for (const duly::v1::Outcome& outcome : batch.outcomes()) {
    const uint64_t id = outcome.frame_id();
    if (id < oldest_id_ || id >= next_id_ || intended_ns_[id - oldest_id_] == kAnswered) {
      const bool never_sent = id == 0 || id >= next_id_;
      fail("frame " + std::to_string(id) + " was answered " + (never_sent ? "but never sent" : "twice"));
      return 0;
    }
    const int64_t intended_ns = std::exchange(intended_ns_[id - oldest_id_], kAnswered);
    while (!intended_ns_.empty() && intended_ns_.front() == kAnswered) {
      intended_ns_.pop_front();
      ++oldest_id_;
    }
    const duly::v1::OutcomeStatus status = outcome.status();
    if (status == duly::v1::OUTCOME_STATUS_UNSPECIFIED || !duly::v1::OutcomeStatus_IsValid(status)) {
      fail("frame " + std::to_string(id) + " was answered with the unknown status " + std::to_string(status));
      return 0;
    }
    if (!tally_.measures(intended_ns)) continue;
    ++tally_.outcomes[status];
    if (status == duly::v1::OUTCOME_STATUS_ON_TIME || status == duly::v1::OUTCOME_STATUS_LATE)
      tally_.latency.add(now - intended_ns);
  }
  return batch.outcomes_size();
}

void Stream::fail(const std::string& what) {
  if (error_.empty()) error_ = "stream " + name_ + ": " + what;
}

}  // namespace duly_load
