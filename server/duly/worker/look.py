"""What is seen of one input of one frame, for its guards: a few numbers, whoever reads the frame.

It is seen after the payload is decoded and before it is preprocessed, so that what model.toml allows is in the unit of
who sends. A frame that is read beside the lanes (`worker/read_apart`) has it in front of its row.
"""

from hashlib import sha256
from math import inf
from typing import NamedTuple

import numpy as np

from duly.worker.all_finite import all_finite
from duly.worker.channel import ROW_HEAD
from duly.worker.dtypes import Array, as_numbers

ELEMENTS_MAX = 1 << 16
"""Of larger inputs so many elements, evenly spread, say how far the elements lie apart and how many are saturated."""
CHANNELS_MAX = 4
"""A tensor of three dimensions whose last one, or else its first, is no larger is a picture with so many channels."""


class Look(NamedTuple):
    """What no guard asks for is 0. Its fields are the end of ROW_HEAD (`worker/channel`). An input of no elements is
    within any range, and not blank.
    """

    least: float = 0.0
    largest: float = 0.0
    """NaN where an element is."""
    spread: float = 0.0
    """The largest standard deviation of a channel."""
    low_share: float = 0.0
    """The share of elements at the lower end of what the sensor can say."""
    high_share: float = 0.0
    digest: int = 0
    """Of all bytes; the same for the same frame only."""
    finite: bool = True


NOTHING_SEEN = Look()


def look_of_row(payload: memoryview) -> Look:
    """What stands before a row that was read elsewhere."""
    return Look(*ROW_HEAD.unpack_from(payload)[4:])


class Looker:
    """Looks at one input of a model for what its guards ask."""

    def __init__(
        self,
        *,
        extremes: bool = False,
        spread: bool = False,
        low: float | None = None,
        high: float | None = None,
        digest: bool = False,
        finite: bool = False,
    ) -> None:
        """What to look for: the least and the largest element, how far apart they lie, the share of those at `low` or
        below and at `high` or above, the digest, whether all are finite.
        """
        self._extremes = extremes
        self._spread = spread
        self._low = low
        self._high = high
        self._digest = digest
        self._finite = finite

    def look(self, value: Array, payload: memoryview | None) -> Look:
        """Looks at the decoded `value` of an input. `payload`: what the client sent for it; None: it is video, whose
        pictures differ though nothing moves, so that the decoded one counts.
        """
        least = largest = spread = low_share = high_share = 0.0
        numbers = as_numbers(value) if value.dtype.kind != "O" else value
        if not numbers.size:
            # The least of nothing is larger than any number; and of nothing nobody can say that it is blank.
            least, largest, spread = inf, -inf, inf
        with np.errstate(all="ignore"):  # of what is not finite nothing can be said, which is no warning to anybody
            if self._extremes and numbers.size:
                least, largest = float(numbers.min()), float(numbers.max())
            if self._spread or self._low is not None or self._high is not None:
                some = _some(numbers)
                if self._spread and some.size:
                    spread = float(np.std(some.T.astype(np.float64, order="C"), axis=1).max())
                if self._low is not None and some.size:
                    low_share = np.count_nonzero(some <= self._low) / some.size
                if self._high is not None and some.size:
                    high_share = np.count_nonzero(some >= self._high) / some.size
        digest = _digest(payload if payload is not None else value) if self._digest else 0
        finite = all_finite(value) if self._finite else True
        return Look(least, largest, spread, low_share, high_share, digest, finite)


def _some(value: Array) -> Array:
    """Elements of an input in rows of one a channel: all, or evenly spread ones where there are many."""
    shape = value.shape
    if len(shape) == 3 and 0 < shape[2] <= CHANNELS_MAX:
        rows = value.reshape(-1, shape[2])
    elif len(shape) == 3 and 0 < shape[0] <= CHANNELS_MAX:
        rows = value.reshape(shape[0], -1).T
    else:
        rows = value.reshape(-1, 1)
    step = -(-rows.size // ELEMENTS_MAX)
    return rows[:: step | 1] if step > 1 else rows  # an odd step meets all columns of most pictures


def _digest(data: memoryview | Array) -> int:
    whole = data if isinstance(data, memoryview) else np.ascontiguousarray(data).data
    return int.from_bytes(sha256(whole).digest()[:8], "little")
