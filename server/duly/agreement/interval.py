"""The mean of scores of frames, and between what it truly lies as far as so few frames can tell.

Theory. If the mean of independent values in [0, 1] is at most m, the product of 1 + f (x - m) / m over them, for any f
of 0 to 1 chosen beforehand, has an expectation of at most 1, as has any mean of such products; so it reaches 1/risk
with a chance of at most `risk` (Markov's inequality). The lower end is the largest m that is refuted so, the upper end
the same of what is left to 1: the betting interval of Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting" (JRSS B, 2024), with fixed stakes. It holds for scores of any shape, for few of them, and where
nearly all are 1 and some are 0, which Student's does not. No score that grows lowers an end.

Neighbours of one recording are not independent of one another. Given the block of each score, the means of blocks are
the values, and only blocks need be independent.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import ceil, log

import numpy as np
import numpy.typing as npt

STAKES = np.array([1.0, 1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 0.4, 0.55, 0.7, 0.85, 0.97])
"""Small ones suit scores that vary, large ones those that are nearly alike."""
SHARES = np.array([1 / 2] + [1 / 22] * 11)
"""How much is bet with each. Half of all suits scores that are all 1, of which the most is asked."""
BISECTIONS = 30


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of `count` scores, and the ends of its confidence interval."""

    mean: float
    low: float
    high: float
    count: int
    blocks: int = 0
    """How many blocks of neighbours the scores are of; 0: each was taken as independent of the others."""

    def __str__(self) -> str:
        of = f" in {self.blocks} blocks of neighbours" if self.blocks else ""
        return f"{self.mean:.4f} ({self.low:.4f} to {self.high:.4f}, {self.count} frames{of})"


def interval(scores: Sequence[float], confidence: float = 0.95, blocks: Sequence[Hashable] | None = None) -> Interval:
    """Returns mean and two-sided confidence interval of scores in 0..1.

    `blocks`: of which block each score is, where those of one block are alike; None: each is independent of the others.
    Raises ValueError where there is no score.
    """
    values = np.asarray(scores, np.float64)
    count = len(values)
    if not count:
        raise ValueError("there is no score to take a mean of")
    mean = min(1.0, max(0.0, float(values.mean())))
    number = 0
    if blocks is not None:
        numbers: dict[Hashable, int] = {}
        of = np.array([numbers.setdefault(block, len(numbers)) for block in blocks])
        values, number = np.bincount(of, values) / np.bincount(of), len(numbers)
    risk = (1 - confidence) / 2
    low, high = _least(values, risk), 1.0 - _least(1.0 - values, risk)
    return Interval(mean, min(low, mean), max(high, mean), count, number if number < count else 0)


def frames_needed(low: float, confidence: float = 0.95) -> int:
    """Returns how many frames must agree, all of them and each independent of the others, for the lower end to reach
    `low`, which is above 0 and below 1.
    """
    risk = (1 - confidence) / 2
    few, many = 0, ceil(log(risk * SHARES[0]) / log(low))
    while few < many:
        middle = (few + many) // 2
        if _log_capital(np.ones(1), np.array([middle]), low) >= -log(risk):
            many = middle
        else:
            few = middle + 1
    return many


def _least(values: npt.NDArray[np.float64], risk: float) -> float:
    """The largest bound that the values prove their mean to be above; 0: none."""
    low, high = 0.0, 1.0
    kinds, counts = np.unique(values, return_counts=True)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _log_capital(kinds, counts, middle) >= -log(risk):
            low = middle
        else:
            high = middle
    return low


def _log_capital(kinds: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], bound: float) -> float:
    """What 1 has become by bets that the mean is above the bound, over values that each came so often."""
    with np.errstate(divide="ignore"):
        logs = np.log1p(np.maximum(np.outer(STAKES, kinds / bound - 1), -1.0)) @ counts
    return float(np.logaddexp.reduce(logs + np.log(SHARES)))
