"""The schema as protobuf knows it, in a pool of its own, so that its text format judges ours."""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as FieldProto

from duly.models.triton.schema import ENUMS, MESSAGES

SCALARS = {
    "string": FieldProto.TYPE_STRING,
    "bool": FieldProto.TYPE_BOOL,
    "int32": FieldProto.TYPE_INT32,
    "uint32": FieldProto.TYPE_UINT32,
    "int64": FieldProto.TYPE_INT64,
    "uint64": FieldProto.TYPE_UINT64,
    "float": FieldProto.TYPE_FLOAT,
    "double": FieldProto.TYPE_DOUBLE,
}


def _typed(proto: Any, kind: str) -> None:
    if kind in SCALARS:
        proto.type = SCALARS[kind]
    else:
        proto.type = FieldProto.TYPE_MESSAGE if kind in MESSAGES else FieldProto.TYPE_ENUM
        proto.type_name = f".judge.{kind}"


@cache
def model_config() -> Any:
    """The message class of a whole configuration."""
    file = descriptor_pb2.FileDescriptorProto(name="judge.proto", package="judge", syntax="proto3")
    for name, members in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, member in enumerate(members):
            enum.value.add(name=member, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        oneofs: list[str] = []
        for number, (field, declared) in enumerate(fields.items(), start=1):
            oneof, _, kind = declared.rpartition("|")
            proto = message.field.add(name=field, number=number, label=FieldProto.LABEL_OPTIONAL)
            if oneof:
                if oneof not in oneofs:
                    oneofs.append(oneof)
                    message.oneof_decl.add(name=oneof)
                proto.oneof_index = oneofs.index(oneof)
            if kind.startswith("{"):
                proto.label, proto.type = FieldProto.LABEL_REPEATED, FieldProto.TYPE_MESSAGE
                entry = message.nested_type.add(name="".join(map(str.title, field.split("_"))) + "Entry")
                entry.options.map_entry = True
                proto.type_name = f".judge.{name}.{entry.name}"
                for at, (key, inner) in enumerate(zip(("key", "value"), kind.strip("{}").split(": "), strict=True), 1):
                    _typed(entry.field.add(name=key, number=at, label=FieldProto.LABEL_OPTIONAL), inner)
                continue
            if kind.startswith("["):
                proto.label = FieldProto.LABEL_REPEATED
            _typed(proto, kind.strip("[]"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("judge.ModelConfig"))
