"""What the client gives back: outcomes, the terms of a stream, advice. Times are integer nanoseconds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol

import numpy as np

from duly.v1 import inference_pb2, tensor_pb2
from duly_client.convert import DTYPES, Array, TensorMessage, spelled, tensor_array
from duly_client.errors import ProtocolError

StreamClass = Literal["CRITICAL", "STANDARD", "BEST_EFFORT"]
BacklogPolicy = Literal["LATEST", "KEEP_LAST", "ALL"]
Ordering = Literal["ARRIVAL", "UNORDERED", "MONOTONIC"]
GapPolicy = Literal["CONTINUE", "RESET", "SKIP"]
FusionWait = Literal["NEWEST", "EXACT", "WITHIN_DEADLINE"]
Encoding = Literal["JPEG", "PNG", "PCM_S16LE", "MJPEG", "H264", "HEVC"]

ENCODINGS: dict[int, Encoding] = {
    tensor_pb2.ENCODED_FORMAT_JPEG: "JPEG",
    tensor_pb2.ENCODED_FORMAT_PNG: "PNG",
    tensor_pb2.ENCODED_FORMAT_PCM_S16LE: "PCM_S16LE",
    tensor_pb2.ENCODED_FORMAT_MJPEG: "MJPEG",
    tensor_pb2.ENCODED_FORMAT_H264: "H264",
    tensor_pb2.ENCODED_FORMAT_HEVC: "HEVC",
}
"""Formats of encoded payloads, by their number on the wire."""

Value = Array | str | bytes | bytearray | memoryview
"""One input of a frame: an array, one text, or an encoded picture, access unit of video, or sound."""
Payload = Value | Mapping[str, Value]
"""A frame: one value for the model's only input, or values by input name."""


class Status(IntEnum):
    """How a frame ended. Only ON_TIME and LATE carry outputs."""

    ON_TIME = inference_pb2.OUTCOME_STATUS_ON_TIME
    LATE = inference_pb2.OUTCOME_STATUS_LATE
    """A result, but after the deadline."""
    EXPIRED = inference_pb2.OUTCOME_STATUS_EXPIRED
    """Never run: its deadline had passed or could no longer be met."""
    SUPERSEDED = inference_pb2.OUTCOME_STATUS_SUPERSEDED
    """Never run: a newer frame took its place."""
    SHED = inference_pb2.OUTCOME_STATUS_SHED
    """Never run: under overload other frames were chosen, or the stream was over a quota."""
    SKIPPED = inference_pb2.OUTCOME_STATUS_SKIPPED
    """Never run: its stateful stream had a gap, and the gap policy is SKIP."""
    INVALID = inference_pb2.OUTCOME_STATUS_INVALID
    """Never run: wrong shape, type or size, undecodable, or not finite."""
    CANCELLED = inference_pb2.OUTCOME_STATUS_CANCELLED
    """Withdrawn by the client, its stream was closed, or the connection was lost."""
    FAILED = inference_pb2.OUTCOME_STATUS_FAILED
    """The model or the device failed on it."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of one frame on the server, ns since its receipt unless stated otherwise; 0: it did not get there."""

    received_unix_ns: int = 0
    """Server wall clock at receipt, ns since 1970."""
    dispatched_ns: int = 0
    """When its batch was given to a worker."""
    started_ns: int = 0
    """When the worker began with the batch."""
    finished_ns: int = 0
    """When the worker was done with the batch."""
    sent_ns: int = 0
    """When the outcome was handed to the transport."""
    capture_to_receipt_ns: int = 0
    """Time from capture to receipt; 0 where the clocks are not related."""
    clock_uncertainty_ns: int = 0
    """Uncertainty of `capture_to_receipt_ns`; 0 where the clocks are not related."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """Makes a stream one of several whose frames run together, each of which gives one input of the model."""

    group: str
    """Name of the group, the same for all of its streams."""
    input: str
    """Name of the input that this stream gives."""
    tolerance_ms: float = 0.0
    """How far apart the capture times of frames that are joined may be; 0 with EXACT alone."""
    wait: FusionWait = "NEWEST"
    """What a frame does until it has its partners: a newer one of its stream takes its place (NEWEST), it waits for
    frames with its very capture time (EXACT), or it waits as long as it could be in time (WITHIN_DEADLINE)."""


@dataclass(frozen=True, slots=True)
class FusedFrame:
    """A frame of another stream, with which one was joined."""

    input: str
    """Name of the model's input that it is for."""
    frame_id: int
    """Its id on its own stream."""
    capture_offset_ns: int
    """When it was captured minus when the other one was."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Actions for a stretch of time: action i of an output is due `t0_ns + i * dt_ns` after its frame's capture."""

    output: str
    """The output that holds the actions, by its first dimension."""
    t0_ns: int
    dt_ns: int
    horizon: int
    """How many actions there are; of a stream's terms 0, where it may vary."""


@dataclass(slots=True, unsafe_hash=True)
class Outcome:
    """The one terminal answer to a frame. Nothing changes it; it is only not frozen since that takes a microsecond."""

    frame_id: int
    status: Status
    latency_ns: int
    """Time from capture to the arrival of the outcome, on the client's clock."""
    version: str = ""
    """Version that ran on the frame; empty: none did."""
    variant: str = ""
    """Variant that ran on the frame; empty: none did."""
    batch_size: int = 0
    """Number of frames in the batch that the frame ran in; 0: it did not run."""
    slack_ns: int = 0
    """Deadline minus the time at which the server sent the outcome; negative: too late."""
    reason: str = ""
    """Why there is no result in time, for people; empty where there is one."""
    _message: "OutcomeMessage | None" = field(default=None, repr=False, compare=False)
    _arrays: dict[str, Array] | None = field(default=None, repr=False, compare=False)
    stream_key: str = field(default="", repr=False, compare=False)
    """Of a frame that went by `infer`: by what its label names it, with `frame_id`; empty: the server keeps no frames
    of the model. Frames of a stream are named by `Stream.key_of`."""

    def __repr__(self) -> str:
        """The fields in short, and of the outputs their types and shapes, since their values may be many."""
        outputs = ", ".join(
            f"{tensor.name}: {spelled(_DATATYPES.get(tensor.datatype, '?'), tuple(tensor.shape))}"
            for tensor in (self._message.outputs if self._message is not None else ())
        )
        return (
            f"Outcome(frame_id={self.frame_id}, status={self.status.name}, latency_ns={self.latency_ns}, "
            f"version={self.version!r}, variant={self.variant!r}, batch_size={self.batch_size}, "
            f"slack_ns={self.slack_ns}, reason={self.reason!r}, outputs={{{outputs}}})"
        )

    @property
    def ok(self) -> bool:
        """True where there is a result: ON_TIME or LATE."""
        return self.status <= Status.LATE

    @property
    def outputs(self) -> dict[str, Array]:
        """Outputs by name: read-only arrays over the received bytes, made when they are first asked for. Raises
        ProtocolError where the bytes do not fill the shape that the server states.
        """
        if self._arrays is None:
            tensors = () if self._message is None else self._message.outputs
            self._arrays = {tensor.name: tensor_array(tensor) for tensor in tensors}
        return self._arrays

    @property
    def fused(self) -> tuple[FusedFrame, ...]:
        """The frames that it was joined with, one for each other input of the model, all of which have this outcome.
        Empty: its stream is in no fusion group, or it was joined with none.
        """
        fused = () if self._message is None else self._message.fused
        return tuple(FusedFrame(each.input, each.frame_id, each.capture_offset_nano) for each in fused)

    @property
    def guards(self) -> tuple[str, ...]:
        """The names of the model's guards that found something on the frame, such as "frozen". With a result, it is
        there all the same; with INVALID, `reason` says what was found and what is allowed.
        """
        return () if self._message is None else tuple(self._message.guards)

    @property
    def chunk(self) -> Chunk | None:
        """What the actions are that it has; None: it has none."""
        return None if self._message is None else _chunk_of(self._message.chunk)

    @property
    def planned_delay_ns(self) -> int:
        """How long the stream's next frame is planned to take from its receipt to its result, where the model gives
        action chunks; else 0.
        """
        return 0 if self._message is None else self._message.planned_delay_nano

    @property
    def timing(self) -> Timing:
        """Times of what happened to the frame on the server."""
        if self._message is None:
            return Timing()
        timing = self._message.timing
        return Timing(
            timing.received_unix_nano,
            timing.dispatched_nano,
            timing.started_nano,
            timing.finished_nano,
            timing.sent_nano,
            timing.capture_to_receipt_nano,
            timing.clock_uncertainty_nano,
        )


def _chunk_of(message: "_ChunkMessage") -> Chunk | None:
    dt_ns = message.dt_nano
    return Chunk(message.output, message.t0_nano, dt_ns, message.horizon) if dt_ns > 0 else None


_DATATYPES = {tensor_pb2.DataType.Value(f"DATA_TYPE_{name}"): name for name in DTYPES}
_STATUSES = {int(status): status for status in Status}


class _TimingMessage(Protocol):
    @property
    def received_unix_nano(self) -> int: ...
    @property
    def dispatched_nano(self) -> int: ...
    @property
    def started_nano(self) -> int: ...
    @property
    def finished_nano(self) -> int: ...
    @property
    def sent_nano(self) -> int: ...
    @property
    def capture_to_receipt_nano(self) -> int: ...
    @property
    def clock_uncertainty_nano(self) -> int: ...


class _FusedMessage(Protocol):
    @property
    def input(self) -> str: ...
    @property
    def frame_id(self) -> int: ...
    @property
    def capture_offset_nano(self) -> int: ...


class _ChunkMessage(Protocol):
    @property
    def output(self) -> str: ...
    @property
    def t0_nano(self) -> int: ...
    @property
    def dt_nano(self) -> int: ...
    @property
    def horizon(self) -> int: ...


class OutcomeMessage(Protocol):
    """An outcome as it came: of duly.v1, or of the local transport."""

    @property
    def frame_id(self) -> int: ...
    @property
    def status(self) -> int: ...
    @property
    def version(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def slack_nano(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def outputs(self) -> Sequence[TensorMessage]: ...
    @property
    def fused(self) -> Iterable[_FusedMessage]: ...
    @property
    def guards(self) -> Iterable[str]: ...
    @property
    def timing(self) -> _TimingMessage: ...
    @property
    def chunk(self) -> _ChunkMessage: ...
    @property
    def planned_delay_nano(self) -> int: ...


def outcome_of(message: OutcomeMessage, latency_ns: int) -> Outcome:
    """Makes an outcome from its message. A status that this client does not know becomes FAILED."""
    return Outcome(
        message.frame_id,
        _STATUSES.get(message.status, Status.FAILED),
        latency_ns,
        message.version,
        message.variant,
        message.batch_size,
        message.slack_nano,
        message.reason,
        message,
    )


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What an input takes or an output gives, for one frame."""

    name: str
    datatype: str
    """Element type as the protocol names it: FP32, UINT8, …"""
    dtype: np.dtype[Any]
    """Element type of NumPy: object for STRING, whose elements are str, and `duly_client.BFLOAT16` for BF16."""
    shape: tuple[int, ...]
    """Extent of each dimension, without the batch dimension; -1: any."""
    encodings: tuple[Encoding, ...] = ()
    """Inputs: formats that are accepted in place of an array."""
    labels: tuple[str, ...] = ()
    """Outputs: names of the classes that an index stands for; empty: not stated."""
    sample_rate_hz: int = 0
    """Inputs that take sound: the sample rate; 0: no sound."""
    finite: bool = False
    """Inputs: NaN and infinities make a frame INVALID."""


@dataclass(frozen=True, slots=True)
class StreamTerms:
    """Terms that were agreed when the stream opened."""

    stream_id: int
    """The number by which the server's logs call the stream."""
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[str, ...]
    """Variants that may serve the stream, the most accurate first."""
    stream_class: str
    backlog: str
    backlog_frames: int
    ordering: str
    gap: str
    """Gap policy of a stateful model; otherwise empty."""
    default_budget_ns: int
    planned_latency_ns: int
    """Planned execution time of a batch of one: no result comes sooner."""
    utilisation: float
    """Share of the time of the fullest lanes that is asked for by this stream and the open ones that are at least as
    critical; 1: all of it, 0: the stream stated no period."""
    frames_in_flight_max: int
    """Frames that may be unanswered at any time; further ones are SHED."""
    bytes_in_flight_max: int
    message_bytes_max: int
    predicted_latency_ns: int = 0
    """Time from receipt to result while the lanes are as busy as planned; 0: not predicted."""
    admission_warning: str = ""
    """Why the server would rather not have opened the stream; empty: nothing speaks against it."""
    fusion_inputs_missing: tuple[str, ...] = ()
    """Inputs of the stream's fusion group that no stream gave when it opened."""
    chunk: Chunk | None = None
    """Which output holds actions for a stretch of time; None: none does."""
    stream_key: str = ""
    """By what labels name the stream, also later; empty: the server keeps no frames of the model."""


@dataclass(frozen=True, slots=True)
class Advice:
    """Something that the server advises the client to act on."""

    kind: str
    """SLOW_DOWN, SPEED_UP, DRAINING or VERSION_CHANGED."""
    period_ns: int
    """SLOW_DOWN and SPEED_UP: the shortest period, on average, that can be served; 0: any."""
    version: str
    """Version that serves the stream; after VERSION_CHANGED the new one."""
    reason: str
    """Why, for people."""


def advice_of(message: inference_pb2.StreamAdvice) -> Advice:
    """Makes advice from its message."""
    kind = _name(inference_pb2.StreamAdvice.Kind, message.kind, "KIND_")
    return Advice(kind, message.period_nano, message.version, message.reason)


def terms_of(message: inference_pb2.StreamOpened) -> StreamTerms:
    """Makes terms from their message."""
    return StreamTerms(
        stream_id=message.stream_id,
        version=message.version,
        inputs=tuple(_spec_of(spec) for spec in message.inputs),
        outputs=tuple(_spec_of(spec) for spec in message.outputs),
        variants=tuple(message.variants),
        stream_class=_name(inference_pb2.StreamClass, message.stream_class, "STREAM_CLASS_"),
        backlog=_name(inference_pb2.BacklogPolicy, message.backlog_policy, "BACKLOG_POLICY_"),
        backlog_frames=message.backlog_frames,
        ordering=_name(inference_pb2.Ordering, message.ordering, "ORDERING_"),
        gap=_name(inference_pb2.GapPolicy, message.gap_policy, "GAP_POLICY_") if message.gap_policy else "",
        default_budget_ns=message.default_budget_nano,
        planned_latency_ns=message.planned_latency_nano,
        utilisation=message.utilisation,
        frames_in_flight_max=message.frames_in_flight_max,
        bytes_in_flight_max=message.bytes_in_flight_max,
        message_bytes_max=message.message_bytes_max,
        predicted_latency_ns=message.predicted_latency_nano,
        admission_warning=message.admission_warning,
        fusion_inputs_missing=tuple(message.fusion_inputs_missing),
        chunk=_chunk_of(message.chunk),
        stream_key=message.stream_key,
    )


def _spec_of(message: tensor_pb2.TensorSpec) -> TensorSpec:
    datatype = _name(tensor_pb2.DataType, message.datatype, "DATA_TYPE_")
    if datatype not in DTYPES:
        raise ProtocolError(f"tensor {message.name!r} has the element type {datatype}, which this client does not know")
    return TensorSpec(
        name=message.name,
        datatype=datatype,
        dtype=DTYPES[datatype],
        shape=tuple(message.shape),
        encodings=tuple(ENCODINGS[number] for number in message.encoded_formats if number in ENCODINGS),
        labels=tuple(message.labels),
        sample_rate_hz=message.sample_rate_hz,
        finite=message.finite,
    )


class _Enum(Protocol):
    def keys(self) -> Iterable[str]: ...
    def values(self) -> Iterable[int]: ...


def _name(enum: _Enum, number: int, prefix: str) -> str:
    """The name for a number of an enumeration; the number as text where only a newer client would know the name."""
    names = dict(zip(enum.values(), enum.keys(), strict=True))
    return names.get(number, str(number)).removeprefix(prefix)
