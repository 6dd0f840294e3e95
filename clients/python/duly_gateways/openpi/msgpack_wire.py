"""Reads and writes messages as openpi-client 0.1 does: msgpack, with arrays as maps. Nothing is ever unpickled.

An array is a map `{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [2, 3]}`, a scalar of NumPy
`{b"__npgeneric__": True, b"data": number, b"dtype": "<f4"}`; the keys are byte strings. A message is looked through
before anything is made of it: how deep and how large it may be is bounded there, as a small message can ask for much
memory otherwise (a thousand empty lists are a thousand bytes).
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import msgpack
import numpy as np

DEPTH_MAX = 8
"""How deep lists and maps of an observation of openpi may lie in one another; a deeper one is refused by name."""
ITEMS_MAX = 16_384
"""How many values an observation of openpi may have, those in lists and maps included; more are refused."""
DIMENSIONS_MAX = 8
"""How many dimensions an array of an observation of openpi may have."""

_KINDS = "biuf"
"""Arrays are of truth values, integers or floating point. Objects, which would be pickled, text and records are not."""
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_FIXED |= {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
"""How many bytes follow the first one of a value."""
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""How many bytes state the length of a byte string or text."""
_COUNTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""How many bytes state the number of entries of a list or map, and how many values an entry is."""


class BadMessage(Exception):
    """What is wrong with a message, for its sender."""


def read(message: bytes) -> dict[str, Any]:
    """Returns the map that a message is: text keys; values are arrays, numbers, text, bytes, lists and such maps.

    Arrays are read-only views of the message's bytes. Raises BadMessage, which names what was found and what is taken.
    """
    _look_through(message)
    try:
        value = msgpack.unpackb(message, object_hook=_made, raw=False, strict_map_key=True)
    except BadMessage:
        raise
    except UnicodeDecodeError:
        raise BadMessage("a text is not UTF-8") from None
    except (ValueError, msgpack.UnpackException) as error:
        raise BadMessage(f"it is no msgpack: {error}") from None
    if not isinstance(value, dict):
        raise BadMessage(f"an observation is a map, got {type(value).__name__}")
    _check_keys(value)
    return value


def written(value: Mapping[str, Any]) -> bytes:
    """Returns the message that openpi-client reads as `value`, which holds what `read` gives."""
    return bytes(msgpack.packb(dict(value), default=_packed, use_bin_type=True))


def _look_through(message: bytes) -> None:
    """Raises BadMessage where a message is cut off, too deep, or has too many values or a type of its own."""
    at, values, size = 0, 0, len(message)
    left = [1]  # how many values are still to come, in each list and map that is open
    while left:
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        values += 1
        if values > ITEMS_MAX:
            raise BadMessage(f"it has more than {ITEMS_MAX} values; numbers are sent as arrays")
        if at >= size:
            raise BadMessage(f"it is cut off after {size} bytes")
        kind = message[at]
        at += 1
        entries = -1
        if kind < 0x80 or kind >= 0xE0:
            continue
        if kind < 0x90:
            entries = (kind & 15) * 2
        elif kind < 0xA0:
            entries = kind & 15
        elif kind < 0xC0:
            at += kind & 31
        elif (fixed := _FIXED.get(kind)) is not None:
            at += fixed
        elif (wide := _LENGTHS.get(kind)) is not None:
            at += wide + int.from_bytes(message[at : at + wide])
        elif (counted := _COUNTS.get(kind)) is not None:
            entries = int.from_bytes(message[at : at + counted[0]]) * counted[1]
            at += counted[0]
        else:
            raise BadMessage(f"it has a value of the kind 0x{kind:02x}, an extension of msgpack, which is not taken")
        if entries >= 0:
            left.append(entries)
            if len(left) - 1 > DEPTH_MAX:
                raise BadMessage(f"its lists and maps are more than {DEPTH_MAX} deep")
    if at != size:
        raise BadMessage(f"its values end at byte {at} of {size}")


def _made(entries: dict[Any, Any]) -> Any:
    if b"__ndarray__" in entries:
        return _array(entries)
    if b"__npgeneric__" in entries:
        dtype = _dtype(entries)
        number = entries.get(b"data")
        if not isinstance(number, (bool, int, float)):
            raise BadMessage(f"a scalar of NumPy holds {type(number).__name__}, expected a number")
        try:
            return dtype.type(number)
        except (OverflowError, ValueError):
            raise BadMessage(f"{number} is no {dtype}") from None
    return entries


def _array(entries: dict[Any, Any]) -> Any:
    dtype, data, shape = _dtype(entries), entries.get(b"data"), entries.get(b"shape")
    if not isinstance(data, bytes):
        raise BadMessage("an array has no data, which should be bytes")
    if not isinstance(shape, list) or not all(type(extent) is int and 0 <= extent < 1 << 31 for extent in shape):
        raise BadMessage("an array has no shape, which should be a list of whole numbers")
    if len(shape) > DIMENSIONS_MAX:
        raise BadMessage(f"an array has {len(shape)} dimensions, at most {DIMENSIONS_MAX} are taken")
    if prod(shape) * dtype.itemsize != len(data):
        raise BadMessage(f"{len(data)} bytes do not fill an array of {dtype} of the shape {shape}")
    try:
        return np.frombuffer(data, dtype).reshape(shape)
    except ValueError:  # extents beside a 0, so large that no array may have them
        raise BadMessage(f"no array can have the shape {shape}") from None


def _dtype(entries: dict[Any, Any]) -> np.dtype[Any]:
    stated = entries.get(b"dtype")
    if isinstance(stated, bytes):
        stated = stated.decode("ascii", "replace")
    if not isinstance(stated, str):
        raise BadMessage("an array has no dtype, which should be a text such as '<f4'")
    # Of what NumPy reads as a dtype only these are let through: an order of bytes, a kind, a size.
    order, kind, size = stated[:1], stated[1:2], stated[2:]
    if order not in ("<", ">", "|", "=") or kind not in _KINDS or not kind or size not in ("1", "2", "4", "8"):
        raise BadMessage(
            f"an array of dtype {stated[:16]!r} is not taken; take truth values, integers or floating point"
        )
    try:
        return np.dtype(stated)
    except TypeError:
        raise BadMessage(f"there is no dtype {stated[:16]!r}") from None


def _check_keys(entries: dict[Any, Any]) -> None:
    for key, value in entries.items():
        if not isinstance(key, str):
            raise BadMessage(f"a key is {key[:32]!r}, expected a text")
        if isinstance(value, dict):
            _check_keys(value)


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} cannot be sent")
