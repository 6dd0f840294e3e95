"""Pictures in a stream of bytes: where they come apart, what is passed over, and the bounds."""

import io
import os
import random
from typing import Any

import cv2
import numpy as np
import pytest

from duly_client.recordings import RecordingError, picture_stream, refuse
from duly_client.recordings.picture_stream import pictures_in


class Dribble(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, chance: random.Random) -> None:
        self._data = data
        self._chance = chance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(self._data), len(buffer), self._chance.randint(1, 9))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


def jpegs() -> list[bytes]:
    """Noise, so that scans are full of FF; one progressive with several scans, one with restart markers, and one with
    a whole JPEG inside a segment.
    """
    noise = np.random.default_rng(5).integers(0, 256, (40, 56, 3), np.uint8)
    plain = cv2.imencode(".jpg", noise, (cv2.IMWRITE_JPEG_QUALITY, 98))[1].tobytes()
    progressive = cv2.imencode(".jpg", noise, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes()
    restarts = cv2.imencode(".jpg", noise, (cv2.IMWRITE_JPEG_RST_INTERVAL, 2))[1].tobytes()
    thumbnail = b"\xff\xe1" + (len(plain) + 2).to_bytes(2, "big") + plain
    return [plain, progressive, restarts, plain[:2] + b"\xff" + thumbnail + plain[2:]]


def pngs() -> list[bytes]:
    noise = np.random.default_rng(6).integers(0, 256, (9, 12, 3), np.uint8)
    return [cv2.imencode(".png", pixels)[1].tobytes() for pixels in (noise, noise[:, :, 0], noise.astype(np.uint16))]


def apart(data: bytes) -> tuple[list[bytes], list[str]]:
    """The pictures in `data`, and what was passed over."""
    told: list[str] = []
    source = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]
    pictures = list(pictures_in(source, "camera", lambda error: told.append(str(error))))
    return pictures, told


def test_pictures_from_a_pipe_come_apart_where_they_should() -> None:
    expected = (jpegs() + pngs()) * 2
    for seed in range(5):
        source = io.BufferedReader(Dribble(b"".join(expected), random.Random(seed)), 64)
        assert list(pictures_in(source, "camera", refuse)) == expected


def test_a_picture_is_given_as_soon_as_its_last_byte_is_there() -> None:
    """Whoever waits for the next one would be late by a period."""
    for picture in (*jpegs(), *pngs()):
        ours, theirs = os.pipe()
        with open(ours, "rb") as source, open(theirs, "wb", buffering=0) as camera:
            camera.write(picture)
            assert next(pictures_in(source, "camera", refuse)) == picture


@pytest.mark.parametrize(
    "between",
    [
        bytes(3),
        b"\xff" * 5,
        b"\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 42\r\nX-Timestamp: 1.5\r\n\r\n",
    ],
)
def test_padding_and_multipart_are_no_loss(between: bytes) -> None:
    for whole in (jpegs(), pngs()):
        assert apart(between + between.join(whole) + between) == (whole, [])


def test_a_picture_that_is_cut_off_anywhere_costs_no_other() -> None:
    for whole in (*jpegs()[:3], pngs()[0]):
        for length in range(3 if whole in jpegs() else 8, len(whole) - 2, 61):
            for end in (b"", b"\xff\xd9", bytes(64)):
                pictures, told = apart(whole + whole[:length] + end + whole + whole)
                assert (pictures[0], pictures[-2:]) == (whole, [whole, whole]), (length, end)
                assert len(pictures) == 4 or told, "it is told, or it ends as a whole one does"
                assert len(pictures) <= 4


def test_a_picture_cut_off_at_the_end_is_told() -> None:
    plain = jpegs()[0]
    for length in range(3, len(plain), 97):
        assert apart(plain + plain[:length]) == ([plain], ["camera: picture 2 is cut off at the end"])


def test_a_stream_that_is_joined_in_its_middle_begins_with_the_next_picture() -> None:
    plain = jpegs()[0]
    rest = plain[-700:]
    assert apart(rest + plain + plain) == (
        [plain, plain],
        ["camera: 700 bytes before the first picture are no picture"],
    )
    assert apart(plain + b"\x00\x05\xfe" + plain)[1] == ["camera: 3 bytes after picture 1 are no picture"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff\xd8\xff\xe0\x00\x04ab\x12\x34", "picture 1 is damaged: byte 9 is 12; a marker begins with FF"),
        (b"\xff\xd8\xff\xd3\x00\x04", "picture 1 is damaged: byte 4 is D3, no marker of a segment"),
        (b"\xff\xd8\xff\xd8\xff", "picture 1 is damaged: after 2 bytes another begins"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d\x01HDR", "picture 1 is damaged: byte 13 is 01; the name of a chunk"),
        (b"RIFF\x24\x00\x00\x80WAVEfmt ", "16 bytes before the first picture are no picture"),
    ],
)
def test_what_is_no_picture_is_told(data: bytes, why: str) -> None:
    pictures, told = apart(data)
    assert pictures == []
    assert told[0].startswith(f"camera: {why}")
    with pytest.raises(RecordingError, match=r"^camera: "):
        list(pictures_in(io.BufferedReader(io.BytesIO(data)), "camera", refuse))  # type: ignore[arg-type]


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_stream, "PICTURE_BYTES_MAX", 20_000)
    whole = jpegs()[1]
    endless = b"\xff\xd8\xff\xda\x00\x02" + bytes(30_000)
    assert apart(endless + whole) == ([whole], ["camera: picture 1 is damaged: no end in 20,000 bytes"])
    claimed = pngs()[0][:8] + b"\x7f\xff\xff\xffIDAT"
    assert apart(claimed + whole) == ([whole], ["camera: picture 1 is damaged: no end in 20,000 bytes"])
    with pytest.raises(RecordingError, match=r"^camera: no JPEG or PNG picture in \d\d,\d\d\d bytes$"):
        apart(whole + bytes(100_000) + whole)
