"""The header of a WAV file, whoever wrote it: plain and extensible, with chunks before the samples, from a pipe whose
end was not known when the header was written, and RF64 for more than 4 GiB.

Python's own `wave` knows no floating point, and extensible headers only from Python 3.12 on.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from duly_client.recordings.file_kind import begins_with

UNKNOWN_BYTES_MIN = 0x7FFF0000
"""Sizes from here on are what recorders write who do not know the size: ffmpeg FFFFFFFF, arecord and sox near 2 GiB."""
RATE_HZ_MAX = 1 << 24
"""Of no sound; ultrasound is recorded at a few million at most."""

_PIECE_BYTES = 1 << 16
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_GUID_END = bytes.fromhex("000000001000800000aa00389b71")
"""A GUID with this end stands for the format whose number it begins with."""
_NAMES = {_PCM: "PCM", 2: "MS ADPCM", _FLOAT: "float", 6: "A-law", 7: "mu-law", 17: "IMA ADPCM", 85: "MP3"}


class WavError(ValueError):
    """The bytes are no WAV file; says what they are instead."""


@dataclass(frozen=True, slots=True)
class WavHeader:
    format: str
    """Such as "PCM" or "float"."""
    bits: int
    """Bits of a sample."""
    channels: int
    rate_hz: int
    data_bytes: int | None
    """Length of the samples as the header states it; None: not known, they go on until the end."""


def wav_header(read: Callable[[int], bytes]) -> WavHeader:
    """Reads up to the first sample. `read` returns as many bytes as it is asked for, fewer only at the end.

    Raises WavError.
    """
    head = read(12)
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        big_endian = head[:4] == b"RIFX"
        raise WavError("it is a WAV whose numbers are big-endian (RIFX)" if big_endian else begins_with(head))
    format_chunk, long_data_bytes = b"", None
    while True:
        name, size = _chunk(read, head := read(8))
        if name == b"data":
            break
        body = _body(read, size, keep=name in (b"fmt ", b"ds64"))
        if name == b"fmt ":
            format_chunk = body
        elif name == b"ds64" and len(body) >= 16:
            long_data_bytes = int.from_bytes(body[8:16], "little")
    if len(format_chunk) < 16:
        raise WavError("its samples come before any format" if not format_chunk else "its format chunk is cut off")
    number, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", format_chunk[:16])
    if number == _EXTENSIBLE and format_chunk[26:40] == _GUID_END:
        number = int.from_bytes(format_chunk[24:26], "little")
    if not channels or not 0 < rate_hz <= RATE_HZ_MAX:
        raise WavError(f"its format has {channels} channels at {rate_hz} Hz")
    data_bytes: int | None = size
    if size == 0xFFFFFFFF and long_data_bytes:
        data_bytes = long_data_bytes
    elif size == 0 or size >= UNKNOWN_BYTES_MIN:
        data_bytes = None
    return WavHeader(_NAMES.get(number, f"format {number}"), bits, channels, rate_hz, data_bytes)


def _chunk(read: Callable[[int], bytes], head: bytes) -> tuple[bytes, int]:
    if len(head) == 8 and head[0] == 0:  # the pad of a chunk of odd length; some writers leave it out
        head = head[1:] + read(1)
    if len(head) < 8:
        raise WavError("it ends before its samples")
    return head[:4], int.from_bytes(head[4:], "little")


def _body(read: Callable[[int], bytes], size: int, keep: bool) -> bytes:
    kept = bytearray()
    while size > 0:
        piece = read(min(size, _PIECE_BYTES))
        if not piece:
            raise WavError("it ends before its samples")
        size -= len(piece)
        if keep and len(kept) < _PIECE_BYTES:
            kept += piece
    return bytes(kept)
