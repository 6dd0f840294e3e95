"""What was found out about a candidate, and whether it is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from duly.agreement.interval import Interval
from duly.agreement.measures import Outputs
from duly_learn.optimize.step import Candidate
from duly_learn.optimize.timing import Compared


@dataclass(frozen=True, slots=True)
class Frame:
    """How one held-out frame came out."""

    index: int
    """Its place among the held-out frames."""
    score: float
    reason: str = ""
    """Why the candidate gave no answer; empty: it gave one."""


@dataclass(slots=True)
class Judged:
    """A candidate with its figures; those that were not come to are None."""

    name: str
    said: str = ""
    """What was done, in one sentence."""
    notes: list[str] = field(default_factory=list)
    candidate: Candidate | None = None
    folder: Path = Path()
    """Where its files lie."""
    agreement: Interval | None = None
    same: bool = False
    """Whether its answers differ from the original's by no more than rounding."""
    frames: Sequence[Frame] = ()
    worst: Sequence[tuple[Frame, Outputs | None]] = ()
    """Of the frames that are not answered as by the original those with the lowest scores, and what was given."""
    times: Mapping[int, Compared] = field(default_factory=dict)
    """By batch size."""
    warm_ns: Mapping[int, float] = field(default_factory=dict)
    """Median of the worker's own warm-up, by batch size."""
    size_bytes: int = 0
    joules: float | None = None
    """What a frame takes; None: not known."""
    refusals: list[str] = field(default_factory=list)
    """Why it is not kept, each with the figure that failed; empty: it is kept."""

    @property
    def kept(self) -> bool:
        return not self.refusals

    @property
    def speed_up(self) -> float:
        """How many times as fast as the original a frame alone is; 1: it is the original, or was not measured."""
        return self.times[min(self.times)].ratio if self.times else 1.0
