"""The messages of the KServe v2 protocol that load needs, as classes of protobuf.

Names and field numbers are those published: the Open Inference Protocol's `grpc_predict_v2.proto`, and for
`ModelStreamInferResponse` Triton's `grpc_service.proto`. What is left out here is skipped where it arrives. Two things
are simpler than published and the same on the wire: no message is nested in another, and `InferParameter` is no oneof.

The classes live in a pool of their own, so that they do not clash with another copy of the package `inference` in the
same process, such as tritonclient's.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"

_MESSAGES: dict[str, dict[int, str]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {1: "bool live"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {1: "bool ready"},
    "ModelReadyRequest": {1: "string name", 2: "string version"},
    "ModelReadyResponse": {1: "bool ready"},
    "ModelMetadataRequest": {1: "string name", 2: "string version"},
    "ModelMetadataResponse": {
        1: "string name",
        2: "repeated string versions",
        3: "string platform",
        4: "repeated TensorMetadata inputs",
        5: "repeated TensorMetadata outputs",
    },
    "TensorMetadata": {1: "string name", 2: "string datatype", 3: "repeated int64 shape"},
    "InferParameter": {1: "bool bool_param", 2: "int64 int64_param", 3: "string string_param"},
    "ModelInferRequest": {
        1: "string model_name",
        2: "string model_version",
        3: "string id",
        4: "map InferParameter parameters",
        5: "repeated InferTensor inputs",
        7: "repeated bytes raw_input_contents",
    },
    "ModelInferResponse": {
        1: "string model_name",
        2: "string model_version",
        3: "string id",
        4: "map InferParameter parameters",
        5: "repeated InferTensor outputs",
        6: "repeated bytes raw_output_contents",
    },
    "InferTensor": {1: "string name", 2: "string datatype", 3: "repeated int64 shape"},
    "ModelStreamInferResponse": {1: "string error_message", 2: "ModelInferResponse infer_response"},
}
"""Fields by message and number: `TYPE NAME`, `repeated TYPE NAME`, or `map TYPE NAME`, whose keys are strings."""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}


def _add_field(message: descriptor_pb2.DescriptorProto, number: int, spelled: str) -> None:
    *kinds, type_name, name = spelled.split()
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kinds == ["map"]:
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, 1, "string key")
        _add_field(entry, 2, f"{type_name} value")
        type_name = f"{message.name}.{entry.name}"
    if kinds:
        field.label = _Field.LABEL_REPEATED
    if type_name in _SCALARS:
        field.type = _SCALARS[type_name]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".inference.{type_name}"


def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="inference.proto", package="inference", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, spelled in fields.items():
            _add_field(message, number, spelled)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _pool()


def _message_class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


ServerLiveRequest = _message_class("ServerLiveRequest")
ServerLiveResponse = _message_class("ServerLiveResponse")
ServerReadyRequest = _message_class("ServerReadyRequest")
ServerReadyResponse = _message_class("ServerReadyResponse")
ModelReadyRequest = _message_class("ModelReadyRequest")
ModelReadyResponse = _message_class("ModelReadyResponse")
ModelMetadataRequest = _message_class("ModelMetadataRequest")
ModelMetadataResponse = _message_class("ModelMetadataResponse")
ModelInferRequest = _message_class("ModelInferRequest")
ModelInferResponse = _message_class("ModelInferResponse")
ModelStreamInferResponse = _message_class("ModelStreamInferResponse")
