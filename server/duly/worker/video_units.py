"""Encoded video on its way to a worker: what a frame's picture is made from, one access unit after another.

Both sides use it. An access unit is what an encoder gives for one picture (ITU-T H.264, 3.1; H.265, 3.1), with start
codes before its parts (Annex B of both). A decoder needs them all, in order, from a key picture on. So a frame comes
with those before it that no worker has been given, and each has the id of its frame, which rises by one from picture to
picture. A decoder that is given another id than the next one knows that something is missing, which it cannot see from
the units themselves.
"""

import struct
from collections.abc import Sequence

UNITS_MAX = 32
"""A frame comes with no more access units than this, its own among them. Decoding them all holds up its lane."""
NALS_MAX = 64
"""So many parts of an access unit are looked at for the first one that has pixels."""
PARTS_MAX = 256
"""An access unit with more parts is not decoded: each could have the pixels of a whole picture once more."""

_HEAD = struct.Struct("<QQI")  # id of the stream, frame id of the first, how many
_START = b"\x00\x00\x01"


def pack(stream_id: int, first: int, units: Sequence[bytes]) -> bytes:
    """Returns the payload of access units of a stream, with the frame ids `first`, `first + 1`, ..."""
    lengths = struct.pack(f"<{len(units)}I", *map(len, units))
    return b"".join((_HEAD.pack(stream_id, first, len(units)), lengths, *units))


def packed_bytes(units: int, size_bytes: int) -> int:
    """Returns the length of a payload with so many access units of that size in all."""
    return _HEAD.size + 4 * units + size_bytes


def unpack(payload: memoryview) -> tuple[int, int, list[memoryview]]:
    """Returns (id of the stream, frame id of the first, access units). Raises ValueError where that is no payload of
    video.
    """
    try:
        stream_id, first, count = _HEAD.unpack_from(payload)
        if not 0 < count <= UNITS_MAX:
            raise ValueError(f"{count} access units, 1 to {UNITS_MAX} come together")
        lengths = struct.unpack_from(f"<{count}I", payload, _HEAD.size)
    except struct.error as error:
        raise ValueError(f"{len(payload)} bytes hold no access units") from error
    at = packed_bytes(count, 0)
    if at + sum(lengths) != len(payload):
        raise ValueError(f"access units of {sum(lengths)} bytes in {len(payload)}")
    units = []
    for length in lengths:
        units.append(payload[at : at + length])
        at += length
    return stream_id, first, units


def parts(data: bytes) -> int:
    """Returns how many parts an access unit has."""
    return data.count(_START)


def begins_as_video(data: bytes) -> bool:
    """Whether the data begins with a start code of Annex B."""
    return data[:3] == _START or data[:4] == b"\x00" + _START


def is_key(data: bytes, encoding: str) -> bool:
    """Whether a decoder can begin with that access unit: its first part with pixels is of a picture at which decoding
    may begin (H.264: IDR; H.265: IDR, CRA or BLA).
    """
    at = 0
    for _ in range(NALS_MAX):
        at = data.find(_START, at) + 3
        if at < 3 or at >= len(data):
            return False
        if encoding == "H264":
            kind = data[at] & 0x1F
            if 1 <= kind <= 5:
                return kind == 5
        else:
            kind = data[at] >> 1 & 0x3F
            if kind < 32:
                return 16 <= kind <= 21
    return False
