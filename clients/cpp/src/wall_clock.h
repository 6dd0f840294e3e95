// The wall clock, watched for being set: capture times are of it, and its relation to the server's clock changes by just
// as much.
#pragma once

#include <time.h>

#include <cstdint>
#include <cstdlib>

namespace duly {

struct Now {
    std::int64_t wall_ns;       // since 1970
    std::int64_t monotonic_ns;  // since some moment
    std::int64_t doubt_ns;      // how long the look took: so much may the two be apart
};

class WallClock {
public:
    WallClock() {
        const Now now = look();
        lead_ns_ = now.wall_ns - now.monotonic_ns;
    }

    // Reads both clocks, and notes whether the wall clock was set.
    Now now() {
        const Now now = look();
        note(now);
        return now;
    }

    void note(const Now& now) {
        const std::int64_t step_ns = now.wall_ns - now.monotonic_ns - lead_ns_;
        if (std::abs(step_ns) >= step_ns_min + now.doubt_ns) {
            moved_ns += step_ns;
            lead_ns_ += step_ns;
        }
    }

    std::int64_t moved_ns = 0;  // how far it was set ahead since the first look, all together

private:
    // A smaller difference is none that budgets of milliseconds could notice. A clock that is slewed moves both; what that
    // does to the estimate, the next exchange finds out.
    static constexpr std::int64_t step_ns_min = 1'000'000;
    // A look in which the thread was stopped between two clocks for longer is taken again, a few times.
    static constexpr std::int64_t quick_ns = 100'000;
    static constexpr int looks_max = 4;

    static std::int64_t read(clockid_t clock) {
        timespec time;
        clock_gettime(clock, &time);
        return time.tv_sec * std::int64_t{1'000'000'000} + time.tv_nsec;
    }

    static Now look() {
        Now best{0, 0, INT64_MAX};
        for (int looks = 0; looks < looks_max && best.doubt_ns >= quick_ns; ++looks) {
            const std::int64_t before_ns = read(CLOCK_MONOTONIC);
            const std::int64_t wall_ns = read(CLOCK_REALTIME);
            const std::int64_t doubt_ns = read(CLOCK_MONOTONIC) - before_ns;
            if (doubt_ns < best.doubt_ns) best = Now{wall_ns, before_ns, doubt_ns};
        }
        return best;
    }

    std::int64_t lead_ns_;
};

}  // namespace duly
