"""The cells that policies are measured in, and how much load a policy can carry there.

A cell is lanes, models, a kind of arrivals and a table of batch times. Its capacity for a policy is the rate at which
99 % of the frames are still on time. The arrivals of a seed are one unit process seen through the rate (see
`duly_load.scenario.arrivals`), so that runs of one seed at different rates, and of different policies, differ in
nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np

from duly.core.types import OutcomeStatus
from duly_load.scenario.scenario import Scenario, parse_scenario
from duly_load.scenario.simulate import TABLES_MS, times_ns
from duly_sim.baselines import TUNINGS
from duly_sim.baselines.profile import Estimate
from duly_sim.simulator.engine import Policy, Run
from duly_sim.simulator.world import World, build

BATCH_MAX = 32
STREAMS_PER_MODEL = 8
BUDGET_MS = 15.0
NOISE_CV = 0.02
WARM_S = 0.2
"""Frames of the first so many seconds do not count: lanes start empty."""
ON_TIME_RATIO_MIN = 0.99
"""The on-time ratio at which a capacity is measured."""
SECONDS_MIN = 1.0
"""The least duration of a run: in a shorter one bursts of tenths of a second would not show."""
SEARCH_STEPS_MAX = 30

ArrivalKind = Literal["poisson", "periodic", "mmpp"]
TableName = Literal["t4_resnet50", "a100_resnet50"]

ARRIVALS: dict[ArrivalKind, dict[str, Any]] = {
    "poisson": {},
    "periodic": {"drift_ppm": 50},
    # A fifth of the time a stream sends four times as often, for a tenth of a second on average.
    "mmpp": {"rates": [1, 4], "dwell_s": [0.4, 0.1]},
}


@dataclass(frozen=True, slots=True)
class Cell:
    lanes: int
    models: int
    arrivals: ArrivalKind = "poisson"
    table: TableName = "t4_resnet50"

    @property
    def name(self) -> str:
        return (
            f"{self.lanes} lane{'s' * (self.lanes > 1)}, {self.models} model{'s' * (self.models > 1)}, "
            f"{self.arrivals}, {self.table.partition('_')[0].upper()}"
        )

    @property
    def table_ms(self) -> dict[int, float]:
        return TABLES_MS[self.table]

    @property
    def guess_hz(self) -> float:
        """Where a search for the capacity may begin."""
        filled = 8 / self.table_ms[8] if self.models < 4 else 4 / self.table_ms[4]
        return self.lanes * filled * 800


def content(cell: Cell, seconds: float, noise_cv: float = NOISE_CV) -> dict[str, Any]:
    """A scenario without streams, as its TOML file would have it; lasts `seconds` after the warm-up."""
    return {
        "name": cell.name,
        "duration_s": WARM_S + seconds,
        "warm_s": WARM_S,
        "simulate": {
            "noise": {"cv": noise_cv},
            "lane": [{"name": "lane", "count": cell.lanes}],
            "model": [
                {"name": f"model-{index}", "batch_max": BATCH_MAX, "variants": [{"table": cell.table}]}
                for index in range(cell.models)
            ],
        },
    }


def streams(cell: Cell, rate_hz: float) -> list[dict[str, Any]]:
    """`rate_hz` frames/s in all, in eight STANDARD streams a model with backlog ALL and a budget of 15 ms."""
    return [
        {
            "name": f"stream-{index}",
            "count": STREAMS_PER_MODEL,
            "model": f"model-{index}",
            "budget_ms": BUDGET_MS,
            "backlog": "ALL",
            "credit": 65_536,
            "arrivals": {
                "kind": cell.arrivals,
                "rate_hz": rate_hz / (STREAMS_PER_MODEL * cell.models),
                **ARRIVALS[cell.arrivals],
            },
        }
        for index in range(cell.models)
    ]


def scenario(cell: Cell, rate_hz: float, seconds: float, noise_cv: float = NOISE_CV) -> Scenario:
    """The cell under load by `streams`."""
    return parsed(content(cell, seconds, noise_cv) | {"stream": streams(cell, rate_hz)})


def parsed(table: dict[str, Any]) -> Scenario:
    return parse_scenario(table, "grid", Path())


def tuned(policy: str, tuning: int) -> Policy:
    """A policy in its first state, with the setting of that place in `TUNINGS`."""
    return TUNINGS[policy][tuning]()


def tuning_name(policy: str, tuning: int) -> str:
    """The policy and what is set, as in `clockwork(batch_max=8, buffer_ns=0)`."""
    settings = getattr(TUNINGS[policy][tuning], "keywords", {})
    return f"{policy}({', '.join(f'{key}={_told(value)}' for key, value in settings.items())})" if settings else policy


def _told(value: object) -> str:
    if isinstance(value, Estimate):
        known = "mean" if value.percentile is None else f"p{value.percentile}"
        return f"{known} + {value.margin_percent} %"
    return str(value.value) if isinstance(value, Enum) else str(value)


def on_time_ratio(world: World, run: Run) -> float:
    """The on-time ratio of the frames that arrived after the warm-up."""
    counted = run.status[run.frames.arrival_ns >= world.scenario.warm_s * 1e9]
    return float(np.mean(counted == OutcomeStatus.ON_TIME)) if len(counted) else 1.0


def ratio_at(cell: Cell, policy: str, tuning: int, seed: int, rate_hz: float, seconds: float) -> float:
    """On-time ratio of one run."""
    world = build(scenario(cell, rate_hz, seconds), seed)
    return on_time_ratio(world, world.run(tuned(policy, tuning)))


def seconds_for(frames: int, rate_hz: float, seconds_max: float) -> float:
    """How long a run of about so many frames lasts, from `SECONDS_MIN` to `seconds_max`."""
    return min(seconds_max, max(SECONDS_MIN, frames / rate_hz))


def crossing_hz(ratio_of: Callable[[float], float], guess_hz: float, step: float, width: float) -> float:
    """The rate at which the on-time ratio falls through 99 %, on a straight line between two rates `width` apart.

    `ratio_of` says the ratio at a rate. From `guess_hz` on rates change by the factor `step` until the two lie on
    either side, then the span is halved. Where 30 steps do not lead there, the last rate tried.
    """
    rate_hz, ratio = guess_hz, ratio_of(guess_hz)
    enough = ratio >= ON_TIME_RATIO_MIN
    for _ in range(SEARCH_STEPS_MAX):
        next_hz = rate_hz * step if enough else rate_hz / step
        next_ratio = ratio_of(next_hz)
        if (next_ratio >= ON_TIME_RATIO_MIN) != enough:
            break
        rate_hz, ratio = next_hz, next_ratio
    else:
        return rate_hz
    (low_hz, low), (high_hz, high) = sorted([(rate_hz, ratio), (next_hz, next_ratio)])
    while high_hz > low_hz * width:
        middle_hz = (low_hz * high_hz) ** 0.5
        middle = ratio_of(middle_hz)
        if middle >= ON_TIME_RATIO_MIN:
            low_hz, low = middle_hz, middle
        else:
            high_hz, high = middle_hz, middle
    return low_hz + (high_hz - low_hz) * (low - ON_TIME_RATIO_MIN) / (low - high)


def capacity_hz(
    cell: Cell,
    policy: str,
    tuning: int,
    seed: int,
    guess_hz: float,
    frames: int,
    seconds_max: float,
    step: float = 1.2,
    width: float = 1.02,
) -> float:
    """Capacity of a policy by runs of about `frames` frames, but no longer than `seconds_max`."""
    seconds = seconds_for(frames, guess_hz, seconds_max)
    return crossing_hz(lambda rate_hz: ratio_at(cell, policy, tuning, seed, rate_hz, seconds), guess_hz, step, width)


def reference_hz(cell: Cell, frames: int) -> float:
    """Capacity of the scheduler on short runs, which loads of other rows are multiples of."""
    return capacity_hz(cell, "duly", 0, 0, cell.guess_hz, frames, 60.0)


def times_of(cell: Cell) -> tuple[int, ...]:
    """Mean times of batches of 1, 2, ..., ns."""
    return times_ns(cell.table_ms, BATCH_MAX)
