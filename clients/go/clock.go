package duly

import "time"

// ClockEstimate says how the server's wall clock relates to this machine's.
type ClockEstimate struct {
	// Offset is the server's wall clock minus the client's.
	Offset time.Duration
	// Uncertainty bounds the error of Offset.
	Uncertainty time.Duration
}

const (
	// exchangesMax is how many exchanges are remembered. With one each 10 s the oldest bounds the offset no better
	// than 16 ms.
	exchangesMax = 16
	// driftMaxPPM is the largest drift between two quartz oscillators of +-50 ppm each.
	driftMaxPPM = 100
)

// exchange holds what one ping proves: the offset at sentNS, give or take. Times are ns.
type exchange struct {
	sentNS, offsetNS, uncertaintyNS int64
}

func (e exchange) interval(nowNS int64) (low, high int64) {
	uncertainty := e.uncertaintyNS + max(0, nowNS-e.sentNS)*driftMaxPPM/1_000_000
	return e.offsetNS - uncertainty, e.offsetNS + uncertainty
}

// Clock estimates how far the server's wall clock is from the client's, from exchanges of four time stamps.
//
// The client sends at t1, the server receives at t2 and answers at t3, the client receives at t4. Neither way takes
// negative time, so the offset lies within half the round trip of ((t2-t1)+(t3-t4))/2, however unequal the ways are.
// Each exchange gives such an interval, widened by the drift since t1. The true offset lies in all of them.
type Clock struct {
	exchanges []exchange
}

// Add adds an exchange, t1 to t4 in ns. Where it contradicts the older ones, a clock was set, and they are forgotten.
// It returns whether that is so.
func (c *Clock) Add(sentNS, serverReceivedNS, serverSentNS, receivedNS int64) bool {
	offset := ((serverReceivedNS - sentNS) + (serverSentNS - receivedNS)) >> 1
	roundTrip := (receivedNS - sentNS) - (serverSentNS - serverReceivedNS)
	newest := exchange{sentNS, offset, max(0, roundTrip)/2 + 2} // 2: both divisions round down
	if len(c.exchanges) == exchangesMax {
		c.exchanges = append(c.exchanges[:0], c.exchanges[1:]...)
	}
	c.exchanges = append(c.exchanges, newest)
	if low, high := c.bounds(receivedNS); low > high {
		c.exchanges = append(c.exchanges[:0], newest)
		return true
	}
	return false
}

// Moved notes that the client's clock was set ahead by aheadNS: the exchanges hold as if made with the new one.
func (c *Clock) Moved(aheadNS int64) {
	for i := range c.exchanges {
		c.exchanges[i].sentNS += aheadNS
		c.exchanges[i].offsetNS -= aheadNS
	}
}

// Estimate returns what holds at nowNS of the client's clock, which may lie ahead; false before the first exchange.
func (c *Clock) Estimate(nowNS int64) (ClockEstimate, bool) {
	if len(c.exchanges) == 0 {
		return ClockEstimate{}, false
	}
	low, high := c.bounds(nowNS)
	return ClockEstimate{time.Duration((low + high) >> 1), time.Duration((high-low)>>1 + 1)}, true
}

func (c *Clock) bounds(nowNS int64) (low, high int64) {
	low, high = c.exchanges[0].interval(nowNS)
	for _, e := range c.exchanges[1:] {
		l, h := e.interval(nowNS)
		low, high = max(low, l), min(high, h)
	}
	return low, high
}
