"""What a model is in the words of the KServe protocol, by its settings and what its loaded graph can say."""

from dataclasses import dataclass

from duly.models.spec import ModelConfig, Signature


@dataclass(frozen=True, slots=True)
class KServeTensor:
    """An input or output."""

    name: str
    datatype: str
    """The name of duly and the protocol's data plane, such as FP32; that of `ModelConfig` has TYPE_ before it."""
    dims: tuple[int, ...]
    """The shape without the batch dimension; -1 stands for any extent."""


@dataclass(frozen=True, slots=True)
class KServeModel:
    """What `ModelConfig` and `ModelMetadata` of the protocol say."""

    max_batch_size: int
    """0: requests have no batch dimension. Otherwise the shapes of the metadata have one of -1 before the dims."""
    dynamic_batching: bool
    sequence_batching: bool
    """Whether state is kept of streams. At most one of the two is true."""
    inputs: tuple[KServeTensor, ...]
    outputs: tuple[KServeTensor, ...]


def kserve_model(config: ModelConfig, signature: Signature) -> KServeModel:
    """Describes a loaded version."""
    largest = signature.batch_sizes[-1]
    stated = config.kserve.max_batch_size
    return KServeModel(
        max_batch_size=stated if stated is not None else largest if largest > 1 else 0,
        dynamic_batching=largest > 1 and not signature.stateful,
        sequence_batching=signature.stateful,
        inputs=tuple(KServeTensor(spec.name, spec.datatype, spec.shape) for spec in signature.inputs),
        outputs=tuple(KServeTensor(spec.name, spec.datatype, spec.shape) for spec in signature.outputs),
    )
