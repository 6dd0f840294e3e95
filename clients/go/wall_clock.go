package duly

import "time"

// stepMinNS is the smallest difference between the wall clock and the monotonic one that counts as being set. A clock
// that is slewed moves both; what that does to the estimate, the next exchange finds out.
const stepMinNS = 1_000_000

var started = time.Now()

// readClocks reads the wall clock, ns since 1970, and the monotonic clock, ns.
func readClocks() (wallNS, monotonicNS int64) {
	now := time.Now() // one reading holds both
	return now.UnixNano(), int64(now.Sub(started))
}

// wallClock watches the wall clock for being set: capture times are of it, and the relation to the server's clock changes
// by just as much.
type wallClock struct {
	read    func() (wallNS, monotonicNS int64)
	leadNS  int64
	movedNS int64 // how far the clock was set ahead since the first look, all together
}

func newWallClock(read func() (wallNS, monotonicNS int64)) *wallClock {
	wall, monotonic := read()
	return &wallClock{read: read, leadNS: wall - monotonic}
}

// now returns both clocks, having noted whether the wall clock was set.
func (w *wallClock) now() (wallNS, monotonicNS int64) {
	wallNS, monotonicNS = w.read()
	lead := wallNS - monotonicNS
	if step := lead - w.leadNS; step >= stepMinNS || step <= -stepMinNS {
		w.movedNS += step
		w.leadNS = lead
	}
	return wallNS, monotonicNS
}
