"""How sure it is that a mean lies above or below a bound, by values that are looked at all the time.

Theory. A gambler who doubts that the mean of values in [0, 1] is at most m bets on each value before it is known: of
the capital so far, a fraction f times (x - m) / m. If the mean is at most m, whatever came before, the bet is not in
the gambler's favour, so that the capital is a supermartingale, and the chance that it ever reaches 1/risk times what it
began with is at most `risk` (Ville's inequality). So one may look after each value, and stop when one likes. This is
the capital process of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B,
2024), sections 3 and 4. Which fraction is best depends on the unknown mean. The capital is therefore divided among
gamblers with the FRACTIONS from the beginning, which costs little against the best of them (a discrete form of Cover's
universal portfolio; section 5.3 there, and Orabona and Jun, 2021). For values of 0 and 1 this is Wald's sequential test
with a mixture over alternatives (mSPRT; Robbins, 1970).

It is assumed of the values only that each, whatever came before it, has a mean on the same side of the bound. They need
neither be independent nor alike, but of each that has to be so: values of one source whose mean lies on the other side
break it, however many others there are.
"""

from collections.abc import Iterable
from math import exp, inf, log, log1p

import numpy as np

FRACTIONS = (1 / 512, 1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 0.4, 0.55, 0.7, 0.85, 0.97)
"""Small ones find a mean that is a little off; large ones prove soon what is nearly always so."""
BINS = 200
"""Values are kept in so many bins for the interval, each rounded to the side on which that is wider."""
BISECTIONS = 12


class Above:
    """Evidence that the mean is above a bound."""

    __slots__ = ("_log_capitals", "_stakes", "bound")

    def __init__(self, bound: float) -> None:
        """`bound`: more than 0 and less than 1."""
        self.bound = bound
        self._stakes = [fraction / bound for fraction in FRACTIONS]
        self._log_capitals = [0.0] * len(FRACTIONS)

    def add(self, value: float, times: int = 1) -> None:
        """Takes the next values, each the same number from 0 to 1."""
        gain = value - self.bound
        self._log_capitals = [
            log_capital + times * log1p(stake * gain)
            for log_capital, stake in zip(self._log_capitals, self._stakes, strict=True)
        ]

    def proves(self, risk: float) -> bool:
        """Whether the mean is above the bound. If it is not, this is ever true with a chance of `risk` at most."""
        return _log_mean(self._log_capitals) >= -log(risk)


class NoWorse:
    """Evidence of how much less one of two ratios is than the other, by scores of (1 + one - other) / 2. Their mean is
    below (1 - worse_max) / 2 where it is less by more than worse_max.
    """

    __slots__ = ("_as_good", "_worse")

    def __init__(self, worse_max: float) -> None:
        """`worse_max`: the difference that is still taken, from 0 to less than 1."""
        bound = (1.0 - worse_max) / 2
        self._as_good, self._worse = Above(bound), Above(1.0 - bound)

    def add(self, score: float, times: int = 1) -> None:
        """Takes the next scores, each the same number from 0 to 1."""
        self._as_good.add(score, times)
        self._worse.add(1.0 - score, times)

    def proves_as_good(self, risk: float) -> bool:
        """Whether it is less by `worse_max` at most. If not, this is ever true with a chance of `risk` at most."""
        return self._as_good.proves(risk)

    def proves_worse(self, risk: float) -> bool:
        """Whether it is less by more than that, with the same chance to be wrong."""
        return self._worse.proves(risk)


class Mean:
    """The mean of values from 0 to 1, with an interval that holds all the time."""

    __slots__ = ("_above", "_below", "_known", "count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self._above: dict[int, int] = {}
        """How often each bin came, of values rounded down."""
        self._below: dict[int, int] = {}
        """The same of what is left to 1."""
        self._known: tuple[int, float, float, float] | None = None
        """The interval that was asked for last: of so many values, at that risk."""

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        for bins, part in ((self._above, value), (self._below, 1.0 - value)):
            number = int(part * BINS + 1e-9)
            bins[number] = bins.get(number, 0) + 1

    @property
    def mean(self) -> float:
        """The mean so far; 0 where nothing has come."""
        return self.total / self.count if self.count else 0.0

    def interval(self, risk: float) -> tuple[float, float]:
        """Returns between what the mean lies. The chance that it ever lies elsewhere is at most `risk`."""
        if self._known is None or self._known[:2] != (self.count, risk):
            self._known = self.count, risk, _least(self._above, risk / 2), 1.0 - _least(self._below, risk / 2)
        return self._known[2:]


def _least(bins: dict[int, int], risk: float) -> float:
    """The largest bound that the values prove their mean to be above; 0: none."""
    low, high = 0.0, 1.0
    values = np.fromiter(bins, np.float64)[:, None] / BINS
    counts = np.fromiter(bins.values(), np.float64)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        stakes = np.array(FRACTIONS)[None, :] / middle
        if _log_mean((counts @ np.log1p(stakes * (values - middle))).tolist()) >= -log(risk):
            low = middle
        else:
            high = middle
    return low


def _log_mean(logs: Iterable[float]) -> float:
    """The logarithm of the mean of numbers, given theirs."""
    known = list(logs)
    largest = max(known)
    return largest + log(sum(exp(each - largest) for each in known) / len(known)) if largest > -inf else -inf
