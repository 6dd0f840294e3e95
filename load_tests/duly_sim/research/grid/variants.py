"""Row 7: variants turn overload into a little less accuracy. One model in fp32, and as a variant of half its time; the
load steps from 0.6x to 1.5x of what fp32 carries, and back.

Settled: nothing switches any more, and no quarter of a second misses more than 1 % of its frames.
"""

import numpy as np

from duly.core.types import OutcomeStatus
from duly_load.scenario.scenario import Scenario
from duly_sim.research.grid.cells import WARM_S, Cell, content, on_time_ratio, parsed, reference_hz, streams, tuned
from duly_sim.research.grid.judge import Effort, Finding, Job, Measure, Row, worst
from duly_sim.simulator.engine import Run
from duly_sim.simulator.world import World, build

CELLS = (Cell(1, 1), Cell(1, 1, "periodic"), Cell(2, 1))
LOADS = (0.6, 1.5)
SECONDS_MIN = 24.0
"""A third before the step, a third at high load, a third after: a rise takes 5 s of calm and a dwell."""
FEWER_MISSES_MIN = 10.0
ON_TIME_MIN = 0.99
SWITCHES_MAX = 2
SETTLED_S_MAX = 1.5
WINDOW_NS = 250_000_000
MISSED_MAX = 0.01

Json = dict[str, float]


def variants(effort: Effort, measure: Measure) -> Row:
    capacities = measure([Job(reference_hz, (cell, effort.search_frames)) for cell in CELLS])
    seconds = max(SECONDS_MIN, effort.seconds)
    jobs = [
        Job(load_step, (cell, rate_hz, seconds, seed))
        for cell, rate_hz in zip(CELLS, capacities, strict=True)
        for seed in range(effort.seeds)
    ]
    results: list[Json] = measure(jobs)
    findings: dict[str, list[Finding]] = {}
    for at, cell in zip(range(0, len(jobs), effort.seeds), CELLS, strict=True):
        of_cell = results[at : at + effort.seeds]
        for name, (asked, limit, at_least) in ASKED.items():
            values = tuple(result[name] for result in of_cell)
            findings.setdefault(name, []).append(Finding(asked, limit, at_least, values, cell.name))
    return Row(
        7,
        "variants",
        f"{effort.seeds} seeds x {seconds:g} s: 0.6x, 1.5x and 0.6x of fp32's capacity for a third each; noise 2 %",
        tuple(worst(of_name) for of_name in findings.values()),
        tuple(finding for of_name in findings.values() for finding in of_name),
    )


ASKED = {
    "fewer": ("misses of fp32 alone over misses", FEWER_MISSES_MIN, True),
    "on_time": ("on time, steps included", ON_TIME_MIN, True),
    "switches": ("switches of a step", SWITCHES_MAX, False),
    "settled_s": ("s from the step up until settled", SETTLED_S_MAX, False),
}


def load_step(cell: Cell, capacity_hz: float, seconds: float, seed: int) -> Json:
    """What `ASKED` names, of one run with both variants and one with fp32 alone."""
    steps_s = (WARM_S + seconds / 3, WARM_S + 2 * seconds / 3)
    alone = build(_scenario(cell, capacity_hz, seconds, steps_s, ["fp32"]), seed)
    alone_missed = 1 - on_time_ratio(alone, alone.run(tuned("duly", 0)))
    world = build(_scenario(cell, capacity_hz, seconds, steps_s, ["fp32", "fp16"]), seed)
    run = world.run(tuned("duly", 0))
    on_time = on_time_ratio(world, run)
    frames = len(run.status)
    switched_s = _switches_s(run)
    up_s, down_s = steps_s
    switches = [sum(up_s <= at_s < down_s for at_s in switched_s), sum(at_s >= down_s for at_s in switched_s)]
    return {
        "fewer": alone_missed / max(1 / frames, 1 - on_time),
        "on_time": on_time,
        "switches": max(switches),
        "settled_s": _settled_s(world, run, switched_s, up_s, down_s),
    }


def _scenario(
    cell: Cell, capacity_hz: float, seconds: float, steps_s: tuple[float, float], variants: list[str]
) -> Scenario:
    scenario = content(cell, seconds)
    scales = {"fp32": 1.0, "fp16": 0.5}
    for model in scenario["simulate"]["model"]:
        model["variants"] = [{"name": name, "table": cell.table, "scale": scales[name]} for name in variants]
    low, high = LOADS
    scenario["load_step"] = [{"at_s": steps_s[0], "factor": high / low}, {"at_s": steps_s[1], "factor": 1.0}]
    return parsed(scenario | {"stream": streams(cell, low * capacity_hz)})


def _switches_s(run: Run) -> list[float]:
    """When a batch ran on another variant than most of the ten before and the ten from it on: rescues of single
    batches are no switches."""
    fast = np.array([variant == "fp16" for variant in run.batches.variant], np.float64)
    if len(fast) < 20:
        return []
    before = np.convolve(fast, np.ones(10), "valid")[:-10] > 5
    after = np.convolve(fast, np.ones(10), "valid")[10:] > 5
    changed = np.flatnonzero(before != after)
    starts = changed[np.insert(np.diff(changed) > 10, 0, True)] if len(changed) else changed
    return [run.batches.started_ns[index + 10] / 1e9 for index in starts.tolist()]


def _settled_s(world: World, run: Run, switched_s: list[float], up_s: float, down_s: float) -> float:
    arrival_ns, missed = world.frames.arrival_ns, run.status != OutcomeStatus.ON_TIME
    within = (arrival_ns >= up_s * 1e9) & (arrival_ns < down_s * 1e9)
    window = ((arrival_ns[within] - round(up_s * 1e9)) // WINDOW_NS).astype(np.int64)
    shares = np.bincount(window, weights=missed[within]) / np.maximum(1, np.bincount(window))
    bad = np.flatnonzero(shares > MISSED_MAX)
    last_s = (int(bad[-1]) + 1) * WINDOW_NS / 1e9 if len(bad) else 0.0
    return max([last_s, *(at_s - up_s for at_s in switched_s if up_s <= at_s < down_s)])
