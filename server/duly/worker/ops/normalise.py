"""Brings the elements to the range that a model was trained on: (x * scale - mean) / std."""

import numpy as np

from duly.models.spec import TensorSpec
from duly.models.steps import Normalise
from duly.worker.errors import LoadError
from duly.worker.ops.operation import Affine, Operation, Shape


class NormaliseOperation(Operation):
    def __init__(self, settings: Normalise) -> None:
        self._settings = settings

    def fit(self, shape: Shape, sent: TensorSpec, place: str) -> Shape:
        channels = shape[-1] if shape else 1
        for name, values in (("mean", self._settings.mean), ("std", self._settings.std)):
            if len(values) not in (1, channels):
                raise LoadError(
                    f"{place}.preprocess: normalise.{name} has {len(values)} values; it must have 1, or one for each "
                    f"of the {channels} channels"
                )
        return shape

    def arithmetic(self, before: Affine | None) -> Affine:
        assert before is None, "no operation before it computes anything"
        mean, std = np.broadcast_arrays(self._settings.mean, self._settings.std)
        offset = (-mean / std).astype(np.float32)
        return Affine((self._settings.scale / std).astype(np.float32), offset if offset.any() else None)
