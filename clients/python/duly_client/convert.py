"""Element types of NumPy and of the wire, and the arrays in an outcome."""

import contextlib
from collections.abc import Sequence
from math import prod
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from duly.v1 import tensor_pb2
from duly_client.errors import ProtocolError

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
}
"""Element types of NumPy, by the name of the wire's DataType without its prefix. The wire is little-endian."""

DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
"""Names of the wire's DataType, by the element type of NumPy."""

_DTYPE_BY_NUMBER = {tensor_pb2.DataType.Value(f"DATA_TYPE_{name}"): dtype for name, dtype in DTYPES.items()}


def element_bytes(datatype: int) -> int:
    """Returns how many bytes an element takes, by the number of its data type; 0 for one that is not known."""
    dtype = _DTYPE_BY_NUMBER.get(datatype)
    return dtype.itemsize if dtype is not None else 0


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The wire's name of an element type. Raises TypeError where it has none."""
    name = DATATYPES.get(dtype)
    if name is None:
        raise TypeError(f"arrays of {dtype} cannot be sent; element types are {', '.join(DTYPES)}")
    return f"DATA_TYPE_{name}"


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
    """Makes a read-only array over the tensor's bytes. Raises ProtocolError where they do not fill its shape."""
    dtype = _DTYPE_BY_NUMBER.get(tensor.datatype)
    shape = tuple(tensor.shape)
    data = tensor.data
    if dtype is not None and len(data) == prod(shape) * dtype.itemsize:
        with contextlib.suppress(ValueError):  # extents below 0, or beside a 0 so large that no array may have them
            return np.frombuffer(data, dtype).reshape(shape)
    datatype = (
        tensor_pb2.DataType.Name(cast(tensor_pb2.DataType, tensor.datatype)).removeprefix("DATA_TYPE_")
        if dtype
        else tensor.datatype
    )
    raise ProtocolError(
        f"tensor {tensor.name!r}: {len(data)} bytes do not fill {datatype}{list(shape)}", "MESSAGE_MALFORMED"
    )


def spelled(datatype: str, shape: tuple[int, ...]) -> str:
    """Type and shape as messages show them: `FP32[3,416,416]`. An extent that may be any is `?`."""
    return f"{datatype}[{','.join('?' if extent < 0 else str(extent) for extent in shape)}]"
