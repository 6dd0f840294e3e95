//! A stream as the application sees it: frames in, exactly one outcome a frame out, over as many connections as it takes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::{Code, Streaming};

use crate::client::{Client, with_token};
use crate::clock::ClockEstimate;
use crate::connection::{Connection, PING_PERIOD};
use crate::error::{Error, TrySendError};
use crate::frames::Frames;
use crate::pace::Pace;
use crate::types::{Advice, Frame, Outcome, Terms};
use crate::v1;
use crate::v1::inference_service_client::InferenceServiceClient;
use crate::v1::stream_response::Response;
use crate::wall_clock::WallClock;

/// How long opening waits for the clocks to be related. Until they are, budgets count from receipt.
const CLOCK_WAIT: Duration = Duration::from_secs(1);
/// Pauses between two tries to connect. They double, and each is shortened at random by up to a half.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// No pause is longer while a stream opens for the first time.
const OPEN_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long `send` waits for an application that reads no outcomes.
const UNREAD_WAIT: Duration = Duration::from_secs(10);

/// A stream of frames. Clones are the same stream; when the last one is dropped, the stream is closed.
#[derive(Clone)]
pub struct Stream {
    shared: Arc<Shared>,
    _alive: Arc<Alive>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Stream").field("target", &self.shared.client.target).finish_non_exhaustive()
    }
}

/// Closes the stream when the application has dropped it.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Shared {
    client: Client,
    terms: Terms,
    state: Mutex<State>,
    changed: Notify,
    closed: watch::Sender<bool>,
}

struct State {
    wall: WallClock,
    frames: Frames,
    pace: Pace,
    connection: Option<Connection>,
    connected: bool, // `connection` is open, not opening
    connections: u64,
    opened: v1::StreamOpened,
    lost: String,   // why there is no connection
    stopping: bool, // finished or closed: no more frames, no new connection
    ended: bool,
    error: Option<Error>,
}

/// When the application asked, and when the frame was captured.
#[derive(Clone, Copy)]
struct Asked {
    captured_ns: i64, // by the wall clock as it was then
    moved_ns: i64,    // how far it had been set by then
    monotonic_ns: i64,
    age_ns: i64, // since capture
}

impl State {
    fn ask(&mut self, frame: &Frame) -> Asked {
        let now = self.wall.now();
        let captured_ns = frame.captured_ns().unwrap_or(now.wall_ns);
        Asked {
            captured_ns,
            moved_ns: self.wall.moved_ns,
            monotonic_ns: now.monotonic_ns,
            age_ns: now.wall_ns - captured_ns,
        }
    }

    fn over(&self) -> Error {
        self.error.clone().unwrap_or_else(Error::finished)
    }

    fn open_connection(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut().filter(|_| self.connected)
    }

    /// Gives a frame to the connection, or keeps it back; gives it back where the transport is full.
    fn try_put(&mut self, frame: Frame, size: usize, asked: Asked) -> Result<u64, Frame> {
        let now_ns = self.wall.now().monotonic_ns;
        let State { connection: Some(connection), wall, .. } = self else { return Err(frame) };
        connection.heed(wall);
        if !frame.must_run && !self.pace.due(now_ns) {
            let id = self.frames.take_id();
            self.frames.keep_back(id, now_ns - asked.monotonic_ns + asked.age_ns, self.pace.period_ns);
            return Ok(id);
        }
        if !connection.has_room(size) {
            return Err(frame);
        }
        let id = self.frames.take_id();
        let captured_ns = (asked.captured_ns + wall.moved_ns - asked.moved_ns).max(1);
        connection.put(frame.message(id, captured_ns), size);
        self.frames.sent(id, asked.monotonic_ns - asked.age_ns, size);
        self.pace.sent(now_ns);
        Ok(id)
    }
}

/// The messages of one connection, taken by the transport when it has room.
struct Outbound {
    shared: Arc<Shared>,
    number: u64,
}

impl futures_core::Stream for Outbound {
    type Item = v1::StreamRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::StreamRequest>> {
        let mut state = self.shared.lock();
        let State { connection, wall, .. } = &mut *state;
        let Some(connection) = connection.as_mut().filter(|each| each.number == self.number && !each.over) else {
            return Poll::Ready(None);
        };
        if let Some(request) = connection.next(wall) {
            drop(state);
            self.shared.changed.notify_waiters();
            return Poll::Ready(Some(request));
        }
        if connection.finishing {
            return Poll::Ready(None);
        }
        connection.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Stream {
    /// Opens a stream for the first time: what may pass is tried again as long as the time to open lasts.
    pub(crate) async fn open(client: Client, terms: Terms) -> Result<Stream, Error> {
        let reconnect = client.settings.reconnect;
        let give_up = Instant::now() + client.settings.open_timeout;
        let state = State {
            wall: WallClock::new(),
            frames: Frames::new(),
            pace: Pace::default(),
            connection: None,
            connected: false,
            connections: 0,
            opened: v1::StreamOpened::default(),
            lost: String::new(),
            stopping: false,
            ended: false,
            error: None,
        };
        let shared = Arc::new(Shared {
            client,
            terms,
            state: Mutex::new(state),
            changed: Notify::new(),
            closed: watch::Sender::new(false),
        });
        let stream = Stream { _alive: Arc::new(Alive(shared.clone())), shared };
        let mut tries = 0;
        let inbound = loop {
            let error = match stream.shared.connect(give_up).await {
                Ok(inbound) => break inbound,
                Err(error) => error,
            };
            let pause = backoff_after(tries).min(OPEN_PAUSE_MAX);
            tries += 1;
            if !error.passes() || !reconnect || Instant::now() + pause >= give_up {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        };
        let related = stream.shared.lock().connection.as_ref().map(|connection| connection.related.subscribe());
        tokio::spawn(stream.shared.clone().run(inbound));
        if let Some(mut related) = related {
            let _ = timeout(CLOCK_WAIT, related.wait_for(|related| *related)).await;
        }
        Ok(stream)
    }

    /// The terms that were agreed; after a reconnection, those agreed then.
    pub fn opened(&self) -> v1::StreamOpened {
        self.shared.lock().opened.clone()
    }

    /// By what `Feedback` names the stream for that frame. It holds for good, so that whoever learns later what was right
    /// keeps it together with the frame's id. Empty: the server keeps no frames of the model.
    pub fn key_of(&self, id: u64) -> String {
        self.shared.lock().frames.key_of(id)
    }

    /// How the server's wall clock relates to the client's; None while that is unknown.
    pub fn clock(&self) -> Option<ClockEstimate> {
        let mut state = self.shared.lock();
        let now_ns = state.wall.now().wall_ns;
        let State { connection, wall, .. } = &mut *state;
        let connection = connection.as_mut()?;
        connection.heed(wall);
        connection.clock.estimate(now_ns)
    }

    /// Sends a frame and returns its id; its outcome comes from `next`. Waits while the transport is full. While the
    /// connection is lost it waits no longer than the budget; then the frame is `Cancelled`. Fails where the stream has
    /// ended, and where nobody has read outcomes for long.
    pub async fn send(&self, frame: Frame) -> Result<u64, Error> {
        let shared = &*self.shared;
        let size = frame.size();
        let asked = shared.lock().ask(&frame);
        let called = Instant::now();
        let mut frame = frame;
        loop {
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let give_up = {
                let mut state = shared.lock();
                if state.stopping || state.ended {
                    return Err(state.over());
                }
                let full = !state.frames.has_room();
                if full {
                    Some(Instant::now() + UNREAD_WAIT)
                } else if state.connected {
                    match state.try_put(frame, size, asked) {
                        Ok(id) => {
                            drop(state);
                            shared.changed.notify_waiters();
                            return Ok(id);
                        }
                        Err(back) => frame = back,
                    }
                    None // for the transport: as long as it takes
                } else {
                    let stated = Duration::from_nanos(u64::try_from(state.opened.default_budget_nano).unwrap_or(0));
                    let end = called + frame.budget.unwrap_or(stated);
                    if Instant::now() >= end {
                        let now_ns = state.wall.now().monotonic_ns;
                        let id = state.frames.take_id();
                        let reason = format!("not sent, {}", state.lost);
                        state.frames.cancel(id, now_ns - asked.monotonic_ns + asked.age_ns, &reason);
                        drop(state);
                        shared.changed.notify_waiters();
                        return Ok(id);
                    }
                    Some(end)
                }
            };
            match give_up {
                None => changed.await,
                Some(end) if timeout_at(end, changed).await.is_err() => {
                    let state = shared.lock();
                    if !state.frames.has_room() && state.frames.unread.len() >= state.frames.unread_max {
                        let text = "outcomes are not read: call next, in another task where need be, while you send";
                        return Err(Error::new(Code::ResourceExhausted, text));
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Sends a frame and returns its id, or gives it back at once: where as many frames or bytes are unanswered as the
    /// server takes, where too much waits for the transport, and while there is no connection.
    pub fn try_send(&self, frame: Frame) -> Result<u64, TrySendError> {
        let size = frame.size();
        let mut state = self.shared.lock();
        if state.stopping || state.ended {
            return Err(TrySendError::Ended(state.over()));
        }
        if !state.connected || !state.frames.has_room() || !state.frames.has_credit(size) {
            return Err(TrySendError::Full(frame));
        }
        let asked = state.ask(&frame);
        let id = state.try_put(frame, size, asked).map_err(TrySendError::Full)?;
        drop(state);
        self.shared.changed.notify_waiters();
        Ok(id)
    }

    /// Withdraws frames that still wait; each is answered all the same. Other ids are ignored.
    pub fn cancel(&self, ids: &[u64]) {
        let mut state = self.shared.lock();
        let waiting: Vec<u64> = ids.iter().copied().filter(|id| state.frames.is_in_flight(*id)).collect();
        if let Some(connection) = state.open_connection() {
            connection.cancels.extend(waiting);
            connection.wake();
        }
    }

    /// The next outcome. None after `finish` or `close`, when there are no more. Where an error ended the stream, it comes
    /// after the outcomes of all frames.
    pub async fn next(&self) -> Result<Option<Outcome>, Error> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.shared.lock();
                if let Some(outcome) = state.frames.unread.pop_front() {
                    drop(state);
                    self.shared.changed.notify_waiters();
                    return Ok(Some(outcome));
                }
                if state.ended {
                    return state.error.clone().map_or(Ok(None), Err);
                }
            }
            changed.await;
        }
    }

    /// Declares that no more frames follow; `next` gives None after the last outcome.
    pub fn finish(&self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        if let Some(connection) = state.connection.as_mut() {
            connection.finishing = true;
            connection.wake();
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Ends the stream now: frames in flight are withdrawn, and outcomes that were not read are dropped.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that may panic runs under it but allocation.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn close(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.frames.drop_outcomes();
        drop(state);
        self.closed.send_replace(true);
        self.changed.notify_waiters();
    }

    /// Begins a call and opens the stream over it.
    async fn connect(self: &Arc<Self>, give_up: Instant) -> Result<Streaming<v1::StreamResponse>, Error> {
        let asked = Instant::now();
        let opened = timeout_at(give_up, self.exchange()).await.unwrap_or_else(|_| {
            let waited_s = asked.elapsed().as_secs_f64();
            let text = format!("no answer from {} in {waited_s:.2} s", self.client.target);
            Err(Error::new(Code::DeadlineExceeded, text))
        });
        let mut state = self.lock();
        match opened {
            Ok((opened, inbound)) => {
                state.frames.agreed(&opened);
                state.opened = opened;
                state.pace = Pace::default();
                state.connected = true;
                let finishing = state.stopping;
                if let Some(connection) = state.connection.as_mut() {
                    connection.ping_due = true;
                    connection.finishing = finishing;
                    connection.wake();
                }
                drop(state);
                self.changed.notify_waiters();
                Ok(inbound)
            }
            Err(error) => {
                Self::drop_connection(&mut state);
                Err(error)
            }
        }
    }

    fn drop_connection(state: &mut State) {
        state.connected = false;
        if let Some(mut connection) = state.connection.take() {
            connection.over = true;
            connection.wake();
        }
    }

    async fn exchange(self: &Arc<Self>) -> Result<(v1::StreamOpened, Streaming<v1::StreamResponse>), Error> {
        let failed = |status: tonic::Status| Error::from_status(&status, &self.client.target);
        let token = self.client.token().await?;
        let number = {
            let mut state = self.lock();
            state.connections += 1;
            let number = state.connections;
            state.connection = Some(Connection::new(number, self.terms.request(), &state.wall));
            number
        };
        let request = with_token(Outbound { shared: self.clone(), number }, token)?;
        // The server bounds what it sends.
        let mut calls = InferenceServiceClient::new(self.client.channel()).max_decoding_message_size(usize::MAX);
        let mut inbound = calls.stream(request).await.map_err(failed)?.into_inner();
        match inbound.message().await.map_err(failed)?.and_then(|message| message.response) {
            Some(Response::Opened(opened)) => Ok((opened, inbound)),
            other => Err(Error::protocol(format!("the stream began with {other:?} in place of StreamOpened"))),
        }
    }

    /// Receives over one connection after the other until the stream ends.
    async fn run(self: Arc<Self>, mut inbound: Streaming<v1::StreamResponse>) {
        let mut tries = 0;
        let error = loop {
            let mut closed = self.closed.subscribe();
            let error = tokio::select! {
                _ = closed.wait_for(|closed| *closed) => Error::new(Code::Cancelled, "the stream was closed"),
                error = self.receive(&mut inbound) => error,
            };
            if !self.lost(&error, &mut tries) {
                break None;
            }
            match self.reconnect(error, &mut tries).await {
                Ok(Some(next)) => inbound = next,
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        drop(inbound);
        let mut state = self.lock();
        Self::drop_connection(&mut state);
        state.ended = true;
        state.stopping = true;
        state.error = error;
        drop(state);
        self.changed.notify_waiters();
    }

    /// The connection is gone: what was in flight has its outcome now. Returns false where the stream was closed.
    fn lost(&self, error: &Error, tries: &mut u32) -> bool {
        let closed = *self.closed.borrow();
        let reason = match (closed, error.is_recoverable()) {
            (true, _) => "the stream was closed".to_owned(),
            (false, true) => format!("connection lost: {error}"),
            (false, false) => format!("stream ended: {error}"),
        };
        let mut state = self.lock();
        if state.connection.as_ref().is_some_and(|connection| connection.since.elapsed() > BACKOFF_MAX) {
            *tries = 0; // it was a good connection
        }
        Self::drop_connection(&mut state);
        let now_ns = state.wall.now().monotonic_ns;
        state.frames.cancel_in_flight(now_ns, &reason);
        state.lost = reason;
        if closed {
            state.frames.drop_outcomes();
        }
        drop(state);
        self.changed.notify_waiters();
        !closed
    }

    /// Takes in what comes until the connection ends; returns why it ended.
    async fn receive(&self, inbound: &mut Streaming<v1::StreamResponse>) -> Error {
        let mut ping_at = Instant::now() + PING_PERIOD;
        loop {
            let message = tokio::select! {
                message = inbound.message() => message,
                () = sleep_until(ping_at) => {
                    ping_at = Instant::now() + PING_PERIOD;
                    if let Some(connection) = self.lock().connection.as_mut() {
                        connection.ping_due = true;
                        connection.wake();
                    }
                    continue;
                }
            };
            match message {
                Err(status) => return Error::from_status(&status, &self.client.target),
                Ok(None) => return Error::new(Code::Unavailable, "the server ended the stream"),
                Ok(Some(message)) => match message.response {
                    Some(Response::Outcomes(batch)) => {
                        if let Err(error) = self.answered(batch.outcomes).await {
                            return error;
                        }
                    }
                    Some(Response::ClockPong(pong)) => {
                        let mut state = self.lock();
                        let State { connection, wall, .. } = &mut *state;
                        if let Some(connection) = connection.as_mut() {
                            connection.take_pong(pong, wall);
                        }
                    }
                    Some(Response::Advice(advice)) => self.advise(Advice::of(advice)),
                    _ => {}
                },
            }
        }
    }

    /// Takes in outcomes, and waits where too many are unread: then no more are received.
    async fn answered(&self, outcomes: Vec<v1::Outcome>) -> Result<(), Error> {
        {
            let mut state = self.lock();
            let now_ns = state.wall.now().monotonic_ns;
            let taken = state.frames.answered(outcomes, now_ns);
            drop(state);
            self.changed.notify_waiters();
            taken?;
        }
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.lock();
                if state.frames.unread.len() < state.frames.unread_max {
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    fn advise(&self, advice: Advice) {
        use v1::stream_advice::Kind;
        if self.terms.follow_advice && matches!(advice.kind, Kind::SlowDown | Kind::SpeedUp) {
            let mut state = self.lock();
            let now_ns = state.wall.now().monotonic_ns;
            let period_ns = i64::try_from(advice.period.as_nanos()).unwrap_or(i64::MAX);
            state.pace.advised(now_ns, period_ns, rand::random());
        }
        if let Some(on_advice) = &self.terms.on_advice {
            on_advice(advice);
        }
    }

    /// Opens a new connection after `error` ended the last one. None: the stream is finished.
    async fn reconnect(
        self: &Arc<Self>,
        mut error: Error,
        tries: &mut u32,
    ) -> Result<Option<Streaming<v1::StreamResponse>>, Error> {
        loop {
            if self.lock().stopping && (error.is_recoverable() || *self.closed.borrow()) {
                return Ok(None);
            }
            if !error.is_recoverable() || !self.client.settings.reconnect {
                return Err(error);
            }
            let pause_end = Instant::now() + backoff_after(*tries);
            *tries += 1;
            while !self.lock().stopping && Instant::now() < pause_end {
                let _ = timeout_at(pause_end, self.changed.notified()).await;
            }
            if self.lock().stopping {
                continue;
            }
            let give_up = Instant::now() + self.client.settings.open_timeout;
            let mut closed = self.closed.subscribe();
            let connected = tokio::select! {
                _ = closed.wait_for(|closed| *closed) => return Ok(None),
                connected = self.connect(give_up) => connected,
            };
            match connected {
                Ok(inbound) => return Ok(Some(inbound)),
                Err(failure) => {
                    self.lock().lost = format!("connection lost: {failure}");
                    error = failure;
                }
            }
        }
    }
}

/// The pause after so many failed tries.
fn backoff_after(tries: u32) -> Duration {
    BACKOFF_MAX.min(BACKOFF_MIN * 2_u32.pow(tries.min(10))).mul_f64(rand::random_range(0.5..1.0))
}
