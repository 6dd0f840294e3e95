"""Row 10: what a decision costs. The events of a simulated run are recorded and passed again to a fresh scheduler, so
that nothing but `step` and `next_wake_ns` is measured, in processor time.

Frames come through `step` twice, when they arrive and when their batch ends, and sometimes with a timer in between: the
cost of a frame is that of all of it.
"""

import gc
import time
from typing import Any

from duly.core import scheduler
from duly.core.events import BatchFinished, Event, FramesArrived, TimerFired
from duly.core.scheduler import Scheduler
from duly_sim.research.grid.cells import BUDGET_MS, Cell, content, parsed, reference_hz
from duly_sim.research.grid.judge import Effort, Finding, Job, Measure, Row
from duly_sim.simulator.engine import simulate
from duly_sim.simulator.world import World, build

CELLS = (Cell(4, 16), Cell(1, 1, table="a100_resnet50"))
STREAMS = 200
LOAD = 0.8
FRAMES_PER_S_MIN = 50_000
DECISION_MS_MAX = 0.2
FRAMES_MAX = 50_000


def cost(effort: Effort, measure: Measure) -> Row:
    rates = measure([Job(reference_hz, (cell, effort.search_frames)) for cell in CELLS])
    frames = min(FRAMES_MAX, effort.frames_max)
    through, decisions, whole, notes = [], [], [], []
    for cell, rate_hz in zip(CELLS, rates, strict=True):
        # One job alone: others beside it would share its caches.
        results: list[dict[str, Any]] = []
        for seed in range(effort.seeds):
            results += measure([Job(decide, (cell, LOAD * rate_hz, frames, seed))])
        where = f"{cell.name}, {STREAMS} streams"
        values = tuple(result["frames_per_s"] for result in results)
        through.append(Finding("frames/s and core through step", FRAMES_PER_S_MIN, True, values, where))
        p99s = tuple(result["decision_p99_ms"] for result in results)
        decisions.append(Finding("ms of one decision, p99", DECISION_MS_MAX, False, p99s, where))
        whole.append(", ".join(f"{result['simulated_per_s']:,.0f}" for result in results))
        notes.append(f"{where}: {results[0]['mix']}; simulator {whole[-1]} frames/s of wall time")
    return Row(
        10,
        "what a decision costs",
        f"{effort.seeds} seeds x {frames:,} frames at {LOAD:g}x capacity; processor time; the scheduler "
        f"{'in Python' if scheduler.__file__.endswith('.py') else 'compiled'}",
        (*through, *decisions),
        notes=tuple(notes),
    )


def decide(cell: Cell, rate_hz: float, frames: int, seed: int) -> dict[str, Any]:
    """Frames through `step` per s of processor time, p99 of one call in ms, frames of the simulator per s of wall time,
    and what the events were."""
    world, log = recorded(cell, rate_hz, frames, seed)
    began_ns = time.perf_counter_ns()
    run = build(world.scenario, seed).run(Scheduler())
    wall_ns = time.perf_counter_ns() - began_ns
    policy = Scheduler()
    gc.collect()
    gc.freeze()  # as the server does at its start; else the log, which no server keeps, is looked through all the time
    began_ns = time.process_time_ns()
    for now_ns, event in log:
        policy.step(now_ns, event)
        policy.next_wake_ns()
    took_ns = time.process_time_ns() - began_ns
    policy, calls_ns = Scheduler(), []
    for now_ns, event in log:
        began_ns = time.process_time_ns()
        policy.step(now_ns, event)
        calls_ns.append(time.process_time_ns() - began_ns)
    gc.unfreeze()
    sizes = [size for size in run.batches.size if size]
    counts = {
        kind.__name__: sum(isinstance(event, kind) for _, event in log)
        for kind in (FramesArrived, BatchFinished, TimerFired)
    }
    return {
        "frames_per_s": len(run.status) / (took_ns / 1e9),
        "decision_p99_ms": sorted(calls_ns)[len(calls_ns) * 99 // 100] / 1e6,
        "simulated_per_s": len(run.status) / (wall_ns / 1e9),
        "mix": f"{len(run.status):,} frames in batches of {sum(sizes) / len(sizes):.1f}; "
        + ", ".join(f"{count:,} {name}" for name, count in counts.items()),
    }


def recorded(cell: Cell, rate_hz: float, frames: int, seed: int) -> tuple[World, list[tuple[int, Event]]]:
    """A world of 200 streams, and every event that the scheduler got in it."""
    scenario = content(cell, frames / rate_hz)
    scenario["stream"] = [
        {
            "name": f"stream-{index}",
            "model": f"model-{index % cell.models}",
            "budget_ms": BUDGET_MS,
            "backlog": "ALL",
            "credit": 65_536,
            "arrivals": {"kind": "poisson", "rate_hz": rate_hz / STREAMS},
        }
        for index in range(STREAMS)
    ]
    world = build(parsed(scenario), seed)
    log: list[tuple[int, Event]] = []
    record = log.append
    simulate(
        Scheduler(),
        world.script,
        world.frames,
        world.model_of,
        world.service,
        lambda now_ns, event: record((now_ns, event)),
    )
    return world, log
