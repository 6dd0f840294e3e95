"""What a graph is made of."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "FusedConv", "DeformConv"})
PRODUCTS = frozenset({"MatMul", "Gemm", "FusedMatMul"})
QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"})


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Gives all nodes, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def operators(model: onnx.ModelProto) -> dict[str, int]:
    """Returns how many nodes there are of each operator."""
    counts: dict[str, int] = {}
    for node in nodes_of(model.graph):
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def size_bytes(graph: Path) -> int:
    """Returns the bytes of a graph with the files of its external data, which lie beside it."""
    model = onnx.load(str(graph), load_external_data=False)
    return graph.stat().st_size + sum((graph.parent / name).stat().st_size for name in external_files(model))


def external_files(model: onnx.ModelProto) -> list[str]:
    """Returns the files in which the graph keeps data, relative to its folder, each once."""
    return sorted(
        {entry.value for tensor in _tensors(model.graph) for entry in tensor.external_data if entry.key == "location"}
    )


def _tensors(graph: onnx.GraphProto) -> Iterable[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _tensors(inner)
