"""What each lane runs: nothing, or one batch.

A lane is taken by `start` or `warm`. It is free again with `ended`, or gone with whatever ran on it. Batches are
numbered and sent on their way here and nowhere else.
"""

from duly.core.events import Action, DispatchBatch, WarmLane
from duly.core.state import Batch, LaneState, VariantState

IDLE_SHARE = 8
"""A run counts as one after idle where the lane had been idle for more than the planned time divided by this. Waking up
then takes about a hundredth of the run.
"""


class Lanes:
    __slots__ = ("_actions", "_batch_id", "_running", "free", "up")

    def __init__(self, actions: list[Action]) -> None:
        """`actions` is the list of what the host has to do, in this order; batches are added to it."""
        self.up: dict[str, LaneState] = {}
        self.free = 0
        """Number of lanes that run nothing."""
        self._running: dict[int, Batch] = {}
        self._batch_id = 0
        self._actions = actions

    def came_up(self, now_ns: int, lane: str) -> None:
        if lane not in self.up:
            self.up[lane] = LaneState(now_ns)
            self.free += 1

    def went_down(self, lane: str) -> None:
        """Takes the lane away. What ran there must have ended before."""
        if self.up.pop(lane, None) is not None:
            self.free -= 1

    def is_free(self, lane: str) -> bool:
        return lane in self.up and self.up[lane].batch_id is None

    def start(self, now_ns: int, lane: str, batch: Batch) -> None:
        """Starts the batch on the lane, which must be free."""
        self._occupy(now_ns, lane, batch)
        frames, variant = batch.frames, batch.variant
        batch.after_idle = now_ns - self.up[lane].ended_ns > batch.planned_ns // IDLE_SHARE
        told = [queued.frame for queued in frames]
        resets_state = tuple([q.frame.seq for q in frames if q.resets_state]) if variant.stateful else ()
        moves_state: tuple[tuple[int, str, str], ...] = ()
        if variant.stateful:
            moves_state = tuple([(q.frame.seq, q.moves_from[0], q.moves_from[1]) for q in frames if q.moves_from])
        self._actions.append(
            DispatchBatch(
                batch.batch_id, lane, variant.model, variant.name, told, batch.planned_ns, resets_state, moves_state
            )
        )

    def warm(self, now_ns: int, lane: str, variant: VariantState) -> None:
        """Starts a run on zeros on the lane, which must be free."""
        batch = Batch(variant, [], 0)
        self._occupy(now_ns, lane, batch)
        self._actions.append(WarmLane(batch.batch_id, lane, variant.model, variant.name))

    def ended(self, now_ns: int, batch_id: int) -> Batch | None:
        """Frees the lane of that batch and returns the batch; None where it had ended before, as when its lane went
        down.
        """
        batch = self._running.pop(batch_id, None)
        if batch is not None:
            state = self.up[batch.lane]
            state.batch_id = None
            state.ended_ns = now_ns
            if batch.spare:
                state.idle_ns += now_ns - batch.started_ns  # to whoever asks how much more the lane could do
            self.free += 1
        return batch

    def batch_on(self, lane: str) -> Batch | None:
        """What the lane runs; None: nothing, or it is not up."""
        state = self.up.get(lane)
        return self._running.get(state.batch_id) if state is not None and state.batch_id is not None else None

    def running(self, model: str, lane: str | None) -> list[int]:
        """Ids of the batches of the model that run on that lane, or on any lane where `lane` is None."""
        return [
            batch_id
            for batch_id, batch in self._running.items()
            if batch.variant.model == model and lane in (None, batch.lane)
        ]

    def _occupy(self, now_ns: int, lane: str, batch: Batch) -> None:
        self._batch_id += 1
        batch.batch_id, batch.lane, batch.started_ns = self._batch_id, lane, now_ns
        state = self.up[lane]
        state.batch_id = batch.batch_id
        state.idle_ns += now_ns - state.ended_ns
        self.free -= 1
        self._running[batch.batch_id] = batch
