"""What is said about each message that came: what became of it."""

from dataclasses import dataclass
from typing import Protocol

from duly_client import Advice, Outcome, Status
from duly_ros2.samples import Sample
from duly_ros2.settings import StreamSettings


@dataclass(slots=True)
class Received:
    """A message that came on one of a stream's topics."""

    topic: str
    sample: Sample
    captured_ns: int
    """By the wall clock, ns since 1970."""
    arrived_ns: int
    """When it came to the node, on the monotonic clock."""


@dataclass(slots=True)
class Answer:
    """What became of one message. Each that came has exactly one."""

    stream: StreamSettings
    topic: str
    stamp_ns: int
    frame_id: str
    """Of the message's header: its coordinate frame."""
    status: Status
    reason: str
    number: int = 0
    """The frame's id in its stream; 0: it was not sent."""
    outcome: Outcome | None = None
    """The server's, or the client's; None: the message did not become a frame."""
    latency_ns: int = 0
    """From capture to the outcome."""


class Publisher(Protocol):
    """Where a stream's answers, results and advice go."""

    def answer(self, answer: Answer) -> None:
        """Takes what became of one message."""

    def result(
        self, stream: StreamSettings, first: Received, outcome: Outcome, labels: dict[str, tuple[str, ...]]
    ) -> None:
        """Takes the outputs of a frame, whose first input was `first`. Raises Unusable."""

    def advise(self, stream: StreamSettings, advice: Advice) -> None:
        """Takes what the server advises."""
