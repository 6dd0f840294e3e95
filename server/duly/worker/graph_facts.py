"""What a graph says of its inputs and the names of its tensors, read before any session is opened.

A provider that compiles for shapes is told them when its session is opened, so what ONNX Runtime says of an opened
graph comes too late. Fields are found in the message as it lies in memory, as parsing all of it would copy all weights.
Numbers of fields are those of onnx/onnx.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass

_GRAPH = 7  # ModelProto
_NODE, _INITIALIZER, _INPUT = 1, 5, 11  # GraphProto
_NODE_INPUT, _NODE_OUTPUT = 1, 2  # NodeProto
_TENSOR_NAME = 8  # TensorProto
_VALUE_NAME, _VALUE_TYPE = 1, 2  # ValueInfoProto
_TENSOR_TYPE = 1  # TypeProto
_ELEMENT, _SHAPE = 1, 2  # TypeProto.Tensor
_DIMENSION = 1  # TensorShapeProto
_EXTENT = 1  # TensorShapeProto.Dimension

_DATATYPES = ("", "FP32", "UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "STRING", "BOOL", "FP16", "FP64",
              "UINT32", "UINT64", "", "", "BF16")  # fmt: skip
"""The protocol's names of element types by their number in ONNX (TensorProto.DataType)."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX = 10


class NoGraph(ValueError):
    """The bytes are no graph."""


@dataclass(frozen=True, slots=True)
class InputFacts:
    shape: tuple[int, ...] | None
    """The shape, with -1 for open extents; None: the graph says nothing of it."""
    datatype: str
    """A name of the protocol; empty: it is none that the protocol has."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    inputs: dict[str, InputFacts]
    """The inputs that are no initializers."""
    tensors: frozenset[str]
    """The names of all tensors of the graph itself, those in branches and loops apart."""


def graph_facts(model: bytes) -> GraphFacts:
    """Reads them out of a model. Raises NoGraph where it is none."""
    graph = next((value for number, value in _fields(memoryview(model)) if number == _GRAPH), None)
    if not isinstance(graph, memoryview):
        raise NoGraph("there is no graph in it")
    names: set[str] = set()
    initializers: set[str] = set()
    inputs: dict[str, InputFacts] = {}
    for number, value in _fields(graph):
        if number == _NODE:
            names.update(
                _text(each) for field, each in _fields(_message(value)) if field in (_NODE_INPUT, _NODE_OUTPUT)
            )
        elif number == _INITIALIZER:
            initializers.update(_text(each) for field, each in _fields(_message(value)) if field == _TENSOR_NAME)
        elif number == _INPUT:
            name, facts = _value_info(_message(value))
            inputs[name] = facts
    found = {name: facts for name, facts in inputs.items() if name not in initializers}
    return GraphFacts(found, frozenset(names | inputs.keys() | initializers) - {""})


def _value_info(value: memoryview) -> tuple[str, InputFacts]:
    name, facts = "", InputFacts(None, "")
    for field, each in _fields(value):
        if field == _VALUE_NAME:
            name = _text(each)
        elif field == _VALUE_TYPE:
            for kind, tensor in _fields(_message(each)):
                if kind == _TENSOR_TYPE:
                    facts = _tensor_type(_message(tensor))
    return name, facts


def _tensor_type(tensor: memoryview) -> InputFacts:
    shape, datatype = None, ""
    for field, value in _fields(tensor):
        if field == _ELEMENT and isinstance(value, int) and value < len(_DATATYPES):
            datatype = _DATATYPES[value]
        elif field == _SHAPE:
            shape = tuple(_extent(_message(each)) for n, each in _fields(_message(value)) if n == _DIMENSION)
    return InputFacts(shape, datatype)


def _extent(dimension: memoryview) -> int:
    extents = [value for number, value in _fields(dimension) if number == _EXTENT]
    return extents[-1] if extents and isinstance(extents[-1], int) and 0 <= extents[-1] < 1 << 31 else -1


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields number and value of each field in its order. Raises NoGraph."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise NoGraph("it is no message of protobuf")
        if at + length > len(message):
            raise NoGraph("it is cut off")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(_VARINT_BYTES_MAX):
        if at >= len(message):
            raise NoGraph("it is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at
    raise NoGraph("it is no message of protobuf")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise NoGraph("it is no graph of ONNX")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode(errors="replace")
