"""Row 6: admission promises nothing that the scheduler does not keep, nor refuses what it would; and it is quick.

A false accept is a random set that the hard test lets in and that misses a CRITICAL frame, with all first frames at
once or in random phases (`hard_sets`). The rollout's capacity is the rate up to which it would let all streams in; the
simulated one is where as many frames, 99.9 %, are still on time in a run with scattering service times.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np

from duly.core.admission.rollout import ON_TIME_RATIO_MIN, Rollout
from duly.core.events import StreamOpened
from duly.core.types import StreamClass, StreamDemand
from duly_sim.research.grid.cells import Cell, content, on_time_ratio, parsed, tuned
from duly_sim.research.grid.hard_sets import draw_set, opened, run_set
from duly_sim.research.grid.judge import Effort, Finding, Job, Measure, Row, worst
from duly_sim.simulator.world import World, build

SETS_PER_JOB = 25
SET_SECONDS = 4.0
ROLLOUT_CELLS = (Cell(1, 1), Cell(1, 4), Cell(2, 1), Cell(4, 4))
STREAMS = 48
RATES = (1.0, 2.0, 3.0)
"""The rates of the streams relative to each other."""
SECONDS = 10.0
WIDTH = 1.01
ROLLOUT_OFF_MAX = 0.05
TIMED_CELL = Cell(4, 16)
TIMED_STREAMS = 200
TIMED_MS_MAX = 100.0
STEPS = 1 << 20


def admission(effort: Effort, measure: Measure) -> Row:
    sets = effort.hard_sets
    accepts = measure([Job(false_accepts, (at, min(SETS_PER_JOB, sets - at))) for at in range(0, sets, SETS_PER_JOB)])
    pairs = measure(
        [Job(rollout_over_simulated, (cell, seed)) for cell in ROLLOUT_CELLS for seed in range(effort.seeds)]
    )
    off = [
        Finding(
            "rollout's capacity over the simulated one, off 1 by",
            ROLLOUT_OFF_MAX,
            False,
            tuple(abs(ratio - 1) for ratio in pairs[at : at + effort.seeds]),
            f"{cell.name}: {', '.join(f'{ratio:.3f}' for ratio in pairs[at : at + effort.seeds])}",
        )
        for at, cell in zip(range(0, len(pairs), effort.seeds), ROLLOUT_CELLS, strict=True)
    ]
    (took_ms,) = measure([Job(rollout_ms, (effort.seeds,))])
    return Row(
        6,
        "admission",
        f"{sets} random sets of {SET_SECONDS:g} s; capacities of {STREAMS} periodic streams at 99.9 %, {effort.seeds} "
        f"seeds x {SECONDS:g} s, 1 % apart; processor time",
        (
            Finding("random sets accepted that missed", 0, False, (float(sum(accepts)),), f"of {sets} sets"),
            worst(off),
            Finding(
                f"ms for a rollout of {TIMED_STREAMS} streams", TIMED_MS_MAX, False, tuple(took_ms), TIMED_CELL.name
            ),
        ),
        tuple(off),
    )


def false_accepts(first: int, sets: int) -> int:
    """The random sets among `first`, `first` + 1, ... that were accepted and missed."""
    missed = 0
    for seed in range(first, first + sets):
        drawn = draw_set(np.random.default_rng([seed, 0xFA]), locked=seed % 2 == 0)
        missed += run_set(drawn, SET_SECONDS, seed)[1] > 0
    return missed


def rollout_over_simulated(cell: Cell, seed: int) -> float:
    def simulated(rate_hz: float) -> bool:
        world = _world(cell, rate_hz, STREAMS, SECONDS, seed)
        return on_time_ratio(world, world.run(tuned("duly", 0))) >= ON_TIME_RATIO_MIN

    def foreseen(rate_hz: float) -> bool:
        rollout = _rollout(_world(cell, rate_hz, STREAMS, 1.0, seed))
        while not rollout.advance(STEPS):
            pass
        return rollout.on_time_ratio(StreamClass.STANDARD) >= ON_TIME_RATIO_MIN

    ratios = []
    for fits in (foreseen, simulated):
        low_hz, high_hz = cell.guess_hz / 4, cell.guess_hz * 2
        while high_hz > low_hz * WIDTH:
            middle_hz = (low_hz * high_hz) ** 0.5
            low_hz, high_hz = (middle_hz, high_hz) if fits(middle_hz) else (low_hz, middle_hz)
        ratios.append(low_hz)
    return ratios[0] / ratios[1]


def rollout_ms(times: int) -> list[float]:
    """Processor time of one admission's rollout, each of another seed, at what the lanes about hold."""
    took_ms = []
    for seed in range(times):
        world = _world(TIMED_CELL, TIMED_CELL.guess_hz / 2, TIMED_STREAMS, 1.0, seed)
        began_ns = time.process_time_ns()
        rollout = _rollout(world)
        while not rollout.advance(STEPS):
            pass
        took_ms.append((time.process_time_ns() - began_ns) / 1e6)
    return took_ms


def _world(cell: Cell, rate_hz: float, streams: int, seconds: float, seed: int) -> World:
    rng = np.random.default_rng([seed, 0x40])
    share_hz = rate_hz / streams / (sum(RATES) / len(RATES))
    tables: list[dict[str, Any]] = []
    for index in range(streams):
        each_hz = share_hz * RATES[index % len(RATES)]
        phase = float(rng.uniform(0, 0.999))
        tables.append(
            {
                "name": f"stream-{index}",
                "model": f"model-{index % cell.models}",
                "budget_ms": 15.0,
                "backlog": "ALL",
                "credit": 65_536,
                "arrivals": {"kind": "periodic", "rate_hz": each_hz, "phase": phase * 1e3 / each_hz},
            }
        )
    return build(parsed(content(cell, seconds) | {"stream": tables}), seed)


def _rollout(world: World) -> Rollout:
    """The rollout of all streams of the world, in their phases."""
    scheduler = opened([step for step in world.script if not isinstance(step[1], StreamOpened)])
    opens = [event for _, event in world.script if isinstance(event, StreamOpened)]
    demands = []
    for event in opens:
        terms = event.terms
        demand = StreamDemand(event.stream_id, terms.model, terms.stream_class, terms.period_ns, terms.budget_ns)
        sent_ns = world.frames.arrival_ns[world.frames.stream_id == event.stream_id]
        demands.append(replace(demand, phase_ns=int(sent_ns[0]) if len(sent_ns) else -1))
    return Rollout(demands, scheduler.plans())
