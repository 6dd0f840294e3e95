"""A model whose cost is made to measure: dense layers one after another. Its weights mean nothing."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from duly_client.convert import Array
from duly_load.models.graphs import IR_VERSION, OPSET, SEED


@dataclass(frozen=True, slots=True)
class Chain:
    """FP32 `x` of [N, width] through `layers` dense layers that share one matrix, to `y` of the same shape. Batching
    pays: the matrix is read once for all frames.
    """

    width: int
    layers: int

    @property
    def frame(self) -> Array:
        """What each frame holds."""
        return np.zeros(self.width, np.float32)

    def graph(self) -> onnx.ModelProto:
        matrix = np.random.default_rng(SEED).standard_normal((self.width, self.width), np.float32)
        nodes, tensor = [], "x"
        for layer in range(self.layers):
            result = "y" if layer == self.layers - 1 else f"layer_{layer}"
            nodes.append(helper.make_node("MatMul", [tensor, "matrix"], [f"sums_{layer}"]))
            nodes.append(helper.make_node("Tanh", [f"sums_{layer}"], [result]))
            tensor = result
        inputs, outputs = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", self.width])] for name in ("x", "y")
        )
        weights = [numpy_helper.from_array(matrix / np.float32(np.sqrt(self.width)), "matrix")]
        graph = helper.make_graph(nodes, "chain", inputs, outputs, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
