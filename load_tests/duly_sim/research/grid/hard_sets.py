"""Random sets of CRITICAL streams that admission lets in, and what becomes of them beside BEST_EFFORT load.

A set: one to four lanes, one to four models whose batch times are lines, streams of random periods and budgets that
`admit` accepts one after another, and BEST_EFFORT streams that offer more than the lanes can take. Service times stay
within the plan: their noise is bounded, so that the q99 of the warm-up and its margin cover it. Phases are the
synchronous worst case, all at once, or random.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from duly.core.admission.formula import admit
from duly.core.events import Event, StreamOpened
from duly.core.scheduler import Scheduler
from duly.core.types import OutcomeStatus, StreamClass, StreamDemand
from duly_sim.research.grid.cells import parsed
from duly_sim.simulator.world import build

NOISE_BOUND = 0.02
"""The plan is 1 % above nearly the longest run of the warm-up, which is 2 % above the mean at most."""
STREAMS_TRIED = 12
SETS_TRIED_MAX = 100
"""Sets of which admission lets no stream in are drawn again."""
OVERLOAD = 1.5
"""What BEST_EFFORT streams offer, in batches of one, as a multiple of all lanes."""


@dataclass(frozen=True, slots=True)
class HardSet:
    """Its section [simulate] and its streams, of which `critical` alone had to be admitted."""

    simulate: dict[str, Any]
    critical: tuple[dict[str, Any], ...]
    best_effort: tuple[dict[str, Any], ...]

    @property
    def frames_per_s(self) -> float:
        return float(sum(stream["arrivals"]["rate_hz"] for stream in self.critical))


def draw_set(rng: np.random.Generator, locked: bool) -> HardSet:
    """A set with at least one CRITICAL stream. `locked`: all streams have their first frame at once."""
    for _ in range(SETS_TRIED_MAX):
        drawn = _draw(rng, locked)
        if drawn.critical:
            return drawn
    raise RuntimeError(f"admission let no stream in, of any of {SETS_TRIED_MAX} random sets")


def run_set(drawn: HardSet, seconds: float, seed: int) -> tuple[int, int]:
    """CRITICAL frames sent, and how many of them were not on time."""
    scenario = {
        "simulate": drawn.simulate,
        "name": "hard set",
        "duration_s": seconds,
        "stream": [*drawn.best_effort, *drawn.critical],
    }
    world = build(parsed(scenario), seed)
    run = world.run(Scheduler())
    critical = [0, *(session.stream_class is StreamClass.CRITICAL for session in world.sessions)]
    status = run.status[np.array(critical, np.bool_)[world.frames.stream_id]]
    return len(status), int(np.sum(status != OutcomeStatus.ON_TIME))


def opened(script: list[tuple[int, Event]]) -> Scheduler:
    """A scheduler that knows the lanes, models and streams of a script that starts with them."""
    scheduler = Scheduler()
    for now_ns, event in script:
        scheduler.step(now_ns, event)
    return scheduler


def _draw(rng: np.random.Generator, locked: bool) -> HardSet:
    lanes, models = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    firsts_ms: list[float] = rng.uniform(1, 8, models).tolist()
    simulate: dict[str, Any] = {
        "noise": {"bound": NOISE_BOUND},
        "lane": [{"name": "lane", "count": lanes}],
        "model": [
            {
                "name": f"model-{index}",
                "batch_max": int(rng.choice([1, 4, 8, 16])),
                "variants": [{"linear": {"first_ms": first_ms, "next_ms": first_ms * float(rng.uniform(0.1, 1))}}],
            }
            for index, first_ms in enumerate(firsts_ms)
        ],
    }
    best_effort = tuple(
        {
            "name": f"best-effort-{index}",
            "model": f"model-{index}",
            "class": "BEST_EFFORT",
            "budget_ms": float(rng.uniform(20, 100)),
            "backlog": "ALL",
            "credit": 65_536,
            "arrivals": {"kind": "poisson", "rate_hz": OVERLOAD * lanes / models * 1e3 / firsts_ms[index]},
        }
        for index in range(models)
        if rng.random() < 0.6
    )
    tried = [_critical(rng, index, firsts_ms, locked) for index in range(STREAMS_TRIED)]
    return HardSet(simulate, _admitted(simulate, tried, best_effort), best_effort)


def _critical(rng: np.random.Generator, index: int, firsts_ms: list[float], locked: bool) -> dict[str, Any]:
    model = int(rng.integers(0, len(firsts_ms)))
    period_ms = float(np.exp(rng.uniform(np.log(10), np.log(100))))
    return {
        "name": f"critical-{index}",
        "model": f"model-{model}",
        "class": "CRITICAL",
        "budget_ms": max(firsts_ms[model] * 1.2, period_ms * float(rng.uniform(0.4, 1.5))),
        "backlog": "ALL",
        "arrivals": {
            "kind": "periodic",
            "rate_hz": 1e3 / period_ms,
            "phase": 0.0 if locked else float(rng.uniform(0, period_ms * 0.999)),
        },
    }


def _admitted(
    simulate: dict[str, Any], tried: list[dict[str, Any]], best_effort: tuple[dict[str, Any], ...]
) -> tuple[dict[str, Any], ...]:
    """The streams that admission lets in, each asked for with the ones before it open."""
    scenario = {"name": "hard set", "duration_s": 1.0, "simulate": simulate}
    asked = build(parsed(scenario | {"stream": [*best_effort, *tried]}), 0)
    terms = [event.terms for _, event in asked.script if isinstance(event, StreamOpened)]
    scheduler = opened([step for step in asked.script if not isinstance(step[1], StreamOpened)])
    plans, lanes = scheduler.plans(), scheduler.lane_count()
    demands = [
        StreamDemand(index, each.model, each.stream_class, each.period_ns, each.budget_ns, backlog=each.backlog)
        for index, each in enumerate(terms)
    ]
    open_streams = demands[: len(best_effort)]
    accepted = []
    for stream, demand in zip(tried, demands[len(best_effort) :], strict=True):
        if admit(demand, open_streams, plans, lanes).accepted:
            open_streams.append(demand)
            accepted.append(stream)
    return tuple(accepted)
