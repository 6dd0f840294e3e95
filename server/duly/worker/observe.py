"""Runs a graph on made-up frames to see which shapes truly come out.

What a graph declares of its outputs is often not so: exporters leave extents open, write those of the example that they
traced ([1] for what grows with the batch), or of another layout ([N] for [N, 1]). ONNX Runtime believes what comes out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from duly.models.spec import ModelConfig
from duly.worker.dtypes import DTYPES, TEXT, Array, is_floating, of_type
from duly.worker.errors import RunError
from duly.worker.graph import Axis, Graph, GraphTensor, extents, made_up_shape

RunGraph = Callable[[Mapping[str, Array], Sequence[str]], dict[str, Array]]
"""Runs the graph: inputs, and the names of the outputs to return. Raises RunError."""
Shape = tuple[int, ...]

OPEN_EXTENTS = (32, 1)
"""Extents that open dimensions are given, tried one after the other."""
SCALES = (1, 4)
"""The largest numbers of two frames: what a graph finds in one may be one thing by chance."""
INPUTS_BYTES_MAX = 512 << 20
"""Graphs whose inputs have more than this for one frame are not run here: they may be larger than the server's limits
or the memory, as `models/sizes` then says."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The shapes of outputs, by name. An output is missing where the graph could not be run."""

    alone: dict[str, list[Shape]]
    """Those for several frames, one at a time."""
    pair: dict[str, Shape]
    """Those for a batch of two."""

    def grows(self, name: str) -> list[int]:
        """The dimensions of an output that are 1 for one frame and 2 for two."""
        alone, pair = self.alone.get(name, []), self.pair.get(name, ())
        return [
            axis
            for axis, extent in enumerate(pair)
            if extent == 2 and all(len(shape) == len(pair) and shape[axis] == 1 for shape in alone)
        ]

    def corrected(self, tensor: GraphTensor, axis: Axis) -> GraphTensor:
        """The output with every extent open that came out otherwise than declared. `axis`: its batch."""
        seen = list(self.alone.get(tensor.name, ()))
        if not seen:
            return tensor
        if len(tensor.shape) != len(seen[0]):
            return replace(tensor, shape=(None,) * len(seen[0]), as_declared=False)
        if tensor.name in self.pair and axis is not None:
            seen.append(self.pair[tensor.name])
        shape = tuple(
            declared if not isinstance(declared, int) or {declared} == {extents[at] for extents in seen} else None
            for at, declared in enumerate(tensor.shape)
        )
        return tensor if shape == tensor.shape else replace(tensor, shape=shape, as_declared=False)


NOTHING_SEEN = Observed({}, {})


def observe(
    graph: Graph, config: ModelConfig, axes: Mapping[str, Axis], names: Sequence[str], run: RunGraph, closely: bool
) -> Observed:
    """Runs the graph with a frame alone, and `closely` with another one and, where the graph takes it, with two.

    `axes`: where inputs have the batch. `names`: the outputs to look at. What can't be run is left to the warm-up,
    which says why.
    """
    runs = [_shapes(graph, config, axes, names, run, 1, scale) for scale in (SCALES if closely else SCALES[:1])]
    alone = {name: [shapes[name] for shapes in runs if shapes] for name in names} if any(runs) else {}
    two = (
        closely
        and bool(alone)
        and config.batch_sizes != (1,)
        and not any(_fixed(graph.inputs[name], axis) for name, axis in axes.items() if name in graph.inputs)
    )
    return Observed(alone, _shapes(graph, config, axes, names, run, 2, 1) if two else {})


def _fixed(tensor: GraphTensor, axis: Axis) -> bool:
    return axis is None or not tensor.shape or isinstance(tensor.shape[axis], int)


def _shapes(
    graph: Graph,
    config: ModelConfig,
    axes: Mapping[str, Axis],
    names: Sequence[str],
    run: RunGraph,
    size: int,
    scale: int,
) -> dict[str, Shape]:
    """What comes out for `size` made-up frames of numbers up to `scale`; empty where the graph can't be run so."""
    examples = {each.tensor or each.name: each.example for each in config.inputs if each.example}
    state_axes: dict[str, Axis] = {state.input: state.batch_axis for state in config.states}
    state_axes |= {control.input: control.batch_axis for control in config.controls}
    for open_extent in OPEN_EXTENTS:
        shapes: dict[str, Shape] = {}
        for name, tensor in graph.inputs.items():
            if tensor.datatype not in DTYPES:
                return {}
            declared = list(extents(tensor.shape))
            axis = axes[name] if name in axes else state_axes.get(name)
            if axis is not None and axis < len(declared):
                declared[axis] = size
            shapes[name] = made_up_shape(declared, open_extent)
        dtypes = {name: DTYPES[tensor.datatype] for name, tensor in graph.inputs.items()}
        if sum(prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()) > size * INPUTS_BYTES_MAX:
            return {}
        inputs: dict[str, Array] = {}
        for name, shape in shapes.items():
            numbers = np.full(shape, config.constants.get(name, 0))
            if is_floating(dtypes[name]) and name not in config.constants:
                numbers = np.linspace(0, scale, prod(shape)).reshape(shape)
            inputs[name] = np.full(shape, examples[name], TEXT) if name in examples else of_type(numbers, dtypes[name])
        try:
            return {name: values.shape for name, values in run(inputs, names).items()}
        except (RunError, AttributeError):  # a sequence or a map has no shape, as `plan` says
            continue
    return {}
