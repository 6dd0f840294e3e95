"""How far the outputs of two graphs lie apart."""

from collections.abc import Mapping

import numpy as np

from duly_learn.graphs.constants import Array


def distance(expected: Mapping[str, Array], got: Mapping[str, Array]) -> float:
    """The squared distance of two answers as a share of the variance of the first."""
    total = 0.0
    for name, value in expected.items():
        if value.dtype.kind == "f":
            wanted, given = np.asarray(value, np.float64), np.asarray(got[name], np.float64)
            total += float(np.mean((wanted - given) ** 2) / max(float(np.var(wanted)), 1e-12))
    return total
