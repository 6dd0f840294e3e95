//! The pace of a stream that follows the server's advice: which frames it may send.

/// How many periods a stream may make up for after a pause. Sensors whose frames come at random would send a fifth less
/// than advised if nothing were saved up.
const PERIODS_SAVED: i64 = 2;

/// Frames are due every period on a grid. One that is due is sent and moves the grid on by a period; one that comes
/// before is not. A frame that came late does not put off the next.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    pub(crate) period_ns: i64,
    due_ns: i64,
}

impl Pace {
    /// Makes frames due every `period_ns` (0: whenever they come), the first after `phase` (0 to 1) of one.
    pub fn advised(&mut self, now_ns: i64, period_ns: i64, phase: f64) {
        self.period_ns = period_ns;
        self.due_ns = now_ns + (phase * period_ns as f64).round() as i64;
    }

    /// Whether a frame at `now_ns` may be sent. Any clock that never goes back will do.
    pub fn due(&self, now_ns: i64) -> bool {
        self.period_ns == 0 || now_ns >= self.due_ns
    }

    /// A frame was sent at `now_ns`, due or not.
    pub fn sent(&mut self, now_ns: i64) {
        self.due_ns = self.due_ns.max(now_ns - PERIODS_SAVED * self.period_ns) + self.period_ns;
    }
}
