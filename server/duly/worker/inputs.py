"""What clients send for each graph input, and which reader makes a row of it: the checks of `input` in model.toml."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from duly.models.spec import Input, Layout, ModelConfig, Normalise, Resize, TensorSpec, Window
from duly.worker.channel import DIMS_MAX
from duly.worker.dtypes import DTYPES
from duly.worker.errors import LoadError
from duly.worker.graph import Graph, GraphTensor, extents, is_fixed
from duly.worker.preprocess import ArrayReader, PictureReader, Reader

INPUT_BYTES_MAX = 8 << 20
"""Room for an input of one frame whose size is open, as `Input.bytes_max` promises."""

_RANK = {"resize": 0, "window": 0, "normalise": 1, "layout": 2}
_PICTURES = frozenset({"JPEG", "PNG"})
_CHANNELS_MAX = 128  # CV_CN_MAX of OpenCV 5
_PICTURE_KINDS = ("UINT8", "UINT16", "FP32")

S = TypeVar("S", Resize, Normalise, Layout, Window)


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
        LoadError: an input does not fit the graph, or no client could send anything.
    """
    taken = {state.input for state in config.states} | set(config.constants)
    plans = []
    for index, declared in enumerate(config.inputs):
        place, name = f"input[{index}]", declared.tensor or declared.name
        if name not in graph.inputs:
            key = "tensor" if declared.tensor else "name"
            raise LoadError(f"{place}.{key}: the graph has no input '{name}'; it has: {', '.join(graph.inputs)}")
        plans.append(_plan(declared, graph.inputs[name], place))
    if not config.inputs:
        plans = [
            _plan(Input(name=name), tensor, f"graph input '{name}'")
            for name, tensor in graph.inputs.items()
            if name not in taken
        ]
    if not plans:
        raise LoadError(f"input: clients have nothing to send; the graph's inputs are: {', '.join(graph.inputs)}")
    return tuple(plans)


def _plan(declared: Input, tensor: GraphTensor, place: str) -> InputPlan:
    if tensor.datatype not in DTYPES:
        raise LoadError(f"{place}: '{tensor.name}' is {tensor.datatype}; clients can send tensors of numbers only")
    if not tensor.shape or len(tensor.shape) - 1 > DIMS_MAX:
        raise LoadError(
            f"{place}: '{tensor.name}' has {len(tensor.shape)} dimensions; an input needs the batch first and at most "
            f"{DIMS_MAX} more: make it a constant, or export the graph with a batch dimension"
        )
    _check_order(declared, place)
    graph_shape = extents(tensor.shape)[1:]
    picture = _PICTURES.intersection(declared.encodings) or _step(declared, Resize) or _step(declared, Layout)
    reader = (_picture if picture else _array)(declared, tensor.datatype, graph_shape, place)
    if len(reader.row_shape) != len(graph_shape) or any(
        extent not in (-1, row) for extent, row in zip(graph_shape, reader.row_shape, strict=True)
    ):
        raise LoadError(
            f"{place}: what is sent becomes {list(reader.row_shape)} a frame, but the graph's '{tensor.name}' takes "
            f"{list(graph_shape)}; change shape or preprocess"
        )
    source, target = reader.spec.datatype, tensor.datatype
    if not _castable(source, target, _step(declared, Normalise) is not None):
        raise LoadError(
            f"{place}: {source} can't become {target}, which the graph's '{tensor.name}' takes; change datatype"
        )
    return InputPlan(tensor.name, reader, place)


def _check_order(declared: Input, place: str) -> None:
    steps = declared.preprocess
    for index in range(1, len(steps)):
        if _RANK[steps[index].op] <= _RANK[steps[index - 1].op]:
            raise LoadError(
                f"{place}.preprocess[{index}]: {steps[index].op} can't follow {steps[index - 1].op}; the order is "
                "resize or window, normalise, layout, each at most once"
            )


def _step(declared: Input, kind: type[S]) -> S | None:
    return next((step for step in declared.preprocess if isinstance(step, kind)), None)


def _castable(source: str, target: str, normalised: bool) -> bool:
    """Without loss of range, except among floating point, where the author wants it so."""
    if normalised or np.issubdtype(DTYPES[source], np.floating):
        return bool(np.issubdtype(DTYPES[target], np.floating))
    return np.can_cast(DTYPES[source], DTYPES[target], "safe")


def _array(declared: Input, kind: str, graph_shape: tuple[int, ...], place: str) -> ArrayReader:
    window, normalise = _step(declared, Window), _step(declared, Normalise)
    if window is not None and declared.shape not in (None, (window.samples,)):
        raise LoadError(
            f"{place}.shape: {list(declared.shape or ())} is not the window's {[window.samples]}; leave it out"
        )
    shape = (window.samples,) if window else declared.shape or graph_shape
    sound = window is not None or "PCM_S16LE" in declared.encodings
    datatype = declared.datatype or ("FP32" if sound else kind)
    if sound and (datatype != "FP32" or len(shape) != 1):
        raise LoadError(f"{place}: sound is FP32 with one dimension, the samples, not {datatype}{list(shape)}")
    if normalise is not None:
        _check_channels(normalise, shape[-1] if shape else 1, place)
    context = window.context if window else 0
    row_shape = (context + window.samples,) if window else shape
    return ArrayReader(_spec(declared, datatype, shape, place), row_shape, DTYPES[kind], normalise, context)


def _picture(declared: Input, kind: str, graph_shape: tuple[int, ...], place: str) -> PictureReader:
    resize, layout = _step(declared, Resize), _step(declared, Layout) or Layout(op="layout", axes="HWC")
    if "PCM_S16LE" in declared.encodings or _step(declared, Window):
        raise LoadError(f"{place}: an input is a picture or sound, not both; see its encodings and preprocess")
    if len(graph_shape) != 3:
        raise LoadError(f"{place}: a picture has 3 dimensions, the graph takes {list(graph_shape)} a frame")
    # Height, width and channels as the graph has them.
    height, width, channels = (*graph_shape[1:], graph_shape[0]) if layout.axes == "CHW" else graph_shape
    channels = channels if channels > 0 else 3
    shape = declared.shape or ((-1, -1, channels) if resize else (height, width, channels))
    if len(shape) != 3 or not 1 <= shape[2] <= _CHANNELS_MAX or (declared.encodings and shape[2] not in (1, 3)):
        raise LoadError(f"{place}.shape: {list(shape)} is no picture; it must be [height, width, channels]")
    if layout.colours == "BGR" and shape[2] != 3:
        raise LoadError(f"{place}: layout.colours: BGR needs 3 channels, not {shape[2]}")
    bytes_only = bool(resize or declared.encodings)
    datatype = declared.datatype or ("UINT8" if bytes_only else kind)
    if datatype not in (("UINT8",) if bytes_only else _PICTURE_KINDS):
        raise LoadError(
            f"{place}.datatype: a picture is UINT8, or without resize and encodings UINT16 or FP32, not {datatype}"
        )
    normalise = _step(declared, Normalise)
    if normalise is not None:
        _check_channels(normalise, shape[2], place)
    high, wide, deep = (resize.height, resize.width, shape[2]) if resize else shape
    row_shape = (deep, high, wide) if layout.axes == "CHW" else (high, wide, deep)
    spec = _spec(declared, datatype, shape, place)
    return PictureReader(spec, row_shape, DTYPES[kind], resize, normalise, layout)


def _check_channels(normalise: Normalise, channels: int, place: str) -> None:
    for name, values in (("mean", normalise.mean), ("std", normalise.std)):
        if len(values) not in (1, channels):
            raise LoadError(
                f"{place}.preprocess: normalise.{name} has {len(values)} values; it must have 1, or one for each "
                f"of the {channels} channels"
            )


def _spec(declared: Input, datatype: str, shape: tuple[int, ...], place: str) -> TensorSpec:
    dtype = DTYPES[datatype]
    exact = int(np.prod(shape)) * dtype.itemsize if is_fixed(shape) else 0
    bytes_max = declared.bytes_max or exact or INPUT_BYTES_MAX
    if bytes_max < exact:
        raise LoadError(f"{place}.bytes_max: {bytes_max} is less than the {exact} bytes of {datatype}{list(shape)}")
    return TensorSpec.model_validate(
        {
            "name": declared.name,
            "datatype": datatype,
            "shape": shape,
            "encodings": declared.encodings,
            "sample_rate_hz": declared.sample_rate_hz or 0,
            "finite": declared.finite and bool(np.issubdtype(dtype, np.floating)),
            # A tensor of fixed size never needs more, and rows without gaps are a batch already.
            "bytes_max": bytes_max if declared.encodings else exact or bytes_max,
        }
    )
