"""Puts nodes before a graph's input, which then takes other elements, in another order or of another size."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from duly_learn.graphs.constants import Array, arrays_of, set_array

Extent = int | str
"""The extent of a dimension, or the name of one that is open."""


class Front:
    """Nodes that are made in the order of what happens to what is sent. The graph is changed by `close`."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        """`name`: of the graph's input, which keeps it."""
        self._model = model
        self._input = next(each for each in model.graph.input if each.name == name)
        self._nodes: list[onnx.NodeProto] = []
        self._inner = f"{name}.merged"
        """What the graph's own nodes read now."""
        self._newest = name

    @property
    def type_of_graph(self) -> int:
        """The element type that the graph's own nodes take."""
        return int(self._input.type.tensor_type.elem_type)

    def add(self, operator: str, *constants: Array, **attributes: object) -> None:
        """Adds an operator of what there is until now and of constants."""
        names: list[str] = []
        for value in constants:
            names.append(f"{self._inner}.{len(self._nodes)}.{len(names)}")
            set_array(self._model, names[-1], value)
        output = f"{self._inner}.{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(operator, [self._newest, *names], [output], name=output, **attributes)  # type: ignore[arg-type]
        )
        self._newest = output

    def close(self, datatype: int, shape: Sequence[Extent]) -> None:
        """Makes the graph read what the nodes give, and its input of this type and shape, the batch included."""
        graph = self._model.graph
        self._nodes[-1].output[0] = self._inner
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == self._input.name:
                    node.input[place] = self._inner
        nodes = [*self._nodes, *graph.node]
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        self._input.CopyFrom(helper.make_tensor_value_info(self._input.name, datatype, shape))

    def scaled_into_first_layer(self, factor: Array) -> bool:
        """Multiplies the weights of the convolution that alone reads the input, in place of the input itself.

        `factor`: float32[channels] or [1]. Returns False, with nothing changed, where there is no such convolution.
        """
        readers = [node for node in self._model.graph.node if self._input.name in node.input]
        arrays = arrays_of(self._model)
        if len(readers) != 1 or readers[0].op_type != "Conv" or readers[0].input[0] != self._input.name:
            return False
        name = readers[0].input[1]
        users = sum(name in node.input for node in self._model.graph.node)
        if name not in arrays or arrays[name].dtype != np.float32 or users != 1:
            return False
        weight = np.asarray(arrays[name], np.float32)
        if len(factor) not in (1, weight.shape[1]):
            return False
        across = np.asarray(factor, np.float32).reshape(1, -1, *[1] * (weight.ndim - 2))
        set_array(self._model, name, weight * across)
        return True


def floating(datatype: int) -> bool:
    """Whether an element type is one that arithmetic can end in."""
    return datatype in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
