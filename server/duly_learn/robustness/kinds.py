"""What an input is, which decides how it can be harmed, and the values that it takes."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from duly.models.spec import TensorSpec
from duly.worker.decode import ENCODINGS
from duly_learn.frames.frame import Array, Encoded, Value

SIGNAL_SAMPLES_MIN = 128
"""A row of fewer numbers is taken for the columns of a table, a longer one for samples in time."""
PICTURE_SIDE_MIN = 8
CHANNELS_MAX = 16
"""Of two dimensions where one has at most so many elements, that one is the channels of a signal."""
PCM_STEP = 1 / 32768
"""Sound of 16 bits is sent in such steps, between -1 and 1."""
_PICTURE_CHANNELS = (1, 3, 4)


class Kind(StrEnum):
    PICTURE = "picture"
    SIGNAL = "signal"
    """Samples in time, of one channel or more: sound, an ECG, vibration."""
    TABLE = "table"
    """Columns that have nothing to do with their neighbours."""
    TEXT = "text"
    OTHER = "other"
    """Single numbers, truth values, encoded video: nothing here harms them."""


def kind_of(spec: TensorSpec, value: Value) -> Kind:
    """Returns what an input is, by its encoding or its shape."""
    if spec.is_text:
        return Kind.TEXT
    if isinstance(value, Encoded):
        encoding = ENCODINGS[value.encoding]
        if encoding.decode is None:
            return Kind.OTHER
        return Kind.PICTURE if encoding.domain == "picture" else Kind.SIGNAL
    shape = value.shape
    if value.dtype.kind not in "uif" or value.size < 2:
        return Kind.OTHER
    if len(shape) == 1:
        return Kind.SIGNAL if shape[0] >= SIGNAL_SAMPLES_MIN else Kind.TABLE
    if len(shape) == 2:
        return _of_two(shape, value.dtype == np.uint8)
    if len(shape) == 3 and channel_axis(shape) is not None:
        return Kind.PICTURE
    return Kind.OTHER


def _of_two(shape: tuple[int, ...], is_bytes: bool) -> Kind:
    few, many = sorted(shape)
    if few >= PICTURE_SIDE_MIN and (is_bytes or few > CHANNELS_MAX):
        return Kind.PICTURE
    return Kind.SIGNAL if few <= CHANNELS_MAX and many >= 2 * CHANNELS_MAX else Kind.TABLE


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Returns which of three dimensions is the channels of a picture, the last one first; None: none is."""
    for axis, sides in ((2, shape[:2]), (0, shape[1:])):
        if shape[axis] in _PICTURE_CHANNELS and min(sides) >= PICTURE_SIDE_MIN:
            return axis
    return None


@dataclass(frozen=True, slots=True)
class Extent:
    """The values that an input takes, over all frames."""

    low: float
    high: float
    """The least and the greatest of the frames; for pictures of bytes 0 and 255, whatever the frames hold."""
    floor: float
    ceiling: float
    """Between these two a harmed input stays: of a picture those above, else what its encoding or its type holds."""
    step: float
    """The distance of two values that can be sent; 0: any can."""
    loudness: float
    """The root of the mean of the squares, of what is not NaN."""
    middles: Array
    spreads: Array
    """Of a table, the median and the standard deviation of each column; else of all elements together."""


def extent_of(kind: Kind, value: Value, arrays: Iterable[Array]) -> Extent:
    """Returns what values an input takes in these frames, of which there is one at least. `value`: one of them as it
    came, which may be encoded.
    """
    each = list(arrays)
    finite = [array[np.isfinite(array)] for array in each]
    low = min((float(values.min()) for values in finite if values.size), default=0.0)
    high = max((float(values.max()) for values in finite if values.size), default=0.0)
    squares = [float(np.square(values, dtype=np.float64).mean()) for values in finite if values.size] or [0.0]
    if kind is Kind.TABLE and len({array.shape for array in each}) == 1:
        columns = np.stack(each).astype(np.float64)
        columns = np.where(np.isfinite(columns), columns, np.nan)
        columns = np.where(np.isnan(columns).all(axis=0), 0.0, columns)
        middles, spreads = np.nanmedian(columns, axis=0), np.nanstd(columns, axis=0)
    else:
        middles, spreads = np.asarray((low + high) / 2), np.asarray(np.sqrt(np.mean(squares)))
    dtype = each[0].dtype
    if kind is Kind.PICTURE:
        low, high = (0.0, 255.0) if dtype == np.uint8 else (low, high)
        floor, ceiling = low, high
    elif isinstance(value, Encoded):
        floor, ceiling = -1.0, 1.0 - PCM_STEP
    elif dtype.kind in "ui":
        floor, ceiling = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    else:
        floor, ceiling = -np.inf, np.inf
    step = 1.0 if dtype.kind in "ui" else PCM_STEP if isinstance(value, Encoded) else 0.0
    loudness = float(np.sqrt(np.mean(squares)))
    return Extent(low, high, floor, ceiling, step, loudness, np.asarray(middles), np.asarray(spreads))
