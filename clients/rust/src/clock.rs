//! Estimates how far the server's wall clock is from the client's, from exchanges of four time stamps.
//!
//! The client sends at t1, the server receives at t2 and answers at t3, the client receives at t4. Neither way takes
//! negative time, so the offset lies within half the round trip of ((t2 - t1) + (t3 - t4)) / 2, however unequal the two
//! ways are. Each exchange gives such an interval, widened by the drift since t1. The true offset lies in all of them.

use std::collections::VecDeque;

/// How many exchanges are remembered. With one each 10 s the oldest bounds the offset no better than 16 ms.
const EXCHANGES_MAX: usize = 16;
/// Largest drift between two quartz oscillators of +-50 ppm each.
const DRIFT_MAX_PPM: i64 = 100;

/// How the server's wall clock relates to this machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockEstimate {
    /// Server wall clock minus client wall clock, ns.
    pub offset_ns: i64,
    /// Bound of the error of `offset_ns`, ns.
    pub uncertainty_ns: i64,
}

#[derive(Clone, Copy, Debug)]
struct Exchange {
    sent_ns: i64,
    offset_ns: i64,
    uncertainty_ns: i64,
}

impl Exchange {
    fn interval(&self, now_ns: i64) -> (i64, i64) {
        let drift_ns = (now_ns - self.sent_ns).max(0) * DRIFT_MAX_PPM / 1_000_000;
        let uncertainty_ns = self.uncertainty_ns + drift_ns;
        (self.offset_ns - uncertainty_ns, self.offset_ns + uncertainty_ns)
    }
}

/// Remembers the newest exchanges and says what they prove. It reads no clock.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    exchanges: VecDeque<Exchange>,
}

impl Clock {
    /// Adds an exchange, t1 to t4 in ns. Where it contradicts the older ones, a clock was set, and they are forgotten.
    /// Returns whether that is so.
    pub fn add(&mut self, sent_ns: i64, server_received_ns: i64, server_sent_ns: i64, received_ns: i64) -> bool {
        let offset_ns = ((server_received_ns - sent_ns) + (server_sent_ns - received_ns)) >> 1;
        let round_trip_ns = (received_ns - sent_ns) - (server_sent_ns - server_received_ns);
        // 2: both divisions round down
        let newest = Exchange { sent_ns, offset_ns, uncertainty_ns: round_trip_ns.max(0) / 2 + 2 };
        if self.exchanges.len() == EXCHANGES_MAX {
            self.exchanges.pop_front();
        }
        self.exchanges.push_back(newest);
        let (low_ns, high_ns) = self.bounds(received_ns);
        let contradicts = low_ns > high_ns;
        if contradicts {
            self.exchanges.clear();
            self.exchanges.push_back(newest);
        }
        contradicts
    }

    /// Notes that the client's clock was set ahead by `ahead_ns`: the exchanges hold as if made with the new one.
    pub fn moved(&mut self, ahead_ns: i64) {
        for exchange in &mut self.exchanges {
            exchange.sent_ns += ahead_ns;
            exchange.offset_ns -= ahead_ns;
        }
    }

    /// What holds at `now_ns` of the client's clock, which may lie ahead; None before the first exchange.
    pub fn estimate(&self, now_ns: i64) -> Option<ClockEstimate> {
        if self.exchanges.is_empty() {
            return None;
        }
        let (low_ns, high_ns) = self.bounds(now_ns);
        Some(ClockEstimate { offset_ns: (low_ns + high_ns) >> 1, uncertainty_ns: ((high_ns - low_ns) >> 1) + 1 })
    }

    fn bounds(&self, now_ns: i64) -> (i64, i64) {
        self.exchanges
            .iter()
            .map(|exchange| exchange.interval(now_ns))
            .fold((i64::MIN, i64::MAX), |(low_ns, high_ns), (low, high)| (low_ns.max(low), high_ns.min(high)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_moves_what_is_known() {
        let mut clock = Clock::default();
        assert_eq!(clock.estimate(0), None);
        clock.add(1000, 5600, 5700, 1400);
        let before = clock.estimate(1400).unwrap();
        clock.moved(7_000);
        let after = clock.estimate(8_400).unwrap();
        assert_eq!(after, ClockEstimate { offset_ns: before.offset_ns - 7_000, ..before });
    }
}
