from duly.v1 import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("server_version", "server_time_unix_nano", "lanes", "streams_max", "frames_in_flight_max", "bytes_in_flight_max", "message_bytes_max", "draining", "local_path")
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    STREAMS_MAX_FIELD_NUMBER: _ClassVar[int]
    FRAMES_IN_FLIGHT_MAX_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FLIGHT_MAX_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    LOCAL_PATH_FIELD_NUMBER: _ClassVar[int]
    server_version: str
    server_time_unix_nano: int
    lanes: _containers.RepeatedCompositeFieldContainer[Lane]
    streams_max: int
    frames_in_flight_max: int
    bytes_in_flight_max: int
    message_bytes_max: int
    draining: bool
    local_path: str
    def __init__(self, server_version: _Optional[str] = ..., server_time_unix_nano: _Optional[int] = ..., lanes: _Optional[_Iterable[_Union[Lane, _Mapping]]] = ..., streams_max: _Optional[int] = ..., frames_in_flight_max: _Optional[int] = ..., bytes_in_flight_max: _Optional[int] = ..., message_bytes_max: _Optional[int] = ..., draining: _Optional[bool] = ..., local_path: _Optional[str] = ...) -> None: ...

class Lane(_message.Message):
    __slots__ = ("name", "busy_ratio", "down")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BUSY_RATIO_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    name: str
    busy_ratio: float
    down: str
    def __init__(self, name: _Optional[str] = ..., busy_ratio: _Optional[float] = ..., down: _Optional[str] = ...) -> None: ...

class GetStatisticsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatisticsResponse(_message.Message):
    __slots__ = ("statistics",)
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    statistics: Statistics
    def __init__(self, statistics: _Optional[_Union[Statistics, _Mapping]] = ...) -> None: ...

class WatchStatisticsRequest(_message.Message):
    __slots__ = ("period_nano",)
    PERIOD_NANO_FIELD_NUMBER: _ClassVar[int]
    period_nano: int
    def __init__(self, period_nano: _Optional[int] = ...) -> None: ...

class WatchStatisticsResponse(_message.Message):
    __slots__ = ("statistics",)
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    statistics: Statistics
    def __init__(self, statistics: _Optional[_Union[Statistics, _Mapping]] = ...) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("server_time_unix_nano", "streams_open", "frames_in_flight", "bytes_in_flight", "models", "lanes", "wasted_nano", "energy")
    SERVER_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    STREAMS_OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAMES_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    WASTED_NANO_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    server_time_unix_nano: int
    streams_open: int
    frames_in_flight: int
    bytes_in_flight: int
    models: _containers.RepeatedCompositeFieldContainer[ModelStatistics]
    lanes: _containers.RepeatedCompositeFieldContainer[Lane]
    wasted_nano: int
    energy: _containers.RepeatedCompositeFieldContainer[DeviceEnergy]
    def __init__(self, server_time_unix_nano: _Optional[int] = ..., streams_open: _Optional[int] = ..., frames_in_flight: _Optional[int] = ..., bytes_in_flight: _Optional[int] = ..., models: _Optional[_Iterable[_Union[ModelStatistics, _Mapping]]] = ..., lanes: _Optional[_Iterable[_Union[Lane, _Mapping]]] = ..., wasted_nano: _Optional[int] = ..., energy: _Optional[_Iterable[_Union[DeviceEnergy, _Mapping]]] = ...) -> None: ...

class DeviceEnergy(_message.Message):
    __slots__ = ("device", "joules")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    JOULES_FIELD_NUMBER: _ClassVar[int]
    device: str
    joules: float
    def __init__(self, device: _Optional[str] = ..., joules: _Optional[float] = ...) -> None: ...

class ModelStatistics(_message.Message):
    __slots__ = ("model", "outcomes", "batches", "batched_frames", "frames_waiting")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    BATCHED_FRAMES_FIELD_NUMBER: _ClassVar[int]
    FRAMES_WAITING_FIELD_NUMBER: _ClassVar[int]
    model: str
    outcomes: _containers.RepeatedCompositeFieldContainer[OutcomeCount]
    batches: int
    batched_frames: int
    frames_waiting: int
    def __init__(self, model: _Optional[str] = ..., outcomes: _Optional[_Iterable[_Union[OutcomeCount, _Mapping]]] = ..., batches: _Optional[int] = ..., batched_frames: _Optional[int] = ..., frames_waiting: _Optional[int] = ...) -> None: ...

class OutcomeCount(_message.Message):
    __slots__ = ("status", "stream_class", "frames")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STREAM_CLASS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    status: _inference_pb2.OutcomeStatus
    stream_class: _inference_pb2.StreamClass
    frames: int
    def __init__(self, status: _Optional[_Union[_inference_pb2.OutcomeStatus, str]] = ..., stream_class: _Optional[_Union[_inference_pb2.StreamClass, str]] = ..., frames: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("grace_nano",)
    GRACE_NANO_FIELD_NUMBER: _ClassVar[int]
    grace_nano: int
    def __init__(self, grace_nano: _Optional[int] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DumpRecordingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DumpRecordingResponse(_message.Message):
    __slots__ = ("file_name",)
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    file_name: str
    def __init__(self, file_name: _Optional[str] = ...) -> None: ...
