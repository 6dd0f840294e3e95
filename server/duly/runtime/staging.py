"""Has frames brought to where they will run while their lane still runs the batch before.

Some time before a batch should end, the scheduler is asked what the lane would run next if nothing happened
until then (`Scheduler.foresee`), and the worker of that batch is given these frames' payloads. That is a hint. What is
dispatched then is decided as ever, and frames that are in it need not be copied any more; the others are copied as
ever. No outcome depends on it.

The later it is asked, the more of what is foreseen comes true, and the less time is left to copy it; so it is asked as
late as copying took of late (`Lead`). From then on it is asked again as frames come, until no more would fit into the
batch: under overload that is the first time already. docs/gpu.md has the figures.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from duly.core.events import DispatchBatch, Foreseen
from duly.core.types import Frame
from duly.metrics import Metrics
from duly.runtime.held_frames import HeldFrames
from duly.runtime.worker_port import LaneWorker

_log = structlog.get_logger("duly.driver")

ASK_PERCENT = 75
"""So much of a batch's planned time is over at the latest when it is asked what comes next."""
LEAD_TIMES = 2
"""Before that there is so many times as long as copying took, as runs end sooner than planned, and copies go on in
turns with everything else on the loop."""
FORGET_PART = 8
"""How long copying took counts for as much less with each batch."""
TURN_BYTES_MAX = 2 << 20
"""So much is copied in one turn of the event loop, which is less than a millisecond; a frame is copied as a whole."""


class Lead:
    """When it is asked what a lane would run next."""

    def __init__(self) -> None:
        self._took_ns = 0

    def ask_ns(self, planned_ns: int) -> int:
        """Returns how long after the beginning of a batch that is planned for `planned_ns`."""
        return max(0, min(planned_ns * ASK_PERCENT // 100, planned_ns - LEAD_TIMES * self._took_ns))

    def took(self, ns: int, *, whole: bool) -> None:
        """Notes that copying what was foreseen took so long; `whole`: else its batch began before all was copied."""
        self._took_ns = max(ns if whole else 2 * ns, self._took_ns - self._took_ns // FORGET_PART)


class Staging:
    def __init__(
        self,
        foresee: Callable[[str], Foreseen | None],
        workers: Mapping[tuple[str, str], LaneWorker],
        held: HeldFrames,
        changes: Callable[[str], bool],
        clock: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        """`foresee(lane)` is the scheduler's, `clock` the driver's. `changes(model)`: whether payloads of a model's
        frames may become others while they wait.
        """
        self._foresee = foresee
        self._workers = workers
        self._held = held
        self._changes = changes
        self._clock = clock
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[str, Lead] = {}
        """The lanes with workers that take frames ahead."""
        self._since_ns: dict[str, int] = {}
        """When the first frames for the next batch of a lane began to be copied, until they are."""
        self._pending: dict[str, asyncio.Handle] = {}
        """What is about to happen for each lane."""
        self._due: set[str] = set()
        """The lanes for which the time has come, and whose next batch has room for more frames."""

    def add(self, worker: LaneWorker) -> None:
        if worker.stages:
            self._lanes.setdefault(worker.lane, Lead())

    def began(self, action: DispatchBatch, worker: LaneWorker) -> None:
        """A batch has begun on that worker."""
        lead = self._lanes.get(action.lane)
        if lead is None:
            return
        if worker.copied_ahead:
            self._metrics.copied_ahead(action.lane, worker.copied_ahead)
        self.stop(action.lane)
        milliseconds = lead.ask_ns(action.planned_ns) // 1_000_000  # in which timers count
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
        since_ns = self._since_ns.pop(lane, 0)
        if since_ns:
            self._lanes[lane].took(self._clock() - since_ns, whole=False)
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
        first = lane not in self._due
        if foreseen is not None and foreseen.full:
            self._due.discard(lane)
        else:
            self._due.add(lane)
        if foreseen is not None and not self._changes(foreseen.model):
            if first:
                self._since_ns[lane] = self._clock()
            self._bring(foreseen, foreseen.frames)

    def _bring(self, foreseen: Foreseen, frames: Sequence[Frame]) -> None:
        """Brings those of the frames that still wait, some of them now and the others on later turns of the loop."""
        worker = self._workers.get((foreseen.model, foreseen.lane))
        waiting = [frame for frame in frames if self._held.holds(frame)]
        lane = foreseen.lane
        if worker is None or not worker.stages or not waiting:
            self._since_ns.pop(lane, None)
        elif worker.stage(waiting, self._held.payloads(waiting), TURN_BYTES_MAX):
            self._soon(lane, partial(self._bring, foreseen, waiting))
        elif lane in self._since_ns:
            self._lanes[lane].took(self._clock() - self._since_ns.pop(lane), whole=True)
