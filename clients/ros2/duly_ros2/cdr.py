"""Reads messages as they are on the wire: CDR, as ROS 2 has it (OMG DDSI-RTPS 10.2, plain CDR of XCDR version 1).

The node subscribes to bytes and reads them here, since rclpy would make a Python object of each message and copy its
data twice more. Arrays are views of the message.
"""

import struct
from typing import Literal

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES = 4
"""What says how the message is encoded. Alignment counts from its end."""


class Unreadable(ValueError):
    """A message that the node cannot use; says what was found and what would be right."""

    stamp_ns = 0
    """Of its header, where that could be read."""
    frame_id = ""


class Reader:
    """Reads the fields of one message, one after the other. Raises Unreadable where it ends too early."""

    def __init__(self, message: bytes) -> None:
        if len(message) < HEADER_BYTES or message[0] or message[1] > 1:
            raise Unreadable(
                f"the message begins with {message[:2].hex() or 'nothing'}; expected plain CDR, 0000 or 0001"
            )
        self._message = message
        self._order: Literal["<", ">"] = "<" if message[1] else ">"
        self._at = HEADER_BYTES

    def numbers(self, kinds: str) -> tuple[int | float, ...]:
        """Reads numbers, each of which `kinds` names as the module struct does, with their own alignment."""
        found: list[int | float] = []
        for kind in kinds:
            size = struct.calcsize(kind)
            self._align(size)
            try:
                found += struct.unpack_from(self._order + kind, self._message, self._at)
            except struct.error:
                raise self._too_short(size) from None
            self._at += size
        return tuple(found)

    def integer(self, kind: str = "I") -> int:
        """Reads one number that is whole."""
        return int(self.numbers(kind)[0])

    def text(self) -> str:
        """Reads a string; bytes that are no UTF-8 are shown as such."""
        size = self.integer()
        return self._take(size)[:-1].decode(errors="backslashreplace")

    def skip(self, size: int, alignment: int) -> None:
        """Passes over `size` bytes of elements that are aligned to `alignment`."""
        self._align(alignment)
        self._require(size)
        self._at += size

    def data(self) -> bytes:
        """Reads a sequence of bytes: a copy of its own."""
        return self._take(self.integer())

    def array(self, kind: str) -> NDArray[np.generic]:
        """Reads a sequence of numbers, `kind` as numpy names it ("f4", "u1"): a view, in the message's byte order."""
        count = self.integer()
        dtype = np.dtype(kind).newbyteorder(self._order)
        if count:
            self._align(dtype.itemsize)
        self._require(count * dtype.itemsize)
        array = np.frombuffer(self._message, dtype, count, self._at) if count else np.empty(0, dtype)
        self._at += count * dtype.itemsize
        return array

    def _take(self, size: int) -> bytes:
        self._require(size)
        taken = self._message[self._at : self._at + size]
        self._at += size
        return taken

    def _align(self, size: int) -> None:
        self._at += -(self._at - HEADER_BYTES) % size

    def _require(self, size: int) -> None:
        if self._at + size > len(self._message):
            raise self._too_short(size)

    def _too_short(self, size: int) -> Unreadable:
        return Unreadable(f"the message ends after {len(self._message)} bytes; it should go on to {self._at + size}")
