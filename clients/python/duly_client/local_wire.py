"""The messages of the local transport, as docs/local.md explains them. All numbers are little-endian."""

import json
import mmap
import struct
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from duly.v1 import inference_pb2
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
OUTCOME = Struct("<Q8qBxHHHHHHxxIxxxx")
ALIVE = Struct("=Q")
HEAD_BYTES = 64
PART_WHOLE = Struct("<BxxxIQQ")
TEXT_ALIGNMENT = 8

_FRAME_OF_ONE = Struct(f"{FRAME.format}Q")
"""A frame with one input, up to where the input lies."""
_ALIKE = np.dtype(
    [
        ("frame_id", "<u8"),
        ("captured", "<i8"),
        ("budget", "<i8"),
        ("flags", "<u2"),
        ("inputs", "<u2"),
        ("zero", "<u4"),
        ("offset", "<i8"),
        ("tail", f"V{TENSOR.size - 8}"),
    ]
)
"""A frame with one input, as _FRAME_OF_ONE and what follows it."""
_TIMES = Struct("<7q")
_ANY_OUTCOME = Struct(f"<Qq{_TIMES.size}sBxHHHHHHxxIxxxx")
"""OUTCOME, with its times left as they are."""
_PLACE = Struct("<QI")
_DESCRIBED = Struct(f"<{TENSOR.format.removeprefix(_PLACE.format)}")
"""TENSOR in two parts: where it lies, and what it is."""
_OUTCOME_OF_ONE = Struct(f"{_ANY_OUTCOME.format}QI{_DESCRIBED.size}s")
"""An outcome with one output, whose description is left as it is."""
_KNOWN_MAX = 64
_new = tuple.__new__
"""Makes what has names in half of the time that calling its class takes."""
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


class LocalChunk(NamedTuple):
    """What the actions of an outcome are, as messages of duly.v1 have it; `dt_nano` is 0 where there are none."""

    output: str = ""
    t0_nano: int = 0
    dt_nano: int = 0
    horizon: int = 0


_NO_CHUNK = LocalChunk()


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
    times: bytes
    fused: Sequence[inference_pb2.FusedFrame]
    delay_us: int
    actions: LocalChunk
    """What the actions of the version are; `horizon` may be of another result."""
    guards: Sequence[str]

    @property
    def planned_delay_nano(self) -> int:
        return self.delay_us * 1000

    @property
    def chunk(self) -> LocalChunk:
        for tensor in self.outputs if self.actions.dt_nano else ():
            if tensor.name == self.actions.output:
                return self.actions._replace(horizon=tensor.shape[0] if tensor.shape else 0)
        return _NO_CHUNK

    @property
    def timing(self) -> LocalTiming:
        return LocalTiming(*_TIMES.unpack(self.times))


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


def frame_of_one(frame_id: int, captured_ns: int, budget_ns: int, must_run: bool, offset: int, tail: bytes) -> bytes:
    """A frame with one input. `tail`: what `tensor_tail` says of the input."""
    return _FRAME_OF_ONE.pack(frame_id, captured_ns, budget_ns, MUST_RUN if must_run else 0, 1, 0, offset) + tail


def tensor_tail(size_bytes: int, index: int, kind: int, shape: tuple[int, ...]) -> bytes:
    """All that is said of an input but where it lies, which is the same for most frames of a stream."""
    return tensor(0, size_bytes, index, kind, shape)[8:]


def frames_message(frames: Sequence[bytes]) -> bytes:
    return b"".join((FRAMES_HEAD.pack(FRAMES, len(frames), 0), *frames))


def frames_of(message: memoryview) -> list[bytes]:
    """Returns what a message of `AlikeFrames`, or none, says of each frame."""
    each = _ALIKE.itemsize
    return [bytes(message[at : at + each]) for at in range(FRAMES_HEAD.size, len(message), each)]


class AlikeFrames:
    """Writes messages of frames with one input, all of them alike, that lie one behind the other."""

    def __init__(self) -> None:
        self._buffer = bytearray(FRAMES_HEAD.size + FRAMES_MAX * _ALIKE.itemsize)
        self._view = memoryview(self._buffer)
        frames = np.frombuffer(self._buffer, _ALIKE, offset=FRAMES_HEAD.size)
        self._ids, self._captured, self._budgets, self._flags = (
            frames[name] for name in ("frame_id", "captured", "budget", "flags")
        )
        frames["inputs"] = 1
        self._offsets, self._tails = frames["offset"], frames["tail"]
        self._said: tuple[int, bool, bytes] = (0, False, b"")
        """What all frames hold but where they lie and when they were captured."""
        self._behind = np.arange(FRAMES_MAX, dtype=np.int64)
        """Where frames lie behind the first one."""
        self._size_bytes = 1

    def message(
        self, ids: range, captured_ns: int, budget_ns: int, must_run: bool, offset: int, size_bytes: int, tail: bytes
    ) -> memoryview:
        """Returns a message of no more than FRAMES_MAX frames, which holds until the next one is made. The first frame
        lies at `offset`. `tail`: what `tensor_tail` says of each input.
        """
        said = budget_ns, must_run, tail
        if said != self._said:
            self._said = said
            self._budgets[:], self._flags[:] = budget_ns, MUST_RUN if must_run else 0
            self._tails[:] = np.void(tail)
        if size_bytes != self._size_bytes:
            self._size_bytes = size_bytes
            self._behind = np.arange(FRAMES_MAX, dtype=np.int64) * size_bytes
        count = len(ids)
        self._ids[:count] = np.arange(ids.start, ids.stop, dtype=np.uint64)
        self._captured[:count] = captured_ns
        np.add(self._behind[:count], offset, self._offsets[:count])
        FRAMES_HEAD.pack_into(self._buffer, 0, FRAMES, count, 0)
        return self._view[: FRAMES_HEAD.size + count * _ALIKE.itemsize]


class OutcomeReader:
    """Reads the messages with outcomes, whose outputs lie in memory that is shared with the server."""

    def __init__(self, area: mmap.mmap | memoryview, opened: inference_pb2.StreamOpened) -> None:
        """`opened`: says which outputs the server sends, in its order, and which of them holds actions."""
        self._area = area
        self._texts: dict[tuple[int, bytes], tuple[str, str]] = {}
        """Version and variant, by the bytes of the former and the text of both."""
        self.name_outputs(opened)
        self._record = Struct(f"{_OUTCOME_OF_ONE.format}0s")
        """The newest outcome with one output, with its texts."""
        self._parts = bytearray()
        self.position = 0
        """Up to where the area was filled with what has been read."""

    def name_outputs(self, opened: inference_pb2.StreamOpened) -> None:
        """What comes from now on is of a version with these outputs."""
        self._outputs = [output.name for output in opened.outputs]
        chunk = opened.chunk
        self._actions = LocalChunk(chunk.output, chunk.t0_nano, chunk.dt_nano)
        self._described: dict[bytes, tuple[str, int, tuple[int, ...]]] = {}
        """Name, kind and shape of outputs, by what messages say of them."""

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
            area = memoryview(self._parts) if flags & ASSEMBLED else self._area
            outcomes = self._alike(message, count, area)
            if outcomes is None:
                at, outcomes = OUTCOMES_HEAD.size, []
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

    def _alike(self, message: bytes, count: int, area: mmap.mmap | memoryview) -> list[LocalOutcome] | None:
        """Returns the outcomes of a message all of which take the same room, with one output and no reason each, as
        nearly always; None: it is another one.
        """
        record_bytes, left = divmod(len(message) - OUTCOMES_HEAD.size, count or 1)
        text_bytes = record_bytes - _OUTCOME_OF_ONE.size
        if left or text_bytes < 0:
            return None
        if record_bytes != self._record.size:
            self._record = Struct(f"{_OUTCOME_OF_ONE.format}{text_bytes}s")
        actions = self._actions
        outcomes = []
        for (
            frame_id,
            slack_ns,
            times,
            status,
            batch_size,
            tensors,
            version_bytes,
            variant_bytes,
            reason_bytes,
            fused_bytes,
            delay_us,
            offset,
            size_bytes,
            described,
            text,
        ) in self._record.iter_unpack(memoryview(message)[OUTCOMES_HEAD.size :]):
            reason_at = version_bytes + variant_bytes
            if tensors != 1 or reason_bytes or fused_bytes or reason_at + -reason_at % TEXT_ALIGNMENT != text_bytes:
                return None
            name, kind, shape = self._described.get(described) or self._describe(described)
            text = text[:reason_at]
            version, variant = self._texts.get((version_bytes, text)) or self._names(version_bytes, text)
            outputs = (_new(LocalTensor, (name, kind, shape, self._data(area, offset, size_bytes))),)
            fields = frame_id, status, slack_ns, batch_size, version, variant, "", outputs, times, (), delay_us
            outcomes.append(_new(LocalOutcome, (*fields, actions, ())))
        return outcomes

    def _outcome(self, message: bytes, at: int, area: mmap.mmap | memoryview) -> tuple[LocalOutcome, int]:
        """Returns the outcome at `at`, and where the next one begins."""
        values = _ANY_OUTCOME.unpack_from(message, at)
        frame_id, slack_ns, times, status, batch_size, count, version_bytes, variant_bytes = values[:8]
        reason_bytes, fused_bytes, delay_us = values[8:]
        outputs, end = self._tensors(message, at + _ANY_OUTCOME.size, count, area)
        reason_at = end + version_bytes + variant_bytes
        text = message[end:reason_at]
        version, variant = self._texts.get((version_bytes, text)) or self._names(version_bytes, text)
        reason = ""
        if reason_bytes:
            reason = message[reason_at : reason_at + reason_bytes].decode()
            reason_at += reason_bytes
        fused: Sequence[inference_pb2.FusedFrame] = ()
        guards: Sequence[str] = ()
        if fused_bytes:
            more = _more(message[reason_at : reason_at + fused_bytes])
            fused, guards = more.fused, more.guards
            reason_at += fused_bytes
        if reason_at > len(message):
            raise ProtocolError("an outcome ends beyond its message")
        fields = (frame_id, status, slack_ns, batch_size, version, variant, reason, outputs, times, fused)
        outcome = _new(LocalOutcome, (*fields, delay_us, self._actions, guards))
        return outcome, reason_at + (end - reason_at) % TEXT_ALIGNMENT

    def _tensors(
        self, message: bytes, at: int, count: int, area: mmap.mmap | memoryview
    ) -> tuple[Sequence[LocalTensor], int]:
        """Returns so many outputs, which begin at `at`, and where they end."""
        tensors = []
        for _ in range(count):
            offset, size_bytes = _PLACE.unpack_from(message, at)
            described = message[at + _PLACE.size : at + TENSOR.size]
            name, kind, shape = self._described.get(described) or self._describe(described)
            tensors.append(LocalTensor(name, kind, shape, self._data(area, offset, size_bytes)))
            at += TENSOR.size
        return tensors, at

    def _describe(self, described: bytes) -> tuple[str, int, tuple[int, ...]]:
        """Reads what a message says of an output. Raises ProtocolError."""
        index, kind, dimensions, *extents = _DESCRIBED.unpack(described)
        if index >= len(self._outputs):
            raise ProtocolError(f"an outcome has output {index}, there are {len(self._outputs)}")
        if len(self._described) >= _KNOWN_MAX:  # outputs may be of any size
            self._described.clear()
        known = self._described[described] = self._outputs[index], kind, tuple(extents[:dimensions])
        return known

    def _names(self, version_bytes: int, text: bytes) -> tuple[str, str]:
        if len(self._texts) >= _KNOWN_MAX:  # versions come and go
            self._texts.clear()
        names = self._texts[version_bytes, text] = text[:version_bytes].decode(), text[version_bytes:].decode()
        return names

    def _check_alive(self) -> None:
        """Raises ClientTooSlow where what was copied may be something else, as the server has given the memory back."""
        if not ALIVE.unpack_from(self._area)[0]:
            raise ClientTooSlow("the server had ended the stream before its last outcomes were read")

    def _data(self, area: mmap.mmap | memoryview, offset: int, size_bytes: int) -> bytes:
        if offset + size_bytes > len(area):
            raise ProtocolError(f"an output lies at {offset} with {size_bytes} bytes, there are {len(area)}")
        return bytes(area[offset : offset + size_bytes])


def _more(written: bytes) -> inference_pb2.Outcome:
    """Reads which frames one was joined with, and what guards found on it. Raises ProtocolError."""
    try:
        return inference_pb2.Outcome.FromString(written)
    except DecodeError as error:
        raise ProtocolError("what a frame was joined with makes no sense") from error


def end_of(message: bytes) -> tuple[str, str, dict[str, str]]:
    """Returns (reason, text, metadata) of an END; the reason is empty where all is well. Raises ProtocolError."""
    try:
        status = json.loads(message[1:])
        metadata = {str(key): str(value) for key, value in status.get("metadata", {}).items()}
        return str(status["reason"]), str(status["text"]), metadata
    except (ValueError, KeyError, AttributeError) as error:
        raise ProtocolError(f"an END makes no sense: {error}") from error
