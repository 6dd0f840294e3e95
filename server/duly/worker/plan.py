"""How a model's configuration and its graph fit together. This is decided once, when the model is loaded.

`fit` decides what a client sends for each input, how that becomes a row of the batch, which sizes a batch can have, and
what comes out. What does not fit is a LoadError that names the place in model.toml and what would be right.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from duly.models.guards import score_outputs
from duly.models.spec import ELEMENT_BYTES, ModelConfig, Output, Signature, State, TensorSpec
from duly.worker.channel import DIMS_MAX, frames_of_message, tensors_of_message
from duly.worker.controls import ControlTensor, plan_controls
from duly.worker.dtypes import BFLOAT16, DTYPES, TEXT, Array, datatype_of, of_type
from duly.worker.errors import LoadError
from duly.worker.graph import Graph, GraphTensor, extents, is_fixed
from duly.worker.guards import NO_GUARDS, GuardPlan, plan_guards
from duly.worker.inputs import InputPlan, plan_inputs
from duly.worker.ops.operation import PostOperation
from duly.worker.ops.order import POSTPROCESS
from duly.worker.states import StateTensor
from duly.worker.ways_out import feed, leave_out, no_such, not_numbers, take_whole

BATCH_SIZES = (1, 2, 4, 8)
"""The sizes that are warmed where the graph takes any size and the model states none."""


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """A graph output that clients get as it is."""

    spec: TensorSpec
    tensor: str
    dtype: np.dtype[np.generic]
    row_shape: tuple[int, ...]
    """The shape for one frame; -1 stands for any extent."""
    sized: bool
    """Whether all rows have the same size in bytes."""
    bindable: bool
    """Whether the graph may write the rows to where they belong: their size is fixed, and as the graph declares it."""


@dataclass(frozen=True, slots=True)
class Plan:
    inputs: tuple[InputPlan, ...]
    states: tuple[StateTensor, ...]
    controls: tuple[ControlTensor, ...]
    constants: dict[str, Array]
    post: PostOperation | None
    outputs: tuple[OutputPlan, ...]
    batch_sizes: tuple[int, ...]
    any_size: bool
    fixed_batch: int | None
    """The only size of batch that the graph takes; None: it takes others."""
    apart: bool = False
    """Whether the graph runs the frames of a batch one after another, because they would influence one another."""
    guards: GuardPlan = NO_GUARDS

    @property
    def fixed(self) -> bool:
        """True where the rows of all inputs have one size. Batches then live in buffers that are bound once."""
        return all(planned.reader.sized for planned in self.inputs)

    @property
    def fixed_outputs(self) -> bool:
        """True where the rows of all outputs of the graph have one size too."""
        return all(output.bindable for output in self.outputs) and (self.post is None or is_fixed(self.post.row_shape))

    @property
    def halves(self) -> bool:
        """Whether a tensor of the graph that is fed or sent is BF16."""
        dtypes = {planned.reader.dtype for planned in self.inputs} | {output.dtype for output in self.outputs}
        return BFLOAT16 in dtypes | {state.dtype for state in self.states}

    def signature(self) -> Signature:
        post = self.post.specs if self.post else ()
        return Signature(
            inputs=tuple(planned.reader.spec for planned in self.inputs),
            outputs=(*post, *(planned.spec for planned in self.outputs)),
            batch_sizes=self.batch_sizes,
            any_size=self.any_size,
            stateful=bool(self.states or self.controls) or any(planned.reader.remembers for planned in self.inputs),
            guards=self.guards.names,
            watched=self.guards.remembers,
            states=(*map(_kept_state, self.states), *(_kept_sound(i) for i in self.inputs if i.reader.context)),
        )


def _kept_state(state: StateTensor) -> TensorSpec:
    shape = tuple(extent for axis, extent in enumerate(state.shape) if axis != state.batch_axis)
    return _kept(state.input, state.dtype, shape, 0)


def _kept_sound(planned: InputPlan) -> TensorSpec:
    reader = planned.reader
    name = f"end of {reader.spec.name}{reader.arithmetic}"
    return _kept(name, reader.dtype, (reader.context,), reader.spec.sample_rate_hz)


def _kept(name: str, dtype: "np.dtype[Any]", shape: tuple[int, ...], sample_rate_hz: int) -> TensorSpec:
    size_bytes = prod(shape) * dtype.itemsize
    return TensorSpec.model_validate(
        {
            "name": name,
            "datatype": datatype_of(dtype),
            "shape": shape,
            "sample_rate_hz": sample_rate_hz,
            "bytes_max": size_bytes,
        }
    )


def fit(graph: Graph, config: ModelConfig, toml: str, only_warm_sizes: bool, alone: bool) -> Plan:
    """Fits `config` to `graph`.

    Args:
        graph: inputs and outputs, each with the batch as its first dimension.
        config: the contents of model.toml.
        toml: its name in errors, such as "yolo/model.toml".
        only_warm_sizes: batches must have a size that was warmed, even where the graph takes any.
        alone: frames run one at a time, whatever sizes there could be.

    Raises:
        LoadError: they do not fit.
    """
    try:
        return _fit(graph, config, only_warm_sizes, alone)
    except LoadError as error:
        raise LoadError(f"{toml}: {error}") from error


def _fit(graph: Graph, config: ModelConfig, only_warm_sizes: bool, alone: bool) -> Plan:
    states = tuple(_states(graph, config))
    controls = tuple(plan_controls(graph, config))
    for name in config.constants:
        _find(graph.inputs, name, f"constants.{name}", "input")
    inputs = plan_inputs(graph, config)
    _check_fed_once(graph, config, inputs)
    fixed_size, symbols = _batch_dimension(graph, inputs, (*states, *controls))
    batch_sizes = (1,) if alone else config.batch_sizes or ((fixed_size,) if fixed_size else BATCH_SIZES)
    if fixed_size and batch_sizes != (fixed_size,):
        raise LoadError(
            f"batch_sizes: the graph takes batches of {fixed_size} alone, so that {[fixed_size]} it must be"
        )
    post = _post(graph, config)
    outputs = tuple(_outputs(graph, config))
    given = {tensor: graph.outputs[tensor].shape[0] for tensor in [output.tensor for output in outputs]}
    if post:
        given[post.tensor] = graph.outputs[post.tensor].shape[0]
    rows = {tensor: extent for tensor, extent in given.items() if isinstance(extent, int)}
    for tensor, extent in rows.items():
        if batch_sizes != (extent,):
            raise LoadError(
                f"output: the graph's '{tensor}' has {extent} rows, not one for each frame of a batch of any of "
                f"{list(batch_sizes)}; {take_whole(graph, config, tensor)}"
            )
    batch_sizes = _sendable(batch_sizes, config.batch_sizes is None and not fixed_size, inputs, outputs, post)
    _check_halves(graph, inputs, [*given, *(state.output for state in states)])
    plan = Plan(
        inputs=inputs,
        states=states,
        controls=controls,
        constants={name: _constant(graph.inputs[name], value, symbols) for name, value in config.constants.items()},
        post=post,
        outputs=outputs,
        batch_sizes=batch_sizes,
        any_size=fixed_size is None and not rows and not only_warm_sizes,
        fixed_batch=fixed_size,
        guards=plan_guards(graph, config, [planned.reader.spec for planned in inputs]),
    )
    specs = plan.signature().outputs
    _check_names([spec.name for spec in specs])
    _check_chunk(config, specs)
    return plan


def _check_halves(graph: Graph, inputs: Sequence[InputPlan], outputs: Iterable[str]) -> None:
    """Raises LoadError where text goes in and BF16 comes out, which ONNX Runtime has no call for in Python."""
    text = next((planned.tensor for planned in inputs if planned.reader.dtype == TEXT), None)
    half = next((name for name in outputs if graph.outputs[name].datatype == "BF16"), None)
    if text is not None and half is not None:
        raise LoadError(
            f"output: '{half}' is BF16 and input '{text}' is text, which ONNX Runtime's Python does not do in one run; "
            f"export '{half}' as FP32, by a Cast"
        )


def _check_chunk(config: ModelConfig, specs: Sequence[TensorSpec]) -> None:
    if config.chunk is None:
        return
    spec = next((spec for spec in specs if spec.name == config.chunk.output), None)
    if spec is None:
        names = ", ".join(spec.name for spec in specs)
        raise LoadError(f"chunk.output: there is no output '{config.chunk.output}'; there are: {names}")
    if spec.is_text:
        raise LoadError(f"chunk.output: '{spec.name}' is text; actions are numbers")
    if not spec.shape:
        raise LoadError(
            f"chunk.output: '{spec.name}' is one number a frame; an output with actions has them as its first dimension"
        )


def _find(tensors: dict[str, GraphTensor], name: str, place: str, kind: str) -> GraphTensor:
    if name not in tensors:
        raise LoadError(f"{place}: {no_such(name, kind, list(tensors), place.rpartition('.')[2])}")
    return tensors[name]


def _states(graph: Graph, config: ModelConfig) -> Iterator[StateTensor]:
    for index, state in enumerate(config.states):
        place = f"state[{index}]"
        source = _find(graph.outputs, state.output, f"{place}.output", "output")
        target = _find(graph.inputs, state.input, f"{place}.input", "input")
        if source.datatype != target.datatype or target.datatype not in DTYPES:
            raise LoadError(
                f"{place}: output '{source.name}' is {source.datatype}, input '{target.name}' is {target.datatype}; "
                "a state comes out as it goes in: export both with one type of number"
            )
        if target.datatype == "STRING":
            raise LoadError(
                f"{place}: '{target.name}' is text, which is not kept from frame to frame, as it may be of any size: "
                "export it as numbers, such as tokens, or let clients send it with each frame"
            )
        shape = list(extents(target.shape))
        if state.batch_axis >= len(shape):
            raise LoadError(
                f"{place}.batch_axis: {state.batch_axis} is no axis of '{target.name}', shape {shape}; where the graph "
                "has no batch dimension, say batched = false at the top of model.toml"
            )
        if state.datatype not in (None, target.datatype):
            raise LoadError(
                f"{place}.datatype: {state.datatype} is stated, the graph's '{target.name}' is {target.datatype}"
            )
        shape = _stated_shape(shape, state, f"{place}.shape")
        shape[state.batch_axis] = 1
        if not is_fixed(tuple(shape)):
            raise LoadError(
                f"{place}.input: '{target.name}' has shape {list(target.shape)}; only axis {state.batch_axis}, the "
                "batch, may be open: export it with the others fixed, or set batch_axis; a state that grows clients "
                "keep themselves, without [[state]]"
            )
        yield StateTensor(target.name, source.name, state.batch_axis, tuple(shape), DTYPES[target.datatype])


def _stated_shape(shape: list[int], state: State, place: str) -> list[int]:
    """The shape of a state in the graph with the extents that model.toml states. Raises LoadError."""
    if state.shape is None:
        return shape
    stated = list(state.shape)
    stated.insert(state.batch_axis, shape[state.batch_axis])
    if len(stated) != len(shape) or any(has not in (-1, wanted) for has, wanted in zip(shape, stated, strict=True)):
        has = [extent for axis, extent in enumerate(shape) if axis != state.batch_axis]
        raise LoadError(f"{place}: {list(state.shape)} is stated, the graph's '{state.input}' has {has} for a stream")
    return stated


def _check_fed_once(graph: Graph, config: ModelConfig, inputs: Sequence[InputPlan]) -> None:
    fed: dict[str, str] = {}
    feeding = [
        *((planned.tensor, planned.place) for planned in inputs),
        *((state.input, f"state[{index}]") for index, state in enumerate(config.states)),
        *((control.input, f"control[{index}]") for index, control in enumerate(config.controls)),
        *((name, f"constants.{name}") for name in config.constants),
    ]
    for name, place in feeding:
        if name in fed:
            raise LoadError(f"{place}: graph input '{name}' is fed by {fed[name]} already")
        fed[name] = place
    missing = [name for name in graph.inputs if name not in fed]
    if missing:
        raise LoadError(f"input: nothing feeds graph input '{missing[0]}'; {feed(graph.inputs[missing[0]])}")


def _batch_dimension(
    graph: Graph, inputs: Sequence[InputPlan], states: Sequence[StateTensor | ControlTensor]
) -> tuple[int | None, set[str]]:
    """Returns the one size that the graph takes, or None, and the names that the graph has for a size that is open."""
    dimensions = [(planned.tensor, graph.inputs[planned.tensor].shape[0]) for planned in inputs]
    dimensions += [(state.input, graph.inputs[state.input].shape[state.batch_axis]) for state in states]
    sizes = {name: size for name, size in dimensions if isinstance(size, int) and size > 0}
    if len(set(sizes.values())) > 1:
        advice = ", or say batched = false at the top of model.toml where it has no batch dimension" if states else ""
        raise LoadError(f"input: the graph's batch dimensions differ: {sizes}; export it with one size for all{advice}")
    symbols = {size for _, size in dimensions if isinstance(size, str)}
    return next(iter(sizes.values()), None), symbols


def _constant(tensor: GraphTensor, value: int | float, symbols: set[str]) -> Array:
    place = f"constants.{tensor.name}"
    if tensor.datatype not in DTYPES or tensor.datatype == "STRING":
        raise LoadError(f"{place}: the graph's input is {tensor.datatype}; only numbers can be constant")
    dtype = DTYPES[tensor.datatype]
    if np.issubdtype(dtype, np.integer):
        bounds = np.iinfo(dtype)
        if value != int(value) or not bounds.min <= value <= bounds.max:
            raise LoadError(f"{place}: {value} is no {tensor.datatype}, which the graph's input is")
    if any(not isinstance(extent, int) for extent in tensor.shape):
        raise LoadError(f"{place}: the graph's input has shape {list(tensor.shape)}; a constant's must be fixed")
    return of_type(np.full(extents(tensor.shape), value), dtype)


def _post(graph: Graph, config: ModelConfig) -> PostOperation | None:
    settings = config.postprocess
    if settings is None:
        return None
    return POSTPROCESS[type(settings)](settings, _find(graph.outputs, settings.tensor, "postprocess.tensor", "output"))


def _outputs(graph: Graph, config: ModelConfig) -> Iterator[OutputPlan]:
    states = {state.output for state in config.states}
    unsent = states | ({config.postprocess.tensor} if config.postprocess else set()) | score_outputs(config.guards)
    wanted = config.outputs or tuple(Output(name=name) for name in graph.outputs if name not in unsent)
    sent: set[str] = set()
    for index, output in enumerate(wanted):
        place = f"output[{index}]" if config.outputs else f"output '{output.name}'"
        key = "tensor" if output.tensor else "name"
        tensor = _find(graph.outputs, output.tensor or output.name, f"{place}.{key}", "output")
        if tensor.name in states or tensor.name in sent:
            why = "a state, which stays on the server" if tensor.name in states else "sent already"
            raise LoadError(f"{place}: '{tensor.name}' is {why}")
        sent.add(tensor.name)
        if tensor.datatype not in DTYPES:
            raise LoadError(
                f"{place}: '{tensor.name}' is {tensor.datatype}: {not_numbers(tensor.datatype)}"
                f"{leave_out(graph, config, [tensor.name])}"
            )
        if not tensor.shape or len(tensor.shape) - 1 > DIMS_MAX:
            raise LoadError(
                f"{place}: '{tensor.name}' has {len(tensor.shape)} dimensions as far as the graph tells; "
                f"an output needs the batch first and at most {DIMS_MAX} more: export it with a shape, such as by "
                f"onnx.shape_inference.infer_shapes{leave_out(graph, config, [tensor.name])}"
            )
        shape = extents(tensor.shape)[1:]
        _check_as_stated(output, tensor.datatype, shape, place)
        dtype = DTYPES[tensor.datatype]
        sized = is_fixed(shape) and dtype != TEXT
        exact = prod(shape) * ELEMENT_BYTES[tensor.datatype] if is_fixed(shape) else 0
        if output.bytes_max and output.bytes_max < exact:
            what = f"{tensor.datatype}{list(shape)}"
            raise LoadError(f"{place}.bytes_max: {output.bytes_max} is less than the {exact} bytes of {what}")
        bytes_max = exact if sized else output.bytes_max or 0
        spec = TensorSpec.model_validate(
            {
                "name": output.name,
                "datatype": tensor.datatype,
                "shape": shape,
                "bytes_max": bytes_max,
                "batched": tensor.batched,
            }
        )
        yield OutputPlan(spec, tensor.name, dtype, shape, sized, sized and tensor.as_declared)


def _check_as_stated(output: Output, datatype: str, shape: tuple[int, ...], place: str) -> None:
    """Raises LoadError where the graph gives something else than model.toml states."""
    if output.datatype not in (None, datatype):
        raise LoadError(f"{place}.datatype: {output.datatype} is stated, the graph gives {datatype}")
    stated = shape if output.shape is None else output.shape
    if len(stated) != len(shape) or any(
        extent >= 0 and given not in (-1, extent) for given, extent in zip(shape, stated, strict=True)
    ):
        raise LoadError(f"{place}.shape: {list(stated)} is stated, the graph gives {list(shape)} for a frame")


def _check_names(names: list[str]) -> None:
    if not names:
        raise LoadError("output: nothing is left to send; name one")
    for name in names:
        if names.count(name) > 1:
            raise LoadError(f"output: '{name}' is there twice, once from postprocess; give the other a name of its own")


def _sendable(
    batch_sizes: tuple[int, ...],
    chosen: bool,
    inputs: Sequence[InputPlan],
    outputs: Sequence[OutputPlan],
    post: PostOperation | None,
) -> tuple[int, ...]:
    """Returns the batch sizes for which the channel's messages have room. `chosen`: nobody has asked for these sizes,
    so that smaller ones alone will do as well.
    """
    tensors = max(len(inputs), len(outputs) + (len(post.specs) if post else 0))
    frames = frames_of_message(tensors)
    sizes = tuple(size for size in batch_sizes if size <= frames)
    if sizes == batch_sizes or (sizes and chosen):
        return sizes
    if not frames:
        raise LoadError(
            f"a frame has {tensors:,} inputs or outputs, at most {tensors_of_message():,} are served; name the outputs "
            "that clients need under [[output]], or export the graph with fewer, larger tensors"
        )
    raise LoadError(
        f"batch_sizes: a batch of {batch_sizes[-1]} with {tensors} tensors a frame is more than one message to the "
        f"worker holds; set batch_sizes to at most [{frames}]"
    )
