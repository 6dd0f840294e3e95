"""The schemas of what is written: Foxglove's, ROS's, and duly's own. Each stands in the logs that use it."""

import struct
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.message import Message
from mcap.well_known import MessageEncoding, SchemaEncoding
from mcap.writer import Writer

OUTCOME = "duly.log.Outcome"

_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES: dict[str, tuple[tuple[str, Any, str], ...]] = {
    "Detection": (
        ("label", _Field.TYPE_STRING, ""),
        ("score", _Field.TYPE_DOUBLE, ""),
        ("x0", _Field.TYPE_DOUBLE, ""),
        ("y0", _Field.TYPE_DOUBLE, ""),
        ("x1", _Field.TYPE_DOUBLE, ""),
        ("y1", _Field.TYPE_DOUBLE, ""),
    ),
    "Output": (
        ("name", _Field.TYPE_STRING, ""),
        ("shape", _Field.TYPE_INT64, "*"),
        ("values", _Field.TYPE_DOUBLE, "*"),
        ("texts", _Field.TYPE_STRING, "*"),
    ),
    "Outcome": (
        ("timestamp", "google.protobuf.Timestamp", ""),
        ("frame", _Field.TYPE_UINT64, ""),
        ("status", _Field.TYPE_STRING, ""),
        ("status_number", _Field.TYPE_UINT32, ""),
        ("latency_ms", _Field.TYPE_DOUBLE, ""),
        ("slack_ms", _Field.TYPE_DOUBLE, ""),
        ("age_ms", _Field.TYPE_DOUBLE, ""),
        ("waited_ms", _Field.TYPE_DOUBLE, ""),
        ("ran_ms", _Field.TYPE_DOUBLE, ""),
        ("version", _Field.TYPE_STRING, ""),
        ("variant", _Field.TYPE_STRING, ""),
        ("batch_size", _Field.TYPE_UINT32, ""),
        ("reason", _Field.TYPE_STRING, ""),
        ("detections", "duly.log.Detection", "*"),
        ("outputs", "duly.log.Output", "*"),
    ),
    "Input": (
        ("name", _Field.TYPE_STRING, ""),
        ("datatype", _Field.TYPE_STRING, ""),
        ("shape", _Field.TYPE_INT64, "*"),
        ("data", _Field.TYPE_BYTES, ""),
    ),
    "Inputs": (
        ("timestamp", "google.protobuf.Timestamp", ""),
        ("inputs", "duly.log.Input", "*"),
    ),
}
"""The messages of duly's own with their fields: name, type, and * where there may be several. Numbers count from 1 in
this order, so that new fields come last. Latency, slack and age are those of `docs/replay.md`."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="duly/log.proto", package="duly.log", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, several) in enumerate(fields, start=1):
            label = _Field.LABEL_REPEATED if several else _Field.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".{kind}"
            else:
                added.type = kind
    return file


def _classes() -> dict[str, type[Message]]:
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(_file().SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"duly.log.{name}")) for name in _MESSAGES}


_CLASSES = _classes()


def outcome_message(**fields: Any) -> Message:
    """A message of the schema duly.log.Outcome."""
    return _CLASSES["Outcome"](**fields)


def inputs_message(**fields: Any) -> Message:
    """A message of the schema duly.log.Inputs."""
    return _CLASSES["Inputs"](**fields)


def register(writer: Writer, topic: str, message: type[Message] | Message) -> int:
    """Declares a topic of Protobuf messages with all that their schema refers to. Returns the channel's number."""
    files: dict[str, Any] = {}

    def add(file: Any) -> None:
        for needed in file.dependencies:
            add(needed)
        files.setdefault(file.name, file)

    add(message.DESCRIPTOR.file)
    described = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        described.file.add().ParseFromString(file.serialized_pb)
    schema = writer.register_schema(
        message.DESCRIPTOR.full_name, SchemaEncoding.Protobuf, described.SerializeToString()
    )
    return writer.register_channel(topic, MessageEncoding.Protobuf, schema)


_NUMBER = "std_msgs/msg/Float64MultiArray"
_NUMBER_TEXT = f"""MultiArrayLayout layout
float64[] data
{"=" * 80}
MSG: std_msgs/MultiArrayLayout
MultiArrayDimension[] dim
uint32 data_offset
{"=" * 80}
MSG: std_msgs/MultiArrayDimension
string label
uint32 size
uint32 stride
"""


def register_number(writer: Writer, topic: str) -> int:
    """Declares a topic of single numbers. Returns the channel's number."""
    schema = writer.register_schema(_NUMBER, SchemaEncoding.ROS2, _NUMBER_TEXT.encode())
    return writer.register_channel(topic, MessageEncoding.CDR, schema)


def number_message(value: float) -> bytes:
    """A number as CDR: no dimensions, no offset, one element, which lies at a multiple of eight."""
    return struct.pack("<4sIIIId", b"\0\1\0\0", 0, 0, 1, 0, value)


def timestamp(time_ns: int) -> timestamp_pb2.Timestamp:
    """A time, ns since 1970, as Foxglove's schemas have it."""
    return timestamp_pb2.Timestamp(seconds=time_ns // 10**9, nanos=time_ns % 10**9)
