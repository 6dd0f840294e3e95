"""Element types of NumPy and of the wire, and the arrays in an outcome."""

import contextlib
from collections.abc import Sequence
from math import prod
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from duly.v1 import tensor_pb2
from duly_client.bfloat16 import BFLOAT16, to_float32
from duly_client.errors import ProtocolError
from duly_client.texts import TEXT, TEXT_KINDS, text_bytes, texts_of

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "STRING": TEXT,
    "BF16": BFLOAT16,
}
"""Element types of NumPy, by the name of the wire's DataType without its prefix. The wire is little-endian."""

DATATYPES = {dtype: name for name, dtype in DTYPES.items() if dtype != TEXT}
"""Names of the wire's DataType, by the element type of NumPy, for all whose elements have one size."""

_DTYPE_BY_NUMBER = {tensor_pb2.DataType.Value(f"DATA_TYPE_{name}"): dtype for dtype, name in DATATYPES.items()}


def element_bytes(datatype: int) -> int:
    """Returns how many bytes an element takes, by the number of its data type; 0 for text and one that is not known."""
    dtype = _DTYPE_BY_NUMBER.get(datatype)
    return dtype.itemsize if dtype is not None else 0


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The wire's name of an element type. Raises TypeError where it has none."""
    name = "STRING" if dtype.kind in TEXT_KINDS else DATATYPES.get(dtype)
    if name is None:
        raise TypeError(f"arrays of {dtype} cannot be sent; element types are {', '.join(DTYPES)}")
    return f"DATA_TYPE_{name}"


def data_of(array: Array) -> bytes:
    """Returns the elements as they go on the wire. Raises TypeError and ValueError where text holds what is none."""
    return text_bytes(array) if array.dtype.kind in TEXT_KINDS else array.tobytes()


def array_of(data: bytes, datatype: str, shape: Sequence[int]) -> Array:
    """Makes a read-only array of elements of a type of DTYPES. Raises ValueError where they do not fill the shape."""
    if datatype == "STRING":
        return texts_of(data, shape)
    return np.frombuffer(data, DTYPES[datatype]).reshape(shape)


def numbers_or_text(array: Array) -> Array:
    """Returns the array with elements that Python knows: those of BFLOAT16 as float32, all others as they are."""
    return to_float32(array) if array.dtype == BFLOAT16 else array


class TensorMessage(Protocol):
    """An output as it came: of duly.v1, or of the local transport."""

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> int: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def data(self) -> bytes: ...


def tensor_array(tensor: TensorMessage) -> Array:
    """Makes a read-only array over the tensor's bytes, or of the text in them. Raises ProtocolError where they do not
    fill its shape.
    """
    dtype = _DTYPE_BY_NUMBER.get(tensor.datatype)
    shape = tuple(tensor.shape)
    data = tensor.data
    if dtype is not None and len(data) == prod(shape) * dtype.itemsize:
        with contextlib.suppress(ValueError):  # extents below 0, or beside a 0 so large that no array may have them
            return np.frombuffer(data, dtype).reshape(shape)
    why = ""
    if tensor.datatype == tensor_pb2.DATA_TYPE_STRING:
        try:
            return texts_of(data, shape)
        except ValueError as error:
            why = f": {error}"
    datatype = (
        tensor_pb2.DataType.Name(cast(tensor_pb2.DataType, tensor.datatype)).removeprefix("DATA_TYPE_")
        if dtype or why
        else tensor.datatype
    )
    raise ProtocolError(
        f"tensor {tensor.name!r}: {len(data)} bytes do not fill {datatype}{list(shape)}{why}", "MESSAGE_MALFORMED"
    )


def spelled(datatype: str, shape: tuple[int, ...]) -> str:
    """Type and shape as messages show them: `FP32[3,416,416]`. An extent that may be any is `?`."""
    return f"{datatype}[{','.join('?' if extent < 0 else str(extent) for extent in shape)}]"
