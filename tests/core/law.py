"""The law of the core, checked from outside: `Witness` steps the real scheduler and holds it to its promises.

It knows only what went in and what came out, plus the plans that the scheduler publishes, and keeps its own account of
streams, lanes, workers and frames. Every promise is an assertion with the time and the frame or batch in its message.

Out of scope: which of several lawful batches is best. The stories show what the rules prefer.
"""

import copy
from dataclasses import dataclass, field

from duly.core.events import (
    Action,
    AdviseStream,
    BatchFailed,
    BatchFinished,
    DispatchBatch,
    DrainRequested,
    Event,
    FramesArrived,
    FramesCancelled,
    LaneDown,
    LaneUp,
    ModelGone,
    ModelReady,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
)
from duly.core.scheduler import PROBE_AFTER_NS, PROBE_SPOILT_PERCENT, Scheduler
from duly.core.types import BacklogPolicy, Frame, GapPolicy, OutcomeStatus, StreamClass, StreamTerms

SERVED = (OutcomeStatus.ON_TIME, OutcomeStatus.LATE)


@dataclass(slots=True)
class Stream:
    terms: StreamTerms
    waiting: dict[int, Frame] = field(default_factory=dict)
    running: int = 0
    outcomes: dict[int, OutcomeStatus | None] = field(default_factory=dict)
    """By frame id, in order of arrival; None: not answered yet."""
    home: tuple[str, str] | None = None
    """Stateful: model and lane that hold its state."""
    state_lost: bool = False
    """Stateful: its home went since a frame last started."""
    broken: bool = False
    """Stateful under SKIP: the worker of its home crashed."""


@dataclass(slots=True)
class Worker:
    batch_max: int
    ready_ns: int
    last_run_ns: int
    spoilt: bool = False
    """The last run was a probe that showed the plan to be spoilt: another may follow at once."""


@dataclass(slots=True)
class Running:
    action: DispatchBatch
    started_ns: int
    probe: bool
    end: Event | None = None
    """What ended it, within the step that does."""


class Witness:
    """The scheduler's host as far as facts go. `step` and `next_wake_ns` are the scheduler's, checked."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.log: list[tuple[int, Event]] = []
        """What went in, copied before the scheduler saw it."""
        self.answers: list[list[Action]] = []
        """What came out of each step, copied before the next."""
        self.streams: dict[int, Stream] = {}
        self.lanes: dict[str, int | None] = {}
        self.workers: dict[tuple[str, str], Worker] = {}
        """By model and lane."""
        self.stateful: dict[str, bool] = {}
        """Models that are loaded."""
        self.batches: dict[int, Running] = {}
        self.unanswered: dict[int, Frame] = {}
        """By seq."""
        self.batch_of: dict[int, int] = {}
        """Running frames: seq to batch id."""
        self.drain_ns: int | None = None

    def step(self, now_ns: int, event: Event) -> list[Action]:
        self.log.append((now_ns, copy.deepcopy(event)))
        self._note(now_ns, event)
        actions = self.scheduler.step(now_ns, event)
        self.answers.append(copy.deepcopy(actions))
        for action in actions:
            match action:
                case ResolveFrame():
                    self._resolved(now_ns, event, action)
                case DispatchBatch():
                    self._dispatched(now_ns, action)
                case AdviseStream():
                    assert action.stream_id in self.streams, f"{now_ns}: advice to a stream that is closed"
        self._ended(now_ns)
        self._settled(now_ns)
        return actions

    def next_wake_ns(self) -> int | None:
        return self.scheduler.next_wake_ns()

    def assert_replays(self) -> None:
        """The recorded log gives the same actions on a fresh scheduler."""
        fresh = Scheduler()
        for (now_ns, event), actions in zip(self.log, self.answers, strict=True):
            assert fresh.step(now_ns, copy.deepcopy(event)) == actions, f"{now_ns}: {event} does not replay"

    # ---- what went in ----

    def _note(self, now_ns: int, event: Event) -> None:
        match event:
            case StreamOpened():
                self.streams[event.stream_id] = Stream(event.terms)
            case FramesArrived(frames):
                for frame in frames:
                    self.unanswered[frame.seq] = frame
                    stream = self.streams.get(frame.stream_id)
                    if stream is not None:
                        stream.waiting[frame.frame_id] = frame
                        stream.outcomes[frame.frame_id] = None
            case LaneUp():
                self.lanes.setdefault(event.lane, None)
            case LaneDown():
                for model in list(self.stateful):
                    self._worker_gone(model, event.lane, event)
                self.lanes.pop(event.lane, None)
            case ModelReady():
                self.stateful.setdefault(event.model, event.stateful)
                self.workers[event.model, event.lane] = Worker(max(event.samples_ns), now_ns, now_ns)
            case ModelGone(model, lane):
                for name in [name for of, name in self.workers if of == model and lane in (None, name)]:
                    self._worker_gone(model, name, event)
                if lane is None:
                    self.stateful.pop(model, None)
            case BatchFinished() | BatchFailed():
                self._probed(now_ns, event)
                self._batch_over(event.batch_id, event)
            case DrainRequested():
                self.drain_ns = event.until_ns

    def _worker_gone(self, model: str, lane: str, event: Event) -> None:
        self.workers.pop((model, lane), None)
        for batch_id, running in self.batches.items():
            if (running.action.model, running.action.lane) == (model, lane):
                self._batch_over(batch_id, event)
        for stream in self.streams.values():
            if stream.home == (model, lane):
                stream.home, stream.state_lost = None, True
                stream.broken |= not (isinstance(event, ModelGone) and event.lane is None)

    def _probed(self, now_ns: int, event: BatchFinished | BatchFailed) -> None:
        running = self.batches.get(event.batch_id)
        if running is None or not running.probe or isinstance(event, BatchFailed) or event.invalid or event.failed:
            return
        worker = self.workers.get((running.action.model, running.action.lane))
        if worker is not None:
            taken_ns, planned_ns = now_ns - running.started_ns, running.action.planned_ns
            worker.spoilt = taken_ns * 100 < planned_ns * PROBE_SPOILT_PERCENT

    def _batch_over(self, batch_id: int, event: Event) -> None:
        running = self.batches.get(batch_id)
        if running is not None:
            running.end = event
            for frame in running.action.frames:
                if frame.stream_id in self.streams:
                    self.streams[frame.stream_id].running -= 1
            if self.lanes.get(running.action.lane) == batch_id:
                self.lanes[running.action.lane] = None

    # ---- what came out ----

    def _resolved(self, now_ns: int, event: Event, action: ResolveFrame) -> None:
        frame, status = action.frame, action.status
        told = f"{now_ns}: frame {frame.stream_id}/{frame.frame_id} {status.name} ({action.reason})"
        assert self.unanswered.pop(frame.seq, None) is frame, f"{told}: never came, or is answered already"
        assert action.reason or status is OutcomeStatus.ON_TIME, f"{told}: no reason"
        stream = self.streams.get(frame.stream_id)
        if frame.seq in self.batch_of:
            running = self.batches[self.batch_of.pop(frame.seq)]
            batch = running.action
            assert (action.batch_id, action.batch_size) == (batch.batch_id, len(batch.frames)), f"{told}: wrong batch"
            assert running.end is not None, f"{told}: its batch still runs"
            assert status is _status_after_run(now_ns, frame, stream, running.end), told
        else:
            assert (action.batch_id, action.batch_size) == (0, 0), f"{told}: never ran"
            assert self._may_end_unrun(now_ns, event, action, stream), f"{told}: no ground for it"
            if stream is not None:
                del stream.waiting[frame.frame_id]
        if stream is not None:
            stream.outcomes[frame.frame_id] = status

    def _may_end_unrun(self, now_ns: int, event: Event, action: ResolveFrame, stream: Stream | None) -> bool:
        frame = action.frame
        if stream is None:
            return action.status is OutcomeStatus.CANCELLED
        terms = stream.terms
        if isinstance(event, StreamClosed) and event.stream_id == frame.stream_id:
            return action.status is OutcomeStatus.CANCELLED
        match action.status:
            case OutcomeStatus.EXPIRED:
                return now_ns + self.scheduler.planned_one_ns(frame.model) > frame.deadline_ns
            case OutcomeStatus.SUPERSEDED:
                arrived = event.frames if isinstance(event, FramesArrived) else []
                newer = any(f.stream_id == frame.stream_id and f.frame_id > frame.frame_id for f in arrived)
                return newer and not frame.must_run and terms.backlog is not BacklogPolicy.ALL
            case OutcomeStatus.SHED:
                if "more critical" in action.reason:
                    doomed = now_ns + self.scheduler.planned_one_ns(frame.model) > frame.deadline_ns
                    return doomed and terms.stream_class is not StreamClass.CRITICAL
                over_credit = sum(status is None for status in stream.outcomes.values()) > terms.frames_in_flight_max
                return over_credit or self.drain_ns is not None or "larger batch" in action.reason
            case OutcomeStatus.SKIPPED:
                return terms.gap is GapPolicy.SKIP and (stream.broken or _after_gap(stream, frame.frame_id))
            case OutcomeStatus.CANCELLED:
                return isinstance(event, FramesCancelled) and frame.frame_id in event.frame_ids
            case OutcomeStatus.FAILED:
                return frame.model not in self.stateful
            case _:
                return False

    def _dispatched(self, now_ns: int, batch: DispatchBatch) -> None:
        told = f"{now_ns}: batch {batch.batch_id} of {batch.model} on {batch.lane}"
        assert self.lanes.get(batch.lane, 0) is None, f"{told}: the lane is not up and free"
        worker = self.workers.get((batch.model, batch.lane))
        assert worker is not None, f"{told}: the model has no worker there"
        assert 1 <= len(batch.frames) <= worker.batch_max, f"{told}: {len(batch.frames)} frames"
        plan = self.scheduler.planned_ns(batch.model, batch.lane)
        assert batch.planned_ns == plan[len(batch.frames) - 1], f"{told}: not the published plan"
        in_time = all(now_ns + batch.planned_ns <= frame.deadline_ns for frame in batch.frames)
        due = worker.spoilt or now_ns - worker.last_run_ns > PROBE_AFTER_NS
        probe = len(batch.frames) == 1 and due
        assert in_time or (probe and now_ns < batch.frames[0].deadline_ns), f"{told}: planned to be late"
        for frame in batch.frames:
            assert frame.model == batch.model, f"{told}: frame of {frame.model}"
            assert frame.seq in self.unanswered, f"{told}: frame {frame.stream_id}/{frame.frame_id} is answered"
            assert self._may_start(frame, batch.lane), f"{told}: frame {frame.stream_id}/{frame.frame_id} may not run"
            self._started(batch, frame)
        assert in_time or not self._runnable(now_ns, batch.lane), f"{told}: a probe goes before what can be in time"
        self._assert_precedence(now_ns, batch, told)
        worker.last_run_ns, worker.spoilt = now_ns, False
        self.lanes[batch.lane] = batch.batch_id
        self.batches[batch.batch_id] = Running(batch, now_ns, not in_time)

    def _started(self, batch: DispatchBatch, frame: Frame) -> None:
        stream = self.streams[frame.stream_id]
        del stream.waiting[frame.frame_id]
        stream.running += 1
        self.batch_of[frame.seq] = batch.batch_id
        if stream.terms.gap is None:
            return
        told = f"frame {frame.stream_id}/{frame.frame_id}"
        home = (batch.model, batch.lane)
        lost = stream.state_lost or stream.home not in (None, home)
        gap = _after_gap(stream, frame.frame_id)
        assert stream.terms.gap is not GapPolicy.SKIP or not (gap or stream.broken), f"{told} runs after a gap"
        resets = lost or (gap and stream.terms.gap is GapPolicy.RESET)
        assert frame.reset_state == resets, f"{told}: state lost {lost}, gap {gap}, reset {frame.reset_state}"
        stream.home, stream.state_lost = home, False

    def _assert_precedence(self, now_ns: int, batch: DispatchBatch, told: str) -> None:
        """No more critical frame that could have run here is left behind, of any model."""
        most = min(frame.stream_class for frame in batch.frames)
        least = max(frame.stream_class for frame in batch.frames)
        for frame in self._runnable(now_ns, batch.lane):
            bound = least if frame.model == batch.model else most
            assert frame.stream_class >= bound, f"{told}: goes before {frame.stream_id}/{frame.frame_id}"

    # ---- what holds between steps ----

    def _ended(self, now_ns: int) -> None:
        for batch_id, running in list(self.batches.items()):
            if running.end is not None:
                left = [frame.seq for frame in running.action.frames if frame.seq in self.unanswered]
                assert not left, f"{now_ns}: batch {batch_id} ended, frames {left} have no answer"
                del self.batches[batch_id]
        if isinstance(self.log[-1][1], StreamClosed):
            self.streams.pop(self.log[-1][1].stream_id, None)

    def _settled(self, now_ns: int) -> None:
        waiting = [frame for frame in self.unanswered.values() if frame.seq not in self.batch_of]
        assert self.scheduler.frames_waiting() == len(waiting), f"{now_ns}: {len(waiting)} frames should wait"
        wake_ns = self.next_wake_ns()
        assert wake_ns is None or wake_ns > now_ns, f"{now_ns}: asks to be woken at {wake_ns}, again and again"
        for frame in waiting:
            told = f"{now_ns}: frame {frame.stream_id}/{frame.frame_id}"
            assert frame.model in self.stateful, f"{told} waits for a model that is not loaded"
            latest_start_ns = frame.deadline_ns - self.scheduler.planned_one_ns(frame.model)
            assert now_ns <= latest_start_ns, f"{told} waits past its latest start"
            assert wake_ns is not None, f"{told} waits and nobody will wake"
            assert wake_ns <= latest_start_ns + 1, f"{told} is due at {latest_start_ns}, the wake at {wake_ns}"
        for lane, batch_id in self.lanes.items():
            assert batch_id is not None or not self._runnable(now_ns, lane), f"{now_ns}: {lane} idles while frames wait"
        if self.drain_ns is not None and now_ns >= self.drain_ns:
            assert not waiting, f"{now_ns}: {len(waiting)} frames wait after the drain"
        for stream_id, stream in self.streams.items():
            terms = stream.terms
            supersedable = sum(not frame.must_run for frame in stream.waiting.values())
            told = f"{now_ns}: stream {stream_id}"
            assert terms.backlog is BacklogPolicy.ALL or supersedable <= terms.backlog_frames, f"{told}: backlog"
            assert len(stream.waiting) + stream.running <= terms.frames_in_flight_max, f"{told}: over its credit"
            assert terms.gap is None or stream.running <= 1, f"{told}: {stream.running} frames run on one state"

    def _runnable(self, now_ns: int, lane: str) -> list[Frame]:
        """Waiting frames that could start on the lane now and be in time."""
        return [
            frame
            for stream in self.streams.values()
            for frame in stream.waiting.values()
            if (frame.model, lane) in self.workers
            and now_ns + self.scheduler.planned_ns(frame.model, lane)[0] <= frame.deadline_ns
            and self._may_start(frame, lane)
        ]

    def _may_start(self, frame: Frame, lane: str) -> bool:
        if not self.stateful[frame.model]:
            return True
        stream = self.streams[frame.stream_id]
        if stream.running or next(iter(stream.waiting)) != frame.frame_id:
            return False
        # A stream stays with the lane that has its state.
        return stream.home is None or stream.home[0] != frame.model or stream.home[1] == lane


def _after_gap(stream: Stream, frame_id: int) -> bool:
    """Whether the frame before this one was not served."""
    before = [status for known_id, status in stream.outcomes.items() if known_id < frame_id]
    return bool(before) and before[-1] not in SERVED


def _status_after_run(now_ns: int, frame: Frame, stream: Stream | None, end: Event) -> OutcomeStatus:
    if not isinstance(end, BatchFinished):
        return OutcomeStatus.FAILED
    if frame.seq in end.invalid:
        return OutcomeStatus.INVALID
    if frame.seq in end.failed:
        return OutcomeStatus.FAILED
    if stream is None:
        return OutcomeStatus.CANCELLED
    return OutcomeStatus.ON_TIME if now_ns <= frame.deadline_ns else OutcomeStatus.LATE
