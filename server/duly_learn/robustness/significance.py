"""Whether two versions differ on the same frames, by more than chance.

Both have seen the same frames, so that their scores are compared frame by frame. Of scores that are 0 or 1 the test is
McNemar's, exact (McNemar, Psychometrika 12, 1947), and the interval that of Bonett and Price (J. Educ. Behav. Stat. 37,
2012); of others the test flips signs of differences (Fisher's permutation test), and the interval is that of
`duly.agreement.interval`, which holds for scores of any shape and is the wider for it. Many conditions are tested at
once: Holm's rule (Scand. J. Stat. 6, 1979) holds the chance that any of them is called different by mistake.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from duly.agreement.interval import interval

FLIPS = 20_000
"""So many patterns of signs are tried, by chance, where there are more; p is then 1/20,001 at least."""
EXACT_MAX = 14
"""Of so many differences all patterns of signs are tried."""
MISTAKE = 0.05
"""The chance that any condition is called different by mistake."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of the mean scores of two versions, the other less this."""

    mean: float
    low: float
    high: float
    """Its interval, with a confidence of 95 %, of this condition alone."""
    p: float
    """The chance to see as much where they do not differ."""


def difference(scores: Sequence[float], others: Sequence[float], seed: int) -> Difference:
    """Compares scores in 0..1 of the same frames, of which there is one at least."""
    apart = np.asarray(others, np.float64) - np.asarray(scores, np.float64)
    if np.isin(apart, (-1.0, 0.0, 1.0)).all() and np.isin(np.asarray(scores), (0.0, 1.0)).all():
        return _of_hits(int((apart > 0).sum()), int((apart < 0).sum()), len(apart))
    around = interval(((apart + 1) / 2).tolist())
    p = _flipped(apart, np.random.default_rng(seed))
    return Difference(float(apart.mean()), 2 * around.low - 1, 2 * around.high - 1, p)


def _of_hits(gained: int, lost: int, count: int) -> Difference:
    either = gained + lost
    tail = sum(comb(either, few) for few in range(min(gained, lost) + 1)) / 2**either
    gain, loss = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    half = NormalDist().inv_cdf(0.975) * sqrt((gain + loss - (gain - loss) ** 2) / (count + 2))
    mean = (gained - lost) / count
    return Difference(
        mean, max(-1.0, min(mean, gain - loss - half)), min(1.0, max(mean, gain - loss + half)), min(1.0, 2 * tail)
    )


def _flipped(apart: npt.NDArray[np.float64], chance: np.random.Generator) -> float:
    """Returns the share of patterns of signs that bring the sum as far from 0."""
    moved = apart[apart != 0]
    if not len(moved):
        return 1.0
    seen = abs(moved.sum()) * (1 - 1e-9)
    if len(moved) <= EXACT_MAX:
        bits = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float(np.mean(np.abs((bits * 2 - 1) @ moved) >= seen))
    far = sum(
        int((np.abs(chance.choice((-1.0, 1.0), (FLIPS // 20, len(moved))) @ moved) >= seen).sum()) for _ in range(20)
    )
    return (far + 1) / (FLIPS + 1)


def significant(p_values: Sequence[float]) -> list[bool]:
    """Returns which conditions differ, by Holm's rule, so that the chance of any mistake is MISTAKE at most."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    found = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > MISTAKE / (len(order) - rank):
            break
        found[index] = True
    return found
