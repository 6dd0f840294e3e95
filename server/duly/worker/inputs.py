"""What clients send for each graph input, and which reader makes a row of it: the checks of `input` in model.toml."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from duly.models.spec import Input, Layout, ModelConfig, Normalise, Resize, Step, TensorSpec, Window
from duly.worker.channel import DIMS_MAX
from duly.worker.graph import DTYPES, Graph, GraphTensor, LoadError, extents, is_fixed
from duly.worker.preprocess import ArrayReader, PictureReader, Reader

INPUT_BYTES_MAX = 8 << 20
"""Room for an input of one frame whose size is open, as `Input.bytes_max` promises."""

_ORDER: tuple[tuple[type[Step], ...], ...] = ((Resize, Window), (Normalise,), (Layout,))
_PICTURES = frozenset({"JPEG", "PNG"})

S = TypeVar("S", bound=Step)


@dataclass(frozen=True, slots=True)
class InputPlan:
    tensor: str
    """Graph input."""
    reader: Reader
    place: str
    """In model.toml, for errors."""


def plan_inputs(graph: Graph, config: ModelConfig) -> tuple[InputPlan, ...]:
    """One plan for each input of `config`, or for each graph input that is neither state nor constant.

    Raises:
        LoadError: an input does not fit the graph.
    """
    taken = {state.input for state in config.states} | set(config.constants)
    if not config.inputs:
        return tuple(
            _plan(Input(name=name), tensor, f"graph input '{name}'")
            for name, tensor in graph.inputs.items()
            if name not in taken
        )
    plans = []
    for index, declared in enumerate(config.inputs):
        place = f"input[{index}]"
        name = declared.tensor or declared.name
        if name not in graph.inputs:
            has = ", ".join(graph.inputs)
            raise LoadError(f"{place}.{'tensor' if declared.tensor else 'name'}: the graph has no input '{name}'; it has: {has}")
        plans.append(_plan(declared, graph.inputs[name], place))
    return tuple(plans)


def _plan(declared: Input, tensor: GraphTensor, place: str) -> InputPlan:
    if tensor.kind not in DTYPES:
        raise LoadError(f"{place}: '{tensor.name}' is {tensor.kind}; clients can send tensors of numbers only")
    if not tensor.shape or len(tensor.shape) - 1 > DIMS_MAX:
        raise LoadError(
            f"{place}: '{tensor.name}' has {len(tensor.shape)} dimensions; an input needs the batch first and at most "
            f"{DIMS_MAX} more: make it a constant, or export the graph with a batch dimension"
        )
    _check_order(declared.preprocess, place)
    picture = bool(_PICTURES.intersection(declared.encodings) or _step(declared, Resize) or _step(declared, Layout))
    reader = _picture_reader(declared, tensor, place) if picture else _array_reader(declared, tensor, place)
    for graph_extent, extent in zip(extents(tensor.shape)[1:], reader.row_shape, strict=False):
        if len(reader.row_shape) != len(tensor.shape) - 1 or graph_extent not in (-1, extent):
            raise LoadError(
                f"{place}: what is sent becomes {list(reader.row_shape)}, but '{tensor.name}' takes "
                f"{list(extents(tensor.shape)[1:])}; change shape or preprocess"
            )
    if not _castable(reader, tensor):
        raise LoadError(
            f"{place}: {reader.spec.datatype} can't become {tensor.kind}, which '{tensor.name}' takes; "
            "change datatype, or add a normalise step where the graph takes floating point"
        )
    return InputPlan(tensor.name, reader, place)


def _check_order(steps: Sequence[Step], place: str) -> None:
    ranks = [next(rank for rank, kinds in enumerate(_ORDER) if isinstance(step, kinds)) for step in steps]
    for index in range(1, len(ranks)):
        if ranks[index] <= ranks[index - 1]:
            raise LoadError(
                f"{place}.preprocess[{index}]: {steps[index].op} can't follow {steps[index - 1].op}; the order is "
                "resize or window, normalise, layout, each at most once"
            )


def _step(declared: Input, kind: type[S]) -> S | None:
    return next((step for step in declared.preprocess if isinstance(step, kind)), None)


def _castable(reader: Reader, tensor: GraphTensor) -> bool:
    source, target = DTYPES[reader.spec.datatype], DTYPES[tensor.kind]
    if isinstance(reader, ArrayReader | PictureReader) and reader.normalised:
        return bool(np.issubdtype(target, np.floating))
    both_floating = np.issubdtype(source, np.floating) and np.issubdtype(target, np.floating)
    return bool(both_floating) or np.can_cast(source, target, "safe")


def _spec(declared: Input, datatype: str, shape: tuple[int, ...], place: str) -> TensorSpec:
    dtype = DTYPES[datatype]
    exact = int(np.prod(shape)) * dtype.itemsize if is_fixed(shape) else None
    bytes_max = declared.bytes_max or exact or INPUT_BYTES_MAX
    if exact is not None:
        if bytes_max < exact:
            raise LoadError(f"{place}.bytes_max: {bytes_max} is less than the {exact} bytes of {datatype}{list(shape)}")
        if not declared.encodings:
            bytes_max = exact
    return TensorSpec.model_validate(
        {
            "name": declared.name,
            "datatype": datatype,
            "shape": shape,
            "encodings": declared.encodings,
            "sample_rate_hz": declared.sample_rate_hz or 0,
            "finite": declared.finite and bool(np.issubdtype(dtype, np.floating)),
            "bytes_max": bytes_max,
        }
    )


def _array_reader(declared: Input, tensor: GraphTensor, place: str) -> ArrayReader:
    window, normalise = _step(declared, Window), _step(declared, Normalise)
    sound = window is not None or "PCM_S16LE" in declared.encodings
    datatype = declared.datatype or ("FP32" if sound else tensor.kind)
    graph_shape = extents(tensor.shape)[1:]
    context = 0 if window is None else window.context
    shape = declared.shape or (graph_shape if window is None else (window.samples,))
    if sound and (datatype != "FP32" or len(shape) != 1):
        raise LoadError(f"{place}: sound is FP32 with one dimension, the samples, not {datatype}{list(shape)}")
    if window is not None and shape != (window.samples,):
        raise LoadError(f"{place}.shape: {list(shape)} is not the window's {[window.samples]}; leave it out")
    if context and np.issubdtype(DTYPES[tensor.kind], np.floating) is False:
        raise LoadError(f"{place}: '{tensor.name}' is {tensor.kind}; a window needs floating point")
    if normalise is not None:
        _check_channels(normalise, shape[-1] if shape else 1, place)
    row_shape = shape if window is None else (context + window.samples,)
    row_shape = tuple(g if e < 0 else e for e, g in zip(row_shape, graph_shape, strict=False)) if len(
        row_shape
    ) == len(graph_shape) else row_shape
    spec = _spec(declared, datatype, row_shape if window is None else shape, place)
    return ArrayReader(spec, row_shape, DTYPES[tensor.kind], normalise, context)


def _picture_reader(declared: Input, tensor: GraphTensor, place: str) -> PictureReader:
    raise NotImplementedError


def _check_channels(normalise: Normalise, channels: int, place: str) -> None:
    for name, values in (("mean", normalise.mean), ("std", normalise.std)):
        if len(values) not in (1, channels):
            raise LoadError(f"{place}: normalise.{name} has {len(values)} values; 1 or one for each of {channels} channels")


_ = Any
