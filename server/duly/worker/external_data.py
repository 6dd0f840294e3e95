"""Tensors of a graph whose numbers lie in files beside it ("external data").

ONNX Runtime would map such files, so that whoever writes to them changes the answers of the model, or kills its
process. Here they are read into memory instead. Initializers of the graph itself are handed over as the memory of their
file. ONNX Runtime takes no others so, so that tensors of subgraphs, functions and attributes, and sparse ones, are
written into the graph.

Only the fields that lead to tensors are spelt out of ONNX's messages (onnx/onnx.proto); protobuf keeps all others as
they are. The package onnx has them too, but a server does not need it for anything else.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from duly.models.formats import BEGINNING_BYTES, MODEL_BYTES_MAX, stand_in
from duly.worker.errors import LoadError

_MARK = b"\n\x08location"
"""How the key of a tensor's file is written. A graph without it has no external data and need not be parsed."""
_EXTERNAL = 1  # TensorProto.DataLocation
LOCATION_CHARS_MAX = 512
"""A graph that names a file of external data by a longer path is not loaded."""
_PLACES = ("*", "*/*", "../*", "../../*")
"""Where an external data file that is missing is looked for, from the graph's file."""
LEADS_OUT = "is a link or path out of the folder; copy the file itself into the folder (cp -L)"

# field, number, what it holds
_MESSAGES: dict[str, list[tuple[str, int, str]]] = {
    "Model": [("graph", 7, "Graph"), ("functions", 25, "Function*")],
    "Function": [("node", 7, "Node*")],
    "Graph": [("node", 1, "Node*"), ("initializer", 5, "Tensor*"), ("sparse_initializer", 15, "SparseTensor*")],
    "Node": [("attribute", 5, "Attribute*")],
    "Attribute": [
        ("t", 5, "Tensor"),
        ("g", 6, "Graph"),
        ("tensors", 10, "Tensor*"),
        ("graphs", 11, "Graph*"),
        ("sparse_tensor", 22, "SparseTensor"),
        ("sparse_tensors", 23, "SparseTensor*"),
    ],
    "Tensor": [("name", 8, ""), ("raw_data", 9, ""), ("external_data", 13, "Entry*"), ("data_location", 14, "int")],
    "SparseTensor": [("values", 1, "Tensor"), ("indices", 2, "Tensor")],
    "Entry": [("key", 1, ""), ("value", 2, "")],
}


def take_in(graph: bytes, read: Callable[[str], memoryview]) -> tuple[bytes, dict[str, memoryview]]:
    """Returns the graph, with tensors written into it where they must be, and the files of its initializers by their
    location. `read` gives the contents of the file at a location; it is called once for each.

    Raises:
        LoadError: a tensor's file cannot be had, or does not hold the tensor.
        DecodeError: the graph is not one.
    """
    if _MARK not in graph:
        return graph, {}
    model = _model_class()()
    model.ParseFromString(graph)
    files: dict[str, memoryview] = {}

    def place(tensor: Any) -> tuple[str, memoryview]:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = _location(tensor, entries)
        if location not in files:
            files[location] = read(location)
        return location, _cut(tensor, entries, location, files[location])

    handed_over = set()
    for tensor in _external(model.graph.initializer):
        location, _ = place(tensor)
        handed_over.add(location)
        for entry in tensor.external_data:
            if entry.key == b"location":  # in its plain form, as ONNX Runtime knows the files by it
                entry.value = location.encode()
    written_bytes = 0
    for tensor in _external(_nested(model)):
        data = place(tensor)[1]
        written_bytes += len(data)
        if len(graph) + written_bytes > MODEL_BYTES_MAX:
            raise LoadError(
                "its subgraphs, functions and attributes have more than 2 GiB of external data; export it with these "
                "tensors as initializers of the graph itself"
            )
        tensor.raw_data = bytes(data)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return model.SerializeToString(), {location: data for location, data in files.items() if location in handed_over}


def elsewhere(file: Path, location: str) -> str:
    """Says what to do about external data that is missing, which may lie elsewhere or be called otherwise."""
    name = location.replace("\\", "/").rpartition("/")[2]
    for pattern in _PLACES:
        for found in file.parent.glob(pattern):
            if found.name == name:
                place = "/".join(found.resolve().parts[-2:])
                return f"; {place} is there: move it to where the graph names it, {location} beside {file.name}"
    others = sorted(
        path.name
        for path in file.parent.iterdir()
        if path.is_file() and path.suffix.lower() in (".data", ".bin", ".onnx_data", ".weight", ".weights", ".pb")
    )
    if others:
        return f"; {others[0]} lies there: was it renamed? Call it {location}"
    return "; put it into the same folder"


def _location(tensor: Any, entries: dict[bytes, bytes]) -> str:
    """Returns where the file of the tensor lies, relative to the graph. Raises LoadError."""
    location = entries.get(b"location", b"").decode(errors="replace")
    path = PurePosixPath(location)
    name = tensor.name.decode(errors="replace")
    if not path.parts or "\0" in location or len(location) > LOCATION_CHARS_MAX:
        raise LoadError(f"tensor '{name}' lies in another file, but which one is not said; export it again")
    if path.is_absolute():
        raise LoadError(
            "it names its external data by an absolute path; save it again: onnx.save(onnx.load(path), path, "
            "save_as_external_data=True, location='weights.bin')"
        )
    if ".." in path.parts:
        raise LoadError(f"its external data file {location} {LEADS_OUT}")
    return path.as_posix()


def _cut(tensor: Any, entries: dict[bytes, bytes], location: str, file: memoryview) -> memoryview:
    """Returns the part of the file that is the tensor. Raises LoadError."""
    name = tensor.name.decode(errors="replace")
    try:
        offset = int(entries.get(b"offset", b"0"))
        length = int(entries[b"length"]) if b"length" in entries else len(file) - offset
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0 or offset + length > len(file):
        if found := stand_in(bytes(file[:BEGINNING_BYTES])):
            raise LoadError(f"its external data file {location} {found}")
        raise LoadError(
            f"its external data file {location} is cut off (is it still being written?): it does not hold all of "
            f"{name}; copy or export both files again"
        )
    return file[offset : offset + length]


def _external(tensors: "Iterator[Any] | Any") -> Iterator[Any]:
    return (tensor for tensor in tensors if tensor.data_location == _EXTERNAL)


def _nested(model: Any) -> Iterator[Any]:
    """Yields all tensors but the initializers of the graph itself."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    sparse = list(model.graph.sparse_initializer)
    while nodes:
        for attribute in nodes.pop().attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                sparse.append(attribute.sparse_tensor)
            sparse += attribute.sparse_tensors
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from graph.initializer
                sparse += graph.sparse_initializer
                nodes += graph.node
    for each in sparse:
        yield each.values
        yield each.indices


@functools.cache
def _model_class() -> Any:
    # 40 ms at the start of a worker that most graphs do not need
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    package = "duly.external_data"
    file = descriptor_pb2.FileDescriptorProto(name="duly/external_data.proto", package=package, syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label)
            match kind.rstrip("*"):
                case "":
                    field.type = kinds.TYPE_BYTES
                case "int":
                    field.type = kinds.TYPE_INT32
                case of:
                    field.type, field.type_name = kinds.TYPE_MESSAGE, f".{package}.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Model"))
