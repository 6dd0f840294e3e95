"""The size of a picture as its header states it: what is read of it, and what is never decoded."""

import cv2
import numpy as np
import pytest

from duly.worker.picture_size import SCANS_MAX, SEGMENTS_MAX, PictureSize, beyond, picture_size, without_text

NOISE = np.random.default_rng(3).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def encoded(suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, NOISE, options)[1].tobytes()


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data


@pytest.mark.parametrize(
    ("suffix", "options", "passes"),
    [
        (".jpg", (), 1),
        (".jpg", (cv2.IMWRITE_JPEG_RST_INTERVAL, 2), 1),
        (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), 10),
        (".png", (), 1),
    ],
)
def test_what_encoders_write_has_its_size(suffix: str, options: tuple[int, ...], passes: int) -> None:
    size = picture_size(encoded(suffix, *options), "JPEG" if suffix == ".jpg" else "PNG")
    assert size == PictureSize(53, 37, passes)


def test_profiles_and_thumbnails_before_the_picture_are_passed_over() -> None:
    jpeg, thumbnail = encoded(".jpg"), cv2.imencode(".jpg", NOISE[:8, :8])[1].tobytes()
    before = segment(0xE1, b"Exif\0\0" + thumbnail) + 255 * segment(0xE2, b"ICC_PROFILE\0" + bytes(2000))
    assert picture_size(jpeg[:2] + before + jpeg[2:], "JPEG") == PictureSize(53, 37)


def test_a_picture_behind_more_than_any_profile_is_none() -> None:
    jpeg = encoded(".jpg")
    assert picture_size(jpeg[:2] + (SEGMENTS_MAX + 1) * segment(0xFE, b"x") + jpeg[2:], "JPEG") is None


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_no_beginning_of_a_picture_and_no_change_of_a_byte_raises(suffix: str) -> None:
    whole, name = encoded(suffix), "JPEG" if suffix == ".jpg" else "PNG"
    for length in range(min(len(whole), 700)):
        picture_size(whole[:length], name)
        changed = bytearray(whole)
        changed[length] ^= 0xFF
        picture_size(bytes(changed), name)


def test_a_jpeg_with_scan_upon_scan_is_not_decoded() -> None:
    jpeg = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    bomb = jpeg[:-2] + SCANS_MAX * scan + jpeg[-2:]
    size = picture_size(bomb, "JPEG")
    assert size is not None
    assert size.passes == 10 + SCANS_MAX
    assert beyond(size, 1 << 20, "JPEG") == f"the JPEG has {size.passes} scans, at most {SCANS_MAX} are decoded"
    assert not beyond(PictureSize(53, 37, 10), 53 * 37, "JPEG")


def test_chunks_that_no_pixel_depends_on_are_left_out() -> None:
    png = encoded(".png")
    text = b"".join(len(d).to_bytes(4, "big") + k + d + bytes(4) for k, d in ((b"zTXt", b"abc"), (b"iCCP", b"")))
    assert bytes(without_text(memoryview(png[:33] + text + png[33:]))) == png
    assert bytes(without_text(memoryview(png))) == png
