"""Hands the state of streams over from the worker of one version to that of another, before the batch that needs it.

The lane of the batch waits meanwhile, so that the wait is short and bounded. Usually the worker that is asked is idle,
since its streams stay on its lane. What does not come in time, or at all, is lost: `HandOver.lost` says whose.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from duly.core.events import DispatchBatch
from duly.runtime.given_state import GivenState
from duly.runtime.worker_port import LaneWorker

WAIT_SECONDS = 0.1
"""How long a batch waits for small states. Larger ones get the time to be written on top."""
BYTES_PER_SECOND = 500e6


class HandOver:
    """The states that one batch waits for."""

    def __init__(
        self,
        action: DispatchBatch,
        workers: Mapping[tuple[str, str], LaneWorker],
        done: Callable[["HandOver"], None],
    ) -> None:
        """`done(self)` is called once, on a later turn of the loop, if `start` returns True."""
        self.action = action
        self._workers = workers
        self._done = done
        self._given: list[GivenState] = []
        self._asked: dict[tuple[str, str], LaneWorker] = {}
        """The workers that have not answered yet, by model and lane."""
        self._over = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> bool:
        """Asks the workers that have the states. Returns whether there is anything to wait for."""
        stream_of = {frame.seq: frame.stream_id for frame in self.action.frames}
        of_place: dict[tuple[str, str], list[int]] = {}
        for seq, model, lane in self.action.moves_state:
            of_place.setdefault((model, lane), []).append(stream_of[seq])
        size_bytes = 0
        for place, stream_ids in of_place.items():
            worker = self._workers.get(place)
            if worker is None:
                continue
            asked_bytes = worker.give_state(stream_ids, partial(self._answered, place))
            if asked_bytes:
                self._asked[place] = worker
                size_bytes += asked_bytes
            else:
                for stream_id in stream_ids:
                    worker.forget(stream_id)
        if self._asked:
            seconds = WAIT_SECONDS + size_bytes / BYTES_PER_SECOND
            self._timer = asyncio.get_running_loop().call_later(seconds, self._overdue)
        return bool(self._asked)

    def give_to(self, worker: LaneWorker) -> dict[int, int]:
        """Gives what has come to the worker of the batch. Returns the frames whose states have not come there, by seq,
        with their streams.
        """
        taken: set[int] = set()
        for given in self._given:
            if given.places and worker.take_state(given):
                taken.update(stream_id for stream_id, _ in given.places)
        moved = {seq for seq, _, _ in self.action.moves_state}
        return {f.seq: f.stream_id for f in self.action.frames if f.seq in moved and f.stream_id not in taken}

    def close(self) -> None:
        """Gives the memory back. What comes from now on is dropped."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for given in self._given:
            given.close()

    def _answered(self, place: tuple[str, str], given: GivenState | None) -> None:
        if self._over:
            if given is not None:
                given.close()
            return
        self._asked.pop(place, None)
        if given is not None:
            self._given.append(given)
        if not self._asked:
            self._finish()

    def _overdue(self) -> None:
        for worker in list(self._asked.values()):
            worker.hear()  # the server itself may have been held up
        if not self._over:
            self._finish()

    def _finish(self) -> None:
        self._over = True
        self._done(self)
