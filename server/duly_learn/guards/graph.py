"""Writes features of a model's layers, and a detector that was fitted to them, into the model's own graph.

Every operator here is the same in all versions of ONNX's operators that are in use, and each row follows from the same
row alone, so that batches of any size give what frames alone do.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from duly_learn.guards.detector import Detector, Gaussian
from duly_learn.guards.layers import Tap

PREFIX = "duly_guard"
"""What all names begin with that are added to a graph."""


class _Writer:
    """Adds nodes to a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._count = 0

    def constant(self, array: npt.NDArray[np.generic]) -> str:
        name = self._name("constant")
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def numbers(self, values: npt.ArrayLike) -> str:
        return self.constant(np.asarray(values, np.float32))

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or self._name(operator.lower())
        self._graph.node.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{PREFIX}.{kind}{self._count}"


def features_of(tap: Tap) -> str:
    """The name of the output of `with_features` that has the features of a layer."""
    return f"{PREFIX}.features.{tap.tensor}"


def with_features(model: onnx.ModelProto, taps: Sequence[Tap], ranks: dict[str, int]) -> onnx.ModelProto:
    """Returns a copy that gives the features [N, D] of these layers as outputs besides. `ranks`: the dimensions of the
    layers' tensors, the batch included.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    writer = _Writer(copy.graph)
    for tap in taps:
        name = features_of(tap)
        _features(writer, tap, ranks[tap.tensor], name)
        copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None]))
    return copy


def with_detector(
    model: onnx.ModelProto, taps: Sequence[Tap], ranks: dict[str, int], detector: Detector, output: str
) -> onnx.ModelProto:
    """Returns a copy that gives the detector's score [N, 1] as `output` besides: above 1 a frame is not like those that
    the detector was fitted to.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    writer = _Writer(copy.graph)
    ratios: list[str] = []
    for tap in taps:
        features = _features(writer, tap, ranks[tap.tensor])
        layer, limits = detector.layers[tap.tensor], detector.thresholds[tap.tensor]
        for distance, limit in zip(_distances(writer, features, layer), limits, strict=True):
            ratios.append(writer.node("Mul", distance, writer.numbers(1 / limit)))
    largest = writer.node("Max", *ratios)
    writer.node("Sqrt", largest, output=output)
    copy.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [_batch(model), 1]))
    return copy


def without_detector(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """Returns a copy without what `with_detector` has added."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph

    def is_added(name: str) -> bool:
        return name.startswith(f"{PREFIX}.") or name == output

    nodes = [node for node in graph.node if not any(map(is_added, node.output))]
    initializers = [each for each in graph.initializer if not is_added(each.name)]
    outputs = [each for each in graph.output if not is_added(each.name)]
    del graph.node[:], graph.initializer[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    graph.output.extend(outputs)
    return copy


def _batch(model: onnx.ModelProto) -> int | str:
    """The first dimension of the graph's first input that has any, as the graph calls it."""
    for each in model.graph.input:
        dimensions = each.type.tensor_type.shape.dim
        if dimensions:
            return dimensions[0].dim_value or dimensions[0].dim_param or "N"
    return "N"


def _features(writer: _Writer, tap: Tap, rank: int, output: str = "") -> str:
    """Writes the mean and the standard deviation of every channel over a frame, or the values where there is one of
    each.
    """
    values = writer.node("Cast", tap.tensor, to=TensorProto.FLOAT)
    if rank == 2:
        return writer.node("Identity", values, output=output)
    if tap.channels_last:
        axes = [0, rank - 1, *range(1, rank - 1)]
        values = writer.node("Transpose", values, perm=axes)
    mean = writer.node("Flatten", writer.node("GlobalAveragePool", values), axis=1)
    squares = writer.node("GlobalAveragePool", writer.node("Mul", values, values))
    variance = writer.node("Sub", writer.node("Flatten", squares, axis=1), writer.node("Mul", mean, mean))
    deviation = writer.node("Sqrt", writer.node("Relu", variance))  # rounding may take it below 0
    return writer.node("Concat", mean, deviation, output=output, axis=1)


def _distances(writer: _Writer, features: str, layer: Gaussian) -> tuple[str, str]:
    """Writes `Gaussian.distances`: the squared distances within and outside of the components, [N, 1] each."""
    scaled = features
    if layer.scale is not None:
        apart = (
            writer.node("Sub", features, writer.numbers(layer.scale.origin)) if layer.scale.origin.any() else features
        )
        magnitude = writer.node("Mul", writer.node("Abs", apart), writer.numbers(1 / layer.scale.width))
        logarithm = writer.node("Log", writer.node("Add", magnitude, writer.numbers(1)))
        scaled = writer.node("Mul", writer.node("Sign", apart), logarithm)
    factor = 1 / layer.deviation
    centred = writer.node(
        "Add", writer.node("Mul", scaled, writer.numbers(factor)), writer.numbers(-layer.mean * factor)
    )
    within = writer.node("MatMul", centred, writer.numbers(layer.components))
    off = writer.node("Sub", within, writer.numbers(layer.centre))
    inside = writer.node("MatMul", writer.node("Mul", off, off), writer.numbers(layer.weights[:, None]))
    whole = _squares(writer, centred, len(layer.mean))
    outside = writer.node("Relu", writer.node("Sub", whole, _squares(writer, within, len(layer.centre))))
    return inside, outside


def _squares(writer: _Writer, rows: str, width: int) -> str:
    """Writes the sum of the squares of each row, [N, 1]."""
    return writer.node("MatMul", writer.node("Mul", rows, rows), writer.numbers(np.ones((width, 1))))
