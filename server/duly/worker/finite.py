"""Finds outputs and states that are not finite, which are no results whatever the graph meant by them."""

from collections.abc import Mapping, Sequence

import numpy as np

from duly.models.spec import ModelConfig
from duly.worker.all_finite import all_finite, finite
from duly.worker.dtypes import Array, is_floating
from duly.worker.plan import Plan

HOLLOW_BATCHES = 8
"""After so many batches in a row that gave nothing finite, the worker tries a frame of its own. If that fares no
better, it is the worker, and not what clients send."""


class FiniteChecks:
    """Checks what the graph of one variant gives."""

    def __init__(self, config: ModelConfig, plan: Plan) -> None:
        stated = {output.name: output.finite for output in config.outputs}
        names = {output.tensor: output.spec.name for output in plan.outputs}
        self._outputs = {
            tensor: name
            for tensor, name in names.items()
            if (config.gives_finite if stated.get(name) is None else stated[name])
        }
        """The names of the outputs that must be finite, by their tensors."""
        if plan.post and config.gives_finite:
            self._outputs.setdefault(plan.post.tensor, plan.post.tensor)
        self._states = [state.output for state in plan.states] if config.gives_finite else []

    def outputs(self, outputs: Mapping[str, Array], rows: int) -> dict[int, str]:
        """Returns for each of the first `rows` rows with a NaN or an infinity what to tell its client."""
        faults: dict[int, str] = {}
        for tensor, name in self._outputs.items():
            for row in _not_finite(outputs[tensor][:rows]):
                faults.setdefault(row, f"output '{name}': an element is NaN or infinite (output_finite in model.toml)")
        return faults

    def states(self, states: Sequence[Array], axes: Sequence[int], rows: int) -> dict[int, str]:
        """The same for states. `axes`: which dimension of each is the batch."""
        faults: dict[int, str] = {}
        for name, state, axis in zip(self._states, states, axes, strict=False):
            for row in _not_finite(np.moveaxis(state, axis, 0)[:rows]):
                faults.setdefault(
                    row,
                    f"state '{name}': an element is NaN or infinite (output_finite in model.toml); the state of the "
                    "stream starts anew",
                )
        return faults


def _not_finite(array: Array) -> list[int]:
    """The rows with an element that is not finite."""
    if not is_floating(array.dtype) or all_finite(array):
        return []
    rows = finite(array).reshape(len(array), -1).all(axis=1)
    return [int(row) for row in np.flatnonzero(~rows)]
