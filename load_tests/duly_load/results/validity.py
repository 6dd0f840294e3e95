"""When a run must not be believed. A figure of a run that is invalid says nothing about the target.

- The generator was late: what it sent came in lumps that no schedule asked for. Its own lag is held against each
  frame's budget, since 2 ms are nothing to a budget of 500 ms and much to one of 10.
- A sender process had no time to spare: how long frames waited in it for the target can't be separated from how long
  they waited for the process itself.
- The target broke off: what it did with a part of the load is not what it does with all of it.
- The machine stood still, and with it sender and target alike (`duly_load.generator.stalls`).
- Somebody set the wall clock, by which targets count budgets and generators latencies.
- A sender process ended, or not one frame counts.

Frames without an answer, frames that a stream never took and streams that were refused are no fault of the run: they
are outcomes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import Ending, Record
from duly_load.scenario.schedule import Schedule

LATE_MAX = 0.01
"""The share of the frames with which the generator may be later than it is allowed to."""
STALLED_MAX = 0.1
"""The share of the time in which the machine may stand still."""
BUSY_MAX = 0.85
"""The share of one processor beyond which frames wait: Python runs one thread at a time."""
SET_BY_NS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Signs:
    """How sender and machine were while a run was on."""

    stalled: float = 0.0
    """See `LiveRun.stalled`."""
    busiest: float = 0.0
    """See `LiveRun.busiest`."""
    set_by_ns: int = 0
    """The time by which the wall clock went ahead of the monotonic one."""


def problems(
    planned: Schedule, record: Record, endings: Sequence[Ending], warm_ns: int, signs: Signs, lag_share: float
) -> list[str]:
    """Why the run is invalid, in words; none: it is valid. `lag_share`: the share of a frame's budget by which the
    generator may be late with it.
    """
    found = []
    counted = planned.frames.arrival_ns >= warm_ns
    if not counted.any():
        found.append("no frame counts: the scenario sends none after warm_s")
    sent = ~np.isin(record.outcome, (FrameOutcome.REFUSED, FrameOutcome.UNSENT)) & counted
    if sent.any():
        budgets_ns = planned.budgets_ns[planned.frames.stream_id[sent]]
        late = float(np.mean(record.lag_ns[sent] > lag_share * budgets_ns))
        if late > LATE_MAX:
            found.append(
                f"the generator was late: {late:.2%} of the frames were sent later after their time than "
                f"{lag_share:.1%} of their budget, {LATE_MAX:.2%} may be; send from more processes "
                "(--processes), from another machine, or less"
            )
    if signs.busiest > BUSY_MAX:
        found.append(
            f"a sender process was busy for {signs.busiest:.0%} of the time, {BUSY_MAX:.0%} may be: what it calls "
            "blocked may be its own doing; send from more processes (--processes)"
        )
    broken = [ending for ending in endings if not ending.refused]
    if broken:
        first = min(broken, key=lambda ending: ending.at_ns)
        found.append(
            f"the target broke off {len(broken)} stream(s), the first, {first.stream}, at {first.at_ns / 1e9:.2f} s: "
            f"{first.reason}"
        )
    if signs.stalled > STALLED_MAX:
        found.append(
            f"the machine stood still for {signs.stalled:.0%} of the time, {STALLED_MAX:.0%} may be; "
            "try again when it is quiet"
        )
    if abs(signs.set_by_ns) > SET_BY_NS_MAX:
        found.append(f"the wall clock was set during the run, by {signs.set_by_ns / 1e6:.1f} ms; try again")
    return found
