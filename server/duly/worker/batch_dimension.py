"""Which dimension of a graph's tensors is the batch.

By convention it is the first one of every tensor, but nothing in ONNX says so, and graphs without one are common: a
picture [3, H, W], a cloud of points [points, 4], boxes [found, 4]. A point that is taken for a frame is answered
wrongly without a word. model.toml may say what is the batch (`batched`, `batch_axis`). Where it does not, the signs
are, in this order: extents that contradict one another or are larger than any batch; names that people and exporters
give to dimensions; the shape of a picture; and, for outputs, what comes out when the graph is run with one frame and
with two. What is left is the convention, and `rows` then checks that frames do not influence one another.

The rest of the worker sees a graph whose tensors all have the batch first, of extent 1 where there is none.
"""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from duly.models.spec import BATCH_MAX, Input, ModelConfig, Output
from duly.worker.dtypes import DTYPES, Array
from duly.worker.errors import LoadError, RunError
from duly.worker.graph import Graph, GraphTensor, extents

Axis = int | None
"""The dimension of a graph tensor that is the batch; None: it has none, and a frame is the whole tensor."""
RunGraph = Callable[[Mapping[str, Array], Sequence[str]], dict[str, Array]]
"""Runs the graph: inputs, and the names of the outputs to return. Raises RunError."""

_NO_BATCH = re.compile(
    r"([thwcls]|((num|n|max|the|total)_*)?("
    r"points?|pts|vertex|vertices|nodes?|edges?|faces?|tokens?|words?|chars?|seq|sequence|((seq|sequence)_?)?(len|length)|"
    r"times?|(time_?)?steps?|heights?|widths?|channels?|rows?|cols?|columns?|box|boxes|dets?|detections?|objects?|"
    r"proposals?|anchors?|queries|voxels?|pillars?))(_?(in|out|input|output|dim|\d+))*",
    re.IGNORECASE,
)
"""Names that people give to dimensions within a frame. Single letters are those of layouts, such as NCHW and TBC."""
_Declared = TypeVar("_Declared", Input, Output)
_PICTURE_SIDE_MIN = 16
_CHANNELS = (1, 3, 4)
_PROBE_EXTENTS = (32, 1)
"""Extents that a probe gives to open dimensions, tried one after the other."""
_PROBE_SCALES = (1, 4)
"""The largest numbers of two probes: what a graph finds in a frame may be one thing by chance."""


@dataclass(frozen=True, slots=True)
class BatchFirst:
    """A graph as if the batch were the first dimension of every tensor."""

    graph: Graph
    axes: dict[str, Axis]
    """Where the batch truly is, for every tensor where it is not the first dimension."""
    alone: bool
    """Whether frames have to run one at a time."""
    notes: tuple[str, ...]
    """What was guessed, for the author of the model."""


def batch_first(graph: Graph, config: ModelConfig, run: RunGraph) -> BatchFirst:
    """Finds the batch dimension of every tensor that clients feed or get, by model.toml or else by its signs.

    Raises:
        LoadError: model.toml names a dimension that is not there.
    """
    states = {state.input: state.output for state in config.states}
    fed = _declared(graph.inputs, config.inputs, states.keys() | config.constants.keys(), Input)
    sent = _declared(graph.outputs, config.outputs, set(states.values()), Output)
    if config.postprocess is not None and config.postprocess.tensor in graph.outputs:
        sent.setdefault(config.postprocess.tensor, Output(name=config.postprocess.tensor))
    batched, why = (config.batched, "") if config.batched is not None else _is_batched(graph, config, fed, sent)
    if not batched:
        whole = {*fed, *sent, *states, *states.values()}
        notes: tuple[str, ...] = (_guess_note(why),) if why else ()
        if config.batch_sizes not in (None, (1,)):
            assert config.batch_sizes is not None
            notes += (f"batch_sizes = {list(config.batch_sizes)} is not used: frames run one at a time",)
        return _arranged(graph, dict.fromkeys(sorted(whole)), alone=True, notes=notes)
    axes: dict[str, Axis] = {}
    for name, tensor_input in fed.items():
        axes[name] = _stated_axis(graph.inputs[name], tensor_input.batch_axis, config, f"input '{tensor_input.name}'")
    found = _found_outputs(graph, config, axes, sent, run)
    for name, output in sent.items():
        tensor = graph.outputs[name]
        if output.batched is False:
            axes[name] = None
        elif output.batched or output.batch_axis is not None or config.batch_axis:
            axes[name] = _stated_axis(tensor, output.batch_axis, config, f"output '{output.name}'")
        else:
            axes[name] = found.get(name, 0)
    apart = sorted(name for name in sent if axes[name] is None)
    fixed_one = all(_extent(graph.inputs[name], axes[name]) == 1 for name in fed)
    notes = ()
    guessed = [name for name in apart if sent[name].batched is None]
    if guessed and not fixed_one:
        notes = (
            f"output '{guessed[0]}' has no batch dimension (shape {_spelt(graph.outputs[guessed[0]])}), so that frames "
            "run one at a time; where it is not needed, name the outputs that are with [[output]]",
        )
    return _arranged(graph, axes, alone=bool(apart), notes=notes)


def _declared(
    tensors: Mapping[str, GraphTensor], declared: Sequence[_Declared], taken: Set[str], kind: type[_Declared]
) -> dict[str, _Declared]:
    """What clients feed or get, by graph tensor. Names that the graph lacks are left out: `plan` says so."""
    if not declared:
        return {name: kind(name=name) for name in tensors if name not in taken}
    named = {each.tensor or each.name: each for each in declared}
    return {name: each for name, each in named.items() if name in tensors}


def _is_batched(
    graph: Graph, config: ModelConfig, fed: Mapping[str, Input], sent: Mapping[str, Output]
) -> tuple[bool, str]:
    """Says whether the graph has a batch dimension, and why it is thought to have none."""
    if config.batch_axis or config.states or any(declared.batch_axis is not None for declared in fed.values()):
        return True, ""
    inputs = [graph.inputs[name] for name in fed if graph.inputs[name].shape]
    fixed = {tensor.name: size for tensor in inputs if isinstance(size := tensor.shape[0], int)}
    sizes = set(fixed.values())
    if len(sizes) > 1:
        return False, f"the first dimensions of its inputs differ: {_named(fixed)}"
    for tensor in inputs:
        size = tensor.shape[0]
        if isinstance(size, str) and _NO_BATCH.fullmatch(size):
            return False, f"the first dimension of '{tensor.name}' is called '{size}'"
        if isinstance(size, int) and (why := _no_fixed_batch(tensor, size, fed[tensor.name])):
            return False, why
    size = next(iter(sizes), 1)
    out = {name: extent for name in sent if isinstance(extent := next(iter(graph.outputs[name].shape), None), int)}
    if size > 1 and set(out.values()) - {size}:
        return False, f"its inputs have {size} rows, but its outputs {_named(out)}"
    return True, ""


def _no_fixed_batch(tensor: GraphTensor, size: int, declared: Input) -> str:
    """Why a first dimension of fixed extent can't be the batch, or hardly; "" where it may be."""
    if size <= 1:
        return ""
    if size > BATCH_MAX:
        return f"the first dimension of '{tensor.name}' is {size}, larger than any batch"
    sides = extents(tensor.shape)
    if min(sides) < 0:
        return f"the first dimension of '{tensor.name}' is fixed and others are open"
    if len(sides) == 3:
        chw = size in _CHANNELS and min(sides[1:]) >= _PICTURE_SIDE_MIN
        hwc = sides[2] in _CHANNELS and min(sides[:2]) >= _PICTURE_SIDE_MIN
        if chw or hwc or any(encoding != "PCM_S16LE" for encoding in declared.encodings):
            return f"'{tensor.name}' has the shape of one picture, {list(sides)}"
    return ""


def _stated_axis(tensor: GraphTensor, stated: int | None, config: ModelConfig, place: str) -> int:
    axis = config.batch_axis if stated is None else stated
    if axis and axis >= len(tensor.shape):
        raise LoadError(
            f"{place}: batch_axis = {axis} is no dimension of the graph's '{tensor.name}', whose shape is "
            f"{_spelt(tensor)}; the first one is 0"
        )
    return axis


# ---- what the graph itself shows ----


def _found_outputs(
    graph: Graph, config: ModelConfig, axes: Mapping[str, Axis], sent: Mapping[str, Output], run: RunGraph
) -> dict[str, Axis]:
    """The batch axes of the outputs of whose first dimension it is not clear that it is the batch."""
    extents_in = [_extent(graph.inputs[name], axes[name]) for name in axes]
    size = next((extent for extent in extents_in if isinstance(extent, int)), None)
    first = {name: shape[0] for name in sent if (shape := graph.outputs[name].shape)}
    if size is not None and size > 1:
        return {}
    symbols = {extent for extent in extents_in if isinstance(extent, str)}
    found: dict[str, Axis] = {}
    if size == 1:
        found = {name: None for name, extent in first.items() if isinstance(extent, int) and extent != 1}
    unclear = [name for name, extent in first.items() if not isinstance(extent, int) and extent not in symbols]
    if unclear:
        alone = [_probe(graph, config, axes, unclear, run, 1, scale) for scale in _PROBE_SCALES]
        pair = _probe(graph, config, axes, unclear, run, 2, 1) if size is None and alone[0] else {}
        for name in unclear:
            ones = [values[name] for values in alone if values]
            found[name] = _found_axis(graph.outputs[name].shape, ones, pair.get(name))
    return found


def _found_axis(shape: Sequence[int | str | None], alone: Sequence[Array], pair: Array | None) -> Axis:
    if not alone:
        return 0
    if any(values.ndim == 0 for values in alone):
        return None
    ones = [axis for axis in range(alone[0].ndim) if all(values.shape[axis] == 1 for values in alone)]
    if pair is not None and pair.ndim == alone[0].ndim:
        grown = [axis for axis in ones if pair.shape[axis] == 2]
        return 0 if 0 in grown else grown[0] if len(grown) == 1 else None
    if isinstance(shape[0], str) and _NO_BATCH.fullmatch(shape[0]):
        return None
    return 0 if 0 in ones else None


def _probe(
    graph: Graph,
    config: ModelConfig,
    axes: Mapping[str, Axis],
    names: Sequence[str],
    run: RunGraph,
    size: int,
    scale: int,
) -> dict[str, Array]:
    """What comes out for `size` made-up frames of numbers up to `scale`; empty where the graph can't be run so: the
    warm-up finds out why.
    """
    for open_extent in _PROBE_EXTENTS:
        inputs: dict[str, Array] = {}
        for name, tensor in graph.inputs.items():
            if tensor.datatype not in DTYPES:
                return {}
            shape = [open_extent if extent < 0 else extent for extent in extents(tensor.shape)]
            axis = axes.get(name, next((s.batch_axis for s in config.states if s.input == name), None))
            if axis is not None and shape:
                shape[axis] = size
            inputs[name] = np.full(shape, config.constants.get(name, 0), DTYPES[tensor.datatype])
            if np.issubdtype(inputs[name].dtype, np.floating) and name not in config.constants:
                inputs[name] += np.linspace(0, scale, inputs[name].size, dtype=inputs[name].dtype).reshape(shape)
        try:
            return run(inputs, names)
        except RunError:
            continue
    return {}


# ---- the graph as the rest of the worker sees it ----


def _arranged(graph: Graph, axes: Mapping[str, Axis], alone: bool, notes: tuple[str, ...]) -> BatchFirst:
    moved = {name: axis for name, axis in axes.items() if axis != 0}
    return BatchFirst(
        Graph(
            {name: _batch_first(tensor, moved) for name, tensor in graph.inputs.items()},
            {name: _batch_first(tensor, moved) for name, tensor in graph.outputs.items()},
        ),
        moved,
        alone,
        notes,
    )


def _batch_first(tensor: GraphTensor, moved: Mapping[str, Axis]) -> GraphTensor:
    axis = moved.get(tensor.name, 0)
    if axis is None:
        return replace(tensor, shape=(1, *tensor.shape))
    shape = list(tensor.shape)
    return replace(tensor, shape=(shape.pop(axis), *shape)) if axis else tensor


def _extent(tensor: GraphTensor, axis: Axis) -> int | str | None:
    return tensor.shape[axis] if axis is not None and tensor.shape else None


def _guess_note(why: str) -> str:
    return (
        f"the graph is taken to have no batch dimension, so that a frame is the whole of its inputs: {why}; say "
        "batched = false in model.toml where that is right, batched = true where it is not"
    )


def _named(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"'{name}' {size}" for name, size in sizes.items())


def _spelt(tensor: GraphTensor) -> str:
    return f"[{', '.join('?' if extent is None else str(extent) for extent in tensor.shape)}]"
