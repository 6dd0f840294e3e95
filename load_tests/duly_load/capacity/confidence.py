"""How sure a share of frames on time is, when frames that wait together are late together.

Theory of operation. A run of thousands of frames is not thousands of independent trials: one stall, one long queue, and
a whole second of frames is late. So a run is cut into windows of a second, and the windows are what varies (batch
means; Law, Simulation Modeling and Analysis, 9.5.3). The ratio estimator's variance over windows, against that of as
many independent frames, is the design effect, and frames over design effect are the effective sample size (Kish 1965;
Korn and Graubard, Survey Methodology 24, 1998, whose correction for few windows is taken over, too). Windows of 2 s and
4 s are tried as well and the worst counts, for queues that outlast a second.

Bounds of the ratio come from that size by Chernoff's inequality in Hoeffding's form (JASA 58, 1963, theorem 1): true
for any sample, not only for large ones, and equal to the exact binomial's where nothing was late, which is MLPerf's
minimum: at 99 % and a confidence of 0.99 that is 459 frames, all of them on time.

What it does not know: trouble that comes more seldom than a search is long, and a design effect where nothing or next
to nothing was late; there `Rule.design_effect_min` stands in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

WIDTHS = (1, 2, 4)
"""Widths of windows, in seconds, that are tried for the design effect."""
WINDOWS_MIN = 8
"""A width that makes fewer windows says nothing."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Frames of one run by windows of a second: arrays of the same length."""

    sent: Ints
    on_time: Ints

    @property
    def ratio(self) -> float:
        """0 where nothing was sent."""
        return float(self.on_time.sum() / max(1, self.sent.sum()))


@dataclass(frozen=True, slots=True)
class Rule:
    """When a load counts as held."""

    ratio: float
    """The share of the sent frames that shall be on time."""
    error_max: float
    """The largest probability that a verdict is wrong."""
    design_effect_min: float
    """At least this many frames count as one. 1: they are independent."""

    @property
    def frames_min(self) -> int:
        """Fewer frames can't show that a load is held, even if all of them are on time."""
        return math.ceil(math.log(self.error_max) / math.log(self.ratio) * self.design_effect_min)


class Finding(Enum):
    HELD = "held"
    FAILED = "failed"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of frames and what is known of it: each bound is wrong with `Rule.error_max` at most."""

    ratio: float
    low: float
    high: float
    frames: int
    effective: float
    """The number of independent frames that would say as much."""

    def finding(self, rule: Rule) -> Finding:
        if self.low >= rule.ratio:
            return Finding.HELD
        return Finding.FAILED if self.high < rule.ratio else Finding.UNDECIDED


def estimate(runs: Sequence[Counts], rule: Rule) -> Estimate:
    """Estimates the share of frames on time in all runs together."""
    frames = sum(int(run.sent.sum()) for run in runs)
    if not frames:
        return Estimate(0.0, 0.0, 1.0, 0, 0.0)
    ratio = sum(int(run.on_time.sum()) for run in runs) / frames
    effective = frames / max(rule.design_effect_min, *(_design_effect(runs, width, rule) for width in WIDTHS))
    reach = -math.log(rule.error_max) / effective
    return Estimate(ratio, _bound(ratio, 0.0, reach), _bound(ratio, 1.0, reach), frames, effective)


def _design_effect(runs: Sequence[Counts], width: int, rule: Rule) -> float:
    """0 where there are too few windows to say."""
    sent = np.concatenate([_widened(run.sent, width) for run in runs]).astype(np.float64)
    on_time = np.concatenate([_widened(run.on_time, width) for run in runs]).astype(np.float64)
    windows, frames = len(sent), sent.sum()
    if windows < WINDOWS_MIN or not frames:
        return 0.0
    ratio = on_time.sum() / frames
    independent = ratio * (1 - ratio) / frames
    if not independent:
        return 0.0
    variance = windows / (windows - 1) * np.sum((on_time - ratio * sent) ** 2) / frames**2
    return float(variance / independent) * _few_windows(windows - 1, rule.error_max)


def _few_windows(freedom: int, error: float) -> float:
    """Student's quantile over the normal one, squared: the variance itself is only an estimate. Korn and Graubard 1998;
    the quantile is Abramowitz and Stegun's 26.7.5.
    """
    z = -NormalDist().inv_cdf(error)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return (t / z) ** 2


def _widened(counts: Ints, width: int) -> Ints:
    """Windows of `width` seconds; what does not fill one at the end is left out."""
    whole = len(counts) // width * width
    widened: Ints = counts[:whole].reshape(-1, width).sum(axis=1)
    return widened


def _bound(ratio: float, end: float, reach: float) -> float:
    """The ratio nearest to `end` (0 or 1) whose divergence from the measured one is `reach`."""
    inside, outside = ratio, end
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if _divergence(ratio, middle) <= reach else (inside, middle)
    return inside


def _divergence(measured: float, true: float) -> float:
    """Kullback and Leibler's, of two coins."""
    total = 0.0
    for here, there in ((measured, true), (1 - measured, 1 - true)):
        if here:
            total += math.inf if not there else here * math.log(here / there)
    return total
