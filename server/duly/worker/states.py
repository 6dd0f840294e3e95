"""What a worker remembers of each stream between two frames: state tensors and the end of its sound."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from duly.models.spec import STATES_MAX
from duly.worker.dtypes import Array

STREAMS_MAX = STATES_MAX + 1024
"""A worker remembers so many streams: those that may be open, single frames, and streams that have just closed. A frame
of one more is FAILED, rather than that another stream loses its state without a word."""


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A graph output that is the same stream's next input."""

    input: str
    output: str
    batch_axis: int
    shape: tuple[int, ...]
    """The shape for one frame, with 1 for the batch dimension."""
    dtype: np.dtype[Any]
    first: Array | None = field(default=None, compare=False)
    """What a stream begins with, without the batch dimension; None: zeros."""

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

    def __init__(
        self,
        tensors: Sequence[StateTensor],
        streams_max: int = STREAMS_MAX,
        contexts: Mapping[int, "np.dtype[Any]"] | None = None,
        context_sizes: Mapping[int, int] | None = None,
    ) -> None:
        """`contexts` and `context_sizes`: type and number of the elements that are kept of inputs, by their index."""
        self._tensors = tensors
        self._contexts = contexts or {}
        self._context_sizes = context_sizes or {}
        self._streams_max = streams_max
        self._streams: dict[int, _Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def knows(self, stream_id: int) -> bool:
        """Whether a frame of the stream has run since it began or was reset."""
        return stream_id in self._streams

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
            first = 0 if tensor.first is None else tensor.first
            rows = np.moveaxis(batch, tensor.batch_axis, 0)
            for row, stream_id in enumerate(stream_ids):
                stream = self._streams.get(stream_id)
                rows[row] = first if stream is None else stream.states[index]

    def remember(self, stream_id: int, row: int, batches: Sequence[Array], contexts: dict[int, Array]) -> None:
        """Keeps row `row` of the states that the graph gave, and the ends of the frame's sound by input."""
        states = [
            np.moveaxis(batch, tensor.batch_axis, 0)[row].copy()
            for tensor, batch in zip(self._tensors, batches, strict=True)
        ]
        self._streams[stream_id] = _Stream(states, contexts)

    def give(self, stream_id: int) -> bytes | None:
        """Forgets the stream and returns what was kept of it: states, then the ends of its sound; None: nothing was."""
        stream = self._streams.pop(stream_id, None)
        if stream is None or stream.contexts.keys() != self._contexts.keys():
            return None
        return b"".join(
            [state.tobytes() for state in stream.states]
            + [np.asarray(stream.contexts[index], dtype).tobytes() for index, dtype in self._contexts.items()]
        )

    def take(self, stream_id: int, data: bytes) -> None:
        """Keeps of the stream what another worker gave, if there is room. Raises ValueError where its size is wrong."""
        if not self.has_room(stream_id):
            return  # the frame that follows is FAILED
        at = 0
        states, contexts = [], {}
        for tensor in self._tensors:
            shape = [extent for axis, extent in enumerate(tensor.shape) if axis != tensor.batch_axis]
            state = np.frombuffer(data, tensor.dtype, prod(shape), at).reshape(shape)
            at += state.nbytes
            states.append(state)
        for index, dtype in self._contexts.items():
            contexts[index] = np.frombuffer(data, dtype, self._context_sizes[index], at)
            at += contexts[index].nbytes
        if at != len(data):
            raise ValueError(f"a state of {len(data)} bytes, {at} are kept of a stream")
        self._streams[stream_id] = _Stream(states, contexts)
