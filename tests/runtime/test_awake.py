"""The loop stays awake for what is about to happen, within its share, and does its other work meanwhile."""

import asyncio
from itertools import count

import pytest

from duly.runtime.awake import AHEAD_NS, CREDIT_NS_MAX, SHARE, Awake
from tests.runtime.fake_lane import Clock

TURN_NS = 10_000


class TurningClock(Clock):
    """Every look at it takes some time."""

    def __call__(self) -> int:
        self.now_ns += TURN_NS
        return self.now_ns


async def turns_until_asleep(clock: TurningClock) -> int:
    """Lets the loop go on until it would sleep. Returns how many turns that took."""
    before_ns = clock.now_ns
    for number in count():
        await asyncio.sleep(0)
        if clock.now_ns == before_ns:
            return number
        before_ns = clock.now_ns
    raise AssertionError


async def test_the_loop_stays_awake_until_then_and_sleeps_after_it() -> None:
    clock = TurningClock()
    awake = Awake(clock)
    awake.stay(20 * TURN_NS)
    assert 18 <= await turns_until_asleep(clock) <= 22
    assert await turns_until_asleep(clock) == 0


async def test_all_the_time_awake_is_bounded_by_the_share_of_a_processor() -> None:
    clock = TurningClock()
    awake = Awake(clock)
    began_ns, awake_ns = clock.now_ns, 0
    for _ in range(50):
        awake.stay(1_000_000_000)
        before_ns = clock.now_ns
        await turns_until_asleep(clock)
        awake_ns += clock.now_ns - before_ns
        clock.now_ns += 20_000_000  # it sleeps
    all_ns = clock.now_ns - began_ns
    assert awake_ns > 0.9 * SHARE * all_ns
    assert awake_ns <= SHARE * all_ns + CREDIT_NS_MAX + 51 * TURN_NS


async def test_who_stays_awake_does_not_hold_up_others() -> None:
    clock = TurningClock()
    awake = Awake(clock)
    awake.stay(100 * TURN_NS)
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


@pytest.mark.parametrize("ns", [0, AHEAD_NS, 900_000])
async def test_what_is_due_sooner_than_any_timer_rouses_at_once(ns: int) -> None:
    roused = []
    Awake(TurningClock()).expect(ns, lambda: roused.append(ns))
    assert roused == [ns]


async def test_what_is_due_later_rouses_shortly_before() -> None:
    clock = Clock()
    awake = Awake(clock)
    roused = asyncio.Event()
    awake.expect(5_000_000, roused.set)
    assert not roused.is_set()
    await roused.wait()
