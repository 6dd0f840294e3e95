// What became of the frames of a stream: those without an outcome, and outcomes that wait for the application. Each frame
// that was given an id has exactly one outcome, whether the server gives it or this side does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>

#include "duly/duly.h"
#include "duly/v1/inference.pb.h"

namespace duly {

class Frames {
public:
    // Bound of unanswered and unread frames together; many times what is of use to a sensor.
    static constexpr std::size_t held_max = 4096;
    // Of a stream that was opened again so often, earlier frames can be labelled no more by its keys.
    static constexpr std::size_t keys_max = 64;

    void agreed(const Agreed& agreed);
    // By what the label of a frame names the stream; empty: none.
    std::string key_of(std::uint64_t id) const;
    bool has_room() const { return in_flight_.size() + kept_back_.size() + unread_.size() < held_max; }
    // Whether the server would take a frame of that size.
    bool has_credit(std::size_t size) const;
    bool reads_enough() const { return unread_.size() < unread_max_; }
    bool is_in_flight(std::uint64_t id) const { return in_flight_.count(id) != 0; }
    std::uint64_t take_id() { return next_id_++; }

    void sent(std::uint64_t id, std::int64_t captured_ns, std::size_t size);
    // The frame is not sent, as the server advised a period.
    void keep_back(std::uint64_t id, std::int64_t latency_ns, std::int64_t period_ns);
    // The frame has its outcome here.
    void cancel(std::uint64_t id, std::int64_t latency_ns, const std::string& reason);
    // The server will answer none of the frames in flight.
    void cancel_in_flight(std::int64_t now_ns, const std::string& reason);
    // The server's outcomes came. Returns what is wrong with them; empty: nothing.
    std::string answered(v1::OutcomeBatch* batch, std::int64_t now_ns);

    bool has_unread() const { return !unread_.empty(); }
    Outcome take();
    void drop_outcomes();

private:
    struct InFlight {
        std::int64_t captured_ns;  // by the monotonic clock
        std::size_t size;
    };
    struct Key {
        std::uint64_t first_id;  // of the frames that it is for
        std::string text;
    };
    // Makes outcomes of frames kept back readable, as far as the order allows.
    void give_back();

    std::uint64_t next_id_ = 1;
    std::unordered_map<std::uint64_t, InFlight> in_flight_;
    std::deque<std::uint64_t> order_;  // ids in flight as they were sent; those answered meanwhile are passed over
    std::size_t bytes_in_flight_ = 0;
    std::size_t credit_ = held_max;
    std::size_t credit_bytes_ = 0;  // 0: not stated
    std::size_t unread_max_ = 1;
    bool in_order_ = false;
    std::deque<Outcome> kept_back_;  // with `arrival` they wait for the outcomes of earlier frames
    std::deque<Outcome> unread_;
    std::deque<Key> keys_;  // the newest first
};

}  // namespace duly
