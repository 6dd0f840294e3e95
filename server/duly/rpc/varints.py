"""Varints, as protobuf writes integers: seven bits a byte, the lowest first, and a high bit where more follows.

Numbers are those of int64 and uint64. A negative one is written as its two's complement, in ten bytes.
"""

from typing import Final

_LAST: Final = [bytes((number,)) for number in range(128)]
_MORE: Final = [bytes((number | 128,)) for number in range(128)]


def varint(value: int) -> bytes:
    """Returns the number as a varint. Raises ValueError where it fits neither int64 nor uint64."""
    if 0 <= value < 0x4000:
        return _LAST[value] if value < 0x80 else _MORE[value & 127] + _LAST[value >> 7]
    parts: list[bytes] = []
    while not 0 <= value < 128 and len(parts) < 9:
        parts.append(_MORE[value & 127])
        value >>= 7
    if len(parts) == 9 and not -1 <= value <= 1:
        raise ValueError("a number has more than 64 bits")
    parts.append(_LAST[value & 127 if value >= 0 else 1])
    return b"".join(parts)


def number_field(tag: bytes, value: int) -> bytes:
    """Returns a field that holds the number, or nothing where it is 0, which protobuf takes for granted. Raises
    ValueError as `varint` does.
    """
    # Times of a frame in nanoseconds have three or four bytes nearly always.
    if 0x4000 <= value < 0x200000:
        return b"%b%b%b%b" % (tag, _MORE[value & 127], _MORE[value >> 7 & 127], _LAST[value >> 14])
    if 0x200000 <= value < 0x10000000:
        high = _LAST[value >> 21]
        return b"%b%b%b%b%b" % (tag, _MORE[value & 127], _MORE[value >> 7 & 127], _MORE[value >> 14 & 127], high)
    return tag + varint(value) if value else b""


def bytes_field(tag: bytes, value: bytes) -> bytes:
    """Returns a field that holds the bytes, or nothing where they are none."""
    return b"%b%b%b" % (tag, varint(len(value)), value) if value else b""
