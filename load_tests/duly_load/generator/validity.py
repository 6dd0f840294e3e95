"""When a run must not be believed. A figure of a run that is invalid says nothing about the target.

- The generator was late: what it sent came in lumps that no schedule asked for. Its own lag is held against each
  frame's budget, since 2 ms are nothing to a budget of 500 ms and much to one of 10.
- The target broke off: what it did with a part of the load is not what it does with all of it.
- The machine stood still, and with it sender and target alike (`duly_load.stalls`).
- A sender process ended, or not one frame counts.

Frames without an answer and streams that were refused are no fault of the run: they are outcomes.
"""

from collections.abc import Sequence

import numpy as np

from duly_load.generator.record import Ending, Record
from duly_load.outcomes import FrameOutcome
from duly_load.schedule import Schedule

STALLED_MAX = 0.1
"""Share of the time."""


def problems(
    planned: Schedule, record: Record, endings: Sequence[Ending], stalled: float, warm_ns: int, lag_share: float
) -> list[str]:
    """Why the run is invalid, in words; none: it is valid. `lag_share`: of its budget that a frame may be sent late."""
    found = []
    counted = planned.frames.arrival_ns >= warm_ns
    if not counted.any():
        found.append("no frame counts: the scenario sends none after warm_s")
    sent = ~np.isin(record.outcome, (FrameOutcome.REFUSED, FrameOutcome.UNSENT)) & counted
    if sent.any():
        budgets_ns = planned.budgets_ns[planned.frames.stream_id[sent]]
        share = float(np.quantile(record.lag_ns[sent] / budgets_ns, 0.99))
        if share > lag_share:
            lag_ms = float(np.quantile(record.lag_ns[sent], 0.99)) / 1e6
            found.append(
                f"the generator was late: 1 % of the frames were sent {lag_ms:.2f} ms or more after their time, "
                f"{share:.1%} of their budget, where {lag_share:.1%} may be; send from more processes (--processes), "
                "from another machine, or less"
            )
    broken = [ending for ending in endings if not ending.refused]
    if broken:
        first = min(broken, key=lambda ending: ending.at_ns)
        found.append(
            f"the target broke off {len(broken)} stream(s), the first, {first.stream}, at {first.at_ns / 1e9:.2f} s: "
            f"{first.reason}"
        )
    unsent = int((record.outcome == FrameOutcome.UNSENT).sum())
    if unsent and not broken:
        found.append(f"{unsent} frames could not be sent: the target took no more of what their streams sent before")
    if stalled > STALLED_MAX:
        found.append(
            f"the machine stood still for {stalled:.0%} of the time, {STALLED_MAX:.0%} may be; "
            "try again when it is quiet"
        )
    return found
