from duly.v1 import inference_pb2 as _inference_pb2
from duly.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]
    MODEL_STATE_RECOVERING: _ClassVar[ModelState]

class TrialStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRIAL_STAGE_UNSPECIFIED: _ClassVar[TrialStage]
    TRIAL_STAGE_LOADED: _ClassVar[TrialStage]
    TRIAL_STAGE_SHADOW: _ClassVar[TrialStage]
    TRIAL_STAGE_CANARY: _ClassVar[TrialStage]
    TRIAL_STAGE_ACTIVE: _ClassVar[TrialStage]
    TRIAL_STAGE_ROLLED_BACK: _ClassVar[TrialStage]
    TRIAL_STAGE_VETOED: _ClassVar[TrialStage]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_FAILED: ModelState
MODEL_STATE_RECOVERING: ModelState
TRIAL_STAGE_UNSPECIFIED: TrialStage
TRIAL_STAGE_LOADED: TrialStage
TRIAL_STAGE_SHADOW: TrialStage
TRIAL_STAGE_CANARY: TrialStage
TRIAL_STAGE_ACTIVE: TrialStage
TRIAL_STAGE_ROLLED_BACK: TrialStage
TRIAL_STAGE_VETOED: TrialStage

class Model(_message.Message):
    __slots__ = ("name", "active_version", "versions", "description", "previous_version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    active_version: str
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    description: str
    previous_version: str
    def __init__(self, name: _Optional[str] = ..., active_version: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., description: _Optional[str] = ..., previous_version: _Optional[str] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("version", "state", "error", "inputs", "outputs", "variants", "stateful", "default_budget_nano", "default_class", "trial", "progress")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    STATEFUL_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_BUDGET_NANO_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_CLASS_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    version: str
    state: ModelState
    error: str
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    variants: _containers.RepeatedCompositeFieldContainer[ModelVariant]
    stateful: bool
    default_budget_nano: int
    default_class: _inference_pb2.StreamClass
    trial: Trial
    progress: str
    def __init__(self, version: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., error: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., variants: _Optional[_Iterable[_Union[ModelVariant, _Mapping]]] = ..., stateful: _Optional[bool] = ..., default_budget_nano: _Optional[int] = ..., default_class: _Optional[_Union[_inference_pb2.StreamClass, str]] = ..., trial: _Optional[_Union[Trial, _Mapping]] = ..., progress: _Optional[str] = ...) -> None: ...

class Trial(_message.Message):
    __slots__ = ("name", "version", "against_version", "stage", "reason", "since_unix_nano", "began_unix_nano", "frames_compared", "agreement", "agreement_low", "agreement_high", "canary_frames", "canary_on_time", "rest_frames", "rest_on_time", "errors", "frames_not_run", "frames_not_drawn", "canary_pairs", "labels", "accuracy", "rest_labels", "rest_accuracy")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGAINST_VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    BEGAN_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    FRAMES_COMPARED_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_LOW_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_HIGH_FIELD_NUMBER: _ClassVar[int]
    CANARY_FRAMES_FIELD_NUMBER: _ClassVar[int]
    CANARY_ON_TIME_FIELD_NUMBER: _ClassVar[int]
    REST_FRAMES_FIELD_NUMBER: _ClassVar[int]
    REST_ON_TIME_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_NOT_RUN_FIELD_NUMBER: _ClassVar[int]
    FRAMES_NOT_DRAWN_FIELD_NUMBER: _ClassVar[int]
    CANARY_PAIRS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    REST_LABELS_FIELD_NUMBER: _ClassVar[int]
    REST_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    against_version: str
    stage: TrialStage
    reason: str
    since_unix_nano: int
    began_unix_nano: int
    frames_compared: int
    agreement: float
    agreement_low: float
    agreement_high: float
    canary_frames: int
    canary_on_time: int
    rest_frames: int
    rest_on_time: int
    errors: int
    frames_not_run: int
    frames_not_drawn: int
    canary_pairs: int
    labels: int
    accuracy: float
    rest_labels: int
    rest_accuracy: float
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., against_version: _Optional[str] = ..., stage: _Optional[_Union[TrialStage, str]] = ..., reason: _Optional[str] = ..., since_unix_nano: _Optional[int] = ..., began_unix_nano: _Optional[int] = ..., frames_compared: _Optional[int] = ..., agreement: _Optional[float] = ..., agreement_low: _Optional[float] = ..., agreement_high: _Optional[float] = ..., canary_frames: _Optional[int] = ..., canary_on_time: _Optional[int] = ..., rest_frames: _Optional[int] = ..., rest_on_time: _Optional[int] = ..., errors: _Optional[int] = ..., frames_not_run: _Optional[int] = ..., frames_not_drawn: _Optional[int] = ..., canary_pairs: _Optional[int] = ..., labels: _Optional[int] = ..., accuracy: _Optional[float] = ..., rest_labels: _Optional[int] = ..., rest_accuracy: _Optional[float] = ...) -> None: ...

class ModelVariant(_message.Message):
    __slots__ = ("name", "accuracy", "providers", "profile")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    PROVIDERS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    name: str
    accuracy: float
    providers: _containers.RepeatedScalarFieldContainer[str]
    profile: _containers.RepeatedCompositeFieldContainer[PlannedTime]
    def __init__(self, name: _Optional[str] = ..., accuracy: _Optional[float] = ..., providers: _Optional[_Iterable[str]] = ..., profile: _Optional[_Iterable[_Union[PlannedTime, _Mapping]]] = ...) -> None: ...

class PlannedTime(_message.Message):
    __slots__ = ("lane", "batch_size", "planned_nano")
    LANE_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    PLANNED_NANO_FIELD_NUMBER: _ClassVar[int]
    lane: str
    batch_size: int
    planned_nano: int
    def __init__(self, lane: _Optional[str] = ..., batch_size: _Optional[int] = ..., planned_nano: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class LoadModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class UnloadModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ActivateVersionRequest(_message.Message):
    __slots__ = ("name", "version", "force")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    force: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class ActivateVersionResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class ListTrialsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListTrialsResponse(_message.Message):
    __slots__ = ("trials",)
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    trials: _containers.RepeatedCompositeFieldContainer[Trial]
    def __init__(self, trials: _Optional[_Iterable[_Union[Trial, _Mapping]]] = ...) -> None: ...

class StartTrialRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class StartTrialResponse(_message.Message):
    __slots__ = ("trial",)
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    trial: Trial
    def __init__(self, trial: _Optional[_Union[Trial, _Mapping]] = ...) -> None: ...

class VetoVersionRequest(_message.Message):
    __slots__ = ("name", "version", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class VetoVersionResponse(_message.Message):
    __slots__ = ("trial",)
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    trial: Trial
    def __init__(self, trial: _Optional[_Union[Trial, _Mapping]] = ...) -> None: ...

class WatchModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchModelsResponse(_message.Message):
    __slots__ = ("model", "removed")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    model: Model
    removed: bool
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., removed: _Optional[bool] = ...) -> None: ...

class ListLearningRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListLearningResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Learning]
    def __init__(self, models: _Optional[_Iterable[_Union[Learning, _Mapping]]] = ...) -> None: ...

class Learning(_message.Message):
    __slots__ = ("name", "phase", "version", "published", "frames", "labels", "labels_of_regime", "labels_unusable", "attempt", "attempt_text", "figures", "drifts", "attempts", "problem", "last_drifts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LABELS_OF_REGIME_FIELD_NUMBER: _ClassVar[int]
    LABELS_UNUSABLE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_TEXT_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    DRIFTS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    LAST_DRIFTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    phase: str
    version: str
    published: str
    frames: int
    labels: int
    labels_of_regime: int
    labels_unusable: int
    attempt: str
    attempt_text: str
    figures: _containers.RepeatedCompositeFieldContainer[LearningFigure]
    drifts: _containers.RepeatedCompositeFieldContainer[LearningCount]
    attempts: _containers.RepeatedCompositeFieldContainer[LearningCount]
    problem: str
    last_drifts: _containers.RepeatedCompositeFieldContainer[LearningDrift]
    def __init__(self, name: _Optional[str] = ..., phase: _Optional[str] = ..., version: _Optional[str] = ..., published: _Optional[str] = ..., frames: _Optional[int] = ..., labels: _Optional[int] = ..., labels_of_regime: _Optional[int] = ..., labels_unusable: _Optional[int] = ..., attempt: _Optional[str] = ..., attempt_text: _Optional[str] = ..., figures: _Optional[_Iterable[_Union[LearningFigure, _Mapping]]] = ..., drifts: _Optional[_Iterable[_Union[LearningCount, _Mapping]]] = ..., attempts: _Optional[_Iterable[_Union[LearningCount, _Mapping]]] = ..., problem: _Optional[str] = ..., last_drifts: _Optional[_Iterable[_Union[LearningDrift, _Mapping]]] = ...) -> None: ...

class LearningDrift(_message.Message):
    __slots__ = ("signal", "seen_unix_nano", "stream", "text")
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    SEEN_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    signal: str
    seen_unix_nano: int
    stream: str
    text: str
    def __init__(self, signal: _Optional[str] = ..., seen_unix_nano: _Optional[int] = ..., stream: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class LearningFigure(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class LearningCount(_message.Message):
    __slots__ = ("name", "count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    count: int
    def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...
