"""Row 5: what each class is promised. CRITICAL: every frame, whatever else is offered. STANDARD, once admitted: 99.9 %.
BEST_EFFORT: most of what is left.

What is left is the share of lane time that the CRITICAL streams leave when they are alone; BEST_EFFORT's own best rate
is its goodput at the same 3x overload with the lanes to itself.
"""

from functools import partial
from typing import Any

import numpy as np

from duly_sim.research.grid.admitted import fill_with_standard
from duly_sim.research.grid.cells import BUDGET_MS, STREAMS_PER_MODEL, Cell, content, parsed, reference_hz, tuned
from duly_sim.research.grid.hard_sets import draw_set, run_set
from duly_sim.research.grid.judge import Effort, Finding, Job, Measure, Row, worst
from duly_sim.simulator.results import SimulatedResults
from duly_sim.simulator.results import measure as measure_run
from duly_sim.simulator.world import build

RUN_FRAMES = 10_000
"""The CRITICAL frames of one run of a random set."""
RUN_SECONDS_MAX = 60.0
SETS_PER_JOB = 5
STANDARD_CELLS = (Cell(1, 1), Cell(1, 4), Cell(4, 2))
STANDARD_MIN = 0.999
OVERLOADED_CELLS = (Cell(1, 2), Cell(4, 2))
OVERLOAD = 3.0
CRITICAL_BUDGETS_MS = (15.0, 33.0)
CRITICAL_MOVED_MAX = 0.001
LEFT_MIN = 0.8


def classes(effort: Effort, measure: Measure) -> Row:
    sent = missed = sets = 0
    while sent < effort.critical_frames:
        more = -(-(effort.critical_frames - sent) // (RUN_FRAMES * SETS_PER_JOB))
        hard = [Job(critical_runs, (sets + index * SETS_PER_JOB,)) for index in range(more)]
        for frames, late in measure(hard):
            sent += frames
            missed += late
        sets += more * SETS_PER_JOB
    standard = [
        Job(admitted_standard, (cell, seed, effort.seconds)) for cell in STANDARD_CELLS for seed in range(effort.seeds)
    ]
    ratios = measure(standard)
    admitted = [
        Finding(
            "on time of admitted STANDARD streams", STANDARD_MIN, True, tuple(ratios[at : at + effort.seeds]), cell.name
        )
        for at, cell in zip(range(0, len(ratios), effort.seeds), STANDARD_CELLS, strict=True)
    ]
    capacities = measure([Job(reference_hz, (cell, effort.search_frames)) for cell in OVERLOADED_CELLS])
    moved, left = [], []
    for cell, rate_hz in zip(OVERLOADED_CELLS, capacities, strict=True):
        for budget_ms in CRITICAL_BUDGETS_MS:
            seconds = effort.seconds_at(OVERLOAD * rate_hz)
            job = partial(Job, best_effort_overload)
            pairs = measure([job((cell, budget_ms, rate_hz, seconds, seed)) for seed in range(effort.seeds)])
            where = f"{cell.name}, CRITICAL budgets of {budget_ms:g} ms"
            worse, shares = zip(*pairs, strict=True)
            moved.append(Finding("CRITICAL moved by 3x BEST_EFFORT", CRITICAL_MOVED_MAX, False, worse, where))
            left.append(Finding("BEST_EFFORT's share of what is left", LEFT_MIN, True, shares, where))
    return Row(
        5,
        "what each class is promised",
        f"{sets} random sets that admission lets in, each {RUN_FRAMES:,} CRITICAL frames or {RUN_SECONDS_MAX:g} s, "
        f"noise within 2 %, BEST_EFFORT at 1.5x besides; the rest: {effort.extent}, noise 2 %",
        (
            Finding("CRITICAL frames sent", effort.critical_frames, True, (sent,), f"{sets} random sets"),
            Finding("CRITICAL frames missed", 0, False, (missed,), f"{sets} random sets"),
            worst(admitted),
            worst(moved),
            worst(left),
        ),
        (*admitted, *moved, *left),
    )


def critical_runs(first: int) -> tuple[int, int]:
    """CRITICAL frames sent and missed in the random sets `first`, `first` + 1, ..."""
    sent = missed = 0
    for seed in range(first, first + SETS_PER_JOB):
        drawn = draw_set(np.random.default_rng([seed, 0xC1]), locked=seed % 2 == 0)
        frames, late = run_set(drawn, min(RUN_SECONDS_MAX, RUN_FRAMES / drawn.frames_per_s), seed)
        sent += frames
        missed += late
    return sent, missed


def admitted_standard(cell: Cell, seed: int, seconds: float) -> float:
    """On-time ratio of STANDARD streams that were let in one by one until one was refused."""
    scenario = content(cell, seconds)
    world = build(parsed(scenario | {"stream": fill_with_standard(cell, seed)}), seed)
    return measure_run(world, world.run(tuned("duly", 0))).on_time_ratio


def best_effort_overload(
    cell: Cell, budget_ms: float, capacity_hz: float, seconds: float, seed: int
) -> tuple[float, float]:
    """How much the on-time ratio of CRITICAL falls through BEST_EFFORT, and the latter's goodput over what is left."""
    critical = [
        _stream(cell, index, "CRITICAL", budget_ms, {"kind": "periodic", "rate_hz": 30, "drift_ppm": 50})
        for index in range(2 * cell.lanes)
    ]
    streams = STREAMS_PER_MODEL * cell.models
    rate_hz = OVERLOAD * capacity_hz / streams
    best_effort = [
        _stream(cell, index, "BEST_EFFORT", BUDGET_MS, {"kind": "poisson", "rate_hz": rate_hz})
        for index in range(streams)
    ]

    def results(streams: list[dict[str, Any]]) -> SimulatedResults:
        world = build(parsed(content(cell, seconds) | {"stream": streams}), seed)
        return measure_run(world, world.run(tuned("duly", 0)))

    undisturbed, alone = results(critical), results(best_effort)
    both = results([*critical, *best_effort])
    worse = undisturbed.on_time_ratio - both.by_class["CRITICAL"].on_time_ratio
    left = (1 - undisturbed.utilisation_mean) * alone.goodput_per_s
    return max(0.0, worse), both.by_class["BEST_EFFORT"].goodput_per_s / left


def _stream(cell: Cell, index: int, stream_class: str, budget_ms: float, arrivals: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"{stream_class.lower()}-{index}",
        "model": f"model-{index % cell.models}",
        "class": stream_class,
        "budget_ms": budget_ms,
        "backlog": "ALL",
        "credit": 65_536,
        "arrivals": arrivals,
    }
