"""The Square Attack in an L-infinity ball: random squares of a picture are moved to the edge of the ball, smaller and
smaller ones, and what makes the loss less is kept (Andriushchenko, Croce, Flammarion & Hein, Square Attack: a
query-efficient black-box adversarial attack via random search, ECCV 2020, algorithms 1 and 2).

For signals an interval stands for the square, and for a table a random choice of columns, as these have no neighbours.
"""

import math
from collections.abc import Sequence

import numpy as np

from duly_learn.frames.frame import Array
from duly_learn.robustness.attacks.ball import Ball
from duly_learn.robustness.kinds import Kind, channel_axis

SHARE_FIRST = 0.05
"""The share of the elements that the first squares have; the paper's p for this norm."""
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The share is halved after so many of ten thousand queries; with another number of queries, in proportion."""
SCHEDULE = 10_000
REDRAWN_MAX = 16
"""A square that would change nothing is drawn again so often."""


class Square:
    """An attack on one input of one frame, with one query at a time."""

    def __init__(self, ball: Ball, kind: Kind, queries: int, seed: Sequence[int]) -> None:
        """`queries`: how many there will be in all, after which the squares are smallest."""
        self._ball = ball
        self._queries = queries
        self._chance = np.random.default_rng(list(seed))
        self._asked = 0
        shape = ball.centre.shape
        self._layout = _layout(kind, shape)
        self._offset = self._ball.radius * self._stripes()
        self._tried = self._offset
        self._least = math.inf
        """The least loss that was told, which is that of `_offset`."""

    @property
    def asks(self) -> int:
        return 1

    def ask(self) -> list[Array]:
        if self._asked:
            self._tried = self._moved()
        return [self._ball.around(self._tried)]

    def tell(self, losses: Sequence[float]) -> None:
        self._asked += 1
        if losses[0] < self._least:
            self._least, self._offset = losses[0], self._tried

    def _moved(self) -> Array:
        """Returns the best offset with one more square at the edge of the ball."""
        now = self._ball.around(self._offset)
        moved = self._offset
        for _ in range(REDRAWN_MAX):
            moved = self._offset.copy()
            window, signs = self._window(max(1, round(self._share() * moved.size)))
            moved[window] = (self._ball.radius * signs)[window]
            if not np.array_equal(self._ball.around(moved), now):
                break
        return moved

    def _share(self) -> float:
        at = self._asked * SCHEDULE // max(1, self._queries)
        return SHARE_FIRST / float(2 ** sum(at > halved for halved in HALVED_AT))

    def _stripes(self) -> Array:
        """Signs to begin with: of pictures stripes of one column each, of all else each element by itself."""
        shape = self._ball.centre.shape
        if self._layout is None or len(self._layout) == 1:
            return self._signs(shape)
        extents = list(shape)
        extents[self._layout[0]] = 1
        return np.broadcast_to(self._signs(tuple(extents)), shape)

    def _window(self, elements: int) -> tuple[tuple[slice, ...] | Array, Array]:
        """Returns which elements are moved, and signs for them: one for each channel, or for each column of a table."""
        shape = self._ball.centre.shape
        if self._layout is None:
            chosen = np.zeros(shape, bool)
            chosen.flat[self._chance.choice(chosen.size, min(elements, chosen.size), replace=False)] = True
            return chosen, self._signs(shape)
        window = [slice(None)] * len(shape)
        signs = list(shape)
        channels = int(np.prod(shape)) // int(np.prod([shape[axis] for axis in self._layout]))
        side = elements / channels if len(self._layout) == 1 else math.sqrt(elements / channels)
        for axis in self._layout:
            length = min(max(1, round(side)), max(1, shape[axis] - 1))
            begin = int(self._chance.integers(0, shape[axis] - length + 1))
            window[axis] = slice(begin, begin + length)
            signs[axis] = 1
        return tuple(window), self._signs(tuple(signs))

    def _signs(self, shape: tuple[int, ...]) -> Array:
        return self._chance.choice((-1.0, 1.0), shape)


def _layout(kind: Kind, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns the dimensions along which elements have neighbours: height and width, or time; None: they have none."""
    if kind is Kind.TABLE:
        return None
    if kind is Kind.SIGNAL:
        return (int(np.argmax(shape)),)
    if len(shape) == 2:
        return (0, 1)
    return (0, 1) if channel_axis(shape) == 2 else (1, 2)
