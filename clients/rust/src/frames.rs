//! What became of the frames of a stream: those without an outcome, and outcomes that wait for the application. Each frame
//! that was given an id has exactly one outcome, whether the server gives it or this side does.

use std::collections::{HashMap, VecDeque};

use crate::error::Error;
use crate::types::Outcome;
use crate::v1;

/// Bound of unanswered and unread frames together; many times what is of use to a sensor.
pub(crate) const HELD_MAX: usize = 4096;
/// Of a stream that was opened again so often, earlier frames can be labelled no more by its keys.
const KEYS_MAX: usize = 64;

#[derive(Debug)]
struct InFlight {
    captured_ns: i64, // by the monotonic clock
    size: usize,
}

#[derive(Debug)]
pub(crate) struct Frames {
    next_id: u64,
    in_flight: HashMap<u64, InFlight>,
    order: VecDeque<u64>, // ids in flight as they were sent; those answered meanwhile are passed over
    bytes_in_flight: usize,
    credit: usize,
    credit_bytes: usize, // 0: not stated
    pub unread_max: usize,
    in_order: bool,
    kept_back: VecDeque<Outcome>, // with Arrival they wait for the outcomes of earlier frames
    pub unread: VecDeque<Outcome>,
    keys: VecDeque<(u64, String)>, // each with the first id of the frames that it is for, the newest last
}

impl Frames {
    pub fn new() -> Self {
        Frames {
            next_id: 1,
            in_flight: HashMap::new(),
            order: VecDeque::new(),
            bytes_in_flight: 0,
            credit: HELD_MAX,
            credit_bytes: 0,
            unread_max: 1,
            in_order: false,
            kept_back: VecDeque::new(),
            unread: VecDeque::new(),
            keys: VecDeque::new(),
        }
    }

    pub fn agreed(&mut self, opened: &v1::StreamOpened) {
        self.credit =
            usize::try_from(opened.frames_in_flight_max).ok().filter(|credit| *credit > 0).unwrap_or(HELD_MAX);
        self.credit_bytes = usize::try_from(opened.bytes_in_flight_max).unwrap_or(0);
        self.unread_max = self.credit.min(HELD_MAX / 2);
        self.in_order = opened.ordering() == v1::Ordering::Arrival;
        if self.keys.len() >= KEYS_MAX {
            self.keys.pop_front();
        }
        self.keys.push_back((self.next_id, opened.stream_key.clone()));
    }

    /// By what the label of a frame names the stream; empty: none.
    pub fn key_of(&self, id: u64) -> String {
        self.keys.iter().rev().find(|(first_id, _)| id >= *first_id).map(|(_, key)| key.clone()).unwrap_or_default()
    }

    /// Whether one more frame may be held.
    pub fn has_room(&self) -> bool {
        self.in_flight.len() + self.kept_back.len() + self.unread.len() < HELD_MAX
    }

    /// Whether the server would take a frame of that size.
    pub fn has_credit(&self, size: usize) -> bool {
        let fits = self.credit_bytes == 0 || self.bytes_in_flight + size <= self.credit_bytes;
        self.in_flight.is_empty() || (self.in_flight.len() < self.credit && fits)
    }

    pub fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    pub fn is_in_flight(&self, id: u64) -> bool {
        self.in_flight.contains_key(&id)
    }

    pub fn sent(&mut self, id: u64, captured_ns: i64, size: usize) {
        self.in_flight.insert(id, InFlight { captured_ns, size });
        self.order.push_back(id);
        self.bytes_in_flight += size;
    }

    /// The frame is not sent, as the server advised a period.
    pub fn keep_back(&mut self, id: u64, latency_ns: i64, period_ns: i64) {
        let reason = format!("not sent, the server advised a period of {:.4} ms", period_ns as f64 / 1e6);
        self.kept_back.push_back(Outcome::here(id, v1::OutcomeStatus::Superseded, latency_ns, reason));
        self.give_back();
    }

    /// The frame has its outcome here.
    pub fn cancel(&mut self, id: u64, latency_ns: i64, reason: &str) {
        self.unread.push_back(Outcome::here(id, v1::OutcomeStatus::Cancelled, latency_ns, reason.to_owned()));
    }

    /// The server will answer none of the frames in flight.
    pub fn cancel_in_flight(&mut self, now_ns: i64, reason: &str) {
        for id in std::mem::take(&mut self.order) {
            if let Some(frame) = self.in_flight.remove(&id) {
                while self.kept_back.front().is_some_and(|outcome| outcome.id < id) {
                    self.unread.extend(self.kept_back.pop_front());
                }
                self.cancel(id, now_ns - frame.captured_ns, reason);
            }
        }
        self.bytes_in_flight = 0;
        self.give_back();
    }

    /// The server's outcomes came.
    pub fn answered(&mut self, outcomes: Vec<v1::Outcome>, now_ns: i64) -> Result<(), Error> {
        for message in outcomes {
            let Some(frame) = self.in_flight.remove(&message.frame_id) else {
                let id = message.frame_id;
                return Err(Error::protocol(format!("an outcome came for frame {id}, which is not in flight")));
            };
            self.bytes_in_flight -= frame.size;
            self.unread.push_back(Outcome::of(message, now_ns - frame.captured_ns));
            self.give_back();
        }
        Ok(())
    }

    /// Makes outcomes of frames kept back readable, as far as the order allows.
    fn give_back(&mut self) {
        while self.order.front().is_some_and(|id| !self.in_flight.contains_key(id)) {
            self.order.pop_front();
        }
        let oldest = self.order.front().copied().filter(|_| self.in_order).unwrap_or(u64::MAX);
        while self.kept_back.front().is_some_and(|outcome| outcome.id < oldest) {
            self.unread.extend(self.kept_back.pop_front());
        }
    }

    pub fn drop_outcomes(&mut self) {
        self.kept_back.clear();
        self.unread.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(ordering: v1::Ordering, credit: i32) -> v1::StreamOpened {
        v1::StreamOpened { ordering: ordering.into(), frames_in_flight_max: credit, ..Default::default() }
    }

    fn answer(id: u64) -> Vec<v1::Outcome> {
        vec![v1::Outcome { frame_id: id, status: v1::OutcomeStatus::OnTime.into(), ..Default::default() }]
    }

    #[test]
    fn what_is_kept_back_waits_for_earlier_frames_where_the_order_is_that_of_arrival() {
        let mut frames = Frames::new();
        frames.agreed(&opened(v1::Ordering::Arrival, 8));
        let ids = [frames.take_id(), frames.take_id(), frames.take_id(), frames.take_id()];
        frames.sent(ids[0], 0, 1);
        frames.keep_back(ids[1], 0, 1);
        frames.sent(ids[2], 0, 1);
        frames.keep_back(ids[3], 0, 1);
        assert!(frames.unread.is_empty());
        frames.answered(answer(1), 5).unwrap();
        assert_eq!(frames.unread.iter().map(|each| each.id).collect::<Vec<_>>(), [1, 2]);
        frames.cancel_in_flight(5, "connection lost");
        assert_eq!(frames.unread.iter().map(|each| each.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn a_frame_has_the_key_of_the_connection_that_it_was_sent_over() {
        let mut frames = Frames::new();
        assert_eq!(frames.key_of(1), "");
        for nth in 1..=2 * KEYS_MAX {
            let stream_key = format!("key-{nth}");
            frames.agreed(&v1::StreamOpened { stream_key, ..opened(v1::Ordering::Unordered, 1) });
            frames.take_id();
        }
        let last = 2 * KEYS_MAX as u64;
        assert_eq!(frames.key_of(last - KEYS_MAX as u64), "");
        assert_eq!(frames.key_of(last - 1), format!("key-{}", last - 1));
        assert_eq!(frames.key_of(last), format!("key-{last}"));
    }

    #[test]
    fn an_outcome_comes_once() {
        let mut frames = Frames::new();
        let id = frames.take_id();
        frames.sent(id, 0, 1);
        frames.answered(answer(id), 7).unwrap();
        let again = frames.answered(answer(id), 8).unwrap_err();
        assert_eq!(again.message, "an outcome came for frame 1, which is not in flight");
        assert_eq!(frames.unread.len(), 1);
    }

    #[test]
    fn credit_counts_frames_and_bytes_but_a_large_frame_may_go_alone() {
        let mut frames = Frames::new();
        frames.agreed(&v1::StreamOpened { bytes_in_flight_max: 100, ..opened(v1::Ordering::Unordered, 2) });
        assert!(frames.has_credit(1000));
        let id = frames.take_id();
        frames.sent(id, 0, 60);
        assert!(frames.has_credit(40));
        assert!(!frames.has_credit(41));
        let id = frames.take_id();
        frames.sent(id, 0, 1);
        assert!(!frames.has_credit(1));
    }
}
