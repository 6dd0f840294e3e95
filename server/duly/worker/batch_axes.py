"""Runs a graph whose batch is not the first dimension of every tensor as if it were.

A tensor without a batch dimension is the only row of a batch of one. Where the batch is another dimension, the rows are
copied into an array of the graph's own layout and back, unless the batch has one frame: then it is the same memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from duly.worker.dtypes import Array
from duly.worker.graph import Axis


@dataclass(frozen=True, slots=True)
class Placed:
    """Inputs that are brought to the device by somebody else than the session (`input_copies`)."""

    slot: int
    addresses: Mapping[str, int]
    """Where the rows of the graph's inputs begin on the device, by name."""


class BoundBatch(Protocol):
    """A batch size that is bound to buffers."""

    def run(self) -> dict[str, Array]:
        """Runs what lies in the inputs. Returns the outputs of any shape; the others are in their arrays.

        Raises:
            RunError: the graph failed.
        """
        ...


class Session(Protocol):
    """A graph that takes and gives rows: arrays with the batch as their first dimension."""

    def bind(
        self,
        size: int,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array | None],
        placed: Placed | None = None,
    ) -> BoundBatch:
        """Binds a batch of `size` frames to arrays that stay where they are. An output of None has any shape.
        `placed`: the inputs that will be on the device when the batch runs.
        """
        ...

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Runs a batch whose shapes may be new.

        Raises:
            RunError: the graph refused it or failed.
        """
        ...


class RowSession:
    """A session as `Session`, over one whose tensors have the batch at `axes`."""

    def __init__(self, session: Session, axes: Mapping[str, Axis]) -> None:
        """`axes`: those of the tensors where the batch is not the first dimension."""
        self._session = session
        self._axes = axes

    def bind(
        self,
        size: int,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array | None],
        placed: Placed | None = None,
    ) -> BoundBatch:
        if placed is not None:  # rows that are laid out anew are not brought as they are
            as_rows = {name: address for name, address in placed.addresses.items() if name not in self._axes}
            placed = Placed(placed.slot, as_rows)
        bound_inputs, into = self._buffers(inputs)
        bound_outputs, out_of = self._buffers({name: rows for name, rows in outputs.items() if rows is not None})
        free: dict[str, Array | None] = dict.fromkeys(outputs)
        binding = self._session.bind(size, bound_inputs, free | bound_outputs, placed)
        return _RowBinding(binding, self._axes, into, out_of)

    def _buffers(self, tensors: Mapping[str, Array]) -> tuple[dict[str, Array], list[tuple[Array, Array]]]:
        """Arrays to bind, and pairs of the rows that have to be copied, as the graph lays them out, and their copy."""
        bound: dict[str, Array] = {}
        copied = []
        for name, rows in tensors.items():
            array = to_graph(rows, self._axes.get(name, 0))
            if not array.flags.c_contiguous:
                buffer = array.copy(order="C")
                copied.append((array, buffer))
                array = buffer
            bound[name] = array
        return bound, copied

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        laid_out = {
            name: to_graph(rows, self._axes[name]).copy(order="C") if name in self._axes else rows
            for name, rows in inputs.items()
        }
        return _as_rows(self._session.run(laid_out, outputs), self._axes)


class _RowBinding:
    def __init__(
        self,
        binding: BoundBatch,
        axes: Mapping[str, Axis],
        into: Sequence[tuple[Array, Array]],
        out_of: Sequence[tuple[Array, Array]],
    ) -> None:
        self._binding = binding
        self._axes = axes
        self._into = into
        self._out_of = out_of

    def run(self) -> dict[str, Array]:
        for rows, buffer in self._into:
            np.copyto(buffer, rows)
        free = self._binding.run()
        for rows, buffer in self._out_of:
            np.copyto(rows, buffer)
        return _as_rows(free, self._axes)


def to_graph(rows: Array, axis: Axis) -> Array:
    """A view of `rows`, whose first dimension is the batch, as the graph lays it out."""
    return rows[0, ...] if axis is None else np.moveaxis(rows, 0, axis) if axis else rows


def _as_rows(tensors: Mapping[str, Array], axes: Mapping[str, Axis]) -> dict[str, Array]:
    rows = dict(tensors)
    for name in axes.keys() & tensors.keys():
        axis = axes[name]
        if axis is None:
            rows[name] = tensors[name][None]
        elif tensors[name].ndim > axis:  # else `Model` says what came instead of rows
            rows[name] = np.moveaxis(tensors[name], axis, 0)
    return rows
