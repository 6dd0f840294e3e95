"""Worlds that scenarios make, faults end to end, and results that can be checked by hand."""

import re
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duly.core.events import (
    Action,
    BatchFinished,
    DispatchBatch,
    Event,
    FramesArrived,
    LaneDown,
    LaneUp,
    ModelGone,
    ModelReady,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
)
from duly.core.scheduler import Scheduler
from duly.core.types import VARIANT_RANK_ANY, BacklogPolicy, Frame, OutcomeStatus, StreamClass
from duly_load.results.ages import Age
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario, parse_scenario
from duly_load.scenario.schedule import Frames
from duly_sim.simulator.engine import Batches, Run
from duly_sim.simulator.results import measure
from duly_sim.simulator.world import World, build, run

S = 1_000_000_000
MS = 1_000_000
ON_TIME, LATE, EXPIRED, FAILED, CANCELLED = (
    OutcomeStatus.ON_TIME,
    OutcomeStatus.LATE,
    OutcomeStatus.EXPIRED,
    OutcomeStatus.FAILED,
    OutcomeStatus.CANCELLED,
)


class Fifo:
    """Runs frames one by one in order of arrival, on the first lane that is free and has their model."""

    def __init__(self) -> None:
        self._waiting: deque[Frame] = deque()
        self._free: dict[str, bool] = {}
        self._ready: dict[tuple[str, str], str] = {}
        self._running: dict[int, tuple[str, Frame]] = {}
        self._batch_id = 0

    def next_wake_ns(self) -> int | None:
        return None

    def step(self, now_ns: int, event: Event) -> list[Action]:
        actions: list[Action] = []
        match event:
            case LaneUp():
                self._free[event.lane] = True
            case LaneDown():
                del self._free[event.lane]
                self._ready = {key: variant for key, variant in self._ready.items() if key[0] != event.lane}
                actions += self._lose(event.lane)
            case ModelReady():
                self._ready.setdefault((event.lane, event.model), event.variant)
            case ModelGone():
                del self._ready[str(event.lane), event.model]
                actions += self._lose(str(event.lane))
            case FramesArrived():
                self._waiting.extend(event.frames)
            case BatchFinished():
                lane, frame = self._running.pop(event.batch_id)
                self._free[lane] = True
                status = ON_TIME if now_ns <= frame.deadline_ns else LATE
                actions.append(ResolveFrame(frame, status, "", event.batch_id, 1))
        return actions + self._dispatch()

    def _lose(self, lane: str) -> list[Action]:
        lost = [batch_id for batch_id, (on, _) in self._running.items() if on == lane]
        if lost and lane in self._free:
            self._free[lane] = True
        return [ResolveFrame(self._running.pop(batch_id)[1], FAILED, "lost") for batch_id in lost]

    def _dispatch(self) -> list[Action]:
        actions: list[Action] = []
        for lane in [lane for lane, free in self._free.items() if free]:
            if self._waiting and (lane, self._waiting[0].model) in self._ready:
                frame = self._waiting.popleft()
                self._batch_id += 1
                self._free[lane] = False
                self._running[self._batch_id] = (lane, frame)
                variant = self._ready[lane, frame.model]
                actions.append(DispatchBatch(self._batch_id, lane, frame.model, variant, [frame], 0))
        return actions


def scenario(**changes: Any) -> Scenario:
    """One camera at 10 Hz from 50 ms on, 20 ms a frame on one of two lanes, 2 s of which the first does not count."""
    content: dict[str, Any] = {
        "name": "small",
        "duration_s": 2,
        "warm_s": 1,
        "stream": [
            {
                "name": "camera",
                "model": "m",
                "budget_ms": 50,
                "arrivals": {"kind": "periodic", "rate_hz": 10, "phase": 50},
            }
        ],
    }
    simulate: dict[str, Any] = {
        "lane": [{"count": 2}],
        "model": [
            {"name": "m", "batch_max": 4, "variants": [{"name": "v", "linear": {"first_ms": 20, "next_ms": 10}}]}
        ],
    }
    simulate |= {key: changes.pop(key) for key in ("noise", "lane", "model", "fault") if key in changes}
    return parse_scenario(content | {"simulate": simulate} | changes, "test", Path("."))


def stream(**changes: Any) -> dict[str, Any]:
    return {
        "name": "camera",
        "model": "m",
        "budget_ms": 50,
        "arrivals": {"kind": "periodic", "rate_hz": 10, "phase": 50},
    } | changes


def events(world: World, *kinds: type) -> list[tuple[int, Event]]:
    return [(now_ns, event) for now_ns, event in world.script if isinstance(event, kinds)]


def test_a_world_opens_lanes_models_and_streams() -> None:
    world = build(scenario(), 0)
    assert [type(event) for _, event in world.script] == [LaneUp, ModelReady, LaneUp, ModelReady, StreamOpened]
    (_, ready), _ = events(world, ModelReady)
    assert isinstance(ready, ModelReady)
    assert (ready.model, ready.lane, ready.variant, ready.rank, ready.any_size) == ("m", "lane:0", "v", 0, True)
    assert {size: set(samples) for size, samples in ready.samples_ns.items()} == {
        1: {20 * MS},
        2: {30 * MS},
        4: {50 * MS},
    }
    assert world.model_of == {1: "m"}
    assert world.frames.arrival_ns.tolist() == [(50 + 100 * nth) * MS for nth in range(20)]
    assert (world.frames.deadline_ns - world.frames.arrival_ns).tolist() == [50 * MS] * 20


def test_terms_hold_all_that_a_stream_says() -> None:
    variants = [{"name": name, "linear": {"first_ms": 5, "next_ms": 1}} for name in ("fp32", "fp16", "int8")]
    world = build(
        scenario(
            model=[{"name": "m", "batch_max": 4, "variants": variants}],
            stream=[
                stream(backlog="KEEP_LAST:3", variant_lowest="fp16", principal="team", floor=[2, 5], credit=9)
                | {"class": "CRITICAL"},
                stream(name="other", backlog="ALL", arrivals={"kind": "poisson", "rate_hz": 1}),
            ],
        ),
        0,
    )
    (_, first), (_, second) = events(world, StreamOpened)
    assert isinstance(first, StreamOpened)
    assert isinstance(second, StreamOpened)
    terms = first.terms
    assert (terms.stream_class, terms.backlog, terms.backlog_frames) == (
        StreamClass.CRITICAL,
        BacklogPolicy.KEEP_LAST,
        3,
    )
    assert (terms.budget_ns, terms.frames_in_flight_max, terms.period_ns) == (50 * MS, 9, 100 * MS)
    assert (terms.model, terms.variant_rank_max, terms.principal) == ("m", 1, "team")
    assert (terms.floor_frames, terms.floor_window) == (2, 5)
    assert (second.terms.period_ns, second.terms.variant_rank_max) == (0, VARIANT_RANK_ANY)
    assert [event.rank for _, event in events(world, ModelReady) if isinstance(event, ModelReady)] == [0, 1, 2] * 2


@pytest.mark.parametrize("wait", ["NEWEST", "EXACT", "WITHIN_DEADLINE"])
def test_sensors_of_a_rig_run_together_and_one_that_is_slower_sets_the_pace(wait: str) -> None:
    """Two rigs of two sensors each: the left ones fire ten times a second, the right ones five times."""
    fused = {"group": "rig", "inputs": ["left", "right"], "wait": wait, "tolerance_ms": 0 if wait == "EXACT" else 5}
    slow = {"kind": "periodic", "rate_hz": 5, "phase": 50}
    world = build(
        scenario(
            stream=[
                stream(name="left", count=2, fusion=fused | {"input": "left"}),
                stream(name="right", count=2, arrivals=slow, fusion=fused | {"input": "right"}),
            ]
        ),
        0,
    )
    opened = [event.terms.fusion for _, event in events(world, StreamOpened) if isinstance(event, StreamOpened)]
    assert [(each.group, each.name, each.place) for each in opened if each] == [
        (5, "rig-0", 0),
        (6, "rig-1", 0),
        (5, "rig-0", 1),
        (6, "rig-1", 1),
    ]
    ran = world.run(Scheduler())
    by_stream = {stream_id: ran.status[world.frames.stream_id == stream_id] for stream_id in range(1, 5)}
    for left in (1, 2):
        assert (by_stream[left] == ON_TIME).tolist() == [True, False] * 10
        assert (by_stream[left + 2] == ON_TIME).tolist() == [True] * 10
    assert {batch for batch in ran.batch.tolist() if batch >= 0} == set(range(len(ran.batches.size)))
    assert sum(ran.batches.size) == 2 * 10, "a joint frame is one of its batch"


@pytest.mark.parametrize(
    ("fusion", "error"),
    [
        ({"input": "top"}, "input: should be left or right, got 'top'"),
        ({"wait": "EXACT"}, "tolerance_ms: should be more than 0, with EXACT left out"),
        ({"tolerance_ms": 0}, "tolerance_ms: should be more than 0, with EXACT left out"),
        ({"inputs": ["left"]}, "at least 2 items"),
    ],
)
def test_a_fusion_that_makes_no_sense_is_told(fusion: dict[str, Any], error: str) -> None:
    right = {"group": "rig", "input": "left", "inputs": ["left", "right"], "tolerance_ms": 5}
    with pytest.raises(ScenarioError, match=re.escape(error)):
        scenario(stream=[stream(fusion=right | fusion)])


def test_models_are_on_their_lanes_and_fixed_sizes_are_padded() -> None:
    model = {"name": "m", "batch_max": 6, "any_size": False, "lanes": ["lane:1"]}
    world = build(scenario(model=[model | {"variants": [{"linear": {"first_ms": 10, "next_ms": 1}}]}]), 0)
    ((_, ready),) = events(world, ModelReady)
    assert isinstance(ready, ModelReady)
    assert (ready.lane, ready.any_size, sorted(ready.samples_ns)) == ("lane:1", False, [1, 2, 4, 6])
    took_ms = [world.service.duration_ns(0, "lane:1", "m", "default", size) for size in range(1, 7)]
    assert took_ms == [10 * MS, 11 * MS, 13 * MS, 13 * MS, 15 * MS, 15 * MS]


def test_streams_open_and_close_when_their_sessions_do() -> None:
    world = build(scenario(stream=[stream(from_s=0.5, to_s=1.5)]), 0)
    assert [(now_ns, type(event)) for now_ns, event in events(world, StreamOpened, StreamClosed)] == [
        (S // 2, StreamOpened),
        (3 * S // 2, StreamClosed),
    ]


def test_equal_seeds_give_equal_runs() -> None:
    noisy = scenario(
        noise={"cv": 0.2, "spike_probability": 0.05},
        stream=[stream(count=4, arrivals={"kind": "gamma", "rate_hz": 12, "cv": 2}, network={"jitter_ms": 2})],
    )
    once, again, other = (run(noisy, Fifo(), seed) for seed in (4, 4, 5))
    assert np.array_equal(once.status, again.status)
    assert np.array_equal(once.resolved_ns, again.resolved_ns)
    assert np.array_equal(once.batch, again.batch)
    assert once.batches == again.batches
    assert once.batches != other.batches
    told = [measure(build(noisy, 4), each).to_json() for each in (once, again)]
    assert told[0] == told[1]


def test_a_lane_that_dies_loses_its_batch_and_comes_back() -> None:
    world = build(
        scenario(lane=[{"name": "gpu"}], fault=[{"lane": "gpu", "kind": "die", "at_s": 1.06, "back_s": 1.5}]), 0
    )
    assert [(now_ns / S, type(event)) for now_ns, event in world.script if now_ns] == [
        (1.06, LaneDown),
        (1.5, LaneUp),
        (1.5, ModelReady),
    ]
    ran = world.run(Fifo())
    assert ran.status[9:16].tolist() == [ON_TIME, FAILED, LATE, LATE, LATE, LATE, ON_TIME]
    assert ran.resolved_ns[10] == 1.06 * S
    assert ran.batches.ended_ns[10] == -1
    assert ran.resolved_ns[11] == 1.52 * S
    results = measure(world, ran)
    assert results.counts["FAILED"] == 1
    # 10 ms of the batch that was lost, nine that were run, four of them late.
    assert results.utilisation == {"gpu": pytest.approx(0.19)}
    assert results.wasted == pytest.approx(80 / 190)


def test_a_hang_is_noticed_and_the_worker_replaced() -> None:
    fault = {"lane": "gpu", "kind": "hang", "at_s": 1.0, "detect_ms": 120, "back_s": 1.3}
    world = build(scenario(lane=[{"name": "gpu"}], fault=[fault]), 0)
    assert [(now_ns / S, type(event)) for now_ns, event in world.script if now_ns] == [
        (1.12, ModelGone),
        (1.3, ModelReady),
    ]
    ran = world.run(Fifo())
    assert ran.batches.started_ns[10] == 1.05 * S
    assert ran.batches.ended_ns[10] == -1
    assert (ran.status[10], ran.resolved_ns[10]) == (FAILED, 1.12 * S)
    assert ran.status[11:14].tolist() == [LATE, LATE, ON_TIME]
    assert measure(world, ran).utilisation == {"gpu": pytest.approx(0.07 + 9 * 0.02)}


def test_the_other_lane_goes_on_through_a_fault() -> None:
    fault = {"lane": "lane:0", "kind": "die", "at_s": 0.5, "back_s": 1.5}
    ran = run(scenario(fault=[fault]), Fifo(), 0)
    assert ran.status.tolist() == [ON_TIME] * 20
    assert {ran.batches.lane[nth] for nth in ran.batch[5:15]} == {"lane:1"}


def made() -> tuple[World, Run]:
    """Two streams of 2 s; by hand: when frames came, in which batch they ran and how they ended."""
    two = scenario(
        model=[
            {
                "name": "m",
                "batch_max": 4,
                "variants": [{"name": name, "linear": {"first_ms": 1, "next_ms": 1}} for name in ("a", "b")],
            }
        ],
        stream=[stream(name="left"), stream(name="right", budget_ms=250) | {"class": "CRITICAL"}],
    )
    built = build(two, 0)
    rows = [
        # capture ms, arrival ms, stream, status, resolved ms, batch
        (900, 900, 1, ON_TIME, 920, 0),
        (1100, 1100, 1, ON_TIME, 1120, 1),
        (865, 1100, 2, LATE, 1120, 1),
        (1200, 1200, 2, ON_TIME, 1240, 2),
        (1270, 1300, 1, EXPIRED, 1320, -1),
        (1400, 1400, 1, FAILED, 1440, 3),
        (1500, 1500, 1, CANCELLED, 1510, -1),
        (1900, 1900, 2, ON_TIME, 2100, 4),
    ]
    capture, arrival, stream_id, status, resolved, batch = (np.array(column) for column in zip(*rows, strict=True))
    deadline = capture + np.where(stream_id == 1, 50, 250)
    frames = Frames(arrival * MS, deadline * MS, stream_id.astype(np.int32))
    batches = Batches(
        ["lane:0", "lane:0", "lane:0", "lane:1", "lane:0", "lane:1"],
        ["m"] * 6,
        ["a", "a", "b", "b", "a", "a"],
        [1, 2, 1, 1, 1, 0],
        [0] * 6,
        [each * MS for each in (910, 1105, 1210, 1410, 1910, 1990)],
        [920 * MS, 1120 * MS, 1240 * MS, -1, 2100 * MS, 1995 * MS],
    )
    ran = Run(frames, status.astype(np.int8), resolved * MS, batch.astype(np.int32), batches, [])
    world = World(two, 0, built.script, frames, built.model_of, built.service, built.sessions)
    return world, ran


def test_frames_count_as_live_ones_do() -> None:
    """Each that arrives after the warm-up, from capture to result, and also what nobody wanted any more."""
    results = measure(*made())
    assert {name: count for name, count in results.counts.items() if count} == {
        "ON_TIME": 3,
        "LATE": 1,
        "EXPIRED": 1,
        "CANCELLED": 1,
        "FAILED": 1,
    }
    assert (results.on_time_ratio, results.goodput_per_s) == (3 / 7, 3)
    assert (results.worst_stream, results.worst_on_time_ratio) == ("left", 1 / 4)
    latency, queueing = results.latency_ms, results.queueing_ms
    assert latency is not None
    assert (latency.count, latency.p50, latency.mean, latency.max) == (4, pytest.approx(40, rel=1e-3), 128.75, 255)
    assert queueing is not None
    assert (queueing.count, queueing.max, queueing.mean) == (5, 10, 8)
    # right holds nothing until 1.12 s, counted from its opening at 0, and then a frame that was captured at 0.865 s.
    right = results.by_stream["right"].age_ms
    assert right is not None
    assert right.mean == pytest.approx((120 * 1060 + 120 * 315 + 760 * 420) / 1000)
    assert right.p99 == pytest.approx(1110)


def test_what_the_lanes_did() -> None:
    results = measure(*made())
    # Lane 0: 15 + 30 ms, and the 90 ms before the end of the batch that goes on; lane 1: what was lost, and 5 to warm.
    assert results.utilisation == {"lane:0": pytest.approx(0.135), "lane:1": pytest.approx(0.035)}
    assert results.utilisation_mean == pytest.approx(0.085)
    assert results.wasted == pytest.approx(7.5 / 170)
    assert results.batch_sizes == {1: 3, 2: 1}
    assert results.batch_size_mean == pytest.approx(5 / 4)
    assert results.batch_variant_switches == {"m": 2}
    # left runs on a, a and, for the frame that failed, b; right on a, b, a.
    assert results.variant_switches == 3
    assert [tally.variant_switches for tally in results.by_stream.values()] == [1, 2]
    assert results.variant_shares == {"m": {"a": pytest.approx(3 / 5), "b": pytest.approx(2 / 5)}}


def test_a_run_without_frames() -> None:
    world = build(scenario(stream=[stream(from_s=1.96)]), 0)
    assert len(world.frames) == 0
    results = measure(world, world.run(Fifo()))
    assert (results.frames, results.on_time_ratio, results.goodput_per_s, results.worst_stream) == (0, 1.0, 0.0, "")
    assert (results.latency_ms, results.worst_on_time_ratio, results.batch_size_mean) == (None, 1.0, 0.0)
    assert results.age_ms == Age(pytest.approx(20), pytest.approx(39.6))
    assert results.variant_shares == {"m": {"v": 0.0}}
