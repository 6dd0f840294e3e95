"""Models as clients of the protocol see them: their metadata, and their configuration in the words of config.pbtxt.

Both are made of what the server does with the model, whatever its settings were written in.
"""

from collections.abc import Sequence
from typing import Final

from duly.accelerators import device_of
from duly.core.types import StreamClass
from duly.models.spec import STATES_MAX, Signature, TensorSpec
from duly.rpc.kserve.front_end import PRIORITY_LEVELS, SEQUENCE_IDLE_NS_MAX
from duly.rpc.kserve.messages import ModelConfig, ModelInstanceGroup, ModelMetadataResponse, ModelQueuePolicy
from duly.rpc.kserve.tensors import datatype_of
from duly.runtime.catalogue import LoadedVersion
from duly.runtime.device_memory import on_host

PLATFORM: Final = "onnxruntime_onnx"
BACKEND: Final = "onnxruntime"


def metadata(
    loaded: LoadedVersion, signature: Signature, served: Sequence[LoadedVersion], rows: int
) -> ModelMetadataResponse:
    """Describes what a client sends and gets. `served`: the versions of the model that serve. `rows`: how many a
    request may have; 0: it has no batch dimension.
    """
    response = ModelMetadataResponse(name=loaded.version.name, versions=_numbers(served), platform=PLATFORM)
    for tensors, specs in ((response.inputs, signature.inputs), (response.outputs, signature.outputs)):
        for spec in specs:
            tensors.add(name=spec.name, datatype=datatype_of(spec), shape=(-1, *spec.shape) if rows else spec.shape)
    return response


def configuration(
    loaded: LoadedVersion,
    signature: Signature,
    served: Sequence[LoadedVersion],
    lanes: Sequence[str],
    budget_ns: int,
    rows: int,
) -> ModelConfig:
    """Describes how a version is served. `served`: the versions of the model that serve. `budget_ns`: of requests that
    state none. `rows`: how many a request may have; 0: it has no batch dimension.
    """
    config = loaded.version.config
    described = ModelConfig(
        name=loaded.version.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=rows,
        default_model_filename=config.variants[0].file,
    )
    described.version_policy.specific.versions.extend(int(number) for number in _numbers(served))
    for spec in signature.inputs:
        described.input.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape)
    for spec in signature.outputs:
        labels = config.labels if spec.labels else ""
        described.output.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape, label_filename=labels)
    described.instance_group.extend(_instances(loaded.version.name, lanes))
    if signature.stateful:
        _describe_sequences(described, loaded, signature)
    elif described.max_batch_size:
        batching = described.dynamic_batching
        batching.preferred_batch_size.extend(signature.batch_sizes)
        batching.priority_levels = levels = config.kserve.priority_levels or PRIORITY_LEVELS
        least = levels if config.default_class == StreamClass.BEST_EFFORT.name else (levels + 1) // 2
        batching.default_priority_level = least
        batching.default_queue_policy.CopyFrom(
            ModelQueuePolicy(
                timeout_action=ModelQueuePolicy.REJECT,
                default_timeout_microseconds=budget_ns // 1000,
                allow_timeout_override=True,
            )
        )
    described.model_transaction_policy.decoupled = False
    return described


def _describe_sequences(described: ModelConfig, loaded: LoadedVersion, signature: Signature) -> None:
    sequences = described.sequence_batching
    sequences.max_sequence_idle_microseconds = SEQUENCE_IDLE_NS_MAX // 1000
    sequences.oldest.max_candidate_sequences = STATES_MAX
    sequences.oldest.preferred_batch_size.extend(signature.batch_sizes)
    kept = {spec.name: spec for spec in signature.states}
    for state in loaded.version.config.states:
        spec = kept[state.input]
        sequences.state.add(
            input_name=state.input, output_name=state.output, data_type=_data_type(spec), dims=spec.shape
        )


def _instances(model: str, lanes: Sequence[str]) -> list[ModelInstanceGroup]:
    """Describes the lanes: those on the CPU are instances of one group, each GPU has its own."""
    groups: list[ModelInstanceGroup] = []
    cpus = [lane for lane in lanes if on_host(lane)]
    if cpus:
        groups.append(ModelInstanceGroup(kind=ModelInstanceGroup.KIND_CPU, count=len(cpus)))
    for lane in lanes:
        if lane not in cpus:
            number = device_of(lane)
            group = ModelInstanceGroup(kind=ModelInstanceGroup.KIND_GPU, count=1)
            group.gpus.append(int(number) if number.isdigit() else 0)
            groups.append(group)
    for index, group in enumerate(groups):
        group.name = f"{model}_{index}"
    return groups


def _numbers(served: Sequence[LoadedVersion]) -> list[str]:
    return [loaded.version.version for loaded in sorted(served, key=lambda loaded: int(loaded.version.version))]


def _data_type(spec: TensorSpec) -> str:
    return f"TYPE_{spec.datatype}"
