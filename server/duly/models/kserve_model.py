"""What a model is in the words of the KServe protocol, by its settings and what its loaded graph can say."""

from duly.models.spec import ModelConfig, Signature


def rows_max(config: ModelConfig, signature: Signature) -> int:
    """Returns how many rows a request may have, each of which is a frame; 0: requests have no batch dimension."""
    stated = config.kserve.max_batch_size
    if stated is not None:
        return stated
    return max(signature.batch_sizes) if signature.batched else 0
