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
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TypeVar

from duly.models.guards import score_outputs
from duly.models.spec import BATCH_MAX, Input, ModelConfig, Output
from duly.worker.errors import LoadError
from duly.worker.graph import Axis, Graph, GraphTensor, extents
from duly.worker.observe import NOTHING_SEEN, Observed, RunGraph, observe

_BATCH = re.compile(r"(\w+_)?(batch|bs)(_?(size|dim|\d+))*", re.IGNORECASE)
"""Names that people and exporters give to the batch."""
_BATCH_LETTER = re.compile(r"[nb]", re.IGNORECASE)
_NO_BATCH = re.compile(
    r"[thwcls]|((num|n|max|the|total)_*)?("
    r"points?|pts|vertex|vertices|nodes?|edges?|faces?|tokens?|words?|chars?|seq|sequence|((seq|sequence)_?)?(len|length)|"
    r"times?|(time_?)?steps?|heights?|widths?|channels?|rows?|cols?|columns?|box|boxes|dets?|detections?|objects?|"
    r"proposals?|anchors?|queries|voxels?|pillars?)(_?(in|out|input|output|dim|\d+))*",
    re.IGNORECASE,
)
"""Names that people give to dimensions within a frame. Single letters are those of layouts, such as NCHW and TBC."""
_Declared = TypeVar("_Declared", Input, Output)
_PICTURE_SIDE_MIN = 16
_CHANNELS = (1, 3, 4)


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
    controls = {control.input for control in config.controls}
    fed = _declared(graph.inputs, config.inputs, states.keys() | controls | config.constants.keys(), Input)
    sent = _declared(graph.outputs, config.outputs, set(states.values()), Output)
    if config.postprocess is not None and config.postprocess.tensor in graph.outputs:
        sent.setdefault(config.postprocess.tensor, Output(name=config.postprocess.tensor))
    for name in score_outputs(config.guards) & graph.outputs.keys():
        sent.setdefault(name, Output(name=name))
    if config.batched is not False:
        _check_state_axes(graph, config, fed)
    stated = config.batch_axis or config.states or any(each.batch_axis is not None for each in fed.values())
    named = {} if stated or config.batched is False else _named_axes(graph, fed)
    batched, why = True, ""
    if config.batched is not None:
        batched = config.batched
    elif not stated and not named:
        batched, why = _is_batched(graph, fed, sent)
    if batched:
        unsure = config.batched is None and not stated and not named and _may_be_whole(graph, fed)
        arranged = _with_batch(graph, config, fed, sent, named, run, unsure)
        if arranged is not None:
            return arranged
        why = "none of its outputs has a row for each frame"
    axes: dict[str, Axis] = dict.fromkeys((*fed, *sent, *states, *states.values(), *controls))
    notes: tuple[str, ...] = (_guess_note(why),) if why else ()
    if config.batch_sizes not in (None, (1,)):
        assert config.batch_sizes is not None
        notes += (f"batch_sizes = {list(config.batch_sizes)} is not used: frames run one at a time",)
    seen = observe(graph, config, axes, list(sent), run, closely=True)
    outputs = {name: seen.corrected(tensor, None) for name, tensor in graph.outputs.items()}
    return _arranged(Graph(graph.inputs, outputs), axes, alone=True, notes=notes)


def _with_batch(
    graph: Graph,
    config: ModelConfig,
    fed: Mapping[str, Input],
    sent: Mapping[str, Output],
    named: Mapping[str, int],
    run: RunGraph,
    unsure: bool,
) -> BatchFirst | None:
    """Arranges a graph with a batch dimension. `named`: where it is by the names of dimensions. None: `unsure`, and
    what comes out speaks against it.
    """
    notes: list[str] = []
    axes: dict[str, Axis] = {}
    for name, declared in fed.items():
        axes[name] = _stated_axis(graph.inputs[name], declared.batch_axis, config, f"input '{declared.name}'")
        if axis := named.get(name):
            axes[name] = axis
            notes.append(f"dimension {axis} of input '{declared.name}' is the batch, by its name")
    sizes = {_extent(graph.inputs[name], axis) for name, axis in axes.items()}
    size = next((size for size in sizes if isinstance(size, int)), None)
    clear = all(_is_clear(graph.outputs[name], output, sizes) for name, output in sent.items())
    seen = observe(graph, config, axes, list(sent), run, not clear) if size in (None, 1) else NOTHING_SEEN
    otherwise = {name for name in sent if any(shape[:1] != (1,) for shape in seen.alone.get(name, ()))}
    if clear and any(not _is_stated(sent[name]) for name in otherwise):
        seen = observe(graph, config, axes, list(sent), run, closely=True)
    if unsure and seen.pair and not any(map(seen.grows, sent)):
        return None
    outputs = dict(graph.outputs)
    for name, output in sent.items():
        tensor = graph.outputs[name]
        if output.batched is False:
            axes[name] = None
        elif output.batched or output.batch_axis is not None or config.batch_axis:
            axes[name] = _stated_axis(tensor, output.batch_axis, config, f"output '{output.name}'")
        else:
            same_name = bool(tensor.shape) and tensor.shape[0] in sizes
            axes[name] = _found_axis(tensor, seen, size, same_name and name not in otherwise)
            if axes[name] is None and size is None:
                shape = f"shape {_spelt(tensor)}"
                if same_name:  # but not so for one frame
                    shape = f"one frame gives {list(seen.alone[name][0])}, as reshape or squeeze() make it"
                notes.append(
                    f"output '{output.name}' has no batch dimension ({shape}), so that frames run one "
                    "at a time; where it is not needed, name the outputs that are with [[output]]"
                )
        outputs[name] = seen.corrected(tensor, axes[name])
    alone = any(axes[name] is None for name in sent)
    return _arranged(Graph(graph.inputs, outputs), axes, alone, tuple(notes))


def _is_clear(tensor: GraphTensor, output: Output, sizes: Set[int | str | None]) -> bool:
    """Whether the batch of an output is stated, or its first dimension is as that of the inputs is, or is called so."""
    first = next(iter(tensor.shape), None)
    return _is_stated(output) or (first is not None and first in sizes)


def _is_stated(output: Output) -> bool:
    return output.batched is not None or output.batch_axis is not None


def _found_axis(tensor: GraphTensor, seen: Observed, size: int | None, same_name: bool) -> Axis:
    """The batch axis of an output that model.toml says nothing of. `size`: the only size that the inputs take, if it is
    fixed. `same_name`: its first dimension is called as the batch of an input is.
    """
    alone, pair = seen.alone.get(tensor.name, []), seen.pair.get(tensor.name)
    first = next(iter(tensor.shape), None)
    if size is not None and size > 1:
        return 0
    if not alone:
        return None if size == 1 and isinstance(first, int) and first != 1 else 0
    if pair is not None:
        grown = seen.grows(tensor.name)
        if grown:
            return 0 if 0 in grown else grown[0] if len(grown) == 1 else None
        same_for_all = isinstance(first, int) or (() in alone and not pair)  # a squeeze() leaves () of one frame alone
        return 0 if same_for_all else None  # the former is for `plan` to refuse
    ones = [axis for axis in range(min(map(len, alone))) if all(shape[axis] == 1 for shape in alone)]
    if same_name:
        return 0
    named_otherwise = isinstance(first, str) and _NO_BATCH.fullmatch(first) is not None
    return None if named_otherwise or 0 not in ones else 0


def _named_axes(graph: Graph, fed: Mapping[str, Input]) -> dict[str, int]:
    """The dimensions that are called the batch, where every input has one and not all of them are the first."""
    named = {}
    for name in fed:
        shape = graph.inputs[name].shape
        axes = [axis for axis, extent in enumerate(shape) if isinstance(extent, str) and _BATCH.fullmatch(extent)]
        if len(axes) != 1:
            return {}
        named[name] = axes[0]
    return named if any(named.values()) else {}


def _declared(
    tensors: Mapping[str, GraphTensor], declared: Sequence[_Declared], taken: Set[str], kind: type[_Declared]
) -> dict[str, _Declared]:
    """What clients feed or get, by graph tensor. Names that the graph lacks are left out: `plan` says so."""
    if not declared:
        return {name: kind(name=name) for name in tensors if name not in taken}
    named = {each.tensor or each.name: each for each in declared}
    return {name: each for name, each in named.items() if name in tensors}


def _is_batched(graph: Graph, fed: Mapping[str, Input], sent: Mapping[str, Output]) -> tuple[bool, str]:
    """Says whether the graph has a batch dimension, and why it is thought to have none."""
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


def _may_be_whole(graph: Graph, fed: Mapping[str, Input]) -> bool:
    """Whether no input looks as if it had a batch, by the name of its first dimension or by being one of pictures."""
    for name in fed:
        shape = graph.inputs[name].shape
        first = next(iter(shape), None)
        if len(shape) > 3 or (isinstance(first, str) and _is_batch(first)):
            return False
    return True


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


def _check_state_axes(graph: Graph, config: ModelConfig, fed: Mapping[str, Input]) -> None:
    """Raises LoadError where the first dimension of a state is not the batch, as model.toml has it, but another one is.

    Recurrent layers have it second: [layers, batch, hidden].
    """
    firsts = [graph.inputs[name].shape[0] for name in fed if graph.inputs[name].shape]
    if not firsts or not all(_is_one_or_batch(first) for first in firsts):
        return
    for index, state in enumerate(config.states):
        shape = graph.inputs[state.input].shape if state.input in graph.inputs else ()
        if state.batch_axis or not shape or not isinstance(shape[0], int) or shape[0] <= 1:
            continue
        axes = [axis for axis, extent in enumerate(shape) if extent is not None and _is_one_or_batch(extent)]
        if axes:
            raise LoadError(
                f"state[{index}]: the first dimension of '{state.input}', {_spelt(graph.inputs[state.input])}, is not "
                f"the batch; say batch_axis = {axes[0]} under its [[state]], or batched = false at the top of "
                "model.toml where the graph has no batch dimension"
            )


def _is_one_or_batch(extent: int | str | None) -> bool:
    return _is_batch(extent) if isinstance(extent, str) else extent in (None, 1)


def _is_batch(name: str) -> bool:
    return bool(_BATCH.fullmatch(name) or _BATCH_LETTER.fullmatch(name))


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
        return replace(tensor, shape=(1, *tensor.shape), batched=False)
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
