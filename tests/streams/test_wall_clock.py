"""Clocks that are set while streams are open: what the server makes of capture times then."""

import inspect
import time
from collections.abc import Callable

import pytest
import structlog

from duly.streams import wall_clock
from duly.streams.clock import ClockRelation
from duly.streams.clock_watch import ClockWatch
from duly.streams.stream import Stream
from duly.streams.wall_clock import FORGET_NS, STEP_NS_MIN, WallClock
from duly_client import wall_clock as clients_wall_clock
from tests.streams.bench import MS, Bench

S = 1000 * MS
SOON_NS = 5 * S
"""More than any test here takes, and less than the clocks are set by."""


class Clocks:
    """The clocks of this process. Of the real ones the test can tell only that they go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.real_ns = time.time_ns
        self.wall_ahead_ns = 0
        monkeypatch.setattr(time, "time_ns", lambda: self.real_ns() + self.wall_ahead_ns)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


def age_ns(stream: Stream, frame_id: int, captured_unix_ns: int) -> int:
    """How old the server takes a frame to be that comes now."""
    held = stream.take(frame_id, captured_unix_ns, 0, False, stream.wall.now_ns())
    assert held is not None
    stream.submit(held, [], 0)
    return held.capture_to_receipt_ns


@pytest.mark.parametrize("step_ns", [-30 * S, 3600 * S, -3600 * S])
async def test_the_servers_clock_is_set(bench: Bench, clocks: Clocks, step_ns: int) -> None:
    stream = bench.open()
    stream.ping(1, clocks.real_ns(), None)
    stream.ping(2, clocks.real_ns(), ClockRelation(0, MS))
    assert age_ns(stream, 1, clocks.real_ns()) < SOON_NS
    clocks.wall_ahead_ns += step_ns
    assert age_ns(stream, 2, clocks.real_ns()) < SOON_NS
    old_ns = 10 * S
    assert -MS < age_ns(stream, 3, clocks.real_ns() - old_ns) - old_ns < SOON_NS
    clocks.wall_ahead_ns -= step_ns
    assert age_ns(stream, 4, clocks.real_ns()) < SOON_NS


async def test_an_estimate_that_was_made_before_the_clock_was_set_still_holds(bench: Bench, clocks: Clocks) -> None:
    stream = bench.open()
    stream.ping(1, clocks.real_ns(), None)
    clocks.wall_ahead_ns = 3600 * S
    stream.ping(2, clocks.real_ns(), ClockRelation(0, MS))  # from the first answer
    assert age_ns(stream, 1, clocks.real_ns()) < SOON_NS
    stream.ping(3, clocks.real_ns(), ClockRelation(3600 * S, MS))  # from the second one
    assert age_ns(stream, 2, clocks.real_ns()) < SOON_NS


@pytest.mark.parametrize("step_ns", [-30 * S, 3600 * S])
async def test_a_client_on_the_same_host_is_set_with_it(bench: Bench, clocks: Clocks, step_ns: int) -> None:
    """It has measured nothing: it says that the clocks are one."""
    stream = bench.open(clock=ClockRelation(0, MS))
    old_ns = 10 * S
    for frame_id in range(0, 6, 2):
        assert age_ns(stream, frame_id, time.time_ns()) < SOON_NS
        assert 0 <= age_ns(stream, frame_id + 1, time.time_ns() - old_ns) - old_ns < SOON_NS
        clocks.wall_ahead_ns += step_ns


class SteppedTime:
    """`time` with clocks that stand still until the test moves them."""

    def __init__(self) -> None:
        self.wall_ns, self.steady_ns = 1_700_000_000 * S, 77 * S

    def time_ns(self) -> int:
        return self.wall_ns

    def monotonic_ns(self) -> int:
        return self.steady_ns

    def clock_gettime_ns(self, _: int) -> int:
        return self.steady_ns

    def go_on(self, ns: int, wall_ppm: float = 0.0) -> None:
        self.steady_ns += ns
        self.wall_ns += ns + round(ns * wall_ppm / 1e6)


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> SteppedTime:
    clock = SteppedTime()
    monkeypatch.setattr(wall_clock, "time", clock)
    return clock


def test_steps_add_up_and_small_ones_are_none(stepped: SteppedTime) -> None:
    wall = WallClock()
    for step_ns in (-500 * MS, 20 * MS, 3600 * S):
        stepped.go_on(33 * MS)
        stepped.wall_ns += step_ns
        assert wall.now_ns() == stepped.wall_ns
    assert wall.moved_ns == 3600 * S - 480 * MS
    stepped.wall_ns += STEP_NS_MIN // 2
    wall.now_ns()
    assert wall.moved_ns == 3600 * S - 480 * MS


def test_drift_is_no_step_however_long_it_lasts(stepped: SteppedTime) -> None:
    wall = WallClock()
    for _ in range(10_000):
        stepped.go_on(FORGET_NS // 9, wall_ppm=90)
        wall.now_ns()
    assert wall.moved_ns == 0


@pytest.mark.parametrize("ppm", [500, -500, 83_333])
def test_a_clock_that_is_set_little_by_little(stepped: SteppedTime, ppm: int) -> None:
    """500 ppm is what ntpd may do, 83,333 ppm what chronyd does."""
    wall = WallClock()
    began_ns = stepped.wall_ns - stepped.steady_ns
    for _ in range(1000):
        stepped.go_on(33 * MS, wall_ppm=ppm)
        wall.now_ns()
    moved_ns = stepped.wall_ns - stepped.steady_ns - began_ns
    assert abs(wall.moved_ns - moved_ns) < 3 * MS < abs(moved_ns)


@pytest.mark.parametrize("reading", range(14))
def test_a_thread_that_is_stopped_between_two_clocks_sets_none(stepped: SteppedTime, reading: int) -> None:
    """Whichever reading it is stopped before, of those of the first look and of the next ones."""
    readings = 0

    def stopped(read: Callable[..., int]) -> Callable[..., int]:
        def reads(*which: int) -> int:
            nonlocal readings
            if readings == reading:
                stepped.go_on(50 * MS)
            readings += 1
            return read(*which)

        return reads

    for name in ("time_ns", "monotonic_ns", "clock_gettime_ns"):
        setattr(stepped, name, stopped(getattr(stepped, name)))
    wall = WallClock()
    for _ in range(3):
        stepped.go_on(33 * MS)
        wall.now_ns()
        assert wall.moved_ns == 0
    assert readings > 14


@pytest.mark.parametrize("step_ns", [-3 * S, 20 * MS, 3600 * S])
def test_a_step_in_a_long_idle_time_is_seen(
    stepped: SteppedTime, monkeypatch: pytest.MonkeyPatch, step_ns: int
) -> None:
    """In an hour clocks may drift by 360 ms, so that only somebody who looks in between can tell."""
    wall = WallClock()
    watch = ClockWatch(wall)
    with structlog.testing.capture_logs() as lines:
        for look in range(4 * 600):
            stepped.go_on(250 * MS, wall_ppm=20)
            if look == 1000:
                stepped.wall_ns += step_ns
            watch.look()
    assert abs(wall.moved_ns - step_ns) < MS
    assert [round(line["ahead_s"], 2) for line in lines] == ([step_ns / S] if abs(step_ns) > 100 * MS else [])


async def test_clocks_that_are_not_related_as_the_client_says(bench: Bench) -> None:
    """Its estimate is off by hours. What a link held back is old all the same, and old frames are among fresh ones."""
    stream = bench.open(clock=ClockRelation(0, MS))

    def ages_ns(first: int, frames: int, old_ns: int, period_ns: int) -> list[int]:
        ages = []
        for frame_id in range(first, first + frames):
            bench.clock.now_ns += period_ns
            ages.append(age_ns(stream, frame_id, time.time_ns() - old_ns))
        return ages

    assert min(ages_ns(0, 50, 3600 * S, 0)) > 3000 * S, "all at once"
    assert max(ages_ns(50, 1, 0, 0)) < SOON_NS
    ages = ages_ns(51, 40, 3600 * S, 100 * MS)
    assert min(ages[:10]) > 3000 * S
    assert max(ages[12:]) == 0
    assert 0 < max(ages_ns(91, 1, S, 100 * MS)) < 3 * S, "it makes sense again"
    assert min(ages_ns(92, 8, 3600 * S, 100 * MS)) > 3000 * S


def test_the_clients_copy_is_the_same() -> None:
    """The client may import nothing of the server."""
    ours, theirs = inspect.getsource(wall_clock), inspect.getsource(clients_wall_clock)
    assert ours[ours.index("\nimport time") :] == theirs[theirs.index("\nimport time") :]
