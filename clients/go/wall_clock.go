package duly

import "time"

const (
	// stepMinNS is the smallest difference between the wall clock and the monotonic one that counts as being set. A
	// clock that is slewed moves both; what that does to the estimate, the next exchange finds out.
	stepMinNS = 1_000_000
	// A look in which the goroutine was stopped between two clocks for longer than quickNS is taken again, a few times.
	quickNS  = 100_000
	looksMax = 4
)

var started = time.Now()

// readClocks reads the wall clock, ns since 1970, the monotonic clock, ns, and by how much the two may be apart.
func readClocks() (wallNS, monotonicNS, doubtNS int64) {
	for look := range looksMax {
		before := int64(time.Since(started))
		wall := time.Now().UnixNano()
		doubt := int64(time.Since(started)) - before
		if look == 0 || doubt < doubtNS {
			wallNS, monotonicNS, doubtNS = wall, before, doubt
		}
		if doubt < quickNS {
			break
		}
	}
	return wallNS, monotonicNS, doubtNS
}

// wallClock watches the wall clock for being set: capture times are of it, and the relation to the server's clock changes
// by just as much.
type wallClock struct {
	read    func() (wallNS, monotonicNS, doubtNS int64)
	leadNS  int64
	movedNS int64 // how far the clock was set ahead since the first look, all together
}

func newWallClock(read func() (wallNS, monotonicNS, doubtNS int64)) *wallClock {
	wall, monotonic, _ := read()
	return &wallClock{read: read, leadNS: wall - monotonic}
}

// now returns both clocks, having noted whether the wall clock was set.
func (w *wallClock) now() (wallNS, monotonicNS int64) {
	wallNS, monotonicNS, doubtNS := w.read()
	step := wallNS - monotonicNS - w.leadNS
	if max(step, -step) >= stepMinNS+doubtNS {
		w.movedNS += step
		w.leadNS += step
	}
	return wallNS, monotonicNS
}
