"""What the baselines that know deadlines share: frames in order of deadline, and which of them still make a batch.

Each of them drops a frame as soon as it could not even run alone in time. The published systems notice at the latest
when they next form a batch; noticing at once costs them nothing and answers the frame earlier.
"""

from bisect import bisect_left, bisect_right

from duly.core.types import Frame
from duly_sim.baselines.base import Baseline, Model, Waiting
from duly_sim.baselines.profile import Estimate


def first_that_fits(waiting: list[Waiting], now_ns: int, plan_ns: list[int], batch_max: int) -> int:
    """Index of the first frame that meets its deadline in one batch with all behind it, up to `batch_max`.

    `len(waiting)`: not even the last one does. Bisects: deadlines rise along the queue while the batch gets smaller.
    """
    count = len(waiting)
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        behind = count - middle
        if now_ns + plan_ns[behind if behind < batch_max else batch_max] <= waiting[middle][0]:
            high = middle
        else:
            low = middle + 1
    return low


def largest_batch(
    waiting: list[Waiting], now_ns: int, plan_ns: list[int], batch_max: int, target: int
) -> tuple[int, int]:
    """The batch of Symphony's `batch_policy.cpp` if it started now: index of its first frame, and its size.

    Drop heads until a batch of `target`, or of all behind, meets its own head's deadline; let those rejoin that such a
    batch still serves in time; grow as far as the head allows. `waiting` is not empty; size 0: no frame fits.
    """
    first = first_that_fits(waiting, now_ns, plan_ns, batch_max)
    least = max(1, min(len(waiting) - first, target, batch_max))
    first = bisect_left(waiting, (now_ns + plan_ns[least],))
    if first == len(waiting):
        return first, 0
    fitting = bisect_right(plan_ns, waiting[first][0] - now_ns) - 1
    return first, min(len(waiting) - first, batch_max, fitting)


class DeadlineBaseline(Baseline):
    def __init__(self, estimate: Estimate) -> None:
        super().__init__(estimate)
        self._doom_ns: int | None = None
        """No waiting frame is doomed before this."""

    def next_wake_ns(self) -> int | None:
        if self._wake_ns is None or (self._doom_ns is not None and self._doom_ns < self._wake_ns):
            return self._doom_ns
        return self._wake_ns

    def _wait(self, now_ns: int, model: Model, frame: Frame) -> None:
        super()._wait(now_ns, model, frame)
        doom_ns = frame.deadline_ns - model.profile.plan_ns[1] + 1
        if self._doom_ns is None or doom_ns < self._doom_ns:
            self._doom_ns = doom_ns

    def _drop_doomed(self, now_ns: int) -> None:
        """Drops every frame that could not run alone in time any more."""
        if self._doom_ns is None or now_ns < self._doom_ns:
            return
        self._doom_ns = None
        for model in self._models.values():
            waiting, alone_ns = model.waiting, model.profile.plan_ns[1]
            if waiting and waiting[0][0] < now_ns + alone_ns:
                self._expire(model, bisect_left(waiting, (now_ns + alone_ns,)))
            if waiting:
                doom_ns = waiting[0][0] - alone_ns + 1
                if self._doom_ns is None or doom_ns < self._doom_ns:
                    self._doom_ns = doom_ns

    def _most_urgent(self) -> tuple[Model, str] | None:
        """The model with the earliest deadline among those that a free lane serves, and the lane."""
        urgent: Model | None = None
        for model in self._models.values():
            if model.waiting and (urgent is None or model.waiting[0] < urgent.waiting[0]) and self._lane_for(model):
                urgent = model
        lane = None if urgent is None else self._lane_for(urgent)
        return None if urgent is None or lane is None else (urgent, lane)
