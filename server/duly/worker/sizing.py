"""Brings the sizes that a graph and model.toml ask for to `models/sizes`, and what is settled back to the plans.

All variants get the same room, because a frame may go to any of them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from duly.models.sizes import Need, SizeError, SizeLimits, Sizes, settle
from duly.worker.channel import SLOTS
from duly.worker.dtypes import DTYPES
from duly.worker.errors import LoadError
from duly.worker.graph import Graph, is_fixed
from duly.worker.inputs import InputPlan
from duly.worker.plan import OutputPlan, Plan


@dataclass(frozen=True, slots=True)
class Needs:
    """What the inputs and outputs of one variant ask for."""

    inputs: tuple[Need, ...]
    outputs: tuple[Need, ...]
    batch_max: int

    @property
    def inputs_fixed(self) -> bool:
        return all(need.fixed_bytes is not None for need in self.inputs)

    @property
    def outputs_fixed(self) -> bool:
        return all(need.fixed_bytes is not None for need in self.outputs)


@dataclass(frozen=True, slots=True)
class Room:
    """What there is on this server and this machine."""

    limits: SizeLimits
    memory_bytes: int

    def settle(self, variants: Sequence[Needs], toml: str) -> Sizes:
        """Settles the sizes that all variants share. `toml`: the name of model.toml in errors.

        Raises:
            LoadError: a frame or a batch is too large for the server or the machine.
        """
        best = variants[0]
        outputs = [max(needs, key=_share) for needs in zip(*(needs.outputs for needs in variants), strict=True)]
        try:
            return settle(best.inputs, outputs, best.batch_max, SLOTS, self.limits, self.memory_bytes)
        except SizeError as error:
            raise LoadError(f"{toml}: {error}") from None


def needs_of(plan: Plan, graph: Graph) -> Needs:
    """Returns what a variant asks for. `graph`: what the plan was made for."""
    posts = [Need(spec.name, spec.bytes_max) for spec in (plan.post.specs if plan.post else ())]
    outputs = [_output(plan, graph, output) for output in plan.outputs]
    return Needs(tuple(map(_input, plan.inputs)), (*posts, *outputs), plan.batch_sizes[-1])


def with_room(plan: Plan, sizes: Sizes) -> Plan:
    """Returns the plan with the room that was settled. Its readers keep to it from now on."""
    for planned, bytes_max in zip(plan.inputs, sizes.inputs, strict=True):
        planned.reader.spec = planned.reader.spec.model_copy(update={"bytes_max": bytes_max})
    own = sizes.outputs[len(sizes.outputs) - len(plan.outputs) :]
    outputs = tuple(
        replace(output, spec=output.spec.model_copy(update={"bytes_max": bytes_max}))
        for output, bytes_max in zip(plan.outputs, own, strict=True)
    )
    return replace(plan, outputs=outputs)


def _input(planned: InputPlan) -> Need:
    spec = planned.reader.spec
    if is_fixed(spec.shape) and not spec.encodings and not spec.is_text:
        return Need(spec.name, spec.bytes_max)
    return Need(spec.name, None, spec.bytes_max, bool(spec.encodings))


def _output(plan: Plan, graph: Graph, output: OutputPlan) -> Need:
    spec = output.spec
    if output.sized:
        return Need(spec.name, spec.bytes_max)
    return Need(spec.name, None, spec.bytes_max, per_input_byte=_per_input_byte(plan, graph, output))


def _per_input_byte(plan: Plan, graph: Graph, output: OutputPlan) -> tuple[int, float] | None:
    """Returns (index of the input, bytes of the output for each byte of it) where all open extents of the output are
    those of one input, by their names in the graph; None: its size follows from no input.
    """
    named = _open(graph.outputs[output.tensor].shape)
    if None in named or not named or output.spec.is_text:
        return None
    for index, planned in enumerate(plan.inputs):
        reader = planned.reader
        if reader.spec.encodings or reader.spec.is_text or named - _open(graph.inputs[planned.tensor].shape):
            continue
        of_row = prod(extent for extent in reader.row_shape if extent >= 0) * DTYPES[reader.spec.datatype].itemsize
        if of_row:
            return index, prod(extent for extent in output.row_shape if extent >= 0) * output.dtype.itemsize / of_row
    return None


def _open(shape: Sequence[int | str | None]) -> Counter[str | None]:
    """The names of the open extents. The batch is among them, once in each tensor, and makes no difference."""
    return Counter(extent for extent in shape if not isinstance(extent, int))


def _share(need: Need) -> float:
    """How much an output may be for each byte of an input; variants may know it or not."""
    return need.per_input_byte[1] if need.per_input_byte else 0.0
