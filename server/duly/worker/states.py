"""What a worker remembers of each stream between two frames: state tensors and the end of its sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from duly.models.spec import STATES_MAX
from duly.worker.dtypes import Array

STREAMS_MAX = STATES_MAX + 1024
"""A worker remembers so many streams: those that may be open, single frames, and streams that have just closed. A frame
of one more is FAILED, rather than that another stream loses its state without a word."""


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A graph output that is the same stream's next input. Starts as zeros."""

    input: str
    output: str
    batch_axis: int
    shape: tuple[int, ...]
    """The shape for one frame, with 1 for the batch dimension."""
    dtype: np.dtype[Any]

    def batch(self, size: int) -> Array:
        """Zeros for `size` streams."""
        shape = list(self.shape)
        shape[self.batch_axis] = size
        return np.zeros(shape, self.dtype)


@dataclass(slots=True)
class _Stream:
    states: list[Array]
    contexts: dict[int, Array]


class StreamStates:
    """The memory of all streams, by stream id."""

    def __init__(self, tensors: Sequence[StateTensor], streams_max: int = STREAMS_MAX) -> None:
        self._tensors = tensors
        self._streams_max = streams_max
        self._streams: dict[int, _Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def has_room(self, stream_id: int) -> bool:
        """Whether something of the stream can be remembered."""
        return stream_id in self._streams or len(self._streams) < self._streams_max

    def forget(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)

    def context(self, stream_id: int, index: int) -> Array | None:
        """The end of the sound that the stream's last frame gave for input `index`; None: the stream is new."""
        stream = self._streams.get(stream_id)
        return None if stream is None else stream.contexts.get(index)

    def gather(self, stream_ids: Sequence[int], batches: Sequence[Array]) -> None:
        """Puts the streams' states into `batches`, one array for each state tensor, in the order of `stream_ids`."""
        for index, (tensor, batch) in enumerate(zip(self._tensors, batches, strict=True)):
            rows = np.moveaxis(batch, tensor.batch_axis, 0)
            for row, stream_id in enumerate(stream_ids):
                stream = self._streams.get(stream_id)
                rows[row] = 0 if stream is None else stream.states[index]

    def remember(self, stream_id: int, row: int, batches: Sequence[Array], contexts: dict[int, Array]) -> None:
        """Keeps row `row` of the states that the graph gave, and the ends of the frame's sound by input."""
        states = [
            np.moveaxis(batch, tensor.batch_axis, 0)[row].copy()
            for tensor, batch in zip(self._tensors, batches, strict=True)
        ]
        self._streams[stream_id] = _Stream(states, contexts)
