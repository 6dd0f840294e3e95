"""Brings the sizes that a graph and model.toml ask for to `models/sizes`, and what is settled back to the plans.

All variants get the same room, because a frame may go to any of them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import prod

from duly.models.sizes import Need, SizeError, SizeLimits, Sizes, settle
from duly.worker.channel import SLOTS
from duly.worker.dtypes import DTYPES
from duly.worker.errors import LoadError
from duly.worker.graph import Graph, is_fixed
from duly.worker.inputs import InputPlan
from duly.worker.plan import OutputPlan, Plan


def sized(
    plans: Sequence[Plan], graphs: Sequence[Graph], limits: SizeLimits, memory_bytes: int, toml: str
) -> tuple[list[Plan], tuple[str, ...]]:
    """Returns the plans of the variants with the room that is settled for their inputs and outputs, and notes for the
    operator. `toml`: the name of model.toml in errors.

    Raises:
        LoadError: a frame or a batch is too large for the server or the machine.
    """
    inputs = [_input(planned) for planned in plans[0].inputs]
    of_variants = [
        [_output(plan, graph, output) for output in plan.outputs] for plan, graph in zip(plans, graphs, strict=True)
    ]
    posts = [Need(spec.name, spec.bytes_max) for spec in (plans[0].post.specs if plans[0].post else ())]
    outputs = [*posts, *(_largest(needs) for needs in zip(*of_variants, strict=True))]
    try:
        sizes = settle(inputs, outputs, plans[0].batch_sizes[-1], SLOTS, limits, memory_bytes)
    except SizeError as error:
        raise LoadError(f"{toml}: {error}") from None
    return [_with(plan, sizes) for plan in plans], sizes.notes


def _input(planned: InputPlan) -> Need:
    spec = planned.reader.spec
    if is_fixed(spec.shape) and not spec.encodings:
        return Need(spec.name, spec.bytes_max)
    return Need(spec.name, None, spec.bytes_max, bool(spec.encodings))


def _output(plan: Plan, graph: Graph, output: OutputPlan) -> Need:
    spec = output.spec
    if is_fixed(output.row_shape):
        return Need(spec.name, spec.bytes_max)
    return Need(spec.name, None, spec.bytes_max, per_input_byte=_per_input_byte(plan, graph, output))


def _per_input_byte(plan: Plan, graph: Graph, output: OutputPlan) -> tuple[int, float] | None:
    """Returns (index of the input, bytes of the output for each byte of it) where all open extents of the output are
    those of one input, by their names in the graph; None: its size follows from no input.
    """
    named = _open(graph.outputs[output.tensor].shape)
    if None in named or not named:
        return None
    for index, planned in enumerate(plan.inputs):
        reader = planned.reader
        if reader.spec.encodings or named - _open(graph.inputs[planned.tensor].shape):
            continue
        of_row = prod(extent for extent in reader.row_shape if extent >= 0) * DTYPES[reader.spec.datatype].itemsize
        if of_row:
            return index, prod(extent for extent in output.row_shape if extent >= 0) * output.dtype.itemsize / of_row
    return None


def _open(shape: Sequence[int | str | None]) -> Counter[str | None]:
    """The names of the open extents. The batch is among them, once in each tensor, and makes no difference."""
    return Counter(extent for extent in shape if not isinstance(extent, int))


def _largest(needs: Sequence[Need]) -> Need:
    """What one output needs in all variants."""
    return max(needs, key=lambda need: need.per_input_byte[1] if need.per_input_byte else 0.0)


def _with(plan: Plan, sizes: Sizes) -> Plan:
    for planned, bytes_max in zip(plan.inputs, sizes.inputs, strict=True):
        planned.reader.spec = planned.reader.spec.model_copy(update={"bytes_max": bytes_max})
    own = sizes.outputs[len(sizes.outputs) - len(plan.outputs) :]
    outputs = tuple(
        replace(output, spec=output.spec.model_copy(update={"bytes_max": bytes_max}))
        for output, bytes_max in zip(plan.outputs, own, strict=True)
    )
    return replace(plan, outputs=outputs)
