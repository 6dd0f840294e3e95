"""Payload bytes of frames that wait: bounded, and outside the scheduler, under the frame's `seq`."""

Payload = list[tuple[int, tuple[int, ...], bytes]]
"""For each input of the model, in its order: (index into channel.ENCODINGS, shape, bytes as they came)."""


class Payloads:
    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._by_seq: dict[int, tuple[Payload, int]] = {}

    def __len__(self) -> int:
        return len(self._by_seq)

    def fits(self, size_bytes: int) -> bool:
        return self.bytes + size_bytes <= self.bytes_max

    def put(self, seq: int, payload: Payload, size_bytes: int) -> None:
        self._by_seq[seq] = (payload, size_bytes)
        self.bytes += size_bytes

    def get(self, seq: int) -> Payload:
        return self._by_seq[seq][0]

    def drop(self, seq: int) -> int:
        """Forgets the payload; returns its size in bytes."""
        size_bytes = self._by_seq.pop(seq)[1]
        self.bytes -= size_bytes
        return size_bytes
