"""Translates between messages of duly.v1 and what streams work with: frames come in, outcomes go out.

Frames that are like those before them are read straight from the bytes of their message (`common_frames`), and protobuf
reads all others. Outcomes are always written as bytes (`outcome_writer`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from duly.models.spec import Signature
from duly.rpc.duly_v1.common_frames import FrameAt, as_frame, head_of, read
from duly.rpc.duly_v1.outcome_writer import OutcomeWriter
from duly.rpc.duly_v1.tensors import DATATYPE_NAME, FORMAT_NAME
from duly.rpc.varints import varint
from duly.runtime.held_frames import InputData
from duly.runtime.outcome import Outcome
from duly.streams.inputs import InputChecks
from duly.v1 import inference_pb2

VIEW_BYTES_MIN = 8192
"""Data that is no shorter is not copied where it is nearly all of its message: the frame holds the message then."""
VIEW_REST_BYTES_MAX = 256
"""A message that a frame holds has no more bytes beside the frame's data. They are held and not counted."""
HEADS_LEARNT_MAX = 256
"""How often the head of a stream's frames may change; frames with further ones are left to protobuf for good, as a
sensor whose arrays have another shape each time would only pay for it."""

ParsedFrame = tuple[int, int, int, bool, inference_pb2.Frame]
"""A frame as protobuf has read it, with its numbers in the order of FrameAt."""


def frames_of(batch: inference_pb2.FrameBatch) -> Iterator[ParsedFrame]:
    for frame in batch.frames:
        yield frame.frame_id, frame.capture_time_unix_nano, frame.budget_nano, frame.must_run, frame


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
                only = self._checks.tensor(0, DATATYPE_NAME[tensor.datatype], tuple(tensor.shape), tensor.data)
                return (only,), len(only.data)
        checks = self._checks
        payload: list[InputData | None] = [None] * checks.count
        for tensor in tensors:
            index = checks.index(tensor.name)
            data = checks.tensor(index, DATATYPE_NAME[tensor.datatype], tuple(tensor.shape), tensor.data)
            checks.put(payload, index, data)
        for encoded in frame.encoded:
            index = checks.index(encoded.name)
            name = FORMAT_NAME.get(encoded.format) or f"format {encoded.format}"
            checks.put(payload, index, checks.encoded(index, name, encoded.data))
        whole = checks.complete(payload)
        return whole, sum(len(data.data) for data in whole)


@dataclass(slots=True)
class _Known:
    """The head of the newest frame that protobuf has read and that fits its model."""

    signature: Signature
    head: bytes
    shape: tuple[int, ...]
    data_bytes: int


class StreamCodec:
    """Reads the frames and writes the outcomes of one stream, whose model version may change."""

    def __init__(self, signature: Signature, wanted: Sequence[str], learns: int = HEADS_LEARNT_MAX) -> None:
        """`wanted`: names of outputs, all of which the signature has; empty: all. `learns`: how many heads of frames
        are learnt.
        """
        self._wanted = wanted
        self._reader = FrameReader(signature)
        self._writer = OutcomeWriter(signature, wanted)
        self._known: _Known | None = None
        self._learns = learns

    # ---- in ----

    def common_frames(self, message: bytes) -> list[FrameAt] | None:
        """Returns the frames of a message that has nothing else, if all are like the one before them; None: it is for
        protobuf to read.
        """
        known = self._known
        if known is None or known.signature is not self._reader.signature:
            return None
        return read(message, known.head, known.data_bytes)

    def payload(
        self, signature: Signature, message: bytes, data: int | inference_pb2.Frame
    ) -> tuple[Sequence[InputData], int]:
        """Returns (payload, its size in bytes) of a frame for a version with that signature. `data`: where its data
        begins in the message, by `common_frames`, or the frame as protobuf has read it. Raises InvalidFrame.
        """
        if isinstance(data, int):
            return self._common_payload(signature, message, data)
        payload, size_bytes = self._reader_for(signature).payload(data)
        if len(payload) == 1 and size_bytes and self._learns and not data.encoded:
            self._learns -= 1
            head = head_of(data.tensors[0], size_bytes)
            self._known = _Known(signature, head, payload[0].shape, size_bytes)
        return payload, size_bytes

    def _common_payload(self, signature: Signature, message: bytes, at: int) -> tuple[Sequence[InputData], int]:
        known = self._known
        assert known is not None
        data_bytes = known.data_bytes
        data: bytes | memoryview
        if data_bytes >= VIEW_BYTES_MIN and len(message) - data_bytes <= VIEW_REST_BYTES_MAX:
            data = memoryview(message)[at : at + data_bytes]
        else:
            data = message[at : at + data_bytes]
        if signature is not known.signature:  # another version has come since the message was read
            return self._reader_for(signature).payload(as_frame(known.head, bytes(data)))
        return (InputData(0, known.shape, data),), data_bytes

    def _reader_for(self, signature: Signature) -> FrameReader:
        if signature is not self._reader.signature:
            self._reader = FrameReader(signature)
        return self._reader

    # ---- out ----

    def outcomes(self, now_ns: int, outcomes: Sequence[Outcome], delay_ns: int = 0) -> bytes:
        """Returns a StreamResponse with all outcomes, which are sent at `now_ns`. `delay_ns`: the planned delay of the
        stream, where its model gives action chunks.
        """
        parts = [b""]
        length = 0
        for outcome in outcomes:
            length += self._writer_for(outcome).write(outcome, now_ns, parts, delay_ns)
        parts[0] = b"\x12" + varint(length)
        return b"".join(parts)

    def single(self, now_ns: int, outcome: Outcome, delay_ns: int = 0) -> bytes:
        """Returns an InferResponse with the outcome, which is sent at `now_ns`."""
        parts: list[bytes] = []
        self._writer_for(outcome).write(outcome, now_ns, parts, delay_ns)
        return b"".join(parts)

    def _writer_for(self, outcome: Outcome) -> OutcomeWriter:
        signature = outcome.held.signature
        if signature is not self._writer.signature:
            # Frames of an earlier version may still be in flight.
            self._writer = OutcomeWriter(signature, self._wanted)
        return self._writer
