"""STANDARD streams let in one by one, as the server does it: by the formula, near the limit by a rollout."""

from dataclasses import replace
from typing import Any

import numpy as np

from duly.core.admission.decide import judge
from duly.core.events import StreamOpened
from duly.core.types import BacklogPolicy, StreamClass, StreamDemand
from duly_sim.research.grid.cells import Cell, content, parsed
from duly_sim.research.grid.hard_sets import opened
from duly_sim.simulator.world import build

STREAMS_MAX = 400
PERIODS_MS = (10.0, 20.0, 33.3, 40.0, 50.0)


def fill_with_standard(cell: Cell, seed: int) -> list[dict[str, Any]]:
    """Streams of a scenario, all that were let in before the first was refused."""
    rng = np.random.default_rng([seed, 0xAD])
    tried = [_candidate(cell, rng, index) for index in range(STREAMS_MAX)]
    asked = build(parsed(content(cell, 1.0) | {"stream": tried}), seed)
    terms = [event.terms for _, event in asked.script if isinstance(event, StreamOpened)]
    scheduler = opened([step for step in asked.script if not isinstance(step[1], StreamOpened)])
    plans, lanes = scheduler.plans(), scheduler.lane_count()
    open_streams: list[StreamDemand] = []
    for index, (stream, each) in enumerate(zip(tried, terms, strict=True)):
        demand = StreamDemand(index, each.model, StreamClass.STANDARD, each.period_ns, each.budget_ns)
        demand = replace(demand, backlog=BacklogPolicy.ALL)
        if not judge(demand, open_streams, plans, lanes).accepted:
            break
        # From its first frame on its phase is known.
        open_streams.append(replace(demand, phase_ns=round(stream["arrivals"]["phase"] * 1e6)))
    return tried[: len(open_streams)]


def _candidate(cell: Cell, rng: np.random.Generator, index: int) -> dict[str, Any]:
    period_ms = float(rng.choice(PERIODS_MS))
    return {
        "name": f"stream-{index}",
        "model": f"model-{rng.integers(0, cell.models)}",
        "budget_ms": float(rng.uniform(15, 40)),
        "backlog": "ALL",
        "credit": 65_536,
        "arrivals": {
            "kind": "periodic",
            "rate_hz": 1e3 / period_ms,
            "phase": float(rng.uniform(0, 0.999 * period_ms)),
            "drift_ppm": 50,
        },
    }
