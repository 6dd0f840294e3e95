"""The stretch of time within which lanes are shown: batches are milliseconds, runs are minutes."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from duly_load.report.series import Floats, Ints, Statuses
from duly_load.results.outcomes import FrameOutcome

WINDOWS_NS = tuple(step * 100_000 for step in (2000, 1000, 500, 200, 100, 50, 20, 10, 5, 2, 1))
"""The lanes are shown for the longest of these in which their batches are wide enough to be read."""
BEFORE_PERCENT = 30
"""Share of the window that lies before the moment that it is shown for."""
BATCHES_MAX = 80
"""Of one lane, within the window."""
TICKS_MAX = 1000
"""Places within the window at which frames that never ran are marked; more would lie on the same pixels."""


def window_ns(at_ns: int, start_ns: int, readable: Callable[[int, int], bool]) -> tuple[int, int]:
    """(start, width) of the window round `at_ns`, not before `start_ns`. `readable(start, width)` says if one is."""
    windows = [(max(start_ns, at_ns - width_ns * BEFORE_PERCENT // 100), width_ns) for width_ns in WINDOWS_NS]
    return next((window for window in windows if readable(*window)), windows[-1])


def given_up_ms(
    resolved_ns: Ints, outcome: Statuses, chosen: NDArray[np.bool_], start_ns: int, width_ns: int
) -> dict[FrameOutcome, Floats]:
    """When the chosen frames were given up, ms from the start of the window, by how they ended; each time once."""
    tick_ns = width_ns // TICKS_MAX
    within = chosen & (resolved_ns >= start_ns) & (resolved_ns < start_ns + width_ns)
    return {
        each: np.unique((resolved_ns[within & (outcome == each)] - start_ns) // tick_ns) * tick_ns / 1e6
        for each in FrameOutcome
        if np.any(within & (outcome == each))
    }


def span(span_ns: int) -> str:
    """For people."""
    return f"{span_ns / 1e9:.4g} s" if span_ns >= 1_000_000_000 else f"{span_ns / 1e6:.4g} ms"


def ms(curve: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """A curve over ns as one over ms."""
    return curve[0] / 1e6, curve[1]
