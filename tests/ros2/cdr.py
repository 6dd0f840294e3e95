"""Writes messages as CDR, for tests of what reads them: the same rules, from the other side."""

import struct
from collections.abc import Sequence


class Writer:
    """Writes one field after the other."""

    def __init__(self, order: str = "<") -> None:
        self._order = order
        self.message = b"\x00\x01\x00\x00" if order == "<" else b"\x00\x00\x00\x00"

    def numbers(self, kinds: str, *values: float) -> "Writer":
        for kind, value in zip(kinds, values, strict=True):
            size = struct.calcsize(kind)
            self.message += bytes(-(len(self.message) - 4) % size) + struct.pack(self._order + kind, value)
        return self

    def text(self, value: str) -> "Writer":
        return self.numbers("I", len(value.encode()) + 1)._raw(value.encode() + b"\0")

    def data(self, value: bytes) -> "Writer":
        return self.numbers("I", len(value))._raw(value)

    def sequence(self, kind: str, values: Sequence[float]) -> "Writer":
        return self.numbers("I", len(values)).numbers(kind * len(values), *values)

    def header(self, stamp_ns: int = 1_500_000_000, frame_id: str = "cam") -> "Writer":
        return self.numbers("iI", *divmod(stamp_ns, 1_000_000_000)).text(frame_id)

    def _raw(self, value: bytes) -> "Writer":
        self.message += value
        return self


def image(
    encoding: str, width: int, height: int, step: int, data: bytes, *, big_endian: bool = False, order: str = "<"
) -> bytes:
    writer = Writer(order).header().numbers("II", height, width).text(encoding)
    return writer.numbers("BI", big_endian, step).data(data).message
