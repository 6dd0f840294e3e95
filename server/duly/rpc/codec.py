"""Between the wire and the runtime: checks frames against the model, converts both ways.

A frame that does not fit is INVALID with a reason; it never ends its stream. Bytes are only measured here, never looked
into: decoding pictures and searching for NaN is the worker's work.
"""

from dataclasses import dataclass
from math import prod
from typing import TypeVar, cast

from google.protobuf.message import DecodeError, Message

from duly.core.types import OutcomeStatus
from duly.models.spec import ELEMENT_BYTES, Signature, TensorSpec
from duly.rpc.errors import CallError
from duly.runtime.outcome import Outcome
from duly.runtime.payloads import Payload
from duly.v1 import inference_pb2, tensor_pb2
from duly.worker.channel import DIMS_MAX, ENCODINGS

# The generated enums' Value() is typed as a plain int.
_DATATYPE = {name: cast(tensor_pb2.DataType, tensor_pb2.DataType.Value(f"DATA_TYPE_{name}")) for name in ELEMENT_BYTES}
_DATATYPE_NAME = {number: name for name, number in _DATATYPE.items()}
_FORMAT = {
    name: cast(tensor_pb2.EncodedFormat, tensor_pb2.EncodedFormat.Value(f"ENCODED_FORMAT_{name}"))
    for name in ENCODINGS
    if name
}
_ENCODING_OF_FORMAT = {_FORMAT[name]: index for index, name in enumerate(ENCODINGS) if name}
_M = TypeVar("_M", bound=Message)
_RESULTS = (OutcomeStatus.ON_TIME, OutcomeStatus.LATE)


def parse(kind: type[_M], message: bytes) -> _M:
    """Raises CallError MESSAGE_MALFORMED."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise CallError("MESSAGE_MALFORMED", f"a message is no {kind.DESCRIPTOR.full_name}") from None


class InvalidFrame(Exception):
    """The frame does not fit the model; the text becomes the outcome's reason."""


@dataclass(slots=True)
class _Input:
    spec: TensorSpec
    datatype: int
    element_bytes: int
    fixed_bytes: int
    """Length of the data where the shape is fixed, else 0."""
    encodings: frozenset[int]


class FrameReader:
    """Turns the inputs of frames for one model into payloads."""

    def __init__(self, signature: Signature) -> None:
        self._inputs = [_Input(*_facts(spec)) for spec in signature.inputs]
        self._index = {spec.name: nth for nth, spec in enumerate(signature.inputs)}
        self._only = 0 if len(self._inputs) == 1 else None
        self._only_names = ("", signature.inputs[0].name)

    def payload(self, frame: inference_pb2.Frame) -> tuple[Payload, int]:
        """(payload, its size in bytes). Raises InvalidFrame."""
        tensors = frame.tensors
        if self._only is not None and len(tensors) == 1 and not frame.encoded:
            # Nearly every sensor: one array for the one input.
            tensor = tensors[0]
            if tensor.name in self._only_names:
                only = self._tensor(self._inputs[0], tensor)
                return [only], len(only[2])
        found: list[tuple[int, tuple[int, ...], bytes] | None] = [None] * len(self._inputs)
        for tensor in frame.tensors:
            nth = self._which(tensor.name, found)
            found[nth] = self._tensor(self._inputs[nth], tensor)
        for encoded in frame.encoded:
            nth = self._which(encoded.name, found)
            found[nth] = self._encoded(self._inputs[nth], encoded)
        payload: Payload = []
        size_bytes = 0
        for value, expected in zip(found, self._inputs, strict=True):
            if value is None:
                raise InvalidFrame(f"input {expected.spec.name!r} is missing; the model takes {self._names()}")
            payload.append(value)
            size_bytes += len(value[2])
        return payload, size_bytes

    def _which(self, name: str, found: list[tuple[int, tuple[int, ...], bytes] | None]) -> int:
        nth = self._index.get(name) if name else self._only
        if nth is None:
            what = f"there is no input {name!r}" if name else "an input has no name"
            raise InvalidFrame(f"{what}; the model takes {self._names()}")
        if found[nth] is not None:
            raise InvalidFrame(f"input {self._inputs[nth].spec.name!r} is there twice")
        return nth

    def _names(self) -> str:
        return ", ".join(repr(name) for name in self._index)

    def _tensor(self, expected: _Input, tensor: tensor_pb2.Tensor) -> tuple[int, tuple[int, ...], bytes]:
        spec, data, datatype = expected.spec, tensor.data, tensor.datatype
        if datatype != expected.datatype and datatype:
            got = _DATATYPE_NAME.get(datatype, str(datatype))
            raise InvalidFrame(f"input {spec.name!r}: datatype {got}, the model takes {spec.datatype}")
        if len(tensor.shape) > DIMS_MAX:
            raise InvalidFrame(f"input {spec.name!r}: {len(tensor.shape)} dimensions, at most {DIMS_MAX} are taken")
        shape = tuple(tensor.shape)
        if not shape and expected.fixed_bytes:
            shape = spec.shape
        elif shape != spec.shape and not _fits(shape, spec.shape):
            raise InvalidFrame(f"input {spec.name!r}: shape {list(shape)}, the model takes {list(spec.shape)}")
        needed = expected.fixed_bytes or prod(shape) * expected.element_bytes
        if len(data) != needed:
            raise InvalidFrame(f"input {spec.name!r}: {len(data)} bytes, {spec.datatype}{list(shape)} takes {needed}")
        if needed > spec.bytes_max:
            raise InvalidFrame(f"input {spec.name!r}: {needed} bytes, at most {spec.bytes_max} are taken (bytes_max)")
        return 0, shape, data

    def _encoded(self, expected: _Input, encoded: tensor_pb2.Encoded) -> tuple[int, tuple[int, ...], bytes]:
        spec, data = expected.spec, encoded.data
        encoding = _ENCODING_OF_FORMAT.get(encoded.format, 0)
        if encoding not in expected.encodings:
            got = ENCODINGS[encoding] or f"format {encoded.format}"
            takes = ", ".join(spec.encodings) or "only tensors"
            raise InvalidFrame(f"input {spec.name!r}: {got} is not taken, the model takes {takes}")
        if not data:
            raise InvalidFrame(f"input {spec.name!r}: no bytes")
        if len(data) > spec.bytes_max:
            raise InvalidFrame(
                f"input {spec.name!r}: {len(data)} bytes, at most {spec.bytes_max} are taken (bytes_max)"
            )
        return encoding, (), data


def _facts(spec: TensorSpec) -> tuple[TensorSpec, int, int, int, frozenset[int]]:
    element_bytes = ELEMENT_BYTES[spec.datatype]
    fixed_bytes = 0 if -1 in spec.shape else prod(spec.shape) * element_bytes
    encodings = frozenset(ENCODINGS.index(name) for name in spec.encodings)
    return spec, _DATATYPE[spec.datatype], element_bytes, fixed_bytes, encodings


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(
        extent == want or (want == -1 and extent > 0) for extent, want in zip(shape, expected, strict=True)
    )


# ---- outcomes ----


class OutcomeWriter:
    """Turns outcomes into messages, for the outputs that a stream asked for."""

    def __init__(self, signature: Signature, wanted: tuple[str, ...]) -> None:
        """`wanted`: names of outputs, all of which the signature has; empty: all."""
        self._outputs = [
            (spec.name, _DATATYPE[spec.datatype]) if not wanted or spec.name in wanted else None
            for spec in signature.outputs
        ]

    def add(
        self,
        batch: inference_pb2.OutcomeBatch,
        outcome: Outcome,
        status: OutcomeStatus,
        now_ns: int,
        received_unix_nano: int,
        clock: tuple[int, int],
    ) -> None:
        """Appends `outcome` as `status`. `clock`: (capture to receipt, its uncertainty), (0, 0) where unknown."""
        frame, run = outcome.frame, outcome.run
        message = batch.outcomes.add(
            frame_id=frame.frame_id,
            status=int(status),
            slack_nano=frame.deadline_ns - now_ns,
            reason=outcome.reason,
        )
        received_ns = frame.received_ns
        timing = message.timing
        timing.received_unix_nano = received_unix_nano
        timing.sent_nano = now_ns - received_ns
        if clock[1]:
            timing.capture_to_receipt_nano, timing.clock_uncertainty_nano = clock
        if run is not None:
            message.version = run.model.rpartition("/")[2]
            message.variant = run.variant
            message.batch_size = run.size
            timing.dispatched_nano = run.dispatched_ns - received_ns
            if run.started_ns:
                timing.started_nano = run.started_ns - received_ns
                timing.finished_nano = run.finished_ns - received_ns
        if status in _RESULTS:
            for nth, shape, data in outcome.outputs or ():
                named = self._outputs[nth]
                if named is not None:
                    message.outputs.add(name=named[0], datatype=named[1], shape=shape, data=data)


# ---- descriptions ----


def tensor_spec(spec: TensorSpec) -> tensor_pb2.TensorSpec:
    return tensor_pb2.TensorSpec(
        name=spec.name,
        datatype=_DATATYPE[spec.datatype],
        shape=spec.shape,
        encoded_formats=[_FORMAT[name] for name in spec.encodings],
        labels=spec.labels,
        sample_rate_hz=spec.sample_rate_hz,
        finite=spec.finite,
    )
