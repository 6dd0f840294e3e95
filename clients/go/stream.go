package duly

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	dulyv1 "duly/v1"
)

const (
	// clockWait is how long opening waits for the clocks to be related. Until they are, budgets count from receipt.
	clockWait = time.Second
	// backoffMin and backoffMax bound the pauses between two tries to connect. They double, and each is shortened at
	// random by up to a half.
	backoffMin, backoffMax = 100 * time.Millisecond, 5 * time.Second
	// openPauseMax bounds the pauses while a stream opens for the first time.
	openPauseMax = time.Second
	// unreadWait is how long Send waits for an application that reads no outcomes.
	unreadWait = 10 * time.Second
)

// Stream is a stream of frames, over as many connections as it takes. All methods may be called from any goroutine.
type Stream struct {
	client  *Client
	terms   Terms
	request *dulyv1.OpenStream
	ctx     context.Context
	cancel  context.CancelFunc

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at each change that somebody may wait for
	wall     *wallClock
	frames   frames
	pace     Pace
	conn     *connection // nil while there is none
	opened   *dulyv1.StreamOpened
	lost     string // why there is none
	stopping bool   // finished or closed: no more frames, no new connection
	closed   bool
	ended    bool
	err      error
}

func newStream(ctx context.Context, client *Client, terms Terms) *Stream {
	ctx, cancel := context.WithCancel(ctx)
	return &Stream{
		client: client, terms: terms, request: terms.request(), ctx: ctx, cancel: cancel,
		changed: make(chan struct{}), wall: newWallClock(readClocks), frames: newFrames(),
	}
}

// open opens the stream for the first time: what may pass is tried again as long as the time to open lasts.
func (s *Stream) open() error {
	giveUp := time.Now().Add(s.client.settings.openTimeout)
	for tries := 0; ; tries++ {
		conn, err := s.connect(time.Until(giveUp))
		if err == nil {
			s.begin(conn)
			go s.run(conn)
			select {
			case <-conn.related:
			case <-conn.done:
			case <-time.After(clockWait):
			case <-s.ctx.Done():
			}
			return nil
		}
		pause := min(openPauseMax, backoffAfter(tries))
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if !err.passes() || !s.client.settings.reconnect || time.Until(giveUp) <= pause {
			return err
		}
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

// Opened returns the terms that were agreed; after a reconnection, those agreed then.
func (s *Stream) Opened() *dulyv1.StreamOpened {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// KeyOf returns by what Feedback names the stream for that frame. It holds for good, so that whoever learns later what was
// right keeps it together with the frame's id. Empty: the server keeps no frames of the model.
func (s *Stream) KeyOf(id uint64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frames.keyOf(id)
}

// Clock returns how the server's wall clock relates to the client's; false while that is unknown.
func (s *Stream) Clock() (ClockEstimate, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return ClockEstimate{}, false
	}
	nowNS, _ := s.wall.now()
	s.conn.heedWallClock(s.wall)
	return s.conn.clock.Estimate(nowNS)
}

// Send sends a frame and returns its id; its outcome comes from Next. It waits while the transport is full. While the
// connection is lost it waits no longer than the budget; then the frame is Cancelled. It returns ErrTooSlow where nobody
// reads the outcomes, ErrFinished, what ended the stream, or the context's error, all without an id.
func (s *Stream) Send(ctx context.Context, frame Frame) (uint64, error) {
	size := frame.size()
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.ask(frame)
	for {
		if s.stopping || s.ended {
			return 0, s.over()
		}
		full := s.frames.room() <= 0
		if s.conn != nil && !full {
			if id, ok := s.tryPut(frame, size, asked); ok {
				return id, nil
			}
		}
		wait := time.Duration(-1) // for the transport: as long as it takes
		if full {
			wait = unreadWait
		} else if s.conn == nil {
			budget := frame.Budget
			if budget == 0 {
				budget = time.Duration(s.opened.GetDefaultBudgetNano())
			}
			_, nowNS := s.wall.now()
			if wait = max(0, budget-time.Duration(nowNS-asked.monotonicNS)); wait == 0 {
				return s.cancelHere(asked), nil
			}
		}
		timedOut, err := s.await(ctx, wait)
		if err != nil {
			return 0, err
		}
		if timedOut && full && s.frames.room() <= 0 && len(s.frames.unread) >= s.frames.unreadMax {
			return 0, ErrTooSlow
		}
	}
}

// TrySend sends a frame and returns its id, or ErrFull at once: where as many frames or bytes are unanswered as the
// server takes, where too much waits for the transport, and while there is no connection.
func (s *Stream) TrySend(frame Frame) (uint64, error) {
	size := frame.size()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping || s.ended {
		return 0, s.over()
	}
	if s.conn == nil || s.frames.room() <= 0 || !s.frames.hasCredit(size) {
		return 0, ErrFull
	}
	if id, ok := s.tryPut(frame, size, s.ask(frame)); ok {
		return id, nil
	}
	return 0, ErrFull
}

// CancelFrames withdraws frames that still wait; each is answered all the same. Other ids are ignored.
func (s *Stream) CancelFrames(ids ...uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if _, ok := s.frames.inFlight[id]; ok && s.conn != nil {
			s.conn.cancels = append(s.conn.cancels, id)
			s.conn.poke()
		}
	}
}

// Next returns the next outcome. After Finish or Close it returns io.EOF when there are no more. Where an error ended
// the stream, it comes after the outcomes of all frames.
func (s *Stream) Next(ctx context.Context) (Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.frames.unread) == 0 {
		if s.ended {
			if s.err != nil {
				return Outcome{}, s.err
			}
			return Outcome{}, io.EOF
		}
		if _, err := s.await(ctx, -1); err != nil {
			return Outcome{}, err
		}
	}
	outcome := s.frames.take()
	s.change()
	return outcome, nil
}

// Outcomes iterates over the outcomes until there are no more; the error, if any, comes last.
func (s *Stream) Outcomes(ctx context.Context) iter.Seq2[Outcome, error] {
	return func(yield func(Outcome, error) bool) {
		for {
			outcome, err := s.Next(ctx)
			if errors.Is(err, io.EOF) || !yield(outcome, err) || err != nil {
				return
			}
		}
	}
}

// Finish declares that no more frames follow. Next returns io.EOF after the last outcome.
func (s *Stream) Finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	if s.conn != nil {
		s.conn.finishing = true
		s.conn.poke()
	}
	s.change()
}

// Close ends the stream now: frames in flight are withdrawn, and outcomes that were not read are dropped.
func (s *Stream) Close() {
	s.mu.Lock()
	s.stopping, s.closed = true, true
	s.frames.keptBack, s.frames.unread = nil, nil
	s.change()
	s.mu.Unlock()
	s.cancel()
}

// ---- within; the lock is held, but for run, receive and reconnect ----

// asked is when and what the application asked for.
type asked struct {
	capturedNS  int64 // by the wall clock as it was then
	movedNS     int64 // how far it had been set by then
	monotonicNS int64
	ageNS       int64 // since capture
}

func (s *Stream) ask(frame Frame) asked {
	wallNS, monotonicNS := s.wall.now()
	capturedNS := wallNS
	if !frame.Captured.IsZero() {
		capturedNS = frame.Captured.UnixNano()
	}
	return asked{capturedNS, s.wall.movedNS, monotonicNS, wallNS - capturedNS}
}

// tryPut gives a frame to the connection, or keeps it back; false: the transport is full.
func (s *Stream) tryPut(frame Frame, size int, asked asked) (uint64, bool) {
	_, nowNS := s.wall.now()
	s.conn.heedWallClock(s.wall)
	if !frame.MustRun && !s.pace.Due(nowNS) {
		id := s.frames.takeID()
		s.frames.keepBack(id, time.Duration(nowNS-asked.monotonicNS+asked.ageNS), s.pace.periodNS)
		s.change()
		return id, true
	}
	if !s.conn.hasRoom(size) {
		return 0, false
	}
	id := s.frames.takeID()
	s.conn.put(frame.message(id, max(1, asked.capturedNS+s.wall.movedNS-asked.movedNS)), size)
	s.frames.sent(id, inFlight{asked.monotonicNS - asked.ageNS, size})
	s.pace.Sent(nowNS)
	return id, true
}

func (s *Stream) cancelHere(asked asked) uint64 {
	_, nowNS := s.wall.now()
	id := s.frames.takeID()
	s.frames.cancel(id, time.Duration(nowNS-asked.monotonicNS+asked.ageNS), "not sent, "+s.lost)
	s.change()
	return id
}

func (s *Stream) over() error {
	if s.err != nil {
		return s.err
	}
	return ErrFinished
}

// change wakes all who wait.
func (s *Stream) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await gives up the lock until something changes or the time is over (true); a negative time is never over.
func (s *Stream) await(ctx context.Context, wait time.Duration) (bool, error) {
	changed := s.changed
	s.mu.Unlock()
	defer s.mu.Lock()
	var over <-chan time.Time
	if wait >= 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-changed:
		return false, nil
	case <-over:
		return true, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

func (s *Stream) begin(conn *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.opened, s.pace = conn, conn.opened, Pace{}
	s.frames.agreed(conn.opened)
	conn.finishing = s.stopping
	s.change()
}

// run receives over one connection after the other until the stream ends.
func (s *Stream) run(conn *connection) {
	defer s.cancel()
	tries := 0
	for {
		go s.write(conn)
		err := s.receive(conn)
		close(conn.done)
		conn.end()
		reason := "stream ended: " + err.Message
		if err.Recoverable() {
			reason = "connection lost: " + err.Message
		}
		if s.ctx.Err() != nil {
			reason = "the stream was closed"
		}
		s.mu.Lock()
		s.conn, s.lost = nil, reason
		_, nowNS := s.wall.now()
		s.frames.cancelInFlight(nowNS, reason)
		if s.closed {
			s.frames.unread = nil
		}
		s.change()
		s.mu.Unlock()
		if time.Since(conn.since) > backoffMax {
			tries = 0 // it was a good connection
		}
		next, failure := s.reconnect(err, &tries)
		if next == nil {
			s.mu.Lock()
			s.ended, s.stopping = true, true
			if failure != nil {
				s.err = failure
			}
			s.change()
			s.mu.Unlock()
			return
		}
		conn = next
		s.begin(conn)
	}
}

// receive takes in what comes until the connection ends; it returns why it ended.
func (s *Stream) receive(conn *connection) *Error {
	for {
		response, err := conn.call.Recv()
		if err == io.EOF {
			return &Error{Code: codes.Unavailable, Message: "the server ended the stream"}
		}
		if err != nil {
			return errorOf(err, s.client.target)
		}
		if failure := s.take(conn, response); failure != nil {
			return failure
		}
	}
}

func (s *Stream) take(conn *connection, response *dulyv1.StreamResponse) *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r := response.GetResponse().(type) {
	case *dulyv1.StreamResponse_Outcomes:
		_, nowNS := s.wall.now()
		failure := s.frames.answered(r.Outcomes.GetOutcomes(), nowNS)
		s.change()
		if failure != nil {
			return failure
		}
		for len(s.frames.unread) >= s.frames.unreadMax && !s.closed {
			if _, err := s.await(s.ctx, -1); err != nil {
				break // reading says why
			}
		}
	case *dulyv1.StreamResponse_ClockPong:
		conn.takePong(r.ClockPong, s.wall)
	case *dulyv1.StreamResponse_Advice:
		s.advise(r.Advice)
	}
	return nil
}

func (s *Stream) advise(m *dulyv1.StreamAdvice) {
	if s.terms.FollowAdvice && (m.GetKind() == SlowDown || m.GetKind() == SpeedUp) {
		_, nowNS := s.wall.now()
		s.pace.Advised(nowNS, m.GetPeriodNano(), rand.Float64())
	}
	if s.terms.OnAdvice != nil {
		s.mu.Unlock()
		defer s.mu.Lock()
		s.terms.OnAdvice(Advice{m.GetKind(), time.Duration(m.GetPeriodNano()), m.GetVersion(), m.GetReason()})
	}
}

// reconnect opens a new connection after err ended the last one. nil, nil: the stream is finished.
func (s *Stream) reconnect(err *Error, tries *int) (*connection, *Error) {
	for {
		s.mu.Lock()
		stopping, closed := s.stopping, s.closed
		s.mu.Unlock()
		if closed || (stopping && err.Recoverable()) {
			return nil, nil
		}
		if s.ctx.Err() != nil {
			return nil, &Error{Code: codes.Canceled, Message: "the stream's context is done: " + context.Cause(s.ctx).Error()}
		}
		if stopping || !err.Recoverable() || !s.client.settings.reconnect {
			return nil, err
		}
		pause := time.Now().Add(backoffAfter(*tries))
		*tries++
		if !s.pauseUntil(pause) {
			continue
		}
		conn, failure := s.connect(s.client.settings.openTimeout)
		if failure == nil {
			return conn, nil
		}
		err = failure
		s.mu.Lock()
		s.lost = "connection lost: " + err.Message
		s.mu.Unlock()
	}
}

// pauseUntil returns true when it is time, false before where the stream is to end.
func (s *Stream) pauseUntil(end time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.stopping && s.ctx.Err() == nil {
		timedOut, err := s.await(s.ctx, max(0, time.Until(end)))
		if err != nil {
			return false
		}
		if timedOut {
			return true
		}
	}
	return false
}

// backoffAfter returns the pause after so many failed tries.
func backoffAfter(tries int) time.Duration {
	pause := min(backoffMax, backoffMin<<min(tries, 10))
	return pause/2 + rand.N(pause/2)
}
