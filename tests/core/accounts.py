"""What an observer of the scheduler knows: what went in, what came out, and the plans that it publishes.

This is plain book-keeping of streams, lanes, workers, batches and frames, with the questions that `law` asks of it. It
asserts nothing.
"""

from dataclasses import dataclass, field, replace

from duly.core.dispatch.best_effort_share import BEST_EFFORT_PERCENT, DEFICIT_NS_MAX
from duly.core.dispatch.large_frames import blocking_max_ns
from duly.core.events import (
    Action,
    BatchFailed,
    BatchFinished,
    BatchSizesLimited,
    DispatchBatch,
    DrainRequested,
    Event,
    FrameRead,
    FrameRefused,
    FramesArrived,
    FramesTurnedOut,
    LaneDown,
    LaneUp,
    ModelGone,
    ModelReady,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
    WarmLane,
)
from duly.core.policing import BURST_NS, BURST_PERIODS, FASTER_PERCENT
from duly.core.scheduler import PROBE_SPOILT_PERCENT, Scheduler
from duly.core.timing.profile import Profile
from duly.core.types import Frame, JointFrame, OutcomeStatus, StreamClass, StreamTerms
from tests.core.fused import Fused
from tests.core.spare import Spare

SERVED = (OutcomeStatus.ON_TIME, OutcomeStatus.LATE)
Variant = tuple[str, int]
"""Model and rank of the variant that a frame waits for."""


@dataclass(slots=True)
class Stream:
    terms: StreamTerms
    waiting: dict[int, Frame] = field(default_factory=dict)
    """Waiting frames, oldest first; keys are frame ids."""
    running: int = 0
    outcomes: dict[int, OutcomeStatus | None] = field(default_factory=dict)
    """Statuses in order of arrival, None for frames without an answer; keys are frame ids."""
    home: tuple[str, str] | None = None
    """Only for stateful models: the model and lane that hold the stream's state."""
    home_layout: str = ""
    """The layout of the state there."""
    state_lost: bool = False
    """Only for stateful models: whether the home has gone since a frame last started."""
    tolerance_ns: int | None = None
    """How far frames may still be ahead of the stated period; None: no frame has come yet."""
    arrived_ns: int = 0
    """When that was so."""
    broken_from: int | None = None
    """Only for stateful models: the frame id from which on there is no state, as the home is gone, or as a version is
    to go on that does not take it."""
    model: str = ""
    """The model of the last frame."""

    def __post_init__(self) -> None:
        self.model = self.terms.model

    def conforms(self, now_ns: int) -> bool:
        """Whether a frame that comes now keeps to the stated period: a bucket that fills with time, and out of which
        each frame takes a period.
        """
        terms = self.terms
        if not terms.policed or not terms.period_ns or terms.stream_class not in BURST_NS:
            return True
        period_ns = terms.period_ns * 100 // (100 + FASTER_PERCENT[terms.stream_class])
        full_ns = max(BURST_NS[terms.stream_class], BURST_PERIODS * terms.period_ns) + period_ns
        left_ns = full_ns if self.tolerance_ns is None else min(full_ns, self.tolerance_ns + now_ns - self.arrived_ns)
        enough = left_ns >= period_ns
        self.tolerance_ns, self.arrived_ns = left_ns - period_ns * enough, now_ns
        return enough

    def intact(self, frame_id: int) -> bool:
        """Whether nothing of the state before that frame is missing."""
        broken = self.broken_from is not None and frame_id >= self.broken_from
        return not broken and not self.after_gap(frame_id)

    def after_gap(self, frame_id: int) -> bool:
        """Whether the frame before this one was not served."""
        before = [status for known_id, status in self.outcomes.items() if known_id < frame_id]
        return bool(before) and before[-1] not in SERVED


@dataclass(slots=True)
class Worker:
    variant: str
    sizes: tuple[int, ...]
    """The sizes of the warm-up that still run, in order."""
    warm_after_ns: int
    last_run_ns: int
    spoilt: bool = False
    """Whether the last run was a probe that showed the plan to be spoilt, so that another may follow at once."""
    limited: bool = False
    """Whether it had larger sizes before."""

    @property
    def batch_max(self) -> int:
        return self.sizes[-1]


@dataclass(slots=True)
class Lane:
    ended_ns: int
    """When the last run on the lane ended, or when the lane came up."""
    batch_id: int | None = None


@dataclass(slots=True)
class Running:
    action: DispatchBatch | WarmLane
    rank: int
    started_ns: int
    probe: bool
    end: Event | None = None
    """The event that ended the batch, set within the step that handles it."""

    @property
    def frames(self) -> list[Frame]:
        return self.action.frames if isinstance(self.action, DispatchBatch) else []


class Accounts:
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.fused = Fused(scheduler)
        """What concerns the members of fusion groups. The joint frames of a group are frames of a stream in `streams`.
        """
        self.spare = Spare()
        """What concerns streams whose frames run in spare time only; `streams` has none of them."""
        self.streams: dict[int, Stream] = {}
        self.lanes: dict[str, Lane] = {}
        """The lanes that are up."""
        self.workers: dict[tuple[str, int, str], Worker] = {}
        """Keys are model, rank and lane."""
        self.stateful: dict[str, bool] = {}
        """Whether each loaded model is stateful."""
        self.states: dict[str, tuple[str, bool]] = {}
        """The layout of the state of each loaded model, and whether it takes that of others."""
        self.batches: dict[int, Running] = {}
        self.came: list[Frame] = []
        """The frames that came in this step, or were made of others that did."""
        self.unanswered: dict[int, Frame] = {}
        """Frames without an answer; keys are `seq`."""
        self.demoted: set[int] = set()
        """The `seq` of frames that came faster than their streams stated."""
        self.arrived_ns: dict[int, int] = {}
        """When each frame arrived; keys are `seq`."""
        self.rank: dict[int, int] = {}
        """Rank of the variant that each frame waits for, or last waited for; keys are `seq`."""
        self.batch_of: dict[int, int] = {}
        """Batch id of each running frame; keys are `seq`."""
        self.alone: set[int] = set()
        """The `seq` of frames that must not share a batch."""
        self.extra_ns: dict[int, int] = {}
        """How much longer each frame takes now than usual ones; keys are `seq`."""
        self.reading: set[int] = set()
        """The `seq` of frames that the host reads beside the lanes."""
        self.read: set[int] = set()
        """The `seq` of those that it was told to read, so far."""
        self.drain_ns: int | None = None
        self.given_ns: dict[Variant, dict[StreamClass, int]] = {}
        """For each variant and class, when a lane that serves the variant last began a batch led by a frame of that
        class.
        """
        self.owed_ns = 0
        """The most lane time that may be owed to BEST_EFFORT."""
        self.closing: int | None = None
        """The stream that closes with the event of this step: what starts within it owes the stream nothing."""
        self.critical_missed_ns: int | None = None

    # ---- what happens ----

    def note(self, now_ns: int, event: Event) -> None:
        self.closing = event.stream_id if isinstance(event, StreamClosed) else None
        self.fused.note(event)
        self.spare.note(now_ns, event)
        self._note_groups()
        self.came = []
        match event:
            case StreamOpened():
                if event.terms.fusion is None and not event.terms.spare:
                    self.streams[event.stream_id] = Stream(event.terms)
            case FramesArrived(frames):
                for frame in frames:
                    self.arrived_ns[frame.seq] = now_ns
                    if frame.stream_id not in self.fused.streams and frame.seq not in self.spare.frames:
                        self._note_arrived(now_ns, frame)
            case FrameRefused(stream_id):
                if stream_id in self.streams:
                    outcomes = self.streams[stream_id].outcomes
                    outcomes[max(outcomes, default=0) + 1] = OutcomeStatus.INVALID
            case LaneUp():
                self.lanes.setdefault(event.lane, Lane(now_ns))
            case LaneDown():
                for model in list(self.stateful):
                    self._workers_gone(now_ns, model, event.lane, event)
                self.lanes.pop(event.lane, None)
            case ModelReady():
                self.stateful.setdefault(event.model, event.stateful)
                self.states[event.model] = event.state_layout, event.takes_state
                worker = Worker(event.variant, tuple(sorted(event.samples_ns)), event.warm_after_ns, now_ns)
                self.workers[event.model, event.rank, event.lane] = worker
            case ModelGone(model, lane):
                for name in [name for name in self.lanes if lane in (None, name)]:
                    self._workers_gone(now_ns, model, name, event)
                if lane is None:
                    self.stateful.pop(model, None)
                    self.states.pop(model, None)
                elif event.back_ns:
                    self._wait_again(now_ns, event)
            case BatchSizesLimited(model, lane, variant, size_max):
                for (name, _, at), worker in self.workers.items():
                    if (name, at, worker.variant) == (model, lane, variant):
                        sizes = tuple(size for size in worker.sizes if size <= size_max) or worker.sizes
                        worker.limited |= sizes != worker.sizes
                        worker.sizes = sizes
            case BatchFinished() | BatchFailed():
                self._note_probe(now_ns, event)
                self._batch_over(now_ns, event.batch_id, event)
            case DrainRequested():
                self.drain_ns = event.until_ns
            case FrameRead(stream_id, frame_id):
                stream = self.streams.get(stream_id)
                frame = stream.waiting.get(frame_id) if stream is not None else None
                if frame is not None and frame.seq in self.reading:
                    self.reading.discard(frame.seq)
                    self.extra_ns[frame.seq] = event.extra_ns
            case FramesTurnedOut():
                stream = self.streams.get(event.stream_id)
                late = event.missed and event.status is not OutcomeStatus.SUPERSEDED
                if stream is not None and late and stream.terms.stream_class is StreamClass.CRITICAL:
                    self.critical_missed_ns = now_ns

    def _note_groups(self) -> None:
        """Brings the streams of fusion groups to the terms of their members."""
        for group in self.fused.groups():
            terms = self.fused.group_terms(group)
            assert terms is not None
            stream = self.streams.setdefault(group, Stream(terms))
            if stream.terms != terms:
                # What ends along with a member that leaves does so by the gap policy that held.
                stream.terms, stream.tolerance_ns = replace(terms, gap=stream.terms.gap), None
        if self.fused.closing is not None:
            self.closing = self.fused.closing

    def settle_groups(self) -> None:
        """Brings the streams of fusion groups to the gap policy of their members, at the end of a step. Another one
        begins anew.
        """
        for group in self.fused.groups():
            terms, stream = self.fused.group_terms(group), self.streams[group]
            assert terms is not None
            if stream.terms.gap is not terms.gap:
                stream.terms, stream.broken_from = terms, None
                stream.outcomes = {frame_id: status for frame_id, status in stream.outcomes.items() if status is None}

    def note_joints(self, now_ns: int, actions: list[Action]) -> None:
        """Notes the joint frames that the step has made, before its actions are checked."""
        seen: list[Frame] = []
        for action in actions:
            if isinstance(action, DispatchBatch):
                seen += action.frames
            elif isinstance(action, ResolveFrame):
                seen.append(action.frame)
        for group in self.fused.groups() & self.scheduler._frames.streams.keys():
            seen += [queued.frame for queued in self.scheduler._frames.streams[group].waiting.values()]
        joints = {(f.stream_id, f.frame_id): f for f in seen if isinstance(f, JointFrame)}
        for (group, frame_id), joint in sorted(joints.items()):
            if frame_id not in self.streams[group].outcomes if group in self.streams else False:
                self.fused.note_joined(joint, f"{now_ns}: joint frame {group}/{frame_id}")
                self.arrived_ns[joint.seq] = now_ns
                self._note_arrived(now_ns, joint)

    def _note_arrived(self, now_ns: int, frame: Frame) -> None:
        self.came.append(frame)
        self.unanswered[frame.seq] = frame
        self.extra_ns[frame.seq] = frame.extra_ns
        if frame.alone:
            self.alone.add(frame.seq)
        stream = self.streams.get(frame.stream_id)
        if stream is not None:
            if frame.model != stream.model and (stream.home is not None or stream.waiting):
                layout, _ = self.states.get(stream.model, ("", False))
                if stream.broken_from is None and not self.takes(frame.model, layout):
                    stream.broken_from = frame.frame_id
            stream.model = frame.model
            stream.waiting[frame.frame_id] = frame
            if not stream.conforms(now_ns):
                self.demoted.add(frame.seq)
            stream.outcomes[frame.frame_id] = None

    def note_parted(self, joint: JointFrame) -> None:
        """Notes that the pieces of a joint frame that waited are answered each for itself."""
        if self.unanswered.pop(joint.seq, None) is not None:
            stream = self.streams[joint.stream_id]
            del stream.waiting[joint.frame_id]
            stream.outcomes[joint.frame_id] = OutcomeStatus.EXPIRED

    def note_ranks(self, actions: list[Action]) -> None:
        """Notes the ranks of frames before the actions of a step are checked. No action says which variant a frame
        waits for.
        """
        for action in actions:
            if isinstance(action, DispatchBatch):
                rank = next(
                    rank
                    for (model, rank, lane), worker in self.workers.items()
                    if (model, lane, worker.variant) == (action.model, action.lane, action.variant)
                )
                self.rank.update((frame.seq, rank) for frame in action.frames)
            elif isinstance(action, ResolveFrame) and action.frame.seq not in self.rank:
                # The frame never waited: no variant that its stream accepts could have served it.
                stream = self.streams.get(action.frame.stream_id)
                accepted = stream.terms.variant_rank_max if stream is not None else 0
                ranks = [rank for rank in self.ranks(action.frame.model) if rank <= accepted]
                self.rank[action.frame.seq] = max(ranks, default=0)
        for stream_id in self.streams.keys() & self.scheduler._frames.streams.keys():
            for queued in self.scheduler._frames.streams[stream_id].waiting.values():
                self.rank[queued.frame.seq] = queued.rank

    def note_started(self, now_ns: int, running: Running) -> None:
        batch = running.action
        self.batches[batch.batch_id] = running
        self.lanes[batch.lane].batch_id = batch.batch_id
        if not running.frames or running.frames[0].seq in self.spare.frames:
            return
        worker = self.workers[batch.model, running.rank, batch.lane]
        worker.last_run_ns, worker.spoilt = now_ns, False
        most = self.stream_class(running.frames[0])
        for model, rank, lane in self.workers:
            if lane == batch.lane:
                self.given_ns.setdefault((model, rank), {})[most] = now_ns

    def note_share(self, batch: DispatchBatch) -> None:
        """Notes what BEST_EFFORT is owed; call it once the frames of the batch no longer wait."""
        left = self.waiting()
        most = self.stream_class(batch.frames[0])
        if most is StreamClass.STANDARD and any(self.stream_class(f) is StreamClass.BEST_EFFORT for f in left):
            owed_ns = batch.planned_ns * BEST_EFFORT_PERCENT // (100 - BEST_EFFORT_PERCENT)
            self.owed_ns = min(self.owed_ns + owed_ns, DEFICIT_NS_MAX)
        elif most is StreamClass.BEST_EFFORT and left:
            self.owed_ns = max(self.owed_ns - batch.planned_ns, 0)

    def _workers_gone(self, now_ns: int, model: str, lane: str, event: Event) -> None:
        for name, rank, at in list(self.workers):
            if (name, at) == (model, lane):
                del self.workers[name, rank, at]
        for batch_id, running in self.batches.items():
            if (running.action.model, running.action.lane) == (model, lane):
                self._batch_over(now_ns, batch_id, event)
        for stream in self.streams.values():
            if stream.home == (model, lane):
                stream.home, stream.state_lost = None, True
                stream.broken_from = 0

    def _note_probe(self, now_ns: int, event: BatchFinished | BatchFailed) -> None:
        running = self.batches.get(event.batch_id)
        if running is None or not running.probe or isinstance(event, BatchFailed) or event.invalid or event.failed:
            return
        worker = self.workers.get((running.action.model, running.rank, running.action.lane))
        if worker is not None and isinstance(running.action, DispatchBatch):
            taken_ns, planned_ns = now_ns - running.started_ns, running.action.planned_ns
            worker.spoilt = taken_ns * 100 < planned_ns * PROBE_SPOILT_PERCENT

    def _batch_over(self, now_ns: int, batch_id: int, event: Event) -> None:
        running = self.batches.get(batch_id)
        if running is None:
            return
        running.end = event
        for frame in running.frames:
            if frame.stream_id in self.streams:
                self.streams[frame.stream_id].running -= 1
        lane = self.lanes.get(running.action.lane)
        if lane is not None and lane.batch_id == batch_id:
            lane.batch_id, lane.ended_ns = None, now_ns

    def _wait_again(self, now_ns: int, event: ModelGone) -> None:
        """Of a batch of several that ran on the worker, the frames that have the time wait again, each for itself; that
        of one does so once, where it is innocent.
        """
        for running in self.batches.values():
            draining = self.drain_ns is not None
            if running.end is not event or self.stateful[event.model] or draining:
                continue
            fresh = any(frame.seq not in self.alone for frame in running.frames)
            if len(running.frames) < 2 and not (event.innocent and fresh):
                continue
            assert isinstance(running.action, DispatchBatch)
            others = any((model, rank) == (event.model, running.rank) for model, rank, _ in self.workers)
            needed_ns = (now_ns if others else max(now_ns, event.back_ns)) + running.action.planned_ns
            for frame in running.frames:
                stream = self.streams.get(frame.stream_id)
                if stream is not None and self.due_ns(frame) >= needed_ns:
                    del self.batch_of[frame.seq]
                    self.alone.add(frame.seq)
                    stream.waiting = dict(sorted([*stream.waiting.items(), (frame.frame_id, frame)]))

    # ---- what follows from it ----

    @property
    def pieces(self) -> dict[int, Frame]:
        """Frames of members of fusion groups without an answer; keys are `seq`."""
        return self.fused.pieces

    def stream_class(self, frame: Frame) -> StreamClass:
        if frame.seq in self.demoted:
            return StreamClass.BEST_EFFORT
        return self.streams[frame.stream_id].terms.stream_class

    def variant(self, frame: Frame) -> Variant:
        return frame.model, self.rank[frame.seq]

    def waiting(self) -> list[Frame]:
        return [frame for frame in self.unanswered.values() if frame.seq not in self.batch_of]

    def planned_ns(self, variant: Variant, lane: str) -> list[int]:
        """Planned times of batches of 0, 1, 2, ... on a lane that serves the variant."""
        worker = self.workers[*variant, lane]
        return [0, *self.scheduler.planned_ns(variant[0], lane, worker.variant)]

    def profile(self, variant: Variant, lane: str) -> Profile:
        """The profile of the variant on a lane that serves it."""
        model, rank = variant
        return self.scheduler._models.by_name[model].variants[rank].profiles[lane]  # not published

    def planned_one_ns(self, variant: Variant) -> int | None:
        """Planned time of a batch of one on the fastest lane; None: no lane serves the variant."""
        lanes = [lane for model, rank, lane in self.workers if (model, rank) == variant]
        return min((self.planned_ns(variant, lane)[1] for lane in lanes), default=None)

    def ranks(self, model: str) -> list[int]:
        """Ranks of the model's variants that some lane serves."""
        return sorted({rank for name, rank, _ in self.workers if name == model})

    def may_be_in_time(self, now_ns: int, frame: Frame, terms: StreamTerms) -> bool:
        """Whether the frame's variant, or a less accurate one that its stream accepts, could serve it in time from now
        on.
        """
        for rank in self.ranks(frame.model):
            if self.rank[frame.seq] <= rank <= max(self.rank[frame.seq], terms.variant_rank_max):
                planned_ns = self.planned_one_ns((frame.model, rank))
                if planned_ns is not None and now_ns + planned_ns <= self.due_ns(frame):
                    return True
        return not self.ranks(frame.model) and now_ns <= self.due_ns(frame)

    def runnable(self, now_ns: int, lane: str) -> list[Frame]:
        """Waiting frames that could start on the lane now and be in time."""
        first_ns = {
            (model, rank): self.planned_ns((model, rank), lane)[1] for model, rank, at in self.workers if at == lane
        }
        return [
            frame
            for stream in self.streams.values()
            for frame in stream.waiting.values()
            if self.variant(frame) in first_ns
            and now_ns + first_ns[self.variant(frame)] <= self.due_ns(frame)
            and self.may_start(frame, lane)
            and frame.seq not in self.reading
            and not self.would_block(now_ns, frame, first_ns[self.variant(frame)] + self.extra_ns[frame.seq])
        ]

    def may_start(self, frame: Frame, lane: str) -> bool:
        if not self.stateful[frame.model]:
            return True
        stream = self.streams[frame.stream_id]
        if stream.running or next(iter(stream.waiting)) != frame.frame_id:
            return False
        # A stream stays with the lane that has its state. State that is handed over stays there if it can.
        if stream.home is None or stream.home[1] == lane:
            return True
        there = (*self.variant(frame), stream.home[1]) in self.workers
        return stream.home[0] != frame.model and not (self.takes(frame.model, stream.home_layout) and there)

    def takes(self, model: str, layout: str) -> bool:
        """Whether the model goes on with state of that layout that another version has kept."""
        own, takes = self.states.get(model, ("", False))
        return takes and layout == own != ""

    def due_ns(self, frame: Frame) -> int:
        """When a usual frame in the place of this one would have to be done."""
        return frame.deadline_ns - self.extra_ns[frame.seq]

    def would_block(self, now_ns: int, frame: Frame, planned_ns: int, large: bool = False) -> bool:
        """Whether a run would keep more critical streams waiting for too long, because the frame, or another of its
        batch, is `large`.
        """
        scheduler = self.scheduler
        limit_ns = blocking_max_ns(
            now_ns,
            self.stream_class(frame),
            scheduler._frames.streams,
            scheduler._models,  # not published
        )
        return (large or self.extra_ns[frame.seq] > 0) and planned_ns > limit_ns

    def gives_way(self, lane: str) -> bool:
        """Whether BEST_EFFORT is owed its next batch on that lane, so that it goes before STANDARD."""
        waiting = self.waiting()
        best_effort = {self.variant(f) for f in waiting if self.stream_class(f) is StreamClass.BEST_EFFORT}
        plans_ns = [self.planned_ns(variant, lane)[1] for variant in best_effort if (*variant, lane) in self.workers]
        return bool(plans_ns) and self.owed_ns >= min(plans_ns)

    def cap_ns(self, stream_class: StreamClass, blocking_ns: int, singles: int) -> int:
        """The longest planned time of a batch of two or more that begins with a frame of that class."""
        budgets_ns = [
            (stream.terms.stream_class, stream.terms.budget_ns)
            for stream_id, stream in self.streams.items()
            if stream_id != self.closing
        ]
        most, tightest_ns = min(budgets_ns)
        if most is stream_class and most is not StreamClass.CRITICAL:
            return 1 << 60
        single_ns = max(self.planned_ns((model, rank), lane)[1] for model, rank, lane in self.workers)
        return min(max(blocking_ns, singles * single_ns), tightest_ns // 2)
