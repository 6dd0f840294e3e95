"""Row 12: random loads, as the tables of one GPU say little about another machine's models.

A load: one to four lanes; one to six models whose batch times are lines of any slope, from batches that cost next to
nothing more to ones that save next to nothing; budgets of 1.2 to 12 single runs; periodic, Poisson or bursty arrivals;
calm or noisy times, some with spikes; half to two and a half times of what full batches could serve. All streams are
STANDARD and want every frame, since the others know neither classes nor backlogs.

Each load is served by the scheduler and by the baselines, these with the settings that they come with. Judged is
goodput over that of each, and over that of whichever did best in hindsight. Nobody is best at every load: some give up
whole streams for the most frames, which fairness here does not.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from duly.core.types import OutcomeStatus
from duly_sim.baselines import POLICIES
from duly_sim.research.grid.cells import parsed
from duly_sim.research.grid.judge import Effort, Finding, Job, Measure, Row
from duly_sim.simulator.world import build

RIVALS = ("edf_window", "nexus", "clockwork", "symphony")
FRAMES = 4000
SECONDS = (2.0, 60.0)
"""A load lasts as long as gives it FRAMES, within these."""
GOODPUT_MIN = 1e-3
"""On-time ratios below count as this much, so that ratios of them stay finite."""


def random_loads(effort: Effort, measure: Measure) -> Row:
    found = measure([Job(on_time, (seed,)) for seed in range(effort.random_loads)])
    over = {name: _geometric_mean([_ratio(each, (name,)) for each in found]) for name in RIVALS}
    rival = min(over, key=over.__getitem__)
    ratios = [_ratio(each, RIVALS) for each in found]
    least = min(range(len(ratios)), key=ratios.__getitem__)
    near = sum(ratio >= 0.98 for ratio in ratios) / len(ratios)
    return Row(
        12,
        "random loads",
        f"{effort.random_loads} loads of about {FRAMES:,} frames, against {', '.join(RIVALS)}; means are geometric",
        (
            Finding("goodput over that of any one other, mean", 1.05, True, (over[rival],), rival),
            Finding("goodput over the best of four at each load, mean", 0.98, True, (_geometric_mean(ratios),)),
            Finding("goodput over the best of four, at any load", 0.7, True, (ratios[least],), f"load {least}"),
        ),
        notes=(
            f"at least 0.98 of the best of four at {near:.0%} of the loads",
            "over each: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in over.items()),
        ),
    )


def _geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))


def _ratio(found: dict[str, float], rivals: Sequence[str]) -> float:
    best = max(found[name] for name in rivals)
    return max(found["duly"], GOODPUT_MIN) / max(best, GOODPUT_MIN)


def on_time(seed: int) -> dict[str, float]:
    """On-time ratio by policy, of the load that is drawn from `seed`."""
    scenario = draw_load(np.random.default_rng([seed, 0x10AD]))
    ratios = {}
    for name in ("duly", *RIVALS):
        run = build(parsed(scenario), seed).run(POLICIES[name]())
        ratios[name] = float((run.status == OutcomeStatus.ON_TIME).mean())
    return ratios


def draw_load(rng: np.random.Generator) -> dict[str, Any]:
    """The scenario, as its TOML file would hold it."""
    lanes, count = int(rng.choice([1, 1, 1, 2, 4])), int(rng.choice([1, 1, 2, 3, 6]))
    models, budgets_ms, lane_s = [], [], 0.0
    for index in range(count):
        first_ms = float(10 ** rng.uniform(0.2, 1.4))
        next_ms = first_ms * float(rng.choice([0.05, 0.1, 0.2, 0.4, 0.7, 0.95]))
        batch_max = int(rng.choice([1, 4, 8, 16, 32]))
        linear = {"first_ms": first_ms, "next_ms": next_ms}
        models.append({"name": f"model-{index}", "batch_max": batch_max, "variants": [{"linear": linear}]})
        budgets_ms.append(first_ms * float(rng.uniform(2, 12)) * float(rng.choice([1, 1, 0.6])))
        lane_s += (first_ms + next_ms * (batch_max - 1)) / batch_max / 1e3
    load = float(rng.choice([0.5, 0.8, 0.95, 1.05, 1.3, 1.8, 2.5]))
    rate_hz = load * lanes / lane_s  # of each model: full batches of all in turn take lane_s a frame of each
    streams = []
    for model, budget_ms in zip(models, budgets_ms, strict=True):
        number = int(rng.choice([1, 2, 4, 8]))
        stream = {"name": f"of-{model['name']}", "model": model["name"], "count": number, "budget_ms": budget_ms}
        streams.append(stream | {"backlog": "ALL", "credit": 65_536, "arrivals": _arrivals(rng, rate_hz / number)})
    noise = {"cv": float(rng.choice([0.01, 0.03, 0.08, 0.2]))}
    if rng.random() < 0.25:
        noise |= {"spike_probability": float(rng.choice([0.005, 0.02])), "spike_factor": float(rng.choice([3, 8]))}
    return {
        "name": "random load",
        "duration_s": min(max(FRAMES / (rate_hz * count), SECONDS[0]), SECONDS[1]),
        "simulate": {"noise": noise, "lane": [{"name": "lane", "count": lanes}], "model": models},
        "stream": streams,
    }


def _arrivals(rng: np.random.Generator, rate_hz: float) -> dict[str, Any]:
    kind = str(rng.choice(["periodic", "periodic", "poisson", "gamma"]))
    if kind == "periodic":
        return {"kind": kind, "rate_hz": rate_hz, "jitter_ms": float(rng.choice([0, 1])), "drift_ppm": 50}
    if kind == "gamma":
        return {"kind": kind, "rate_hz": rate_hz, "cv": float(rng.choice([2, 4]))}
    return {"kind": kind, "rate_hz": rate_hz}
