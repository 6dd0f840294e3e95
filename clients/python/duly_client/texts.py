"""Text between NumPy and the wire, where each element is its length, four bytes little-endian, and then its UTF-8."""

from collections.abc import Sequence
from math import prod
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXT = np.dtype(object)
"""The element type of arrays of text: each element is a str."""
TEXT_KINDS = frozenset("OSTU")
"""Kinds of NumPy's element types whose arrays are sent as text: objects that are str or bytes, and strings of NumPy."""

_LENGTH = Struct("<I")
_TEXT_BYTES_MAX = (1 << 31) - 1  # no message holds more


def text_bytes(array: NDArray[Any]) -> bytes:
    """Returns an array of str, or of bytes of UTF-8, as it goes on the wire.

    Raises TypeError where an element is neither, and ValueError where one is half a character or too long.
    """
    pieces: list[bytes] = []
    for nth, element in enumerate(array.ravel().tolist()):
        if isinstance(element, str):
            try:
                data = element.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"element {_place(nth, array.shape)} has half a character: {error}") from None
        elif isinstance(element, bytes | bytearray | memoryview):
            data = bytes(element)
        else:
            kind = type(element).__name__
            raise TypeError(f"element {_place(nth, array.shape)} is {kind}; text is str, or bytes of UTF-8")
        if len(data) > _TEXT_BYTES_MAX:
            raise ValueError(f"element {_place(nth, array.shape)} has {len(data):,} bytes")
        pieces += (_LENGTH.pack(len(data)), data)
    return b"".join(pieces)


def texts_of(data: bytes, shape: Sequence[int]) -> NDArray[Any]:
    """Makes an array of str of what came. Raises ValueError where it does not fill the shape, or is no UTF-8."""
    if min(shape, default=0) < 0 or (count := prod(shape)) * _LENGTH.size > len(data):
        raise ValueError("there are fewer")
    array = np.empty(count, TEXT)
    at = 0
    for nth in range(count):
        begin = at + _LENGTH.size
        if begin > len(data):
            raise ValueError(f"they end after {nth}")
        at = begin + _LENGTH.unpack_from(data, at)[0]
        if at > len(data):
            raise ValueError(f"element {nth} ends behind them")
        array[nth] = str(data[begin:at], "utf-8")
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes follow the last element")
    array = array.reshape(tuple(shape))
    array.flags.writeable = False
    return array


def _place(nth: int, shape: tuple[int, ...]) -> str:
    return f"[{', '.join(str(int(each)) for each in np.unravel_index(nth, shape))}]" if shape else "()"
