"""Writes the protocol's reference, docs/protocol.md, from the comments of the .proto files.

    python protos/reference.py DESCRIPTORS > docs/protocol.md

DESCRIPTORS is a FileDescriptorSet with source info, as `protoc --include_source_info` writes it. `make protos` runs
both; `make check` compares the page with what the .proto files say now.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

HEAD = """# The protocol `duly.v1`

<!-- Generated from the comments in protos/duly/v1 by `make protos`. Change those, not this page. -->

duly is reached over gRPC. This page has every service, message, field and number of the protocol; the same text stands
as comments in [`protos/duly/v1`](../protos/duly/v1), from which stubs for any language are generated. [The
design](design.md#5-the-protocol-dulyv1) says how a stream goes.

Names ending in `_nano` are nanoseconds, those ending in `_unix_nano` nanoseconds since 1970. A field that is left out
has the value 0, "" or nothing. The text names values without the prefix of their enumeration: `LATEST` is
`BACKLOG_POLICY_LATEST`. Fields and values may be added; a number never changes its meaning.

"""

# The paths of SourceCodeInfo consist of field numbers of descriptor.proto, each with an index into that field.
_SYNTAX = (FileDescriptorProto.SYNTAX_FIELD_NUMBER,)
_SERVICES = FileDescriptorProto.SERVICE_FIELD_NUMBER
_METHODS = ServiceDescriptorProto.METHOD_FIELD_NUMBER
_MESSAGES = FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER
_FIELDS = DescriptorProto.FIELD_FIELD_NUMBER
_ONEOFS = DescriptorProto.ONEOF_DECL_FIELD_NUMBER
_NESTED_ENUMS = DescriptorProto.ENUM_TYPE_FIELD_NUMBER
_ENUMS = FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER
_VALUES = EnumDescriptorProto.VALUE_FIELD_NUMBER


class Page:
    """The Markdown lines of one .proto file."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}

    def lines(self) -> Iterator[str]:
        yield f"## {Path(self._file.name).name}"
        yield from self._text(_SYNTAX)
        for index, service in enumerate(self._file.service):
            path = (_SERVICES, index)
            yield from self._heading(service.name, path)
            yield from _table("method", "request", "response", "what it does")
            for number, method in enumerate(service.method):
                request = _link(method.input_type, "stream of " if method.client_streaming else "")
                response = _link(method.output_type, "stream of " if method.server_streaming else "")
                yield _row(f"`{method.name}`", request, response, self._cell((*path, _METHODS, number)))
        for index, message in enumerate(self._file.message_type):
            if message.nested_type:
                raise SystemExit(f"{self._file.name}: {message.name} has nested messages; the page can't show them yet")
            yield from self._message(message, (_MESSAGES, index))
        for index, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, enum.name, (_ENUMS, index))

    def _message(self, message: DescriptorProto, path: tuple[int, ...]) -> Iterator[str]:
        yield from self._heading(message.name, path)
        for index, oneof in enumerate(message.oneof_decl):
            members = [f"`{f.name}`" for f in message.field if f.HasField("oneof_index") and f.oneof_index == index]
            yield from ("", f"`{oneof.name}` is one of {', '.join(members)}. {self._cell((*path, _ONEOFS, index))}")
        if message.field:
            yield from _table("number", "field", "type", "meaning")
        for index, field in enumerate(message.field):
            yield _row(f"{field.number}", f"`{field.name}`", _type(field), self._cell((*path, _FIELDS, index)))
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, f"{message.name}.{enum.name}", (*path, _NESTED_ENUMS, index))

    def _enum(self, enum: EnumDescriptorProto, name: str, path: tuple[int, ...]) -> Iterator[str]:
        yield from self._heading(name, path)
        yield from _table("number", "value", "meaning")
        for index, value in enumerate(enum.value):
            yield _row(f"{value.number}", f"`{value.name}`", self._cell((*path, _VALUES, index)))

    def _heading(self, name: str, path: tuple[int, ...]) -> Iterator[str]:
        yield from ("", f"### {name}")
        yield from self._text(path)

    def _text(self, path: tuple[int, ...]) -> Iterator[str]:
        yield ""
        yield from (line.removeprefix(" ") for line in self._comments[path].rstrip("\n").split("\n"))

    def _cell(self, path: tuple[int, ...]) -> str:
        return " ".join(self._comments[path].split()).replace("|", "\\|")


def _table(*columns: str) -> Iterator[str]:
    yield from ("", _row(*columns), _row(*["---"] * len(columns)))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _link(type_name: str, before: str = "") -> str:
    name = type_name.removeprefix(".duly.v1.")
    return f"{before}[{name}](#{name.replace('.', '').lower()})"


def _type(field: FieldDescriptorProto) -> str:
    many = "list of " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    if field.type_name:
        return _link(field.type_name, many)
    return many + FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def reference(files: FileDescriptorSet) -> str:
    """The page. Raises KeyError where something has no comment, which `buf lint` forbids."""
    protocol = sorted((file for file in files.file if file.package == "duly.v1"), key=lambda file: file.name)
    lines = [_contents(file) for file in protocol]
    for file in protocol:
        lines += ["", *Page(file).lines()]
    return HEAD + "\n".join(lines) + "\n"


def _contents(file: FileDescriptorProto) -> str:
    name = Path(file.name).name
    parts = (*file.service, *file.message_type, *file.enum_type)
    return f"- [{name}](#{name.replace('.', '')}): {', '.join(_link(part.name) for part in parts)}"


if __name__ == "__main__":
    sys.stdout.write(reference(FileDescriptorSet.FromString(Path(sys.argv[1]).read_bytes())))
