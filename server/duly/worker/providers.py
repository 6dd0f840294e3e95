"""Which execution providers a model asks for, and whether they are the ones that truly run it.

ONNX Runtime treats providers as wishes: a session that asks for CUDA on a machine without a GPU succeeds on the CPU,
with a line in the log. Here a provider that was asked for and is not used is an error. This file needs nothing of ONNX
Runtime, because what a session says about itself comes in as plain data.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from duly.accelerators import (
    ACCELERATORS,
    CPU,
    CUDA,
    OPENVINO,
    Accelerator,
    device_of,
    how_to_install,
    of_lane,
    of_provider,
)
from duly.models.spec import ModelConfig, Provider
from duly.models.wording import first_few

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

_HOST_MEMORIES = frozenset({"Cpu", "CpuPinned", "CudaPinned", "HipPinned", "MIGraphXPinned"})
"""What ONNX Runtime calls memory of the host; all other names are of a device's."""


ASK_THE_DOCTOR = "; duly doctor says what is missing"
"""How an error ends where a provider finds no device, or not what its device needs."""


class ProviderError(Exception):
    """A provider that was asked for is not the one that runs the model."""


class Node(NamedTuple):
    op_type: str
    name: str


def wanted(config: ModelConfig, lane: str, threads: int = 0, memory_bytes_max: int = 0) -> tuple[Provider, ...]:
    """Returns the providers to ask for on this lane ("cpu:0", "openvino:NPU"), with its device, in order of preference.
    `threads`: how many a batch may take on a processor; 0: the provider chooses. `memory_bytes_max`: what each may take
    of the device's memory, where it can be told; 0: what there is.

    Options in model.toml win over those that are set here.
    """
    own = of_lane(lane)
    device = device_of(lane)
    asked = config.providers or (Provider(name=own.provider),)
    set_here = [_options(provider.name, own, device, config, threads, memory_bytes_max) for provider in asked]
    return tuple(
        provider.model_copy(update={"options": options | provider.options})
        for provider, options in zip(asked, set_here, strict=True)
    )


def _options(
    name: str, own: Accelerator, device: str, config: ModelConfig, threads: int, memory_bytes_max: int
) -> dict[str, str | int | float | bool]:
    """Returns what a lane of the accelerator `own` sets for a provider: nothing where it is of another kind."""
    row = of_provider(name)
    if row is None or row.kind != own.kind:
        return {}
    options: dict[str, str | int | float | bool] = {row.device_option: device} if row.device_option else {}
    if memory_bytes_max and row.memory_option:
        options[row.memory_option] = memory_bytes_max
    if name == CUDA:
        # kNextPowerOfTwo, the default, doubles what it takes from a device that other models share.
        options |= {"arena_extend_strategy": "kSameAsRequested", "enable_cuda_graph": int(config.cuda_graph)}
    if name == OPENVINO and device == "CPU" and threads:
        options["num_of_threads"] = threads  # it has threads of its own, and would take all processors
    return options


def check_available(asked: Sequence[Provider], available: Sequence[str], installed: tuple[str, str]) -> None:
    """Raises ProviderError if neither the installed ONNX Runtime nor a plugin has a provider that has no library of its
    own. `available`: what either has. `installed`: the name and the version of the distribution.
    """
    for provider in asked:
        if provider.library is None and provider.name not in available:
            raise ProviderError(
                f"{provider.name} is not in {' '.join(installed)}, which has {', '.join(available)}; "
                f"{_remedy(provider.name, available, installed[0])}"
            )


def _remedy(name: str, available: Sequence[str], there: str) -> str:
    """Says what to do about a provider that is not there."""
    whole = f"{name}ExecutionProvider".lower()
    for known in (*available, *(each.provider for each in ACCELERATORS)):
        if known.lower() == whole:
            return f"did you mean {known}?"
    row = of_provider(name)
    if row is None:
        return "take it out"
    return how_to_install(row, there) or f"it needs {row.needs}"


def check_used(
    asked: Sequence[Provider],
    registered: Sequence[str],
    assigned: Mapping[str, Sequence[Node]],
    memories: Collection[str] = (),
) -> tuple[str, ...]:
    """Returns the providers that run nodes, in order of preference. The first must, and each other one must unless
    those before it leave nothing.

    A provider that wants pictures in the order NHWC (WebGPU's; CUDA's where prefer_nhwc is set) has its nodes assigned
    before ONNX Runtime begins to write them down, up to 1.32: of those it names only what the change of order adds,
    while all that is left to the CPU is named. That the provider runs nodes then shows in the memory of its device.

    Args:
        asked: what the model asked for.
        registered: the providers that the session says it has.
        assigned: the nodes that the session assigned to each provider.
        memories: what ONNX Runtime calls the memories from which the session takes inputs and to which it gives
            outputs.

    Raises:
        ProviderError: a provider could not start or runs no node that it should, or nodes fell to a CPU that nobody
            asked for.
    """
    names = [provider.name for provider in asked]
    for name in names:
        if name not in registered:
            raise ProviderError(
                f"{name} could not start here; the session has {', '.join(registered)} only{ASK_THE_DOCTOR}"
            )
    on_cpu = assigned.get(CPU, ())
    runs = {name for name, nodes in assigned.items() if nodes}
    if not runs:
        return tuple(names)  # the graph computes nothing, which is no provider's fault
    devices = {name for name in names if name != CPU}
    if len(devices) == 1 and any(memory not in _HOST_MEMORIES for memory in memories):
        runs |= devices
    for place, name in enumerate(names):
        if name not in runs and not (place and (name == CPU or _leave_nothing(names[:place], assigned))):
            others = "; ".join(f"{other} runs {_named(nodes)}" for other, nodes in assigned.items() if nodes)
            raise ProviderError(f"{name} was asked for and runs no node of the graph: {others}; take it out")
    if CPU not in names:
        fallen = [node for node in on_cpu if node.op_type not in _SHAPE_OPS]
        if fallen:
            raise ProviderError(
                f"{', '.join(names)} can't run all of the graph: {_named(fallen)} fell to the CPU; "
                f"add {CPU} to providers to allow that"
            )
    used = [name for name in names if name in runs]
    return tuple(used + [name for name in assigned if name in runs and name not in used])


def _leave_nothing(names: Collection[str], assigned: Mapping[str, Sequence[Node]]) -> bool:
    """Whether these providers run all of the graph, but for shapes. What stands behind the CPU would never run any."""
    others = [node for name, nodes in assigned.items() if name not in names for node in nodes]
    return CPU not in names and all(node.op_type in _SHAPE_OPS for node in others)


def on_host(memories: Mapping[str, str]) -> frozenset[str]:
    """Returns the names of the tensors that lie in memory of the host. `memories`: what ONNX Runtime calls the memory
    of each.
    """
    return frozenset(name for name, memory in memories.items() if memory in _HOST_MEMORIES)


def warm_after_ns(used: Sequence[str]) -> int:
    """Returns how long the lane may be idle before it is warmed again; 0: for ever, as it has no clocks that fall."""
    idles = {each.provider for each in ACCELERATORS if each.idles}
    return WARM_AFTER_NS if idles.intersection(used) else 0


def _named(nodes: Sequence[Node]) -> str:
    named = [f"{node.op_type} '{node.name}'" if node.name else node.op_type for node in nodes]
    return first_few(named, NODES_NAMED_MAX)
