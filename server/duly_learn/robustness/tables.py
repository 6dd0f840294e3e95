"""What happens to columns of a table: numbers, each with a meaning of its own. The amounts are duly's own."""

import numpy as np

from duly_learn.frames.frame import Array
from duly_learn.robustness.kinds import Extent


def noise(row: Array, deviations: float, chance: np.random.Generator, extent: Extent) -> Array:
    """Each column is off by so many of its own standard deviations."""
    return row + chance.normal(0.0, 1.0, row.shape) * deviations * extent.spreads


def offset(row: Array, deviations: float, chance: np.random.Generator, extent: Extent) -> Array:
    """All columns are off by so many of their standard deviations, each up or down: sensors that have drifted."""
    return row + chance.choice([-1.0, 1.0], row.shape) * deviations * extent.spreads


def dropped(row: Array, share: float, chance: np.random.Generator, extent: Extent) -> Array:
    """Columns that are missing: the median of each is in its place."""
    return np.where(chance.random(row.shape) < share, np.broadcast_to(extent.middles, row.shape), row)
