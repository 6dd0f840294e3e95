"""The mean of scores of frames, and between what it truly lies as far as so few frames can tell.

Scores that are 0 or 1 get Wilson's interval (Wilson, J. Am. Stat. Assoc. 22, 1927), which knows that 60 hits of 60
frames are not certainty; others get Student's, cut off at 0 and 1. Both take frames as independent of one another.
Neighbours of one recording are not, so that the true interval is rather wider.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, pi, sqrt, tan
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of `count` scores, and the ends of its confidence interval."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} ({self.low:.4f} to {self.high:.4f}, {self.count} frames)"


def interval(scores: Sequence[float], confidence: float = 0.95) -> Interval:
    """Returns mean and two-sided confidence interval of scores in 0..1. Raises ValueError where there is none."""
    values = np.asarray(scores, np.float64)
    count = len(values)
    if not count:
        raise ValueError("there is no score to take a mean of")
    mean = float(values.mean())
    if np.isin(values, (0.0, 1.0)).all():
        return _wilson(mean, count, confidence)
    if count == 1:
        return Interval(mean, 0.0, 1.0, 1)
    half = _student((1 + confidence) / 2, count - 1) * float(values.std(ddof=1)) / sqrt(count)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), count)


def frames_needed(low: float, confidence: float = 0.95) -> int:
    """Returns how many frames must agree, all of them, for the lower end of Wilson's interval to reach `low`, which is
    below 1.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return ceil(z * z * low / (1 - low))


def _wilson(mean: float, count: int, confidence: float) -> Interval:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
    return Interval(mean, max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean)), count)


def _student(p: float, degrees: int) -> float:
    """The quantile of Student's distribution: exact for one and two degrees of freedom, else by Hill's expansion to the
    fourth order (Abramowitz and Stegun 26.7.5), which is off by less than 1 % at p = 0.975.
    """
    if degrees == 1:
        return tan(pi * (p - 0.5))
    if degrees == 2:
        return (2 * p - 1) / sqrt(2 * p * (1 - p))
    x = NormalDist().inv_cdf(p)
    terms = (
        x,
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return float(sum(term / degrees**order for order, term in enumerate(terms)))
