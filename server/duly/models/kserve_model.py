"""What a model is in the words of the KServe protocol, by its settings and what its loaded graph can say."""

from duly.models.kserve import ROWS_MAX
from duly.models.spec import ModelConfig, Signature


def rows_max(config: ModelConfig, signature: Signature, frames_max: int) -> int:
    """Returns how many rows a request may have, each of which is a frame; 0: requests have no batch dimension.
    `frames_max`: how many frames of one stream may be unanswered, so that no request can have more.
    """
    stated = config.kserve.max_batch_size
    if stated is None:
        stated = max(signature.batch_sizes) if signature.batched else 0
    return min(stated, ROWS_MAX, frames_max)
