// One stream of frames to the server: sends, and books the outcome of every frame.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <string>

#include "duly/v1/inference.grpc.pb.h"
#include "options.h"
#include "tally.h"

namespace duly_load {

// Monotonic clock, ns.
int64_t now_ns();

// Operations of gRPC that a stream may have under way. The low bits of a completion's tag.
enum class Op : uintptr_t { kStart, kRead, kWrite, kHalfClose, kFinish };

// Not thread-safe: whoever calls it holds the lock of the run.
class alignas(8) Stream {
 public:
  Stream(const Options& options, int index, duly::v1::InferenceService::Stub& stub, grpc::CompletionQueue& completions,
         Tally& tally);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Handles a completion of one of its operations. Returns how many frames it answered.
  int on_completion(Op op, bool ok);
  // Sends a frame as soon as the transport takes it.
  void send(int64_t intended_ns);
  // No more frames: half-closes once all are written.
  void finish_sending();
  // Ends the call at once; frames that are still unanswered stay so.
  void cancel();

  // The server has agreed to serve it.
  bool opened() const { return opened_; }
  // The call is over, nothing more will be completed.
  bool ended() const { return finished_ && operations_ == 0; }
  // What went wrong; empty: nothing.
  const std::string& error() const { return error_; }
  bool all_answered() const { return intended_ns_.empty() && waiting_.empty(); }
  int64_t unanswered_measured() const;

 private:
  static constexpr int64_t kAnswered = -1;

  void* tag(Op op);
  void write_next();
  void half_close_when_idle();
  void on_opened(const duly::v1::StreamOpened& opened);
  int on_outcomes(const duly::v1::OutcomeBatch& batch);
  void fail(const std::string& what);

  const Options& options_;
  const std::string name_;
  const uint64_t seed_;
  Tally& tally_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<duly::v1::StreamRequest, duly::v1::StreamResponse>> call_;
  duly::v1::StreamRequest request_;  // open, then the frames that are sent again and again
  duly::v1::StreamResponse response_;
  grpc::Status status_;

  std::deque<int64_t> waiting_;      // of frames not yet given to the transport
  std::deque<int64_t> intended_ns_;  // of frames `oldest_id_` and up, kAnswered where answered
  uint64_t oldest_id_ = 1;
  uint64_t next_id_ = 1;
  int64_t wall_minus_monotonic_ns_;

  int operations_ = 0;
  bool writing_ = false;
  bool opened_ = false;
  bool finishing_ = false;
  bool half_closed_ = false;
  bool cancelled_ = false;
  bool finished_ = false;
  std::string error_;
};

}  // namespace duly_load
