package duly

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	dulyv1 "duly/v1"
)

const (
	// pendingFramesMax and pendingBytesMax bound what waits for the write before it; one frame that is larger waits
	// alone. They are small because older data is worth less than newer data.
	pendingFramesMax = 64
	pendingBytesMax  = 256 * 1024
	// pingsAtOpen is the number of exchanges, one after the other, when the stream opens: enough to meet a quick one.
	pingsAtOpen = 8
	pingPeriod  = 10 * time.Second
)

// entry is what waits to be written: a frame, or where there is none a ping.
type entry struct {
	frame *dulyv1.Frame
	size  int
}

// connection is the call of one stream. Its fields are guarded by the stream's lock, beside the call itself, which one
// goroutine reads and one writes.
type connection struct {
	call    grpc.BidiStreamingClient[dulyv1.StreamRequest, dulyv1.StreamResponse]
	end     context.CancelFunc
	opened  *dulyv1.StreamOpened
	since   time.Time
	wake    chan struct{} // the writer has something to do
	related chan struct{} // closed once the server can count budgets from capture
	done    chan struct{} // closed once the call is over

	queue      []entry
	frames     int
	bytes      int
	cancels    []uint64
	finishing  bool
	clock      Clock
	wallMoved  int64 // what the clock knows of
	pingDue    bool
	pingID     uint64
	pingMoved  int64 // how far the wall clock had been set when the newest ping was sent
	pingsInRow int
}

// connect begins a call and opens the stream over it.
func (s *Stream) connect(timeout time.Duration) (*connection, *Error) {
	ctx, end := context.WithCancel(s.ctx)
	timer := time.AfterFunc(timeout, end)
	fail := func(err error) (*connection, *Error) {
		end()
		failure := errorOf(err, s.client.target)
		if !timer.Stop() && failure.Reason == "" && s.ctx.Err() == nil {
			failure.Message = "no answer from " + s.client.target + " in " + timeout.String()
		}
		return nil, failure
	}
	call, err := s.client.calls.Stream(ctx)
	if err != nil {
		return fail(err)
	}
	request := &dulyv1.StreamRequest{Request: &dulyv1.StreamRequest_Open{Open: s.request}}
	if err := call.Send(request); err != nil && !errors.Is(err, io.EOF) { // EOF: reading says why
		return fail(err)
	}
	response, err := call.Recv()
	if err == io.EOF {
		err = protocolError("the server ended the stream before it opened")
	}
	if err != nil {
		return fail(err)
	}
	opened := response.GetOpened()
	if opened == nil {
		return fail(protocolError("the stream began with %v in place of StreamOpened", response))
	}
	if !timer.Stop() {
		return fail(ctx.Err())
	}
	return &connection{
		call: call, end: end, opened: opened, since: time.Now(), wake: make(chan struct{}, 1),
		related: make(chan struct{}), done: make(chan struct{}),
		pingDue: true, pingsInRow: pingsAtOpen, wallMoved: s.wall.movedNS,
	}, nil
}

func (c *connection) hasRoom(size int) bool {
	return len(c.queue) == 0 || (c.frames < pendingFramesMax && c.bytes+size <= pendingBytesMax)
}

func (c *connection) put(frame *dulyv1.Frame, size int) {
	c.queue = append(c.queue, entry{frame, size})
	c.frames++
	c.bytes += size
	c.poke()
}

func (c *connection) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// heedWallClock: where the client's clock was set, the server learns of it before it gets the next frame.
func (c *connection) heedWallClock(wall *wallClock) {
	ahead := wall.movedNS - c.wallMoved
	if ahead == 0 {
		return
	}
	c.wallMoved = wall.movedNS
	c.clock.Moved(ahead)
	c.queue = append(c.queue, entry{})
	c.pingsInRow = max(c.pingsInRow, 1)
	c.poke()
}

// next returns what is to be written now; nil: nothing. Frames that wait go together.
func (c *connection) next(wall *wallClock) *dulyv1.StreamRequest {
	if c.pingDue {
		c.pingDue = false
		return c.ping(wall)
	}
	if len(c.queue) > 0 && c.queue[0].frame == nil {
		c.queue = c.queue[1:]
		return c.ping(wall)
	}
	if len(c.queue) > 0 {
		batch := &dulyv1.FrameBatch{}
		for len(c.queue) > 0 && c.queue[0].frame != nil {
			batch.Frames = append(batch.Frames, c.queue[0].frame)
			c.frames--
			c.bytes -= c.queue[0].size
			c.queue = c.queue[1:]
		}
		if len(c.queue) == 0 {
			c.queue = nil // lets go of what was sent
		}
		return &dulyv1.StreamRequest{Request: &dulyv1.StreamRequest_Frames{Frames: batch}}
	}
	if len(c.cancels) > 0 { // behind the frames that they may name
		cancel := &dulyv1.CancelFrames{FrameIds: c.cancels}
		c.cancels = nil
		return &dulyv1.StreamRequest{Request: &dulyv1.StreamRequest_Cancel{Cancel: cancel}}
	}
	return nil
}

func (c *connection) ping(wall *wallClock) *dulyv1.StreamRequest {
	nowNS, _ := wall.now()
	if ahead := wall.movedNS - c.wallMoved; ahead != 0 {
		c.wallMoved = wall.movedNS
		c.clock.Moved(ahead)
	}
	c.pingID++
	c.pingMoved = wall.movedNS
	ping := &dulyv1.ClockPing{PingId: c.pingID, ClientSendUnixNano: nowNS}
	// The server uses the estimate until the next one comes, so it must hold until then.
	if estimate, ok := c.clock.Estimate(nowNS + int64(pingPeriod)); ok {
		ping.Clock = &dulyv1.ClockEstimate{OffsetNano: int64(estimate.Offset), UncertaintyNano: int64(estimate.Uncertainty)}
	}
	return &dulyv1.StreamRequest{Request: &dulyv1.StreamRequest_ClockPing{ClockPing: ping}}
}

func (c *connection) takePong(pong *dulyv1.ClockPong, wall *wallClock) {
	receivedNS, _ := wall.now()
	c.heedWallClock(wall)
	if pong.GetPingId() != c.pingID {
		return // another ping followed it at once
	}
	sentNS := pong.GetClientSendUnixNano() + wall.movedNS - c.pingMoved
	if c.clock.Add(sentNS, pong.GetServerReceiveUnixNano(), pong.GetServerSendUnixNano(), receivedNS) {
		c.pingsInRow = pingsAtOpen // a clock was set: the server shall know at once, and well
	}
	c.pingsInRow = max(0, c.pingsInRow-1)
	if c.pingsInRow > 0 {
		c.pingDue = true // it has the estimate, and goes before any frame
		c.poke()
	}
	select {
	case <-c.related:
	default:
		close(c.related)
	}
}

// write sends what the stream wants sent until the call is over.
func (s *Stream) write(c *connection) {
	ticker := time.NewTicker(pingPeriod)
	defer ticker.Stop()
	for {
		s.mu.Lock()
		request := c.next(s.wall)
		finish := request == nil && c.finishing
		s.change()
		s.mu.Unlock()
		if finish {
			_ = c.call.CloseSend()
			return
		}
		if request != nil {
			if c.call.Send(request) != nil {
				return // reading says why
			}
			continue
		}
		select {
		case <-c.wake:
		case <-ticker.C:
			s.mu.Lock()
			c.pingDue = true
			s.mu.Unlock()
		case <-c.done:
			return
		}
	}
}
