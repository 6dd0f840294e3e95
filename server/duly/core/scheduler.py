"""The scheduler: decides what runs, when and in which batch, and that every frame gets exactly one outcome.

Sans-IO. The host calls `step(now_ns, event)` with facts and carries out the actions that come back; it calls again with
`TimerFired` at `next_wake_ns()`. The scheduler reads no clock, starts nothing and changes only itself; equal logs of
(now, event) give equal actions.

The law: every `FrameArrived` is followed by exactly one `ResolveFrame`, whatever else happens.

Theory of operation. A frame is waiting or running, never both; `_resolve` is the only way out of either.

    FrameArrived --> over its credit, draining, doomed ........ resolved at once
                 --> waiting --> superseded by a newer frame .. SUPERSEDED
                             --> latest start passed .......... EXPIRED | SHED
                             --> withdrawn, stream closed ..... CANCELLED
                             --> running --> BatchFinished .... ON_TIME | LATE | INVALID | FAILED
                                         --> BatchFailed ...... FAILED

A lane that is free takes the most urgent model (most critical class first, then earliest latest start) and runs the
batch that `batching` forms. Lanes never wait for more frames: that pays only with several lanes and high demand.

Streams of stateful models are pinned to one lane, where the worker keeps their state, and have at most one frame
running, the oldest that waits.
"""

from collections.abc import Iterator
from itertools import islice

from duly.core.batching import LOOKAHEAD_BATCHES, form_batch
from duly.core.events import (
    Action,
    Advice,
    AdviseStream,
    BatchFailed,
    BatchFinished,
    DispatchBatch,
    DrainRequested,
    Event,
    FrameArrived,
    FramesCancelled,
    LaneDown,
    LaneUp,
    ModelGone,
    ModelReady,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
    TimerFired,
)
from duly.core.overload import drop_reason
from duly.core.profile import Profile
from duly.core.queue import WaitingFrames
from duly.core.types import BacklogPolicy, Frame, GapPolicy, OutcomeStatus, StreamClass, StreamTerms

BLOCKING_NS_MAX = 25_000_000
"""No batch of two or more blocks a lane for longer than this, nor than half the smallest budget of the most critical
class that has streams: a lane is not preemptive."""
PROBE_AFTER_NS = 1_000_000_000
"""A model that did not run for so long may try a frame against its plan: a plan must not starve its own correction."""

_GAP = "a frame before it was not run; open a new stream"


class _Stream:
    __slots__ = ("gap", "lane", "running", "supersedable", "terms", "unanswered", "waiting")

    def __init__(self, terms: StreamTerms) -> None:
        self.terms = terms
        self.waiting: dict[int, Frame] = {}
        """By frame id, oldest first."""
        self.supersedable = 0
        self.unanswered = 0
        self.running = 0
        self.gap = False
        """Stateful: a frame was not run since the last that was."""
        self.lane: str | None = None
        """Stateful: where its state is."""


class _Model:
    __slots__ = ("last_run_ns", "planned_one_ns", "preferred_ns", "profiles", "stateful", "variant", "waiting")

    def __init__(self, variant: str, stateful: bool) -> None:
        self.variant = variant
        self.stateful = stateful
        self.profiles: dict[str, Profile] = {}
        """By lane."""
        self.waiting = WaitingFrames()
        self.planned_one_ns = 0
        """Batch of one on the fastest lane; 0: no lane serves the model now."""
        self.last_run_ns = 0
        self.preferred_ns = dict.fromkeys(StreamClass, 0)
        """By class: when a lane that could have run such a frame last began with a more critical one."""

    def plan(self) -> None:
        self.planned_one_ns = min((p.planned_ns(1) for p in self.profiles.values()), default=0)


class _Running:
    __slots__ = ("action", "model", "probe", "started_ns")

    def __init__(self, action: DispatchBatch, model: _Model, started_ns: int, probe: bool) -> None:
        self.action = action
        self.model = model
        self.started_ns = started_ns
        self.probe = probe


class Scheduler:
    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._models: dict[str, _Model] = {}
        self._lanes: dict[str, int | None] = {}
        """Batch that runs on each lane."""
        self._running: dict[int, _Running] = {}
        self._batch_id = 0
        self._cap_ns = BLOCKING_NS_MAX
        self._drop_ns: int | None = None
        """No waiting frame is doomed before this."""
        self._drain_ns: int | None = None
        self._actions: list[Action] = []

    # ---- the whole contract ----

    def step(self, now_ns: int, event: Event) -> list[Action]:
        """What to do about `event`, in this order. `now_ns` never goes back from one call to the next."""
        self._actions = []
        match event:
            case FrameArrived():
                self._frame_arrived(now_ns, event.frame)
            case BatchFinished():
                self._batch_finished(now_ns, event)
            case TimerFired():
                self._timer_fired(now_ns)
            case BatchFailed():
                self._batch_failed(event)
            case StreamOpened():
                self._streams[event.stream_id] = _Stream(event.terms)
                self._bound_blocking()
            case StreamClosed():
                self._stream_closed(event.stream_id)
            case FramesCancelled():
                self._frames_cancelled(event)
            case LaneUp():
                self._lanes.setdefault(event.lane, None)
            case LaneDown():
                for name in list(self._models):
                    self._model_gone(ModelGone(name, event.lane, event.reason))
                self._lanes.pop(event.lane, None)
            case ModelReady():
                self._model_ready(now_ns, event)
            case ModelGone():
                self._model_gone(event)
            case DrainRequested():
                self._drain_ns = event.until_ns
                for stream_id in self._streams:
                    self._actions.append(AdviseStream(stream_id, Advice.DRAINING, "the server stops"))
        if self._drop_ns is not None and now_ns >= self._drop_ns:
            self._drop_doomed(now_ns)
        for lane, batch_id in self._lanes.items():
            if batch_id is None:
                self._fill(now_ns, lane)
        return self._actions

    def next_wake_ns(self) -> int | None:
        """When to call `step` with TimerFired at the latest; None: nothing pending."""
        if self._drain_ns is not None and self.frames_waiting():
            return self._drain_ns if self._drop_ns is None else min(self._drop_ns, self._drain_ns)
        return self._drop_ns

    # ---- for statistics ----

    def frames_waiting(self) -> int:
        return sum(len(model.waiting) for model in self._models.values())

    def frames_waiting_by_model(self) -> dict[str, int]:
        """May be called from any thread."""
        return {name: len(model.waiting) for name, model in list(self._models.items())}

    def planned_one_ns(self, model: str) -> int:
        """Planned execution time of a batch of one on the fastest lane; 0 where no lane serves the model."""
        known = self._models.get(model)
        return known.planned_one_ns if known else 0

    def planned_ns(self, model: str, lane: str) -> list[int]:
        """Planned execution times of batches of 1, 2, ... on that lane; empty where it does not serve the model."""
        profile = self._models[model].profiles.get(lane) if model in self._models else None
        return [profile.planned_ns(b) for b in range(1, profile.batch_max + 1)] if profile else []

    # ---- streams and frames ----

    def _stream_closed(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            for frame in list(stream.waiting.values()):
                self._withdraw(stream, frame, OutcomeStatus.CANCELLED, "its stream closed")
            del self._streams[stream_id]
            self._bound_blocking()

    def _frame_arrived(self, now_ns: int, frame: Frame) -> None:
        frame.arrived_ns = now_ns
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            self._actions.append(ResolveFrame(frame, OutcomeStatus.CANCELLED, "its stream is closed"))
            return
        terms = stream.terms
        frame.stream_class = terms.stream_class
        stream.unanswered += 1
        model = self._models.get(frame.model)
        if self._drain_ns is not None:
            self._resolve(stream, frame, OutcomeStatus.SHED, "the server is draining")
        elif model is None:
            self._resolve(stream, frame, OutcomeStatus.FAILED, f"model {frame.model} is not loaded")
        elif stream.unanswered > terms.frames_in_flight_max:
            reason = f"more than {terms.frames_in_flight_max} frames of the stream are unanswered"
            self._resolve(stream, frame, OutcomeStatus.SHED, reason)
        elif stream.gap and terms.gap is GapPolicy.SKIP:
            self._resolve(stream, frame, OutcomeStatus.SKIPPED, _GAP)
        elif frame.deadline_ns < now_ns + model.planned_one_ns:
            self._doomed_on_arrival(now_ns, stream, frame, model)
        else:
            self._wait(stream, frame, model)
            if terms.backlog is not BacklogPolicy.ALL and stream.supersedable > terms.backlog_frames:
                oldest = next(waiting for waiting in stream.waiting.values() if not waiting.must_run)
                self._withdraw(stream, oldest, OutcomeStatus.SUPERSEDED, f"frame {frame.frame_id} took its place")

    def _doomed_on_arrival(self, now_ns: int, stream: _Stream, frame: Frame, model: _Model) -> None:
        lane = stream.lane or next((name for name in model.profiles if self._lanes.get(name, 0) is None), None)
        lane_free = lane is not None and self._lanes.get(lane, 0) is None and lane in model.profiles
        overdue = now_ns - model.last_run_ns > PROBE_AFTER_NS
        if lane is not None and lane_free and overdue and frame.deadline_ns > now_ns and not stream.waiting:
            self._start(now_ns, lane, frame.model, model, [frame], model.profiles[lane].planned_ns(1), probe=True)
        else:
            status, reason = drop_reason(frame, model.planned_one_ns, now_ns, 0)
            self._resolve(stream, frame, status, reason)

    def _frames_cancelled(self, event: FramesCancelled) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            for frame_id in event.frame_ids:
                frame = stream.waiting.get(frame_id)
                if frame is not None:
                    self._withdraw(stream, frame, OutcomeStatus.CANCELLED, "withdrawn by the client")

    def _wait(self, stream: _Stream, frame: Frame, model: _Model) -> None:
        stream.waiting[frame.frame_id] = frame
        stream.supersedable += not frame.must_run
        model.waiting.add(frame)
        drop_ns = frame.deadline_ns - model.planned_one_ns + 1
        if self._drop_ns is None or drop_ns < self._drop_ns:
            self._drop_ns = drop_ns

    def _unwait(self, stream: _Stream, frame: Frame) -> None:
        del stream.waiting[frame.frame_id]
        stream.supersedable -= not frame.must_run
        self._models[frame.model].waiting.remove(frame)

    def _withdraw(self, stream: _Stream, frame: Frame, status: OutcomeStatus, reason: str) -> None:
        """Ends a frame that waits; one that no longer does was SKIPPED along with one before it."""
        if frame.frame_id in stream.waiting:
            self._unwait(stream, frame)
            self._resolve(stream, frame, status, reason)

    def _resolve(
        self,
        stream: _Stream | None,
        frame: Frame,
        status: OutcomeStatus,
        reason: str,
        batch_id: int = 0,
        batch_size: int = 0,
    ) -> None:
        """The one way out. The frame no longer waits or runs."""
        self._actions.append(ResolveFrame(frame, status, reason, batch_id, batch_size))
        if stream is None:
            return
        stream.unanswered -= 1
        if stream.terms.gap is None or status in (OutcomeStatus.ON_TIME, OutcomeStatus.LATE):
            return
        stream.gap = True
        if stream.terms.gap is GapPolicy.SKIP:
            for waiting in list(stream.waiting.values()):
                self._withdraw(stream, waiting, OutcomeStatus.SKIPPED, _GAP)

    def _drop_doomed(self, now_ns: int) -> None:
        for model in self._models.values():
            for frame in model.waiting.due_before(now_ns + model.planned_one_ns):
                preferred_ns = model.preferred_ns[frame.stream_class]
                status, reason = drop_reason(frame, model.planned_one_ns, now_ns, preferred_ns)
                self._withdraw(self._streams[frame.stream_id], frame, status, reason)
        self._plan_drop()

    def _plan_drop(self) -> None:
        self._drop_ns = None
        for model in self._models.values():
            deadline_ns = model.waiting.deadline_first_ns()
            if deadline_ns is not None:
                drop_ns = deadline_ns - model.planned_one_ns + 1
                if self._drop_ns is None or drop_ns < self._drop_ns:
                    self._drop_ns = drop_ns

    def _bound_blocking(self) -> None:
        budgets: dict[StreamClass, int] = {}
        for stream in self._streams.values():
            cls = stream.terms.stream_class
            budgets[cls] = min(budgets.get(cls, stream.terms.budget_ns), stream.terms.budget_ns)
        self._cap_ns = min(BLOCKING_NS_MAX, budgets[min(budgets)] // 2) if budgets else BLOCKING_NS_MAX

    # ---- lanes and batches ----

    def _fill(self, now_ns: int, lane: str) -> None:
        """Gives a free lane the most urgent batch that it can run, if any."""
        urgent: tuple[StreamClass, int] | None = None
        chosen = ""
        for name, model in self._models.items():
            profile = model.profiles.get(lane)
            if profile is None or not model.waiting:
                continue
            head = next(self._runnable(model, lane), None)
            if head is None:
                continue
            urgency = (head.stream_class, head.deadline_ns - profile.planned_ns(1))
            if urgent is None or urgency < urgent:
                urgent, chosen = urgency, name
        if urgent is None:
            return
        model = self._models[chosen]
        profile = model.profiles[lane]
        waiting = list(islice(self._runnable(model, lane), LOOKAHEAD_BATCHES * profile.batch_max))
        last_free_lane = not any(
            batch_id is None and other != lane and other in model.profiles for other, batch_id in self._lanes.items()
        )
        batch = form_batch(waiting, profile, now_ns, self._cap_ns, last_free_lane)
        for frame in batch.frames:
            self._unwait(self._streams[frame.stream_id], frame)
        for frame in batch.passed_over:
            reason = "overload: passed over for a larger batch"
            self._withdraw(self._streams[frame.stream_id], frame, OutcomeStatus.SHED, reason)
        self._start(now_ns, lane, chosen, model, batch.frames, batch.planned_ns, probe=False)

    def _runnable(self, model: _Model, lane: str) -> Iterator[Frame]:
        """Waiting frames that may start on that lane now, in order."""
        if not model.stateful:
            return iter(model.waiting)

        def may_start(frame: Frame) -> bool:
            stream = self._streams[frame.stream_id]
            if stream.running or (stream.lane is not None and stream.lane != lane and stream.lane in model.profiles):
                return False
            return next(iter(stream.waiting)) == frame.frame_id

        return filter(may_start, model.waiting)

    def _start(
        self, now_ns: int, lane: str, name: str, model: _Model, frames: list[Frame], planned_ns: int, *, probe: bool
    ) -> None:
        self._batch_id += 1
        action = DispatchBatch(self._batch_id, lane, name, model.variant, frames, planned_ns)
        self._lanes[lane] = action.batch_id
        self._running[action.batch_id] = _Running(action, model, now_ns, probe)
        model.last_run_ns = now_ns
        for frame in frames:
            stream = self._streams[frame.stream_id]
            stream.running += 1
            if stream.terms.gap is not None:
                lost = stream.lane is not None and stream.lane != lane
                frame.reset_state = lost or (stream.gap and stream.terms.gap is GapPolicy.RESET)
                stream.lane = lane
                stream.gap = False
        most_critical = frames[0].stream_class
        if most_critical is not StreamClass.BEST_EFFORT:
            for other in self._models.values():
                if other.waiting and lane in other.profiles:
                    for cls in StreamClass:
                        if cls > most_critical:
                            other.preferred_ns[cls] = now_ns
        self._actions.append(action)

    def _batch_finished(self, now_ns: int, event: BatchFinished) -> None:
        running = self._end(event.batch_id)
        if running is None:
            return
        frames = running.action.frames
        profile = running.model.profiles.get(running.action.lane)
        if profile is not None:
            profile.observe(len(frames), now_ns - running.started_ns, after_idle=running.probe)
            planned_ns = running.model.planned_one_ns
            running.model.plan()
            if running.model.planned_one_ns > planned_ns:
                self._plan_drop()
        for frame in frames:
            stream = self._streams.get(frame.stream_id)
            if frame.seq in event.invalid:
                status, reason = OutcomeStatus.INVALID, event.invalid[frame.seq]
            elif frame.seq in event.failed:
                status, reason = OutcomeStatus.FAILED, event.failed[frame.seq]
            elif stream is None:
                status, reason = OutcomeStatus.CANCELLED, "its stream closed"
            elif now_ns <= frame.deadline_ns:
                status, reason = OutcomeStatus.ON_TIME, ""
            else:
                status, reason = OutcomeStatus.LATE, "it ran longer than planned"
            self._resolve(stream, frame, status, reason, event.batch_id, len(frames))

    def _batch_failed(self, event: BatchFailed) -> None:
        running = self._end(event.batch_id)
        if running is None:
            return
        frames = running.action.frames
        for frame in frames:
            stream = self._streams.get(frame.stream_id)
            self._resolve(stream, frame, OutcomeStatus.FAILED, event.reason, event.batch_id, len(frames))

    def _end(self, batch_id: int) -> _Running | None:
        """Takes the batch off its lane; None where it has ended before, as when its lane went down."""
        running = self._running.pop(batch_id, None)
        if running is None:
            return None
        if self._lanes.get(running.action.lane) == batch_id:
            self._lanes[running.action.lane] = None
        for frame in running.action.frames:
            stream = self._streams.get(frame.stream_id)
            if stream is not None:
                stream.running -= 1
        return running

    # ---- models ----

    def _model_ready(self, now_ns: int, event: ModelReady) -> None:
        model = self._models.get(event.model)
        if model is None:
            model = self._models[event.model] = _Model(event.variant, event.stateful)
        model.profiles[event.lane] = Profile(event.samples_ns, event.any_size)
        model.last_run_ns = now_ns
        model.plan()
        self._plan_drop()

    def _model_gone(self, event: ModelGone) -> None:
        model = self._models.get(event.model)
        if model is None:
            return
        for batch_id, running in list(self._running.items()):
            if running.action.model == event.model and event.lane in (None, running.action.lane):
                self._batch_failed(BatchFailed(batch_id, event.reason))
        if event.lane is not None:
            model.profiles.pop(event.lane, None)
            model.plan()
            for stream in self._streams.values():
                if stream.lane == event.lane and model.stateful:
                    # Its state went with the worker: whatever runs next starts anew, on any lane.
                    stream.gap = True
        else:
            for frame in list(model.waiting):
                self._withdraw(self._streams[frame.stream_id], frame, OutcomeStatus.FAILED, event.reason)
            del self._models[event.model]
        self._plan_drop()

    # ---- time ----

    def _timer_fired(self, now_ns: int) -> None:
        if self._drain_ns is not None and now_ns >= self._drain_ns:
            for stream in self._streams.values():
                for frame in list(stream.waiting.values()):
                    self._withdraw(stream, frame, OutcomeStatus.SHED, "the server stopped before its turn")
