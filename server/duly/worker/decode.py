"""Turns the bytes of a payload into an array: encoded pictures, encoded sound, and tensors as they are."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Literal

import numpy as np

from duly.models.spec import ELEMENT_BYTES, PIXELS_MAX, TensorSpec
from duly.worker.all_finite import all_finite
from duly.worker.dtypes import DTYPES, Array, text_array
from duly.worker.errors import InvalidFrame
from duly.worker.opencv import cv2, raise_for_memory
from duly.worker.picture_header import PictureHeader, picture_header
from duly.worker.picture_size import beyond, no_picture, picture_size, without_text
from duly.worker.text import TextError, read_texts

Decode = Callable[[memoryview, str, TensorSpec], Array]
"""Takes a payload, the name of its encoding and what clients may send. Raises InvalidFrame."""

_GRAY = '{ op = "gray" } at the head of preprocess in model.toml makes it so'

_SOUND_FILES = {
    "WAV": rb"(RIFF|RIFX|RF64|BW64)....WAVE",
    "Wave64": rb"riff\x2e\x91\xcf\x11",
    "FLAC": rb"fLaC[\x00\x80]\x00\x00\x22",
    "Ogg": rb"OggS\x00\x02",
    "MP3": rb"ID3[\x02-\x04]\x00",
    "AIFF": rb"FORM....AIF[FC]",
    "AU": rb"\.snd\x00\x00",
    "CAF": rb"caff\x00\x01",
    "MP4": rb"\x00\x00..ftyp",
    "WebM or Matroska": rb"\x1aE\xdf\xa3.{1,8}\x42\x86\x81",
}
"""How files of sound begin that people send in place of their samples. Samples hardly ever begin so by chance."""
_SOUND_FILE = re.compile(b"|".join(rb"(?=%b)" % begin for begin in _SOUND_FILES.values()), re.DOTALL)
_DAMAGE = re.compile(rb"Corrupt JPEG data: (?!([0-9]|1[0-6]) extraneous bytes before marker 0xd9)[^\n]*")
"""What libjpeg says where it made pixels up. Up to 16 bytes too many at the very end are what some webcams add."""

_HEARD_BYTES_MAX = 4096

PNG_DATATYPES = ("UINT8", "UINT16")


def tensor(payload: memoryview, encoding: str, shape: tuple[int, ...], spec: TensorSpec) -> Array:
    """The payload as an array, without a copy.

    Raises:
        InvalidFrame: there is an encoding, or shape, size or values are not what `spec` asks for.
    """
    if encoding:
        raise InvalidFrame(f"input '{spec.name}' takes no {encoding}, but {_accepted(spec)}")
    check_shape(shape, spec)
    dtype = DTYPES[spec.datatype]
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    if size != len(payload):
        raise InvalidFrame(f"input '{spec.name}': {len(payload)} bytes, but {spec.datatype}{list(shape)} has {size}")
    if spec.datatype == "BOOL" and np.frombuffer(payload, np.uint8).max(initial=0) > 1:
        raise InvalidFrame(f"input '{spec.name}': an element of BOOL is neither 0 nor 1")
    values = np.frombuffer(payload, dtype).reshape(shape)
    if spec.finite and not all_finite(values):
        raise InvalidFrame(not_finite(spec))
    return values


def texts(payload: memoryview, encoding: str, shape: tuple[int, ...], spec: TensorSpec) -> Array:
    """The payload as an array of text. Raises InvalidFrame as `tensor` does."""
    if encoding:
        raise InvalidFrame(f"input '{spec.name}' takes no {encoding}, but {_accepted(spec)}")
    check_shape(shape, spec)
    try:
        return text_array(read_texts(bytes(payload), prod(shape)), shape)
    except TextError as error:
        raise InvalidFrame(f"input '{spec.name}': {error}") from None


def not_finite(spec: TensorSpec) -> str:
    """The reason for an input with a NaN or an infinity."""
    return f"input '{spec.name}': an element is NaN or infinite"


def _sound(payload: memoryview, encoding: str, spec: TensorSpec) -> Array:
    if _SOUND_FILE.match(payload):
        kind = next(kind for kind, begin in _SOUND_FILES.items() if re.match(begin, payload, re.DOTALL))
        raise InvalidFrame(
            f"input '{spec.name}': a whole {kind} file, the model takes {encoding}: send its samples alone"
        )
    if len(payload) % 2:
        raise InvalidFrame(f"input '{spec.name}': {len(payload)} bytes are no whole number of 16-bit samples")
    check_shape((len(payload) // 2,), spec)
    return np.asarray(np.frombuffer(payload, "<i2") * np.float32(1 / 32768))


def _picture(payload: memoryview, encoding: str, spec: TensorSpec) -> Array:
    """[height, width, channels], in the depth and with the channels that the model takes: nothing is converted but what
    loses nothing. It is turned upright, as its EXIF orientation says.
    """
    name, channels = spec.name, spec.shape[2]
    size = picture_size(payload, encoding, len(payload))
    header = picture_header(payload, encoding) if size is not None else None
    if header is None or size is None:
        raise InvalidFrame(_damaged(payload, encoding, spec))
    if misfit := _misfit(header, spec):
        raise InvalidFrame(f"input '{name}': the {encoding} {misfit}")
    if excess := beyond(size, spec.pixels_max or PIXELS_MAX, encoding):
        raise InvalidFrame(f"input '{name}': {excess}")
    data = np.frombuffer(without_text(payload) if encoding == "PNG" else payload, np.uint8)
    flags = cv2.IMREAD_GRAYSCALE if channels == header.channels == 1 else cv2.IMREAD_COLOR_RGB
    try:
        with _heard() as said:
            picture = cv2.imdecode(data, flags | cv2.IMREAD_ANYDEPTH)
            transparent = picture is not None and header.alpha and not _opaque(data)
            made_up = _DAMAGE.search(said())
    except cv2.error as error:
        raise_for_memory(error)  # the picture may be well
        raise InvalidFrame(_damaged(payload, encoding, spec)) from error
    if (
        picture is None
        or made_up
        or picture.shape[0] * picture.shape[1] != size.pixels
        or picture.dtype != DTYPES[spec.datatype]
    ):
        raise InvalidFrame(_damaged(payload, encoding, spec))
    if transparent:
        raise InvalidFrame(f"input '{name}': the {encoding} is transparent somewhere; the model takes no alpha")
    if channels == 1 and picture.ndim == 3:
        if (picture != picture[..., :1]).any():
            raise InvalidFrame(
                f"input '{name}': the {encoding} is in colour, the model takes gray (1 channel); {_GRAY}"
            )
        picture = np.ascontiguousarray(picture[..., 0])  # recorders write gray with three channels too
    picture = picture.reshape(*picture.shape[:2], channels)
    check_shape(picture.shape, spec)
    return picture


def _damaged(payload: memoryview, encoding: str, spec: TensorSpec) -> str:
    return f"input '{spec.name}': {no_picture(payload, encoding)}"


def _misfit(header: PictureHeader, spec: TensorSpec) -> str:
    """What of the header is not what the model takes, and what it takes; empty: it fits. Gray fits a model of colours,
    whose three channels are then equal, and so does the reverse; whether they are is seen when they are decoded.
    """
    channels, bits = spec.shape[2], 8 * ELEMENT_BYTES[spec.datatype]
    if header.kind:
        return f"is {header.kind}; baseline and progressive ones are taken"
    if header.pictures > 1:
        return f"is an animation of {header.pictures} pictures; a frame is one picture"
    if header.bits != bits:
        other = next((name for name in PNG_DATATYPES if 8 * ELEMENT_BYTES[name] == header.bits), "")
        hint = f'; datatype = "{other}" in model.toml takes them as they are' if other else ""
        return f"has {header.bits} bits a channel, the model takes {bits} ({spec.datatype}){hint}"
    if header.channels not in (1, 3):
        kind = "CMYK" if header.channels == 4 else "neither gray nor in colour"
        return (
            f"is {kind} ({header.channels} channels), the model takes {'gray' if channels == 1 else 'RGB'}: convert it"
        )
    return ""


def _opaque(data: Array) -> bool:
    """No pixel is transparent, so that nothing is lost without alpha. A colour of a gray picture that stands for
    transparent ones, which OpenCV passes over, counts as transparent.
    """
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.shape[2] != 4:
        return False
    return bool(picture[..., 3].min() == (1 << 8 * picture.itemsize) - 1)


@dataclass(frozen=True, slots=True)
class Encoding:
    domain: Literal["picture", "sound"]
    datatypes: tuple[str, ...]
    """The element types of what can be decoded. The first is taken where the model says nothing else."""
    decode: Decode | None
    """None: it takes what is kept of the stream, see `worker/video`."""


ENCODINGS = {
    "JPEG": Encoding("picture", ("UINT8",), _picture),
    "PNG": Encoding("picture", PNG_DATATYPES, _picture),
    "PCM_S16LE": Encoding("sound", ("FP32",), _sound),
    "MJPEG": Encoding("picture", ("UINT8",), _picture),
    "H264": Encoding("picture", ("UINT8",), None),
    "HEVC": Encoding("picture", ("UINT8",), None),
}


def check_shape(shape: tuple[int, ...], spec: TensorSpec) -> None:
    """Raises InvalidFrame where the shape of an array is not what clients may send."""
    wanted = spec.shape
    if len(shape) != len(wanted) or any(w not in (-1, n) for n, w in zip(shape, wanted, strict=True)):
        raise InvalidFrame(f"input '{spec.name}' has shape {list(shape)}, wanted is {list(wanted)}")


def _accepted(spec: TensorSpec) -> str:
    return ", ".join((*spec.encodings, f"{spec.datatype}{list(spec.shape)}"))


@contextmanager
def _heard() -> Iterator[Callable[[], bytes]]:
    """Catches what is written to stderr and gives a function that returns it. libjpeg and libpng write a line there for
    every damaged picture: clients must not fill the server's log, and nothing else tells that the rest of a picture is
    made up. The worker has one thread of its own, so that nothing else is lost meanwhile.
    """
    heard, own = _ear(), os.dup(2)

    def said() -> bytes:
        length = os.lseek(heard, 0, os.SEEK_CUR)
        return os.pread(heard, min(length, _HEARD_BYTES_MAX), 0) if length else b""

    try:
        os.dup2(heard, 2)
        yield said
    finally:
        os.dup2(own, 2)
        os.close(own)
        if os.lseek(heard, 0, os.SEEK_CUR):
            os.lseek(heard, 0, os.SEEK_SET)
            os.ftruncate(heard, 0)


@cache
def _ear() -> int:
    """A file in memory that takes what is written to stderr while a picture is decoded; it is emptied after each."""
    return os.memfd_create("duly-stderr")
