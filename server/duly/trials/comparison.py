"""What a trial has to know of a canary, however it is found out: in turns (`switchback`), or by streams that count as
alike (`alike`).
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class By(IntEnum):
    """Whose frame it is, by the version that answers it."""

    CANDIDATE = 1
    ACTIVE = 2
    """The version that is active, of the same model."""
    OTHER = 3


@dataclass(frozen=True, slots=True)
class OnTime:
    """How many frames were on time, with the candidate and without."""

    frames: int = 0
    on_time: int = 0
    frames_without: int = 0
    on_time_without: int = 0
    pairs: int = 0
    """So many times the two were compared: pairs of blocks, or of frames."""

    @property
    def ratio(self) -> str:
        return percent(self.on_time, self.frames)

    @property
    def ratio_without(self) -> str:
        return percent(self.on_time_without, self.frames_without)


class Comparison(Protocol):
    """How often frames are on time with the candidate and without, and what that proves."""

    @property
    def in_turns(self) -> bool:
        """Whether streams go over in turns."""

    @property
    def has_candidate(self) -> bool:
        """Whether the candidate answers the drawn streams now."""

    @property
    def due_ns(self) -> int:
        """When `passed` has something to do next; 0: it is not known."""

    @property
    def mine(self) -> OnTime:
        """Frames of the canary, and what they are compared with."""

    def begin(self, now_ns: int) -> None:
        """Begins the canary."""

    def passed(self, now_ns: int, open_since_ns: int | None) -> bool:
        """Takes that time has passed. Returns whether `has_candidate` may have changed, at this very time.
        `open_since_ns`: when the oldest frame was received that has not ended; None: all have.
        """

    def frame(self, received_ns: int, by: By, drawn: bool, stream_class: int, on_time: bool) -> None:
        """Takes how a frame ended, as its client sees it. `drawn`: whether its stream is one of the canary's."""

    def proves_as_good(self, risk: float) -> bool:
        """Whether frames are on time as often with the candidate, up to what the rules allow. If they are not, this is
        ever true with a chance of `risk` at most. So it is with the other proofs.
        """

    def proves_worse(self, risk: float) -> bool:
        """Whether the canary's frames are on time less often by more than that."""

    def proves_others_suffer(self, risk: float) -> bool:
        """Whether the frames of other streams are."""

    def said(self) -> str:
        """Returns in words how often the canary's frames were on time."""

    def said_of_others(self) -> str:
        """Returns the same of other streams."""


def percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"
