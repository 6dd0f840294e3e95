"""JPEG and PNG pictures that follow one another in a stream of bytes, as cameras, ffmpeg and GStreamer write them.

Between pictures may lie what cameras and servers put there: padding, the headers of multipart HTTP. A picture that is
damaged or cut off is passed over, and so is what comes before the first where a stream is joined in its middle; the
stream goes on at the next picture.
"""

from collections.abc import Iterator
from io import BufferedReader

from duly_client.recordings.recording import PassOver, RecordingError

PICTURE_BYTES_MAX = 32 * 1024 * 1024
"""Larger than any camera's picture. A longer one is passed over, and so many bytes without a picture end the stream."""

_READ_BYTES = 1 << 16
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_IN_SCAN = {0x00, *range(0xD0, 0xD8)}
"""Bytes that may follow FF within a scan: 00 for an FF of the data, or a restart marker."""
_ANYTHING = {*range(0xE0, 0xF0), 0xFE}
"""Segments that may hold whole pictures: of applications, and comments. Tables hold none."""
_HARMLESS = bytes({0, 0xFF, *b"\t\n\r", *range(32, 127)})
"""Bytes of padding and of text."""


class _Damaged(Exception):
    """The picture is none; the message says why."""


class _End(Exception):
    """The source has no more bytes."""


def pictures_in(source: BufferedReader, name: str, pass_over: PassOver) -> Iterator[bytes]:
    """Gives the pictures in `source`, each as soon as its last byte is there; `name` is the source's, for messages.

    Raises RecordingError where PICTURE_BYTES_MAX bytes in a row hold no picture.
    """
    return _Pictures(source, name, pass_over).each()


class _Pictures:
    def __init__(self, source: BufferedReader, name: str, pass_over: PassOver) -> None:
        self._source = source
        self._name = name
        self._pass_over = pass_over
        self._ahead = bytearray()
        """What is read and not yet given or dropped. While a picture is read, it begins there."""
        self._resume = 0
        """From where in `_ahead` the next picture is looked for if this one is damaged."""
        self._given = 0

    def each(self) -> Iterator[bytes]:
        after_damage = False
        while self._find(after_damage):
            try:
                end = self._png_end() if self._ahead.startswith(_PNG) else self._jpeg_end()
            except _Damaged as damage:
                self._tell(f"picture {self._given + 1} is damaged: {damage}")
                after_damage = True
            except _End:
                self._tell(f"picture {self._given + 1} is cut off at the end")
                after_damage = True
            else:
                after_damage = False
                self._given += 1
                yield bytes(self._ahead[:end])
                self._resume = end
            del self._ahead[: self._resume]

    def _tell(self, what: str) -> None:
        self._pass_over(RecordingError(f"{self._name}: {what}"))

    def _find(self, after_damage: bool) -> bool:
        """Drops what comes before the next picture; False: there is none."""
        strange, dropped = 0, -len(self._ahead) if after_damage else 0  # the damaged picture had its own bound
        while True:
            starts = [at for at in (self._ahead.find(_JPEG), self._ahead.find(_PNG)) if at >= 0]
            keep = min(starts) if starts else max(0, len(self._ahead) - len(_PNG) + 1)
            strange += len(self._ahead[:keep].translate(None, _HARMLESS))
            dropped += keep
            del self._ahead[:keep]
            if not starts and dropped > PICTURE_BYTES_MAX:
                raise RecordingError(f"{self._name}: no JPEG or PNG picture in {dropped:,} bytes")
            if starts or not self._read():
                break
        if not starts:
            strange += len(self._ahead.translate(None, _HARMLESS))
            dropped += len(self._ahead)
        if strange and not after_damage:
            where = f"after picture {self._given}" if self._given else "before the first picture"
            self._tell(f"{dropped:,} bytes {where} are no picture")
        return bool(starts)

    def _read(self) -> bool:
        data = self._source.read1(_READ_BYTES)
        self._ahead += data
        return bool(data)

    def _need(self, count: int) -> None:
        """Reads until so many bytes of the picture are there."""
        if count > PICTURE_BYTES_MAX:
            raise _Damaged(f"no end in {PICTURE_BYTES_MAX:,} bytes")
        while len(self._ahead) < count:
            if not self._read():
                raise _End

    def _jpeg_end(self) -> int:
        """Segments are skipped by their length: they may hold a thumbnail, a whole JPEG of its own."""
        at = self._resume = 2
        while True:
            segment = at
            at = self._marker(at)
            code = self._ahead[at - 1]
            if code == _EOI:
                return at
            if code == _SOI:
                self._resume = at - 2
                raise _Damaged(f"after {at - 2:,} bytes another begins")
            if code in _IN_SCAN:
                raise _Damaged(f"byte {at} is {code:02X}, no marker of a segment")
            self._resume = segment  # its length, if cut off, leads into another picture
            self._need(at + 2)
            body, at = at, at + max(2, int.from_bytes(self._ahead[at : at + 2], "big"))
            if code not in _ANYTHING:
                self._need(at + 2)  # a segment that is cut off may end within the first bytes of another picture
                if (other := self._ahead.find(_JPEG, body, at + 2)) >= 0:
                    self._resume = other
                    raise _Damaged(f"after {other:,} bytes another begins")
            if code == _SOS:
                at = self._resume = self._scan_end(at)

    def _marker(self, at: int) -> int:
        """Returns where the marker at `at` ends. Its FF may be repeated."""
        self._need(at + 2)
        if self._ahead[at] != 0xFF:
            raise _Damaged(f"byte {at + 1} is {self._ahead[at]:02X}; a marker begins with FF")
        while self._ahead[at + 1] == 0xFF:
            at += 1
            self._need(at + 2)
        return at + 2

    def _scan_end(self, at: int) -> int:
        """Returns where the entropy-coded data that begins at `at` ends: at a marker."""
        while True:
            found = self._ahead.find(b"\xff", at)
            if found < 0:
                at = max(at, len(self._ahead))
                self._need(at + 1)
            elif self._ahead[self._marker(found) - 1] in _IN_SCAN:
                at = self._marker(found)
            else:
                return found

    def _png_end(self) -> int:
        at = self._resume = len(_PNG)
        while True:
            self._need(at + 8)
            length, chunk = int.from_bytes(self._ahead[at : at + 4], "big"), bytes(self._ahead[at + 4 : at + 8])
            if not chunk.isalpha():
                raise _Damaged(f"byte {at + 5} is {chunk[0]:02X}; the name of a chunk is four letters")
            self._resume = at  # its length, if cut off, leads into another picture
            at += 12 + length
            if chunk == b"IEND":
                self._need(at)
                return at
