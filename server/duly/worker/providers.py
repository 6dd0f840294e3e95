"""Which execution providers a model asks for, and whether they are the ones that truly run it.

ONNX Runtime treats providers as wishes: a session that asks for CUDA on a machine without a GPU succeeds on the CPU,
with a line in the log. Here a provider that was asked for and is not used is an error. This file needs nothing of ONNX
Runtime, because what a session says about itself comes in as plain data.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from duly.models.spec import ModelConfig, Provider
from duly.models.wording import first_few

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

WARM_AFTER_NS = 1_000_000_000
"""A GPU that has been idle for so long has lowered its clocks, and the first batches after that would run late."""
NODES_NAMED_MAX = 10
"""An error names so many nodes and counts the rest."""

# fmt: off
_SHAPE_OPS = frozenset({
    "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather",
    "Greater", "Identity", "If", "Less", "Loop", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Range", "ReduceMax",
    "ReduceMin", "ReduceProd", "Reshape", "ScatterND", "Shape", "Size", "Slice", "Split", "Squeeze", "Sub", "Tile",
    "Transpose", "Unsqueeze", "Where",
})
# fmt: on
"""Operators that compute shapes. ONNX Runtime keeps them on the CPU, whatever is asked for, since a shape is needed on
the host (`GetCpuPreferredNodes`)."""


class ProviderError(Exception):
    """A provider that was asked for is not the one that runs the model."""


class Node(NamedTuple):
    op_type: str
    name: str


def wanted(config: ModelConfig, lane: str) -> tuple[Provider, ...]:
    """Returns the providers to ask for on this lane ("cpu:0", "cuda:1"), with its device, in order of preference.

    Options in model.toml win over those that are set here.
    """
    kind, _, index = lane.partition(":")
    providers = config.providers or (Provider(name=CUDA if kind == "cuda" else CPU),)
    if kind != "cuda":
        return providers
    device: dict[str, dict[str, str | int | float | bool]] = {
        # kNextPowerOfTwo, the default, doubles what it takes from a device that other models share.
        CUDA: {
            "device_id": index,
            "arena_extend_strategy": "kSameAsRequested",
            "enable_cuda_graph": int(config.cuda_graph),
        },
        TENSORRT: {"device_id": index},
    }
    return tuple(p.model_copy(update={"options": {**device.get(p.name, {}), **p.options}}) for p in providers)


def check_available(asked: Sequence[Provider], available: Sequence[str], release: str) -> None:
    """Raises ProviderError if the installed `release` of ONNX Runtime lacks a provider that has no library."""
    for provider in asked:
        if provider.library is None and provider.name not in available:
            advice = "install duly[gpu] in place of duly[cpu]" if provider.name in (CUDA, TENSORRT) else "take it out"
            whole = f"{provider.name}ExecutionProvider".lower()
            advice = next(
                (f"did you mean {name}?" for name in (*available, CUDA, TENSORRT) if name.lower() == whole), advice
            )
            raise ProviderError(f"{provider.name} is not in {release}, which has {', '.join(available)}; {advice}")


def check_used(
    asked: Sequence[Provider], registered: Sequence[str], assigned: Mapping[str, Sequence[Node]]
) -> tuple[str, ...]:
    """Returns the providers that run nodes, in order of preference.

    Args:
        asked: what the model asked for.
        registered: the providers that the session says it has.
        assigned: the nodes that the session assigned to each provider.

    Raises:
        ProviderError: a provider could not start or runs no node, or nodes fell to a CPU that nobody asked for.
    """
    names = [provider.name for provider in asked]
    for name in names:
        if name not in registered:
            raise ProviderError(f"{name} could not start here; the session has {', '.join(registered)} only")
    on_cpu = assigned.get(CPU, ())
    if not any(assigned.values()):
        return tuple(names)  # the graph computes nothing, which is no provider's fault
    for place, name in enumerate(names):
        if not assigned.get(name) and (place == 0 or name != CPU):
            others = "; ".join(f"{other} runs {_named(nodes)}" for other, nodes in assigned.items() if nodes)
            raise ProviderError(f"{name} was asked for and runs no node of the graph: {others}; take it out")
    if CPU not in names:
        fallen = [node for node in on_cpu if node.op_type not in _SHAPE_OPS]
        if fallen:
            raise ProviderError(
                f"{', '.join(names)} can't run all of the graph: {_named(fallen)} fell to the CPU; "
                f"add {CPU} to providers to allow that"
            )
    used = [name for name in names if assigned.get(name)]
    return tuple(used + [name for name in assigned if assigned[name] and name not in used])


def warm_after_ns(used: Sequence[str]) -> int:
    """Returns how long the lane may be idle before it is warmed again; 0: for ever, since nothing runs on a GPU."""
    return WARM_AFTER_NS if CUDA in used or TENSORRT in used else 0


def _named(nodes: Sequence[Node]) -> str:
    named = [f"{node.op_type} '{node.name}'" if node.name else node.op_type for node in nodes]
    return first_few(named, NODES_NAMED_MAX)
