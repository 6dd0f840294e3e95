"""Arrays of a .npy file as frames, which lie along the first axis."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from duly_client.bfloat16 import BFLOAT16
from duly_client.convert import DATATYPES, Array, spelled
from duly_client.recordings.file_kind import begins_with
from duly_client.recordings.recording import PERIOD_S, Frame, PassOver, Recording, RecordingError
from duly_client.types import TensorSpec
from duly_client.wire import inputs_of

ARRAYS = {".npy"}
ARRAY_BYTES_MAX = 64 << 20
"""Bytes of one frame; a server takes no more at once unless it is set to."""

_SAVED_BFLOAT16 = np.dtype("V2")
"""What NumPy saves arrays of ml_dtypes' bfloat16 as."""
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def arrays(path: Path, spec: TensorSpec) -> Recording:
    """Raises RecordingError where it is no .npy file, or its arrays are not what the model takes."""
    with path.open("rb") as file:
        shape, dtype, by_columns = _opened(file, str(path), spec)
        offset, there = file.tell(), path.stat().st_size - file.tell()
    if by_columns and there < prod(shape) * dtype.itemsize:
        raise RecordingError(f"{path}: cut off, and its rows lie apart in it (Fortran order), so that none is whole")

    def frames(pass_over: PassOver) -> Iterator[Frame]:
        if by_columns:  # rows are gathered from all over the file
            whole = np.memmap(path, dtype, "r", offset, shape, "F")
            yield from (Frame(np.asarray(row)) for row in whole)
        else:
            with path.open("rb") as file:
                file.seek(offset)
                yield from _rows(file, str(path), shape, dtype, pass_over)

    description = f"{path}: {shape[0]} arrays {spelled(str(dtype), shape[1:])}"
    return Recording(description, PERIOD_S, None, True, frames)


def live_arrays(file: BinaryIO, name: str, spec: TensorSpec, pass_over: PassOver) -> Iterator[Frame]:
    """The arrays of a .npy that comes through a pipe. Raises RecordingError as `arrays` does."""
    shape, dtype, by_columns = _opened(file, name, spec)
    if by_columns:
        raise RecordingError(f"{name}: its rows lie apart in it (Fortran order); np.ascontiguousarray orders them")
    return _rows(file, name, shape, dtype, pass_over)


def _opened(file: BinaryIO, name: str, spec: TensorSpec) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Reads the header. Returns shape, element type and whether the rows lie apart in the file."""
    head = file.read(np.lib.format.MAGIC_LEN)
    read_header = _HEADERS.get((head[6], head[7])) if len(head) == np.lib.format.MAGIC_LEN else None
    if head[:6] != np.lib.format.MAGIC_PREFIX or read_header is None:
        raise RecordingError(f"{name}: not a .npy file of numbers: {begins_with(head)}; np.save writes one")
    try:
        shape, by_columns, dtype = read_header(file)
    except Exception as error:  # NumPy parses the header as Python, and raises whatever that raises
        raise RecordingError(f"{name}: not a .npy file of numbers: its header is damaged or cut off") from error
    if any(extent < 0 for extent in shape):
        raise RecordingError(f"{name}: its header states the shape {list(shape)}")
    if dtype == _SAVED_BFLOAT16 and spec.datatype == "BF16":
        dtype = BFLOAT16
    if dtype.kind != "U" and dtype.newbyteorder("<") not in DATATYPES:
        raise RecordingError(f"{name}: its elements are {dtype}; {', '.join(DATATYPES.values())} can be sent")
    misfit = _misfit(shape[1:], dtype, spec)
    if misfit and not _misfit(shape, dtype, spec):
        shape, misfit = (1, *shape), ""  # one frame
    if misfit:
        fits_else = dtype != spec.dtype and spec.dtype.kind in "biuf" and not _misfit(shape[1:], spec.dtype, spec)
        raise RecordingError(
            f"{name}: {misfit}"
            + (f"; np.save(path, array.astype(np.{spec.dtype.name})) writes the element type" if fits_else else "")
        )
    return shape, dtype, by_columns and len(shape) > 1


def _misfit(shape: tuple[int, ...], dtype: np.dtype[Any], spec: TensorSpec) -> str:
    """Why such an array is no frame, in the words of the check before it is sent; empty: it is one."""
    if prod(shape) * dtype.itemsize > ARRAY_BYTES_MAX:
        return f"an array has more than {ARRAY_BYTES_MAX:,} bytes: {dtype}{list(shape)}"
    try:
        inputs_of(np.broadcast_to(np.zeros((), dtype), shape), None, [spec])
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _rows(
    file: BinaryIO, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], pass_over: PassOver
) -> Iterator[Frame]:
    row_bytes = prod(shape[1:]) * dtype.itemsize
    for number in range(shape[0]):
        data = file.read(row_bytes)
        if len(data) < row_bytes:
            pass_over(RecordingError(f"{name}: cut off after {number} of its {shape[0]} arrays"))
            return
        row: Array = np.frombuffer(data, dtype).reshape(shape[1:])
        yield Frame(row, f"{name}: array {number + 1}")
