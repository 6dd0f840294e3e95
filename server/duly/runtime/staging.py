"""Has frames brought to where they will run while their lane still runs the batch before.

When most of a batch's planned time is over, the scheduler is asked what the lane would run next if nothing happened
until then (`Scheduler.foresee`), and the worker of that batch is given these frames' payloads. That is a hint. What is
dispatched then is decided as ever, and frames that are in it need not be copied any more; the others are copied as
ever. No outcome depends on it.

The later it is asked, the more of what is foreseen comes true, and the less time is left to copy it. From then on it is
asked again as frames come, until no more would fit into the batch: under overload that is the first time already.
docs/gpu.md has the figures.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from duly.core.events import DispatchBatch, Foreseen
from duly.core.types import Frame
from duly.runtime.held_frames import HeldFrames
from duly.runtime.worker_port import LaneWorker

_log = structlog.get_logger("duly.driver")

ASK_PERCENT = 75
"""So much of a batch's planned time is over when it is asked what comes next."""
TURN_BYTES_MAX = 2 << 20
"""So much is copied in one turn of the event loop, which is less than a millisecond; a frame is copied as a whole."""


class Staging:
    def __init__(
        self,
        foresee: Callable[[str], Foreseen | None],
        workers: Mapping[tuple[str, str], LaneWorker],
        held: HeldFrames,
        changes: Callable[[str], bool],
    ) -> None:
        """`foresee(lane)` is the scheduler's. `changes(model)`: whether payloads of a model's frames may become others
        while they wait.
        """
        self._foresee = foresee
        self._workers = workers
        self._held = held
        self._changes = changes
        self._loop = asyncio.get_running_loop()
        self._lanes: set[str] = set()
        """The lanes with workers that take frames ahead."""
        self._pending: dict[str, asyncio.Handle] = {}
        """What is about to happen for each lane."""
        self._due: set[str] = set()
        """The lanes for which the time has come, and whose next batch has room for more frames."""

    def add(self, worker: LaneWorker) -> None:
        if worker.stages:
            self._lanes.add(worker.lane)

    def began(self, action: DispatchBatch) -> None:
        """A batch has begun."""
        if action.lane not in self._lanes:
            return
        self.stop(action.lane)
        milliseconds = action.planned_ns * ASK_PERCENT // 100 // 1_000_000  # in which timers count
        if milliseconds:
            ask = partial(self._safely, action.lane, partial(self._ask, action.lane))
            self._pending[action.lane] = self._loop.call_later(milliseconds / 1000, ask)
        else:
            self._soon(action.lane, partial(self._ask, action.lane))
        self.changed()  # another lane may be the next one to become free now

    def changed(self) -> None:
        """Something happened that may add to the next batch of a lane: frames came, or a batch began elsewhere."""
        for lane in self._due - self._pending.keys() if self._due else ():
            self._soon(lane, partial(self._ask, lane))

    def stop(self, lane: str) -> None:
        """Brings nothing more to the lane before its next batch begins."""
        self._due.discard(lane)
        pending = self._pending.pop(lane, None)
        if pending is not None:
            pending.cancel()

    def stop_all(self) -> None:
        for lane in list(self._lanes):
            self.stop(lane)

    def _soon(self, lane: str, step: Callable[[], None]) -> None:
        self._pending[lane] = self._loop.call_soon(self._safely, lane, step)

    def _safely(self, lane: str, step: Callable[[], None]) -> None:
        self._pending.pop(lane, None)
        try:
            step()
        except Exception:  # it is a convenience; everything works without
            _log.exception("frames are not brought to their lanes ahead any more, that failed", lane=lane)
            self.stop_all()
            self._lanes.clear()

    def _ask(self, lane: str) -> None:
        foreseen = self._foresee(lane)
        if foreseen is not None and foreseen.full:
            self._due.discard(lane)
        else:
            self._due.add(lane)
        if foreseen is not None and not self._changes(foreseen.model):
            self._bring(foreseen, foreseen.frames)

    def _bring(self, foreseen: Foreseen, frames: Sequence[Frame]) -> None:
        """Brings those of the frames that still wait, some of them now and the others on later turns of the loop."""
        worker = self._workers.get((foreseen.model, foreseen.lane))
        waiting = [frame for frame in frames if self._held.holds(frame)]
        if worker is None or not worker.stages or not waiting:
            return
        if worker.stage(waiting, self._held.payloads(waiting), TURN_BYTES_MAX):
            self._soon(foreseen.lane, partial(self._bring, foreseen, waiting))
