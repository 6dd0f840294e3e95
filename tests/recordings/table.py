"""Plays every recording of this folder as `duly stream` and a worker would, and tells what comes out, as a table.

`python -m tests.recordings.table` writes the table into docs/recordings.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from duly.models import spec as served
from duly.worker.dtypes import DTYPES
from duly.worker.errors import InvalidFrame
from duly.worker.reader import Reader
from duly_client.convert import DTYPES as CLIENT_DTYPES
from duly_client.recordings import RecordingError, recording_for
from duly_client.recordings.pictures import stream_frames
from duly_client.types import Encoding, TensorSpec
from duly_client.wire import inputs_of
from tests.recordings.truth import BLACK_WHITE, COLOUR, DEEP, DEPTH, FEW, GRAY, PICTURES, ROWS, SIXTEEN, SOUND

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "recordings.md"
BEGIN, END = "<!-- made by tests/recordings/table.py -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Model:
    """What a model's only input takes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    encodings: tuple[Encoding, ...] = ()
    rate_hz: int = 0

    @property
    def input(self) -> TensorSpec:
        dtype = CLIENT_DTYPES[self.datatype]
        return TensorSpec("x", self.datatype, dtype, self.shape, self.encodings, sample_rate_hz=self.rate_hz)

    @property
    def reader(self) -> Reader:
        fields = {"name": "x", "datatype": self.datatype, "shape": self.shape, "encodings": self.encodings}
        return Reader(served.TensorSpec.model_validate(fields | {"bytes_max": 1 << 20}), DTYPES[self.datatype])


PIXELS = (-1, -1)
CAMERA = Model("colours", "UINT8", (*PIXELS, 3), ("JPEG", "PNG"))
MONO = Model("gray", "UINT8", (*PIXELS, 1), ("JPEG", "PNG"))
RANGE = Model("depth, UINT16", "UINT16", (*PIXELS, 1), ("PNG",))
WIDE = Model("colours, UINT16", "UINT16", (*PIXELS, 3), ("PNG",))
ARRAY = Model("colours, arrays alone", "UINT8", (*PIXELS, 3))
VOICE = Model("sound, 16 kHz", "FP32", (512,), ("PCM_S16LE",), 16_000)
SENSOR = Model("FP32[4]", "FP32", (4,))

COLOUR_GRAY = np.dstack([GRAY] * 3)
UPRIGHT = np.rot90(COLOUR, -1)
CHUNKS = list(SOUND[:1024].reshape(2, 512) / np.float32(1 << 15))


@dataclass(frozen=True)
class Row:
    file: str
    what: str
    model: Model
    frames: list[Any]
    """What must come out; empty: nothing."""
    far: float = 0
    """How far elements may be off, where the format loses something."""


@dataclass
class Played:
    frames: list[Any] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    """What was passed over or INVALID, without the names of file and input."""


def _still(what: str, model: Model, *files: str, of: Any = None, far: float = 0) -> list[Row]:
    return [Row(file, what, model, [] if of is None else [of], far) for file in files]


LOSSY = 10
"""How far JPEG's pixels may be off on these smooth pictures, of 255."""
LOSSY_TWICE = 16
"""The same for colours at half the resolution, and compressed again as video is."""
ROWS_OF_TABLE = [
    *_still("gray, 8 bits", MONO, "pillow_gray.png", of=GRAY),
    *_still("gray, 8 bits", CAMERA, "pillow_gray.png", of=COLOUR_GRAY),
    *_still("gray, 8 bits", RANGE, "pillow_gray.png"),
    *_still("gray, 1 bit", MONO, "pillow_1bit.png", "ffmpeg_1bit.png", of=BLACK_WHITE),
    *_still("gray, 4 bits", MONO, "imagemagick_4bit.png", of=SIXTEEN),
    *_still(
        "gray, 16 bits",
        RANGE,
        *("pillow_depth.png", "opencv_depth.png", "ffmpeg_depth.png", "gstreamer_depth.png"),
        of=DEPTH,
    ),
    *_still("gray, 16 bits", MONO, "pillow_depth.png"),
    *_still("gray, 16 bits", ARRAY, "pillow_depth.png"),
    *_still("RGB, 8 bits", CAMERA, "pillow_colour.png", "imagemagick_interlaced.png", of=COLOUR),
    *_still("RGB, 8 bits", ARRAY, "pillow_colour.png", of=COLOUR),
    *_still("RGB, 8 bits", MONO, "pillow_colour.png"),
    *_still("RGB, 16 bits", WIDE, "ffmpeg_rgb48.png", of=DEEP),
    *_still("RGB, 16 bits", CAMERA, "imagemagick_48bit.png"),
    *_still("palette", CAMERA, "pillow_palette.png", of=FEW),
    *_still("palette", MONO, "pillow_palette.png"),
    *_still("palette, a colour transparent", CAMERA, "pillow_palette_transparent.png"),
    *_still("RGBA, opaque", CAMERA, "ffmpeg_rgba.png", "pillow_alpha_opaque.png", of=COLOUR),
    *_still("RGBA, a pixel transparent", CAMERA, "pillow_alpha.png"),
    *_still("RGBA, a pixel transparent", ARRAY, "pillow_alpha.png"),
    *_still("gray and alpha", MONO, "pillow_gray_alpha.png"),
    *_still("gray, a gray transparent", MONO, "pillow_gray_colour_key.png"),
    *_still("animation", CAMERA, "pillow_animation.png"),
    *_still("PNG, turned by EXIF", CAMERA, "pillow_turned.png", of=UPRIGHT),
    *_still("JPEG, turned by EXIF", CAMERA, "pillow_turned.jpg", of=UPRIGHT, far=LOSSY),
    *_still("JPEG, turned by EXIF", ARRAY, "pillow_turned.jpg", of=UPRIGHT, far=LOSSY),
    *_still(
        "JPEG, colours",
        CAMERA,
        *("pillow_colour.jpg", "pillow_progressive.jpg", "opencv_colour.jpg", "ffmpeg_colour.jpg"),
        of=COLOUR,
        far=LOSSY,
    ),
    *_still("JPEG, colours", MONO, "pillow_colour.jpg"),
    *_still("JPEG, gray", MONO, "pillow_gray.jpg", "gstreamer_gray.jpg", of=GRAY, far=LOSSY),
    *_still("JPEG, gray", CAMERA, "pillow_gray.jpg", of=COLOUR_GRAY, far=LOSSY),
    *_still("JPEG, gray in three channels", MONO, "ffmpeg_gray.jpg", of=GRAY, far=LOSSY),
    *_still("JPEG, CMYK", CAMERA, "pillow_cmyk.jpg", "imagemagick_cmyk.jpg"),
    *_still("JPEG, arithmetic-coded", CAMERA, "cjpeg_arithmetic.jpg"),
    *_still("WEBP named .jpg", CAMERA, "pillow_webp.jpg"),
    Row("ffmpeg.mjpeg", "MJPEG", CAMERA, PICTURES, LOSSY),
    Row("gstreamer.mjpeg", "MJPEG", CAMERA, PICTURES, LOSSY),
    Row("ffmpeg_multipart.mjpeg", "multipart HTTP", CAMERA, PICTURES, LOSSY),
    Row("gstreamer_multipart.mjpeg", "multipart HTTP", CAMERA, PICTURES, LOSSY),
    Row("v4l2_padded.mjpeg", "MJPEG padded with zeros", CAMERA, PICTURES, LOSSY),
    Row("joined.mjpeg", "MJPEG, joined in the middle", CAMERA, PICTURES[1:], LOSSY),
    Row("damaged.mjpeg", "MJPEG, a picture cut off", CAMERA, PICTURES[::2], LOSSY),
    Row("ffmpeg_png.mjpeg", "PNG one after the other", CAMERA, PICTURES),
    Row("opencv_mjpg.avi", "MJPEG in AVI", CAMERA, PICTURES * 2, LOSSY_TWICE),
    Row("opencv_mjpg.avi", "MJPEG in AVI", ARRAY, PICTURES * 2, LOSSY_TWICE),
    Row("opencv_mjpg.avi", "MJPEG in AVI", MONO, []),
    Row("opencv_cut.avi", "AVI, cut off", CAMERA, (PICTURES * 2)[:5], LOSSY_TWICE),
    Row("gstreamer.avi", "MJPEG in AVI", CAMERA, PICTURES, LOSSY),
    Row("ffmpeg_mjpeg.mkv", "MJPEG in Matroska", CAMERA, PICTURES, LOSSY),
    Row("ffmpeg_mjpeg.mp4", "MJPEG in MP4", CAMERA, PICTURES, LOSSY),
    Row("ffmpeg_gray.mkv", "FFV1, gray, 8 bits", MONO, [GRAY] * 3, LOSSY),
    Row("ffmpeg_depth.mkv", "FFV1, gray, 16 bits", CAMERA, []),
    Row("ffmpeg_10bit.mp4", "H.264, 10 bits", CAMERA, []),
    Row("ffmpeg_no_video.mp4", "MP4 without a video", CAMERA, []),
    Row("ffmpeg.wav", "WAV, 16 bits", VOICE, CHUNKS),
    Row("gstreamer.wav", "WAV, 16 bits", VOICE, CHUNKS),
    Row("sox.wav", "WAV, 16 bits", VOICE, CHUNKS),
    Row("ffmpeg_pipe.wav", "WAV from a pipe, no length", VOICE, CHUNKS),
    Row("sox_pipe.wav", "WAV from a pipe, no length", VOICE, CHUNKS),
    Row("sox_cut.wav", "WAV, cut off", VOICE, CHUNKS[:1]),
    Row("soundfile_extensible.wav", "WAV, extensible", VOICE, CHUNKS),
    Row("ffmpeg_24bit.wav", "WAV, extensible, 24 bits", VOICE, CHUNKS),
    Row("ffmpeg_float.wav", "WAV, extensible, float", VOICE, CHUNKS),
    Row("gstreamer_float.wav", "WAV, float", VOICE, CHUNKS),
    Row("soundfile_float.wav", "WAV, float", VOICE, CHUNKS),
    Row("ffmpeg_rf64.wav", "RF64", VOICE, CHUNKS),
    Row("soundfile_rf64.wav", "RF64", VOICE, CHUNKS),
    Row("ffmpeg_8bit.wav", "WAV, 8 bits", VOICE, CHUNKS, 1 / 128),
    Row("ffmpeg_32bit.wav", "WAV, 32 bits", VOICE, []),
    Row("ffmpeg_alaw.wav", "WAV, A-law", VOICE, []),
    Row("ffmpeg_stereo.wav", "WAV, stereo", VOICE, []),
    Row("ffmpeg_8khz.wav", "WAV, 8 kHz", VOICE, []),
    Row("ffmpeg_w64.wav", "Wave64 named .wav", VOICE, []),
    Row("numpy.npy", "float32", SENSOR, list(ROWS)),
    Row("numpy_big_endian.npy", "float32, big-endian", SENSOR, list(ROWS)),
    Row("numpy_fortran.npy", "float32, Fortran order", SENSOR, list(ROWS)),
    Row("numpy_cut.npy", "float32, cut off", SENSOR, list(ROWS[:1])),
    Row("numpy_float64.npy", "float64", SENSOR, []),
    Row("numpy_objects.npy", "objects", SENSOR, []),
    Row("numpy_npz.npy", ".npz named .npy", SENSOR, []),
]


def play(row: Row, source: Any = None) -> Played:
    """Plays the row's file; or `source`, a stream of pictures, as stdin is read."""
    path, spec, played = HERE / row.file, row.model.input, Played()

    def pass_over(error: RecordingError) -> None:
        played.words.append(_plain(str(error), path))

    try:
        if source is None:
            recording = recording_for(path, spec)
            frames, encoding = recording.frames(pass_over), recording.encoding
        else:
            frames, encoding = stream_frames(source, str(path), spec, pass_over), None
        for frame in frames:
            inputs_of(frame.value, encoding, [spec])  # the client's own check
            try:
                played.frames.append(_received(frame.value, encoding, row.model.reader))
            except InvalidFrame as error:
                played.words.append("INVALID: " + _plain(str(error), path))
    except RecordingError as error:
        played.words.append(_plain(str(error), path))
    return played


def _received(value: Any, encoding: str | None, reader: Reader) -> Any:
    if isinstance(value, np.ndarray):
        return value.astype(value.dtype.newbyteorder("<"))
    data = memoryview(value)
    return reader.read(data, encoding or ("PNG" if data[1:4].tobytes() == b"PNG" else "JPEG"), (), None, None)[0].copy()


def _plain(words: str, path: Path) -> str:
    words = re.sub(rf"{re.escape(str(path))}: |input 'x': ", "", words)
    return words.replace(str(path), path.name)


def lines() -> Iterator[str]:
    yield "| file | what it is | model | what comes of it |"
    yield "| --- | --- | --- | --- |"
    for row in ROWS_OF_TABLE:
        played = play(row)
        count = len(played.frames)
        how = "but for what its format loses" if row.far else "as recorded"
        served = [] if not count else [f"{count} frame{'' if count == 1 else 's'}, {how}"]
        told = dict.fromkeys(re.sub(r"^picture \d+: ", "each picture: ", word) for word in played.words)
        words = "; ".join((*served, *told))
        yield f"| `{row.file}` | {row.what} | {row.model.name} | {words} |"


def table() -> str:
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + table() + "\n" + END + rest.partition(END)[2], "utf-8")
