"""Holds the frames that are not answered yet, with their payloads, outside the scheduler and by the frame's `seq`.
Their bytes are bounded.

Whatever the scheduler believes, these are the frames that the server owes an outcome.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from duly.core.types import Frame, JointFrame, StreamClass, pieces_of
from duly.models.spec import Signature
from duly.runtime.shared_memory import SharedData
from duly.worker.channel import NONE_LAST


class InputData(NamedTuple):
    """What a frame holds for one input of its model."""

    encoding: int
    """Index into `channel.ENCODINGS`."""
    shape: tuple[int, ...]
    """Of an encoded picture: height, width, and how often a decoder goes through its pixels. Of sound: nothing."""
    data: bytes | memoryview | SharedData
    """The bytes as they came, or where they lie in memory that is shared with the client. A view holds the message that
    it is of, which has little else in it.
    """


@dataclass(slots=True, init=False)
class HeldFrame:
    """One frame from its receipt to its outcome: all that the server keeps of it outside the scheduler."""

    frame: Frame
    stream_class: StreamClass
    signature: Signature
    """What the model version took when the frame came. The version may be loaded again from other files meanwhile."""
    received_ns: int
    """When it was received, on the server's monotonic clock."""
    received_unix_ns: int
    """The same on the server's wall clock."""
    capture_to_receipt_ns: int = 0
    """Age of the frame when it was received; 0 where the clocks are not related."""
    clock_uncertainty_ns: int = 0
    """How far that age may be off; 0 where the clocks are not related."""
    payload: Sequence[InputData] = ()
    """One entry for each input of the model, in its order; empty where the frame was refused at the door, and as soon
    as it is answered.
    """
    size_bytes: int = 0
    grown_bytes: int = 0
    """How much more its payload takes since it was read beside the lanes."""
    principal: str = ""
    """Whose stream it came on."""
    worker_died: bool = False
    """Whether a worker has died while it ran the frame."""
    spare: bool = False
    """Whether it is the server's own, for spare time: nobody has sent it, and nobody gets its result."""
    last: bool = False
    """Whether it is known to be the last frame of its stream. Who takes the frame says so before it is submitted."""
    drawn: bool = False
    """Whether its stream is one of those that go over to a version on trial in turns, whichever answers it."""
    ran: Callable[[int, float], None] | None = None
    """Called when it has run, with that time and its lane time, in ns, also where its stream has closed meanwhile."""

    # Written out, as a constructor that a dataclass makes is never compiled.
    def __init__(
        self,
        frame: Frame,
        stream_class: StreamClass,
        signature: Signature,
        received_ns: int,
        received_unix_ns: int,
        capture_to_receipt_ns: int = 0,
        clock_uncertainty_ns: int = 0,
        payload: Sequence[InputData] = (),
        size_bytes: int = 0,
        grown_bytes: int = 0,
        principal: str = "",
        worker_died: bool = False,
        ran: Callable[[int, float], None] | None = None,
    ) -> None:
        self.frame = frame
        self.stream_class = stream_class
        self.signature = signature
        self.received_ns = received_ns
        self.received_unix_ns = received_unix_ns
        self.capture_to_receipt_ns = capture_to_receipt_ns
        self.clock_uncertainty_ns = clock_uncertainty_ns
        self.payload = payload
        self.size_bytes = size_bytes
        self.grown_bytes = grown_bytes
        self.principal = principal
        self.worker_died = worker_died
        self.spare = False
        self.last = False
        self.drawn = False
        self.ran = ran


class HeldFrames:
    """The held frames of all streams, up to `bytes_max` bytes of payload."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._by_seq: dict[int, HeldFrame] = {}
        self._last: set[int] = set()
        """Of these, those that are the last of their streams."""

    def __len__(self) -> int:
        return len(self._by_seq)

    def put(self, held: HeldFrame) -> None:
        self._by_seq[held.frame.seq] = held
        self.bytes += held.size_bytes
        if held.last:
            self._last.add(held.frame.seq)

    def last_of(self, frames: Sequence[Frame]) -> frozenset[int]:
        """Returns the indices of those that are the last of their streams."""
        if not self._last:  # as nearly always
            return NONE_LAST
        return frozenset([index for index, frame in enumerate(frames) if frame.seq in self._last])

    def payloads(self, frames: Sequence[Frame]) -> Sequence[Sequence[InputData]]:
        """Returns the payload of each of these frames, that of a joint frame from all its pieces, each of which holds
        one input. Raises KeyError where one is not held.
        """
        if len(frames) == 1 and not isinstance(frames[0], JointFrame):
            return (self._by_seq[frames[0].seq].payload,)
        return [
            [self._by_seq[piece.seq].payload[0] for piece in frame.pieces]
            if isinstance(frame, JointFrame)
            else self._by_seq[frame.seq].payload
            for frame in frames
        ]

    def holds(self, frame: Frame) -> bool:
        """Whether the frame is held, of a joint frame all its pieces."""
        return all([piece.seq in self._by_seq for piece in pieces_of(frame)])

    def of(self, frames: Sequence[Frame]) -> list[HeldFrame]:
        """Returns those of these frames that are held, in place of joint frames their pieces."""
        return [self._by_seq[piece.seq] for frame in frames for piece in pieces_of(frame) if piece.seq in self._by_seq]

    def replace(self, held: HeldFrame, payload: Sequence[InputData]) -> bool:
        """Takes another payload for a frame. Returns False where the frame is held no more, or there is no room."""
        grown_bytes = max(0, sum([len(data) for _, _, data in payload]) - held.size_bytes)
        if held.frame.seq not in self._by_seq or self.bytes + grown_bytes > self.bytes_max:
            return False
        held.payload, held.grown_bytes = payload, grown_bytes
        self.bytes += grown_bytes
        return True

    def all(self) -> list[HeldFrame]:
        """Returns all held frames, oldest first."""
        return list(self._by_seq.values())

    def open_since_ns(self) -> int | None:
        """Returns when the oldest held frame was received that somebody has sent; None: there is none."""
        return next((held.received_ns for held in self._by_seq.values() if not held.spare), None)

    def any_of(self, models: Collection[str]) -> bool:
        """Whether a frame of one of these versions is held."""
        return any(held.frame.model in models for held in self._by_seq.values())

    def drop(self, frame: Frame) -> HeldFrame:
        """Removes the frame with its payload and returns both. Raises KeyError where it is not held."""
        held = self._by_seq.pop(frame.seq)
        self.bytes -= held.size_bytes + held.grown_bytes
        if held.last:
            self._last.discard(frame.seq)
        held.payload = ()  # its outcome may wait long for a client that does not read
        return held
