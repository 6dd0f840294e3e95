"""Frames of models that keep state, which mean something together with those before them, without any I/O.

`States` knows for each stream how many frames its state has seen. `Runs` draws runs of neighbouring frames evenly, as
`Reservoir` draws single ones: a run that is run again from its first frame on has nearly the states that the server
had, from some frames after its beginning on, or from the beginning where that is the state's own.
"""

from collections.abc import Callable
from typing import NamedTuple

from duly.sampling.reservoir import Reservoir


class State(NamedTuple):
    """What the state that a frame ran with had seen. Frames with the same `begun` and `age` one after the other follow
    one another: none ran between them.
    """

    begun: int
    """The id of the frame that the state began with: the stream's first one, or the first after a reset."""
    age: int
    """How many frames had run with it before; 0: it began with this one."""


class States:
    """The states of all streams, of at most `streams_max` at a time. Of further ones nothing is known until theirs
    begin anew.
    """

    def __init__(self, streams_max: int) -> None:
        self._streams_max = streams_max
        self._next: dict[int, State] = {}
        """What the next frame of each stream runs with, if nothing is reset."""
        self._unknown_up_to = -1
        """The latest stream of which nothing is known though a frame of it has run."""

    def __len__(self) -> int:
        return len(self._next)

    def ran(self, stream_id: int, frame_id: int, anew: bool) -> State | None:
        """Notes a frame that has run, and returns with what; None: it is not known. `anew`: whether the state of its
        stream was reset before it. Streams have rising numbers.
        """
        state = self._next.get(stream_id)
        if anew or (state is None and stream_id > self._unknown_up_to):
            state = State(frame_id, 0)
        if state is None:
            return None
        if stream_id in self._next or len(self._next) < self._streams_max:
            self._next[stream_id] = State(state.begun, state.age + 1)
        else:
            self._unknown_up_to = max(self._unknown_up_to, stream_id)
        return state

    def forget(self, is_gone: Callable[[int], bool]) -> None:
        """Forgets the streams that are gone."""
        for stream_id in [stream_id for stream_id in self._next if is_gone(stream_id)]:
            del self._next[stream_id]


class Runs:
    """Which frames of one stream are kept: runs of `frames` of them, each run as likely as any other."""

    __slots__ = ("_at", "_drawn", "_frames", "_reservoir")

    def __init__(self, reservoir: Reservoir, frames: int) -> None:
        """`reservoir`: draws the runs."""
        self._reservoir = reservoir
        self._frames = frames
        self._drawn: int | None = None
        """The place of the present run among those that are kept; None: it is not kept."""
        self._at = frames
        """How many frames of the present run there were."""

    def offer(self, begins: bool) -> int | None:
        """Returns the place, from 0, in which the next frame is kept; None: it is not. `begins`: whether the state
        begins with it, and so a run.
        """
        if begins or self._at == self._frames:
            self._drawn = self._reservoir.offer()
            self._at = 0
        nth = self._at
        self._at += 1
        return None if self._drawn is None else self._drawn * self._frames + nth
