"""What a target is to the generator: streams that take frames, and outcomes that come back.

A connection carries one session of one sensor. All its methods run in the event loop of one sender process.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from duly_client.types import Encoding, Payload, TensorSpec
from duly_load.results.outcomes import FrameOutcome
from duly_load.scenario.schedule import Session
from duly_load.scenario.tables import Sensor


class TargetError(Exception):
    """The target is not there, does not have the model, or broke off; says which, why, and what would be right."""


class AllRefused(TargetError):
    """The target is there and let in none of the streams that open at the start."""


class Refused(Exception):
    """The target is there and would not let the stream in: the reason in its own words."""


class FrameAnswer(NamedTuple):
    """What came back for one frame."""

    place: int
    """The frame's place in the schedule."""
    outcome: FrameOutcome
    """What the target calls it: ON_TIME where it gives a result and knows nothing of deadlines."""
    at_ns: int
    """When it came, on the monotonic clock."""
    batch_size: int = 0
    dispatched_unix_ns: int = 0
    occupied_ns: int = 0
    """See `Record` for these three; 0 where the target does not report them."""
    claimed: bool = False
    """The target knows of deadlines and says itself that it met this one."""


class AnswerSink(Protocol):
    """Takes what comes back on a connection."""

    def answered(self, answer: FrameAnswer) -> None:
        """What came back for a frame of this connection."""

    def ended(self, reason: str) -> None:
        """The target ended the stream, or broke off; nothing more comes. It is not called after `close`, nor where the
        target ends the stream after `finish` and owes no answer.
        """


class Connection(Protocol):
    """One session of one sensor."""

    async def open(self) -> None:
        """Raises TargetError, Refused."""

    async def send(self, place: int, payload: Payload, capture_unix_ns: int) -> None:
        """Gives the frame to the transport, and waits while that is full. Never raises for what the target did: that is
        reported by `ended`.
        """

    async def finish(self) -> None:
        """No frame comes any more; returns when all that were sent are answered, or the target broke off."""

    async def close(self) -> None:
        """Ends it now."""


class Target(Protocol):
    """A server under load, in one sender process; used inside `async with`."""

    async def __aenter__(self) -> "Target": ...

    async def __aexit__(self, *_: object) -> None: ...

    async def inputs(self, model: str) -> Sequence[TensorSpec]:
        """What the model takes for one frame; empty: the target does not say. Raises TargetError."""

    def connection(self, sensor: Sensor, session: Session, encoding: Encoding | None, sink: AnswerSink) -> Connection:
        """A connection that is not open yet. `encoding`: that of payloads that are byte strings."""
