"""Each baseline's characteristic decisions on tiny runs, and what must hold for all of them under random loads."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from duly.core.events import Event, LaneDown, LaneUp, ModelGone, ModelReady, StreamOpened
from duly.core.types import BacklogPolicy, OutcomeStatus, StreamClass, StreamTerms
from duly_load.scenario.schedule import Frames
from duly_load.scenario.simulate import T4_MS, Noise, times_ns
from duly_sim.baselines import POLICIES, TUNINGS
from duly_sim.baselines.clockwork import Clockwork
from duly_sim.baselines.edf import Edf
from duly_sim.baselines.edf_window import EdfWindow
from duly_sim.baselines.fifo import Fifo
from duly_sim.baselines.nexus import Nexus
from duly_sim.baselines.profile import MEAN, Estimate, Profile
from duly_sim.baselines.symphony import Symphony
from duly_sim.baselines.triton import Timeout, Triton
from duly_sim.simulator.engine import Policy, Run, simulate
from duly_sim.simulator.service_times import TableService

MS = 1_000_000
LINE_MS = {1: 3.0, 16: 18.0}
"""A batch of b takes 2 + b ms."""
CALM = Noise(cv=0.02)
ON_TIME, LATE, EXPIRED, FAILED = OutcomeStatus.ON_TIME, OutcomeStatus.LATE, OutcomeStatus.EXPIRED, OutcomeStatus.FAILED
BASELINES = [name for name in POLICIES if name != "duly"]


def world(
    lanes: int, models: int, table_ms: dict[int, float], noise: Noise, budget_ns: int, seed: int
) -> tuple[list[tuple[int, Event]], dict[int, str], TableService]:
    """Everything up at 0, and one stream for each model, numbered from 1."""
    times = times_ns(table_ms, max(table_ms))
    service = TableService({(f"m{nth}/1", "v"): times for nth in range(models)}, noise, seed)
    script: list[tuple[int, Event]] = [(0, LaneUp(f"gpu:{lane}")) for lane in range(lanes)]
    for model in range(models):
        samples_ns = service.warm_up(f"m{model}/1", "v", sorted({1, 2, 4, 8, 16, max(table_ms)}))
        script += [(0, ModelReady(f"m{model}/1", f"gpu:{lane}", "v", samples_ns, True)) for lane in range(lanes)]
        terms = StreamTerms(StreamClass.STANDARD, BacklogPolicy.ALL, 0, budget_ns, 1 << 20, model=f"m{model}/1")
        script.append((0, StreamOpened(model + 1, terms)))
    return script, {nth + 1: f"m{nth}/1" for nth in range(models)}, service


def play(policy: Policy, *frames: tuple[float, float] | tuple[float, float, int], lanes: int = 1) -> Run:
    """Frames as (arrival ms, budget ms, model), in order; the last is 0 where it is left out."""
    models = [frame[2] if len(frame) == 3 else 0 for frame in frames]
    script, model_of, service = world(lanes, max(models) + 1, LINE_MS, Noise(), 15 * MS, 0)
    arrival_ns = np.array([round(frame[0] * MS) for frame in frames], np.int64)
    budget_ns = np.array([round(frame[1] * MS) for frame in frames], np.int64)
    stream_id = np.array([model + 1 for model in models], np.int32)
    return simulate(policy, script, Frames(arrival_ns, arrival_ns + budget_ns, stream_id), model_of, service)


def ran(run: Run) -> list[tuple[float, list[int]]]:
    """The batches as (start ms, frames)."""
    batches = run.batches
    return [
        (started_ns / MS, np.flatnonzero(run.batch == nth).tolist())
        for nth, started_ns in enumerate(batches.started_ns)
    ]


def load(
    lanes: int, models: int, rate: float, seconds: float, seed: int, noise: Noise = CALM
) -> tuple[list[tuple[int, Event]], Frames, dict[int, str], TableService]:
    """Poisson arrivals over all models, budgets of 15 ms, the T4's batch times."""
    rng = np.random.default_rng([seed, 1])
    script, model_of, service = world(lanes, models, T4_MS, noise, 15 * MS, seed)
    arrival_ns = np.sort(rng.integers(1, round(seconds * 1e9), rng.poisson(rate * seconds)))
    stream_id = rng.integers(1, models + 1, len(arrival_ns)).astype(np.int32)
    return script, Frames(arrival_ns, arrival_ns + 15 * MS, stream_id), model_of, service


def on_time(make: Callable[[], Policy], lanes: int, models: int, rate: float) -> float:
    return float((simulate(make(), *load(lanes, models, rate, 3.0, seed=1)).status == ON_TIME).mean())


# ---- what each of them does ----


def test_fifo_serves_in_order_of_arrival_and_drops_nothing() -> None:
    run = play(Fifo(), (0, 5), (1, 5), (1, 4), (2, 50))
    assert ran(run) == [(0, [0]), (3, [1]), (6, [2]), (9, [3])]
    assert run.status.tolist() == [ON_TIME, ON_TIME, LATE, ON_TIME]


def test_fifo_batches_what_waits_of_one_model() -> None:
    run = play(Fifo(batch_max=2), (0, 50), (1, 50, 0), (1, 50, 1), (2, 50, 0), (2, 50, 0))
    assert ran(run) == [(0, [0]), (3, [1, 3]), (7, [2]), (10, [4])]


def test_edf_serves_in_order_of_deadline_and_drops_the_doomed_at_once() -> None:
    run = play(Edf(), (0, 20), (1, 30), (1, 4), (2, 8))
    assert ran(run) == [(0, [0]), (3, [3]), (6, [1])]
    assert run.status.tolist() == [ON_TIME, ON_TIME, EXPIRED, ON_TIME]
    # Its latest start was at 2 ms, when the lane was still busy.
    assert run.resolved_ns[2] == 2 * MS + 1


def test_edf_takes_the_model_with_the_earliest_head() -> None:
    run = play(Edf(), (0, 20), (1, 30, 0), (2, 20, 1))
    assert ran(run) == [(0, [0]), (3, [2]), (6, [1])]


def test_edf_window_fits_the_batch_to_the_head_or_drops_the_head_for_the_batch() -> None:
    frames = [(0, 20), (1, 5.5), (2, 20), (2, 20), (2, 20), (2, 20)]
    run = play(EdfWindow(target=1), *frames)
    assert ran(run) == [(0, [0]), (3, [1]), (6, [2, 3, 4, 5])]
    run = play(EdfWindow(target=16), *frames)
    assert ran(run) == [(0, [0]), (3, [2, 3, 4, 5])]
    assert run.status[1] == EXPIRED


def test_triton_waits_for_a_full_batch_or_the_delay() -> None:
    triton = Triton(delay_ns=MS // 2, batch_max=3)
    run = play(triton, (0, 50), (0.4, 50), (10, 50), (10.1, 50), (10.2, 50), (10.3, 50))
    assert ran(run) == [(0.5, [0, 1]), (10.2, [2, 3, 4]), (15.2, [5])]


def test_triton_prefers_its_sizes_until_the_oldest_is_overdue() -> None:
    frames = [(0, 50), (1, 50), (1, 50), (2.8, 50)]
    run = play(Triton(delay_ns=5 * MS, batch_max=8, preferred=(1, 2)), *frames)
    assert ran(run) == [(0, [0]), (3, [1, 2]), (7, [3])]
    run = play(Triton(delay_ns=1 * MS, batch_max=8, preferred=(1, 2)), *frames)
    assert ran(run) == [(0, [0]), (3, [1, 2, 3])]
    with pytest.raises(ValueError, match=r"rise within 1 and 4, got \(2, 8\)"):
        Triton(batch_max=4, preferred=(2, 8))


@pytest.mark.parametrize(
    ("timeout", "statuses"),
    [
        (Timeout.NONE, [ON_TIME, LATE, LATE, ON_TIME]),
        (Timeout.DEADLINE, [ON_TIME, EXPIRED, ON_TIME, ON_TIME]),
        (Timeout.LATEST_START, [ON_TIME, EXPIRED, EXPIRED, ON_TIME]),
    ],
)
def test_triton_rejects_by_its_timeout_when_a_batch_forms(timeout: Timeout, statuses: list[OutcomeStatus]) -> None:
    # At 3 ms a full batch takes until 9 ms, three frames until 8 ms and two until 7 ms.
    run = play(Triton(batch_max=4, timeout=timeout), (0, 50), (0.5, 2), (0.5, 6.8), (0.5, 50))
    assert run.status.tolist() == statuses
    assert run.resolved_ns[1] >= 3 * MS


def test_triton_without_delay_is_the_plain_batch_server() -> None:
    script, frames, model_of, service = load(1, 1, 700, 3.0, seed=7, noise=Noise())
    run = simulate(Triton(), script, frames, model_of, service)
    arrival_ns, times = frames.arrival_ns, times_ns(T4_MS, 32)
    ended_ns, first, sizes = 0, 0, []
    while first < len(arrival_ns):
        ended_ns = max(ended_ns, int(arrival_ns[first]))
        sizes.append(min(32, int(np.searchsorted(arrival_ns, ended_ns, "right")) - first))
        # An end comes before arrivals of its instant; no two times are equal here.
        ended_ns += times[sizes[-1] - 1]
        first += sizes[-1]
        assert run.batches.ended_ns[len(sizes) - 1] == ended_ns
    assert run.batches.size == sizes


def test_clockwork_fills_powers_of_two_up_to_its_cap() -> None:
    assert ran(play(Clockwork(), *[(0, 50)] * 11)) == [(0, [*range(8)]), (10, [8, 9]), (14, [10])]
    assert ran(play(Clockwork(batch_max=4), *[(0, 50)] * 5)) == [(0, [0, 1, 2, 3]), (6, [4])]


def test_clockwork_drops_the_heads_that_its_largest_size_can_not_serve() -> None:
    head, fresh = (1, 6.5), (2, 20)
    run = play(Clockwork(), (0, 20), head, fresh, fresh, fresh)
    assert ran(run) == [(0, [0]), (3, [1, 2]), (7, [3, 4])]
    run = play(Clockwork(), (0, 20), head, fresh, fresh, fresh, fresh)
    assert ran(run) == [(0, [0]), (3, [2, 3, 4, 5])]
    assert run.status[1] == EXPIRED


def test_clockwork_takes_the_model_that_must_start_first() -> None:
    # Four frames until 22 ms must start at 16 ms, one frame until 20 ms at 17 ms.
    run = play(Clockwork(), (0, 20), *[(1, 21, 0)] * 4, (1, 19, 1))
    assert ran(run) == [(0, [0]), (3, [1, 2, 3, 4]), (9, [5])]


def test_clockwork_keeps_its_buffer() -> None:
    assert ran(play(Clockwork(buffer_ns=5 * MS), (0, 7.9), (10, 8))) == [(10, [1])]


def test_nexus_runs_its_target_and_drops_heads_that_miss_it() -> None:
    frames = [(0, 20), (1, 7), (2, 20), (2, 20), (2, 20), (2, 20), (2, 20)]
    run = play(Nexus(target=4), *frames)
    assert ran(run) == [(0, [0]), (3, [2, 3, 4, 5]), (9, [6])]
    assert run.status[1] == EXPIRED
    run = play(Nexus(target=4, earliest=True), *frames)
    assert ran(run) == [(0, [0]), (3, [1, 2, 3]), (8, [4, 5, 6])]


def test_nexus_plans_two_batches_into_the_budget() -> None:
    # 2 (2 + b) <= 15
    assert play(Nexus(), *[(0, 50)] * 11).batches.size == [5, 5, 1]


def test_nexus_takes_turns() -> None:
    run = play(Nexus(target=1), (0, 50, 0), (1, 50, 0), (1, 50, 0), (2, 50, 1), (2, 50, 1))
    assert ran(run) == [(0, [0]), (3, [3]), (6, [1]), (9, [4]), (12, [2])]


def test_symphony_defers_to_the_last_moment_for_one_more() -> None:
    make = partial(Symphony, estimate=MEAN)
    # Two until 20 ms must start at 16 ms, three at 15 ms, four at 14 ms.
    assert ran(play(make(), (0, 20))) == [(16, [0])]
    assert ran(play(make(), (0, 20), (5, 20))) == [(15, [0, 1])]
    assert ran(play(make(), (0, 20), (5, 20), (14.5, 20))) == [(14.5, [0, 1, 2])]
    assert ran(play(make(enough=2), (0, 20), (5, 20))) == [(5, [0, 1])]
    assert ran(play(make(enough=1), (0, 20), (5, 20))) == [(0, [0]), (5, [1])]


def test_symphony_gives_a_lane_to_the_due_model_with_the_earliest_latest_start() -> None:
    # Due since 2.9 and 2.7 ms when the lane is free at 3 ms, with latest starts at 3.9 and 3.7 ms.
    frames = [(0, 3, 0), (0.5, 6.4, 0), (0.5, 6.2, 1)]
    run = play(Symphony(estimate=MEAN), *frames)
    assert ran(run) == [(0, [0]), (3, [2])]
    assert run.status.tolist() == [ON_TIME, EXPIRED, ON_TIME]
    assert ran(play(Symphony(estimate=MEAN), *frames, lanes=2)) == [(0, [0]), (2.7, [2]), (3, [1])]


def test_symphony_drops_heads_for_its_target() -> None:
    frames = [(0, 3.5), (1, 6), *[(2, 20)] * 4]
    assert ran(play(Symphony(target=1, enough=1, estimate=MEAN), *frames)) == [(0, [0]), (3, [1, 2]), (7, [3, 4, 5])]
    assert ran(play(Symphony(target=4, enough=1, estimate=MEAN), *frames)) == [(0, [0]), (3, [2, 3, 4, 5])]


@pytest.mark.parametrize("policy", [Symphony, EdfWindow])
def test_a_target_beyond_the_largest_batch_is_the_largest_batch(policy: Callable[..., Policy]) -> None:
    frames = [(0.0, 60.0)] * 40
    assert ran(play(policy(target=99, estimate=MEAN), *frames)) == ran(play(policy(target=16, estimate=MEAN), *frames))


@pytest.mark.parametrize("name", BASELINES)
def test_all_lanes_are_filled(name: str) -> None:
    run = play(POLICIES[name](), *[(0, 20)] * 64, lanes=2)
    assert run.batches.started_ns[:2] == [0, 0]
    assert run.batches.lane[:2] == ["gpu:0", "gpu:1"]


# ---- what holds for all ----


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", BASELINES)
def test_every_frame_is_answered_once_whatever_happens_to_lanes(name: str, seed: int) -> None:
    script, frames, model_of, service = load(3, 4, 2500, 1.0, seed, Noise(cv=0.1, spike_probability=0.01))
    ready = {(event.lane, event.model): event for _, event in script if isinstance(event, ModelReady)}

    def back(at_ms: int, lane: str) -> list[tuple[int, Event]]:
        return [(at_ms * MS, ready[lane, model]) for model in model_of.values()]

    script += [
        (100 * MS, LaneDown("gpu:1", "it fell off the bus")),
        (200 * MS, LaneUp("gpu:1")),
        *back(200, "gpu:1"),
        (300 * MS, ModelGone("m2/1", "gpu:0", "its worker crashed")),
        (350 * MS, ready["gpu:0", "m2/1"]),
        *[(400 * MS, LaneDown(f"gpu:{lane}", "power")) for lane in range(3)],
        *[(500 * MS, LaneUp(f"gpu:{lane}")) for lane in range(3)],
        *[event for lane in range(3) for event in back(500, f"gpu:{lane}")],
        (700 * MS, ModelGone("m3/1", None, "unloaded")),
    ]
    service = TableService(
        {(model, "v"): times_ns(T4_MS, 32) for model in model_of.values()},
        Noise(cv=0.1, spike_probability=0.01),
        seed,
        hangs=(("gpu:1", 90 * MS, 100 * MS),),
    )
    run = simulate(POLICIES[name](), script, frames, model_of, service)
    ended_ns = np.array([*run.batches.ended_ns, -1])[run.batch]
    ran_whole = ended_ns >= 0
    assert np.array_equal(run.status == ON_TIME, ran_whole & (ended_ns <= frames.deadline_ns))
    assert np.array_equal(run.status == LATE, ran_whole & (ended_ns > frames.deadline_ns))
    assert set(run.status[(run.batch >= 0) & ~ran_whole].tolist()) == {FAILED}
    assert set(run.status[run.batch < 0].tolist()) <= {EXPIRED, FAILED}
    gone = (frames.stream_id == 4) & (frames.arrival_ns > 700 * MS)
    assert set(run.status[gone].tolist()) == {FAILED}


@pytest.mark.parametrize("name", TUNINGS)
def test_every_tuning_runs(name: str) -> None:
    assert name in POLICIES
    for make in TUNINGS[name] if name != "duly" else ():
        assert len(simulate(make(), *load(2, 2, 2000, 0.1, seed=3)).status)


def test_equal_runs_are_equal() -> None:
    for name in BASELINES:
        one, two = (simulate(POLICIES[name](), *load(2, 3, 2000, 0.3, seed=5)) for _ in range(2))
        assert one.batches == two.batches


def test_capacities_are_in_the_order_that_is_known() -> None:
    """One lane holds about 530/s at 99 % on time without plans; deferral gains with several lanes and one model."""
    assert on_time(Triton, 1, 1, 480) >= 0.99 > on_time(Triton, 1, 1, 620)
    assert on_time(EdfWindow, 1, 1, 560) >= 0.985 > on_time(EdfWindow, 1, 1, 700)
    assert on_time(Triton, 4, 1, 3300) < 0.98 < 0.99 <= on_time(Symphony, 4, 1, 3300)
    # Under overload, who knows no deadlines serves only what is lost already.
    assert on_time(Triton, 1, 1, 1500) < 0.05 < 0.3 < on_time(EdfWindow, 1, 1, 1500)


# ---- plans ----


def test_plans_lie_on_straight_lines_between_measured_sizes() -> None:
    profile = Profile({1: (300,), 4: (600,), 8: (1000,)}, True, MEAN)
    assert profile.plan_ns == [0, 300, 400, 500, 600, 700, 800, 900, 1000]
    profile.observe(2, 350)
    assert profile.plan_ns[:5] == [0, 300, 350, 475, 600]
    assert Profile({2: (400,), 4: (600,)}, False, MEAN).plan_ns == [0, 400, 400, 600, 600]
    with pytest.raises(ValueError, match="needs samples"):
        Profile({}, True, MEAN)


def test_plans_by_mean_and_by_the_worst_of_the_last_ten() -> None:
    worst = Profile({1: (100, 200)}, True, Estimate(runs=10, percentile=99))
    mean = Profile({1: (100, 200)}, True, Estimate(runs=10, percentile=None, margin_percent=4))
    assert (worst.plan_ns[1], mean.plan_ns[1]) == (200, 156)
    for _ in range(9):
        worst.observe(1, 100)
        mean.observe(1, 100)
    assert worst.plan_ns[1] == 200
    worst.observe(1, 100)
    mean.observe(1, 100)
    assert (worst.plan_ns[1], mean.plan_ns[1]) == (100, 104)
