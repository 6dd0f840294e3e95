"""Live runs that never were: a real schedule, and outcomes made up from a seed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import Ending, LiveRun, Record
from duly_load.scenario.scenario import Scenario, parse_scenario
from duly_load.scenario.schedule import schedule_of

MS = 1_000_000
S = 1_000_000_000


def load(streams: int = 4, rate_hz: float = 25, budget_ms: float = 40, duration_s: float = 4, **more: Any) -> Scenario:
    content: dict[str, Any] = {
        "name": "cameras <b>&amp;",
        "duration_s": duration_s,
        "warm_s": 1.0,
        "stream": [
            {
                "name": "camera",
                "count": streams,
                "model": "net",
                "budget_ms": budget_ms,
                "arrivals": {"kind": "poisson", "rate_hz": rate_hz},
            }
        ],
    }
    return parse_scenario(content | more, "test", Path())


def run_of(scenario: Scenario, seed: int = 1, outcome: FrameOutcome | None = None, **more: Any) -> LiveRun:
    """A run whose frames all end with `outcome`, at half of their budget; not given: nothing is known of any yet.

    `more`: what else the run is to have.
    """
    made = schedule_of(scenario, seed)
    count = len(made.frames)
    record = Record.empty(count)
    if outcome is not None:
        record.outcome[:] = outcome
        if outcome not in (FrameOutcome.REFUSED, FrameOutcome.UNSENT, FrameOutcome.UNANSWERED):
            record.latency_ns[:] = made.budgets_ns[made.frames.stream_id] // 2
    run = LiveRun(scenario, seed, "duly://robot:8001", made, record, (), 1_700_000_000 * S, 1, 0.0)
    return replace(run, **more)


def served_in_order(
    scenario: Scenario, seed: int = 1, service_ms: float = 8, drop: bool = True, batch_max: int = 4, **more: Any
) -> LiveRun:
    """One lane that serves in order of arrival, up to `batch_max` at once. `drop`: what can't be on time is EXPIRED
    when its turn comes; else it is served late. Lags and times scatter by the seed.
    """
    run = run_of(scenario, seed, **more)
    frames, record, rng = run.schedule.frames, run.record, np.random.default_rng(seed)
    captures_ns = run.schedule.captures_ns
    count = len(frames)
    record.lag_ns[:] = rng.exponential(60_000, count)
    record.blocked_ns[:] = rng.exponential(5_000, count)
    free_ns, nth = 0, 0
    while nth < count:
        start_ns = max(free_ns, int(frames.arrival_ns[nth]))
        took_ns = round(service_ms * MS * rng.uniform(0.9, 1.2))
        batch: list[int] = []
        while nth < count and len(batch) < batch_max and frames.arrival_ns[nth] <= start_ns:
            if drop and frames.deadline_ns[nth] < start_ns + took_ns:
                record.outcome[nth] = FrameOutcome.EXPIRED
                record.latency_ns[nth] = max(1, start_ns - captures_ns[nth] - 5 * MS)
            else:
                batch.append(nth)
            nth += 1
        for each in batch:
            answered_ns = start_ns + took_ns + 200_000
            late = answered_ns > frames.deadline_ns[each]
            record.outcome[each] = FrameOutcome.LATE if late else FrameOutcome.ON_TIME
            record.latency_ns[each] = answered_ns - captures_ns[each]
            record.claimed[each] = start_ns + took_ns <= frames.deadline_ns[each]
            record.batch_size[each] = len(batch)
            record.dispatched_ns[each] = start_ns + int(rng.integers(0, 20_000))
            record.occupied_ns[each] = took_ns + 100_000
        free_ns = start_ns + took_ns if batch else start_ns
    return run


def refused(scenario: Scenario, seed: int = 1) -> LiveRun:
    """No stream was let in."""
    endings = tuple(
        Ending(0, name, True, "the lanes are full; a period of 80 ms would fit")
        for sensor in scenario.stream
        for name in sensor.names
    )
    return run_of(scenario, seed, FrameOutcome.REFUSED, endings=endings)
