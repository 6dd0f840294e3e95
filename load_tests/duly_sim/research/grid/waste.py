"""Row 4: lane time that goes into frames which end late, while service times scatter and when they shift for good.

Of the step, what counts is the time from it on: plans are too short then until the profile has followed. It has
settled on a lane at the first of its batches after which no more than 2 of the next 20 take longer than planned.
"""

from typing import Any

from duly_load.scenario.scenario import Scenario
from duly_sim.research.grid.cells import WARM_S, Cell, content, parsed, reference_hz, scenario, streams, tuned
from duly_sim.research.grid.judge import Effort, Finding, Job, Measure, Row, worst
from duly_sim.simulator.engine import Batches
from duly_sim.simulator.results import measure as measure_run
from duly_sim.simulator.world import build

CELLS = (Cell(1, 1), Cell(1, 6), Cell(4, 2))
LOADS = (0.9, 1.5)
NOISE_CV = 0.05
WASTED_MAX = 0.01
STEP_FACTOR = 1.2
STEP_WASTED_MAX = 0.03
SETTLED_BATCHES_MAX = 20
STEP_AT_S = 10.0
AFTER_STEP_S = 5.0
"""The time after the step that counts."""
LOOKED_AT = 20
LONGER_MAX = 2


def little_wasted(effort: Effort, measure: Measure) -> Row:
    capacities = measure([Job(reference_hz, (cell, effort.search_frames)) for cell in CELLS])
    steady, steps = [], []
    for cell, rate_hz in zip(CELLS, capacities, strict=True):
        for load in LOADS:
            for seed in range(effort.seeds):
                steady.append(Job(wasted, (cell, load, rate_hz * load, effort.seconds_at(rate_hz * load), seed)))
                steps.append(Job(through_step, (cell, load, rate_hz * load, seed)))
    found = dict(zip([job.key for job in (*steady, *steps)], measure([*steady, *steps]), strict=True))
    noise, through, settled = [], [], []
    for cell in CELLS:
        for load in LOADS:
            where = f"{cell.name}, {load:g}x capacity"

            def values(jobs: list[Job], cell: Cell = cell, load: float = load) -> list[Any]:
                return [found[job.key] for job in jobs if job.args[:2] == (cell, load)]

            noise.append(Finding("wasted at 5 % noise", WASTED_MAX, False, tuple(values(steady)), where))
            shares, counts = zip(*values(steps), strict=True)
            asked = f"wasted in the {AFTER_STEP_S:g} s from a step of +20 % on"
            through.append(Finding(asked, STEP_WASTED_MAX, False, shares, where))
            settled.append(Finding("batches until plans hold again", SETTLED_BATCHES_MAX, False, counts, where))
    return Row(
        4,
        "little lane time wasted",
        f"{effort.extent}; share of busy lane time in frames that ended late; the step: at {STEP_AT_S:g} s, noise 5 %, "
        f"batches counted on each lane, the last lane to settle counts",
        (worst(noise), worst(through), worst(settled)),
        (*noise, *through, *settled),
    )


def wasted(cell: Cell, load: float, rate_hz: float, seconds: float, seed: int) -> float:
    """Share of the lanes' busy time; `load` only distinguishes runs."""
    world = build(scenario(cell, rate_hz, seconds, NOISE_CV), seed)
    return measure_run(world, world.run(tuned("duly", 0))).wasted


def through_step(cell: Cell, load: float, rate_hz: float, seed: int) -> tuple[float, float]:
    """Share wasted from the step on, and the batches of a lane until plans hold again, of the slowest lane."""
    world = build(_with_step(cell, rate_hz), seed)
    run = world.run(tuned("duly", 0))
    settled = [_settled(run.batches, lane) for lane in world.scenario.to_simulate().lanes]
    return measure_run(world, run).wasted, float(max(settled))


def _with_step(cell: Cell, rate_hz: float) -> Scenario:
    table = content(cell, STEP_AT_S + AFTER_STEP_S - WARM_S)
    table["warm_s"] = STEP_AT_S
    table["simulate"]["noise"] = {"cv": NOISE_CV, "step_at_s": STEP_AT_S, "step_factor": STEP_FACTOR}
    return parsed(table | {"stream": streams(cell, rate_hz)})


def _settled(batches: Batches, lane: str) -> int:
    after = [
        ended_ns - started_ns > planned_ns
        for on, size, planned_ns, started_ns, ended_ns in zip(
            batches.lane, batches.size, batches.planned_ns, batches.started_ns, batches.ended_ns, strict=True
        )
        if on == lane and size and started_ns >= STEP_AT_S * 1e9
    ]
    last = max(0, len(after) - LOOKED_AT)
    return next((index for index in range(last) if sum(after[index : index + LOOKED_AT]) <= LONGER_MAX), last)
