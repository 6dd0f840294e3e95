"""The inputs that an attack may give: no element further than epsilon from the true one, within what can be sent."""

from dataclasses import dataclass
from math import floor

import numpy as np

from duly_learn.frames.frame import Array
from duly_learn.robustness.corruptions import as_sent
from duly_learn.robustness.kinds import Extent, Kind


@dataclass(frozen=True, slots=True)
class Ball:
    """An L-infinity ball around one input of one frame, cut off at what can be sent."""

    centre: Array
    """The true input, as it is sent."""
    radius: Array
    """How far each element may be off: one number, or one for each element. 0 where it is not finite, and where it is
    less than one step of what can be sent."""
    extent: Extent

    def around(self, offset: Array) -> Array:
        """Returns the input that is so far off, as it is sent; what is too far off is brought to the edge."""
        held = np.clip(offset, -self.radius, self.radius)
        return as_sent(np.where(self.radius > 0, self.centre + held, self.centre), self.centre, self.extent)


def ball(centre: Array, epsilon: float, kind: Kind, extent: Extent) -> Ball:
    """Returns the ball of `epsilon`: a share of the range of values, for pictures and signals, or of each column's
    standard deviation, for a table.
    """
    if kind is Kind.TABLE:
        radius = np.broadcast_to(epsilon * extent.spreads, centre.shape)
    else:
        radius = np.full(centre.shape, epsilon * (extent.high - extent.low))
    if extent.step:
        radius = np.vectorize(lambda each: floor(each / extent.step + 1e-9) * extent.step, otypes=[float])(radius)
    return Ball(centre, np.where(np.isfinite(centre), radius, 0.0), extent)
