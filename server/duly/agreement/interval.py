"""The mean of scores of frames, and between what it truly lies as far as so few frames can tell.

Theory. If the mean of independent values in [0, 1] is at most m, the product of 1 + f (x - m) / m over them, for any f
of 0 to 1 chosen beforehand, has an expectation of at most 1, as has any mean of such products; so it reaches 1/risk
with a chance of at most `risk` (Markov's inequality). The lower end is the largest m that is refuted so, the upper end
the same of what is left to 1: the betting interval of Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting" (JRSS B, 2024), with fixed stakes. It holds for scores of any shape, for few of them, and where
nearly all are 1 and some are 0, which Student's does not. No score that grows lowers an end.

Neighbours of one recording are not independent of one another. Where so many in a row count as one (`alike`), the
product is taken to the power of 1 / so many: it is then the geometric mean of as many products, each over scores that
lie so far apart, and no larger than their mean, to which Markov's inequality applies as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt

STAKES = np.array([1.0, 1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 0.4, 0.55, 0.7, 0.85, 0.97])
"""Small ones suit scores that vary, large ones those that are nearly alike."""
SHARES = np.array([1 / 2] + [1 / 22] * 11)
"""How much is bet with each. Half of all suits scores that are all 1, of which the most is asked."""
BISECTIONS = 30
SCORES_MAX = 1_000_000
"""No larger number of scores is asked for."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of `count` scores, and the ends of its confidence interval."""

    mean: float
    low: float
    high: float
    count: int
    alike: float = 1.0
    """So many of them, in a row, were counted as one."""

    @property
    def worth(self) -> int:
        """As how many independent scores they count."""
        return max(1, round(self.count / self.alike))

    def __str__(self) -> str:
        counted = f" that count as {self.worth}" if self.worth < self.count else ""
        return f"{self.mean:.4f} ({self.low:.4f} to {self.high:.4f}, {self.count} frames{counted})"


def interval(scores: Sequence[float], confidence: float = 0.95, alike: float = 1.0) -> Interval:
    """Returns mean and two-sided confidence interval of scores in 0..1.

    `alike`: so many in a row count as one; 1: each is independent of the others. Raises ValueError where there is no
    score.
    """
    values = np.asarray(scores, np.float64)
    count = len(values)
    if not count:
        raise ValueError("there is no score to take a mean of")
    mean = min(1.0, max(0.0, float(values.mean())))
    risk = (1 - confidence) / 2
    low, high = _least(values, risk, alike), 1.0 - _least(1.0 - values, risk, alike)
    return Interval(mean, min(low, mean), max(high, mean), count, alike)


def scores_needed(scores: Sequence[float], low: float, confidence: float = 0.95) -> int:
    """Returns how many independent scores that are spread as these would have a lower end of `low`, which is above 0
    and below 1; 0: no number of them, or more than SCORES_MAX.
    """
    kinds, counts = np.unique(np.asarray(scores, np.float64), return_counts=True)
    shares = counts / len(scores)
    wanted = -log((1 - confidence) / 2)
    few, many = 0, SCORES_MAX
    if _log_capital(kinds, shares * many, low) < wanted:
        return 0
    while many - few > 1:
        middle = (few + many) // 2
        if _log_capital(kinds, shares * middle, low) >= wanted:
            many = middle
        else:
            few = middle
    return many


def _least(values: npt.NDArray[np.float64], risk: float, alike: float) -> float:
    """The largest bound that the values prove their mean to be above; 0: none."""
    low, high = 0.0, 1.0
    kinds, counts = np.unique(values, return_counts=True)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _log_capital(kinds, counts / alike, middle) >= -log(risk):
            low = middle
        else:
            high = middle
    return low


def _log_capital(kinds: npt.NDArray[np.float64], counts: npt.NDArray[Any], bound: float) -> float:
    """What 1 has become by bets that the mean is above the bound, over values that each came so often."""
    with np.errstate(divide="ignore"):
        logs = np.log1p(np.maximum(np.outer(STAKES, kinds / bound - 1), -1.0)) @ counts
    return float(np.logaddexp.reduce(logs + np.log(SHARES)))
