"""Reads requests: which frames a ModelInferRequest holds, and which outputs it asks for.

A request for a model that takes batches has the batch as the first dimension of each input. It holds one frame for
each row, and all of its inputs have as many rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from duly.models.spec import Signature
from duly.rpc.kserve.messages import InferParameter, ModelInferRequest
from duly.rpc.kserve.parameters import PARAMETERS_MAX, integer_of, text_of
from duly.rpc.kserve.tensors import known_datatype, raw_of
from duly.runtime.held_frames import InputData
from duly.streams.errors import CallError, InvalidFrame
from duly.streams.inputs import InputChecks

DIMS_SHOWN: Final = 64
"""So many extents of a wrong shape are in its error."""
_REGION: Final = "shared_memory_region"
_SIZE: Final = "shared_memory_byte_size"
_OFFSET: Final = "shared_memory_offset"
_CLASSES: Final = "classification"
_SIZE_MAX: Final = (1 << 63) - 1

Payload = tuple[Sequence[InputData], int]
"""The inputs of a frame, in their order, and their size in bytes."""


class Place(NamedTuple):
    """Where in a region of shared memory a tensor is."""

    region: str
    offset: int
    size_bytes: int


ReadRegion = Callable[[Place], bytes]
"""Reads what is at a place. Raises CallError where there is no such place."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that a request asks for."""

    index: int
    """Of the output among those of the signature."""
    classes: int = 0
    """So many classes with the highest scores are sent in place of the tensor; 0: the tensor is."""
    place: Place | None = None
    """Where it goes in shared memory; None: it is in the reply."""


class RequestReader:
    """Reads the requests for one model version."""

    def __init__(self, signature: Signature, batch_max: int, read_region: ReadRegion) -> None:
        """`batch_max`: how many rows a request may have; 0: the model takes no batches."""
        self.signature = signature
        self._batch_max = batch_max
        self._checks = InputChecks(signature)
        self._read_region = read_region
        self._outputs = {spec.name: index for index, spec in enumerate(signature.outputs)}

    def frames(self, request: ModelInferRequest) -> Sequence[Payload]:
        """Returns the payloads of the request's frames, one at least. Raises InvalidFrame where it does not fit, and
        CallError where a parameter or a region of shared memory is wrong.
        """
        checks = self._checks
        inputs, raw = request.inputs, request.raw_input_contents
        if len(inputs) > checks.count:
            raise InvalidFrame(f"{len(inputs)} inputs, the model takes {checks.count}")
        rows = 0
        columns: list[Sequence[InputData] | None] = [None] * checks.count
        raw_count = len(raw)
        next_raw = 0
        for tensor in inputs:
            name = tensor.name
            index = checks.index(name)
            datatype = known_datatype(name, tensor.datatype)
            shape = tuple(tensor.shape)
            place = place_of(tensor.parameters) if tensor.parameters else None
            if tensor.HasField("contents") and (raw_count or place is not None):
                other = "in shared memory" if place is not None else "in raw_input_contents"
                raise InvalidFrame(f"input {name!r}: its data is both in contents and {other}; it should be in one")
            data: bytes
            if place is not None:
                data = self._read_region(place)
            elif raw_count:
                if next_raw == raw_count:
                    raise InvalidFrame(
                        f"input {name!r}: raw_input_contents has {raw_count} entries, none of them for it"
                    )
                data = raw[next_raw]
                next_raw += 1
            else:
                data = raw_of(name, tensor.datatype, tensor.contents)
            parts = self._rows(index, name, datatype, shape, data)
            if columns[index] is not None:
                raise InvalidFrame(f"input {name!r} is there twice")
            if rows and len(parts) != rows:
                raise InvalidFrame(f"input {name!r} has {len(parts)} rows, the one before it {rows}")
            rows = len(parts)
            columns[index] = parts
        if next_raw != raw_count:
            raise InvalidFrame(f"raw_input_contents has {raw_count} entries, {next_raw} inputs have their data there")
        if checks.count == 1 and rows:
            (column,) = columns
            assert column is not None
            return [((data,), len(data.data)) for data in column]
        frames: list[Payload] = []
        for row in range(rows or 1):
            whole = checks.complete([column[row] if column is not None else None for column in columns])
            frames.append((whole, sum([len(data.data) for data in whole])))
        return frames

    def _rows(self, index: int, name: str, datatype: str, shape: tuple[int, ...], data: bytes) -> Sequence[InputData]:
        """Returns what each frame has of an input."""
        checks = self._checks
        if not self._batch_max:
            return (checks.tensor(index, datatype, shape, data),)
        spec = self.signature.inputs[index]
        count = shape[0] if shape else 0
        if not 1 <= count <= self._batch_max or not _fits(shape[1:], spec.shape):
            expected = f"{list((-1, *spec.shape))} with at most {self._batch_max} rows"
            raise InvalidFrame(f"input {name!r}: shape {list(shape[:DIMS_SHOWN])}, the model takes {expected}")
        if count == 1:
            return (checks.tensor(index, datatype, shape[1:], data),)
        row_bytes, rest = divmod(len(data), count)
        if rest:
            raise InvalidFrame(f"input {name!r}: {len(data)} bytes are no {count} rows of equal length")
        view = memoryview(data)
        return [
            checks.tensor(index, datatype, shape[1:], view[start : start + row_bytes])  # type: ignore[arg-type]
            for start in range(0, len(data), row_bytes)
        ]

    def wanted(self, request: ModelInferRequest) -> Sequence[Wanted] | None:
        """Returns the outputs that the request asks for, in its order; None: all, and nothing is said of them. Raises
        CallError.
        """
        if not request.outputs:
            return None
        wanted: dict[int, Wanted] = {}
        for output in request.outputs:
            index = self._outputs.get(output.name)
            if index is None:
                known = ", ".join(repr(name) for name in self._outputs)
                raise CallError("INVALID_REQUEST", f"outputs: there is no output {output.name!r}; there are: {known}")
            if index in wanted:
                raise CallError("INVALID_REQUEST", f"outputs: {output.name!r} is there twice")
            if not output.parameters:
                wanted[index] = Wanted(index)
                continue
            place, classes = place_of(output.parameters), 0
            if _CLASSES in output.parameters:
                classes = integer_of(_CLASSES, output.parameters[_CLASSES], _SIZE_MAX)
            wanted[index] = Wanted(index, classes, place)
        return tuple(wanted.values())


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return shape == expected or (
        len(shape) == len(expected) and all(want in (-1, extent) for extent, want in zip(shape, expected, strict=True))
    )


def place_of(parameters: Mapping[str, InferParameter]) -> Place | None:
    """Returns where in shared memory a tensor is; None: its parameters do not say so. Raises CallError."""
    if len(parameters) > PARAMETERS_MAX:
        text = f"an input or output has {len(parameters)} parameters, at most {PARAMETERS_MAX} are taken"
        raise CallError("INVALID_REQUEST", text)
    if _REGION not in parameters:
        for name in (_SIZE, _OFFSET):
            if name in parameters:
                raise CallError("INVALID_REQUEST", f"parameter '{name}' is there without '{_REGION}'")
        return None
    if _SIZE not in parameters:
        raise CallError("INVALID_REQUEST", f"parameter '{_REGION}' is there without '{_SIZE}'")
    offset = integer_of(_OFFSET, parameters[_OFFSET], _SIZE_MAX) if _OFFSET in parameters else 0
    return Place(text_of(_REGION, parameters[_REGION]), offset, integer_of(_SIZE, parameters[_SIZE], _SIZE_MAX))
