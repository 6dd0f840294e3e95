"""Row 2: how near the scheduler, which learns of a frame when it comes, is to one that knows all frames beforehand.

One model on one lane has an exact optimum (`bounds.optimum`); for more there is a bound that nobody can reach
(`bounds.linear`). Service times are exact here, since both are about exact ones; the scheduler does not know that and
plans with its margin.
"""

import numpy as np

from duly.core.types import OutcomeStatus
from duly_sim.research.bounds.linear import linear_bound
from duly_sim.research.bounds.optimum import optimum
from duly_sim.research.grid.cells import BUDGET_MS, Cell, reference_hz, scenario, seconds_for, times_of, tuned
from duly_sim.research.grid.judge import Effort, Finding, Job, Measure, Row, worst
from duly_sim.simulator.world import build

ALONE = (Cell(1, 1), Cell(1, 1, "periodic"), Cell(1, 1, "mmpp"), Cell(1, 1, table="a100_resnet50"))
LOADS = (0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
OPTIMUM_RATIO_MIN = 0.98
TOGETHER = (Cell(1, 6), Cell(2, 1), Cell(4, 2), Cell(4, 8), Cell(8, 8), Cell(4, 2, table="a100_resnet50"))
BOUND_LOADS = (1.0, 1.5)
BOUND_RATIO_MIN = 0.85
FRAMES_MAX = 60_000
"""The most frames of a run: optimum and bound take longer than the run itself."""


def near_optimum(effort: Effort, measure: Measure) -> Row:
    cells = (*ALONE, *TOGETHER)
    capacities = dict(
        zip(cells, measure([Job(reference_hz, (cell, effort.search_frames)) for cell in cells]), strict=True)
    )
    jobs = []
    for chosen, loads in ((ALONE, LOADS), (TOGETHER, BOUND_LOADS)):
        for cell in chosen:
            for load in loads:
                rate_hz = load * capacities[cell]
                seconds = seconds_for(min(FRAMES_MAX, effort.frames_max), rate_hz, effort.seconds)
                jobs += [Job(ratio_to_best, (cell, load, rate_hz, seconds, seed)) for seed in range(effort.seeds)]
    values: dict[tuple[Cell, float], list[float]] = {}
    for job, ratio in zip(jobs, measure(jobs), strict=True):
        values.setdefault((job.args[0], job.args[1]), []).append(ratio)
    exact, bounded = [], []
    for (cell, load), ratios in values.items():
        where = f"{cell.name}, {load:g}x capacity"
        if cell in ALONE:
            exact.append(Finding("goodput over the exact optimum", OPTIMUM_RATIO_MIN, True, tuple(ratios), where))
        else:
            bounded.append(Finding("goodput over the linear bound", BOUND_RATIO_MIN, True, tuple(ratios), where))
    return Row(
        2,
        "near the optimum",
        f"{effort.extent}, at most {FRAMES_MAX:,} frames a run; exact service times; capacity is the scheduler's own",
        (worst(exact), worst(bounded)),
        (*exact, *bounded),
    )


def ratio_to_best(cell: Cell, load: float, rate_hz: float, seconds: float, seed: int) -> float:
    """On-time frames over the most that can be; `load` only distinguishes runs."""
    world = build(scenario(cell, rate_hz, seconds, noise_cv=0.0), seed)
    run = world.run(tuned("duly", 0))
    frames, times_ns = world.frames, times_of(cell)
    if cell.lanes == cell.models == 1:
        best: float = optimum(frames.arrival_ns, round(BUDGET_MS * 1e6), times_ns)
    else:
        names = [model.name for model in world.scenario.to_simulate().model]
        model_of = np.array([0, *(names.index(world.model_of[index + 1]) for index in range(len(world.model_of)))])
        models = model_of[frames.stream_id]
        best = linear_bound(frames.arrival_ns, frames.deadline_ns, models, [times_ns] * cell.models, cell.lanes)
    return float(np.sum(run.status == OutcomeStatus.ON_TIME)) / best
