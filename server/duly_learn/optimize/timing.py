"""How much faster one worker is than another, as both say it themselves.

What else the machine does changes from second to second, so the two run by turns, on the same frames, and what is
compared are neighbours: the median of a round of one with that of the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Protocol

from duly_learn.frames.frame import LearnFrame

ROUNDS = 9
RUNS_MIN, RUNS_MAX = 3, 25
"""Batches of each in a round that are counted. One before them is not, as caches hold what the other has left there."""
SHORT_NS = 20_000_000
"""Where batches take so little time that RUNS_MIN of them are less than this, there are more."""
ROUND_NS_MAX = 3_000_000_000
"""Where a round takes longer, there are fewer of them, but ROUNDS_MIN."""
ROUNDS_MIN = 3


class Timed(Protocol):
    """A worker that can be timed: `running.model.RunningModel` is one."""

    def time_ns(self, frames: Sequence[LearnFrame]) -> int:
        """Runs the frames as one batch and says how long it took."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Two workers at one batch size."""

    original_ns: Sequence[float]
    """The median of each round."""
    candidate_ns: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """How many times as fast the candidate was, in each round."""
        return [a / b for a, b in zip(self.original_ns, self.candidate_ns, strict=True)]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def ratio_low(self) -> float:
        """The first quartile: in three of four rounds it was at least so much faster."""
        return quantiles(self.ratios, n=4, method="inclusive")[0] if len(self.ratios) > 1 else self.ratios[0]

    def spread_ms(self, values_ns: Sequence[float]) -> str:
        """The median of rounds and how far apart they lie, in ms."""
        low, high = min(values_ns) / 1e6, max(values_ns) / 1e6
        return f"{median(values_ns) / 1e6:.3g} ms ({low:.3g} to {high:.3g})"


def compare(original: Timed, candidate: Timed, frames: Sequence[LearnFrame], size: int) -> Compared:
    """Runs batches of `size` frames on both by turns; `frames` are taken in their order, again and again."""
    ours: list[float] = []
    theirs: list[float] = []
    place = 0
    rounds = ROUNDS
    while len(ours) < rounds:
        batch = [frames[(place + nth) % len(frames)] for nth in range(size)]
        place += size
        # Who goes first changes, so that neither always has what the other leaves.
        pair = ((original, ours), (candidate, theirs))
        for model, into in pair if len(ours) % 2 == 0 else reversed(pair):
            into.append(_median_ns(model, batch))
        if (1 + RUNS_MIN) * (ours[-1] + theirs[-1]) > ROUND_NS_MAX:
            rounds = ROUNDS_MIN
    return Compared(ours, theirs)


def _median_ns(model: Timed, batch: Sequence[LearnFrame]) -> float:
    first_ns = max(1, model.time_ns(batch))
    runs = max(RUNS_MIN, min(RUNS_MAX, SHORT_NS // first_ns))
    return median([model.time_ns(batch) for _ in range(runs)])
