from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_BOOL: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_UINT16: _ClassVar[DataType]
    DATA_TYPE_UINT32: _ClassVar[DataType]
    DATA_TYPE_UINT64: _ClassVar[DataType]
    DATA_TYPE_INT8: _ClassVar[DataType]
    DATA_TYPE_INT16: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]
    DATA_TYPE_INT64: _ClassVar[DataType]
    DATA_TYPE_FP16: _ClassVar[DataType]
    DATA_TYPE_FP32: _ClassVar[DataType]
    DATA_TYPE_FP64: _ClassVar[DataType]
    DATA_TYPE_STRING: _ClassVar[DataType]
    DATA_TYPE_BF16: _ClassVar[DataType]

class EncodedFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENCODED_FORMAT_UNSPECIFIED: _ClassVar[EncodedFormat]
    ENCODED_FORMAT_JPEG: _ClassVar[EncodedFormat]
    ENCODED_FORMAT_PNG: _ClassVar[EncodedFormat]
    ENCODED_FORMAT_PCM_S16LE: _ClassVar[EncodedFormat]
    ENCODED_FORMAT_H264: _ClassVar[EncodedFormat]
    ENCODED_FORMAT_HEVC: _ClassVar[EncodedFormat]
    ENCODED_FORMAT_MJPEG: _ClassVar[EncodedFormat]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_BOOL: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_UINT16: DataType
DATA_TYPE_UINT32: DataType
DATA_TYPE_UINT64: DataType
DATA_TYPE_INT8: DataType
DATA_TYPE_INT16: DataType
DATA_TYPE_INT32: DataType
DATA_TYPE_INT64: DataType
DATA_TYPE_FP16: DataType
DATA_TYPE_FP32: DataType
DATA_TYPE_FP64: DataType
DATA_TYPE_STRING: DataType
DATA_TYPE_BF16: DataType
ENCODED_FORMAT_UNSPECIFIED: EncodedFormat
ENCODED_FORMAT_JPEG: EncodedFormat
ENCODED_FORMAT_PNG: EncodedFormat
ENCODED_FORMAT_PCM_S16LE: EncodedFormat
ENCODED_FORMAT_H264: EncodedFormat
ENCODED_FORMAT_HEVC: EncodedFormat
ENCODED_FORMAT_MJPEG: EncodedFormat

class Tensor(_message.Message):
    __slots__ = ("name", "datatype", "shape", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Encoded(_message.Message):
    __slots__ = ("name", "format", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    format: EncodedFormat
    data: bytes
    def __init__(self, name: _Optional[str] = ..., format: _Optional[_Union[EncodedFormat, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "datatype", "shape", "encoded_formats", "labels", "sample_rate_hz", "finite")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FORMATS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    FINITE_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    encoded_formats: _containers.RepeatedScalarFieldContainer[EncodedFormat]
    labels: _containers.RepeatedScalarFieldContainer[str]
    sample_rate_hz: int
    finite: bool
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., encoded_formats: _Optional[_Iterable[_Union[EncodedFormat, str]]] = ..., labels: _Optional[_Iterable[str]] = ..., sample_rate_hz: _Optional[int] = ..., finite: _Optional[bool] = ...) -> None: ...
