"""Fills the graph inputs that say of a frame where it stands in its stream."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from duly.models.control import CONTROLS_MAX, Kind
from duly.models.spec import ModelConfig
from duly.worker.channel import Run
from duly.worker.dtypes import DTYPES, Array
from duly.worker.errors import LoadError
from duly.worker.graph import Graph, extents
from duly.worker.states import StreamStates
from duly.worker.ways_out import no_such


class _Standing(NamedTuple):
    """Where a frame stands in its stream."""

    stream_id: int
    first: bool
    """Whether nothing is remembered of the stream."""
    last: bool


@dataclass(frozen=True, slots=True)
class ControlTensor:
    """A graph input with one element for each frame."""

    input: str
    kind: Kind
    batch_axis: int
    shape: tuple[int, ...]
    """The shape for one frame, with 1 for the batch dimension; all other extents are 1."""
    dtype: np.dtype[Any]
    false: float
    true: float

    def batch(self, size: int) -> Array:
        """What stands for `size` rows without a frame."""
        shape = list(self.shape)
        shape[self.batch_axis] = size
        return np.full(shape, 0 if self.kind == "STREAM" else self.false, self.dtype)

    def made_up(self, size: int) -> Array:
        """What stands for `size` frames, each in the midst of its stream."""
        batch = self.batch(size)
        self.fill(batch, [_Standing(0, False, False)] * size)
        return batch

    def fill(self, batch: Array, frames: Sequence[_Standing]) -> None:
        """Writes what holds of the frames, one in each row; the rows behind them have no frame."""
        rows = batch.reshape(-1)  # only the batch is longer than 1
        if self.kind == "STREAM":
            mask = (1 << 8 * self.dtype.itemsize) - 1
            rows[:] = 0
            numbers = np.array([frame.stream_id & mask for frame in frames], np.uint64)
            rows[: len(frames)] = numbers.astype(f"u{self.dtype.itemsize}").view(self.dtype)
            return
        rows[:] = self.false
        for row, frame in enumerate(frames):
            if self.kind == "READY" or (frame.first if self.kind == "START" else frame.last):
                rows[row] = self.true


class Controls:
    """All control inputs of a model."""

    def __init__(self, tensors: Sequence[ControlTensor]) -> None:
        self._tensors = tensors

    def batches(self, size: int) -> dict[str, Array]:
        """An array for each, by its graph input."""
        return {tensor.input: tensor.batch(size) for tensor in self._tensors}

    def fill(self, batches: Mapping[str, Array], run: Run, indices: Sequence[int], streams: StreamStates) -> None:
        """Writes what holds of the frames of `run` that have these indices, one in each row."""
        if not self._tensors:
            return
        frames = []
        for index in indices:
            stream_id = run.frames[index][0]
            frames.append(_Standing(stream_id, not streams.knows(stream_id), index in run.last))
        for tensor in self._tensors:
            tensor.fill(batches[tensor.input], frames)


def plan_controls(graph: Graph, config: ModelConfig) -> Iterator[ControlTensor]:
    """Gives one tensor for each control of `config`. `graph` has the batch where model.toml says. Raises LoadError."""
    if len(config.controls) > CONTROLS_MAX:
        raise LoadError(f"control: at most {CONTROLS_MAX} are served, got {len(config.controls)}")
    for index, control in enumerate(config.controls):
        place = f"control[{index}]"
        tensor = graph.inputs.get(control.input)
        if tensor is None:
            raise LoadError(f"{place}.input: {no_such(control.input, 'input', list(graph.inputs), 'input')}")
        shape = list(extents(tensor.shape))
        if control.batch_axis >= len(shape):
            raise LoadError(f"{place}.batch_axis: {control.batch_axis} is no axis of '{tensor.name}', shape {shape}")
        shape[control.batch_axis] = 1
        shape = [1 if extent < 0 else extent for extent in shape]
        dtype = DTYPES.get(tensor.datatype)
        if dtype is None or prod(shape) != 1:
            what = f"{tensor.datatype}{list(tensor.shape)}"
            raise LoadError(f"{place}.input: '{tensor.name}' is {what}; a control has one number for each frame")
        if control.kind == "STREAM" and not np.issubdtype(dtype, np.integer):
            raise LoadError(f"{place}.input: '{tensor.name}' is {tensor.datatype}; a stream's number is a whole one")
        false, true = control.false_true or (0.0, 1.0)
        for each in (false, true):
            with np.errstate(all="ignore"):
                if control.kind != "STREAM" and float(np.float64(each).astype(dtype)) != each:
                    raise LoadError(f"{place}.false_true: {each:g} is no {tensor.datatype}, which '{tensor.name}' is")
        yield ControlTensor(tensor.name, control.kind, control.batch_axis, tuple(shape), dtype, false, true)
