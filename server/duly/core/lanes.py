"""What each lane runs: nothing, or one batch.

A lane is taken by `start` or `warm` and free again with `ended`, or gone with whatever ran on it. Only here are
batches numbered and sent on their way.
"""

from duly.core.dispatch.choose import Batch
from duly.core.events import Action, DispatchBatch, WarmLane
from duly.core.state import LaneState, RunningBatch, VariantState

IDLE_SHARE = 8
"""A lane that was idle for more than one in so many parts of what it runs next has run nothing just before: it takes
about a hundredth of a run to wake up, then."""


class Lanes:
    __slots__ = ("_actions", "_batch_id", "_running", "free", "up")

    def __init__(self, actions: list[Action]) -> None:
        """`actions`: what the host is to do, in this order; batches are added."""
        self.up: dict[str, LaneState] = {}
        self.free = 0
        """How many run nothing."""
        self._running: dict[int, RunningBatch] = {}
        self._batch_id = 0
        self._actions = actions

    def came_up(self, now_ns: int, lane: str) -> None:
        if lane not in self.up:
            self.up[lane] = LaneState(now_ns)
            self.free += 1

    def went_down(self, lane: str) -> None:
        """Whatever ran there has ended before."""
        if self.up.pop(lane, None) is not None:
            self.free -= 1

    def is_free(self, lane: str) -> bool:
        return lane in self.up and self.up[lane].batch_id is None

    def start(self, now_ns: int, lane: str, batch: Batch, *, probe: bool) -> None:
        """`probe`: it is tried against its plan."""
        variant = batch.variant
        self._batch_id += 1
        action = DispatchBatch(self._batch_id, lane, variant.model, variant.name, batch.frames, batch.planned_ns)
        idle_ns = now_ns - self.up[lane].ended_ns
        after_idle = idle_ns > batch.planned_ns // IDLE_SHARE
        self._occupy(lane, RunningBatch(action, variant, now_ns, after_idle, probe))

    def warm(self, now_ns: int, lane: str, variant: VariantState) -> None:
        self._batch_id += 1
        action = WarmLane(self._batch_id, lane, variant.model, variant.name)
        self._occupy(lane, RunningBatch(action, variant, now_ns, after_idle=True, probe=False))

    def ended(self, now_ns: int, batch_id: int) -> RunningBatch | None:
        """What ran; None where it has ended before, as when its lane went down."""
        running = self._running.pop(batch_id, None)
        if running is not None:
            state = self.up[running.action.lane]
            state.batch_id = None
            state.ended_ns = now_ns
            self.free += 1
        return running

    def running(self, model: str, lane: str | None) -> list[int]:
        """Batches of the model that run on that lane, or on any."""
        return [
            batch_id
            for batch_id, running in self._running.items()
            if running.action.model == model and lane in (None, running.action.lane)
        ]

    def _occupy(self, lane: str, running: RunningBatch) -> None:
        batch_id = running.action.batch_id
        state = self.up[lane]
        state.batch_id = batch_id
        state.idle_ns += running.started_ns - state.ended_ns
        self.free -= 1
        self._running[batch_id] = running
        self._actions.append(running.action)
