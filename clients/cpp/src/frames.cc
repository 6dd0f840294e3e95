#include "frames.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace duly {
namespace {

using std::chrono::nanoseconds;

Outcome here(std::uint64_t id, Status status, std::int64_t latency_ns, std::string reason) {
    Outcome outcome;
    outcome.id = id;
    outcome.status = status;
    outcome.latency = nanoseconds(latency_ns);
    outcome.reason = std::move(reason);
    return outcome;
}

// Makes an outcome of its message, whose bytes it takes. A status that this client does not know becomes `failed`.
Outcome outcome_of(v1::Outcome* message, std::int64_t latency_ns) {
    const bool known = v1::OutcomeStatus_IsValid(message->status()) && message->status() != 0;
    Outcome outcome = here(message->frame_id(), known ? static_cast<Status>(message->status()) : Status::failed,
                           latency_ns, std::move(*message->mutable_reason()));
    for (v1::Tensor& output : *message->mutable_outputs()) {
        Tensor tensor;
        tensor.name = std::move(*output.mutable_name());
        tensor.type = static_cast<DataType>(output.datatype());
        tensor.shape.assign(output.shape().begin(), output.shape().end());
        tensor.data = std::move(*output.mutable_data());
        outcome.outputs.push_back(std::move(tensor));
    }
    outcome.version = message->version();
    outcome.variant = message->variant();
    outcome.batch_size = message->batch_size();
    outcome.slack = nanoseconds(message->slack_nano());
    const v1::Timing& timing = message->timing();
    outcome.timing = Timing{timing.received_unix_nano(),
                            nanoseconds(timing.dispatched_nano()),
                            nanoseconds(timing.started_nano()),
                            nanoseconds(timing.finished_nano()),
                            nanoseconds(timing.sent_nano()),
                            nanoseconds(timing.capture_to_receipt_nano()),
                            nanoseconds(timing.clock_uncertainty_nano())};
    outcome.guards.assign(message->guards().begin(), message->guards().end());
    return outcome;
}

}  // namespace

void Frames::agreed(const Agreed& agreed) {
    credit_ = agreed.frames_in_flight_max > 0 ? static_cast<std::size_t>(agreed.frames_in_flight_max) : held_max;
    credit_bytes_ = agreed.bytes_in_flight_max > 0 ? static_cast<std::size_t>(agreed.bytes_in_flight_max) : 0;
    unread_max_ = std::min(credit_, held_max / 2);
    in_order_ = agreed.ordering == Ordering::arrival;
    if (keys_.size() >= keys_max) keys_.pop_back();
    keys_.push_front(Key{next_id_, agreed.stream_key});
}

std::string Frames::key_of(std::uint64_t id) const {
    for (const Key& key : keys_) {
        if (id >= key.first_id) return key.text;
    }
    return "";
}

bool Frames::has_credit(std::size_t size) const {
    if (in_flight_.empty()) return true;
    return in_flight_.size() < credit_ && (credit_bytes_ == 0 || bytes_in_flight_ + size <= credit_bytes_);
}

void Frames::sent(std::uint64_t id, std::int64_t captured_ns, std::size_t size) {
    in_flight_.emplace(id, InFlight{captured_ns, size});
    order_.push_back(id);
    bytes_in_flight_ += size;
}

void Frames::keep_back(std::uint64_t id, std::int64_t latency_ns, std::int64_t period_ns) {
    char reason[80];
    std::snprintf(reason, sizeof reason, "not sent, the server advised a period of %.4g ms", period_ns / 1e6);
    kept_back_.push_back(here(id, Status::superseded, latency_ns, reason));
    give_back();
}

void Frames::cancel(std::uint64_t id, std::int64_t latency_ns, const std::string& reason) {
    unread_.push_back(here(id, Status::cancelled, latency_ns, reason));
}

void Frames::cancel_in_flight(std::int64_t now_ns, const std::string& reason) {
    std::deque<std::uint64_t> order;
    order.swap(order_);
    for (const std::uint64_t id : order) {
        const auto found = in_flight_.find(id);
        if (found == in_flight_.end()) continue;
        while (!kept_back_.empty() && kept_back_.front().id < id) {
            unread_.push_back(std::move(kept_back_.front()));
            kept_back_.pop_front();
        }
        cancel(id, now_ns - found->second.captured_ns, reason);
        in_flight_.erase(found);
    }
    bytes_in_flight_ = 0;
    give_back();
}

std::string Frames::answered(v1::OutcomeBatch* batch, std::int64_t now_ns) {
    for (v1::Outcome& message : *batch->mutable_outcomes()) {
        const auto found = in_flight_.find(message.frame_id());
        if (found == in_flight_.end()) {
            return "an outcome came for frame " + std::to_string(message.frame_id()) + ", which is not in flight";
        }
        unread_.push_back(outcome_of(&message, now_ns - found->second.captured_ns));
        bytes_in_flight_ -= found->second.size;
        in_flight_.erase(found);
        give_back();
    }
    return "";
}

void Frames::give_back() {
    while (!order_.empty() && !is_in_flight(order_.front())) order_.pop_front();
    while (!kept_back_.empty() && !(in_order_ && !order_.empty() && order_.front() < kept_back_.front().id)) {
        unread_.push_back(std::move(kept_back_.front()));
        kept_back_.pop_front();
    }
}

Outcome Frames::take() {
    Outcome outcome = std::move(unread_.front());
    unread_.pop_front();
    return outcome;
}

void Frames::drop_outcomes() {
    kept_back_.clear();
    unread_.clear();
}

}  // namespace duly
