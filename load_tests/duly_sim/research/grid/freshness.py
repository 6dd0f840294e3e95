"""Rows 8 and 9: how old results are. Under 2x overload streams that want the newest frame alone stay fresh, and at low
load frames hardly wait.

Row 8's limit is two periods and two planned times of the batches that ran: of a stream that is served every second
period, the newest result is up to two periods old, plus what its frame waited for and took. FIFO has no such limit: its
ages grow for as long as the overload lasts.
"""

from statistics import median

from duly_sim.baselines import POLICIES
from duly_sim.research.grid.cells import STREAMS_PER_MODEL, Cell, content, parsed, reference_hz, scenario, tuned
from duly_sim.research.grid.judge import Effort, Finding, Job, Measure, Row, worst
from duly_sim.simulator.results import measure as measure_run
from duly_sim.simulator.world import build

LATEST_CELLS = (Cell(1, 1, "periodic"), Cell(1, 6, "periodic"), Cell(4, 2, "periodic"))
OVERLOAD = 2.0
PERIOD_MS = 33.3
"""The period of each stream; there are as many as the load takes."""
CALM_CELLS = (Cell(1, 1), Cell(1, 6), Cell(4, 2), Cell(4, 8), Cell(4, 2, table="a100_resnet50"))
CALM_LOADS = (0.1, 0.25, 0.5)


def fresh(effort: Effort, measure: Measure) -> Row:
    capacities = measure([Job(reference_hz, (cell, effort.search_frames)) for cell in LATEST_CELLS])
    ages: dict[tuple[Cell, str], list[tuple[float, float]]] = {}
    jobs = [
        Job(age_ms, (cell, policy, OVERLOAD * rate_hz, effort.seconds_at(OVERLOAD * rate_hz), seed))
        for cell, rate_hz in zip(LATEST_CELLS, capacities, strict=True)
        for policy in ("duly", "fifo")
        for seed in range(effort.seeds)
    ]
    for job, found in zip(jobs, measure(jobs), strict=True):
        ages.setdefault((job.args[0], job.args[1]), []).append((found[0], found[1]))
    findings = []
    notes = []
    for cell in LATEST_CELLS:
        values = tuple(p99_ms / (2 * PERIOD_MS + 2 * planned_ms) for p99_ms, planned_ms in ages[cell, "duly"])
        p99_ms = [median(age for age, _ in ages[cell, policy]) for policy in ("duly", "fifo")]
        where = f"{cell.name}: p99 {p99_ms[0]:.1f} ms"
        findings.append(Finding("p99 age over 2 periods + 2 planned times", 1.0, False, values, where))
        notes.append(f"{cell.name}: p99 age {p99_ms[0]:.1f} ms, of FIFO {p99_ms[1]:,.0f} ms")
    return Row(
        8,
        "LATEST at 2x overload",
        f"{effort.extent}; streams of {PERIOD_MS} ms, budget one period; planned: mean of the batches that ran",
        (worst(findings),),
        tuple(findings),
        notes=tuple(notes),
    )


def age_ms(cell: Cell, policy: str, rate_hz: float, seconds: float, seed: int) -> tuple[float, float]:
    """p99 of the age of information, and the mean planned time of the batches that ran, ms."""
    streams = max(cell.models, round(rate_hz * PERIOD_MS / 1e3))
    table = content(cell, seconds)
    table["stream"] = [
        {
            "name": f"stream-{index}",
            "model": f"model-{index % cell.models}",
            "budget_ms": PERIOD_MS,
            "backlog": "LATEST",
            "credit": 65_536,
            "arrivals": {"kind": "periodic", "rate_hz": 1e3 / PERIOD_MS, "drift_ppm": 50},
        }
        for index in range(streams)
    ]
    world = build(parsed(table), seed)
    run = world.run(POLICIES[policy]())
    age = measure_run(world, run).age_ms
    if age is None:
        raise RuntimeError(f"{cell.name}: no stream has an age")
    return age.p99, sum(run.batches.planned_ns) / len(run.batches.planned_ns) / 1e6


def calm(effort: Effort, measure: Measure) -> Row:
    capacities = measure([Job(reference_hz, (cell, effort.search_frames)) for cell in CALM_CELLS])
    jobs = [
        Job(queueing, (cell, load, load * rate_hz, effort.seconds_at(load * rate_hz), seed))
        for cell, rate_hz in zip(CALM_CELLS, capacities, strict=True)
        for load in CALM_LOADS
        for seed in range(effort.seeds)
    ]
    results = measure(jobs)
    findings = [
        Finding(
            "mean queueing over planned(1)",
            1.0,
            False,
            tuple(results[at : at + effort.seeds]),
            f"{jobs[at].args[0].name}, {jobs[at].args[1]:g}x capacity",
        )
        for at in range(0, len(jobs), effort.seeds)
    ]
    return Row(
        9,
        "little waiting at low load",
        f"{effort.extent}; {STREAMS_PER_MODEL} streams a model; capacity is the scheduler's own at 99 % on time",
        (worst(findings),),
        tuple(findings),
    )


def queueing(cell: Cell, load: float, rate_hz: float, seconds: float, seed: int) -> float:
    """Mean time from arrival to dispatch over the planned time of one frame; `load` only distinguishes runs."""
    world = build(scenario(cell, rate_hz, seconds), seed)
    run = world.run(tuned("duly", 0))
    queueing_ms = measure_run(world, run).queueing_ms
    planned_ns = [
        planned_ns for size, planned_ns in zip(run.batches.size, run.batches.planned_ns, strict=True) if size == 1
    ]
    if queueing_ms is None or not planned_ns:
        raise RuntimeError(f"{cell.name}: at {load:g}x capacity no frame ran alone")
    return queueing_ms.mean / (sum(planned_ns) / len(planned_ns) / 1e6)
