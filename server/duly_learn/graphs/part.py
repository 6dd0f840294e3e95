"""Runs a part of a graph: from its inputs to tensors inside it."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

from duly_learn.graphs.constants import Array

Feeds = Mapping[str, Array]
"""What one run of a graph takes: an array for each of its inputs."""


def part_before(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Returns the graph that gives `tensors`, without the nodes that they do not need."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    needed = nodes_before(model, tensors)
    kept = [graph.node[place] for place in sorted(needed)]
    del graph.node[:], graph.output[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(tensors))
    read = set(_read(kept))
    initializers = [each for each in graph.initializer if each.name in read or each.name in tensors]
    inputs = [each for each in graph.input if each.name in read or each.name in tensors]
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(initializers)
    graph.input.extend(inputs)
    return copy


def nodes_before(model: onnx.ModelProto, tensors: Collection[str]) -> set[int]:
    """Returns the places of the nodes that `tensors` follow from."""
    wanted = set(tensors)
    found: set[int] = set()
    for place in range(len(model.graph.node) - 1, -1, -1):
        node = model.graph.node[place]
        if wanted.intersection(node.output):
            found.add(place)
            wanted.update(_read([node]))
    return found


def part_behind(model: onnx.ModelProto, first: str) -> tuple[list[str], onnx.ModelProto]:
    """Returns the tensors that nodes read of those before them, and the graph that takes these as inputs: the node that
    gives the tensor `first`, and all that follows from it.

    What an output of the graph needs of the nodes before is among the tensors, so that all outputs are still given.
    """
    graph = model.graph
    given: set[str] = set()
    kept = []
    for node in graph.node:
        if first in node.output or given.intersection(node.input):
            kept.append(node)
            given.update(node.output)
    constants = {each.name for each in graph.initializer}
    outputs = {each.name for each in graph.output}
    tensors = sorted(({*_read(kept)} | outputs) - given - constants - {""})
    behind = onnx.ModelProto()
    behind.CopyFrom(model)
    del behind.graph.node[:], behind.graph.input[:], behind.graph.value_info[:]
    behind.graph.node.extend(kept)
    # The type of the elements must be stated; inner tensors of other types are not among what is cut at.
    known = {each.name: each for each in graph.input}
    behind.graph.input.extend(
        known.get(name) or onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors
    )
    return tensors, behind


def _read(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read(list(inner.node))


class Part:
    """The graph up to some of its tensors, ready to run on the CPU, on one thread."""

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str]) -> None:
        """Raises ValueError where ONNX Runtime cannot load the graph; the message is its own."""
        self._tensors = list(dict.fromkeys(tensors))
        part = part_before(model, self._tensors)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                part.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors have no type in common
            raise ValueError(str(error)) from None
        self._inputs = {each.name for each in self._session.get_inputs()}

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Returns the tensors by their names."""
        given = {name: np.asarray(value) for name, value in feeds.items() if name in self._inputs}
        return dict(zip(self._tensors, self._session.run(self._tensors, given), strict=True))
