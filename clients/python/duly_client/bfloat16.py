"""BF16, of which NumPy knows nothing: the element type of its arrays, and to float32 and back.

Where ml_dtypes is installed, which JAX and TensorFlow bring along, arrays are of its bfloat16. Elsewhere they have one
field, `bits`. Either way the bits are there: `array.view(numpy.uint16)`, and `bits.view(BFLOAT16)` back again.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    import ml_dtypes
except ImportError:
    BFLOAT16: np.dtype[Any] = np.dtype([("bits", "<u2")])
else:
    BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def to_bfloat16(numbers: ArrayLike) -> NDArray[Any]:
    """Returns numbers as an array of BFLOAT16, rounded to the nearest, half to even; NaN stays NaN."""
    wide = np.asarray(numbers, np.float32)
    bits = np.ascontiguousarray(wide).view(np.uint32).reshape(wide.shape)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    quiet = bits >> 16 | 0x40  # to round a NaN could make an infinity of it
    return np.asarray(np.where(np.isnan(wide), quiet, rounded).astype("<u2")).view(BFLOAT16)


def to_float32(halves: NDArray[Any]) -> NDArray[np.float32]:
    """Returns an array of BFLOAT16, or of its bits, as float32, which has all of its values."""
    return (halves.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
