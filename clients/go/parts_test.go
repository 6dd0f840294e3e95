package duly

import (
	"math"
	"slices"
	"testing"

	dulyv1 "duly/v1"
)

func TestTextComesBackAsItWas(t *testing.T) {
	texts := []string{"", "zwölf", "a\x00b", "日本\n"}
	tensor := Strings("x", texts, 2, 2)
	if got, err := tensor.Strings(); err != nil || !slices.Equal(got, texts) {
		t.Fatalf("got %q, %v", got, err)
	}
	if got := tensor.Data[:8]; string(got) != "\x00\x00\x00\x00\x06\x00\x00\x00" {
		t.Fatalf("the lengths are %v", got)
	}
}

func TestTextThatLiesIsRefused(t *testing.T) {
	for _, data := range []string{"\x01", "\x05\x00\x00\x00ab", "\xff\xff\xff\xff", "\x01\x00\x00\x00\xff", "\x00\x00\x00\x00\x01"} {
		tensor := Tensor{"y", dulyv1.DataType_DATA_TYPE_STRING, nil, []byte(data)}
		if got, err := tensor.Strings(); err == nil {
			t.Fatalf("%q was read as %q", data, got)
		}
	}
}

func TestBFloat16sAreRoundedToTheNearestEven(t *testing.T) {
	given := []float32{1, -2.5, 1 + 1.0/256, 1 + 3.0/256, float32(math.Inf(1)), math.Float32frombits(0x7F800001)}
	got, err := BFloat16s("x", given).BFloat16s()
	want := []float32{1, -2.5, 1, 1 + 4.0/256, float32(math.Inf(1))}
	if err != nil || !slices.Equal(got[:5], want) || got[5] == got[5] {
		t.Fatalf("got %v, %v", got, err)
	}
}

func agreed(ordering Ordering, credit int32, bytes int64) *dulyv1.StreamOpened {
	return &dulyv1.StreamOpened{Ordering: ordering, FramesInFlightMax: credit, BytesInFlightMax: bytes}
}

func answer(ids ...uint64) []*dulyv1.Outcome {
	var outcomes []*dulyv1.Outcome
	for _, id := range ids {
		outcomes = append(outcomes, &dulyv1.Outcome{FrameId: id, Status: OnTime})
	}
	return outcomes
}

func unread(f *frames) []uint64 {
	var ids []uint64
	for _, outcome := range f.unread {
		ids = append(ids, outcome.ID)
	}
	return ids
}

func TestWhatIsKeptBackWaitsForEarlierFramesWhereTheOrderIsThatOfArrival(t *testing.T) {
	f := newFrames()
	f.agreed(agreed(Arrival, 8, 0))
	f.sent(f.takeID(), inFlight{0, 1})
	f.keepBack(f.takeID(), 0, 1)
	f.sent(f.takeID(), inFlight{0, 1})
	f.keepBack(f.takeID(), 0, 1)
	if got := unread(&f); got != nil {
		t.Fatalf("given back before the frames in flight: %v", got)
	}
	if err := f.answered(answer(1), 5); err != nil {
		t.Fatal(err)
	}
	f.cancelInFlight(5, "connection lost")
	if got := unread(&f); !slices.Equal(got, []uint64{1, 2, 3, 4}) {
		t.Fatalf("in the order %v", got)
	}
}

func TestAnOutcomeComesOnce(t *testing.T) {
	f := newFrames()
	f.sent(f.takeID(), inFlight{0, 1})
	err := f.answered(answer(1, 1), 7)
	if err == nil || err.Message != "an outcome came for frame 1, which is not in flight" {
		t.Fatalf("got %v", err)
	}
	if got := unread(&f); !slices.Equal(got, []uint64{1}) {
		t.Fatalf("got %v", got)
	}
}

func TestCreditCountsFramesAndBytesButALargeFrameMayGoAlone(t *testing.T) {
	f := newFrames()
	f.agreed(agreed(Unordered, 2, 100))
	if !f.hasCredit(1000) {
		t.Error("a large frame may go alone")
	}
	f.sent(f.takeID(), inFlight{0, 60})
	if !f.hasCredit(40) || f.hasCredit(41) {
		t.Error("bytes are not counted")
	}
	f.sent(f.takeID(), inFlight{0, 1})
	if f.hasCredit(1) {
		t.Error("frames are not counted")
	}
}

func TestTheServerLearnsOfAClockThatWasSetBeforeTheNextFrame(t *testing.T) {
	wallNS, monotonicNS := int64(1_000_000_000_000), int64(0)
	wall := newWallClock(func() (int64, int64, int64) { return wallNS, monotonicNS, 0 })
	c := &connection{wake: make(chan struct{}, 1), related: make(chan struct{})}
	c.clock.Add(wallNS, wallNS+500, wallNS+500, wallNS)
	before, _ := c.clock.Estimate(wallNS)

	c.put(&dulyv1.Frame{FrameId: 1}, 1)
	wallNS += 3_600_000_000_000 // an hour ahead
	wall.now()
	c.heedWallClock(wall)
	c.put(&dulyv1.Frame{FrameId: 2}, 1)

	if got := c.next(wall).GetFrames().GetFrames(); len(got) != 1 || got[0].GetFrameId() != 1 {
		t.Fatalf("frames stamped before the clock was set go before the ping: %v", got)
	}
	ping := c.next(wall).GetClockPing()
	if ping == nil || ping.GetClientSendUnixNano() != wallNS {
		t.Fatalf("expected a ping, got %v", ping)
	}
	if got := ping.GetClock().GetOffsetNano(); got != int64(before.Offset)-3_600_000_000_000 {
		t.Errorf("the ping tells the offset %d", got)
	}
	if got := c.next(wall).GetFrames().GetFrames(); len(got) != 1 || got[0].GetFrameId() != 2 {
		t.Errorf("the frame stamped after it goes behind the ping: %v", got)
	}
}

func TestOnlyAClockThatWasSetMoves(t *testing.T) {
	now := [3]int64{5_000_000, 0, 0}
	wall := newWallClock(func() (int64, int64, int64) { return now[0], now[1], now[2] })
	for _, step := range []struct {
		now   [3]int64
		moved int64
	}{
		{[3]int64{5_900_000, 0, 0}, 0},                   // none that budgets of milliseconds could notice
		{[3]int64{8_000_000, 0, 5_000_000}, 0},           // the look itself took as long
		{[3]int64{-1_000_000_000, 0, 0}, -1_005_000_000}, // set back
		{[3]int64{-1_000_000_000, 0, 0}, -1_005_000_000}, // once
	} {
		now = step.now
		if wall.now(); wall.movedNS != step.moved {
			t.Errorf("at %v it moved %d, expected %d", step.now, wall.movedNS, step.moved)
		}
	}
}

func TestATokenDoesNotLeaveTheMachineInClearText(t *testing.T) {
	if _, err := NewClient("robot.local:8500", WithToken("secret")); err == nil {
		t.Error("it would")
	}
	for _, target := range []string{"127.0.0.1:8500", "[::1]:8500", "localhost:8500", "unix:/run/duly.sock"} {
		client, err := NewClient(target, WithToken("secret"))
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		_ = client.Close()
	}
}

func TestLabelsGoInSeveralMessagesInTheirOrder(t *testing.T) {
	var items []Feedback
	for id := range uint64(2*feedbackItemsMax + 5) {
		items = append(items, Feedback{StreamKey: "key", FrameID: id, Labels: []Tensor{ClassNumber(1)}})
	}
	var sizes []int
	next := uint64(0)
	for _, request := range feedbackRequests(items) {
		sizes = append(sizes, len(request.Items))
		for _, item := range request.Items {
			if item.FrameId != next {
				t.Fatalf("frame %d came in place of %d", item.FrameId, next)
			}
			next++
		}
	}
	if !slices.Equal(sizes, []int{feedbackItemsMax, feedbackItemsMax, 5}) {
		t.Fatalf("messages of %v labels", sizes)
	}
	large := Feedback{Labels: []Tensor{Bytes("y", make([]byte, feedbackBytesMax/2-100))}}
	if got := len(feedbackRequests([]Feedback{large, large, large, {}})); got != 2 {
		t.Fatalf("%d messages", got)
	}
	several := Feedback{Labels: make([]Tensor, feedbackLabelsMax-1)}
	if got := len(feedbackRequests([]Feedback{several, several})); got != 2 {
		t.Fatalf("%d messages", got)
	}
	if len(feedbackRequests(nil)) != 0 {
		t.Fatal("a message of nothing")
	}
}

func TestAFrameHasTheKeyOfItsConnection(t *testing.T) {
	f := newFrames()
	if f.keyOf(1) != "" {
		t.Fatal("no connection, no key")
	}
	for connection := range 2 * keysMax {
		opened := agreed(Unordered, 1, 0)
		opened.StreamKey = string(rune('a' + connection%26))
		f.agreed(opened)
		f.takeID()
	}
	if len(f.keys) != keysMax || f.keyOf(1) != "" {
		t.Fatalf("%d keys, of the first frame %q", len(f.keys), f.keyOf(1))
	}
	for id := uint64(keysMax + 1); id <= 2*keysMax; id++ {
		if got, want := f.keyOf(id), string(rune('a'+(id-1)%26)); got != want {
			t.Fatalf("frame %d has the key %q, not %q", id, got, want)
		}
	}
}
