"""Does a series grow? The verdict on memory, descriptors and threads over hours.

Theory of operation. The slope is Theil and Sen's: the median of the slopes between all pairs of points. A quarter of
them may be anything at all without spoiling it, as they are when a worker restarts or garbage is collected. Its
confidence interval is Sen's, from the spread of Kendall's S under no trend. That spread holds for points that are
independent; memory is not, it stays where it was for a while, so it is widened by the autocorrelation of the points'
ranks round the slope, as Hamed and Rao do. Without this a series that wanders is found to grow all the time.

A slope that is not zero is no leak yet: with enough points a growth of 3 KB an hour is certain, and nobody cares. So
there is a limit that somebody would, and the verdict is about that: the whole interval beyond it, the series grows; the
whole interval below it, it does not; else the soak was too short to say.

Sources: P. K. Sen, Estimates of the regression coefficient based on Kendall's tau, JASA 63 (1968); K. H. Hamed and
A. R. Rao, A modified Mann-Kendall trend test for autocorrelated data, J. Hydrology 204 (1998).
Out of scope: growth that levels off. A cache that fills for hours grows by this rule; only the picture shows that it is
no leak.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.99
"""One series in two hundred that does not grow is found to: a soak has a dozen."""
POINTS_MIN = 10
"""Fewer have no slope: the normal approximation of S needs about as many."""
SPAN_S_MIN = 600.0
"""A shorter series has a slope and no verdict: nobody knows from ten minutes what an hour brings."""
POINTS_MAX = 800
"""More are joined, neighbours by their median: all pairs of them are held at once."""

Floats = NDArray[np.float64]


class Verdict(StrEnum):
    GROWS = "grows"
    DOES_NOT_GROW = "does not grow"
    TOO_SHORT = "too short to say"


@dataclass(frozen=True, slots=True)
class Trend:
    """How fast a series grows, an hour, in the unit of its values."""

    verdict: Verdict
    limit_per_h: float
    """The growth that somebody would care about."""
    per_h: float | None = None
    """The slope; None: there are too few points for one."""
    low_per_h: float | None = None
    high_per_h: float | None = None
    """The ends of the confidence interval of the slope."""


def trend(at_s: Floats, values: Floats, limit_per_h: float) -> Trend:
    """The trend of a series, `at_s` in rising order. Values that are NaN are left out."""
    there = np.isfinite(values)
    at_h, values = _joined(at_s[there] / 3600), _joined(values[there])
    if len(values) < POINTS_MIN:
        return Trend(Verdict.TOO_SHORT, limit_per_h)
    first, second = np.triu_indices(len(values), 1)
    slopes = np.sort((values[second] - values[first]) / (at_h[second] - at_h[first]))
    per_h = float(np.median(slopes))
    low, high = _interval(slopes, _spread(values, values - per_h * at_h))
    if (at_h[-1] - at_h[0]) * 3600 < SPAN_S_MIN:
        verdict = Verdict.TOO_SHORT
    elif low > limit_per_h:
        verdict = Verdict.GROWS
    else:
        verdict = Verdict.DOES_NOT_GROW if high < limit_per_h else Verdict.TOO_SHORT
    return Trend(verdict, limit_per_h, per_h, low, high)


def _joined(values: Floats) -> Floats:
    """At most POINTS_MAX points, each the median of its neighbours."""
    each = math.ceil(len(values) / POINTS_MAX)
    if each <= 1:
        return values
    return np.array([np.median(values[start : start + each]) for start in range(0, len(values), each)])


def _spread(values: Floats, level: Floats) -> float:
    """Standard deviation of Kendall's S under no trend; `level`: the values less their trend."""
    count = len(values)
    _, ties = np.unique(values, return_counts=True)
    variance = (count * (count - 1) * (2 * count + 5) - float(np.sum(ties * (ties - 1) * (2 * ties + 5)))) / 18
    return math.sqrt(max(0.0, variance) * _correction(level))


def _correction(level: Floats) -> float:
    """The factor by which autocorrelation widens the variance of S; 1 where there is none."""
    count = len(level)
    ranks = _ranks(level)
    ranks -= ranks.mean()
    power = float(ranks @ ranks)
    if not power:
        return 1.0
    lags = np.arange(1, count // 2)
    correlations = np.array([float(ranks[lag:] @ ranks[:-lag]) for lag in lags]) / power
    # Up to the first lag that has none: there the series has forgotten itself, and what follows is chance.
    forgotten = np.flatnonzero(correlations <= 0)
    kept = slice(0, int(forgotten[0]) if len(forgotten) else len(lags))
    weights = (count - lags) * (count - lags - 1) * (count - lags - 2)
    total = float((weights * correlations)[kept].sum())
    return 1 + 2 * total / (count * (count - 1) * (count - 2))


def _ranks(values: Floats) -> Floats:
    """The ranks, counted from 1; equal values share the mean of their ranks."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[where].astype(np.float64)


def _interval(slopes: Floats, spread: float) -> tuple[float, float]:
    """Sen's: as many slopes from either end as S may lie from zero."""
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * spread
    low = math.floor((len(slopes) - reach) / 2)
    high = math.ceil((len(slopes) + reach) / 2)
    # Where S may lie further than there are slopes, they bound nothing.
    return (
        float(slopes[low]) if low >= 0 else -math.inf,
        float(slopes[high]) if high < len(slopes) else math.inf,
    )
