"""Puts a branch in the place of an `If` whose condition is the same for every frame.

Exporters leave such an `If` where one graph is for several sample rates or shapes. What lies in a branch can't be
looked at from outside of it, and with the constants of model.toml only one of them ever runs.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper


def without_constant_branches(model: onnx.ModelProto, constants: Mapping[str, int | float | bool]) -> onnx.ModelProto:
    """Returns a copy in which every outer `If` that follows from constants alone is the branch that runs. `constants`:
    the graph inputs that are the same for every frame, by name.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    while True:
        places = [place for place, node in enumerate(graph.node) if node.op_type == "If"]
        known = ((place, _condition(copy, graph.node[place].input[0], constants)) for place in places)
        place, taken = next(((place, taken) for place, taken in known if taken is not None), (-1, False))
        if place < 0:
            return copy
        node = graph.node[place]
        wanted = "then_branch" if taken else "else_branch"
        branch = next(each.g for each in node.attribute if each.name == wanted)
        renamed = [
            helper.make_node("Identity", [inner.name], [outer])
            for inner, outer in zip(branch.output, node.output, strict=True)
        ]
        nodes = [*graph.node[:place], *branch.node, *renamed, *graph.node[place + 1 :]]
        graph.initializer.extend(branch.initializer)
        graph.value_info.extend(branch.value_info)
        del graph.node[:]
        graph.node.extend(nodes)


def _condition(model: onnx.ModelProto, name: str, constants: Mapping[str, int | float | bool]) -> bool | None:
    """What the tensor is for every frame; None: it depends on the frame."""
    graph = model.graph
    inputs = {each.name: each for each in graph.input}
    initializers = {each.name: each for each in graph.initializer}
    kept: list[onnx.NodeProto] = []
    wanted = {name}
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output):
            continue
        if any(attribute.HasField("g") for attribute in node.attribute):
            return None
        kept.append(node)
        wanted |= set(filter(None, node.input))
    fed = wanted & inputs.keys() - initializers.keys()
    if not fed <= constants.keys():
        return None
    part = helper.make_model(
        helper.make_graph(
            kept[::-1],
            "condition",
            [inputs[each] for each in sorted(fed)],
            [helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None)],
            [initializers[each] for each in sorted(wanted & initializers.keys())],
        ),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    for each in fed:
        kind = inputs[each].type.tensor_type
        shape = [dimension.dim_value or 1 for dimension in kind.shape.dim]
        feeds[each] = np.full(shape, constants[each], helper.tensor_dtype_to_np_dtype(kind.elem_type))
    (value,) = session.run([name], feeds)
    return bool(np.asarray(value).all())
