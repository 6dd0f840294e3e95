"""A frame that lay in the socket while the loop was held up counts as received when the loop should have woken."""

import asyncio
import time
from collections.abc import Callable

import pytest

from duly.streams.clock import ClockRelation
from duly.streams.loop_lag import BEAT_NS, LATE_NS, QUIET_BEAT_NS, QUIET_BEATS, TURNS, LoopLag
from tests.streams.bench import MS, Bench

HELD_UP_NS = 20 * BEAT_NS


async def test_whatever_comes_in_the_turn_after_a_hold_up_may_have_waited_for_it() -> None:
    lag = LoopLag(time.monotonic_ns)
    lag.start()
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    # It is ready in the same turn in which the loop wakes late, as a message that lay in the socket is.
    asyncio.get_running_loop().call_later(BEAT_NS / 1e9, lambda: seen.set_result(lag.held_up_ns(time.monotonic_ns())))
    time.sleep(HELD_UP_NS / 1e9)  # noqa: ASYNC251  # the loop is held up
    assert lag.held_up_ns(time.monotonic_ns()) >= HELD_UP_NS - BEAT_NS, "also before the loop has woken"
    assert await seen >= HELD_UP_NS - BEAT_NS
    for _ in range(TURNS + 1):
        await asyncio.sleep(0)
    assert lag.held_up_ns(time.monotonic_ns()) < HELD_UP_NS - BEAT_NS, "what comes now has not waited for that"
    lag.stop()


async def test_a_loop_that_is_not_watched_is_never_late() -> None:
    lag = LoopLag(time.monotonic_ns)
    assert (lag.held_up_ns(1 << 62), lag.suspect_ns > 1 << 62) == (0, True)
    lag.start()
    lag.stop()
    assert (lag.held_up_ns(1 << 62), lag.suspect_ns > 1 << 62) == (0, True)


async def test_a_frame_that_waited_is_received_before_and_due_before() -> None:
    bench = Bench()
    stream, other, lag = bench.open(default_budget_ns=50 * MS), bench.open(default_budget_ns=50 * MS), bench.host.lag
    lag.start()
    due_ns = bench.clock.now_ns + BEAT_NS
    bench.clock.now_ns += BEAT_NS + LATE_NS
    punctual = other.take(1, 0, 0, False, 10**18)
    bench.clock.now_ns += 30 * MS
    waited = stream.take(1, 0, 0, False, 10**18)
    next_one = other.take(2, 0, 0, False, 10**18)
    lag.stop()
    assert punctual is not None
    assert waited is not None
    assert next_one is not None
    assert (punctual.received_ns, punctual.received_unix_ns) == (due_ns + LATE_NS, 10**18)
    assert (waited.received_ns, waited.frame.deadline_ns) == (due_ns, due_ns + 50 * MS)
    assert waited.received_unix_ns == 10**18 - LATE_NS - 30 * MS
    assert next_one.received_ns == punctual.received_ns, "no frame came before the one before it of its stream"
    assert next_one.received_unix_ns == 10**18 - 30 * MS


async def test_related_clocks_know_better_than_that() -> None:
    """The deadline counts from the capture, whatever the receipt is taken for, and no receipt is before it."""
    bench = Bench()
    stream, lag = bench.open(default_budget_ns=50 * MS, clock=ClockRelation(0, MS)), bench.host.lag
    lag.start()
    bench.clock.now_ns += BEAT_NS + 40 * MS
    now_ns, captured_ns = bench.clock.now_ns, 10**18 - 15 * MS
    held = stream.take(1, captured_ns, 0, False, 10**18)
    lag.stop()
    assert held is not None
    assert (held.capture_to_receipt_ns, held.received_unix_ns) == (0, captured_ns)
    assert held.frame.deadline_ns == now_ns - 15 * MS + 50 * MS


class Beats:
    """An event loop that is never held up, whose clock goes from timer to timer."""

    def __init__(self) -> None:
        self.now_ns = 10**15
        self.due_ns = 0
        self._callback: Callable[[], object] = lambda: None

    def call_later(self, seconds: float, callback: Callable[[], object]) -> "Beats":
        self.due_ns = self.now_ns + round(seconds * 1e9)
        self._callback = callback
        return self

    def cancel(self) -> None:
        self.due_ns = 0

    def next(self) -> int:
        """Goes to the next beat. Returns how long that took, in ns."""
        waited_ns = self.due_ns - self.now_ns
        self.now_ns = self.due_ns
        self._callback()
        return waited_ns


def test_the_loop_wakes_less_often_while_no_frame_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: beats)
    lag = LoopLag(lambda: beats.now_ns)
    lag.start()
    for _ in range(3 * QUIET_BEATS):
        assert beats.next() == BEAT_NS
        assert lag.suspect_ns < beats.now_ns, "the first frame after a beat asks"
        assert lag.held_up_ns(beats.now_ns) == 0
        assert lag.suspect_ns == beats.due_ns + LATE_NS, "those after it need not ask"
    quick_ns = [beats.next() for _ in range(QUIET_BEATS + 1)]
    assert quick_ns == [BEAT_NS] * (QUIET_BEATS + 1)
    assert QUIET_BEAT_NS / 2 <= beats.next() <= 1.5 * QUIET_BEAT_NS
    assert beats.now_ns % QUIET_BEAT_NS == 0
    beats.due_ns -= MS // 2  # a timer may ring early
    quiet_ns = [beats.next() for _ in range(3)]
    assert quiet_ns == [QUIET_BEAT_NS - MS // 2, QUIET_BEAT_NS + MS // 2, QUIET_BEAT_NS]
    beats.now_ns += QUIET_BEAT_NS // 2
    assert lag.held_up_ns(beats.now_ns) == 0
    assert [beats.next() for _ in range(3)] == [BEAT_NS] * 3


def test_while_it_is_quiet_the_loop_is_late_after_a_longer_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: beats)
    lag = LoopLag(lambda: beats.now_ns)
    lag.start()
    while beats.next() == BEAT_NS:
        pass
    for _ in range(2):
        assert lag.held_up_ns(beats.due_ns + 30 * MS) == 30 * MS, "of all frames that are read before the loop wakes"
    assert beats.next() > BEAT_NS
    assert beats.next() == BEAT_NS
