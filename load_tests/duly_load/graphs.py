"""ONNX graphs that the harness makes for servers to run: their weights mean nothing, their cost does.

`mlp` 256 -> 64 -> 10 takes 1 KB and next to no time, `wide` takes 150 KB and next to no time, `squeezenet` takes
602 KB and 6-8 ms on one core. A `Chain` costs what its width and its number of layers make it cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""ONNX Runtime reads this version since its release 1.12."""
SEED = 20240229


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph with one FP32 input `x`, one output and a symbolic batch dimension."""

    name: str
    input_shape: tuple[int, ...]
    """The shape of one frame, without the batch dimension."""
    build: Callable[[], onnx.ModelProto]


@dataclass(frozen=True, slots=True)
class Chain:
    """FP32 `x` of [N, width] through `layers` dense layers that share one matrix, to `y` of the same shape. Batching
    pays: the matrix is read once for all frames.
    """

    width: int
    layers: int

    def build(self) -> onnx.ModelProto:
        matrix = np.random.default_rng(SEED).standard_normal((self.width, self.width), np.float32)
        nodes, tensor = [], "x"
        for layer in range(self.layers):
            result = "y" if layer == self.layers - 1 else f"layer_{layer}"
            nodes.append(helper.make_node("MatMul", [tensor, "matrix"], [f"sums_{layer}"]))
            nodes.append(helper.make_node("Tanh", [f"sums_{layer}"], [result]))
            tensor = result
        weights = [numpy_helper.from_array(matrix / np.float32(np.sqrt(self.width)), "matrix")]
        return _model("chain", nodes, weights, (self.width,), (self.width,))


def _mlp() -> onnx.ModelProto:
    random = np.random.default_rng(SEED)
    widths = (256, 64, 10)
    nodes, weights, tensor = [], [], "x"
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
        last = layer == len(widths) - 2
        weight = random.standard_normal((fan_in, fan_out), dtype=np.float32) / np.float32(np.sqrt(fan_in))
        weights.append(numpy_helper.from_array(weight, f"weight_{layer}"))
        weights.append(numpy_helper.from_array(np.zeros(fan_out, np.float32), f"bias_{layer}"))
        sums = "y" if last else f"sums_{layer}"
        nodes.append(helper.make_node("Gemm", [tensor, f"weight_{layer}", f"bias_{layer}"], [sums]))
        if not last:
            tensor = f"hidden_{layer}"
            nodes.append(helper.make_node("Relu", [sums], [tensor]))
    return _model("mlp", nodes, weights, (widths[0],), (widths[-1],))


def _wide() -> onnx.ModelProto:
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=1)
    return _model("wide", [node], [], (37_500,), (1,))


def _squeezenet() -> onnx.ModelProto:
    """ONNX's own test model, which has constant weights, with its batch dimension made symbolic."""
    file = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_squeezenet.onnx"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: not in this onnx package; the release 1.23 has it")
    model = onnx.load(file)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]  # initialisers that are inputs as well may be overridden, which forbids constant folding
    model.graph.input.extend(inputs)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    weights: list[TensorProto],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *input_shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *output_shape])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


MLP = Graph("mlp", (256,), _mlp)
WIDE = Graph("wide", (37_500,), _wide)
SQUEEZENET = Graph("squeezenet", (3, 224, 224), _squeezenet)
GRAPHS = {graph.name: graph for graph in (MLP, WIDE, SQUEEZENET)}
