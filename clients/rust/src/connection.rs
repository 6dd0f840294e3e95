//! The call of one stream: what waits to be written, and the exchanges of time stamps. The stream's lock guards it; the
//! transport takes the next message when it has room for it.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock::Clock;
use crate::v1;
use crate::v1::stream_request::Request;
use crate::wall_clock::WallClock;

/// Bounds of what waits for the write before it; one frame that is larger waits alone. They are small because older data
/// is worth less than newer data.
const PENDING_FRAMES_MAX: usize = 64;
const PENDING_BYTES_MAX: usize = 256 * 1024;
/// Number of exchanges, one after the other, when the stream opens: enough to meet a quick one.
const PINGS_AT_OPEN: u32 = 8;
pub(crate) const PING_PERIOD: Duration = Duration::from_secs(10);

enum Entry {
    Frame(v1::Frame, usize),
    Ping,
}

pub(crate) struct Connection {
    /// Tells one connection of a stream from the next.
    pub number: u64,
    pub since: Instant,
    pub finishing: bool,
    pub over: bool,
    pub clock: Clock,
    pub cancels: Vec<u64>,
    pub ping_due: bool,
    /// True once the server can count budgets from capture.
    pub related: watch::Sender<bool>,
    pub waker: Option<Waker>,
    open: Option<v1::OpenStream>,
    queue: VecDeque<Entry>,
    frames: usize,
    bytes: usize,
    wall_moved_ns: i64, // what `clock` knows of
    ping_id: u64,
    ping_moved_ns: i64, // how far the wall clock had been set when the newest ping was sent
    pings_in_a_row: u32,
}

impl Connection {
    pub fn new(number: u64, open: v1::OpenStream, wall: &WallClock) -> Self {
        Connection {
            number,
            since: Instant::now(),
            finishing: false,
            over: false,
            clock: Clock::default(),
            cancels: Vec::new(),
            ping_due: false,
            related: watch::Sender::new(false),
            waker: None,
            open: Some(open),
            queue: VecDeque::new(),
            frames: 0,
            bytes: 0,
            wall_moved_ns: wall.moved_ns,
            ping_id: 0,
            ping_moved_ns: 0,
            pings_in_a_row: PINGS_AT_OPEN,
        }
    }

    pub fn has_room(&self, size: usize) -> bool {
        self.queue.is_empty() || (self.frames < PENDING_FRAMES_MAX && self.bytes + size <= PENDING_BYTES_MAX)
    }

    pub fn put(&mut self, frame: v1::Frame, size: usize) {
        self.queue.push_back(Entry::Frame(frame, size));
        self.frames += 1;
        self.bytes += size;
        self.wake();
    }

    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Where the client's clock was set, the server learns of it before it gets the next frame.
    pub fn heed(&mut self, wall: &WallClock) {
        if self.learn_of(wall) {
            self.queue.push_back(Entry::Ping);
            self.pings_in_a_row = self.pings_in_a_row.max(1);
            self.wake();
        }
    }

    fn learn_of(&mut self, wall: &WallClock) -> bool {
        let ahead_ns = wall.moved_ns - self.wall_moved_ns;
        self.wall_moved_ns = wall.moved_ns;
        self.clock.moved(ahead_ns);
        ahead_ns != 0
    }

    /// What is to be written now. Frames that wait go together.
    pub fn next(&mut self, wall: &mut WallClock) -> Option<v1::StreamRequest> {
        let request = if let Some(open) = self.open.take() {
            Request::Open(open)
        } else if std::mem::take(&mut self.ping_due) {
            self.ping(wall)
        } else if matches!(self.queue.front(), Some(Entry::Ping)) {
            self.queue.pop_front();
            self.ping(wall)
        } else if !self.queue.is_empty() {
            let mut frames = Vec::with_capacity(self.frames);
            while !matches!(self.queue.front(), None | Some(Entry::Ping)) {
                if let Some(Entry::Frame(frame, size)) = self.queue.pop_front() {
                    self.frames -= 1;
                    self.bytes -= size;
                    frames.push(frame);
                }
            }
            Request::Frames(v1::FrameBatch { frames })
        } else if !self.cancels.is_empty() {
            // behind the frames that they may name
            Request::Cancel(v1::CancelFrames { frame_ids: std::mem::take(&mut self.cancels) })
        } else {
            return None;
        };
        Some(v1::StreamRequest { request: Some(request) })
    }

    fn ping(&mut self, wall: &mut WallClock) -> Request {
        let now_ns = wall.now().wall_ns;
        self.learn_of(wall);
        self.ping_id += 1;
        self.ping_moved_ns = wall.moved_ns;
        // The server uses the estimate until the next one comes, so it must hold until then.
        let estimate = self.clock.estimate(now_ns + PING_PERIOD.as_nanos() as i64);
        Request::ClockPing(v1::ClockPing {
            ping_id: self.ping_id,
            client_send_unix_nano: now_ns,
            clock: estimate.map(|estimate| v1::ClockEstimate {
                offset_nano: estimate.offset_ns,
                uncertainty_nano: estimate.uncertainty_ns,
            }),
        })
    }

    pub fn take_pong(&mut self, pong: v1::ClockPong, wall: &mut WallClock) {
        let received_ns = wall.now().wall_ns;
        self.heed(wall);
        if pong.ping_id != self.ping_id {
            return; // another ping followed it at once
        }
        let sent_ns = pong.client_send_unix_nano + wall.moved_ns - self.ping_moved_ns;
        if self.clock.add(sent_ns, pong.server_receive_unix_nano, pong.server_send_unix_nano, received_ns) {
            self.pings_in_a_row = PINGS_AT_OPEN; // a clock was set: the server shall know at once, and well
        }
        self.pings_in_a_row = self.pings_in_a_row.saturating_sub(1);
        if self.pings_in_a_row > 0 {
            self.ping_due = true; // it has the estimate, and goes before any frame
            self.wake();
        }
        self.related.send_replace(true);
    }
}
