// A client of duly, a streaming inference server for real-time systems: frames go in, each with a deadline, and exactly
// one outcome for each frame comes out.
//
//     duly::Client client("127.0.0.1:8500");
//     duly::Terms terms;
//     terms.model = "yolo";
//     terms.budget = std::chrono::milliseconds(100);
//     duly::Error error;
//     auto stream = client.open(terms, &error);          // null: refused, `error` says why
//     duly::Sent sent = stream->try_send(duly::Frame(duly::jpeg(data, size)));
//     duly::Outcome outcome;
//     while (stream->next(&outcome) == duly::Next::outcome) { ... }
//
// A stream opens again by itself when its connection is lost. No frame is sent twice: those that were in flight then are
// `cancelled`. What may be unanswered and unread is bounded. Nothing here throws. All methods may be called by any thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "duly/clock.h"

namespace duly {

// Enumerations have the numbers of the protocol; `unspecified` leaves the choice to the model.
enum class Class { unspecified, critical, standard, best_effort };
enum class Backlog { unspecified, latest, keep_last, all };
enum class Ordering { unspecified, arrival, unordered, monotonic };
enum class Gap { unspecified, continue_, reset, skip };
enum class DataType { unspecified, bool_, uint8, uint16, uint32, uint64, int8, int16, int32, int64, fp16, fp32, fp64, string, bf16 };
enum class Encoding { unspecified, jpeg, png, pcm_s16le };
enum class Status { unspecified, on_time, late, expired, superseded, shed, skipped, invalid, cancelled, failed };
enum class AdviceKind { unspecified, slow_down, speed_up, draining, version_changed };
enum class FeedbackStatus { unspecified, joined, unknown_frame, invalid, not_kept, pending };

// Names as the protocol has them, such as "ON_TIME".
const char* name_of(Class value);
const char* name_of(Backlog value);
const char* name_of(Ordering value);
const char* name_of(Gap value);
const char* name_of(DataType value);
const char* name_of(Status value);
const char* name_of(AdviceKind value);
const char* name_of(FeedbackStatus value);

// What ended a stream or refused it. What goes wrong with one frame is no error but its outcome.
struct Error {
    std::string reason;   // the server's stable name, such as MODEL_NOT_FOUND; empty where it gave none
    std::string message;  // for people
    int code = 0;         // that of gRPC; 0: no error
    std::map<std::string, std::string> metadata;  // where admission refused a stream what would fit, such as period_nano
    std::vector<std::string> fields;              // what was wrong with the terms

    explicit operator bool() const { return code != 0; }
    bool recoverable() const;  // the same stream may open a little later, or the same call succeed
};

// Something that the client should act on.
struct Advice {
    AdviceKind kind = AdviceKind::unspecified;
    std::chrono::nanoseconds period{0};  // slow_down and speed_up: the shortest, on average, that can be served; 0: any
    std::string version;                 // that serves the stream; after version_changed the new one
    std::string reason;                  // for people
};

// What the client wants of a stream. Only `model` is needed.
struct Terms {
    std::string model;
    std::string version;  // a number; empty: the active one and its successors
    std::string name;     // for the server's logs
    Class stream_class = Class::unspecified;
    Backlog backlog = Backlog::unspecified;
    std::int32_t backlog_frames = 0;  // with keep_last
    Ordering ordering = Ordering::unspecified;
    std::chrono::nanoseconds budget{0};  // how long after its capture a result is worth having; 0: the model's default
    std::chrono::nanoseconds period{0};  // between frames; a stream that states it is let in only if it fits
    std::vector<std::string> outputs;    // names of those wanted; empty: all
    Gap gap = Gap::unspecified;
    std::string variant_lowest;  // the least accurate variant that will do
    std::int32_t floor_frames = 0, floor_window = 0;  // of any so many consecutive frames so many shall be on time
    bool follow_advice = false;  // frames that come faster than advised are superseded here, unless they must run
    std::function<void(const Advice&)> on_advice;  // called by a thread of gRPC's; it must neither block nor throw
};

struct Spec {
    std::string name;
    DataType type = DataType::unspecified;
    std::vector<std::int64_t> shape;  // without the batch dimension; -1: any
};

// What was agreed.
struct Agreed {
    std::uint64_t stream_id = 0;
    std::string stream_key;  // by what labels name the stream; empty: the server keeps no frames of the model
    std::string version;
    std::vector<Spec> inputs, outputs;
    Class stream_class = Class::unspecified;
    Backlog backlog = Backlog::unspecified;
    std::int32_t backlog_frames = 0;
    Ordering ordering = Ordering::unspecified;
    std::chrono::nanoseconds budget{0}, planned_latency{0};
    std::int32_t frames_in_flight_max = 0;  // further frames are shed
    std::int64_t bytes_in_flight_max = 0;
    std::string admission_warning;
};

// One input of a frame: bytes of the caller's, which are copied when the frame is sent.
struct Input {
    const void* data = nullptr;
    std::size_t size = 0;
    Encoding encoding = Encoding::unspecified;  // unspecified: an array
    DataType type = DataType::unspecified;      // unspecified: the model's
    std::vector<std::int64_t> shape;            // empty: the model's
    std::string name;                           // may be empty where the model has one input
};

Input jpeg(const void* data, std::size_t size);
Input png(const void* data, std::size_t size);
Input floats(const float* values, std::vector<std::int64_t> shape);
Input bytes(const std::uint8_t* values, std::vector<std::int64_t> shape);
// Text: `data` is what `text_data` makes of texts of UTF-8. BF16: bits that `to_bfloat16` makes of numbers.
Input texts(const std::string& data, std::vector<std::int64_t> shape);
Input bfloat16s(const std::uint16_t* bits, std::vector<std::int64_t> shape);

// Texts as they go on the wire: each behind the number of its bytes, 32 bits, little-endian.
std::string text_data(const std::vector<std::string>& texts);
// The upper half of a number, rounded to the nearest, half to even, and what number it stands for.
std::uint16_t to_bfloat16(float number);
float from_bfloat16(std::uint16_t bits);

// One sample from a sensor.
struct Frame {
    Frame() = default;
    explicit Frame(Input input) { inputs.push_back(std::move(input)); }

    std::vector<Input> inputs;
    std::chrono::system_clock::time_point captured{};  // the epoch: when it is sent
    std::chrono::nanoseconds budget{0};                // counts from capture; 0: the stream's
    bool must_run = false;                             // newer frames never supersede it
};

// An output.
struct Tensor {
    std::string name;
    DataType type = DataType::unspecified;
    std::vector<std::int64_t> shape;
    std::string data;  // elements, row-major, little-endian; of STRING each behind its length

    // The elements, where they are of T's size, else null; `count` of them.
    template <typename T>
    const T* as(std::size_t* count) const {
        *count = data.size() / sizeof(T);
        return data.size() % sizeof(T) == 0 ? reinterpret_cast<const T*>(data.data()) : nullptr;
    }
    // The texts of a STRING tensor; none where it has another type, or its bytes are not as `text_data` makes them.
    std::optional<std::vector<std::string>> texts() const;
};

// Times of one frame on the server since its receipt; 0: it did not get there.
struct Timing {
    std::int64_t received_unix_ns = 0;  // by the server's wall clock
    std::chrono::nanoseconds dispatched{0}, started{0}, finished{0}, sent{0};
    std::chrono::nanoseconds capture_to_receipt{0}, clock_uncertainty{0};
};

// The one answer to a frame.
struct Outcome {
    std::uint64_t id = 0;
    Status status = Status::unspecified;
    std::chrono::nanoseconds latency{0};  // from capture to the arrival of the outcome, on the client's clock
    std::vector<Tensor> outputs;          // only with on_time and late
    std::string version, variant;         // that ran on the frame; empty: none did
    std::int32_t batch_size = 0;          // of the batch that the frame ran in
    std::chrono::nanoseconds slack{0};    // deadline minus the time at which the server sent the outcome
    std::string reason;                   // why there is no result in time, for people
    Timing timing;
    std::vector<std::string> guards;  // of the model, that found something on the frame; with a result and with invalid

    bool ok() const { return status == Status::on_time || status == Status::late; }
    const Tensor* output(const std::string& name) const;  // null: there is none
};

// What was right for one frame.
struct Feedback {
    std::string stream_key;  // `Stream::key_of` the frame; it holds for good, whatever becomes of the stream
    std::uint64_t frame_id = 0;
    std::vector<Tensor> labels;  // the right class (`class_number`, `class_name`), or what outputs should have been
    double weight = 1;           // how much it counts
    std::string source;          // where it is from, for who judges labels by that
};

// What became of the labels of one frame. Those that are `pending` or `not_kept` are worth sending again.
struct FeedbackResult {
    FeedbackStatus status = FeedbackStatus::unspecified;
    std::string reason;  // why they were not joined, for people
};

// The label of a class by its number, or by its name, which the model lists.
Tensor class_number(std::int64_t number);
Tensor class_name(const std::string& name);

enum class SendStatus {
    sent,      // it has an id, and will have an outcome
    full,      // try_send: it would have to wait
    too_slow,  // send: nobody reads the outcomes
    ended,     // the stream was finished or closed, or `Stream::error` says why it ended
};

struct Sent {
    SendStatus status;
    std::uint64_t id;  // 0: none
    explicit operator bool() const { return status == SendStatus::sent; }
};

enum class Next { outcome, timeout, end };

class Stream {
public:
    struct Shared;
    explicit Stream(std::shared_ptr<Shared> shared);  // see Client::open
    ~Stream();                                        // closes it
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    Agreed agreed() const;  // after a reconnection what was agreed then
    std::optional<ClockEstimate> clock() const;
    // By what `Feedback` names the stream for that frame. It holds for good, so that whoever learns later what was right
    // keeps it together with the frame's id. Empty: the server keeps no frames of the model.
    std::string key_of(std::uint64_t id) const;

    // Sends a frame. Waits while the transport is full. While the connection is lost it waits no longer than the budget;
    // then the frame is cancelled.
    Sent send(const Frame& frame);
    // The same without waiting. `full`: as many frames or bytes are unanswered as the server takes, too much waits for the
    // transport, or there is no connection.
    Sent try_send(const Frame& frame);
    // Withdraws frames that still wait; each is answered all the same. Other ids are ignored.
    void cancel(const std::vector<std::uint64_t>& ids);
    // Waits for the next outcome; a negative timeout is never over. `end`: there are no more, because the stream was
    // finished or closed, or because of `error`, which comes after the outcomes of all frames.
    Next next(Outcome* outcome, std::chrono::nanoseconds timeout = std::chrono::nanoseconds(-1));
    // No more frames follow; `next` says `end` after the last outcome.
    void finish();
    // Ends the stream now: frames in flight are withdrawn, and outcomes that were not read are dropped.
    void close();
    // What ended the stream; none while it has not ended, or where this side ended it.
    Error error() const;

private:
    std::shared_ptr<Shared> shared_;
};

struct Settings {
    std::string token;               // the bearer token that each call shows
    bool token_in_clear_text = false;  // it may cross a network without TLS
    bool tls = false;
    std::string tls_ca, tls_cert, tls_key;  // PEM, not paths; empty: the system's CAs, no certificate of the client's
    bool reconnect = true;           // false: nothing is tried again, at first either
    std::chrono::nanoseconds open_timeout = std::chrono::seconds(10);  // what may pass is tried again until then
};

// A client of the server at "HOST:PORT" or "unix:PATH". It connects at its first call; any number of streams go over it.
class Client {
public:
    explicit Client(std::string target, Settings settings = {});
    ~Client();
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;
    // Opens a stream. Null: `error` says why.
    std::unique_ptr<Stream> open(const Terms& terms, Error* error);
    // Says what was right for frames that were answered, whenever that is known: the server joins it with what it keeps of
    // them. Returns what became of each, in their order. Many go in several messages; where one of these fails, the results
    // are those of the messages before it, and `error` says why. Sending one again is safe: a frame's newest label counts.
    std::vector<FeedbackResult> feedback(const std::vector<Feedback>& items, Error* error);

    struct Connections;

private:
    std::shared_ptr<Connections> connections_;
};

}  // namespace duly
