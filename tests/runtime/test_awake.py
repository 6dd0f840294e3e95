"""The loop stays awake for what is about to happen, until it has happened, and within its share of a processor."""

import asyncio
from itertools import count

import pytest

from duly.runtime.awake import AHEAD_NS, BATCH_NS_MAX, CREDIT_NS_MAX, SHARE, Awake
from tests.runtime.fake_lane import Clock

TURN_NS = 10_000


class TurningClock(Clock):
    """Every look at it takes some time."""

    def __call__(self) -> int:
        self.now_ns += TURN_NS
        return self.now_ns


async def until_asleep(clock: Clock) -> int:
    """Lets the loop go on until it would sleep. Returns how long that took."""
    began_ns = before_ns = clock.now_ns
    for _ in count():
        await asyncio.sleep(0)
        if clock.now_ns == before_ns:
            return clock.now_ns - began_ns
        before_ns = clock.now_ns
    raise AssertionError


async def test_a_batch_is_waited_for_until_it_ends() -> None:
    clock = TurningClock()
    looks = iter([False, False, True])
    Awake(clock).wait_for(lambda: next(looks))
    assert 0 < await until_asleep(clock) < 10 * TURN_NS
    assert next(looks, "none is left") == "none is left"


async def test_a_batch_that_takes_longer_is_waited_for_no_longer() -> None:
    clock = TurningClock()
    Awake(clock).wait_for(lambda: False)
    assert await until_asleep(clock) == pytest.approx(BATCH_NS_MAX, abs=5 * TURN_NS)


async def test_before_a_frame_is_due_the_loop_goes_round_until_it_has_come() -> None:
    clock = TurningClock()
    awake = Awake(clock)
    roused = []
    awake.expect(10 * TURN_NS, lambda: roused.append(True))
    assert roused
    assert await until_asleep(clock) == pytest.approx(10 * TURN_NS + AHEAD_NS, abs=5 * TURN_NS)
    awake.expect(10 * TURN_NS, lambda: None)
    await asyncio.sleep(0)
    awake.came()
    assert await until_asleep(clock) <= 5 * TURN_NS


async def test_other_work_is_done_while_the_loop_goes_round() -> None:
    awake = Awake(TurningClock())
    awake.expect(100 * TURN_NS, lambda: None)
    ran = []

    async def other() -> None:
        for number in range(3):
            ran.append(number)
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for _ in range(6):
        await asyncio.sleep(0)
    assert ran == [0, 1, 2]
    await task


@pytest.mark.parametrize("what", ["batches", "frames"])
async def test_all_the_time_awake_is_bounded_by_the_share_of_a_processor(what: str) -> None:
    clock = TurningClock()
    awake = Awake(clock)
    began_ns, awake_ns = clock.now_ns, 0
    for _ in range(2000):
        if what == "batches":
            awake.wait_for(lambda: False)
        else:
            awake.expect(BATCH_NS_MAX, lambda: None)
        awake_ns += await until_asleep(clock)
        clock.now_ns += BATCH_NS_MAX // 4  # it sleeps
    assert awake_ns <= SHARE * (clock.now_ns - began_ns) + CREDIT_NS_MAX + 2000 * 4 * TURN_NS
    assert awake_ns > 0.8 * SHARE * (clock.now_ns - began_ns)


@pytest.mark.parametrize("ns", [0, AHEAD_NS, 900_000])
async def test_what_is_due_sooner_than_any_timer_rouses_at_once(ns: int) -> None:
    roused = []
    Awake(TurningClock()).expect(ns, lambda: roused.append(ns))
    assert roused == [ns]


async def test_what_is_due_later_rouses_shortly_before() -> None:
    roused = asyncio.Event()
    Awake(Clock()).expect(5_000_000, roused.set)
    assert not roused.is_set()
    await roused.wait()
