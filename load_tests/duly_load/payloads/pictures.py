"""Pictures in the form that a model takes.

As they are where the model takes their format in any size. Otherwise stretched to the model's size, and as JPEG where
it takes that, else as the tensor that it takes: [height, width, channels] or [channels, height, width] of 1 or 3
channels, grey or RGB; UINT8 0..255, floats 0..1.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from duly_client.convert import spelled
from duly_client.recordings import JPEG_QUALITY
from duly_client.types import Encoding, TensorSpec, Value

Pixels = NDArray[np.uint8]
"""Pixels in RGB, of the shape [height, width, 3]."""

_MAGIC: dict[bytes, Encoding] = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}


class PictureError(ValueError):
    """The bytes are no picture, or the model takes none; says what would be right."""


def encoding_of(picture: bytes) -> Encoding:
    """The encoding of a compressed picture. Raises PictureError."""
    for magic, encoding in _MAGIC.items():
        if picture.startswith(magic):
            return encoding
    raise PictureError(f"a picture begins with {picture[:8].hex(' ').upper()}: it should be a JPEG or a PNG")


def takes_any_size(spec: TensorSpec) -> bool:
    """Whether compressed pictures, which are mostly in colour, may go as they are."""
    return not {"JPEG", "PNG"}.isdisjoint(spec.encodings) and spec.shape.count(-1) >= 2 and spec.shape[-1] == 3


def as_taken(picture: Value, spec: TensorSpec) -> Value:
    """The picture, compressed or `Pixels`, as the model takes it. Raises PictureError."""
    assert not isinstance(picture, str)
    if not isinstance(picture, np.ndarray):
        compressed = bytes(picture)
        if encoding_of(compressed) in spec.encodings and takes_any_size(spec):
            return compressed
        picture = _decoded(compressed)
    planar, (height, width, channels) = _layout(spec)
    height, width = (picture.shape[0] if height < 0 else height), (picture.shape[1] if width < 0 else width)
    if picture.shape[:2] != (height, width):
        smaller = height * width < picture.shape[0] * picture.shape[1]
        picture = _bytes(
            cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
        )
    if channels == 1:
        picture = _bytes(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, None])
    if "JPEG" in spec.encodings:
        return _jpeg(picture)
    if planar:
        picture = picture.transpose(2, 0, 1)
    if spec.datatype == "UINT8":
        return np.ascontiguousarray(picture)
    return np.ascontiguousarray(picture / np.float32(255), spec.dtype)


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    """RGB or grey pixels, compressed."""
    colours = picture[:, :, ::-1]  # OpenCV's are BGR
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(colours), (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1])


def _decoded(picture: bytes) -> Pixels:
    try:
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise PictureError(f"a {encoding_of(picture)} has more pixels than OpenCV takes") from error
    if pixels is None:
        raise PictureError(f"a {encoding_of(picture)} of {len(picture)} bytes is damaged or cut off")
    return _bytes(pixels)


def _layout(spec: TensorSpec) -> tuple[bool, Sequence[int]]:
    """Whether channels come first; and height, width and channels, where -1 is any."""
    if len(spec.shape) == 3 and (spec.datatype == "UINT8" or spec.dtype.kind == "f"):
        if spec.shape[2] in (1, 3):
            return False, spec.shape
        if spec.shape[0] in (1, 3):
            return True, (*spec.shape[1:], spec.shape[0])
    taken = " or ".join((spelled(spec.datatype, spec.shape), *spec.encodings))
    raise PictureError(
        f"pictures, while the model takes {taken}; UINT8 or floats of [height, width, channels] or "
        "[channels, height, width] with 1 or 3 channels would do"
    )


def _bytes(picture: NDArray[np.generic]) -> Pixels:
    return np.ascontiguousarray(picture, np.uint8)
