"""A frame that lay in the socket while the loop was held up counts as received when the loop should have woken."""

import asyncio
import time

from duly.streams.clock import ClockRelation
from duly.streams.loop_lag import BEAT_NS, LATE_NS, TURNS, LoopLag
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
    stream, lag = bench.open(default_budget_ns=50 * MS), bench.host.lag
    lag.start()
    due_ns = bench.clock.now_ns + BEAT_NS
    bench.clock.now_ns += BEAT_NS + LATE_NS
    punctual = stream.take(1, 0, 0, False, 10**18)
    bench.clock.now_ns += 30 * MS
    waited = stream.take(2, 0, 0, False, 10**18)
    lag.stop()
    assert punctual is not None
    assert waited is not None
    assert (punctual.received_ns, punctual.received_unix_ns) == (due_ns + LATE_NS, 10**18)
    assert (waited.received_ns, waited.frame.deadline_ns) == (due_ns, due_ns + 50 * MS)
    assert waited.received_unix_ns == 10**18 - LATE_NS - 30 * MS


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
