"""Video files as frames, through OpenCV: as JPEG where the model takes that, else as pixels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from duly_client.recordings.pictures import check_takes_pictures, gray_or_colours, opencv
from duly_client.recordings.recording import PERIOD_S, Frame, PassOver, Recording, RecordingError, taken
from duly_client.types import TensorSpec, Value

VIDEOS = {".avi", ".mkv", ".mov", ".mp4", ".webm"}
JPEG_QUALITY = 90
RATE_HZ_MAX = 1000.0
"""A header that states more has none to state."""


def video(path: Path, spec: TensorSpec) -> Recording:
    """Raises RecordingError where there is no video, OpenCV is not installed, or the model takes no pictures."""
    cv2 = opencv("Reading video")
    check_takes_pictures(str(path), spec)
    with path.open("rb"):
        pass  # who may not read it hears that, and not what OpenCV makes of it
    opened = cv2.VideoCapture(str(path))
    rate_hz, count = opened.get(cv2.CAP_PROP_FPS), int(opened.get(cv2.CAP_PROP_FRAME_COUNT))
    width, height = int(opened.get(cv2.CAP_PROP_FRAME_WIDTH)), int(opened.get(cv2.CAP_PROP_FRAME_HEIGHT))
    bits = _bits(int(opened.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)))
    readable = opened.isOpened() and width > 0 and height > 0
    opened.release()
    if not readable:
        raise RecordingError(f"{path}: OpenCV cannot read this video, or there is none in it")
    if bits > 8:
        raise RecordingError(
            f"{path}: {bits} bits a channel, while OpenCV reads video with 8; with fewer bits: ffmpeg -i {path.name} "
            f"-pix_fmt yuv420p 8bit.mkv; as they are, for models that take them: ffmpeg -i {path.name} picture%06d.png"
        )
    as_jpeg = "JPEG" in spec.encodings
    if not as_jpeg and spec.datatype != "UINT8":
        raise RecordingError(f"{path}: video, which OpenCV reads as UINT8; the model takes {taken(spec)}")
    gray = as_jpeg and spec.shape[2:] == (1,)

    def frames(pass_over: PassOver) -> Iterator[Frame]:
        source = cv2.VideoCapture(str(path))
        given = 0
        try:
            while True:
                there, picture = source.read()
                if not there:
                    break
                given += 1
                name = f"{path}: picture {given}"
                try:
                    value: Value = picture
                    if gray or not as_jpeg:
                        value = gray_or_colours(np.ascontiguousarray(picture[:, :, ::-1]), spec)
                    if as_jpeg:
                        value = cv2.imencode(".jpg", value, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()
                except RecordingError as error:
                    pass_over(RecordingError(f"{name}: {error}: ffmpeg -i {path.name} -pix_fmt gray gray.mkv"))
                else:
                    yield Frame(value, name)
        finally:
            source.release()
        missing = count - given
        if missing > (0 if path.suffix.lower() == ".avi" else 1):  # others may state but a length, and it is rounded
            pass_over(RecordingError(f"{path}: only {given} of the {count} pictures that it states could be read"))

    period_s = 1 / rate_hz if 0 < rate_hz <= RATE_HZ_MAX else PERIOD_S
    numbered = f"{count} pictures" if count > 0 else "pictures"
    rate = f" at {rate_hz:g} Hz" if 0 < rate_hz <= RATE_HZ_MAX else ""
    how = f", as JPEG of quality {JPEG_QUALITY}" if as_jpeg else ""
    return Recording(f"{path}: {numbered} of {width}x{height}{rate}{how}", period_s, None, True, frames)


def _bits(pixel_format: int) -> int:
    """Bits of a channel by the tag that FFmpeg has for a pixel format: its last byte for numbers that are
    little-endian, its first for others. Tags of 8 bits are letters and digits.
    """
    tag = (pixel_format & 0xFFFFFFFF).to_bytes(4, "little")
    for letters, number in ((tag[:3], tag[3]), (tag[:0:-1], tag[0])):
        if 8 < number <= 16:
            return number
        if (letters, number) in ((b"RGB", 48), (b"BGR", 48), (b"RBA", 64), (b"BRA", 64)):
            return 16
    return 8
