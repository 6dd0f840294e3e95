from duly.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_CLASS_UNSPECIFIED: _ClassVar[StreamClass]
    STREAM_CLASS_CRITICAL: _ClassVar[StreamClass]
    STREAM_CLASS_STANDARD: _ClassVar[StreamClass]
    STREAM_CLASS_BEST_EFFORT: _ClassVar[StreamClass]

class BacklogPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BACKLOG_POLICY_UNSPECIFIED: _ClassVar[BacklogPolicy]
    BACKLOG_POLICY_LATEST: _ClassVar[BacklogPolicy]
    BACKLOG_POLICY_KEEP_LAST: _ClassVar[BacklogPolicy]
    BACKLOG_POLICY_ALL: _ClassVar[BacklogPolicy]

class Ordering(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDERING_UNSPECIFIED: _ClassVar[Ordering]
    ORDERING_ARRIVAL: _ClassVar[Ordering]
    ORDERING_UNORDERED: _ClassVar[Ordering]
    ORDERING_MONOTONIC: _ClassVar[Ordering]

class GapPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GAP_POLICY_UNSPECIFIED: _ClassVar[GapPolicy]
    GAP_POLICY_CONTINUE: _ClassVar[GapPolicy]
    GAP_POLICY_RESET: _ClassVar[GapPolicy]
    GAP_POLICY_SKIP: _ClassVar[GapPolicy]

class FusionWait(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FUSION_WAIT_UNSPECIFIED: _ClassVar[FusionWait]
    FUSION_WAIT_NEWEST: _ClassVar[FusionWait]
    FUSION_WAIT_EXACT: _ClassVar[FusionWait]
    FUSION_WAIT_WITHIN_DEADLINE: _ClassVar[FusionWait]

class OutcomeStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_STATUS_UNSPECIFIED: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_ON_TIME: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_LATE: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_EXPIRED: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_SUPERSEDED: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_SHED: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_SKIPPED: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_INVALID: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_CANCELLED: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_FAILED: _ClassVar[OutcomeStatus]

class FeedbackStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEEDBACK_STATUS_UNSPECIFIED: _ClassVar[FeedbackStatus]
    FEEDBACK_STATUS_JOINED: _ClassVar[FeedbackStatus]
    FEEDBACK_STATUS_UNKNOWN_FRAME: _ClassVar[FeedbackStatus]
    FEEDBACK_STATUS_INVALID: _ClassVar[FeedbackStatus]
    FEEDBACK_STATUS_NOT_KEPT: _ClassVar[FeedbackStatus]
    FEEDBACK_STATUS_PENDING: _ClassVar[FeedbackStatus]
STREAM_CLASS_UNSPECIFIED: StreamClass
STREAM_CLASS_CRITICAL: StreamClass
STREAM_CLASS_STANDARD: StreamClass
STREAM_CLASS_BEST_EFFORT: StreamClass
BACKLOG_POLICY_UNSPECIFIED: BacklogPolicy
BACKLOG_POLICY_LATEST: BacklogPolicy
BACKLOG_POLICY_KEEP_LAST: BacklogPolicy
BACKLOG_POLICY_ALL: BacklogPolicy
ORDERING_UNSPECIFIED: Ordering
ORDERING_ARRIVAL: Ordering
ORDERING_UNORDERED: Ordering
ORDERING_MONOTONIC: Ordering
GAP_POLICY_UNSPECIFIED: GapPolicy
GAP_POLICY_CONTINUE: GapPolicy
GAP_POLICY_RESET: GapPolicy
GAP_POLICY_SKIP: GapPolicy
FUSION_WAIT_UNSPECIFIED: FusionWait
FUSION_WAIT_NEWEST: FusionWait
FUSION_WAIT_EXACT: FusionWait
FUSION_WAIT_WITHIN_DEADLINE: FusionWait
OUTCOME_STATUS_UNSPECIFIED: OutcomeStatus
OUTCOME_STATUS_ON_TIME: OutcomeStatus
OUTCOME_STATUS_LATE: OutcomeStatus
OUTCOME_STATUS_EXPIRED: OutcomeStatus
OUTCOME_STATUS_SUPERSEDED: OutcomeStatus
OUTCOME_STATUS_SHED: OutcomeStatus
OUTCOME_STATUS_SKIPPED: OutcomeStatus
OUTCOME_STATUS_INVALID: OutcomeStatus
OUTCOME_STATUS_CANCELLED: OutcomeStatus
OUTCOME_STATUS_FAILED: OutcomeStatus
FEEDBACK_STATUS_UNSPECIFIED: FeedbackStatus
FEEDBACK_STATUS_JOINED: FeedbackStatus
FEEDBACK_STATUS_UNKNOWN_FRAME: FeedbackStatus
FEEDBACK_STATUS_INVALID: FeedbackStatus
FEEDBACK_STATUS_NOT_KEPT: FeedbackStatus
FEEDBACK_STATUS_PENDING: FeedbackStatus

class ClockEstimate(_message.Message):
    __slots__ = ("offset_nano", "uncertainty_nano")
    OFFSET_NANO_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTY_NANO_FIELD_NUMBER: _ClassVar[int]
    offset_nano: int
    uncertainty_nano: int
    def __init__(self, offset_nano: _Optional[int] = ..., uncertainty_nano: _Optional[int] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("open", "frames", "clock_ping", "cancel")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    CLOCK_PING_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    open: OpenStream
    frames: FrameBatch
    clock_ping: ClockPing
    cancel: CancelFrames
    def __init__(self, open: _Optional[_Union[OpenStream, _Mapping]] = ..., frames: _Optional[_Union[FrameBatch, _Mapping]] = ..., clock_ping: _Optional[_Union[ClockPing, _Mapping]] = ..., cancel: _Optional[_Union[CancelFrames, _Mapping]] = ...) -> None: ...

class OnTimeFloor(_message.Message):
    __slots__ = ("frames", "window")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    frames: int
    window: int
    def __init__(self, frames: _Optional[int] = ..., window: _Optional[int] = ...) -> None: ...

class Fusion(_message.Message):
    __slots__ = ("group", "input", "tolerance_nano", "wait")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_NANO_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    group: str
    input: str
    tolerance_nano: int
    wait: FusionWait
    def __init__(self, group: _Optional[str] = ..., input: _Optional[str] = ..., tolerance_nano: _Optional[int] = ..., wait: _Optional[_Union[FusionWait, str]] = ...) -> None: ...

class OpenStream(_message.Message):
    __slots__ = ("model", "version", "stream_name", "stream_class", "backlog_policy", "backlog_frames", "ordering", "default_budget_nano", "expected_period_nano", "outputs", "gap_policy", "variant_lowest", "clock", "floor", "fusion")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STREAM_NAME_FIELD_NUMBER: _ClassVar[int]
    STREAM_CLASS_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_POLICY_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FRAMES_FIELD_NUMBER: _ClassVar[int]
    ORDERING_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_BUDGET_NANO_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_PERIOD_NANO_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    GAP_POLICY_FIELD_NUMBER: _ClassVar[int]
    VARIANT_LOWEST_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    stream_name: str
    stream_class: StreamClass
    backlog_policy: BacklogPolicy
    backlog_frames: int
    ordering: Ordering
    default_budget_nano: int
    expected_period_nano: int
    outputs: _containers.RepeatedScalarFieldContainer[str]
    gap_policy: GapPolicy
    variant_lowest: str
    clock: ClockEstimate
    floor: OnTimeFloor
    fusion: Fusion
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., stream_name: _Optional[str] = ..., stream_class: _Optional[_Union[StreamClass, str]] = ..., backlog_policy: _Optional[_Union[BacklogPolicy, str]] = ..., backlog_frames: _Optional[int] = ..., ordering: _Optional[_Union[Ordering, str]] = ..., default_budget_nano: _Optional[int] = ..., expected_period_nano: _Optional[int] = ..., outputs: _Optional[_Iterable[str]] = ..., gap_policy: _Optional[_Union[GapPolicy, str]] = ..., variant_lowest: _Optional[str] = ..., clock: _Optional[_Union[ClockEstimate, _Mapping]] = ..., floor: _Optional[_Union[OnTimeFloor, _Mapping]] = ..., fusion: _Optional[_Union[Fusion, _Mapping]] = ...) -> None: ...

class FrameBatch(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    def __init__(self, frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("frame_id", "capture_time_unix_nano", "budget_nano", "must_run", "tensors", "encoded")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    BUDGET_NANO_FIELD_NUMBER: _ClassVar[int]
    MUST_RUN_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    frame_id: int
    capture_time_unix_nano: int
    budget_nano: int
    must_run: bool
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    encoded: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Encoded]
    def __init__(self, frame_id: _Optional[int] = ..., capture_time_unix_nano: _Optional[int] = ..., budget_nano: _Optional[int] = ..., must_run: _Optional[bool] = ..., tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., encoded: _Optional[_Iterable[_Union[_tensor_pb2.Encoded, _Mapping]]] = ...) -> None: ...

class ClockPing(_message.Message):
    __slots__ = ("ping_id", "client_send_unix_nano", "clock")
    PING_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SEND_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    ping_id: int
    client_send_unix_nano: int
    clock: ClockEstimate
    def __init__(self, ping_id: _Optional[int] = ..., client_send_unix_nano: _Optional[int] = ..., clock: _Optional[_Union[ClockEstimate, _Mapping]] = ...) -> None: ...

class CancelFrames(_message.Message):
    __slots__ = ("frame_ids",)
    FRAME_IDS_FIELD_NUMBER: _ClassVar[int]
    frame_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, frame_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("opened", "outcomes", "clock_pong", "advice")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    CLOCK_PONG_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    opened: StreamOpened
    outcomes: OutcomeBatch
    clock_pong: ClockPong
    advice: StreamAdvice
    def __init__(self, opened: _Optional[_Union[StreamOpened, _Mapping]] = ..., outcomes: _Optional[_Union[OutcomeBatch, _Mapping]] = ..., clock_pong: _Optional[_Union[ClockPong, _Mapping]] = ..., advice: _Optional[_Union[StreamAdvice, _Mapping]] = ...) -> None: ...

class StreamOpened(_message.Message):
    __slots__ = ("stream_id", "version", "inputs", "outputs", "variants", "stream_class", "backlog_policy", "backlog_frames", "ordering", "default_budget_nano", "planned_latency_nano", "utilisation", "frames_in_flight_max", "bytes_in_flight_max", "message_bytes_max", "server_time_unix_nano", "gap_policy", "predicted_latency_nano", "admission_warning", "fusion", "fusion_inputs_missing", "chunk", "stream_key")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    STREAM_CLASS_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_POLICY_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FRAMES_FIELD_NUMBER: _ClassVar[int]
    ORDERING_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_BUDGET_NANO_FIELD_NUMBER: _ClassVar[int]
    PLANNED_LATENCY_NANO_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    FRAMES_IN_FLIGHT_MAX_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FLIGHT_MAX_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    GAP_POLICY_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_LATENCY_NANO_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_WARNING_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    FUSION_INPUTS_MISSING_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    STREAM_KEY_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    version: str
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    variants: _containers.RepeatedScalarFieldContainer[str]
    stream_class: StreamClass
    backlog_policy: BacklogPolicy
    backlog_frames: int
    ordering: Ordering
    default_budget_nano: int
    planned_latency_nano: int
    utilisation: float
    frames_in_flight_max: int
    bytes_in_flight_max: int
    message_bytes_max: int
    server_time_unix_nano: int
    gap_policy: GapPolicy
    predicted_latency_nano: int
    admission_warning: str
    fusion: Fusion
    fusion_inputs_missing: _containers.RepeatedScalarFieldContainer[str]
    chunk: ActionChunk
    stream_key: str
    def __init__(self, stream_id: _Optional[int] = ..., version: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., variants: _Optional[_Iterable[str]] = ..., stream_class: _Optional[_Union[StreamClass, str]] = ..., backlog_policy: _Optional[_Union[BacklogPolicy, str]] = ..., backlog_frames: _Optional[int] = ..., ordering: _Optional[_Union[Ordering, str]] = ..., default_budget_nano: _Optional[int] = ..., planned_latency_nano: _Optional[int] = ..., utilisation: _Optional[float] = ..., frames_in_flight_max: _Optional[int] = ..., bytes_in_flight_max: _Optional[int] = ..., message_bytes_max: _Optional[int] = ..., server_time_unix_nano: _Optional[int] = ..., gap_policy: _Optional[_Union[GapPolicy, str]] = ..., predicted_latency_nano: _Optional[int] = ..., admission_warning: _Optional[str] = ..., fusion: _Optional[_Union[Fusion, _Mapping]] = ..., fusion_inputs_missing: _Optional[_Iterable[str]] = ..., chunk: _Optional[_Union[ActionChunk, _Mapping]] = ..., stream_key: _Optional[str] = ...) -> None: ...

class OutcomeBatch(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("frame_id", "status", "outputs", "timing", "version", "variant", "batch_size", "slack_nano", "reason", "fused", "chunk", "planned_delay_nano", "guards")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SLACK_NANO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FUSED_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PLANNED_DELAY_NANO_FIELD_NUMBER: _ClassVar[int]
    GUARDS_FIELD_NUMBER: _ClassVar[int]
    frame_id: int
    status: OutcomeStatus
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    timing: Timing
    version: str
    variant: str
    batch_size: int
    slack_nano: int
    reason: str
    fused: _containers.RepeatedCompositeFieldContainer[FusedFrame]
    chunk: ActionChunk
    planned_delay_nano: int
    guards: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, frame_id: _Optional[int] = ..., status: _Optional[_Union[OutcomeStatus, str]] = ..., outputs: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., version: _Optional[str] = ..., variant: _Optional[str] = ..., batch_size: _Optional[int] = ..., slack_nano: _Optional[int] = ..., reason: _Optional[str] = ..., fused: _Optional[_Iterable[_Union[FusedFrame, _Mapping]]] = ..., chunk: _Optional[_Union[ActionChunk, _Mapping]] = ..., planned_delay_nano: _Optional[int] = ..., guards: _Optional[_Iterable[str]] = ...) -> None: ...

class FusedFrame(_message.Message):
    __slots__ = ("input", "frame_id", "capture_offset_nano")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_OFFSET_NANO_FIELD_NUMBER: _ClassVar[int]
    input: str
    frame_id: int
    capture_offset_nano: int
    def __init__(self, input: _Optional[str] = ..., frame_id: _Optional[int] = ..., capture_offset_nano: _Optional[int] = ...) -> None: ...

class ActionChunk(_message.Message):
    __slots__ = ("output", "t0_nano", "dt_nano", "horizon")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    T0_NANO_FIELD_NUMBER: _ClassVar[int]
    DT_NANO_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    output: str
    t0_nano: int
    dt_nano: int
    horizon: int
    def __init__(self, output: _Optional[str] = ..., t0_nano: _Optional[int] = ..., dt_nano: _Optional[int] = ..., horizon: _Optional[int] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("received_unix_nano", "dispatched_nano", "started_nano", "finished_nano", "sent_nano", "capture_to_receipt_nano", "clock_uncertainty_nano")
    RECEIVED_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    DISPATCHED_NANO_FIELD_NUMBER: _ClassVar[int]
    STARTED_NANO_FIELD_NUMBER: _ClassVar[int]
    FINISHED_NANO_FIELD_NUMBER: _ClassVar[int]
    SENT_NANO_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TO_RECEIPT_NANO_FIELD_NUMBER: _ClassVar[int]
    CLOCK_UNCERTAINTY_NANO_FIELD_NUMBER: _ClassVar[int]
    received_unix_nano: int
    dispatched_nano: int
    started_nano: int
    finished_nano: int
    sent_nano: int
    capture_to_receipt_nano: int
    clock_uncertainty_nano: int
    def __init__(self, received_unix_nano: _Optional[int] = ..., dispatched_nano: _Optional[int] = ..., started_nano: _Optional[int] = ..., finished_nano: _Optional[int] = ..., sent_nano: _Optional[int] = ..., capture_to_receipt_nano: _Optional[int] = ..., clock_uncertainty_nano: _Optional[int] = ...) -> None: ...

class ClockPong(_message.Message):
    __slots__ = ("ping_id", "client_send_unix_nano", "server_receive_unix_nano", "server_send_unix_nano")
    PING_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SEND_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    SERVER_RECEIVE_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    SERVER_SEND_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    ping_id: int
    client_send_unix_nano: int
    server_receive_unix_nano: int
    server_send_unix_nano: int
    def __init__(self, ping_id: _Optional[int] = ..., client_send_unix_nano: _Optional[int] = ..., server_receive_unix_nano: _Optional[int] = ..., server_send_unix_nano: _Optional[int] = ...) -> None: ...

class StreamAdvice(_message.Message):
    __slots__ = ("kind", "period_nano", "version", "reason")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[StreamAdvice.Kind]
        KIND_SLOW_DOWN: _ClassVar[StreamAdvice.Kind]
        KIND_SPEED_UP: _ClassVar[StreamAdvice.Kind]
        KIND_DRAINING: _ClassVar[StreamAdvice.Kind]
        KIND_VERSION_CHANGED: _ClassVar[StreamAdvice.Kind]
    KIND_UNSPECIFIED: StreamAdvice.Kind
    KIND_SLOW_DOWN: StreamAdvice.Kind
    KIND_SPEED_UP: StreamAdvice.Kind
    KIND_DRAINING: StreamAdvice.Kind
    KIND_VERSION_CHANGED: StreamAdvice.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    PERIOD_NANO_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kind: StreamAdvice.Kind
    period_nano: int
    version: str
    reason: str
    def __init__(self, kind: _Optional[_Union[StreamAdvice.Kind, str]] = ..., period_nano: _Optional[int] = ..., version: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class InferRequest(_message.Message):
    __slots__ = ("model", "version", "stream_class", "frame", "outputs", "clock")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STREAM_CLASS_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    stream_class: StreamClass
    frame: Frame
    outputs: _containers.RepeatedScalarFieldContainer[str]
    clock: ClockEstimate
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., stream_class: _Optional[_Union[StreamClass, str]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ..., outputs: _Optional[_Iterable[str]] = ..., clock: _Optional[_Union[ClockEstimate, _Mapping]] = ...) -> None: ...

class InferResponse(_message.Message):
    __slots__ = ("outcome", "stream_key")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STREAM_KEY_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    stream_key: str
    def __init__(self, outcome: _Optional[_Union[Outcome, _Mapping]] = ..., stream_key: _Optional[str] = ...) -> None: ...

class FeedbackRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[FrameFeedback]
    def __init__(self, items: _Optional[_Iterable[_Union[FrameFeedback, _Mapping]]] = ...) -> None: ...

class FrameFeedback(_message.Message):
    __slots__ = ("stream_key", "frame_id", "labels", "weight", "source")
    STREAM_KEY_FIELD_NUMBER: _ClassVar[int]
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    stream_key: str
    frame_id: int
    labels: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    weight: float
    source: str
    def __init__(self, stream_key: _Optional[str] = ..., frame_id: _Optional[int] = ..., labels: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., weight: _Optional[float] = ..., source: _Optional[str] = ...) -> None: ...

class FeedbackResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[FeedbackResult]
    def __init__(self, results: _Optional[_Iterable[_Union[FeedbackResult, _Mapping]]] = ...) -> None: ...

class FeedbackResult(_message.Message):
    __slots__ = ("status", "reason")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    status: FeedbackStatus
    reason: str
    def __init__(self, status: _Optional[_Union[FeedbackStatus, str]] = ..., reason: _Optional[str] = ...) -> None: ...
