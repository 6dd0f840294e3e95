"""What the streams of a server hold together, and who gives way when there is no more room.

Three things are held for streams: payloads of frames that are not answered, results that are not written, and messages
whose frames wait to be taken. Each is bounded for all streams together, whatever their clients do. Where a stream finds
no room, less critical ones make it: their waiting frames and unwritten results are SHED, the stream that holds the most
first. A stream gives way to no equal.

What is shared with clients on this machine is counted beside that, from the opening of a stream to its end.
"""

from collections.abc import Callable
from typing import Protocol

from duly.core.types import StreamClass
from duly.streams.errors import CallError
from duly.streams.limits import PrincipalUse

OUTCOME_BYTES = 1024
"""What an outcome takes besides its result, about."""
OUTCOMES_PART = 4
"""Outcomes that are not written may take one of so many parts of the memory for results."""
OUTCOMES_MIN = 16_384
"""So many may wait in any case."""
SHARED_TIMES_LEFT = 3
"""A principal may share so many times as much memory as is left then, so that there is some for who has none."""


class Holder(Protocol):
    """A stream, as far as it holds something."""

    use: PrincipalUse
    frame_bytes: int

    @property
    def stream_class(self) -> StreamClass: ...

    @property
    def result_bytes(self) -> int: ...

    def shed_waiting(self) -> None:
        """Answers all its waiting frames SHED. Frames that run stay."""

    def shed_results(self) -> None:
        """Withholds all its results that the transport has not been given."""

    def end(self, error: Exception | None) -> None: ...


class Memory:
    def __init__(self, bytes_max: int, shared_bytes_max: int = 0) -> None:
        """`bytes_max`: for results, and for messages whose frames wait; payloads are counted where they are held.
        `shared_bytes_max`: for what is shared with clients.
        """
        self.bytes_max = bytes_max
        self.shared_bytes_max = shared_bytes_max
        self.shared_bytes = 0
        """Bytes of memory that are shared with clients."""
        self.result_bytes = 0
        """Bytes of results that are not written yet."""
        self.outcomes = 0
        """Outcomes that are not written yet."""
        self.outcomes_max = max(OUTCOMES_MIN, bytes_max // OUTCOMES_PART // OUTCOME_BYTES)
        self._streams: dict[Holder, None] = {}
        self._messages: dict[Holder, int] = {}
        """The bytes of messages whose frames wait, the longest waiting first."""
        self._message_bytes = 0

    def opened(self, stream: Holder) -> None:
        self._streams[stream] = None

    def closed(self, stream: Holder) -> None:
        self._streams.pop(stream, None)

    def share(self, use: PrincipalUse, size_bytes: int) -> None:
        """Counts memory that is shared with a client of the principal, until `unshare`. Raises CallError where there is
        no room for it.
        """
        left_bytes = self.shared_bytes_max - self.shared_bytes - size_bytes
        if left_bytes < 0 or use.shared_bytes + size_bytes > max(SHARED_TIMES_LEFT * left_bytes, size_bytes):
            text = f"the stream's shared memory has {size_bytes} bytes, of {self.shared_bytes_max} are taken"
            text = f"{text} {self.shared_bytes} (local_bytes_max)"
            raise CallError("STREAMS_EXHAUSTED", text, metadata={"transport": "grpc"})
        self.shared_bytes += size_bytes
        use.shared_bytes += size_bytes

    def unshare(self, use: PrincipalUse, size_bytes: int) -> None:
        self.shared_bytes -= size_bytes
        use.shared_bytes -= size_bytes

    def evict_frames(self, stream: Holder, fits: Callable[[], bool], same_principal: bool) -> bool:
        """Makes room for a frame of `stream`: waiting frames of less critical streams are SHED until it `fits`. Returns
        whether it does. `same_principal`: only streams of the same principal give way.
        """
        for other in self._less_critical(stream, lambda other: other.frame_bytes):
            if not same_principal or other.use is stream.use:
                other.shed_waiting()
                if fits():
                    return True
        return False

    def evict_results(self, stream: Holder, size_bytes: int) -> bool:
        """Makes room for a result of `stream`: unwritten results of less critical streams are withheld until there is.
        Returns whether there is.
        """
        for other in self._less_critical(stream, lambda other: other.result_bytes):
            other.shed_results()
            if self.result_bytes + size_bytes <= self.bytes_max:
                return True
        return False

    def hold_message(self, stream: Holder, size_bytes: int) -> None:
        """Counts a message whose frames wait to be taken, until `release_message`. Where all such messages are too
        large together, the least critical stream ends, of equals the one that has waited longest.
        """
        self._messages[stream] = size_bytes
        self._message_bytes += size_bytes
        if self._message_bytes > self.bytes_max:
            text = f"more than {self.bytes_max} bytes of messages wait until their clients read outcomes"
            max(self._messages, key=lambda other: other.stream_class).end(CallError("CLIENT_TOO_SLOW", text))

    def release_message(self, stream: Holder) -> None:
        self._message_bytes -= self._messages.pop(stream, 0)

    def _less_critical(self, stream: Holder, held: Callable[[Holder], int]) -> list[Holder]:
        others = [other for other in self._streams if other.stream_class > stream.stream_class and held(other)]
        return sorted(others, key=lambda other: (-other.stream_class, -held(other)))
