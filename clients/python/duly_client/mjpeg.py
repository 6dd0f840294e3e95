"""JPEG pictures that follow one another in a stream of bytes, as cameras and ffmpeg write them (MJPEG)."""

from collections.abc import Iterator
from io import BufferedReader

PICTURE_BYTES_MAX = 32 * 1024 * 1024
"""Larger than any camera's JPEG; a longer one is an error."""

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_IN_SCAN = {0x00, *range(0xD0, 0xD8)}
"""Bytes that may follow FF within a scan: 00 for an FF of the data, or a restart marker."""


class MjpegError(ValueError):
    """The bytes are no JPEG pictures."""


class _End(Exception):
    """The source has no more bytes."""


def pictures_in(source: BufferedReader) -> Iterator[bytes]:
    """Gives the pictures in `source`, each as soon as its last byte is there. A picture that is cut off at the end is
    left out. Raises MjpegError where something else than a picture comes.

    Segments are skipped by their length: they may hold a thumbnail, a whole JPEG of its own.
    """
    picture = bytearray()
    try:
        while True:
            picture.clear()
            marker = _marker(source, picture)
            if marker != _SOI:
                raise MjpegError(f"a JPEG picture begins with FF D8, this with {picture.hex(' ').upper()}")
            while marker != _EOI:
                if marker != _SOI:
                    length = int.from_bytes(_read(source, picture, 2), "big")
                    _read(source, picture, max(0, length - 2))
                marker = _scan(source, picture) if marker == _SOS else _marker(source, picture)
            yield bytes(picture)
    except _End:
        return


def _read(source: BufferedReader, picture: bytearray, count: int) -> bytes:
    if len(picture) + count > PICTURE_BYTES_MAX:
        raise MjpegError(f"no end of a JPEG picture in {PICTURE_BYTES_MAX} bytes")
    data = source.read(count)
    picture += data
    if len(data) < count:
        raise _End
    return data


def _marker(source: BufferedReader, picture: bytearray) -> int:
    """Reads a marker and returns the byte after its FF, which may be repeated."""
    if _read(source, picture, 1) != b"\xff":
        raise MjpegError(f"byte {len(picture)} of a JPEG picture is {picture[-1]:02X}; a marker begins with FF")
    while (code := _read(source, picture, 1)[0]) == 0xFF:
        pass
    return code


def _scan(source: BufferedReader, picture: bytearray) -> int:
    """Reads entropy-coded data and returns the marker that ends it."""
    while True:
        ahead = source.peek()
        data_bytes = ahead.find(b"\xff")
        if data_bytes < 0:
            _read(source, picture, max(1, len(ahead)))
            continue
        _read(source, picture, data_bytes)
        code = _marker(source, picture)
        if code not in _IN_SCAN:
            return code
