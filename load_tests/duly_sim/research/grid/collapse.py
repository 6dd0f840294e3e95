"""Row 3: goodput stays at its peak however much is offered, and no stream pays for it alone.

Where batches still grow with the load, so does goodput, without an end within reach; what must not be is that it falls
from a peak. So the peak that a load is held against is the best of all loads up to it.

EDF with window batching is what a careful engineer would write first (`baselines.edf_window`, with its defaults).
"""

from collections.abc import Mapping
from statistics import median

from duly_sim.baselines import POLICIES
from duly_sim.report.curves import Points
from duly_sim.research.grid.cells import Cell, reference_hz, scenario
from duly_sim.research.grid.judge import Effort, Finding, Job, Measure, Row, worst
from duly_sim.simulator.results import measure as measure_run
from duly_sim.simulator.world import build

CELLS = (Cell(1, 6), Cell(4, 2))
LOADS = (0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
SUSTAINED = (1.5, 2.0, 3.0)
OF_PEAK_MIN = 0.95
OVER_EDF_MIN = {1.5: 1.08, 2.5: 1.2}
WORST_STREAM_MIN = 0.9
DRAWN = ("duly", "edf_window", "clockwork", "nexus", "symphony", "triton")

Key = tuple[Cell, str, float]


def no_collapse(effort: Effort, measure: Measure) -> Row:
    capacities = measure([Job(reference_hz, (cell, effort.search_frames)) for cell in CELLS])
    jobs = [
        Job(overloaded, (cell, policy, load, rate_hz * load, effort.seconds_at(rate_hz * load), seed))
        for cell, rate_hz in zip(CELLS, capacities, strict=True)
        for policy in DRAWN
        for load in LOADS
        for seed in range(effort.seeds)
    ]
    goodputs: dict[Key, list[float]] = {}
    worst_streams: dict[Key, list[float]] = {}
    for job, (goodput, worst_stream) in zip(jobs, measure(jobs), strict=True):
        key: Key = job.args[:3]
        goodputs.setdefault(key, []).append(goodput)
        worst_streams.setdefault(key, []).append(worst_stream)
    sustained, over, streams = [], [], []
    for cell in CELLS:
        for load in SUSTAINED:
            peak = max(median(goodputs[cell, "duly", less]) for less in LOADS if less <= load)
            values = tuple(goodput / peak for goodput in goodputs[cell, "duly", load])
            where = f"{cell.name}, {load:g}x capacity"
            sustained.append(Finding("goodput over its own peak so far", OF_PEAK_MIN, True, values, where))
        for load, limit in OVER_EDF_MIN.items():
            where = f"{cell.name}, {load:g}x capacity"
            values = _against(goodputs, cell, load)
            over.append(Finding(f"goodput over that of EDF-window at {load:g}x", limit, True, values, where))
            values = _against(worst_streams, cell, load)
            asked = "worst stream's on-time ratio over that of EDF-window"
            streams.append(Finding(asked, WORST_STREAM_MIN, True, values, where))
    by_load = [worst(finding for finding in over if finding.limit == limit) for limit in OVER_EDF_MIN.values()]
    return Row(
        3,
        "no collapse",
        f"{effort.extent}; capacity is the scheduler's own at 99 % on time; "
        f"peak: the best median up to that load, since batches grow with it",
        (worst(sustained), *by_load, worst(streams)),
        (*sustained, *over, *streams),
        tuple((cell.name, _curves(goodputs, cell)) for cell in CELLS),
    )


def overloaded(cell: Cell, policy: str, load: float, rate_hz: float, seconds: float, seed: int) -> tuple[float, float]:
    """Goodput per s, and the on-time ratio of the worst stream; `load` only distinguishes runs."""
    world = build(scenario(cell, rate_hz, seconds), seed)
    results = measure_run(world, world.run(POLICIES[policy]()))
    return results.goodput_per_s, results.worst_on_time_ratio


def _against(values: Mapping[Key, list[float]], cell: Cell, load: float) -> tuple[float, ...]:
    """The scheduler over EDF-window, seed by seed; 1 where both have nothing."""
    pairs = zip(values[cell, "duly", load], values[cell, "edf_window", load], strict=True)
    return tuple(own / other if other else 1.0 + own for own, other in pairs)


def _curves(goodputs: Mapping[Key, list[float]], cell: Cell) -> tuple[tuple[str, Points], ...]:
    def points(policy: str) -> Points:
        return [
            (load, min(values), median(values), max(values))
            for load in LOADS
            for values in (goodputs[cell, policy, load],)
        ]

    return tuple((policy, points(policy)) for policy in DRAWN)
