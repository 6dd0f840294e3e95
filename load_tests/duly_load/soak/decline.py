"""Do the busy slices still do what they did at first? What a server has learned wrong shows nowhere else: it answers
every frame, holds no more than before, and serves a tenth of what it did.

The last busy slices are held against the first, as many from either end, by the medians of their goodput, the frames on
time a second; the very first slice is left out, as it warms caches and what the server knows of its models. Ten of each
where there are enough, of which four may be off for whatever reason.

What makes it unfair, and what is done about it:

- A slice in which the machine stood still or the generator was late is invalid and left out. A machine that is merely
  slower at last than at first is not seen by that, and looks like a server that is. The verdict says so; the latency
  of single slices over time, a picture of the page, may distinguish them, as a slower machine is slower with them too.
- Each slice has a seed of its own. Where sensors come in bursts, slices offer up to a tenth more or less than others,
  and goodput follows. So the share that was on time must have fallen as far as goodput has: it rises where less was
  offered and is the same where everything is on time, while a server that does less loses both.

Out of scope: a fall within the first slices, which are then what the last are held against, and one that only the last
few slices saw; the picture of the page shows both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from duly_load.soak.phases import Phase
from duly_load.soak.record import SliceResult

SLICES_MAX = 10
"""The most slices that are compared at either end."""
SLICES_MIN = 3
"""Among fewer slices one that is off is half of the median, or all of it."""
KEPT_MIN = 0.9
"""The share of what the first slices did that the last have to do."""


@dataclass(frozen=True, slots=True)
class Decline:
    """Medians over as many busy slices at the end as at the beginning."""

    slices: int
    """The number of slices at either end."""
    first_per_s: float
    last_per_s: float
    """Frames on time per second."""
    first_ratio: float
    last_ratio: float
    """Frames on time of those that were to be sent."""

    @property
    def fell(self) -> bool:
        return self.last_per_s < KEPT_MIN * self.first_per_s and self.last_ratio < KEPT_MIN * self.first_ratio


def decline(slices: Sequence[SliceResult]) -> Decline | None:
    """The figures at both ends; None: there are too few busy slices, see `compared`."""
    valid = compared(slices)
    each = min(SLICES_MAX, len(valid) // 2)
    if each < SLICES_MIN:
        return None
    first, last = valid[:each], valid[-each:]
    return Decline(
        each,
        median(result.goodput_per_s for result in first),
        median(result.goodput_per_s for result in last),
        median(result.on_time_ratio for result in first),
        median(result.on_time_ratio for result in last),
    )


def compared(slices: Sequence[SliceResult]) -> list[SliceResult]:
    """The valid busy slices but for the very first one, whether that is valid or not."""
    busy = [result for result in slices if result.phase is Phase.BUSY]
    return [result for result in busy[1:] if not result.problems]
