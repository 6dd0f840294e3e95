"""The scheduler: decides what runs, when and in which batch, and that every frame gets exactly one outcome.

Sans-IO. The host calls `step(now_ns, event)` with facts and carries out the actions that come back; it calls again with
`TimerFired` at `next_wake_ns()`. The scheduler reads no clock, starts nothing and changes only itself; equal logs of
(now, event) give equal actions.

The law: every frame of a `FramesArrived` is followed by exactly one `ResolveFrame`, whatever else happens.

Theory of operation. A frame is waiting or running, never both; `_resolve` is the only way out of either.

    FramesArrived -> over its credit, draining, doomed ........ resolved at once
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
    FrameRefused,
    FramesArrived,
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
from duly.core.state import ModelState, RunningBatch, StreamState
from duly.core.types import BacklogPolicy, Frame, GapPolicy, OutcomeStatus, StreamClass

BLOCKING_NS_MAX = 25_000_000
"""No batch of two or more blocks a lane for longer than this, nor than half the smallest budget of the most critical
class that has streams: a lane is not preemptive."""
PROBE_AFTER_NS = 1_000_000_000
"""A lane that did not run a model for so long may try a doomed frame against the plan: a plan must not starve its own
correction. While such probes show that the plan is spoilt, further ones may follow at once."""
PROBE_SPOILT_PERCENT = 80
"""A probe that takes less than this much of its plan shows that the plan is spoilt."""

_GAP = "the state of its stream misses a frame or is lost; open a new stream"


class Scheduler:
    def __init__(self) -> None:
        self._streams: dict[int, StreamState] = {}
        self._models: dict[str, ModelState] = {}
        self._lanes: dict[str, int | None] = {}
        """Batch that runs on each lane."""
        self._running: dict[int, RunningBatch] = {}
        self._waiting = 0
        """Frames that wait, of all models."""
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
            case FramesArrived():
                for frame in event.frames:
                    self._frame_arrived(now_ns, frame)
            case BatchFinished():
                self._batch_finished(now_ns, event)
            case TimerFired():
                pass
            case BatchFailed():
                self._batch_failed(event)
            case StreamOpened():
                self._streams[event.stream_id] = StreamState(event.terms)
                self._bound_blocking()
            case StreamClosed():
                self._stream_closed(event.stream_id)
            case FrameRefused():
                stream = self._streams.get(event.stream_id)
                if stream is not None and stream.terms.gap is not None:
                    stream.gap = True
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
        if self._drain_ns is not None and now_ns >= self._drain_ns:
            for stream in self._streams.values():
                self._end_waiting(stream, OutcomeStatus.SHED, "the server stopped before its turn")
        if self._drop_ns is not None and now_ns >= self._drop_ns:
            self._drop_doomed(now_ns)
        for lane, batch_id in self._lanes.items():
            if batch_id is None and self._waiting:
                self._fill(now_ns, lane)
        return self._actions

    def next_wake_ns(self) -> int | None:
        """When to call `step` with TimerFired at the latest; None: nothing pending."""
        if self._drain_ns is not None and self.frames_waiting():
            return self._drain_ns if self._drop_ns is None else min(self._drop_ns, self._drain_ns)
        return self._drop_ns

    # ---- for statistics ----

    def frames_waiting(self) -> int:
        return self._waiting

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
            self._end_waiting(stream, OutcomeStatus.CANCELLED, "its stream closed")
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
        frame.reset_state = stream.gap and terms.gap is GapPolicy.RESET
        stream.gap = stream.gap and terms.gap is GapPolicy.SKIP
        stream.unanswered += 1
        model = self._models.get(frame.model)
        if self._drain_ns is not None:
            self._resolve(stream, frame, OutcomeStatus.SHED, "the server is draining")
        elif model is None:
            self._resolve(stream, frame, OutcomeStatus.FAILED, f"model {frame.model} is not loaded")
        elif stream.unanswered > terms.frames_in_flight_max:
            reason = f"more than {terms.frames_in_flight_max} frames of the stream are unanswered"
            self._resolve(stream, frame, OutcomeStatus.SHED, reason)
        elif stream.gap:
            self._resolve(stream, frame, OutcomeStatus.SKIPPED, _GAP)
        elif frame.deadline_ns < now_ns + model.planned_one_ns:
            self._doomed(now_ns, stream, frame, model)
        else:
            self._wait(stream, frame, model)
            if terms.backlog is not BacklogPolicy.ALL and stream.supersedable > terms.backlog_frames:
                oldest = next(waiting for waiting in stream.waiting.values() if not waiting.must_run)
                self._withdraw(stream, oldest, OutcomeStatus.SUPERSEDED, f"frame {frame.frame_id} took its place")

    def _doomed(self, now_ns: int, stream: StreamState, frame: Frame, model: ModelState) -> None:
        """A frame that no lane can serve in time by its plan: dropped, or tried where a plan is due for a test."""
        lane = self._probe_lane(now_ns, frame, model)
        if lane is None:
            status, reason = drop_reason(frame, model.planned_one_ns, now_ns, model.preferred_ns[frame.stream_class])
            self._resolve(stream, frame, status, reason)
        else:
            self._start(now_ns, lane, frame.model, model, [frame], model.profiles[lane].planned_ns(1), probe=True)

    def _probe_lane(self, now_ns: int, frame: Frame, model: ModelState) -> str | None:
        """A lane with nothing else to do that has not run the model for long."""
        for lane in model.profiles:
            overdue = now_ns > model.probe_ns[lane] and frame.deadline_ns > now_ns
            may_start = not model.stateful or self._may_start(frame, lane)
            if overdue and may_start and self._lanes.get(lane, 0) is None and self._most_urgent(now_ns, lane) is None:
                return lane
        return None

    def _frames_cancelled(self, event: FramesCancelled) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            for frame_id in event.frame_ids:
                frame = stream.waiting.get(frame_id)
                if frame is not None:
                    self._withdraw(stream, frame, OutcomeStatus.CANCELLED, "withdrawn by the client")

    def _wait(self, stream: StreamState, frame: Frame, model: ModelState) -> None:
        stream.waiting[frame.frame_id] = frame
        stream.supersedable += not frame.must_run
        model.waiting.add(frame)
        self._waiting += 1
        self._drop_by(frame.deadline_ns, model)

    def _unwait(self, stream: StreamState, frame: Frame) -> None:
        del stream.waiting[frame.frame_id]
        stream.supersedable -= not frame.must_run
        self._models[frame.model].waiting.remove(frame)
        self._waiting -= 1

    def _withdraw(self, stream: StreamState, frame: Frame, status: OutcomeStatus, reason: str) -> None:
        """Ends a frame that waits; one that no longer does was SKIPPED along with one before it."""
        if frame.frame_id in stream.waiting:
            self._unwait(stream, frame)
            self._resolve(stream, frame, status, reason)

    def _end_waiting(self, stream: StreamState, status: OutcomeStatus, reason: str, after_id: int = -1) -> None:
        """Ends every frame of the stream that waits behind that frame id, alike."""
        for frame in [frame for frame_id, frame in stream.waiting.items() if frame_id > after_id]:
            self._unwait(stream, frame)
            self._answer(stream, frame, status, reason)

    def _resolve(
        self,
        stream: StreamState | None,
        frame: Frame,
        status: OutcomeStatus,
        reason: str,
        batch_id: int = 0,
        batch_size: int = 0,
    ) -> None:
        """Ends a frame that no longer waits or runs, with what follows for the frames behind it."""
        self._answer(stream, frame, status, reason, batch_id, batch_size)
        if stream is None or status in (OutcomeStatus.ON_TIME, OutcomeStatus.LATE):
            return
        if stream.terms.gap is GapPolicy.SKIP:
            stream.gap = True
            self._end_waiting(stream, OutcomeStatus.SKIPPED, _GAP, frame.frame_id)
        elif stream.terms.gap is GapPolicy.RESET:
            behind = next((frame_id for frame_id in stream.waiting if frame_id > frame.frame_id), None)
            if behind is None:
                stream.gap = True
            else:
                stream.waiting[behind].reset_state = True

    def _answer(
        self,
        stream: StreamState | None,
        frame: Frame,
        status: OutcomeStatus,
        reason: str,
        batch_id: int = 0,
        batch_size: int = 0,
    ) -> None:
        """The one way out."""
        self._actions.append(ResolveFrame(frame, status, reason, batch_id, batch_size))
        if stream is not None:
            stream.unanswered -= 1

    def _drop_doomed(self, now_ns: int) -> None:
        for model in self._models.values():
            for frame in model.waiting.due_before(now_ns + model.planned_one_ns):
                stream = self._streams[frame.stream_id]
                if frame.frame_id in stream.waiting:
                    self._unwait(stream, frame)
                    self._doomed(now_ns, stream, frame, model)
        self._plan_drop()

    def _plan_drop(self) -> None:
        self._drop_ns = None
        for model in self._models.values():
            deadline_ns = model.waiting.deadline_first_ns()
            if deadline_ns is not None:
                self._drop_by(deadline_ns, model)

    def _drop_by(self, deadline_ns: int, model: ModelState) -> None:
        """Looks again when the latest start of such a frame has passed, if not before."""
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

    def _most_urgent(self, now_ns: int, lane: str) -> str | None:
        """The model that a free lane runs next; None: no frame waits that it could serve in time."""
        urgent: tuple[StreamClass, int] | None = None
        chosen: str | None = None
        for name, model in self._models.items():
            if model.waiting and lane in model.profiles:
                head = next(self._runnable(now_ns, model, lane), None)
                if head is not None:
                    urgency = (head.stream_class, head.deadline_ns - model.profiles[lane].planned_ns(1))
                    if urgent is None or urgency < urgent:
                        urgent, chosen = urgency, name
        return chosen

    def _fill(self, now_ns: int, lane: str) -> None:
        """Gives a free lane the most urgent batch that it can run, if any."""
        chosen = self._most_urgent(now_ns, lane)
        if chosen is None:
            return
        model = self._models[chosen]
        profile = model.profiles[lane]
        waiting = list(islice(self._runnable(now_ns, model, lane), LOOKAHEAD_BATCHES * profile.batch_max))
        last_free_lane = len(model.profiles) == 1 or not any(
            batch_id is None and other != lane and other in model.profiles for other, batch_id in self._lanes.items()
        )
        batch = form_batch(waiting, profile, now_ns, self._cap_ns, last_free_lane)
        for frame in batch.frames:
            self._unwait(self._streams[frame.stream_id], frame)
        for frame in batch.passed_over:
            reason = "overload: passed over for a larger batch"
            self._withdraw(self._streams[frame.stream_id], frame, OutcomeStatus.SHED, reason)
        self._start(now_ns, lane, chosen, model, batch.frames, batch.planned_ns, probe=False)

    def _runnable(self, now_ns: int, model: ModelState, lane: str) -> Iterator[Frame]:
        """Waiting frames that may start on that lane now and be in time, in order."""
        finished_ns = now_ns + model.profiles[lane].planned_ns(1)
        for frame in model.waiting:
            if frame.deadline_ns >= finished_ns and (not model.stateful or self._may_start(frame, lane)):
                yield frame

    def _may_start(self, frame: Frame, lane: str) -> bool:
        """Stateful: whether the frame is its stream's next, and the lane has the stream's state or need not."""
        stream = self._streams[frame.stream_id]
        if stream.running or next(iter(stream.waiting), frame.frame_id) < frame.frame_id:
            return False
        return stream.home is None or stream.home[0] != frame.model or stream.home[1] == lane

    def _start(
        self, now_ns: int, lane: str, name: str, model: ModelState, frames: list[Frame], planned_ns: int, *, probe: bool
    ) -> None:
        self._batch_id += 1
        action = DispatchBatch(self._batch_id, lane, name, model.variant, frames, planned_ns)
        self._lanes[lane] = action.batch_id
        self._running[action.batch_id] = RunningBatch(action, model, now_ns, probe)
        model.probe_ns[lane] = now_ns + PROBE_AFTER_NS
        for frame in frames:
            stream = self._streams[frame.stream_id]
            stream.running += 1
            if stream.terms.gap is not None:
                frame.reset_state |= stream.state_lost or stream.home not in (None, (name, lane))
                stream.home, stream.state_lost = (name, lane), False
        most_critical = frames[0].stream_class
        if self._waiting and most_critical is not StreamClass.BEST_EFFORT:
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
        # Frames that did not run say nothing about how long a batch of that size takes.
        if profile is not None and not event.invalid and not event.failed:
            finished_ns = now_ns if event.finished_ns is None else event.finished_ns
            actual_ns = finished_ns - running.started_ns
            if running.probe and actual_ns * 100 < running.action.planned_ns * PROBE_SPOILT_PERCENT:
                running.model.probe_ns[running.action.lane] = now_ns
            profile.observe(len(frames), actual_ns, after_idle=running.probe)
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

    def _end(self, batch_id: int) -> RunningBatch | None:
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
            model = self._models[event.model] = ModelState(event.variant, event.stateful)
        model.profiles[event.lane] = Profile(event.samples_ns, event.any_size)
        model.probe_ns[event.lane] = now_ns + PROBE_AFTER_NS
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
        else:
            for frame in list(model.waiting):
                self._withdraw(self._streams[frame.stream_id], frame, OutcomeStatus.FAILED, event.reason)
            del self._models[event.model]
        for stream in self._streams.values():
            if stream.home is not None and stream.home[0] == event.model and event.lane in (None, stream.home[1]):
                # Its state went with the worker: whatever runs next starts anew, on any lane.
                stream.home, stream.state_lost = None, True
                if event.lane is not None and stream.terms.gap is GapPolicy.SKIP:
                    stream.gap = True
                    self._end_waiting(stream, OutcomeStatus.SKIPPED, _GAP)
        self._plan_drop()
