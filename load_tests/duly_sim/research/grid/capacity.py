"""Row 1: how much load the scheduler carries at 99 % on time, against every baseline at its best.

How a cell is measured. First on short runs of one seed: the scheduler's capacity; every setting of every baseline at
that load, of which those within a point of the best of their policy are tried again on longer runs; the capacity of the
best setting of each policy. Where that is far below the scheduler's, settings are chosen anew there, since what is best
far beyond a policy's capacity need not be best at it. Then the scheduler, the two best baselines, and Clockwork, Triton
and EDF for the means, are measured on all seeds: each seed at rates 2 % apart until two lie on either side of 99 %, on
a straight line between them. The arrivals of a seed are the same for all policies, so ratios are taken seed by seed.
"""

from collections.abc import Mapping
from math import exp, log
from statistics import median
from typing import Any

from duly_sim.baselines import TUNINGS
from duly_sim.research.grid.cells import Cell, capacity_hz, ratio_at, seconds_for, tuning_name
from duly_sim.research.grid.judge import Effort, Finding, Job, Measure, Row, worst

COMPARED = ("clockwork", "triton", "edf")
"""Baselines that a mean is asked of: least geometric mean of the scheduler's capacity over theirs."""
MEANS = {"clockwork": 1.05, "triton": 1.20, "edf": 3.0}
RATIO_MIN = 0.98
BEST_KEPT = 2
"""The number of best baselines that are refined."""
POINT = 0.01
"""A setting that is this far behind the best of its policy is not tried again."""
TUNINGS_KEPT_MAX = 6
FAR_BELOW = 0.9
SKETCH_SECONDS_MAX = 60.0
STEP = 1.02
"""The factor between the rates of a refined capacity."""


def capacity(effort: Effort, measure: Measure) -> Row:
    sketches: list[dict[str, Any]] = measure(
        [Job(sketch, (cell, effort.search_frames, effort.tuning_frames)) for cell in effort.cells]
    )
    jobs, wanted = [], []
    for cell, sketched in zip(effort.cells, sketches, strict=True):
        for policy in _refined(sketched):
            tuning, guess_hz = sketched[policy]
            wanted.append((cell, policy))
            for seed in range(effort.seeds):
                seconds = effort.seconds_at(guess_hz)
                jobs.append(Job(refine, (cell, policy, tuning, seed, guess_hz, seconds)))
    found: dict[tuple[Cell, str], list[float]] = {key: [] for key in wanted}
    for job, rate_hz in zip(jobs, measure(jobs), strict=True):
        found[job.args[0], job.args[1]].append(rate_hz)
    cells = [
        _best_of(cell, {policy: found[cell, policy] for policy in _refined(sketched)}, sketched)
        for cell, sketched in zip(effort.cells, sketches, strict=True)
    ]
    means = [_mean(effort, found, policy, limit) for policy, limit in MEANS.items()]
    return Row(
        1,
        "capacity at 99 % on time",
        f"{len(effort.cells)} cells, {effort.extent}; settings of baselines chosen on runs of {effort.search_frames:,} "
        f"frames; noise 2 %, budgets 15 ms",
        (worst(cells), *means),
        tuple(cells),
        notes=tuple(_told(cell, found, sketched) for cell, sketched in zip(effort.cells, sketches, strict=True)),
    )


def sketch(cell: Cell, search_frames: int, tuning_frames: int) -> dict[str, tuple[int, float]]:
    """For each policy, its best setting and its capacity with that, from one seed and short runs."""
    duly_hz = capacity_hz(cell, "duly", 0, 0, cell.guess_hz, search_frames, SKETCH_SECONDS_MAX)
    found = {"duly": (0, duly_hz)}
    for policy in TUNINGS:
        if policy == "duly":
            continue
        guess_hz = duly_hz
        for _ in range(2):
            tuning = _best_tuning(cell, policy, guess_hz, search_frames, tuning_frames)
            rate_hz = capacity_hz(cell, policy, tuning, 0, guess_hz, search_frames, SKETCH_SECONDS_MAX)
            if rate_hz > found.get(policy, (0, 0.0))[1]:
                found[policy] = tuning, rate_hz
            if len(TUNINGS[policy]) == 1 or rate_hz >= FAR_BELOW * guess_hz:
                break
            guess_hz = rate_hz
    return found


def refine(cell: Cell, policy: str, tuning: int, seed: int, guess_hz: float, seconds: float) -> float:
    """Capacity of one seed at rates 2 % apart."""
    frames = round(guess_hz * seconds)
    return capacity_hz(cell, policy, tuning, seed, guess_hz, frames, seconds, STEP, STEP)


def _best_tuning(cell: Cell, policy: str, rate_hz: float, search_frames: int, tuning_frames: int) -> int:
    left = list(range(len(TUNINGS[policy])))
    for frames in (tuning_frames, search_frames):
        if len(left) > 1:
            seconds = seconds_for(frames, rate_hz, SKETCH_SECONDS_MAX)
            ratios = {tuning: ratio_at(cell, policy, tuning, 0, rate_hz, seconds) for tuning in left}
            left.sort(key=lambda tuning: -ratios[tuning])
            left = [tuning for tuning in left if ratios[tuning] >= ratios[left[0]] - POINT][:TUNINGS_KEPT_MAX]
    return left[0]


def _refined(sketched: Mapping[str, Any]) -> list[str]:
    """The policies that are measured on all seeds."""
    baselines = sorted((policy for policy in sketched if policy != "duly"), key=lambda policy: -sketched[policy][1])
    return list(dict.fromkeys(("duly", *baselines[:BEST_KEPT], *COMPARED)))


def _best_of(cell: Cell, rates_hz: Mapping[str, list[float]], sketched: Mapping[str, Any]) -> Finding:
    best = max((policy for policy in rates_hz if policy != "duly"), key=lambda policy: median(rates_hz[policy]))
    return Finding(
        "capacity over that of the best baseline, each cell",
        RATIO_MIN,
        True,
        tuple(own / other for own, other in zip(rates_hz["duly"], rates_hz[best], strict=True)),
        f"{cell.name}: against {tuning_name(best, sketched[best][0])}",
    )


def _mean(effort: Effort, found: Mapping[tuple[Cell, str], list[float]], policy: str, limit: float) -> Finding:
    means = [
        exp(
            sum(log(found[cell, "duly"][seed] / found[cell, policy][seed]) for cell in effort.cells) / len(effort.cells)
        )
        for seed in range(effort.seeds)
    ]
    return Finding(f"capacity over that of {policy}, geometric mean", limit, True, tuple(means), "all cells")


def _told(cell: Cell, found: Mapping[tuple[Cell, str], list[float]], sketched: Mapping[str, Any]) -> str:
    rates = (
        f"{tuning_name(policy, sketched[policy][0])} {median(found[cell, policy]):,.0f}"
        for policy in _refined(sketched)
    )
    rough = (f"{policy} ~{hz:,.0f}" for policy, (_, hz) in sketched.items() if policy not in _refined(sketched))
    return f"{cell.name}: {', '.join((*rates, *rough))} frames/s"
