"""What the rollout predicts is what the simulator then shows."""

from dataclasses import replace

import numpy as np
import pytest

from duly.core.admission.rollout import ON_TIME_RATIO_MIN, Rollout
from duly.core.events import Event, LaneUp, ModelReady, StreamOpened
from duly.core.scheduler import Scheduler
from duly.core.timing.profile import MARGIN_PERCENT
from duly.core.types import BacklogPolicy, ModelPlan, OutcomeStatus, StreamClass, StreamDemand, StreamTerms
from duly_load.scenario.schedule import Frames
from duly_load.scenario.simulate import T4_MS, Noise, times_ns
from duly_sim.simulator.engine import simulate
from duly_sim.simulator.service_times import TableService

MS = 1_000_000
BATCH_MAX = 16
MEAN_NS = times_ns(T4_MS, BATCH_MAX)
PLANNED_NS = tuple(mean_ns * (100 + MARGIN_PERCENT) // 100 for mean_ns in MEAN_NS)


def models(count: int, lanes: int) -> dict[str, ModelPlan]:
    on = tuple(f"gpu:{nth}" for nth in range(lanes))
    return {f"m{nth}/1": ModelPlan(f"m{nth}/1", on, (PLANNED_NS,)) for nth in range(count)}


def demands(rate: float, model_count: int, seed: int, budget_ns: int = 15 * MS) -> list[StreamDemand]:
    """Sixteen streams that ask for `rate` frames/s together, in phases of the seed."""
    rng = np.random.default_rng(seed)
    period_ns = round(16 / rate * 1e9)
    return [
        StreamDemand(
            nth + 1,
            f"m{nth % model_count}/1",
            StreamClass.STANDARD,
            period_ns,
            budget_ns,
            int(rng.integers(0, period_ns)),
        )
        for nth in range(16)
    ]


def rolled(streams: list[StreamDemand], plans: dict[str, ModelPlan]) -> Rollout:
    rollout = Rollout(streams, plans)
    while not rollout.advance(100):
        pass
    return rollout


def simulated_ratio(streams: list[StreamDemand], plans: dict[str, ModelPlan]) -> float:
    """On-time ratio of one second of the same in the simulator."""
    service = TableService({(model, "0"): MEAN_NS for model in plans}, Noise(), 0)
    script: list[tuple[int, Event]] = [(0, LaneUp(lane)) for lane in next(iter(plans.values())).lanes]
    for plan in plans.values():
        samples_ns = service.warm_up(plan.model, "0", list(range(1, BATCH_MAX + 1)))
        script += [(0, ModelReady(plan.model, lane, "0", samples_ns, True)) for lane in plan.lanes]
    for stream in streams:
        terms = StreamTerms(stream.stream_class, BacklogPolicy.ALL, 0, stream.budget_ns, 10_000)
        script.append((0, StreamOpened(stream.stream_id, terms)))
    arrivals = [(at, stream) for stream in streams for at in range(stream.phase_ns, 1_000 * MS, stream.period_ns)]
    arrivals.sort(key=lambda arrival: (arrival[0], arrival[1].stream_id))
    frames = Frames(
        np.array([at for at, _ in arrivals], np.int64),
        np.array([at + stream.budget_ns for at, stream in arrivals], np.int64),
        np.array([stream.stream_id for _, stream in arrivals], np.int32),
    )
    run = simulate(Scheduler(), script, frames, {stream.stream_id: stream.model for stream in streams}, service)
    return float((run.status == OutcomeStatus.ON_TIME).mean())


@pytest.mark.parametrize(("lanes", "model_count", "rate"), [(1, 1, 700), (1, 4, 420), (2, 1, 1450), (4, 4, 2700)])
def test_it_says_what_the_simulator_shows_below_and_above_the_limit(lanes: int, model_count: int, rate: int) -> None:
    plans = models(model_count, lanes)
    for factor in (0.6, 1.5):
        streams = demands(rate * factor, model_count, seed=1)
        predicted = rolled(streams, plans).on_time_ratio(StreamClass.STANDARD)
        shown = simulated_ratio(streams, plans)
        assert predicted == pytest.approx(shown, abs=0.03)
        assert (predicted >= ON_TIME_RATIO_MIN) == (shown >= ON_TIME_RATIO_MIN) == (factor < 1)


def test_small_steps_come_to_the_same_end_as_one_large_one() -> None:
    streams = demands(650, 2, seed=3)
    at_once = Rollout(streams, models(2, 1))
    assert at_once.advance(1_000_000)
    stepwise = rolled(streams, models(2, 1))
    assert stepwise.on_time_ratio(StreamClass.STANDARD) == at_once.on_time_ratio(StreamClass.STANDARD)
    for stream in streams:
        assert stepwise.predicted_latency_ns(stream.stream_id) == at_once.predicted_latency_ns(stream.stream_id) > 0


def test_one_stream_alone_waits_for_nothing() -> None:
    stream = StreamDemand(1, "m0/1", StreamClass.STANDARD, 33 * MS, 33 * MS)
    rollout = rolled([stream], models(1, 1))
    assert rollout.on_time_ratio(StreamClass.STANDARD) == 1.0
    assert rollout.predicted_latency_ns(1) == pytest.approx(MEAN_NS[0], rel=0.001)


def test_frames_are_bounded_at_any_rate() -> None:
    streams = demands(1_000_000, 1, seed=0)
    rollout = Rollout(streams, models(1, 1), frames_max=500)
    steps = 0
    while not rollout.advance(1):
        steps += 1
    assert steps < 3 * (500 + len(streams))


def test_an_overload_that_a_long_budget_hides_for_seconds_is_seen() -> None:
    streams = [StreamDemand(nth, "m/1", StreamClass.STANDARD, 100 * MS, 1000 * MS) for nth in range(14)]
    rollout = rolled(streams, {"m/1": ModelPlan("m/1", ("gpu:0",), ((10 * MS,),))})
    assert rollout.on_time_ratio(StreamClass.STANDARD) < ON_TIME_RATIO_MIN


def test_a_stream_s_own_ratio_is_its_own() -> None:
    others = [StreamDemand(nth, "m/1", StreamClass.STANDARD, 40 * MS, 100 * MS, phase_ns=0) for nth in range(1, 9)]
    late = StreamDemand(99, "m/1", StreamClass.STANDARD, 40 * MS, 3 * MS, phase_ns=MS)
    rollout = rolled([*others, late], {"m/1": ModelPlan("m/1", ("gpu:0",), ((2 * MS + MS // 2,),))})
    assert [rollout.own_ratio(stream.stream_id) for stream in others] == [1.0] * 8
    assert rollout.own_ratio(99) == 0.0
    assert rollout.own_ratio(1000) == 1.0


def test_less_critical_streams_count_only_where_they_are_asked_for() -> None:
    critical = StreamDemand(1, "m0/1", StreamClass.CRITICAL, 50 * MS, 50 * MS)
    flood = [replace(stream, stream_id=stream.stream_id + 1) for stream in demands(3000, 1, seed=2)]
    rollout = rolled([*flood, critical], models(1, 1))
    assert rollout.on_time_ratio(StreamClass.CRITICAL) == 1.0
    assert rollout.on_time_ratio(StreamClass.STANDARD) < 0.6


def test_a_slow_candidate_still_has_a_frame_in_the_horizon() -> None:
    slow = StreamDemand(99, "m0/1", StreamClass.STANDARD, 60_000 * MS, 30 * MS, phase_ns=59_000 * MS)
    assert rolled([*demands(400, 1, seed=4), slow], models(1, 1)).predicted_latency_ns(99) > 0


def test_streams_that_state_no_period_are_left_out() -> None:
    rollout = rolled([StreamDemand(1, "m0/1", StreamClass.STANDARD, 0, 30 * MS)], models(1, 1))
    assert rollout.on_time_ratio(StreamClass.BEST_EFFORT) == 1.0
    assert rollout.predicted_latency_ns(1) == 0
