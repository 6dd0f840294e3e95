"""How alike two answers to one frame are, from 0 to 1, by what the answer is for.

A measure is never about what is right: it compares the answers that two models gave, or an answer with a label in the
same form. Whoever has labels gets an accuracy of it, whoever has another model's answers an agreement.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
"""The outputs of one frame by the names that clients know, without a batch dimension."""

SPREAD_MIN = 1e-12
"""A signal that differs from its mean by less, relative to its largest number, is constant: it correlates with
nothing."""


class Measure(Protocol):
    """A measure of how alike two answers are."""

    @property
    def name(self) -> str:
        """What it is called in `[task]` of model.toml."""

    def of(self, expected: Outputs, got: Outputs) -> float:
        """Returns 1 where `got` is as good as `expected`, 0 where it has nothing of it. Answers of other shapes have
        nothing of it, nor have those with a NaN where none is expected. Raises KeyError where the output is missing.
        """

    def margin(self, expected: Outputs, got: Outputs) -> float:
        """Returns how far `got` is from where its score would change, in any unit: of scores that know right and wrong
        alone the number whose sign is the score, else the score itself. It is never NaN.
        """


@dataclass(frozen=True, slots=True)
class TopOne:
    """The share of rows whose best class is the same. Whole numbers, truth values and text are the classes themselves;
    of floating point the largest along the last dimension is the class.
    """

    output: str
    name: str = "top1"

    def of(self, expected: Outputs, got: Outputs) -> float:
        wanted, given = _pair(self.output, expected, got)
        if given is None:
            return 0.0
        if not wanted.size:
            return 1.0
        if not np.issubdtype(wanted.dtype, np.floating):
            return float(np.mean(wanted == given))
        wanted, given = np.atleast_1d(wanted), np.atleast_1d(given)
        lost = np.isnan(given).any(axis=-1) & ~np.isnan(wanted).any(axis=-1)
        return float(np.mean((wanted.argmax(axis=-1) == given.argmax(axis=-1)) & ~lost))

    def margin(self, expected: Outputs, got: Outputs) -> float:
        """How far the best class is before the second best, in the row where that is least."""
        wanted, given = _pair(self.output, expected, got)
        if given is None or not wanted.ndim or wanted.shape[-1] < 2 or not np.issubdtype(wanted.dtype, np.floating):
            return self.of(expected, got)
        best = wanted.argmax(axis=-1)[..., None]
        others = given.astype(np.float64)
        np.put_along_axis(others, best, -np.inf, axis=-1)
        return _least_of(np.take_along_axis(given, best, axis=-1)[..., 0] - others.max(axis=-1))


@dataclass(frozen=True, slots=True)
class Binary:
    """The share of elements that lie on the same side of the threshold; those at it lie above."""

    output: str
    threshold: float = 0.5
    name: str = "binary"

    def of(self, expected: Outputs, got: Outputs) -> float:
        wanted, given = _pair(self.output, expected, got)
        if given is None:
            return 0.0
        lost = np.isnan(given) & ~np.isnan(wanted) if np.issubdtype(given.dtype, np.floating) else False
        same = ((wanted >= self.threshold) == (given >= self.threshold)) & ~np.asarray(lost)
        return float(np.mean(same)) if wanted.size else 1.0

    def margin(self, expected: Outputs, got: Outputs) -> float:
        """How far the element that is nearest to the threshold is on the right side of it."""
        wanted, given = _pair(self.output, expected, got)
        if given is None or not np.issubdtype(wanted.dtype, np.floating):
            return self.of(expected, got)
        sides = np.where(wanted >= self.threshold, 1.0, -1.0)
        return _least_of(sides * (given.astype(np.float64) - self.threshold))


@dataclass(frozen=True, slots=True)
class Correlation:
    """Pearson's correlation of the elements of one frame; negative ones are 0. Where the expected signal is constant,
    it is 1 for the same constant and 0 for all else.
    """

    output: str
    name: str = "correlation"

    def of(self, expected: Outputs, got: Outputs) -> float:
        wanted, given = _pair(self.output, expected, got)
        if given is None:
            return 0.0
        if not wanted.size:
            return 1.0
        there = np.isfinite(wanted)
        if not np.array_equal(there, np.isfinite(given)):
            return 0.0
        a, b = (values[there].astype(np.float64).ravel() for values in (wanted, given))
        if np.array_equal(a, b):
            return 1.0
        largest = max(float(np.abs(a).max(initial=0.0)), float(np.abs(b).max(initial=0.0)), 1e-300)
        a, b = a / largest, b / largest
        a_off, b_off = a - a.mean(), b - b.mean()
        a_spread, b_spread = float(np.sqrt(a_off @ a_off)), float(np.sqrt(b_off @ b_off))
        if min(a_spread, b_spread) < SPREAD_MIN * len(a):
            return 1.0 if np.allclose(a, b, rtol=1e-5, atol=1e-7) else 0.0
        return float(np.clip((a_off @ b_off) / (a_spread * b_spread), 0.0, 1.0))

    def margin(self, expected: Outputs, got: Outputs) -> float:
        return self.of(expected, got)


@dataclass(frozen=True, slots=True)
class Closeness:
    """1 minus the largest difference of two elements, in terms of `scale`; 0 where that is more than 1. Of text it is
    the share of equal elements.
    """

    output: str
    scale: float | None = None
    """The difference at which nothing is left; None: the largest magnitude that is expected in the frame."""
    name: str = "closeness"

    def of(self, expected: Outputs, got: Outputs) -> float:
        wanted, given = _pair(self.output, expected, got)
        if given is None:
            return 0.0
        if not wanted.size:
            return 1.0
        if wanted.dtype.kind not in "biuf":
            return float(np.mean(wanted == given))
        there = np.isfinite(wanted)
        if not np.array_equal(there, np.isfinite(given)):
            return 0.0
        a, b = (values[there].astype(np.float64).ravel() for values in (wanted, given))
        worst = float(np.abs(a - b).max(initial=0.0))
        if not worst:
            return 1.0
        scale = self.scale or float(np.abs(a).max(initial=0.0))
        return max(0.0, 1.0 - worst / scale) if scale else 0.0

    def margin(self, expected: Outputs, got: Outputs) -> float:
        return self.of(expected, got)


def _pair(output: str, expected: Outputs, got: Outputs) -> tuple[Array, Array | None]:
    """Returns both arrays of the output, the second as None where its shape is another one."""
    wanted, given = np.asarray(expected[output]), np.asarray(got[output])
    return wanted, given if given.shape == wanted.shape else None


def _least_of(margins: Array) -> float:
    """The least of them; what is no number is as far off as can be."""
    return float(np.nan_to_num(margins, nan=-np.inf, posinf=np.inf, neginf=-np.inf).min(initial=np.inf))
