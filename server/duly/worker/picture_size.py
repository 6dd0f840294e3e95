"""How many pixels a JPEG or PNG holds and how often a decoder goes through them, read in the serving process.

Only what stands before the pixels is looked at, and no more than SEGMENTS_MAX pieces of it, so that no picture holds up
the event loop. Nothing is decoded, and nothing is allocated by what a header claims. Whether the header is true is seen
in the worker, which checks the same limit again before and after it decodes.
"""

from dataclasses import dataclass

SEGMENTS_MAX = 1024
"""Pieces of a file that are looked at before the pixels. A colour profile in a JPEG takes up to 255 of them."""
SCANS_MAX = 100
"""A progressive JPEG may have so many scans, else its frame is INVALID; encoders write about ten. Each one goes through
all pixels, however few bytes it has."""
SEARCHED_BYTES_MAX = 4 << 20
"""So much of a JPEG is searched for scans before it is let in, 1 ms for each MiB. The worker searches all."""
_TEXT = (b"zTXt", b"iTXt", b"tEXt", b"iCCP")
"""Chunks of a PNG that no pixel depends on and that inflate to more than they are, each to as much as libpng allows."""

MAGIC = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "MJPEG": b"\xff\xd8\xff"}
"""First bytes of a picture. They are checked because OpenCV takes a dozen other formats as gladly."""
_NO_FRAME = {0xC4, 0xC8, 0xCC}
_ALONE = {0x00, 0x01, *range(0xD0, 0xD9)}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_SCAN = b"\xff\xda"


@dataclass(frozen=True, slots=True)
class PictureSize:
    width: int
    height: int
    passes: int = 1
    """How often a decoder goes through all pixels."""

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def work(self) -> int:
        """The pixels that a decoder goes through. What pictures take is learnt by it."""
        return self.width * self.height * self.passes


def picture_size(data: bytes | memoryview, encoding: str, bytes_max: int = SEARCHED_BYTES_MAX) -> PictureSize | None:
    """Returns the size that the header states, with extents of at least 1; None: there is no such header.

    `encoding`: JPEG, MJPEG or PNG. `bytes_max`: so much of a JPEG is searched for further scans.
    """
    size = _png(data) if encoding == "PNG" else _jpeg(data, bytes_max)
    return size if size is not None and size.width > 0 and size.height > 0 else None


def no_picture(data: bytes | memoryview, encoding: str) -> str:
    """Says why nothing can be decoded."""
    if data[: len(MAGIC[encoding])] != MAGIC[encoding]:
        return f"its {len(data)} bytes do not begin as a {encoding} does"
    return f"the {encoding} of {len(data)} bytes is damaged or cut off"


def beyond(size: PictureSize, pixels_max: int, encoding: str) -> str:
    """Says in what the picture exceeds what is decoded; empty: it does not."""
    if size.pixels > pixels_max:
        return (
            f"the {encoding} has {size.width} x {size.height} pixels, at most {pixels_max:,} are decoded "
            "(pixels_max of [[input]] in model.toml)"
        )
    if encoding != "PNG" and size.passes > SCANS_MAX:
        return f"the {encoding} has {size.passes:,} scans, at most {SCANS_MAX} are decoded"
    return ""


def _jpeg(data: bytes | memoryview, bytes_max: int) -> PictureSize | None:
    if data[:3] != MAGIC["JPEG"]:
        return None
    at, end = 2, len(data)
    for _ in range(SEGMENTS_MAX):
        if at + 10 > end:
            return None
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1  # fill bytes
        elif marker in (0xD9, 0xDA):
            return None
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            components = data[at + 9]
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            return PictureSize(
                width, height, _scans(data[:bytes_max], at + 2 + length, components, marker in _PROGRESSIVE)
            )
        else:
            at += 2 if marker in _ALONE else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _scans(data: bytes | memoryview, at: int, components: int, progressive: bool) -> int:
    """How many scans follow. A sequential JPEG whose first scan has all components has one; what comes after it is not
    decoded. Bytes within a scan are never FF DA.
    """
    if not progressive:
        for _ in range(SEGMENTS_MAX):
            if at + 5 > len(data):
                return 1
            marker = data[at + 1]
            if data[at] != 0xFF or marker == 0xFF:
                at += 1
            elif marker == 0xDA:
                if data[at + 4] >= components:
                    return 1
                break
            else:
                at += 2 if marker in _ALONE else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return max(1, bytes(data).count(_SCAN, at))


def _png(data: bytes | memoryview) -> PictureSize | None:
    if len(data) < 33 or data[:8] != MAGIC["PNG"] or bytes(data[12:16]) != b"IHDR":
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    colour, interlaced = data[25], data[28]
    # Alpha is looked at in a run of its own (worker/decode), and a palette may have it. An interlaced picture is put
    # together in seven runs over its rows, which take about as long as a second one.
    passes = 1 + (colour in (3, 4, 6)) + (interlaced != 0)
    return PictureSize(width, height, passes)


def without_text(png: memoryview) -> bytes | memoryview:
    """Returns the PNG without chunks that no pixel depends on and that may hold far more than they seem to. The chunks
    must be whole, as `picture_header` has found them.
    """
    kept: list[memoryview] = []
    at, begin = 8, 0
    while at + 12 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] in _TEXT:
            kept.append(png[begin:at])
            begin = end
        at = end
    return b"".join([*kept, png[begin:]]) if kept else png
