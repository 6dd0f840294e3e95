"""From what a client sends for one input of one frame to one row of the batch that the graph reads.

Two readers: `PictureReader` (decode, resize, normalise, order of the axes) and `ArrayReader` (everything else: sound,
inertial data, tensors as they are). Each goes from the payload to the row with as few passes over the data as it can.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from duly.models.spec import Layout, Normalise, Resize, TensorSpec
from duly.worker.dtypes import DTYPES, Array
from duly.worker.errors import InvalidFrame
from duly.worker.graph import is_fixed
from duly.worker.opencv import PIXELS_MAX, cv2
from duly.worker.postprocess import WHOLE_PICTURE

Placement = tuple[float, float, float, float]
"""Where the picture lies in what the graph sees: left, top, width and height in 0..1."""

_MAGIC = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}
"""First bytes. Checked because OpenCV takes a dozen other formats as gladly."""


class Reader(Protocol):
    """Reads the payloads of one input."""

    spec: TensorSpec
    """What clients send."""
    row_shape: tuple[int, ...]
    """Of one frame as the graph takes it, without the batch dimension; -1: any."""
    dtype: np.dtype[Any]
    """Of the row."""
    context: int
    """Elements at the end of a row that begin the stream's next one."""
    as_is: bool
    """True where payloads are rows already and their size is fixed: nothing is to be read."""

    def read(
        self, payload: memoryview, encoding: str, shape: tuple[int, ...], row: Array | None, context: Array | None
    ) -> tuple[Array, Placement]:
        """Fills `row`, or a new array where rows have no fixed size, and tells where a picture lies in it.

        `context`: the end of the stream's last row; None: the stream is new.

        Raises:
            InvalidFrame: the payload is not what the spec asks for.
        """
        ...


class ArrayReader:
    """Numbers of any shape; sound with a window of samples that begins with the end of the stream's last one."""

    def __init__(
        self,
        spec: TensorSpec,
        row_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        normalise: Normalise | None,
        context: int,
    ) -> None:
        self.spec = spec
        self.row_shape = row_shape
        self.dtype = dtype
        self.context = context
        self.as_is = (
            is_fixed(row_shape)
            and dtype == DTYPES[spec.datatype]
            and dtype != np.bool_  # whose bytes must be looked at
            and normalise is None
            and not context
            and not spec.encodings
        )
        self._factor: Array | None = None
        self._offset: Array | None = None
        if normalise is not None:
            self._factor, self._offset = affine(normalise)

    def read(
        self, payload: memoryview, encoding: str, shape: tuple[int, ...], row: Array | None, context: Array | None
    ) -> tuple[Array, Placement]:
        if encoding == "PCM_S16LE" and encoding in self.spec.encodings:
            values = self._samples(payload)
        else:
            values = tensor(payload, encoding, shape, self.spec)
        if row is None:
            if self._factor is None and values.dtype == self.dtype and values.flags.aligned:
                return values, WHOLE_PICTURE
            row = np.empty(values.shape, self.dtype)
        new = row[self.context :] if self.context else row
        if self._factor is None:
            np.copyto(new, values, casting="same_kind")
        else:
            np.multiply(values, self._factor, out=new, casting="same_kind")
            if self._offset is not None:
                np.add(new, self._offset, out=new, casting="same_kind")
        if self.context:
            # Before its first frame a stream was silent: zeros in what the client sends.
            silence: Array | int = 0 if self._offset is None else self._offset
            row[: self.context] = silence if context is None else context
        return row, WHOLE_PICTURE

    def _samples(self, payload: memoryview) -> Array:
        if len(payload) % 2:
            raise InvalidFrame(f"input '{self.spec.name}': {len(payload)} bytes are no whole number of 16-bit samples")
        _check_shape((len(payload) // 2,), self.spec)
        return np.asarray(np.frombuffer(payload, "<i2") * np.float32(1 / 32768))


class PictureReader:
    """Pictures, decoded or HWC, to HWC or CHW of the size that the graph takes.

    Boxes and the like are in the coordinates of the upright picture: a JPEG's EXIF orientation is applied.
    """

    context = 0
    as_is = False

    def __init__(
        self,
        spec: TensorSpec,
        row_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        resize: Resize | None,
        normalise: Normalise | None,
        layout: Layout,
    ) -> None:
        self.spec = spec
        self.row_shape = row_shape
        self.dtype = dtype
        self._resize = resize
        self._planar = layout.axes == "CHW"
        self._swapped = layout.colours == "BGR"
        self._channels = spec.shape[2]
        source = DTYPES[spec.datatype]
        self._factor: Array | None = None
        self._offset: Array | None = None
        if normalise is not None:
            self._factor, self._offset = affine(normalise, self._planar, self._swapped)
        self._canvas = None if resize is None else np.empty((resize.height, resize.width, self._channels), source)
        self._planes = np.empty(row_shape, source) if self._planar and is_fixed(row_shape) else None

    def read(
        self, payload: memoryview, encoding: str, shape: tuple[int, ...], row: Array | None, context: Array | None
    ) -> tuple[Array, Placement]:
        decoded = encoding in _MAGIC
        picture = self._decode(payload, encoding) if decoded else tensor(payload, encoding, shape, self.spec)
        placement = WHOLE_PICTURE
        if self._canvas is not None:
            picture, placement = self._fit(picture, self._canvas)
        return self._store(picture, row), placement

    def _decode(self, payload: memoryview, encoding: str) -> Array:
        name = self.spec.name
        if encoding not in self.spec.encodings:
            raise InvalidFrame(f"input '{name}' takes no {encoding}, but {_accepted(self.spec)}")
        if payload[: len(_MAGIC[encoding])] != _MAGIC[encoding]:
            raise InvalidFrame(f"input '{name}': its {len(payload)} bytes do not begin as a {encoding} does")
        flags = cv2.IMREAD_GRAYSCALE if self._channels == 1 else cv2.IMREAD_COLOR_RGB
        try:
            with _silent():
                picture = cv2.imdecode(np.frombuffer(payload, np.uint8), flags)
        except cv2.error as error:
            raise InvalidFrame(f"input '{name}': the {encoding} has more than {PIXELS_MAX:,} pixels") from error
        if picture is None:
            raise InvalidFrame(f"input '{name}': the {encoding} of {len(payload)} bytes is damaged or cut off")
        picture = picture.reshape(*picture.shape[:2], self._channels)
        _check_shape(picture.shape, self.spec)
        return picture

    def _fit(self, picture: Array, canvas: Array) -> tuple[Array, Placement]:
        """The picture at the canvas's size, and where it lies there."""
        assert self._resize is not None
        height, width = canvas.shape[:2]
        if picture.shape == canvas.shape:
            return picture, WHOLE_PICTURE
        if self._resize.mode == "stretch":
            cv2.resize(picture, (width, height), dst=canvas)
            return canvas, WHOLE_PICTURE
        scale = min(height / picture.shape[0], width / picture.shape[1])
        inner_height = max(1, round(picture.shape[0] * scale))
        inner_width = max(1, round(picture.shape[1] * scale))
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
        canvas.fill(self._resize.pad)
        inner = canvas[top : top + inner_height, left : left + inner_width]
        inner[...] = cv2.resize(picture, (inner_width, inner_height)).reshape(inner.shape)
        return canvas, (left / width, top / height, inner_width / width, inner_height / height)

    def _store(self, picture: Array, row: Array | None) -> Array:
        """The picture in the graph's order of axes and colours and in its element type."""
        if self._planar:
            shape = (self._channels, *picture.shape[:2])
            row = np.empty(shape, self.dtype) if row is None else row
            # The planes as bytes first: then the arithmetic runs over contiguous memory, twice as fast.
            planes = np.empty(shape, picture.dtype) if self._planes is None else self._planes
            cv2.split(picture, list(planes[::-1] if self._swapped else planes))
            picture = planes
        else:
            row = np.empty(picture.shape, self.dtype) if row is None else row
            picture = picture[..., ::-1] if self._swapped else picture
        if self._factor is None:
            np.copyto(row, picture, casting="same_kind")
        else:
            np.multiply(picture, self._factor, out=row, casting="same_kind")
            if self._offset is not None:
                np.add(row, self._offset, out=row, casting="same_kind")
        return row


def tensor(payload: memoryview, encoding: str, shape: tuple[int, ...], spec: TensorSpec) -> Array:
    """The payload as an array, without a copy.

    Raises:
        InvalidFrame: shape, size or values are not what `spec` asks for.
    """
    if encoding:
        raise InvalidFrame(f"input '{spec.name}' takes no {encoding}, but {_accepted(spec)}")
    _check_shape(shape, spec)
    dtype = DTYPES[spec.datatype]
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    if size != len(payload):
        raise InvalidFrame(f"input '{spec.name}': {len(payload)} bytes, but {spec.datatype}{list(shape)} has {size}")
    if dtype == np.bool_ and np.frombuffer(payload, np.uint8).max() > 1:
        raise InvalidFrame(f"input '{spec.name}': an element of BOOL is neither 0 nor 1")
    values = np.frombuffer(payload, dtype).reshape(shape)
    if spec.finite and not np.isfinite(values).all():
        raise InvalidFrame(not_finite(spec))
    return values


def not_finite(spec: TensorSpec) -> str:
    return f"input '{spec.name}': an element is NaN or infinite"


def affine(normalise: Normalise, planar: bool = False, swapped: bool = False) -> tuple[Array, Array | None]:
    """(factor, offset) with x * factor + offset = (x * scale - mean) / std, to be broadcast over HWC or, `planar`, CHW.

    `swapped`: over channels in reverse, since mean and std are in the order before the colours are swapped. An offset
    of None is zero.
    """
    mean, std = np.broadcast_arrays(normalise.mean, normalise.std)
    if swapped:
        mean, std = mean[::-1], std[::-1]
    factor = (normalise.scale / std).astype(np.float32)
    offset = (-mean / std).astype(np.float32)
    if planar:
        factor, offset = factor[:, None, None], offset[:, None, None]
    return factor, offset if offset.any() else None


def _check_shape(shape: tuple[int, ...], spec: TensorSpec) -> None:
    wanted = spec.shape
    if len(shape) != len(wanted) or any(w not in (-1, n) for n, w in zip(shape, wanted, strict=True)):
        raise InvalidFrame(f"input '{spec.name}' has shape {list(shape)}, wanted is {list(wanted)}")
    if 0 in shape:
        raise InvalidFrame(f"input '{spec.name}' is empty: its shape is {list(shape)}")


def _accepted(spec: TensorSpec) -> str:
    return ", ".join((*spec.encodings, f"{spec.datatype}{list(spec.shape)}"))


@contextmanager
def _silent() -> Iterator[None]:
    """Sends stderr nowhere: libjpeg and libpng write a line there for every damaged picture, and clients must not fill
    the server's log. The worker has one thread of its own, so that nothing else is lost meanwhile."""
    own = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)
        os.close(nowhere)
