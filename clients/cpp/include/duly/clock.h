// How the server's wall clock relates to this machine's, and the pace that the server's advice asks for.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

namespace duly {

struct ClockEstimate {
    std::int64_t offset_ns;       // server wall clock minus client wall clock
    std::int64_t uncertainty_ns;  // bound of the error of `offset_ns`
};

// Estimates the offset from exchanges of four time stamps, and reads no clock.
//
// The client sends at t1, the server receives at t2 and answers at t3, the client receives at t4. Neither way takes
// negative time, so the offset lies within half the round trip of ((t2 - t1) + (t3 - t4)) / 2, however unequal the two
// ways are. Each exchange gives such an interval, widened by the drift since t1. The true offset lies in all of them.
class Clock {
public:
    // Adds an exchange, t1 to t4 in ns. Where it contradicts the older ones, a clock was set, and they are forgotten.
    // Returns whether that is so.
    bool add(std::int64_t sent_ns, std::int64_t server_received_ns, std::int64_t server_sent_ns, std::int64_t received_ns);
    // The client's clock was set ahead by `ahead_ns`: the exchanges hold as if made with the new one.
    void moved(std::int64_t ahead_ns);
    // What holds at `now_ns` of the client's clock, which may lie ahead; nothing before the first exchange.
    std::optional<ClockEstimate> estimate(std::int64_t now_ns) const;

private:
    struct Exchange {
        std::int64_t sent_ns, offset_ns, uncertainty_ns;
    };
    struct Bounds {
        std::int64_t low_ns, high_ns;
    };
    Bounds bounds(std::int64_t now_ns) const;
    std::deque<Exchange> exchanges_;
};

// Frames are due every period on a grid. One that is due is sent and moves the grid on by a period; one that comes before
// is not. A frame that came late does not put off the next; after a pause no more than two periods are made up for.
class Pace {
public:
    // Makes frames due every `period_ns` (0: whenever they come), the first after `phase` (0 to 1) of one.
    void advised(std::int64_t now_ns, std::int64_t period_ns, double phase);
    bool due(std::int64_t now_ns) const { return period_ns_ == 0 || now_ns >= due_ns_; }
    void sent(std::int64_t now_ns);
    std::int64_t period_ns() const { return period_ns_; }

private:
    std::int64_t period_ns_ = 0;
    std::int64_t due_ns_ = 0;
};

}  // namespace duly
