"""Translates between messages of duly.v1 and what streams work with: frames come in, outcomes go out."""

from collections.abc import Sequence
from typing import TypeVar, cast

from google.protobuf.message import DecodeError, Message

from duly.core.fates import RESULTS
from duly.models.spec import ELEMENT_BYTES, Signature, TensorSpec
from duly.runtime.held_frames import InputData
from duly.runtime.outcome import Outcome
from duly.streams.errors import CallError
from duly.streams.inputs import InputChecks
from duly.v1 import inference_pb2, tensor_pb2
from duly.worker.channel import SENT_ENCODINGS

# The generated enums' Value() is typed as a plain int.
_DATATYPE = {name: cast(tensor_pb2.DataType, tensor_pb2.DataType.Value(f"DATA_TYPE_{name}")) for name in ELEMENT_BYTES}
_FORMAT = {
    name: cast(tensor_pb2.EncodedFormat, tensor_pb2.EncodedFormat.Value(f"ENCODED_FORMAT_{name}"))
    for name in SENT_ENCODINGS
}
_FORMAT_NAME: dict[int, str] = {number: name for name, number in _FORMAT.items()}
_M = TypeVar("_M", bound=Message)


class _DatatypeNames(dict[int, str]):
    """Names of datatypes by their number. The name is empty where none is stated, and the number itself where that
    means nothing.
    """

    def __missing__(self, number: int) -> str:
        return str(number)


_DATATYPE_NAME = _DatatypeNames([(0, ""), *((int(number), name) for name, number in _DATATYPE.items())])


def parse(kind: type[_M], message: bytes) -> _M:
    """Parses a message. Raises CallError MESSAGE_MALFORMED."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise CallError("MESSAGE_MALFORMED", f"a message is no {kind.DESCRIPTOR.full_name}") from None


class FrameReader:
    """Turns the inputs of frames for one model version into payloads."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._checks = InputChecks(signature)
        self._only_names = ("", signature.inputs[0].name) if self._checks.count == 1 else ()

    def payload(self, frame: inference_pb2.Frame) -> tuple[Sequence[InputData], int]:
        """Returns (payload, its size in bytes). Raises InvalidFrame."""
        tensors = frame.tensors
        if len(tensors) == 1 and not frame.encoded:
            # Nearly every sensor sends one array for the one input.
            tensor = tensors[0]
            if tensor.name in self._only_names:
                only = self._checks.tensor(0, _DATATYPE_NAME[tensor.datatype], tuple(tensor.shape), tensor.data)
                return (only,), len(only.data)
        checks = self._checks
        payload: list[InputData | None] = [None] * checks.count
        for tensor in tensors:
            index = checks.index(tensor.name)
            data = checks.tensor(index, _DATATYPE_NAME[tensor.datatype], tuple(tensor.shape), tensor.data)
            checks.put(payload, index, data)
        for encoded in frame.encoded:
            index = checks.index(encoded.name)
            name = _FORMAT_NAME.get(encoded.format) or f"format {encoded.format}"
            checks.put(payload, index, checks.encoded(index, name, encoded.data))
        whole = checks.complete(payload)
        return whole, sum(len(data.data) for data in whole)


class OutcomeWriter:
    """Turns outcomes of one model version into messages, for the outputs that a stream asked for."""

    def __init__(self, signature: Signature, wanted: Sequence[str]) -> None:
        """`wanted`: names of outputs, all of which the signature has; empty: all."""
        self.signature = signature
        self._outputs = [
            (spec.name, _DATATYPE[spec.datatype]) if not wanted or spec.name in wanted else None
            for spec in signature.outputs
        ]

    def add(self, batch: inference_pb2.OutcomeBatch, outcome: Outcome, now_ns: int) -> None:
        """Appends `outcome`, which is sent at `now_ns`."""
        held, run = outcome.held, outcome.run
        frame, received_ns = held.frame, held.received_ns
        message = batch.outcomes.add(
            frame_id=frame.frame_id,
            status=int(outcome.status),
            slack_nano=frame.deadline_ns - now_ns,
            reason=outcome.reason,
        )
        timing = message.timing
        timing.received_unix_nano = held.received_unix_ns
        timing.sent_nano = now_ns - received_ns
        if held.clock_uncertainty_ns:
            timing.capture_to_receipt_nano = held.capture_to_receipt_ns
            timing.clock_uncertainty_nano = held.clock_uncertainty_ns
        if run is not None:
            ran = run.batch
            message.version = ran.model.rpartition("/")[2]
            message.variant = ran.variant
            message.batch_size = len(ran.frames)
            timing.dispatched_nano = run.dispatched_ns - received_ns
            if run.started_ns:
                timing.started_nano = run.started_ns - received_ns
                timing.finished_nano = run.finished_ns - received_ns
        if outcome.outputs is not None and outcome.status in RESULTS:
            for index, shape, data in outcome.outputs:
                named = self._outputs[index]
                if named is not None:
                    message.outputs.add(name=named[0], datatype=named[1], shape=shape, data=data)


class StreamCodec:
    """Reads the frames and writes the outcomes of one stream, whose model version may change."""

    def __init__(self, signature: Signature, wanted: Sequence[str]) -> None:
        """`wanted`: names of outputs, all of which the signature has; empty: all."""
        self._wanted = wanted
        self._reader = FrameReader(signature)
        self._writer = OutcomeWriter(signature, wanted)

    def reader(self, signature: Signature) -> FrameReader:
        """Returns the reader of frames for that version."""
        if signature is not self._reader.signature:
            self._reader = FrameReader(signature)
        return self._reader

    def outcomes(self, now_ns: int, outcomes: Sequence[Outcome]) -> inference_pb2.StreamResponse:
        """Returns one message with all outcomes, which are sent at `now_ns`."""
        message = inference_pb2.StreamResponse()
        batch = message.outcomes
        for outcome in outcomes:
            signature = outcome.held.signature
            if signature is not self._writer.signature:
                # Frames of an earlier version may still be in flight.
                self._writer = OutcomeWriter(signature, self._wanted)
            self._writer.add(batch, outcome, now_ns)
        return message


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
