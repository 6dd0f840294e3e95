"""Which loss fits a model: one that falls as the measure of its answers rises."""

from collections.abc import Sequence

import numpy as np

from duly_learn.graphs.constants import Array
from duly_learn.optimize.examples import Answers
from duly_learn.optimize.losses import Loss, of_logits, of_probabilities, of_yolo_v2, squared
from duly_learn.optimize.step import OptimizeSource

_ROUNDING = 1e-3
"""Probabilities sum to 1 but for this."""


def loss_of(source: OptimizeSource, samples: Sequence[Answers]) -> tuple[Loss, str]:
    """Returns the loss, and in a few words what it is.

    `samples`: the original's graph outputs for some frames, which tell how far they spread and whether classes are
    probabilities or logits.
    """
    config = source.version.config
    if config.postprocess is not None:
        return of_yolo_v2(config.postprocess.tensor, len(config.postprocess.anchors)), "the region layer's own losses"
    tensor = _tensor_of(source, samples[0])
    if source.measure.name == "top1" and tensor is not None and samples[0][tensor].ndim == 2:
        values = np.concatenate([each[tensor] for each in samples])
        if values.dtype.kind == "f" and values.shape[1] > 1:
            sums = values.sum(axis=1)
            if values.min() >= 0 and np.abs(sums - 1).max() < _ROUNDING:
                return of_probabilities(tensor), "the divergence of the classes' probabilities"
            return of_logits(tensor), "the divergence of the classes' probabilities"
    variances = {
        name: float(np.var(np.stack([each[name] for each in samples])))
        for name, value in samples[0].items()
        if value.dtype.kind == "f"
    }
    return squared(variances), "the squared distance of all outputs"


def _tensor_of(source: OptimizeSource, sample: dict[str, Array]) -> str | None:
    """The graph's output that the measure looks at, where there is one by that name."""
    name = getattr(source.measure, "output", "")
    stated = next((each.tensor or each.name for each in source.version.config.outputs if each.name == name), name)
    return stated if stated in sample else None
