"""What the pictures show, computed from plain arrays of one run: rates over time, tails, ages, a window to look into.

Times are int64 ns. A status is the number of a `FrameOutcome`. Frames of one run are arrays of the same length,
of any order; each function takes empty arrays. What comes back is small enough to be drawn: at most about `BINS_MAX`
bins and `POINTS_MAX` points, however long the run was.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from duly_load.results.ages import Ages, age_quantiles_ns
from duly_load.results.outcomes import FrameOutcome

BINS_MAX = 120
BIN_FRAMES = 10
"""Bins are so wide that they hold this many frames on average: narrower ones show only chance."""
POINTS_MAX = 200
TAIL = 1e-4
"""Tails are drawn down to one in so many: the 99.99th percentile."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Statuses = NDArray[np.int8]

MISSED = (
    FrameOutcome.LATE,
    FrameOutcome.EXPIRED,
    FrameOutcome.SHED,
    FrameOutcome.FAILED,
    FrameOutcome.REFUSED,
    FrameOutcome.UNANSWERED,
    FrameOutcome.UNSENT,
)
"""What a frame's owner did not want; a superseded or cancelled frame ended as its stream asked."""


def bin_edges(start_ns: int, end_ns: int, frames: int) -> Ints:
    """Edges of equal bins from start to end, their width near 1, 2 or 5 times a power of ten; at least one bin."""
    span_ns = end_ns - start_ns
    wanted = min(BINS_MAX, max(1, frames // BIN_FRAMES))
    magnitude = 10.0 ** np.floor(np.log10(span_ns / wanted))
    width_ns = next(magnitude * step for step in (1, 2, 5, 10, 20) if span_ns / (magnitude * step) <= wanted)
    return np.linspace(start_ns, end_ns, max(1, round(span_ns / width_ns)) + 1).astype(np.int64)


def rates_by_status(arrival_ns: Ints, status: Statuses, edges_ns: Ints) -> dict[FrameOutcome, Floats]:
    """Frames per second by how they ended, in each bin of arrival. Statuses that did not occur are left out."""
    seconds = np.diff(edges_ns) / 1e9
    return {
        outcome: np.histogram(arrival_ns[status == outcome], edges_ns)[0] / seconds
        for outcome in FrameOutcome
        if np.any(status == outcome)
    }


def percentiles_over_time(at_ns: Ints, values: Floats, edges_ns: Ints, percentile: float) -> tuple[Floats, Floats]:
    """(middle of the bin in s, percentile of the values in it), for all bins; NaN where a bin has no values."""
    order = np.argsort(at_ns, kind="stable")
    cuts = np.searchsorted(at_ns[order], edges_ns)
    bins = [values[order[first:last]] for first, last in pairwise(cuts.tolist())]
    found = np.array([np.percentile(each, percentile) if len(each) else np.nan for each in bins])
    return (edges_ns[:-1] + edges_ns[1:]) / 2e9, found


def upper_tail(values: Floats) -> tuple[Floats, Floats]:
    """(value, share of all values that are at least that), from the least value to the top `TAIL` or the greatest.

    Every point is a value that occurred with its exact share, nothing is interpolated.
    """
    count = len(values)
    if not count:
        return np.empty(0), np.empty(0)
    above = np.unique(np.rint(np.geomspace(max(1.0, count * TAIL), count, POINTS_MAX)).astype(np.int64))[::-1]
    return np.sort(values)[count - above].astype(np.float64), above / count


def lower_tail(values: Floats) -> tuple[Floats, Floats]:
    """(value, share of all values that are at most that), from the greatest value down."""
    mirrored, shares = upper_tail(-values)
    return -mirrored, shares


def ranked(ratios: Floats) -> tuple[Floats, Floats]:
    """(share of all that are worse or equal, ratio), the worst first.

    Of more than `POINTS_MAX` ratios evenly spaced ranks are given, the worst and the best among them.
    """
    count = len(ratios)
    ranks = np.unique(np.linspace(0, count - 1, min(count, POINTS_MAX)).astype(np.int64))
    return (ranks + 1) / max(1, count), np.sort(ratios)[ranks]


def age_tail(ages: Ages) -> tuple[Floats, Floats]:
    """(age in ns, share of the time of all streams in which the newest result held is at least that old)."""
    if not len(ages.from_ns):
        return np.empty(0), np.empty(0)
    shares = np.geomspace(1, TAIL, POINTS_MAX)
    return age_quantiles_ns(ages.from_ns, ages.to_ns, 1 - shares), shares


def busiest_ns(arrival_ns: Ints, start_ns: int, end_ns: int, window_ns: int) -> int:
    """Start of the window, of those that follow each other from `start_ns` on, in which most frames arrive."""
    edges = np.arange(start_ns, max(end_ns, start_ns + 1) + window_ns, window_ns)
    return int(edges[np.argmax(np.histogram(arrival_ns, edges)[0])])
