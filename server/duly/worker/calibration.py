"""Tables of ranges, with which a provider runs a graph of floating point with 8 bits.

ONNX Runtime's providers read such a table without checking it, so it is checked here, in whole, and handed over as
memory that nobody can change. A table is a message of FlatBuffers, as ONNX Runtime's quantisation writes it
(calibration.flatbuffers): a list of tensors by name, each with the farthest number from zero that 8 bits shall hold, as
text. Or it is TensorRT's own: a line TRT-..., and then a line NAME: HEX for each tensor, the bits of its scale.
"""

import fcntl
import math
import os
import re
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from duly.accelerators import ACCELERATORS, FILE, NATIVE, Accelerator
from duly.models.spec import Provider
from duly.models.wording import first_few
from duly.worker.errors import LoadError

TABLE_BYTES_MAX = 16 << 20
"""A larger table is not read."""
RANGES_MAX = 100_000
"""A table of more tensors is not read."""
NAMES_TOLD_MAX = 5
"""An error names so many tensors."""
_LEVELS = 127
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_NATIVE_LINE = re.compile(r"(.*): ([0-9a-fA-F]{8})")


@dataclass(frozen=True, slots=True)
class Table:
    """The ranges of a graph's tensors."""

    name: str
    """NAME/VERSION/FILE."""
    data: bytes
    ranges: dict[str, float]
    """How far from zero each tensor's numbers go."""
    native: bool
    """Whether it is one of TensorRT's own."""


def read_table(data: bytes, name: str) -> Table:
    """Reads a table, which errors call `name`. Raises LoadError where it is none."""
    native = data.startswith(b"TRT-")
    try:
        ranges = _native_ranges(data) if native else _ranges(data)
    except (struct.error, ValueError, IndexError) as error:
        raise LoadError(
            f"{name}: is no table of ranges ({error}); make it with duly models calibrate, or with "
            "onnxruntime.quantization.write_calibration_table (calibration.flatbuffers)"
        ) from None
    for tensor, reach in ranges.items():
        if not (math.isfinite(reach) and reach >= 0):
            raise LoadError(f"{name}: the range of '{tensor}' is {reach}, which is no distance from zero")
    return Table(name, data, ranges, native)


def with_table(
    asked: Sequence[Provider], rows: Sequence[Accelerator | None], table: Table | None, tensors: Collection[str]
) -> tuple[Provider, ...]:
    """Returns the providers with the options that have them run in the ranges of the table. `tensors`: the names of
    those of the graph.

    Raises:
        LoadError: the table is that of another graph, or no provider takes one.
    """
    if table is None:
        return tuple(asked)
    strange = sorted(name for name in table.ranges if name not in tensors)
    if strange:
        raise LoadError(
            f"{table.name}: has ranges of {first_few(strange, NAMES_TOLD_MAX)}, which are no tensors of the graph: it "
            "was made of another one; make it anew with duly models calibrate"
        )
    if not table.ranges:
        raise LoadError(f"{table.name}: has no ranges; make it anew with duly models calibrate")
    if not any(row is not None and row.int8_options for row in rows):
        able = ", ".join(row.provider for row in ACCELERATORS if row.int8_options)
        raise LoadError(
            f"{table.name}: int8_calibration is for {able}, and {asked[0].name} takes no such table; name one of them "
            "in providers, or have the graph itself quantised (duly models optimize --steps int8-static)"
        )
    path = _in_memory(table)
    native = str(table.native)
    given = []
    for provider, row in zip(asked, rows, strict=True):
        own = dict(row.int8_options) if row is not None else {}
        own = {key: value.replace(FILE, path).replace(NATIVE, native) for key, value in own.items()}
        given.append(provider.model_copy(update={"options": {**provider.options, **own}}))
    return tuple(given)


def _in_memory(table: Table) -> str:
    """Returns a path of this process to the table, in memory that can neither be written nor cut off any more."""
    descriptor = os.memfd_create("ranges", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(table.data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return f"/proc/self/fd/{descriptor}"


def _native_ranges(data: bytes) -> dict[str, float]:
    ranges: dict[str, float] = {}
    for line in data.decode().splitlines()[1:]:
        found = _NATIVE_LINE.fullmatch(line.rstrip())
        if found is None:
            raise ValueError(f"the line {line[:40]!r} is no name with eight hexadecimal digits")
        (scale,) = struct.unpack(">f", bytes.fromhex(found[2]))
        ranges[found[1]] = scale * _LEVELS
    return _limited(ranges)


def _ranges(data: bytes) -> dict[str, float]:
    """Follows every offset that ONNX Runtime follows, each checked to lie within the data."""
    root = _at("<I", data, 0)
    entries = _field(data, root, 0)
    if entries is None:
        return {}
    count = _at("<I", data, entries)
    if count > RANGES_MAX:
        raise ValueError(f"{count:,} tensors, at most {RANGES_MAX:,} are read")
    ranges: dict[str, float] = {}
    for index in range(count):
        place = entries + 4 + 4 * index
        entry = place + _at("<I", data, place)
        name, reach = _string(data, entry, 0), _string(data, entry, 1)
        ranges[name] = float(reach)
    return ranges


def _field(data: bytes, table: int, number: int) -> int | None:
    """Returns where the field of a table leads; None: it is not there."""
    vtable = table - _at("<i", data, table)
    size = _at("<H", data, vtable)
    slot = 4 + 2 * number
    if size < slot + 2:
        return None
    offset = _at("<H", data, vtable + slot)
    return table + offset + _at("<I", data, table + offset) if offset else None


def _string(data: bytes, table: int, number: int) -> str:
    start = _field(data, table, number)
    if start is None:
        raise ValueError("an entry without a name or a range")
    length = _at("<I", data, start)
    if start + 4 + length > len(data):
        raise ValueError("it is cut off")
    return data[start + 4 : start + 4 + length].decode()


def _at(form: str, data: bytes, offset: int) -> int:
    if not 0 <= offset <= len(data) - struct.calcsize(form):
        raise ValueError("it is cut off")
    number: int = struct.unpack_from(form, data, offset)[0]
    return number


def _limited(ranges: dict[str, float]) -> dict[str, float]:
    if len(ranges) > RANGES_MAX:
        raise ValueError(f"{len(ranges):,} tensors, at most {RANGES_MAX:,} are read")
    return ranges
