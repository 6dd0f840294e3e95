"""The order in which the outcomes of a stream leave. Each policy is a small filter between the runtime and the wire."""

from collections import deque
from collections.abc import Collection
from enum import IntEnum
from typing import Protocol

from duly.core import fates
from duly.core.fates import RESULTS
from duly.runtime.outcome import Outcome


class OrderingPolicy(IntEnum):
    """The numbers are those of the wire protocol."""

    ARRIVAL = 1
    UNORDERED = 2
    MONOTONIC = 3


class Ordering(Protocol):
    def arrived(self, frame_id: int) -> None:
        """Notes that a frame came. Its outcome will be pushed exactly once."""

    def push(self, outcome: Outcome) -> list[Outcome]:
        """Takes an outcome and returns those that may leave now, in order."""

    def release(self) -> list[Outcome]:
        """Returns what was held back. Nothing more may be pushed."""

    def held(self) -> Collection[Outcome]:
        """Returns what is held back now."""


class Arrival:
    """Lets outcomes leave in the order in which the frames came. What it holds meanwhile counts as waiting to be
    written.
    """

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._held: dict[int, Outcome] = {}

    def arrived(self, frame_id: int) -> None:
        self._order.append(frame_id)

    def push(self, outcome: Outcome) -> list[Outcome]:
        self._held[outcome.held.frame.frame_id] = outcome
        leaving: list[Outcome] = []
        while self._order and self._order[0] in self._held:
            leaving.append(self._held.pop(self._order.popleft()))
        return leaving

    def release(self) -> list[Outcome]:
        held = [self._held[frame_id] for frame_id in self._order if frame_id in self._held]
        self._held.clear()
        return held

    def held(self) -> Collection[Outcome]:
        return self._held.values()


class Monotonic:
    """Lets outcomes leave as soon as they are known, but withholds the outputs of a result that is older than one
    already delivered, because nobody can use it any more.
    """

    def __init__(self) -> None:
        self._newest = -1

    def arrived(self, frame_id: int) -> None: ...

    def push(self, outcome: Outcome) -> list[Outcome]:
        if outcome.status in RESULTS and outcome.turned_out is None:
            frame_id = outcome.held.frame.frame_id
            if frame_id < self._newest:
                outcome.turned_out = fates.OUTRUN
                outcome.reason = fates.OUTRUN.says(newer=self._newest)
                outcome.outputs = None
            else:
                self._newest = frame_id
        return [outcome]

    def release(self) -> list[Outcome]:
        return []

    def held(self) -> Collection[Outcome]:
        return ()


def ordering(policy: OrderingPolicy) -> Ordering | None:
    """Returns the filter of a policy; None: outcomes leave as soon as they are known."""
    match policy:
        case OrderingPolicy.ARRIVAL:
            return Arrival()
        case OrderingPolicy.MONOTONIC:
            return Monotonic()
        case OrderingPolicy.UNORDERED:
            return None
