package duly

import (
	"fmt"
	"slices"
	"time"

	dulyv1 "duly/v1"
)

// heldMax bounds unanswered and unread frames together; it is many times what is of use to a sensor.
const heldMax = 4096

// inFlight is a frame that the server has not answered.
type inFlight struct {
	capturedNS int64 // by the monotonic clock
	size       int
}

// frames keeps what became of the frames of a stream: those without an outcome, and outcomes that wait for the
// application. Each frame that was given an id has exactly one outcome. Whoever calls holds the stream's lock.
type frames struct {
	nextID        uint64
	inFlight      map[uint64]inFlight
	order         []uint64 // ids in flight as they were sent; those answered meanwhile are passed over
	bytesInFlight int64
	credit        int
	creditBytes   int64
	unreadMax     int
	inOrder       bool
	keptBack      []Outcome // with Arrival they wait for the outcomes of earlier frames
	unread        []Outcome
	keys          []streamKey // the newest last
}

func newFrames() frames {
	return frames{nextID: 1, inFlight: map[uint64]inFlight{}, credit: heldMax, unreadMax: 1}
}

func (f *frames) agreed(opened *dulyv1.StreamOpened) {
	f.credit = heldMax
	if n := int(opened.GetFramesInFlightMax()); n > 0 {
		f.credit = n
	}
	f.creditBytes = opened.GetBytesInFlightMax()
	f.unreadMax = min(f.credit, heldMax/2)
	f.inOrder = opened.GetOrdering() == Arrival
	f.keys = append(f.keys[max(0, len(f.keys)-keysMax+1):], streamKey{f.nextID, opened.GetStreamKey()})
}

// keyOf returns by what the label of a frame names the stream; empty: none.
func (f *frames) keyOf(id uint64) string {
	for _, each := range slices.Backward(f.keys) {
		if id >= each.firstID {
			return each.key
		}
	}
	return ""
}

// room is how many more frames may be held.
func (f *frames) room() int { return heldMax - len(f.inFlight) - len(f.keptBack) - len(f.unread) }

// hasCredit says whether the server would take a frame of that size.
func (f *frames) hasCredit(size int) bool {
	return len(f.inFlight) < f.credit && (f.creditBytes == 0 || len(f.inFlight) == 0 || f.bytesInFlight+int64(size) <= f.creditBytes)
}

func (f *frames) takeID() uint64 {
	f.nextID++
	return f.nextID - 1
}

func (f *frames) sent(id uint64, frame inFlight) {
	f.inFlight[id] = frame
	f.order = append(f.order, id)
	f.bytesInFlight += int64(frame.size)
}

// keepBack: the frame is not sent, as the server advised a period.
func (f *frames) keepBack(id uint64, latency time.Duration, periodNS int64) {
	reason := fmt.Sprintf("not sent, the server advised a period of %.4g ms", float64(periodNS)/1e6)
	f.keptBack = append(f.keptBack, Outcome{ID: id, Status: Superseded, Latency: latency, Reason: reason})
	f.giveBack()
}

// cancel: the frame has its outcome here.
func (f *frames) cancel(id uint64, latency time.Duration, reason string) {
	f.unread = append(f.unread, Outcome{ID: id, Status: Cancelled, Latency: latency, Reason: reason})
}

// cancelInFlight: the server will answer none of the frames in flight.
func (f *frames) cancelInFlight(nowNS int64, reason string) {
	for _, id := range f.order {
		if frame, ok := f.inFlight[id]; ok {
			delete(f.inFlight, id)
			f.cancel(id, time.Duration(nowNS-frame.capturedNS), reason)
			f.giveBack()
		}
	}
	f.order, f.bytesInFlight = nil, 0
}

// answered takes in the server's outcomes.
func (f *frames) answered(outcomes []*dulyv1.Outcome, nowNS int64) *Error {
	for _, message := range outcomes {
		frame, ok := f.inFlight[message.GetFrameId()]
		if !ok {
			return protocolError("an outcome came for frame %d, which is not in flight", message.GetFrameId())
		}
		delete(f.inFlight, message.GetFrameId())
		f.bytesInFlight -= int64(frame.size)
		f.unread = append(f.unread, outcomeOf(message, time.Duration(nowNS-frame.capturedNS)))
		f.giveBack()
	}
	return nil
}

// giveBack makes outcomes of frames kept back readable, as far as the order allows.
func (f *frames) giveBack() {
	for len(f.order) > 0 {
		if _, ok := f.inFlight[f.order[0]]; ok {
			break
		}
		f.order = f.order[1:]
	}
	for len(f.keptBack) > 0 && !(f.inOrder && len(f.order) > 0 && f.order[0] < f.keptBack[0].ID) {
		f.unread = append(f.unread, f.keptBack[0])
		f.keptBack = f.keptBack[1:]
	}
}

func (f *frames) take() Outcome {
	outcome := f.unread[0]
	f.unread = f.unread[1:]
	return outcome
}
