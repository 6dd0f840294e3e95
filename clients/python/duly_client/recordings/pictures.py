"""Pictures as frames: files, a folder of files, and streams of pictures. A model gets them as they are where it takes
their format, else decoded; nothing is converted but what loses nothing.
"""

import importlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from duly_client.convert import Array
from duly_client.recordings.file_kind import begins_with, kind_of
from duly_client.recordings.picture_stream import PICTURE_BYTES_MAX, pictures_in
from duly_client.recordings.recording import PERIOD_S, Frame, PassOver, Recording, RecordingError, taken
from duly_client.types import TensorSpec, Value

PICTURES = {".jpg", ".jpeg", ".png"}
PICTURE_STREAMS = {".mjpeg", ".mjpg"}
NAMES_MAX = 5
"""Number of files that a message names."""


def takes_pictures(spec: TensorSpec) -> bool:
    """Whether the model takes encoded pictures, or pixels as decoding gives them."""
    return not {"JPEG", "PNG"}.isdisjoint(spec.encodings) or takes_pixels(spec)


def takes_pixels(spec: TensorSpec) -> bool:
    """Whether the model takes arrays [height, width, channels] of 1 channel, gray, or 3, RGB."""
    return spec.datatype in ("UINT8", "UINT16") and len(spec.shape) == 3 and spec.shape[2] in (1, 3)


def folder(path: Path, spec: TensorSpec) -> Recording:
    """The pictures in a folder, frame2 before frame10. Hidden files, other files and folders are left out."""
    there = sorted(path.iterdir(), key=lambda file: _natural(file.name))
    files = [file for file in there if file.suffix.lower() in PICTURES and not file.name.startswith(".")]
    others = [file.name + os.sep * file.is_dir() for file in there if file not in set(files)]
    named = ", ".join(others[:NAMES_MAX]) + (f" and {len(others) - NAMES_MAX} more" if len(others) > NAMES_MAX else "")
    if not files:
        found = f"; it holds {named}" if others else ""
        raise RecordingError(f"{path}: no pictures ({', '.join(sorted(PICTURES))}) in this folder{found}")
    left_out = f"{path}: left out, not pictures by their names: {named}" if others else ""
    return pictures(files, f"{len(files)} pictures in {path}", spec, left_out)


def pictures(files: list[Path], description: str, spec: TensorSpec, left_out: str = "") -> Recording:
    """A picture a file, each looked at when its turn comes."""
    check_takes_pictures(description, spec)

    def frames(pass_over: PassOver) -> Iterator[Frame]:
        for file in files:
            try:
                value = as_taken(_contents(file), spec)
            except OSError as error:
                pass_over(RecordingError(f"{file}: {error.strerror}"))
            except RecordingError as error:
                pass_over(RecordingError(f"{file}: {error}"))
            else:
                yield Frame(value, str(file))

    return Recording(description, PERIOD_S, None, True, frames, left_out)


def stream_file(path: Path, spec: TensorSpec) -> Recording:
    """A file of pictures one after the other, such as ffmpeg's .mjpeg."""
    check_takes_pictures(str(path), spec)

    def frames(pass_over: PassOver) -> Iterator[Frame]:
        with path.open("rb") as file:
            yield from stream_frames(file, str(path), spec, pass_over)

    return Recording(f"{path}: pictures one after the other", PERIOD_S, None, True, frames)


def stream_frames(source: Any, name: str, spec: TensorSpec, pass_over: PassOver) -> Iterator[Frame]:
    """The pictures of a stream of bytes as the model takes them."""
    for number, picture in enumerate(pictures_in(source, name, pass_over), start=1):
        try:
            yield Frame(as_taken(picture, spec), f"{name}: picture {number}")
        except RecordingError as error:
            pass_over(RecordingError(f"{name}: picture {number}: {error}"))


def check_takes_pictures(description: str, spec: TensorSpec) -> None:
    """Raises RecordingError where the model takes no pictures, or only pixels and there is no OpenCV to make them."""
    if not takes_pictures(spec):
        raise RecordingError(f"{description}: pictures; the model takes {taken(spec)}")
    if {"JPEG", "PNG"}.isdisjoint(spec.encodings):
        opencv("Decoding pictures")


def as_taken(data: bytes, spec: TensorSpec) -> Value:
    """A picture as it is where the model takes its format, else its pixels. Raises RecordingError."""
    kind = kind_of(data)
    if kind not in ("JPEG", "PNG"):
        raise RecordingError(f"neither a JPEG nor a PNG picture: {begins_with(data)}")
    if kind in spec.encodings:
        return data
    if not takes_pixels(spec):
        raise RecordingError(f"a {kind}; the model takes {taken(spec)}")
    return _pixels(data, kind, spec)


def gray_or_colours(picture: Array, spec: TensorSpec) -> Array:
    """Pixels [height, width] or [height, width, 3] in RGB with the channels that the model takes.

    Raises RecordingError where that would lose colours.
    """
    if spec.shape[2] == 3:
        return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
    if picture.ndim == 3:
        if (picture != picture[:, :, :1]).any():
            raise RecordingError("in colour; the model takes gray (1 channel)")
        picture = picture[:, :, 0]
    return np.ascontiguousarray(picture[:, :, None])


def opencv(purpose: str) -> Any:
    """Returns the module cv2. Raises RecordingError where it is not installed."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise RecordingError(f"{purpose} needs OpenCV: pip install 'duly[media]'") from error


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their value, as recorders count without leading zeros."""
    return [(int(part or 0), "") if index % 2 else (0, part) for index, part in enumerate(re.split(r"(\d+)", name))]


def _contents(file: Path) -> bytes:
    size = file.stat().st_size
    if size > PICTURE_BYTES_MAX:
        raise RecordingError(f"{size:,} bytes, a picture may have {PICTURE_BYTES_MAX:,}")
    return file.read_bytes()


def _pixels(data: bytes, kind: str, spec: TensorSpec) -> Array:
    """Decodes a picture. It is decoded as it is stored first, since OpenCV turns a picture upright only where it may
    convert it as well.
    """
    cv2 = opencv("Decoding pictures")
    damaged = RecordingError(f"the {kind} of {len(data):,} bytes is damaged or cut off")
    # OpenCV spends seconds on a PNG whose chunks do not end within it.
    if kind == "PNG" and not any(pictures_in(io.BufferedReader(io.BytesIO(data)), kind, lambda error: None)):
        raise damaged
    encoded = np.frombuffer(data, np.uint8)
    try:
        stored = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        upright = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise RecordingError(f"the {kind} has more pixels than OpenCV takes") from error
    if stored is None or upright is None:
        raise damaged
    if stored.dtype != spec.dtype:
        raise RecordingError(
            f"the {kind} has {8 * stored.itemsize} bits a channel, the model takes {8 * spec.dtype.itemsize}"
        )
    if stored.ndim == 3 and stored.shape[2] == 4 and stored[..., 3].min() < np.iinfo(stored.dtype).max:
        raise RecordingError(f"the {kind} is transparent somewhere; the model takes no alpha")
    return gray_or_colours(upright, spec)
