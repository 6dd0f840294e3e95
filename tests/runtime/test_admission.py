"""Opens are judged one at a time and in slices; what the formula and the rollout say decides."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from duly.core.admission.decide import judge
from duly.core.admission.rollout import Rollout
from duly.core.events import LaneUp, ModelGone, ModelReady, StreamOpened
from duly.core.scheduler import Scheduler
from duly.core.types import BacklogPolicy, ModelPlan, StreamClass, StreamDemand, StreamTerms, Verdict
from duly.runtime import admission
from duly.runtime.admission import Admission, Busy, Refused
from duly.runtime.catalogue import ModelError

MS = 1_000_000


def scheduler_of(ms: int = 10) -> Scheduler:
    """One lane, one model that takes `ms` a frame and gains nothing from batches; a variant is five times as fast."""
    scheduler = Scheduler()
    scheduler.step(0, LaneUp("cpu:0"))
    for rank, name in enumerate(("fp32", "int8")):
        one_ns = ms * MS // (5 if rank else 1)
        samples: dict[int, tuple[int, ...]] = {1: (one_ns,), 2: (2 * one_ns,)}
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
    return Admission(lambda: scheduler, Clock(), enforce)


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


async def test_what_only_the_rollout_refuses_is_offered_a_period_that_it_does_not() -> None:
    """On average the lane has time for it. But its frames can wait for 5 ms, and each of the others' takes 10."""
    scheduler = scheduler_of()
    admit = admission_of(scheduler)
    await open_all(scheduler, admit, [terms(100)] * 3)
    with pytest.raises(Refused, match=r"^81% of lane time would be taken; run ahead .* 80\.0% of its own$") as refused:
        async with admit.turn(terms(20, budget_ms=15)):
            pass
    assert refused.value.verdict.counter_period_ns == 40 * MS
    for period_ms in (25, 30):
        with pytest.raises(Refused, match="run ahead"):
            async with admit.turn(terms(period_ms, budget_ms=15)):
                pass
    async with admit.turn(terms(40, budget_ms=15)) as verdict:
        assert "run ahead" not in verdict.reason, "far enough from the limit for the formula alone"


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


async def test_no_period_is_no_way_round_a_promise() -> None:
    scheduler = scheduler_of()
    scheduler.step(0, ModelReady("slow/1", "cpu:0", "fp32", {1: (90 * MS,)}, True))
    admit = admission_of(scheduler)
    promised = terms(200, budget_ms=50, stream_class=StreamClass.CRITICAL)
    assert await open_all(scheduler, admit, [promised]) == 1
    for stream_class in (StreamClass.STANDARD, StreamClass.BEST_EFFORT):
        slow = replace(terms(0, budget_ms=900, stream_class=stream_class), model="slow/1")
        with pytest.raises(Refused, match="what is promised to CRITICAL streams"):
            async with admit.turn(slow):
                pass


async def test_a_budget_that_holds_no_frame_is_refused_to_an_idle_stream_as_well() -> None:
    with pytest.raises(Refused, match="its budget is 5 ms") as refused:
        async with admission_of(scheduler_of()).turn(terms(0, budget_ms=5)):
            pass
    assert refused.value.verdict.counter_budget_ns > 10 * MS


async def test_a_model_that_no_lane_serves_just_now_is_not_ready_whatever_is_asked() -> None:
    scheduler = scheduler_of()
    scheduler.step(1, ModelGone("m/1", "cpu:0", "its worker process ended"))
    for enforce in (True, False):
        for period_ms in (0, 100):
            with pytest.raises(ModelError, match="no lane serves it now") as error:
                async with admission_of(scheduler, enforce=enforce).turn(terms(period_ms)):
                    pass
            assert error.value.reason == "MODEL_NOT_READY"


@pytest.mark.parametrize(("frame_us", "rate_hz", "budget_ms"), [(250, 30, 100), (1000, 30, 200), (10_000, 10, 1000)])
def test_no_budget_lets_in_more_than_the_lane_can_run(frame_us: int, rate_hz: int, budget_ms: int) -> None:
    models = {"m/1": ModelPlan("m/1", ("cpu:0",), ((frame_us * 1000,),))}
    fitting = 1_000_000 // (frame_us * rate_hz)
    asked = StreamDemand(0, "m/1", StreamClass.STANDARD, 1_000_000_000 // rate_hz, budget_ms * MS)
    streams = [replace(asked, stream_id=nth) for nth in range(1, fitting + 1)]
    verdict = judge(asked, streams, models, 1)
    assert not verdict.accepted
    assert verdict.final
    assert "even in the most efficient batches" in verdict.reason


def test_a_stream_whose_own_frames_miss_is_refused_however_many_of_the_others_do_not() -> None:
    """It sends one frame of a thousand, with little slack: on time only where that comes while the lane is free."""
    models = {"f/1": ModelPlan("f/1", ("l0",), ((MS,),)), "s/1": ModelPlan("s/1", ("l0",), ((3 * MS // 2,),))}
    judged: list[Verdict] = []
    for count in (16, 19, 22):
        for budget_us in (1600, 2400):
            others = [
                StreamDemand(nth, "f/1", StreamClass.STANDARD, 25 * MS, 100 * MS, phase_ns=nth * 1_170_003 % (25 * MS))
                for nth in range(1, count + 1)
            ]
            asked = StreamDemand(0, "s/1", StreamClass.STANDARD, 2000 * MS, budget_us * 1000)
            verdict = judge(asked, others, models, 1)
            if "run ahead" in verdict.reason:
                judged.append(verdict)
                rollout = Rollout([*others, asked], models)
                assert rollout.advance(1_000_000)
                assert not verdict.accepted or rollout.own_ratio(0) == 1.0
    assert any("and 0.0% of its own" in verdict.reason for verdict in judged)


def test_what_is_offered_is_accepted_when_it_is_taken() -> None:
    offers = 0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        models = {}
        for name in ("a/1", "b/1"):
            frame_ns, base_ns = int(rng.choice([1, 2, 5])) * MS, int(rng.choice([0, 1, 5])) * MS
            sizes_ns = tuple(base_ns + frame_ns * size for size in range(1, int(rng.choice([1, 4, 8])) + 1))
            models[name] = ModelPlan(name, ("l0",), (sizes_ns, tuple(size_ns // 3 for size_ns in sizes_ns)))

        def drawn(stream_id: int, periods_ms: list[int], rng: np.random.Generator = rng) -> StreamDemand:
            period_ns, budget_ns = (int(rng.choice(ms)) * MS for ms in (periods_ms, [20, 30, 50, 100]))
            model = str(rng.choice(["a/1", "b/1"]))
            return StreamDemand(stream_id, model, StreamClass.STANDARD, period_ns, budget_ns)

        streams: list[StreamDemand] = []
        for nth in range(1, 8):
            tried = replace(drawn(nth, [20, 33, 50, 100]), phase_ns=int(rng.integers(20 * MS)))
            if judge(tried, streams, models, 1).accepted:
                streams.append(tried)
        asked = replace(drawn(0, [2, 5, 10, 20]), variant_rank_max=0)
        verdict = judge(asked, streams, models, 1)
        taken = []
        if not verdict.accepted and verdict.counter_period_ns:
            taken.append(replace(asked, period_ns=verdict.counter_period_ns))
        if not verdict.accepted and verdict.counter_budget_ns:
            taken.append(replace(asked, budget_ns=verdict.counter_budget_ns))
        if not verdict.accepted and verdict.counter_rank >= 0:
            taken.append(replace(asked, variant_rank_max=verdict.counter_rank))
        for offer in taken:
            offers += 1
            assert judge(offer, streams, models, 1).accepted, f"seed {seed}: {offer}"
    assert offers >= 8


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
    monkeypatch.setattr(admission, "WAITING_MAX", 1)
    admit = admission_of(scheduler_of())
    async with admit.turn(terms(100)):
        waiting = asyncio.create_task(open_all(scheduler_of(), admit, [terms(100)]))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            async with admit.turn(terms(100)):
                pass
    assert await waiting == 1


async def test_a_client_that_goes_away_gives_its_turn_back() -> None:
    admit = admission_of(scheduler_of())
    going = asyncio.create_task(open_all(scheduler_of(), admit, [terms(14)]))
    await asyncio.sleep(0)
    going.cancel()
    await asyncio.wait([going])
    async with admit.turn(terms(14)) as verdict:
        assert verdict.accepted
