"""Decides what clients send for each graph input, and which reader makes a row of it; checks `input` in model.toml."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np

from duly.models.spec import (
    ELEMENT_BYTES,
    PICTURE_PIXELS,
    PICTURE_TIMES_INPUT,
    PIXELS_MAX,
    TEXT_ELEMENTS_MAX,
    VIDEO,
    Input,
    ModelConfig,
    TensorSpec,
)
from duly.models.steps import op_of
from duly.worker.channel import DIMS_MAX
from duly.worker.decode import ENCODINGS
from duly.worker.dtypes import DTYPES, TEXT, is_floating
from duly.worker.errors import LoadError
from duly.worker.graph import Graph, GraphTensor, extents, is_fixed
from duly.worker.ops.operation import PICTURE_DATATYPES, Operation
from duly.worker.ops.order import PREPROCESS
from duly.worker.reader import Reader
from duly.worker.video import need_decoder
from duly.worker.ways_out import constant, no_such, not_numbers, refit, turned

CHANNELS = 3
"""Channels of a picture where neither the graph nor model.toml says how many."""

_AS_SENT = ("STRING", "BF16")
"""Element types that are not made of others, nor others of them."""
_CHANNELS_MAX = 128  # CV_CN_MAX of OpenCV 5


@dataclass(frozen=True, slots=True)
class InputPlan:
    tensor: str
    """The graph input that is fed."""
    reader: Reader
    place: str
    """The place in model.toml, for errors."""


def plan_inputs(graph: Graph, config: ModelConfig) -> tuple[InputPlan, ...]:
    """Returns one plan for each input of `config`, or for each graph input that is no state, control or constant.

    Raises:
        LoadError: an input does not fit the graph, or no client could send anything.
    """
    taken = {state.input for state in config.states} | {each.input for each in config.controls} | set(config.constants)
    plans = []
    for index, declared in enumerate(config.inputs):
        place, name = f"input[{index}]", declared.tensor or declared.name
        if name not in graph.inputs:
            key = "tensor" if declared.tensor else "name"
            raise LoadError(f"{place}.{key}: {no_such(name, 'input', list(graph.inputs), key)}")
        plans.append(_plan(declared, graph.inputs[name], place))
    if not config.inputs:
        plans = [
            _plan(Input(name=name), tensor, f"graph input '{name}'")
            for name, tensor in graph.inputs.items()
            if name not in taken
        ]
    if not plans:
        has = f"the graph's inputs are: {', '.join(graph.inputs)}" if graph.inputs else "the graph has no inputs"
        raise LoadError(f"input: clients have nothing to send; {has}")
    return tuple(plans)


def _plan(declared: Input, tensor: GraphTensor, place: str) -> InputPlan:
    if tensor.datatype not in DTYPES:
        raise LoadError(f"{place}: '{tensor.name}' is {tensor.datatype}: {not_numbers(tensor.datatype)}")
    if not tensor.shape:
        raise LoadError(
            f"{place}: '{tensor.name}' has no dimensions as far as the graph tells; where it is one number for all "
            f"frames, say so at the top of model.toml: {constant(tensor)}; else export it with a batch dimension"
        )
    if len(tensor.shape) - 1 > DIMS_MAX:
        raise LoadError(
            f"{place}: '{tensor.name}' has {len(tensor.shape)} dimensions; an input needs the batch first and at most "
            f"{DIMS_MAX} more: export the graph with fewer, by a Reshape"
        )
    _check_order(declared, place)
    operations = [PREPROCESS[type(step)](step) for step in declared.preprocess]
    graph_shape = extents(tensor.shape)[1:]
    spec = _sent(declared, tensor.datatype, graph_shape, operations, place)
    spec = spec.model_copy(update={"batched": tensor.batched})
    reader = Reader(spec, DTYPES[tensor.datatype], operations, place)
    if len(reader.row_shape) != len(graph_shape) or any(
        extent not in (-1, row) for extent, row in zip(graph_shape, reader.row_shape, strict=True)
    ):
        raise LoadError(
            f"{place}: what is sent becomes {list(reader.row_shape)} a frame, but the graph's '{tensor.name}' takes "
            f"{list(graph_shape)}; {refit(declared, graph_shape)}"
        )
    if not _castable(spec.datatype, tensor.datatype, reader.computes):
        raise LoadError(
            f"{place}: {spec.datatype} can't become {tensor.datatype}, which the graph's '{tensor.name}' takes; "
            f'set datatype = "{tensor.datatype}", or leave it out'
        )
    return InputPlan(tensor.name, reader, place)


def _check_order(declared: Input, place: str) -> None:
    order = [*PREPROCESS]
    for index, (before, step) in enumerate(pairwise(declared.preprocess), start=1):
        if order.index(type(step)) <= order.index(type(before)):
            raise LoadError(
                f"{place}.preprocess[{index}]: {step.op} can't follow {before.op}; the order is "
                f"{', '.join(map(op_of, order))}, each at most once"
            )


def _castable(source: str, target: str, normalised: bool) -> bool:
    """Whether values keep their range. Floating point may become narrower, as the model's author wants it."""
    if not {source, target}.isdisjoint(_AS_SENT):
        return source == target and not normalised
    if normalised or np.issubdtype(DTYPES[source], np.floating):
        return bool(np.issubdtype(DTYPES[target], np.floating))
    return np.can_cast(DTYPES[source], DTYPES[target], "safe")


def _sent(
    declared: Input, graph_datatype: str, graph_shape: tuple[int, ...], operations: Sequence[Operation], place: str
) -> TensorSpec:
    """Returns what clients send: as model.toml states it, otherwise as the operations and the graph need it."""
    domains = {operation.domain for operation in operations if operation.domain}
    domains |= {ENCODINGS[encoding].domain for encoding in declared.encodings}
    if len(domains) > 1:
        raise LoadError(f"{place}: an input is a picture or sound, not both; see its encodings and preprocess")
    domain = domains.pop() if domains else ""
    if domain == "picture" and len(graph_shape) != 3:
        raise LoadError(f"{place}: a picture has 3 dimensions, the graph takes {list(graph_shape)} a frame")
    if not set(VIDEO).isdisjoint(declared.encodings):
        need_decoder(place)
    datatype, shape = graph_datatype, graph_shape
    for encoding in declared.encodings:
        datatype = ENCODINGS[encoding].datatypes[0]
    for operation in reversed(operations):
        shape = operation.takes(shape)
        datatype = operation.datatype or datatype
    if graph_datatype == "UINT16" and all("UINT16" in ENCODINGS[each].datatypes for each in declared.encodings):
        datatype = "UINT16"  # nobody makes a graph for 16 bits to feed it with 8
    if domain == "picture" and shape[2] < 0:
        shape = (*shape[:2], CHANNELS)
    datatype, shape = declared.datatype or datatype, declared.shape or shape
    if domain == "picture":
        _check_picture(declared, datatype, shape, place)
    elif domain == "sound" and (datatype != "FP32" or len(shape) != 1):
        raise LoadError(f"{place}: sound is FP32 with one dimension, the samples, not {datatype}{list(shape)}")
    return _spec(declared, datatype, shape, graph_shape, place)


def _check_picture(declared: Input, datatype: str, shape: tuple[int, ...], place: str) -> None:
    if len(shape) != 3 or not 1 <= shape[2] <= _CHANNELS_MAX or (declared.encodings and shape[2] not in (1, 3)):
        raise LoadError(
            f"{place}.shape: {list(shape)} is no picture; it must be [height, width, channels]{turned(declared, shape)}"
        )
    if not declared.encodings and datatype not in PICTURE_DATATYPES:
        raise LoadError(f"{place}.datatype: a picture is {' or '.join(PICTURE_DATATYPES)}, not {datatype}")
    for encoding in declared.encodings:
        if datatype not in (taken := ENCODINGS[encoding].datatypes):
            raise LoadError(
                f"{place}.datatype: a {encoding} is {' or '.join(taken)}, not {datatype}; what the graph takes may be "
                "another type, such as FP32: the values are cast"
            )


def _pixels_max(declared: Input, shape: tuple[int, ...], graph_shape: tuple[int, ...], place: str) -> int:
    """Pixels of the largest picture that is decoded; 0 where there are no encoded pictures."""
    if not any(ENCODINGS[encoding].domain == "picture" for encoding in declared.encodings):
        if declared.pixels_max is not None:
            raise LoadError(
                f'{place}.pixels_max: it takes no pictures; set encodings = ["JPEG", "PNG"] or leave it out'
            )
        return 0
    if is_fixed(shape):
        return shape[0] * shape[1]
    taken = prod(graph_shape) // shape[2] if is_fixed(graph_shape) else 0
    return declared.pixels_max or min(PIXELS_MAX, max(PICTURE_PIXELS, PICTURE_TIMES_INPUT * taken))


def _spec(
    declared: Input, datatype: str, shape: tuple[int, ...], graph_shape: tuple[int, ...], place: str
) -> TensorSpec:
    dtype = DTYPES[datatype]
    sized = is_fixed(shape) and dtype != TEXT
    exact = prod(shape) * ELEMENT_BYTES[datatype] if is_fixed(shape) else 0
    if declared.example and dtype != TEXT:
        raise LoadError(f"{place}.example: only text has one, and this input is {datatype}; leave it out")
    if dtype == TEXT and (elements := prod(extent for extent in shape if extent >= 0)) > TEXT_ELEMENTS_MAX:
        raise LoadError(
            f"{place}: STRING{list(shape)} has {elements:,} elements a frame, at most {TEXT_ELEMENTS_MAX:,} are taken"
        )
    if declared.bytes_max and declared.bytes_max < exact:
        raise LoadError(
            f"{place}.bytes_max: {declared.bytes_max} is less than the {exact} bytes of {datatype}{list(shape)}"
        )
    return TensorSpec.model_validate(
        {
            "name": declared.name,
            "datatype": datatype,
            "shape": shape,
            "encodings": declared.encodings,
            "sample_rate_hz": declared.sample_rate_hz or 0,
            "example": declared.example or "",
            "finite": declared.finite and is_floating(dtype),
            # A tensor of fixed size never needs more, and rows without gaps are a batch already.
            "pixels_max": _pixels_max(declared, shape, graph_shape, place),
            "bytes_max": exact if sized and not declared.encodings else declared.bytes_max or 0,
        }
    )
