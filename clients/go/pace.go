package duly

// periodsSaved is how many periods a stream may make up for after a pause. Sensors whose frames come at random would
// send a fifth less than advised if nothing were saved up.
const periodsSaved = 2

// Pace says which frames a stream that follows the server's advice may send. Frames are due every period on a grid. One
// that is due is sent and moves the grid on by a period; one that comes before is not. A frame that came late does not
// put off the next.
type Pace struct {
	periodNS, dueNS int64
}

// Advised makes frames due every periodNS (0: whenever they come), the first after phase (0 to 1) of one.
func (p *Pace) Advised(nowNS, periodNS int64, phase float64) {
	p.periodNS = periodNS
	p.dueNS = nowNS + int64(phase*float64(periodNS)+0.5)
}

// Due says whether a frame at nowNS may be sent. Any clock that never goes back will do.
func (p *Pace) Due(nowNS int64) bool {
	return p.periodNS == 0 || nowNS >= p.dueNS
}

// Sent notes that a frame was sent at nowNS, due or not.
func (p *Pace) Sent(nowNS int64) {
	p.dueNS = max(p.dueNS, nowNS-periodsSaved*p.periodNS) + p.periodNS
}
