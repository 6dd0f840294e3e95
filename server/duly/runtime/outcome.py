"""What the runtime hands to a stream for each frame."""

from dataclasses import dataclass
from typing import Protocol

from duly.core.events import Advice
from duly.core.types import Frame, OutcomeStatus

Output = tuple[int, tuple[int, ...], bytes]
"""(index into the signature's outputs, shape, little-endian bytes)."""


@dataclass(slots=True)
class BatchRun:
    """What the frames of one batch have in common. Times on the server's monotonic clock."""

    model: str
    variant: str
    size: int
    dispatched_ns: int
    started_ns: int = 0
    finished_ns: int = 0


@dataclass(slots=True)
class Outcome:
    frame: Frame
    status: OutcomeStatus
    reason: str
    size_bytes: int
    """Payload that the frame held until now."""
    run: BatchRun | None = None
    outputs: list[Output] | None = None


class Sink(Protocol):
    """Where the outcomes of one stream go. Called on the event loop, must not block."""

    def deliver(self, outcome: Outcome) -> None: ...

    def advise(self, advice: Advice, reason: str, period_ns: int) -> None: ...

    def fail(self) -> None:
        """One of the above raised. The stream hears nothing more and should end."""
