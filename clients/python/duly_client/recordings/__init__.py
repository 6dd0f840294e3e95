"""Recordings as frames, for first tries, demonstrations and tests: pictures, video, sound, arrays, text; from files,
stdin or a camera.

`open_recording` compares the file with what the model of an open stream takes, and refuses what does not fit.
`recording_for` does the same where no stream is open yet. A piece that cannot be used, such as one damaged picture of
many, is found when its turn comes: iterating raises, `Recording.frames` passes over it and tells so.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from duly_client.recordings.access_units import RAW_VIDEOS, access_units, not_encoded_so, takes_video
from duly_client.recordings.arrays import ARRAYS, arrays, live_arrays
from duly_client.recordings.camera import camera, is_camera
from duly_client.recordings.file_kind import HEAD_BYTES, kind_of
from duly_client.recordings.lines import LINES, lines, live_lines, takes_text
from duly_client.recordings.pictures import (
    PICTURE_STREAMS,
    PICTURES,
    check_takes_pictures,
    folder,
    pictures,
    stream_file,
    stream_frames,
    takes_pictures,
)
from duly_client.recordings.recording import Frame, PassOver, Recording, RecordingError, refuse, taken
from duly_client.recordings.sound import (
    CHUNK_S,
    RAW_SOUNDS,
    SOUNDS,
    STDIN,
    encoding_of,
    live_sound,
    live_wav,
    raw_sound,
    takes_sound,
    wav,
)
from duly_client.recordings.video import JPEG_QUALITY, VIDEOS, video
from duly_client.types import StreamTerms, TensorSpec

__all__ = [
    "ARRAYS",
    "CHUNK_S",
    "JPEG_QUALITY",
    "PICTURES",
    "VIDEOS",
    "Frame",
    "PassOver",
    "Recording",
    "RecordingError",
    "open_recording",
    "recording_for",
    "refuse",
]

_NO_SURE_SIGN = ("", "text", "BMP", "gzip")
"""Kinds whose few first bytes raw samples may have as well."""


def open_recording(path: str | Path, opened: StreamTerms) -> Recording:
    """Opens the recording at `path` as frames for the stream's model. "-" is stdin with pictures one after the other, a
    WAV, raw sound, lines of text, or a .npy, and so are named pipes and /dev/fd/N; rtsp:// and /dev/videoN are cameras.
    Raises OSError, and RecordingError where recording and model do not fit together.
    """
    if len(opened.inputs) != 1:
        names = ", ".join(spec.name for spec in opened.inputs)
        raise RecordingError(f"a recording feeds models with one input; this one takes {names}")
    return recording_for(path, opened.inputs[0])


def recording_for(path: str | Path, spec: TensorSpec) -> Recording:
    """Does the same as `open_recording` for a model's only input, before any stream is open."""
    if str(path) == "-":
        return _live(STDIN, lambda: open(0, "rb", closefd=False), spec)  # stdin stays open
    if is_camera(str(path)):
        return camera(str(path), spec)
    if scheme := re.match(r"([a-z][a-z0-9+]+):/", str(path)):
        raise RecordingError(
            f"{path}: no file; {scheme[1]} is for ffmpeg: ffmpeg -i {path} -f mjpeg - | duly stream MODEL --input -"
        )
    path = Path(path)
    if path.is_dir():
        return folder(path, spec)
    if not path.exists():
        raise FileNotFoundError(2, "no such file or folder", str(path))
    if not path.is_file() or path.is_relative_to("/dev"):
        return _live(str(path), lambda: path.open("rb"), spec)
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return pictures([path], str(path), spec)
    if suffix in PICTURE_STREAMS:
        return stream_file(path, spec)
    if suffix in VIDEOS | RAW_VIDEOS:
        return _video(path, spec)
    if suffix in SOUNDS:
        return wav(path, spec)
    if suffix in RAW_SOUNDS:
        return raw_sound(path, spec)
    if suffix in ARRAYS:
        return arrays(path, spec)
    if suffix in LINES:
        return lines(path, spec)
    known = _listed(PICTURES | PICTURE_STREAMS | VIDEOS | RAW_VIDEOS | SOUNDS | RAW_SOUNDS | ARRAYS | LINES)
    raise RecordingError(
        f"{path}: unknown kind of recording; a folder of pictures or one of {known} would do, which ffmpeg makes of "
        "most others"
    )


def _video(path: Path, spec: TensorSpec) -> Recording:
    """As it is encoded, where the model takes that; else picture by picture."""
    encoded = access_units(path, spec) if takes_video(spec) else None
    if encoded is not None:
        return encoded
    if not takes_pictures(spec):
        raise not_encoded_so(path, spec)
    return video(path, spec)


def _live(name: str, opened: Callable[[], io.BufferedReader], spec: TensorSpec) -> Recording:
    """What comes is seen when it comes: waiting for it must not hold up who opens the recording."""
    if takes_pictures(spec):
        check_takes_pictures(name, spec)
        formats = [encoding for encoding in ("JPEG", "PNG") if encoding in spec.encodings] or ["JPEG", "PNG"]
        description = f"{' or '.join(formats)} pictures from {name}"
    elif takes_text(spec):
        description = f"lines of text, or a .npy, from {name}"
    elif spec.sample_rate_hz and takes_sound(spec):
        description = f"raw sound at {spec.sample_rate_hz} Hz, or a WAV, from {name}"
    else:
        description = f"a {'WAV or ' if takes_sound(spec) else ''}.npy from {name}"

    def frames(pass_over: PassOver) -> Iterator[Frame]:
        with opened() as source:
            head = source.read(HEAD_BYTES)
            yield from _of_kind(io.BufferedReader(_Again(head, source)), name, kind_of(head), spec, pass_over)

    return Recording(description, 0.0, encoding_of(spec), False, frames)


def _of_kind(file: io.BufferedReader, name: str, kind: str, spec: TensorSpec, pass_over: PassOver) -> Iterator[Frame]:
    if kind == "WAV":
        if not takes_sound(spec):
            raise RecordingError(f"{name}: a WAV; the model takes {taken(spec)}")
        return live_wav(file, name, spec)
    if kind == ".npy":
        return live_arrays(file, name, spec, pass_over)
    if takes_text(spec):
        return live_lines(file, name, spec, pass_over)
    if takes_pictures(spec):
        return stream_frames(file, name, spec, pass_over)
    if spec.sample_rate_hz and takes_sound(spec) and kind in _NO_SURE_SIGN:
        return live_sound(file.read, spec)
    raise RecordingError(f"{name}: {kind or 'neither a WAV nor a .npy'}; the model takes {taken(spec)}")


class _Again(io.RawIOBase):
    """A source whose first bytes are read already."""

    def __init__(self, head: bytes, source: io.BufferedReader) -> None:
        self._head = head
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._source.read1(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _listed(suffixes: Iterable[str]) -> str:
    return ", ".join(sorted(suffixes))
