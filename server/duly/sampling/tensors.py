"""Tensors as they come over the wire become arrays as they lie in files, and the other way round."""

from math import prod
from struct import Struct, error

import numpy as np

from duly.sampling.sample import Array, numpy_type

TENSOR_BYTES_MAX = 64 << 20
"""A tensor that takes more in memory is refused. Text takes four bytes a character, each element as many characters as
the longest. Extents count without those that are 0."""
DIMS_MAX = 32
"""A tensor of more dimensions is refused: NumPy has not had more at all times."""

_LENGTH = Struct("<I")
_CHARACTER_BYTES = 4


class BadTensor(Exception):
    """Bytes are no tensor of that type and shape. The text says why."""


def array_of(datatype: str, shape: tuple[int, ...], data: bytes | memoryview) -> Array:
    """Returns the tensor. Of numbers it is a view of `data`. Raises BadTensor."""
    if min(shape, default=0) < 0:
        raise BadTensor(f"shape {list(shape)} has an extent below 0")
    if len(shape) > DIMS_MAX:
        raise BadTensor(f"{len(shape)} dimensions, at most {DIMS_MAX} are taken")
    try:
        dtype = numpy_type(datatype)
    except KeyError:
        raise BadTensor(f"there is no element type {datatype!r}") from None
    _check_size(shape, max(1, dtype.itemsize))
    if datatype == "STRING":
        texts = _texts(bytes(data), prod(shape))
        _check_size(shape, _CHARACTER_BYTES * max(map(len, texts), default=1))
        return np.array(texts, np.str_).reshape(shape)
    needed = prod(shape) * dtype.itemsize
    if needed != len(data):
        raise BadTensor(f"{len(data)} bytes, {datatype}{list(shape)} takes {needed}")
    return np.frombuffer(data, dtype).reshape(shape)


def _check_size(shape: tuple[int, ...], element_bytes: int) -> None:
    """Raises BadTensor where NumPy could not hold such an array, or it would take too much memory."""
    if prod(filter(None, shape)) * element_bytes > TENSOR_BYTES_MAX:
        raise BadTensor(f"shape {list(shape)} of {element_bytes} bytes each is beyond {TENSOR_BYTES_MAX >> 20} MiB")


def _texts(data: bytes, count: int) -> list[str]:
    """Elements of text as `worker/text` describes them, which also has to stand behind a frame's door."""
    if count * _LENGTH.size > len(data):
        raise BadTensor(f"{len(data)} bytes are too few for {count} texts")
    texts: list[str] = []
    at = 0
    try:
        while at < len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size + length
            if at > len(data):
                raise BadTensor("its last text is cut off")
            texts.append(data[at - length : at].decode())
            if texts[-1].endswith("\0"):
                raise BadTensor("a text ends in a NUL, which files of samples cannot hold")
            if len(texts) > count:
                raise BadTensor(f"it has more than the {count} texts of its shape")
    except (error, UnicodeDecodeError):
        raise BadTensor("it is no tensor of text") from None
    if len(texts) != count:
        raise BadTensor(f"it has {len(texts)} texts, its shape {count}")
    return texts


def is_finite(array: Array, datatype: str) -> bool:
    """Whether there is neither NaN nor an infinity in it."""
    if datatype == "BF16":
        return not bool(np.any((array & 0x7F80) == 0x7F80))
    kind: str = array.dtype.kind
    return kind != "f" or bool(np.isfinite(array).all())


def fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether it is one of the expected shape, in which -1 stands for any extent."""
    return len(shape) == len(expected) and all(
        want in (-1, extent) for extent, want in zip(shape, expected, strict=True)
    )
