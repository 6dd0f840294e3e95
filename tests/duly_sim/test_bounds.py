"""Bounds: the optimum is what trying everything finds, and the linear bound never falls below it."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from duly_load.scenario.simulate import T4_MS, times_ns
from duly_sim.research.bounds.linear import least_cost_ns, linear_bound
from duly_sim.research.bounds.optimum import best_schedule, optimum

MS = 1_000_000
Times = Sequence[int]


def by_trying(
    arrival_ns: Sequence[int], deadline_ns: Sequence[int], model: Sequence[int], times: Sequence[Times], lanes: int
) -> int:
    """Every sequence of batches, whatever frames they hold, each on the lane that is free first."""

    def most(left: frozenset[int], free_ns: tuple[int, ...]) -> int:
        best = 0
        for kind, times_of in enumerate(times):
            frames = [frame for frame in sorted(left) if model[frame] == kind]
            for size in range(1, min(len(times_of), len(frames)) + 1):
                for batch in combinations(frames, size):
                    start_ns = max(free_ns[0], *(arrival_ns[frame] for frame in batch))
                    end_ns = start_ns + times_of[size - 1]
                    if end_ns <= min(deadline_ns[frame] for frame in batch):
                        rest = most(left - set(batch), tuple(sorted((*free_ns[1:], end_ns))))
                        best = max(best, size + rest)
        return best

    return most(frozenset(range(len(arrival_ns))), (0,) * lanes)


def poisson(rate: float, seconds: float, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng([seed, 0xB0])
    return np.sort(rng.uniform(0, seconds * 1e9, rng.poisson(rate * seconds))).astype(np.int64)


@pytest.mark.parametrize("seed", range(150))
def test_optimum_is_what_trying_everything_finds(seed: int) -> None:
    rng = np.random.default_rng([seed, 1])
    arrivals = np.sort(rng.integers(0, 14, rng.integers(1, 7)))
    times = np.cumsum([rng.integers(1, 5), *rng.integers(0, 4, rng.integers(0, 4))]).tolist()
    budget = int(rng.integers(1, 14))
    deadlines = (arrivals + budget).tolist()
    found = by_trying(arrivals.tolist(), deadlines, [0] * len(arrivals), [times], 1)
    assert optimum(arrivals, budget, times) == found


@pytest.mark.parametrize("rate", [400, 700, 1000, 2000])
def test_optimum_is_that_of_the_whole_table(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same recurrence with nothing left out, over more rows than are held at once."""
    monkeypatch.setattr("duly_sim.research.bounds.optimum.ROWS", 20)
    arrivals = poisson(rate, 150 / rate, seed=rate)
    times, budget = times_ns(T4_MS, 16), 15 * MS
    never = 1 << 62
    free = [[0]]
    for i, arrival in enumerate(arrivals.tolist(), 1):
        row = [never, *free[-1]]
        for size in range(1, min(i, len(times)) + 1):
            due = int(arrivals[i - size]) + budget
            for drops, free_ns in enumerate(free[i - size]):
                end = max(free_ns, arrival) + times[size - 1]
                if end <= due:
                    row[drops] = min(row[drops], end)
        free.append(row)
    drops = next(drops for drops, free_ns in enumerate(free[-1]) if free_ns < never)
    assert optimum(arrivals, budget, times) == len(arrivals) - drops


@pytest.mark.parametrize(("rate", "budget_ms"), [(500, 15), (1000, 15), (3000, 15), (1000, 60), (100, 2), (2000, 5)])
def test_best_schedule_can_be_carried_out(rate: int, budget_ms: int) -> None:
    arrivals = poisson(rate, 1, seed=rate)
    times = times_ns(T4_MS, 32)
    batches = best_schedule(arrivals, budget_ms * MS, times)
    free_ns = taken = 0
    for batch in batches:
        last = batch.first + batch.size - 1
        assert taken <= batch.first
        assert batch.start_ns >= max(free_ns, arrivals[last])
        assert batch.end_ns == batch.start_ns + times[batch.size - 1] <= arrivals[batch.first] + budget_ms * MS
        free_ns, taken = batch.end_ns, last + 1
    assert sum(batch.size for batch in batches) == optimum(arrivals, budget_ms * MS, times)


def test_optimum_serves_all_or_none() -> None:
    arrivals = np.arange(2000, dtype=np.int64) * 4 * MS
    assert optimum(arrivals, 3 * MS, times_ns(T4_MS, 8)) == 2000
    assert optimum(arrivals, 3 * MS - 1, times_ns(T4_MS, 8)) == 0
    assert optimum(arrivals[:0], 3 * MS, times_ns(T4_MS, 8)) == 0
    together = np.zeros(40, np.int64)
    assert [batch.size for batch in best_schedule(together, 28_350_000, times_ns(T4_MS, 32))] == [32]


@pytest.mark.parametrize(
    ("arrivals", "times", "message"),
    [
        ([0, 5, 4], [1], "arrivals should be in order, got a fall after frame 1"),
        ([0], [], "times should be positive"),
        ([0], [0, 1], "times should be positive"),
        ([0], [2, 1], "not fall with batch size"),
        ([0], [1] * 256, "at most 255"),
    ],
)
def test_optimum_refuses(arrivals: list[int], times: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimum(np.array(arrivals, np.int64), 10, times)


@pytest.mark.parametrize("seed", range(120))
def test_linear_bound_is_never_below_the_optimum_of_a_few_frames(seed: int) -> None:
    rng = np.random.default_rng([seed, 2])
    lanes, models = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    arrivals = np.sort(rng.integers(0, 12, rng.integers(1, 7)))
    deadlines = arrivals + rng.integers(1, 14, len(arrivals))
    model = rng.integers(0, models, len(arrivals))
    times = [np.cumsum([rng.integers(1, 5), *rng.integers(0, 4, rng.integers(0, 4))]).tolist() for _ in range(models)]
    found = by_trying(arrivals.tolist(), deadlines.tolist(), model.tolist(), times, lanes)
    bound = linear_bound(arrivals, deadlines, model, times, lanes)
    assert found - 1e-6 <= bound <= len(arrivals) + 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_linear_bound_is_what_a_solver_finds_for_the_programme(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, lanes = int(rng.integers(1, 25)), int(rng.integers(1, 4))
    arrivals = np.sort(rng.integers(0, 60, count))
    deadlines = arrivals + rng.choice([12, 15, 30], count)
    models = rng.integers(0, 2, count)
    times = [[5, 6, 7, 9], [4, 8, 11]]
    cost_ns = np.empty(count)
    for model in range(2):
        chosen = models == model
        cost_ns[chosen] = least_cost_ns(arrivals[chosen], deadlines[chosen], times[model])
    possible = np.isfinite(cost_ns)
    spans = [(s, t) for s in np.unique(arrivals) for t in np.unique(deadlines) if s < t]
    inside = [[s <= a and d <= t for a, d in zip(arrivals, deadlines, strict=True)] for s, t in spans]
    solved = linprog(
        -np.ones(count),
        A_ub=np.where(inside, np.where(possible, cost_ns, 0), 0),
        b_ub=[lanes * (t - s) for s, t in spans],
        bounds=[(0, 1 if able else 0) for able in possible],
        method="highs",
    )
    assert linear_bound(arrivals, deadlines, models, times, lanes) == pytest.approx(-solved.fun, abs=1e-6)


@pytest.mark.parametrize(("rate", "budget_ms"), [(300, 15), (700, 15), (1000, 15), (2000, 15), (1500, 60)])
def test_linear_bound_is_close_above_the_optimum(rate: int, budget_ms: int) -> None:
    arrivals = poisson(rate, 1, seed=rate)
    times = times_ns(T4_MS, 32)
    best = optimum(arrivals, budget_ms * MS, times)
    bound = linear_bound(arrivals, arrivals + budget_ms * MS, np.zeros_like(arrivals), [times], 1)
    assert best - 1e-6 <= bound <= 1.1 * best


def test_linear_bound_is_above_a_lane_for_each_model() -> None:
    arrivals = poisson(4000, 1, seed=5)
    model = np.arange(len(arrivals)) % 4
    times, budget = times_ns(T4_MS, 32), 15 * MS
    apart = sum(optimum(arrivals[model == one], budget, times) for one in range(4))
    bound = linear_bound(arrivals, arrivals + budget, model, [times] * 4, 4)
    assert apart <= bound < 0.95 * len(arrivals)


def test_linear_bound_counts_what_every_frame_costs_at_best() -> None:
    """Ten frames of a model that batches badly arrive at once: one lane has time for five, two for all."""
    arrivals, model = np.zeros(10, np.int64), np.zeros(10, np.int64)
    assert linear_bound(arrivals, arrivals + 10, model, [[2, 4]], 1) == pytest.approx(5)
    assert linear_bound(arrivals, arrivals + 10, model, [[2, 4]], 2) == pytest.approx(10)
    assert linear_bound(arrivals, arrivals + 1, model, [[2, 4]], 2) == 0


def test_linear_bound_takes_cheap_frames_first_and_parts_of_dear_ones() -> None:
    arrivals, model = np.zeros(6, np.int64), np.array([0, 0, 0, 0, 1, 1])
    assert linear_bound(arrivals, arrivals + 8, model, [[1], [4]], 1) == pytest.approx(4 + 1)
    assert linear_bound(arrivals, arrivals + 7, model, [[1], [4]], 1) == pytest.approx(4 + 3 / 4)
    # The cheap are due when half of them are done, and what comes after is left to the dear.
    assert linear_bound(arrivals, np.array([2, 2, 2, 2, 8, 8]), model, [[1], [4]], 1) == pytest.approx(2 + 6 / 4)
    assert linear_bound(arrivals, np.array([2, 2, 2, 2, 8, 8]), model, [[1], [4]], 2) == pytest.approx(6)
    # A dear frame that is due first gives way to cheap ones that come in its time, but not to those that can wait.
    arrivals, deadlines = np.array([0, 0, 0, 0, 0, 0]), np.array([4, 4, 4, 9, 4, 4])
    assert linear_bound(arrivals, deadlines, model, [[1], [4]], 1) == pytest.approx(4 + 1 / 4)


def test_least_cost_looks_at_who_can_share_a_batch() -> None:
    arrivals = np.array([0, 3, 4, 20], np.int64)
    costs = least_cost_ns(arrivals, arrivals + 10, [4, 6, 9])
    assert costs.tolist() == [3.0, 3.0, 3.0, 4.0]
    assert least_cost_ns(arrivals, arrivals + 13, [4, 6, 9]).tolist() == [3.0, 3.0, 3.0, 4.0]
    assert least_cost_ns(arrivals, arrivals + 13, [4, 6, 7]).tolist() == [pytest.approx(7 / 3)] * 3 + [4.0]
    assert least_cost_ns(arrivals, arrivals + 3, [4]).tolist() == [np.inf] * 4


@pytest.mark.parametrize(
    ("models", "times", "lanes", "message"),
    [
        ([0], [[1]], 1, "equally long, got 2, 2 and 1"),
        ([0, 1], [[1]], 1, "model indices should be 0 to 0, got 0 to 1"),
        ([0, 0], [[2, 1]], 1, "not fall with batch size"),
        ([0, 0], [[1]], 0, "lanes should be at least 1, got 0"),
    ],
)
def test_linear_bound_refuses(models: list[int], times: list[list[int]], lanes: int, message: str) -> None:
    arrivals = np.array([0, 1], np.int64)
    with pytest.raises(ValueError, match=message):
        linear_bound(arrivals, arrivals + 5, np.array(models, np.int64), times, lanes)
