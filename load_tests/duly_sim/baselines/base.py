"""What all baselines share: the lanes, the models with the frames that wait for them, and answering each frame once.

A baseline is a policy like `duly.core.scheduler.Scheduler`: the same events in, `DispatchBatch` and `ResolveFrame` out.
It decides in `_decide` alone, which is called whenever something happened and a lane is free, or its wake has come.

What the published systems do not have is left out: classes, backlog policies, quotas and variants (the first, rank 0,
always runs). A frame of a model that no lane serves FAILS at once. A closed stream's frames run like all others. Queues
are as long as the run makes them, as they are by default in the systems.
"""

from bisect import insort
from dataclasses import dataclass, field

from duly.core.events import (
    Action,
    BatchFailed,
    BatchFinished,
    DispatchBatch,
    Event,
    FramesArrived,
    LaneDown,
    LaneUp,
    ModelGone,
    ModelReady,
    ResolveFrame,
    StreamOpened,
    TimerFired,
)
from duly.core.types import Frame, OutcomeStatus
from duly_sim.baselines.profile import Estimate, Profile

Waiting = tuple[int, int, Frame]
"""Its place in the queue (ns: the deadline or the arrival), its `seq`, the frame."""


@dataclass(slots=True)
class Model:
    name: str
    variant: str
    profile: Profile
    lanes: set[str] = field(default_factory=set)
    """The lanes that have a worker of the model; the set is never iterated."""
    waiting: list[Waiting] = field(default_factory=list)
    """The waiting frames, in order."""
    budget_ns: int = 0
    """The smallest of the streams that said they are for it; 0: none did."""


@dataclass(slots=True)
class _Running:
    batch: DispatchBatch
    model: Model
    started_ns: int


class Baseline:
    """A policy by published rules. A subclass says how frames are ordered and when what is dispatched."""

    by_deadline = True
    """Whether frames wait in order of deadline; else in order of arrival."""

    def __init__(self, estimate: Estimate) -> None:
        self._estimate = estimate
        self._models: dict[str, Model] = {}
        self._free: dict[str, None] = {}
        """Lanes without a batch, the one that has been free for longest first."""
        self._busy: dict[str, int] = {}
        """The batch that runs on each lane."""
        self._running: dict[int, _Running] = {}
        self._budgets_ns: dict[str, int] = {}
        self._batch_id = 0
        self._wake_ns: int | None = None
        self._actions: list[Action] = []

    def step(self, now_ns: int, event: Event) -> list[Action]:
        """What to do about `event`. `now_ns` never goes back from one call to the next."""
        actions = self._actions = []
        match event:
            case FramesArrived():
                for frame in event.frames:
                    model = self._models.get(frame.model)
                    if model is None or not model.lanes:
                        self._answer(frame, OutcomeStatus.FAILED, f"no lane serves {frame.model}")
                    else:
                        self._wait(now_ns, model, frame)
            case BatchFinished():
                self._batch_finished(now_ns, event)
            case BatchFailed():
                self._batch_failed(event.batch_id, event.reason)
            case StreamOpened():
                self._stream_opened(event)
            case LaneUp():
                if event.lane not in self._busy:
                    self._free[event.lane] = None
            case LaneDown():
                self._lane_down(event)
            case ModelReady():
                self._model_ready(event)
            case ModelGone():
                self._model_gone(event)
        if self._free or isinstance(event, TimerFired):
            self._decide(now_ns)
        return actions

    def next_wake_ns(self) -> int | None:
        """When to call `step` with TimerFired at the latest; None: nothing pending."""
        return self._wake_ns

    # ---- what a policy decides ----

    def _decide(self, now_ns: int) -> None:
        """Drops what it would drop, fills free lanes, and sets `_wake_ns` later than `now_ns` or None."""
        raise NotImplementedError

    # ---- what it decides with ----

    def _wait(self, now_ns: int, model: Model, frame: Frame) -> None:
        """`now_ns`: when the frame comes."""
        waiting = model.waiting
        entry = (frame.deadline_ns if self.by_deadline else now_ns, frame.seq, frame)
        if not waiting or entry > waiting[-1]:
            waiting.append(entry)
        else:
            insort(waiting, entry)

    def _lane_for(self, model: Model) -> str | None:
        """The lane that has been free for longest of those that serve the model."""
        for lane in self._free:
            if lane in model.lanes:
                return lane
        return None

    def _dispatch(self, now_ns: int, lane: str, model: Model, size: int) -> None:
        """Runs the first `size` frames that wait, on a free lane."""
        frames = [entry[2] for entry in model.waiting[:size]]
        del model.waiting[:size]
        self._batch_id += 1
        batch = DispatchBatch(self._batch_id, lane, model.name, model.variant, frames, model.profile.plan_ns[size])
        del self._free[lane]
        self._busy[lane] = self._batch_id
        self._running[self._batch_id] = _Running(batch, model, now_ns)
        self._actions.append(batch)

    def _expire(self, model: Model, count: int) -> None:
        """Drops the first `count` frames that wait."""
        for entry in model.waiting[:count]:
            self._answer(entry[2], OutcomeStatus.EXPIRED, "it would not have been in time")
        del model.waiting[:count]

    def _answer(self, frame: Frame, status: OutcomeStatus, reason: str, batch_id: int = 0, batch_size: int = 0) -> None:
        self._actions.append(ResolveFrame(frame, status, reason, batch_id, batch_size))

    # ---- what happens to lanes, batches and models ----

    def _batch_finished(self, now_ns: int, event: BatchFinished) -> None:
        running = self._end(event.batch_id)
        if running is None:
            return
        frames = running.batch.frames
        finished_ns = now_ns if event.finished_ns is None else event.finished_ns
        running.model.profile.observe(len(frames), finished_ns - running.started_ns)
        for frame in frames:
            if frame.seq in event.invalid:
                status, reason = OutcomeStatus.INVALID, event.invalid[frame.seq]
            elif frame.seq in event.failed:
                status, reason = OutcomeStatus.FAILED, event.failed[frame.seq]
            elif now_ns <= frame.deadline_ns:
                status, reason = OutcomeStatus.ON_TIME, ""
            else:
                status, reason = OutcomeStatus.LATE, "it finished after its deadline"
            self._answer(frame, status, reason, event.batch_id, len(frames))

    def _batch_failed(self, batch_id: int, reason: str) -> None:
        running = self._end(batch_id)
        if running is not None:
            frames = running.batch.frames
            for frame in frames:
                self._answer(frame, OutcomeStatus.FAILED, reason, batch_id, len(frames))

    def _end(self, batch_id: int) -> _Running | None:
        """Takes the batch off its lane; None where it has ended before, as when its lane went down."""
        running = self._running.pop(batch_id, None)
        if running is not None:
            del self._busy[running.batch.lane]
            self._free[running.batch.lane] = None
        return running

    def _stream_opened(self, event: StreamOpened) -> None:
        name, budget_ns = event.terms.model, event.terms.budget_ns
        self._budgets_ns[name] = min(self._budgets_ns.get(name, budget_ns), budget_ns)
        if name in self._models:
            self._models[name].budget_ns = self._budgets_ns[name]

    def _lane_down(self, event: LaneDown) -> None:
        if event.lane in self._busy:
            self._batch_failed(self._busy[event.lane], event.reason)
        self._free.pop(event.lane, None)
        for model in self._models.values():
            self._leave(model, event.lane, event.reason)

    def _model_ready(self, event: ModelReady) -> None:
        if event.rank == 0:
            model = self._models.get(event.model)
            if model is None:
                profile = Profile(event.samples_ns, event.any_size, self._estimate)
                model = self._models[event.model] = Model(event.model, event.variant, profile)
                model.budget_ns = self._budgets_ns.get(event.model, 0)
            model.lanes.add(event.lane)

    def _model_gone(self, event: ModelGone) -> None:
        model = self._models.get(event.model)
        if model is None:
            return
        for batch_id, running in list(self._running.items()):
            if running.model is model and event.lane in (None, running.batch.lane):
                self._batch_failed(batch_id, event.reason)
        if event.lane is None:
            model.lanes.clear()
            self._fail_waiting(model, event.reason)
            del self._models[event.model]
        else:
            self._leave(model, event.lane, event.reason)

    def _leave(self, model: Model, lane: str, reason: str) -> None:
        model.lanes.discard(lane)
        if not model.lanes:
            self._fail_waiting(model, reason)

    def _fail_waiting(self, model: Model, reason: str) -> None:
        for entry in model.waiting:
            self._answer(entry[2], OutcomeStatus.FAILED, reason)
        model.waiting.clear()
