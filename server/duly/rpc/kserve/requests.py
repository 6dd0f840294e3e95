"""Reads requests: which frames a ModelInferRequest holds, and which outputs it asks for.

A request for a model that takes batches has the batch as the first dimension of each input. It holds one frame for
each row, and all of its inputs have as many rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from duly.models.spec import ELEMENT_BYTES, Signature
from duly.rpc.kserve.messages import InferParameter, ModelInferRequest
from duly.rpc.kserve.parameters import PARAMETERS_MAX, integer_of, invalid, text_of
from duly.rpc.kserve.regions import NAME_CHARS_MAX, CallRegions, Place
from duly.rpc.kserve.tensors import ends_of_texts, known_datatype, raw_of
from duly.runtime.held_frames import InputData
from duly.streams.errors import CallError, InvalidFrame
from duly.streams.inputs import InputChecks, fits
from duly.worker.channel import DIMS_MAX

_REGION: Final = "shared_memory_region"
_SIZE: Final = "shared_memory_byte_size"
_OFFSET: Final = "shared_memory_offset"
_CLASSES: Final = "classification"
_SIZE_MAX: Final = (1 << 63) - 1

Payload = tuple[Sequence[InputData], int]
"""The inputs of a frame, in their order, and their size in bytes."""


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

    def __init__(self, signature: Signature, batch_max: int, regions: CallRegions) -> None:
        """`batch_max`: how many rows a request may have; 0: the model takes no batches. `regions`: the shared memory of
        its caller.
        """
        self.signature = signature
        self._batch_max = batch_max
        self._checks = InputChecks(signature)
        self.regions = regions
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
            dims = len(tensor.shape)
            if dims > DIMS_MAX + 1:  # with the batch
                raise InvalidFrame(f"input {name!r}: {dims} dimensions, at most {DIMS_MAX + 1} are taken")
            shape = tuple(tensor.shape)
            place = place_of(f"input {name!r}", tensor.parameters) if tensor.parameters else None
            # MLServer's clients send contents with nothing in it beside raw data.
            if (raw_count or place is not None) and tensor.HasField("contents") and tensor.contents.ListFields():
                other = "in shared memory" if place is not None else "in raw_input_contents"
                raise InvalidFrame(f"input {name!r}: its data is both in contents and {other}; it should be in one")
            data: bytes
            if place is not None:
                self._check_place(index, place, shape)
                data = self.regions.read(place)
            elif raw_count:
                if next_raw == raw_count:
                    raise InvalidFrame(
                        f"input {name!r}: raw_input_contents has {raw_count} entries, none of them for it"
                    )
                data = raw[next_raw]
                next_raw += 1
            else:
                bytes_max = max(1, self._batch_max) * self.signature.inputs[index].bytes_max
                data = raw_of(name, tensor.datatype, shape, tensor.contents, bytes_max)
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

    def _check_place(self, index: int, place: Place, shape: tuple[int, ...]) -> None:
        """Raises CallError where the caller has no such place, and InvalidFrame where what is there can't be the input
        of that shape, so that it need not be read.
        """
        self.regions.check(place)
        spec = self.signature.inputs[index]
        most = spec.bytes_max * max(1, self._batch_max)
        if place.size_bytes > most:
            raise InvalidFrame(f"input {spec.name!r}: {place.size_bytes} bytes, at most {most} are taken")
        if shape and not spec.is_text and place.size_bytes != prod(shape) * ELEMENT_BYTES[spec.datatype]:
            takes = f"{spec.datatype}{list(shape)} takes {prod(shape) * ELEMENT_BYTES[spec.datatype]}"
            raise InvalidFrame(f"{place.called}: shared_memory_byte_size is {place.size_bytes}, {takes}")

    def _rows(self, index: int, name: str, datatype: str, shape: tuple[int, ...], data: bytes) -> Sequence[InputData]:
        """Returns what each frame has of an input."""
        checks = self._checks
        if not self._batch_max:
            return (checks.tensor(index, datatype, shape, data),)
        spec = self.signature.inputs[index]
        count = shape[0] if shape else 0
        if not 1 <= count <= self._batch_max or not fits(shape[1:], spec.shape):
            expected = f"{list((-1, *spec.shape))} with at most {self._batch_max} rows"
            raise InvalidFrame(f"input {name!r}: shape {list(shape)}, the model takes {expected}")
        if count == 1:
            return (checks.tensor(index, datatype, shape[1:], data),)
        if spec.is_text:
            ends = ends_of_texts(name, data, count, prod(shape[1:]))
        else:
            row_bytes, rest = divmod(len(data), count)
            if rest:
                raise InvalidFrame(f"input {name!r}: {len(data)} bytes are no {count} rows of equal length")
            ends = [row_bytes * row for row in range(1, count + 1)]
        view = memoryview(data)
        return [
            checks.tensor(index, datatype, shape[1:], view[start:end])
            for start, end in zip([0, *ends], ends, strict=False)
        ]

    def wanted(self, request: ModelInferRequest) -> Sequence[Wanted] | None:
        """Returns the outputs that the request asks for, in its order; None: all, in the model's. Raises CallError,
        also where one should go to shared memory that is not the caller's.
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
            place, classes = place_of(f"output {output.name!r}", output.parameters), 0
            if place is not None:
                self.regions.check(place)
            if _CLASSES in output.parameters:
                classes = integer_of(_CLASSES, output.parameters[_CLASSES], _SIZE_MAX)
                if not classes:
                    raise invalid(_CLASSES, f"of output {output.name!r} should be 1 at least, got 0")
            wanted[index] = Wanted(index, classes, place)
        if len(wanted) == len(self._outputs) and all(
            index == each.index and not each.classes and each.place is None
            for index, each in enumerate(wanted.values())
        ):
            return None
        return tuple(wanted.values())


def place_of(tensor: str, parameters: Mapping[str, InferParameter]) -> Place | None:
    """Returns where in shared memory a tensor is; None: its parameters do not say so. Raises CallError. `tensor`: what
    errors call it.
    """
    if len(parameters) > PARAMETERS_MAX:
        text = f"{tensor} has {len(parameters)} parameters, at most {PARAMETERS_MAX} are taken"
        raise CallError("INVALID_REQUEST", text)
    if _REGION not in parameters:
        for name in (_SIZE, _OFFSET):
            if name in parameters:
                raise CallError("INVALID_REQUEST", f"{tensor}: parameter '{name}' is there without '{_REGION}'")
        return None
    region = text_of(_REGION, parameters[_REGION])
    if _SIZE not in parameters:
        text = f"{tensor}: parameter '{_REGION}' is there without '{_SIZE}', for region {region[:NAME_CHARS_MAX]!r}"
        raise CallError("INVALID_REQUEST", text)
    try:
        size_bytes = integer_of(_SIZE, parameters[_SIZE], _SIZE_MAX)
        offset = integer_of(_OFFSET, parameters[_OFFSET], _SIZE_MAX) if _OFFSET in parameters else 0
    except CallError as error:
        raise CallError(error.reason, f"{tensor}, region {region[:NAME_CHARS_MAX]!r}: {error}") from None
    return Place(tensor, region, offset, size_bytes)
