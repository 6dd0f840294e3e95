//! The wall clock, watched for being set: capture times are of it, and its relation to the server's clock changes by just
//! as much.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The smallest difference to the monotonic clock that counts as being set. A clock that is slewed moves both; what that
/// does to the estimate, the next exchange finds out.
const STEP_NS_MIN: i64 = 1_000_000;
/// A look in which the thread was stopped between two clocks for longer is taken again, a few times.
const QUICK_NS: i64 = 100_000;
const LOOKS_MAX: u32 = 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// The wall clock, ns since 1970.
    pub wall_ns: i64,
    /// The monotonic clock, ns since some moment.
    pub monotonic_ns: i64,
    /// How long the look took: so much may the two be apart.
    pub doubt_ns: i64,
}

#[derive(Debug)]
pub(crate) struct WallClock {
    started: Instant,
    lead_ns: i64,
    /// How far the clock was set ahead since the first look, all together.
    pub moved_ns: i64,
}

impl WallClock {
    pub fn new() -> Self {
        let mut clock = WallClock { started: Instant::now(), lead_ns: 0, moved_ns: 0 };
        let now = clock.look();
        clock.lead_ns = now.wall_ns - now.monotonic_ns;
        clock
    }

    /// Returns both clocks, having noted whether the wall clock was set.
    pub fn now(&mut self) -> Now {
        let now = self.look();
        self.note(now);
        now
    }

    fn note(&mut self, now: Now) {
        let step_ns = now.wall_ns - now.monotonic_ns - self.lead_ns;
        if step_ns.abs() >= STEP_NS_MIN + now.doubt_ns {
            self.moved_ns += step_ns;
            self.lead_ns += step_ns;
        }
    }

    fn look(&self) -> Now {
        let mut best = Now { doubt_ns: i64::MAX, ..Now::default() };
        for _ in 0..LOOKS_MAX {
            let before = Instant::now();
            let wall = SystemTime::now();
            let doubt_ns = before.elapsed().as_nanos() as i64;
            if doubt_ns < best.doubt_ns {
                let wall_ns = wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
                best = Now { wall_ns, monotonic_ns: (before - self.started).as_nanos() as i64, doubt_ns };
            }
            if doubt_ns < QUICK_NS {
                break;
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_was_set_moves() {
        let mut clock = WallClock { started: Instant::now(), lead_ns: 5_000, moved_ns: 0 };
        clock.note(Now { wall_ns: 905_000, monotonic_ns: 0, doubt_ns: 0 });
        assert_eq!(clock.moved_ns, 0, "0.9 ms is none that budgets of milliseconds could notice");
        clock.note(Now { wall_ns: 7_205_000, monotonic_ns: 5_000_000, doubt_ns: 3_000_000 });
        assert_eq!(clock.moved_ns, 0, "the look itself took 3 ms");
        clock.note(Now { wall_ns: -3_599_999_995_000, monotonic_ns: 0, doubt_ns: 1_000 });
        assert_eq!(clock.moved_ns, -3_600_000_000_000);
        clock.note(Now { wall_ns: -3_599_999_995_000, monotonic_ns: 0, doubt_ns: 1_000 });
        assert_eq!(clock.moved_ns, -3_600_000_000_000, "once");
    }
}
