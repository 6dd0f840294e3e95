"""Frames that are not answered yet, with their payloads: bounded, and outside the scheduler, under the frame's `seq`.

Whatever the scheduler believes, these are the frames that the runtime owes an outcome.
"""

from duly.core.types import Frame

Payload = list[tuple[int, tuple[int, ...], bytes]]
"""For each input of the model, in its order: (index into channel.ENCODINGS, shape, bytes as they came)."""


class Payloads:
    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._by_seq: dict[int, tuple[Payload, int, Frame]] = {}

    def __len__(self) -> int:
        return len(self._by_seq)

    def fits(self, size_bytes: int) -> bool:
        return self.bytes + size_bytes <= self.bytes_max

    def put(self, frame: Frame, payload: Payload, size_bytes: int) -> None:
        self._by_seq[frame.seq] = (payload, size_bytes, frame)
        self.bytes += size_bytes

    def get(self, seq: int) -> Payload:
        return self._by_seq[seq][0]

    def frames(self) -> list[Frame]:
        """All of them, oldest first."""
        return [frame for _, _, frame in self._by_seq.values()]

    def drop(self, seq: int) -> int:
        """Forgets the frame and its payload, whose size in bytes it returns. Raises KeyError where it is not there."""
        size_bytes = self._by_seq.pop(seq)[1]
        self.bytes -= size_bytes
        return size_bytes
