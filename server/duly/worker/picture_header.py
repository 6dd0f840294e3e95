"""What the header of a JPEG or a PNG says of its pixels, before anything decodes them.

OpenCV gives whatever it is asked for: 16 bits become 8, colours become gray, alpha is dropped, ink becomes light. A
frame that is not what its model takes has to be INVALID instead, and only the header tells.
"""

from dataclasses import dataclass

SEGMENTS_MAX = 1 << 16
"""Segments of a JPEG or chunks of a PNG that are looked at. Pictures have some hundreds; a PNG one for each 8 KiB."""

_JPEG_KINDS = {0xC0: "", 0xC1: "", 0xC2: "", 0xC3: "lossless", 0xC9: "arithmetic-coded", 0xCA: "arithmetic-coded"}
"""The kinds of JPEG by their start of frame: sequential and progressive ones are taken, others are named."""
_NO_FRAME = {0xC4, 0xC8, 0xCC}
"""Markers among C0 to CF that start no frame: tables, and one that is reserved."""
_JPEG_END = b"\xff\xd9"
_ALONE = {0x00, 0x01, *range(0xD0, 0xD9)}
"""Markers that no length follows."""
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
"""Channels without alpha by PNG's colour type. A palette (3) is of colours."""


@dataclass(frozen=True, slots=True)
class PictureHeader:
    bits: int
    """Bits of a sample as a decoder gives it: 8 where a PNG has fewer or a palette, since PNG says how they scale."""
    channels: int
    """1: gray; 3: colours; 4: CMYK. Alpha is not counted."""
    alpha: bool = False
    """Pixels may be transparent."""
    pictures: int = 1
    """More than one: an animation."""
    kind: str = ""
    """A kind of JPEG that is not taken, such as "lossless"; empty: none of these."""


def picture_header(data: memoryview, encoding: str) -> PictureHeader | None:
    """Reads the header of a picture that begins as its `encoding` does. None: there is none, it makes no sense, or the
    picture does not end within the data.
    """
    return _png(data) if encoding == "PNG" else _jpeg(data)


def _jpeg(data: memoryview) -> PictureHeader | None:
    at = 2
    for _ in range(SEGMENTS_MAX):
        if at + 10 > len(data):
            return None
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1  # fill bytes, or bytes between segments, which decoders skip as well
        elif marker in (0xD9, 0xDA):
            return None
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            if data[-2:] != _JPEG_END and bytes(data[at:]).rfind(_JPEG_END) < 0:
                return None  # cut off; where zeros follow, decoders take them for pixels
            return PictureHeader(data[at + 4], data[at + 9], kind=_JPEG_KINDS.get(marker, "hierarchical"))
        else:
            at += 2 if marker in _ALONE else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _png(data: memoryview) -> PictureHeader | None:
    if len(data) < 33 or data[12:16].tobytes() != b"IHDR" or data[25] not in _PNG_CHANNELS:
        return None
    bits, colour_type, at = data[24], data[25], 33
    alpha, pictures = colour_type in (4, 6), 1
    for _ in range(SEGMENTS_MAX):
        length, chunk = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8].tobytes()
        if at + 12 + length > len(data):
            return None  # OpenCV spends seconds on a chunk that is longer than what there is
        if chunk == b"IEND":
            return PictureHeader(max(bits, 8), _PNG_CHANNELS[colour_type], alpha, pictures)
        alpha = alpha or chunk == b"tRNS"
        if chunk == b"acTL":
            pictures = int.from_bytes(data[at + 8 : at + 12], "big")
        at += 12 + length
    return None
