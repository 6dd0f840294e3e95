#include "duly/clock.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace duly {
namespace {

// With one exchange each 10 s the oldest bounds the offset no better than 16 ms.
constexpr std::size_t exchanges_max = 16;
// Largest drift between two quartz oscillators of +-50 ppm each.
constexpr std::int64_t drift_max_ppm = 100;
// Sensors whose frames come at random would send a fifth less than advised if nothing were saved up.
constexpr std::int64_t periods_saved = 2;

}  // namespace

bool Clock::add(std::int64_t sent_ns, std::int64_t server_received_ns, std::int64_t server_sent_ns,
                std::int64_t received_ns) {
    const std::int64_t offset_ns = ((server_received_ns - sent_ns) + (server_sent_ns - received_ns)) >> 1;
    const std::int64_t round_trip_ns = (received_ns - sent_ns) - (server_sent_ns - server_received_ns);
    // 2: both divisions round down
    const Exchange newest{sent_ns, offset_ns, std::max<std::int64_t>(0, round_trip_ns) / 2 + 2};
    if (exchanges_.size() == exchanges_max) exchanges_.pop_front();
    exchanges_.push_back(newest);
    const Bounds all = bounds(received_ns);
    const bool contradicts = all.low_ns > all.high_ns;
    if (contradicts) exchanges_.assign(1, newest);
    return contradicts;
}

void Clock::moved(std::int64_t ahead_ns) {
    for (Exchange& exchange : exchanges_) {
        exchange.sent_ns += ahead_ns;
        exchange.offset_ns -= ahead_ns;
    }
}

std::optional<ClockEstimate> Clock::estimate(std::int64_t now_ns) const {
    if (exchanges_.empty()) return std::nullopt;
    const Bounds all = bounds(now_ns);
    return ClockEstimate{(all.low_ns + all.high_ns) >> 1, ((all.high_ns - all.low_ns) >> 1) + 1};
}

Clock::Bounds Clock::bounds(std::int64_t now_ns) const {
    Bounds all{std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()};
    for (const Exchange& exchange : exchanges_) {
        const std::int64_t age_ns = std::max<std::int64_t>(0, now_ns - exchange.sent_ns);
        const std::int64_t uncertainty_ns = exchange.uncertainty_ns + age_ns * drift_max_ppm / 1'000'000;
        all.low_ns = std::max(all.low_ns, exchange.offset_ns - uncertainty_ns);
        all.high_ns = std::min(all.high_ns, exchange.offset_ns + uncertainty_ns);
    }
    return all;
}

void Pace::advised(std::int64_t now_ns, std::int64_t period_ns, double phase) {
    period_ns_ = period_ns;
    due_ns_ = now_ns + std::llround(phase * static_cast<double>(period_ns));
}

void Pace::sent(std::int64_t now_ns) { due_ns_ = std::max(due_ns_, now_ns - periods_saved * period_ns_) + period_ns_; }

}  // namespace duly
