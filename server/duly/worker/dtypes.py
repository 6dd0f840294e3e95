"""The element types of tensors as NumPy has them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from duly.models.spec import ELEMENT_BYTES

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name.lower().replace("fp", "float")) for name in ELEMENT_BYTES}
"""NumPy's element types by the protocol's names, such as float32 for FP32."""


def datatype_of(dtype: "np.dtype[Any]") -> str:
    """Returns the protocol's name of an element type of DTYPES."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def view(area: memoryview, offset: int, shape: Sequence[int], dtype: np.dtype[np.generic]) -> Array:
    """An array of that shape and element type that lies in the area, `offset` bytes from its beginning."""
    count = int(np.prod(shape))
    return np.frombuffer(area, dtype, count, offset).reshape(shape)
