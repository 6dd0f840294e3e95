"""What admission accepts, refuses and offers instead; and that hard promises hold in simulation."""

from dataclasses import replace

import numpy as np
import pytest

from duly.core.admission.critical_proof import hard_schedulable
from duly.core.admission.decide import judge
from duly.core.admission.formula import admit, batch_caps_ns, needs_rollout
from duly.core.dispatch.batch_caps import UNBOUND_NS
from duly.core.events import Event, LaneUp, ModelReady, StreamOpened
from duly.core.scheduler import Scheduler
from duly.core.timing.profile import MARGIN_PERCENT
from duly.core.types import BacklogPolicy, ModelPlan, OutcomeStatus, StreamClass, StreamDemand, StreamTerms, Verdict
from duly_load.scenario.schedule import Frames
from duly_load.scenario.simulate import T4_MS, Noise, times_ns
from duly_sim.simulator.engine import simulate
from duly_sim.simulator.service_times import TableService

MS = 1_000_000
T4_NS = times_ns(T4_MS, 32)
CRITICAL, STANDARD, BEST_EFFORT = StreamClass


def plan(model: str, lanes: int | tuple[str, ...] = 1, first_ms: float = 3.0, next_ms: float = 0.8) -> ModelPlan:
    names = tuple(f"gpu:{nth}" for nth in range(lanes)) if isinstance(lanes, int) else lanes
    return ModelPlan(model, names, (linear_ns(first_ms, next_ms),))


def linear_ns(first_ms: float, next_ms: float) -> tuple[int, ...]:
    return tuple(round((first_ms + next_ms * more) * MS) for more in range(16))


def plans(*known: ModelPlan) -> dict[str, ModelPlan]:
    return {one.model: one for one in known}


def stream(
    nth: int, period_ms: float, budget_ms: float, cls: StreamClass = STANDARD, model: str = "detect/1"
) -> StreamDemand:
    return StreamDemand(nth, model, cls, round(period_ms * MS), round(budget_ms * MS))


def opened_one_by_one(asked: StreamDemand, models: dict[str, ModelPlan], lanes: int) -> int:
    """How many such streams are accepted."""
    streams: list[StreamDemand] = []
    while len(streams) < 500 and admit(asked, streams, models, lanes).accepted:
        streams.append(asked)
    return len(streams)


# ---- the analysis ----


def test_one_stream_of_a_known_model_opens_and_is_told_what_to_expect() -> None:
    verdict = admit(stream(1, 33, 33), [], plans(plan("detect/1")), 1)
    assert verdict.accepted
    assert verdict.utilisation == pytest.approx(3 / 33)
    # At worst behind the one before it.
    assert 3 * MS <= verdict.predicted_latency_ns <= 6.5 * MS
    assert (verdict.counter_period_ns, verdict.counter_budget_ns, verdict.counter_rank) == (0, 0, -1)


def test_the_limit_is_the_formula_s() -> None:
    # a = 0.8 ms, c = 2.2 ms, r = n / 50 ms, V = (40 - 2.2) / (1 + a r): a r + 2.2 / V <= 1.
    r = (1 - 2.2 / 37.8) / (0.8 * (1 + 2.2 / 37.8))
    assert opened_one_by_one(stream(1, 50, 40), plans(plan("detect/1", first_ms=3.0)), 1) == pytest.approx(
        50 * r, abs=4
    )


def test_the_best_table_for_one_lane_is_near_what_the_simulator_serves() -> None:
    # With 15 ms budgets the simulator serves 750 to 790 frames/s of it.
    margined = tuple(size_ns * (100 + MARGIN_PERCENT) // 100 for size_ns in T4_NS)
    models = plans(ModelPlan("detect/1", ("gpu:0",), (margined,)))
    assert opened_one_by_one(stream(1, 100, 15), models, 1) == pytest.approx(77, abs=6)


def test_more_lanes_and_longer_budgets_take_more_streams() -> None:
    counts = [opened_one_by_one(stream(1, 33, 15), plans(plan("detect/1", lanes)), lanes) for lanes in (1, 2, 4)]
    assert counts[0] < counts[1] < counts[2]
    assert counts[2] == pytest.approx(4 * counts[0], rel=0.2)
    longer = [opened_one_by_one(stream(1, 33, budget), plans(plan("detect/1")), 1) for budget in (8, 15, 40)]
    assert longer == sorted(longer)


def test_a_frame_that_takes_longer_than_its_budget_is_refused_whatever_its_period_and_class() -> None:
    for cls in StreamClass:
        for period_ms in (0, 1000):
            verdict = admit(stream(1, period_ms, 2.5, cls), [], plans(plan("detect/1")), 1)
            assert not verdict.accepted
            assert verdict.reason == "one frame of detect/1 takes 3 ms, its budget is 2.5 ms"
            assert not needs_rollout(verdict)
            assert verdict.counter_budget_ns == pytest.approx(3 * MS, rel=0.02)


def test_a_frame_behind_another_model_s_batch_must_fit() -> None:
    models = plans(plan("detect/1", first_ms=3), plan("segment/1", first_ms=20))
    slow = stream(1, 500, 400, model="segment/1")
    verdict = admit(stream(2, 100, 15), [slow], models, 1)
    assert not verdict.accepted
    assert "blocked for 20 ms and takes 3 ms, the smallest budget there is 15 ms" in verdict.reason
    assert admit(stream(2, 100, 25), [slow], models, 1).accepted


def test_models_that_share_no_lane_do_not_count_for_each_other() -> None:
    models = plans(plan("detect/1", ("gpu:0",)), plan("segment/1", ("gpu:1",), first_ms=20, next_ms=20))
    full = [stream(nth, 20.5, 100, model="segment/1") for nth in range(1, 2)]
    assert admit(stream(9, 33, 15), full, models, 2).accepted
    assert not admit(stream(9, 33, 100, model="segment/1"), full, models, 2).accepted


def test_a_model_s_streams_must_fit_on_its_own_lanes_and_what_is_left_of_shared_ones() -> None:
    # Ten ms a frame, so that one lane takes ten streams of 100 ms less what waits for batches.
    models = plans(
        plan("narrow/1", ("gpu:0",), first_ms=10, next_ms=10),
        plan("wide/1", ("gpu:0", "gpu:1"), first_ms=10, next_ms=10),
    )
    narrow = [stream(nth, 100, 90, model="narrow/1") for nth in range(8)]
    assert opened_one_by_one(stream(1, 100, 90, model="narrow/1"), models, 2) == 10
    beside = 0
    while admit(stream(99, 100, 90, model="wide/1"), [*narrow, *wide(beside)], models, 2).accepted:
        beside += 1
    assert beside == 12
    assert not admit(stream(98, 50, 90, model="narrow/1"), [*narrow, *wide(beside)], models, 2).accepted


def wide(count: int) -> list[StreamDemand]:
    return [stream(100 + nth, 100, 90, model="wide/1") for nth in range(count)]


def test_less_critical_streams_only_block() -> None:
    models = plans(plan("detect/1"))
    flood = [stream(nth, 2, 100, BEST_EFFORT) for nth in range(50)]
    verdict = admit(stream(99, 33, 33), flood, models, 1)
    assert verdict.accepted
    assert verdict.utilisation < 0.2
    assert not admit(stream(99, 33, 33), [stream(nth, 2, 100) for nth in range(50)], models, 1).accepted


def test_best_effort_always_opens_and_is_told_how_full_it_is() -> None:
    verdict = admit(
        stream(99, 2, 50, BEST_EFFORT), [stream(nth, 2, 100) for nth in range(50)], plans(plan("detect/1")), 1
    )
    assert verdict.accepted
    assert verdict.utilisation > 1
    assert verdict.reason.endswith("shed first under overload")


def test_a_stream_without_a_period_is_promised_nothing_and_counts_for_nothing() -> None:
    models = plans(plan("detect/1"))
    verdict = admit(stream(1, 0, 50), [], models, 1)
    assert verdict.accepted
    assert verdict.reason == "no expected period was stated: nothing is promised"
    unstated = [stream(nth, 0, 50) for nth in range(100)]
    assert admit(stream(101, 33, 50), unstated, models, 1).utilisation == pytest.approx(3 / 33)


def test_an_unknown_model_is_refused_and_nothing_else_would_fit() -> None:
    verdict = admit(stream(1, 33, 33, model="other/1"), [], plans(plan("detect/1"), plan("down/1", ())), 1)
    assert verdict == Verdict(False, "no lane serves model other/1", 0.0, 0, final=True)
    assert not admit(stream(1, 33, 33, model="down/1"), [], plans(plan("down/1", ())), 1).accepted


def test_what_exceeds_the_lanes_even_in_the_best_batches_is_refused_for_good() -> None:
    models = plans(plan("detect/1", first_ms=4, next_ms=1))
    # Sixteen frames take 19 ms: no more than 842 frames/s, of streams with 100 a second.
    open_streams = [stream(nth, 10, 200) for nth in range(8)]
    verdict = admit(stream(9, 10, 200), open_streams, models, 1)
    assert verdict.final
    assert verdict.reason == "107% of lane time would be taken even in the most efficient batches"
    assert admit(stream(9, verdict.counter_period_ns / MS, 200), open_streams, models, 1).accepted
    assert not admit(stream(9, 12, 200), open_streams[:7], models, 1).final
    assert admit(stream(9, 10, 200, BEST_EFFORT), open_streams, models, 1).accepted
    flood = [stream(nth, 2, 200, BEST_EFFORT) for nth in range(20)]
    assert admit(stream(99, 100, 200), flood, models, 1).accepted


def test_lanes_that_a_model_can_t_leave_are_not_relieved_by_others() -> None:
    models = plans(
        plan("narrow/1", ("gpu:0",), first_ms=10, next_ms=10), plan("wide/1", ("gpu:0", "gpu:1"), first_ms=10)
    )
    streams = [stream(nth, 100, 200, model="narrow/1") for nth in range(10)]
    assert admit(stream(99, 100, 200, model="narrow/1"), streams, models, 2).final
    assert not admit(stream(99, 100, 200, model="wide/1"), streams, models, 2).final


@pytest.mark.parametrize(
    ("utilisation", "rollout"), [(0.3, False), (0.6, True), (1.0, True), (1.3, True), (1.5, False)]
)
def test_a_rollout_decides_near_the_limit(utilisation: float, rollout: bool) -> None:
    assert needs_rollout(Verdict(True, "", utilisation, 0)) is rollout
    assert not needs_rollout(Verdict(False, "", utilisation, 0, final=True))


def test_batches_are_capped_by_the_most_critical_class() -> None:
    assert batch_caps_ns([], {})[STANDARD] == UNBOUND_NS
    mixed = [stream(1, 10, 20), stream(2, 10, 12, BEST_EFFORT)]
    assert (batch_caps_ns(mixed, {})[STANDARD], batch_caps_ns(mixed, {})[BEST_EFFORT]) == (UNBOUND_NS, 10 * MS)
    with_critical = [stream(1, 10, 400), stream(2, 10, 40, CRITICAL)]
    caps_ns = batch_caps_ns(with_critical, {})
    assert (caps_ns[CRITICAL], caps_ns[STANDARD]) == (20 * MS, 20 * MS)
    critical = [stream(2, 10, 100, CRITICAL)]
    assert batch_caps_ns(critical, {})[CRITICAL] == 25 * MS
    slow = {"slow": ModelPlan("slow", ("cpu:0",), ((9 * MS, 12 * MS), (3 * MS, 4 * MS)))}
    assert batch_caps_ns(critical, slow)[CRITICAL] == 25 * MS, "nobody uses it"
    critical.append(replace(stream(3, 10, 400), model="slow"))
    assert batch_caps_ns(critical, slow)[CRITICAL] == 27 * MS, "three frames of it, one by one, would block as long"


# ---- counter-offers ----


def test_what_is_offered_would_be_accepted_and_little_less_would_not() -> None:
    models = plans(plan("detect/1"))
    streams = [stream(nth, 33, 15) for nth in range(25)]
    asked = stream(99, 1.5, 15)
    verdict = admit(asked, streams, models, 1)
    assert not verdict.accepted
    assert verdict.counter_period_ns > asked.period_ns
    for factor, accepted in ((1.0, True), (0.97, False)):
        period_ms = verdict.counter_period_ns * factor / MS
        assert admit(stream(99, period_ms, 15), streams, models, 1).accepted is accepted


def test_a_larger_budget_is_offered_where_it_helps_and_only_there() -> None:
    models = plans(plan("detect/1"), plan("segment/1", first_ms=20))
    beside = [stream(1, 500, 400, model="segment/1")]
    verdict = admit(stream(2, 100, 15), beside, models, 1)
    assert verdict.counter_budget_ns == pytest.approx(23 * MS, rel=0.03)
    assert admit(stream(2, 100, verdict.counter_budget_ns / MS), beside, models, 1).accepted
    # No budget makes up for more frames than the lane could ever run.
    assert admit(stream(2, 0.5, 15), [], models, 1).counter_budget_ns == 0


@pytest.mark.parametrize("stream_class", [STANDARD, CRITICAL])
def test_a_period_and_a_budget_together_are_offered_where_neither_alone_would_do(stream_class: StreamClass) -> None:
    models = plans(plan("detect/1", first_ms=40, next_ms=40))
    asked = stream(99, 5, 10, stream_class)
    verdict = judge(asked, [], models, 1)
    assert not verdict.accepted
    assert (verdict.counter_period_ns, verdict.counter_budget_ns, verdict.counter_rank) == (0, 0, -1)
    period_ns, budget_ns = verdict.counter_both_ns
    assert 40 * MS <= period_ns < 200 * MS
    assert 40 * MS <= budget_ns < 200 * MS
    assert judge(stream(99, period_ns / MS, budget_ns / MS, stream_class), [], models, 1).accepted
    assert judge(stream(99, 5, 1000, stream_class), [], models, 1).counter_both_ns == (0, 0)


def test_a_faster_variant_is_offered_but_used_only_where_the_stream_allows_it() -> None:
    models = {"detect/1": ModelPlan("detect/1", ("gpu:0",), (linear_ns(9, 8), linear_ns(5, 4), linear_ns(2, 1)))}
    streams = [StreamDemand(nth, "detect/1", STANDARD, 100 * MS, 50 * MS) for nth in range(9)]
    asked = StreamDemand(99, "detect/1", STANDARD, 20 * MS, 50 * MS, variant_rank_max=0)
    refused = admit(asked, [], {"detect/1": ModelPlan("detect/1", ("gpu:0",), (linear_ns(21, 20), linear_ns(5, 4)))}, 1)
    assert not refused.accepted
    assert refused.counter_rank == 1
    verdict = admit(StreamDemand(99, "detect/1", STANDARD, 20 * MS, 50 * MS), streams, models, 1)
    assert verdict.accepted
    assert verdict.reason.endswith("with variants down to rank 1")
    insisting = [StreamDemand(nth, "detect/1", STANDARD, 100 * MS, 50 * MS, variant_rank_max=0) for nth in range(9)]
    assert not admit(StreamDemand(99, "detect/1", STANDARD, 20 * MS, 50 * MS), insisting, models, 1).accepted


# ---- the hard test ----


def test_frames_that_can_all_come_at_once_must_all_fit() -> None:
    models = plans(plan("detect/1", first_ms=5, next_ms=5))
    rig = [stream(nth, 100, 20, CRITICAL) for nth in range(4)]
    # One before it still runs, as it would be another's with the same deadline that came a moment sooner.
    assert hard_schedulable(rig[:3], models, 1, 0) == ""
    assert "within 20 ms" in hard_schedulable(rig, models, 1, 5 * MS)
    assert hard_schedulable(rig[:2], models, 1, 10 * MS) == ""
    assert hard_schedulable(rig[:2], models, 1, 11 * MS) != ""


def test_a_set_that_is_too_full_or_too_long_to_check_is_refused() -> None:
    models = plans(plan("detect/1", first_ms=1, next_ms=1))
    assert "100%" in hard_schedulable([stream(nth, 4, 4, CRITICAL) for nth in range(4)], models, 1, 0)
    brim = [stream(1, 1.00001, 1000, CRITICAL)]
    assert "too much to be checked" in hard_schedulable(brim, models, 1, 500 * MS)


def test_equal_streams_count_like_as_many_others() -> None:
    models = plans(plan("detect/1", first_ms=1, next_ms=1), plan("wide/1", 2, first_ms=1, next_ms=1))
    for model, lanes in (("detect/1", 1), ("wide/1", 2)):
        for count in range(1, 40):
            equal = [stream(nth, 40, 20, CRITICAL, model) for nth in range(count)]
            nearly = [replace(one, period_ns=one.period_ns + nth) for nth, one in enumerate(equal)]
            answers = [hard_schedulable(streams, models, lanes, 2 * MS) == "" for streams in (equal, nearly)]
            assert answers[0] is answers[1], f"{count} streams of {model}"


def test_a_critical_stream_is_refused_where_the_worst_case_does_not_fit_though_the_mean_does() -> None:
    models = plans(plan("detect/1", first_ms=5, next_ms=4.9))
    # A batch of two, 9.9 ms, may run when a frame comes; then there is room for one other frame within 15 ms.
    rig = [stream(1, 200, 20, CRITICAL), stream(2, 200, 20, CRITICAL)]
    assert admit(rig[1], rig[:1], models, 1).accepted
    verdict = admit(stream(3, 200, 20, CRITICAL), rig, models, 1)
    assert not verdict.accepted
    assert verdict.utilisation < 0.6
    assert verdict.reason.startswith("can't be promised in the worst case: stream ")
    assert verdict.counter_budget_ns == pytest.approx(24.9 * MS, rel=0.02)
    assert verdict.counter_period_ns == 0
    assert admit(stream(3, 200, 20), rig, models, 1).accepted


@pytest.mark.parametrize("cls", [STANDARD, BEST_EFFORT])
@pytest.mark.parametrize("period_ms", [0, 1000])
def test_nobody_opens_whose_batches_would_break_a_promise(cls: StreamClass, period_ms: int) -> None:
    models = plans(plan("detect/1", first_ms=5, next_ms=4.9), plan("segment/1", first_ms=12))
    rig = [stream(1, 200, 20, CRITICAL), stream(2, 200, 20, CRITICAL)]
    verdict = admit(stream(3, period_ms, 900, cls, "segment/1"), rig, models, 1)
    assert not verdict.accepted
    assert verdict.reason.startswith("would break what is promised to CRITICAL streams: stream ")
    assert verdict.final
    assert verdict.counter_budget_ns == 0
    # On a lane of its own it does not come in their way.
    apart = models | plans(plan("segment/1", ("gpu:1",), first_ms=12))
    assert admit(stream(3, period_ms, 900, cls, "segment/1"), rig, apart, 2).accepted


def random_set(seed: int) -> tuple[dict[str, ModelPlan], list[StreamDemand], list[StreamDemand], int]:
    """Plans, critical streams and less critical ones, on the lanes that are the last of it."""
    rng = np.random.default_rng([seed, 11])
    lanes = int(rng.integers(1, 5))
    models = [
        plan(f"m{nth}/1", lanes, first_ms, first_ms * rng.uniform(0.1, 0.9))
        for nth, first_ms in enumerate(rng.uniform(0.5, 8, rng.integers(1, 4)))
    ]
    critical = []
    for nth in range(rng.integers(1, 9)):
        period_ms = float(rng.choice([10, 20, 33, 50, 100]))
        model = models[rng.integers(len(models))].model
        critical.append(stream(nth + 1, period_ms, period_ms * rng.uniform(0.5, 1.2), CRITICAL, model))
    if rng.random() < 0.5:
        models.append(plan("low/1", lanes, 2, 1))
    low = [
        stream(100 + nth, rng.uniform(2, 20), rng.uniform(20, 200), STANDARD, models[-1].model)
        for nth in range(rng.integers(0, 5))
    ]
    return plans(*models), critical, low, lanes


def slowed(models: dict[str, ModelPlan], factor: float) -> dict[str, ModelPlan]:
    return {
        model: ModelPlan(model, known.lanes, (tuple(round(size_ns * factor) for size_ns in known.ranks[0]),))
        for model, known in models.items()
    }


def critical_accepted(models: dict[str, ModelPlan], critical: list[StreamDemand], low: list[StreamDemand]) -> bool:
    lanes = len(next(iter(models.values())).lanes)
    return admit(critical[-1], [*low, *critical[:-1]], models, lanes).accepted


def critical_missed(models: dict[str, ModelPlan], streams: list[StreamDemand], phases_ns: list[int]) -> int:
    """Critical frames not on time in 300 ms of the simulator."""
    tables = {
        (model, "0"): tuple(size_ns * 100 // (100 + MARGIN_PERCENT) for size_ns in known.ranks[0])
        for model, known in models.items()
    }
    script: list[tuple[int, Event]] = [(0, LaneUp(lane)) for lane in next(iter(models.values())).lanes]
    for model, known in models.items():
        samples_ns: dict[int, tuple[int, ...]] = {
            size: (size_ns,) for size, size_ns in enumerate(tables[model, "0"], start=1)
        }
        script += [(0, ModelReady(model, lane, "0", samples_ns, True)) for lane in known.lanes]
    for one in streams:
        terms = StreamTerms(one.stream_class, BacklogPolicy.ALL, 0, one.budget_ns, 10_000)
        script.append((0, StreamOpened(one.stream_id, terms)))
    arrivals = sorted(
        (at, one.stream_id, at + one.budget_ns)
        for one, phase_ns in zip(streams, phases_ns, strict=True)
        for at in range(phase_ns, 300 * MS, one.period_ns)
    )
    columns = np.array(arrivals, np.int64).T
    frames = Frames(columns[0], columns[2], columns[1].astype(np.int32))
    service = TableService(tables, Noise(), 0)
    run = simulate(Scheduler(), script, frames, {one.stream_id: one.model for one in streams}, service)
    return int(((run.status != OutcomeStatus.ON_TIME) & (frames.stream_id < 100)).sum())


@pytest.mark.parametrize("block", range(4))
def test_no_accepted_critical_stream_ever_misses(block: int) -> None:
    """Random sets, with models as slow as they may be for the set still to be accepted."""
    accepted = 0
    for seed in range(block * 12, block * 12 + 12):
        models, critical, low, _ = random_set(seed)
        fitting, factor_max = 0.02, 4.0
        if not critical_accepted(slowed(models, fitting), critical, low):
            continue
        for _ in range(6):
            factor = (fitting * factor_max) ** 0.5
            if critical_accepted(slowed(models, factor), critical, low):
                fitting = factor
            else:
                factor_max = factor
        accepted += 1
        rng = np.random.default_rng(seed)
        streams = [*low, *critical]
        synchronous = [1] * len(streams)
        behind_the_others = [1] * len(low) + [1000] * len(critical)
        scattered = [int(rng.integers(1, one.period_ns)) for one in streams]
        for phases_ns in (synchronous, behind_the_others, scattered):
            assert critical_missed(slowed(models, fitting), streams, phases_ns) == 0, f"seed {seed}"
    assert accepted >= 8
