"""The constant tensors of a graph, wherever it keeps them."""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[np.generic]


def with_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy whose `Constant` nodes with a tensor are initializers, so that there is one place to look."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = []
    for node in copy.graph.node:
        value = _constant_of(node)
        if value is None:
            kept.append(node)
        else:
            copy.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def with_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy in which every Conv and Gemm with a constant weight has a bias, of zeros where it had none."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    arrays = arrays_of(copy)
    for node in copy.graph.node:
        if node.op_type in ("Conv", "Gemm") and node.input[1] in arrays and not any(node.input[2:3]):
            weight = arrays[node.input[1]]
            across = node.op_type == "Gemm" and not integer(node, "transB")
            name = f"{node.output[0]}.bias"
            del node.input[2:]
            node.input.append(name)
            set_array(copy, name, np.zeros(weight.shape[1 if across else 0], weight.dtype))
    return copy


def _constant_of(node: onnx.NodeProto) -> Array | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for attribute in node.attribute:
        match attribute.name:
            case "value":
                return np.asarray(numpy_helper.to_array(attribute.t))
            case "value_float":
                return np.asarray(attribute.f, np.float32)
            case "value_floats":
                return np.asarray(attribute.floats, np.float32)
            case "value_int":
                return np.asarray(attribute.i, np.int64)
            case "value_ints":
                return np.asarray(attribute.ints, np.int64)
    return None


def arrays_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Returns the initializers by their names. The arrays may be views that cannot be written."""
    return {each.name: np.asarray(numpy_helper.to_array(each)) for each in model.graph.initializer}


def set_array(model: onnx.ModelProto, name: str, value: Array) -> None:
    """Gives the initializer `name` another value, or adds it where there is none."""
    tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
    for each in model.graph.initializer:
        if each.name == name:
            each.CopyFrom(tensor)
            return
    model.graph.initializer.append(tensor)


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    return next((each for each in node.attribute if each.name == name), None)


def integers(node: onnx.NodeProto, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Returns an attribute that is a list of integers."""
    found = _attribute(node, name)
    return default if found is None else tuple(found.ints)


def integer(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    """Returns an attribute that is an integer."""
    found = _attribute(node, name)
    return default if found is None else int(found.i)


def real(node: onnx.NodeProto, name: str, default: float) -> float:
    """Returns an attribute that is a number."""
    found = _attribute(node, name)
    return default if found is None else float(found.f)


def word(node: onnx.NodeProto, name: str, default: str) -> str:
    """Returns an attribute that is a text."""
    found = _attribute(node, name)
    return default if found is None else found.s.decode("utf-8", "replace")


def called(node: onnx.NodeProto) -> str:
    """What a node is called where something is said of it: its operator and its name, or that of its first output."""
    return f"{node.op_type} '{node.name or (node.output[0] if node.output else '')}'"


def forget_unread(model: onnx.ModelProto) -> None:
    """Removes initializers that shapes were copied from, where nothing reads them now."""
    graph = model.graph
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return
    read = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
    kept = [each for each in graph.initializer if each.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
