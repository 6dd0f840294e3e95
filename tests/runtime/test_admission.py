"""Opens are judged one at a time and in slices; what the formula and the rollout say decides."""

import asyncio
import threading
from typing import Any

import pytest

from duly.core.admission import Verdict
from duly.core.events import LaneUp, ModelReady, StreamOpened
from duly.core.rollout import Rollout
from duly.core.scheduler import Scheduler
from duly.core.types import BacklogPolicy, StreamClass, StreamTerms
from duly.runtime import admission
from duly.runtime.admission import Admission, Busy, Refused

MS = 1_000_000


def scheduler_of(ms: int = 10) -> Scheduler:
    """One lane, one model that takes `ms` a frame and gains nothing from batches; a variant is five times as fast."""
    scheduler = Scheduler()
    scheduler.step(0, LaneUp("cpu:0"))
    for rank, name in enumerate(("fp32", "int8")):
        one_ns = ms * MS // (5 if rank else 1)
        samples = {1: (one_ns,), 2: (2 * one_ns,)}
        scheduler.step(0, ModelReady("m/1", "cpu:0", name, samples, True, rank=rank))
    return scheduler


def terms(
    period_ms: int, *, budget_ms: int = 100, rank_max: int = 0, stream_class: StreamClass = StreamClass.STANDARD
) -> StreamTerms:
    return StreamTerms(
        stream_class,
        BacklogPolicy.ALL,
        0,
        budget_ms * MS,
        64,
        model="m/1",
        period_ns=period_ms * MS,
        variant_rank_max=rank_max,
    )


class Clock:
    """Every look takes a microsecond."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1000
        return self.now_ns


def admission_of(scheduler: Scheduler, *, enforce: bool = True) -> Admission:
    return Admission(scheduler, Clock(), enforce)


async def open_all(scheduler: Scheduler, admit: Admission, wanted: list[StreamTerms]) -> int:
    """Opens them until one is refused; how many were opened."""
    for stream_id, asked in enumerate(wanted, start=1):
        try:
            async with admit.turn(asked):
                scheduler.step(stream_id, StreamOpened(stream_id, asked))
        except Refused:
            return stream_id - 1
    return len(wanted)


async def test_streams_open_until_the_lane_is_full() -> None:
    scheduler = scheduler_of()
    # Each takes a tenth of the lane, and its plan a little more.
    assert await open_all(scheduler, admission_of(scheduler), [terms(100)] * 20) in (9, 10)


async def test_a_refusal_says_what_would_fit() -> None:
    scheduler = scheduler_of()
    admit = admission_of(scheduler)
    await open_all(scheduler, admit, [terms(100)] * 8)
    with pytest.raises(Refused) as refused:
        async with admit.turn(terms(20)):
            pass
    verdict = refused.value.verdict
    assert verdict.utilisation > 1
    assert verdict.counter_period_ns > 20 * MS


async def test_what_only_the_rollout_refuses_is_offered_a_period_that_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares: list[float] = []

    class Crowded(Rollout):
        """Serves frames in time that come every 30 ms or less often."""

        def on_time_ratio(self, stream_class: StreamClass) -> float:
            shares.append(super().on_time_ratio(stream_class))
            return 1.0 if self._demands[admission.CANDIDATE_ID].period_ns >= 30 * MS else 0.5

    monkeypatch.setattr(admission, "Rollout", Crowded)
    admit = admission_of(scheduler_of())
    with pytest.raises(Refused) as refused:
        async with admit.turn(terms(14)):
            pass
    assert refused.value.verdict.counter_period_ns == 56 * MS
    assert "50.0% of frames are on time" in str(refused.value)
    assert len(shares) == 5


async def test_advice_never_refuses() -> None:
    scheduler = scheduler_of()
    admit = admission_of(scheduler, enforce=False)
    async with admit.turn(terms(2)) as verdict:
        assert not verdict.accepted
        assert verdict.reason


async def test_streams_that_state_no_period_and_those_of_best_effort_always_open() -> None:
    scheduler = scheduler_of()
    admit = admission_of(scheduler)
    for asked in (terms(0), terms(1, stream_class=StreamClass.BEST_EFFORT)):
        async with admit.turn(asked) as verdict:
            assert verdict.accepted


async def test_a_faster_variant_lets_a_stream_in() -> None:
    scheduler = scheduler_of()
    admit = admission_of(scheduler)
    with pytest.raises(Refused) as refused:
        async with admit.turn(terms(5)):
            pass
    assert refused.value.verdict.counter_rank == 1
    async with admit.turn(terms(5, rank_max=1)) as verdict:
        assert verdict.accepted


async def test_others_run_while_a_stream_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge ends when the event loop says so; were it in the loop, that would never be."""
    judged = threading.Event()
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    really = admission.judge

    def judge(*facts: Any) -> Verdict:
        loop.call_soon_threadsafe(asked.set)
        assert judged.wait(60)
        return really(*facts)

    async def beside() -> None:
        await asked.wait()
        judged.set()

    monkeypatch.setattr(admission, "judge", judge)
    other = asyncio.create_task(beside())
    async with admission_of(scheduler_of()).turn(terms(14)) as verdict:
        assert "run ahead" in verdict.reason
    await other


async def test_one_open_at_a_time_each_sees_those_before_it() -> None:
    scheduler = scheduler_of()
    admit = admission_of(scheduler)
    opened: list[int] = []

    async def one(stream_id: int) -> None:
        try:
            async with admit.turn(terms(14)):
                opened.append(stream_id)
                scheduler.step(0, StreamOpened(stream_id, terms(14)))
        except Refused:
            pass

    await asyncio.gather(*(one(stream_id) for stream_id in range(1, 6)))
    assert opened == [1]


async def test_too_many_at_once_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "WAITING_MAX", 2)
    admit = admission_of(scheduler_of())
    async with admit.turn(terms(100)):
        waiting = asyncio.create_task(open_all(scheduler_of(), admit, [terms(100)]))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            async with admit.turn(terms(100)):
                pass
        async with admit.turn(terms(0)) as verdict:
            assert verdict.accepted, "it waits for nobody"
    assert await waiting == 1


async def test_a_client_that_goes_away_gives_its_turn_back() -> None:
    admit = admission_of(scheduler_of())
    going = asyncio.create_task(open_all(scheduler_of(), admit, [terms(14)]))
    await asyncio.sleep(0)
    going.cancel()
    await asyncio.wait([going])
    async with admit.turn(terms(14)) as verdict:
        assert verdict.accepted
