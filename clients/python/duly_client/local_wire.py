"""The messages of the local transport, as docs/local.md explains them. All numbers are little-endian."""

import json
import struct
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from duly.v1 import inference_pb2, tensor_pb2
from duly_client.errors import ClientTooSlow, ProtocolError

VERSION = 1
MESSAGE_BYTES_MAX = 208_000
FRAMES_MAX = 64
EXTENTS = 8

OPEN, FRAMES, REQUEST, FINISH = range(1, 5)
OPENED, OUTCOMES, RESPONSE, OUTPUTS, PART, END = range(16, 22)
ENCODED = 128
MUST_RUN = 1
ASSEMBLED = 1

OPEN_HEAD = Struct("<BBHIQ")
FRAMES_HEAD = Struct("<BxHI")
FRAME = Struct("<QqqHHI")
TENSOR = Struct(f"<QIHBB{EXTENTS}i")
OPENED_HEAD = Struct("<BBxxIQQ")
OUTCOMES_HEAD = Struct("<BxHIQ")
OUTCOME = Struct("<Q8qBxHHHHHxxxx")
ALIVE = Struct("=Q")
HEAD_BYTES = 64
PART_WHOLE = Struct("<BxxxIQQ")
TEXT_ALIGNMENT = 8

_PAD = tuple((0,) * (EXTENTS - n) for n in range(EXTENTS + 1))


class LocalTensor(NamedTuple):
    """One output, as messages of duly.v1 have it."""

    name: str
    datatype: int
    shape: tuple[int, ...]
    data: bytes


class LocalTiming(NamedTuple):
    """The times of a frame, as messages of duly.v1 have them, in the order of OUTCOME."""

    received_unix_nano: int
    sent_nano: int
    dispatched_nano: int
    started_nano: int
    finished_nano: int
    capture_to_receipt_nano: int
    clock_uncertainty_nano: int


class LocalOutcome(NamedTuple):
    """An outcome with the fields that messages of duly.v1 have."""

    frame_id: int
    status: int
    slack_nano: int
    batch_size: int
    version: str
    variant: str
    reason: str
    outputs: Sequence[LocalTensor]
    times: Sequence[int]

    @property
    def timing(self) -> LocalTiming:
        return LocalTiming(*self.times)


def open_message(request: inference_pb2.OpenStream, token: str, memory_bytes: int) -> bytes:
    shown = token.encode("ascii")
    return OPEN_HEAD.pack(OPEN, VERSION, len(shown), 0, memory_bytes) + shown + request.SerializeToString()


def frame_head(frame_id: int, captured_ns: int, budget_ns: int, must_run: bool, inputs: int) -> bytes:
    return FRAME.pack(frame_id, captured_ns, budget_ns, MUST_RUN if must_run else 0, inputs, 0)


def tensor(offset: int, size_bytes: int, index: int, kind: int, shape: tuple[int, ...]) -> bytes:
    """`kind`: the number of a DataType, or ENCODED and that of an EncodedFormat."""
    if len(shape) > EXTENTS:
        raise ValueError(f"an array has {len(shape)} dimensions, at most {EXTENTS} can be sent")
    return TENSOR.pack(offset, size_bytes, index, kind, len(shape), *shape, *_PAD[len(shape)])


def frames_message(frames: Sequence[bytes]) -> bytes:
    return b"".join((FRAMES_HEAD.pack(FRAMES, len(frames), 0), *frames))


class OutcomeReader:
    """Reads the messages with outcomes, whose outputs lie in memory that is shared with the server."""

    def __init__(self, area: memoryview, outputs: Sequence[tensor_pb2.TensorSpec]) -> None:
        """`outputs`: what the server sends, in its order."""
        self._area = area
        self.name_outputs(outputs)
        self._names: dict[bytes, str] = {b"": ""}
        self._parts = bytearray()
        self.position = 0
        """Up to where the area was filled with what has been read."""

    def name_outputs(self, outputs: Sequence[tensor_pb2.TensorSpec]) -> None:
        self._outputs = [output.name for output in outputs]

    def part(self, message: bytes) -> None:
        """Takes a piece of outputs that are too large for the area. Raises ProtocolError."""
        try:
            _, size_bytes, offset, position = PART_WHOLE.unpack(message)
        except struct.error as error:
            raise ProtocolError(f"a PART has {len(message)} bytes") from error
        self._parts += self._data(self._area, offset, size_bytes)
        self._check_alive()
        self.position = position

    def outcomes(self, message: bytes) -> list[LocalOutcome]:
        """Returns the outcomes of a message, with their outputs copied. Raises ProtocolError."""
        try:
            _, count, flags, position = OUTCOMES_HEAD.unpack_from(message)
            at, outcomes = OUTCOMES_HEAD.size, []
            area = memoryview(self._parts) if flags & ASSEMBLED else self._area
            for _ in range(count):
                outcome, at = self._outcome(message, at, area)
                outcomes.append(outcome)
        except (struct.error, UnicodeDecodeError) as error:
            raise ProtocolError(f"a message with outcomes makes no sense: {error}") from error
        self._check_alive()
        if flags & ASSEMBLED:
            self._parts = bytearray()
        self.position = position
        return outcomes

    def _outcome(self, message: bytes, at: int, area: memoryview) -> tuple[LocalOutcome, int]:
        frame_id, slack_ns, *rest = OUTCOME.unpack_from(message, at)
        at += OUTCOME.size
        status, batch_size, outputs, version_bytes, variant_bytes, reason_bytes = rest[7:]
        tensors: Sequence[LocalTensor] = ()
        if outputs:
            tensors = []
            for _ in range(outputs):
                offset, size_bytes, index, kind, dimensions, *extents = TENSOR.unpack_from(message, at)
                at += TENSOR.size
                if index >= len(self._outputs):
                    raise ProtocolError(f"an outcome has output {index}, there are {len(self._outputs)}")
                data = self._data(area, offset, size_bytes)
                tensors.append(LocalTensor(self._outputs[index], kind, tuple(extents[:dimensions]), data))
        variant_at, reason_at = at + version_bytes, at + version_bytes + variant_bytes
        end = reason_at + reason_bytes
        if end > len(message):
            raise ProtocolError("an outcome ends beyond its message")
        outcome = LocalOutcome(
            frame_id,
            status,
            slack_ns,
            batch_size,
            self._name(message[at:variant_at]),
            self._name(message[variant_at:reason_at]),
            message[reason_at:end].decode() if reason_bytes else "",
            tensors,
            rest[:7],
        )
        return outcome, end + -(end - at) % TEXT_ALIGNMENT

    def _check_alive(self) -> None:
        """Raises ClientTooSlow where what was copied may be something else, as the server has given the memory back."""
        if not ALIVE.unpack_from(self._area)[0]:
            raise ClientTooSlow("the server had ended the stream before its last outcomes were read")

    def _data(self, area: memoryview, offset: int, size_bytes: int) -> bytes:
        if offset + size_bytes > len(area):
            raise ProtocolError(f"an output lies at {offset} with {size_bytes} bytes, there are {len(area)}")
        return bytes(area[offset : offset + size_bytes])

    def _name(self, text: bytes) -> str:
        name = self._names.get(text)
        if name is None:
            if len(self._names) > 64:  # versions come and go
                self._names = {b"": ""}
            name = self._names[text] = text.decode()
        return name


def end_of(message: bytes) -> tuple[str, str, dict[str, str]]:
    """Returns (reason, text, metadata) of an END; the reason is empty where all is well. Raises ProtocolError."""
    try:
        status = json.loads(message[1:])
        metadata = {str(key): str(value) for key, value in status.get("metadata", {}).items()}
        return str(status["reason"]), str(status["text"]), metadata
    except (ValueError, KeyError, AttributeError) as error:
        raise ProtocolError(f"an END makes no sense: {error}") from error
