"""Row 13: a lane whose load alternates between idleness, single frames and backlog does at last what it did at first.

Single frames find the lane asleep and take several times as long as in a row; under backlog nothing but batches keeps
up. What is learnt of the one must not be held against the other: a server that did ran batches of one for good after a
dozen turns. Each turn is a third of idleness, a third of single frames and a third of a rate that takes batches of 16
three quarters of the lane, and single frames several lanes; budgets are long, so that what is not done in one third is
still there in the next.
"""

from statistics import median

import numpy as np
from numpy.typing import NDArray

from duly_load.scenario.scenario import Scenario
from duly_sim.baselines import POLICIES
from duly_sim.research.grid.cells import parsed
from duly_sim.research.grid.judge import Effort, Finding, Job, Measure, Row
from duly_sim.simulator.world import build

THIRD_S = 0.1
IDLE_HZ, SINGLE_HZ = 1.0, 800.0
LINES_MS = ((0.3, 0.01), (0.1, 0.03), (0.5, 0.1))
"""Batch times of the models that are tried: of one frame, and of each more."""
BATCH_MAX = 128
BUSY_SIZE, BUSY_LOAD = 16, 0.75
CALM, HICCUPS = 0.1, 0.02
"""The scatter of batch times: coefficient of variation, and the share that takes WILD times as long."""
WILD = 10.0
WAKE_MS = (0.2, 1.0)
LOOKED_AT = 10
"""The turns that count at the beginning, the first apart, and at the end."""
OF_FIRST_MIN = 0.95


def alternation(effort: Effort, measure: Measure) -> Row:
    cases = [(line, wake_ms) for line in LINES_MS for wake_ms in WAKE_MS]
    turns = effort.turns
    found = measure([Job(last_over_first, (*case, turns, seed)) for case in cases for seed in range(effort.seeds)])
    findings = tuple(
        Finding(
            "work done in the last ten turns over the first",
            OF_FIRST_MIN,
            True,
            tuple(found[index * effort.seeds : (index + 1) * effort.seeds]),
            f"{first_ms:g} + {next_ms:g} ms a frame, {wake_ms:g} ms to wake",
            every=True,
        )
        for index, ((first_ms, next_ms), wake_ms) in enumerate(cases)
    )
    least = min(findings, key=lambda finding: finding.judged)
    return Row(
        13,
        "alternating loads",
        f"{effort.seeds} seeds, {turns} turns: {THIRD_S:g} s of idleness, of single frames at {SINGLE_HZ:g}/s and of "
        f"backlog each; three models on the lane, one runs; {HICCUPS:.0%} of the batches take {WILD:g} times as long",
        (least,),
        findings,
    )


def last_over_first(line: tuple[float, float], wake_ms: float, turns: int, seed: int, load: float = BUSY_LOAD) -> float:
    """Frames that ended in the busy third of a turn over those that came then, the median of the last turns over that
    of the first.
    """
    world = build(_scenario(line, wake_ms, turns, load), seed)
    run = world.run(POLICIES["duly"]())
    ended = _in_busy_thirds(np.array(run.batches.ended_ns), np.array(run.batches.size), turns)
    came = _in_busy_thirds(run.frames.arrival_ns, np.ones(len(run.frames)), turns)
    done = ended / came
    return float(median(done[-LOOKED_AT:]) / median(done[1 : 1 + LOOKED_AT]))


def _in_busy_thirds(at_ns: NDArray[np.int64], weights: NDArray[np.float64], turns: int) -> NDArray[np.float64]:
    """For each turn, the sum of those weights that lie in its last third."""
    turn_ns = round(3 * THIRD_S * 1e9)
    busy = at_ns % turn_ns >= turn_ns * 2 // 3
    return np.bincount(at_ns[busy] // turn_ns, weights=weights[busy], minlength=turns)[:turns].astype(np.float64)


def _scenario(line: tuple[float, float], wake_ms: float, turns: int, load: float) -> Scenario:
    first_ms, next_ms = line
    busy_hz = load * BUSY_SIZE / (first_ms + next_ms * (BUSY_SIZE - 1)) * 1e3
    rates = (IDLE_HZ, SINGLE_HZ, busy_hz)
    steps = [
        {"at_s": (3 * turn + index) * THIRD_S, "factor": rate_hz / SINGLE_HZ}
        for turn in range(turns)
        for index, rate_hz in enumerate(rates)
    ]
    variants = [{"linear": {"first_ms": first_ms, "next_ms": next_ms}}]
    stream = {"name": "stream", "model": "model-0", "budget_ms": 10_000.0, "backlog": "ALL", "credit": 65_536}
    return parsed(
        {
            "name": "alternation",
            "duration_s": 3 * THIRD_S * turns,
            "simulate": {
                "noise": {
                    "cv": CALM,
                    "spike_probability": HICCUPS,
                    "spike_factor": WILD,
                    "wake_ms": wake_ms,
                    "wake_after_ms": first_ms / 2,
                },
                "lane": [{"name": "lane"}],
                "model": [
                    {"name": f"model-{index}", "batch_max": BATCH_MAX, "variants": variants} for index in range(3)
                ],
            },
            "load_step": steps,
            "stream": [stream | {"arrivals": {"kind": "poisson", "rate_hz": SINGLE_HZ}}],
        }
    )
