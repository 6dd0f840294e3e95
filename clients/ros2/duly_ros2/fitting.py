"""Gives a sample's array the form that a model's input has, where that loses nothing."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


def fitted(array: Array, shape: tuple[int, ...], dtype: "np.dtype[np.generic]", *, picture: bool) -> Array:
    """Returns `array` with extents of 1 added or taken off at its end or its beginning where an input of `shape` wants
    that, with a `picture` of one channel repeated where it wants three, and with floating point in its `dtype`. All but
    the last are views. Where nothing fits the array is returned as it is: the client says what is wrong with it.
    """
    if np.issubdtype(dtype, np.floating) and np.issubdtype(array.dtype, np.floating):
        array = array.astype(dtype, copy=False)
    candidates = [array, array[..., None]]
    if picture and array.ndim == 2:
        candidates.append(np.broadcast_to(array[..., None], (*array.shape, 3)))
    candidates += [array[None], array[None, ..., None]]
    if array.ndim > 1 and array.shape[-1] == 1:
        candidates.append(array[..., 0])
    for candidate in candidates:
        if len(candidate.shape) == len(shape) and all(
            w in (-1, n) for w, n in zip(shape, candidate.shape, strict=True)
        ):
            return candidate
    return array
