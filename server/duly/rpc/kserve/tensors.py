"""Tensors as KServe's protocol writes them: names of types, raw bytes, lists of elements, shapes with a batch."""

import struct
from math import prod
from typing import Final

from duly.models.spec import ELEMENT_BYTES, TensorSpec
from duly.rpc.kserve.messages import InferTensorContents
from duly.streams.errors import InvalidFrame
from duly.worker.text import with_lengths

BYTES: Final = "BYTES"
"""What the protocol calls strings. Each has its length before it, in four bytes, little-endian."""
_CALLED: Final = {"STRING": BYTES}
"""The protocol's name of each type that has another one in duly."""
_KNOWN: Final = {_CALLED.get(datatype, datatype): datatype for datatype in ELEMENT_BYTES}
_LISTS: Final = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
    BYTES: ("bytes_contents", ""),
}
"""The list that holds elements of each type, and how `struct` writes one."""


def datatype_of(spec: TensorSpec) -> str:
    """Returns the protocol's name of a tensor's type."""
    return _CALLED.get(spec.datatype, spec.datatype)


def known_datatype(name: str, datatype: str) -> str:
    """Returns duly's name of a type that a request states. Raises InvalidFrame where there is no such type. `name`: of
    the input.
    """
    known = _KNOWN.get(datatype)
    if known is None:
        raise InvalidFrame(f"input {name!r}: there is no datatype {datatype!r}; there are: {', '.join(_KNOWN)}")
    return known


def raw_of(name: str, datatype: str, shape: tuple[int, ...], contents: InferTensorContents, bytes_max: int) -> bytes:
    """Returns the elements of a tensor as raw bytes, little-endian and row-major. `datatype`: the protocol's name.
    Raises InvalidFrame where they are in the list of another type, are out of its range, or take more than `bytes_max`,
    and where strings are not as many as the shape has elements.
    """
    field, code = _LISTS.get(datatype, ("", ""))
    if not field:
        raise InvalidFrame(f"input {name!r}: {datatype} has no list of elements; send it in raw_input_contents")
    for other, _ in contents.ListFields():
        if other.name != field:
            raise InvalidFrame(f"input {name!r}: its elements are in {other.name}, those of {datatype} go in {field}")
    if not code:
        texts = contents.bytes_contents
        if shape and min(shape) >= 0 and len(texts) != prod(shape):  # else the shape is told, or the model's own
            takes = f"{BYTES}{list(shape)} takes {prod(shape)}"
            raise InvalidFrame(f"input {name!r}: {len(texts)} elements in {field}, {takes}")
        return with_lengths(texts)
    values = getattr(contents, field)
    needed = len(values) * struct.calcsize(f"<{code}")
    if needed > bytes_max:  # which is told before they are packed, as that takes long
        raise InvalidFrame(
            f"input {name!r}: the elements in {field} take {needed} bytes, at most {bytes_max} are taken"
        )
    try:
        return struct.pack(f"<{len(values)}{code}", *values)
    except struct.error:
        raise InvalidFrame(f"input {name!r}: an element in {field} is no {datatype}") from None


def ends_of_texts(name: str, data: bytes, rows: int, texts: int) -> list[int]:
    """Returns where each of the rows ends that have so many texts each, of which a tensor consists. Raises InvalidFrame
    where it does not.
    """
    ends: list[int] = []
    at, size = 0, len(data)
    for row in range(rows):
        for _ in range(texts):
            end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            if at + 4 > size or end > size:
                raise InvalidFrame(f"input {name!r}: its {size} bytes end within row {row} of {rows}")
            at = end
        ends.append(at)
    if at != size:
        raise InvalidFrame(f"input {name!r}: its {size} bytes are more than those of its {rows} rows, {at}")
    return ends
