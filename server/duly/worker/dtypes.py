"""The element types of tensors as NumPy has them, and the two that it lacks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from duly.models.spec import ELEMENT_BYTES

Array = npt.NDArray[Any]

BFLOAT16 = np.dtype([("bits", "<u2")])
"""Elements of BF16, the upper half of float32, which NumPy knows nothing of. They have a field, so that they are taken
for no other type and nothing computes with their bits."""
TEXT = np.dtype(object)
"""Elements of STRING, each a str."""

_NUMBERS = [name for name in ELEMENT_BYTES if name not in ("BF16", "STRING")]
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name.lower().replace("fp", "float")) for name in _NUMBERS}
"""NumPy's element types by the protocol's names, such as float32 for FP32."""
DTYPES |= {"BF16": BFLOAT16, "STRING": TEXT}


def datatype_of(dtype: "np.dtype[Any]") -> str:
    """Returns the protocol's name of an element type of DTYPES."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def is_floating(dtype: "np.dtype[Any]") -> bool:
    """Whether there may be NaN and infinities."""
    return dtype == BFLOAT16 or np.issubdtype(dtype, np.floating)


def text_array(texts: Sequence[str], shape: Sequence[int]) -> Array:
    """Returns an array of TEXT with these elements, as many as the shape has."""
    array = np.empty(len(texts), TEXT)
    array[:] = texts
    return array.reshape(shape)


def of_type(numbers: Array, dtype: "np.dtype[Any]") -> Array:
    """Returns numbers as another element type: as BFLOAT16 rounded to the nearest, half to even, and as TEXT written
    out as whole numbers.
    """
    if dtype == BFLOAT16:
        return _bfloat16(numbers)
    if dtype == TEXT:
        return text_array([str(int(number)) for number in numbers.ravel()], numbers.shape)
    return numbers.astype(dtype)


def as_numbers(array: Array) -> Array:
    """Returns elements as a type that NumPy computes with, others than BFLOAT16 and TEXT as they are: BFLOAT16 becomes
    float32, which has all of its values, and each text a whole number that is the same for equal texts.
    """
    if array.dtype == BFLOAT16:
        return (array["bits"].astype(np.uint32) << 16).view(np.float32)
    if array.dtype == TEXT:
        return np.array([hash(text) for text in array.ravel()], np.int64).reshape(array.shape)
    return array


def _bfloat16(numbers: Array) -> Array:
    wide = np.asarray(numbers, np.float32)
    bits = np.ascontiguousarray(wide).view(np.uint32).reshape(wide.shape)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1)).astype(np.uint32)) >> 16
    quiet = bits >> 16 | 0x40  # to round a NaN could make an infinity of it
    return np.where(np.isnan(wide), quiet, rounded).astype("<u2").view(BFLOAT16)


def view(area: memoryview, offset: int, shape: Sequence[int], dtype: np.dtype[np.generic]) -> Array:
    """An array of that shape and element type that lies in the area, `offset` bytes from its beginning."""
    count = int(np.prod(shape))
    return np.frombuffer(area, dtype, count, offset).reshape(shape)
