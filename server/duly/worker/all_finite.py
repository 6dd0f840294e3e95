"""Whether an array has no NaN and no infinity, which is asked of every frame."""

from math import isfinite

import numpy as np

from duly.worker.dtypes import Array


def all_finite(array: Array) -> bool:
    """Whether all elements are finite. The sum of their squares says so in a third of the time that a look at each
    element takes: it is finite only if all are. As it may overflow all the same, the elements are looked at then.
    """
    if array.dtype != np.float16 and isfinite(np.vdot(array, array)):  # squares of float16 overflow soon
        return True
    return bool(np.isfinite(array).all())
