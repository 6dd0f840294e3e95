"""A host that does anything to the scheduler, at random, while `law.Witness` watches.

    python -m tests.core.law_run --seed 17            one run; where it fails, prints what went in
    python -m tests.core.law_run --seed 0 --runs 1000 many; with --fusing, frames of several streams run as one

A run is made by one `random.Random`: the same seed gives the same run, and Hypothesis, which brings its own, shrinks
one that fails. The clock begins anywhere and moves only when the host says so; its timer may come late. Between single
events in every order there are stretches of ordinary operation, since overload, holds and shares need lasting traffic.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from random import Random

from duly.core.events import (
    BatchFailed,
    BatchFinished,
    BatchSizesLimited,
    DispatchBatch,
    DrainRequested,
    Event,
    FrameRead,
    FrameRefused,
    FramesArrived,
    FramesCancelled,
    FramesTurnedOut,
    LaneDown,
    LaneUp,
    ModelGone,
    ModelReady,
    StreamClosed,
    StreamOpened,
    TimerFired,
    WaitingEvicted,
)
from duly.core.scheduler import PROBE_AFTER_NS
from duly.core.types import (
    VARIANT_RANK_ANY,
    BacklogPolicy,
    Frame,
    Fusion,
    FusionWait,
    GapPolicy,
    JointFrame,
    OutcomeStatus,
    StreamClass,
    StreamTerms,
)
from tests.core.law import Witness

MS = 1_000_000
LANES = ("cpu:0", "cpu:1", "gpu:0", "gpu:1", "gpu:2")
MODELS = ("detect/1", "detect/2", "fixed/1", "speech/1", "speech/2")
STATEFUL = ("speech/1", "speech/2")
RANKS = {"detect/1": 3, "detect/2": 2, "fixed/1": 1, "speech/1": 2, "speech/2": 1}
CLASSES = (
    (StreamClass.STANDARD,),
    (StreamClass.STANDARD, StreamClass.BEST_EFFORT),
    (StreamClass.CRITICAL, StreamClass.CRITICAL, StreamClass.STANDARD),
    (StreamClass.CRITICAL, StreamClass.STANDARD, StreamClass.BEST_EFFORT),
)
STREAMS_MAX = 12
GROUP_IDS = 1000
"""Streams of fusion groups have the ids from here on."""
SPARE_IDS = 2000
"""Streams whose frames run in spare time only have the ids from here on."""
SHUTTER_NS = 10 * MS
"""Sensors of fusion groups capture at these intervals, as far as they are exact."""
TURNS_MAX = 40


class Host:
    def __init__(self, random: Random, fusing: bool) -> None:
        """`fusing`: whether most streams are members of fusion groups."""
        self.random = random
        self.witness = Witness()
        self.now_ns = random.randrange(2**62)
        self.streams: dict[int, str] = {}
        """Models of the streams; keys are stream ids. Closed streams stay, since their frames may still be on the way.
        """
        self.frames: dict[int, int] = {}
        """The last frame id of each stream."""
        self.budgets_ns: dict[int, int] = {}
        self.seq = 0
        self.warm_after_ns = random.choice([0, 0, 50 * MS])
        self.calm = random.random() < 0.5
        """Whether lanes stay up, so that traffic can be sustained."""
        self.models = random.choice([MODELS, MODELS[:1], MODELS[:2], MODELS[:3]])
        """The models that streams are opened for, with a few exceptions."""
        self.classes = random.choice(CLASSES)
        self.suspects = random.choice([(), (), (1,), (2, 3)])
        """Streams whose frames must not share a batch."""
        self.roomy = random.random() < 0.3
        """Whether budgets are long, so that CRITICAL frames have their turns before the first is missed."""
        self.large = self.now_ns % 4 == 1
        """Whether some frames take longer than usual ones."""
        self.takers = ((), ("speech/2",), STATEFUL)[self.now_ns // 4 % 3]
        """The models that take over the state that other versions keep of streams."""
        self.spare = 1 + self.now_ns % 2 if self.now_ns // 8 % 3 == 0 else 0
        """How many streams have frames for spare time alone."""
        self.fusing = fusing
        self.groups: list[tuple[str, Fusion]] = []
        """The model and the first member of each group."""
        self.members: dict[int, Fusion] = {}
        """How each stream is a member of its group, if it is."""

    def run(self, turns_max: int) -> None:
        """Does up to `turns_max` random things. Raises AssertionError where the law is broken."""
        for lane in LANES[: self.random.choice([1, 2, 4, 5])]:
            self._step(LaneUp(lane))
        for model in self.models:
            self.random.choice([self._load_everywhere, self._load_somewhere])(model)
        for _ in range(self.random.randint(1, 6)):
            self.open_stream()
        for nth in range(self.spare):
            self._open_spare(SPARE_IDS + nth)
        for turn in range(self.random.randint(1, turns_max)):
            happens = [*USUAL, *(() if self.calm else FAULTS), *([Host.frame_read] * 2 if self.large else ())]
            if turn > turns_max // 2:
                happens.append(Host.drain)
            self.random.choice(happens)(self)
        if turns_max == TURNS_MAX and self.calm and self.random.random() < 0.4:
            self.operate_long()
        self.end()

    # ---- frames for spare time alone ----

    def _open_spare(self, stream_id: int) -> None:
        model = self.random.choice(self.models)
        terms = StreamTerms(StreamClass.BEST_EFFORT, BacklogPolicy.LATEST, 1, 100 * MS, 64, model=model, spare=True)
        self._step(StreamOpened(stream_id, terms))

    def _send_spare(self) -> None:
        """Sends a frame for spare time alone, and closes such a stream or opens it again now and then."""
        spare = self.witness.accounts.spare
        stream_id = SPARE_IDS + self.seq % self.spare
        if self.seq % 11 == 0 and stream_id in spare.streams:
            self._step(StreamClosed(stream_id))
        elif stream_id not in spare.streams:
            self._open_spare(stream_id)
        self.seq += 1
        model = spare.streams[stream_id].model if stream_id in spare.streams else MODELS[0]
        deadline_ns = self.now_ns + (100, 3)[self.seq % 9 == 0] * MS
        extra_ns = 3 * MS if self.seq % 5 == 0 else 0
        frame = Frame(self.seq, stream_id, self.seq, model, deadline_ns, False, False, extra_ns)
        self._step(FramesArrived([frame]))

    # ---- traffic ----

    def open_stream(self) -> None:
        if len(self.streams) == STREAMS_MAX:
            return
        r, stream_id = self.random, len(self.streams) + 1
        model = r.choice(MODELS if r.random() < 0.1 else self.models)
        fusion: Fusion | None = None
        if self.fusing and r.random() < 0.8:
            model, fusion = self._fusion(model)
            self.members[stream_id] = fusion
        self.streams[stream_id] = model
        self.frames[stream_id] = 0
        self.budgets_ns[stream_id] = r.choice([r.randint(1, 120), r.randint(20, 60)]) * (5 * MS if self.roomy else MS)
        backlog = r.choice([BacklogPolicy.ALL, *BacklogPolicy])
        frames = {BacklogPolicy.LATEST: 1, BacklogPolicy.KEEP_LAST: r.randint(1, 3), BacklogPolicy.ALL: 0}
        window = r.choice([0, 0, r.randint(1, 6)])
        terms = StreamTerms(
            stream_class=r.choice(self.classes),
            backlog=backlog,
            backlog_frames=frames[backlog],
            budget_ns=self.budgets_ns[stream_id],
            frames_in_flight_max=r.choice([1, 3, 6, 64]),
            gap=r.choice(list(GapPolicy)) if model in STATEFUL else None,
            model=model,
            period_ns=r.choice([0, 10 * MS, 200 * MS]),
            policed=r.random() < 0.5,
            variant_rank_max=r.choice([0, 1, VARIANT_RANK_ANY]),
            principal=r.choice(["", "north", "south"]),
            floor_frames=r.randint(0, window),
            floor_window=window,
            advise=stream_id % 4 > 0,
            fusion=fusion,
        )
        if fusion is not None:
            terms.principal = "north"
        self._step(StreamOpened(stream_id, terms))

    def _fusion(self, model: str) -> tuple[str, Fusion]:
        """Returns model and place of a stream that opens in a group: the first that nobody gives, or a new group."""
        r = self.random
        fused = self.witness.accounts.fused
        for its_model, first in self.groups:
            taken = fused.members(first.group)
            for place in range(len(first.inputs)):
                if place not in taken:
                    wait, inputs = first.wait, first.inputs
                    return its_model, Fusion(first.group, first.name, inputs, place, first.tolerance_ns, wait)
        wait = r.choice(list(FusionWait))
        tolerance_ns = 0 if wait is FusionWait.EXACT else r.choice([2 * MS, 8 * MS, 30 * MS])
        inputs = ("left", "right", "depth")[: r.choice([2, 2, 3])]
        group = GROUP_IDS + len(self.groups)
        made = Fusion(group, f"rig {group}", inputs, r.randrange(len(inputs)), tolerance_ns, wait)
        self.groups.append((model, made))
        return model, made

    def frames_arrive(self) -> None:
        """Sends several frames of some streams at once; later ones may be due sooner."""
        frames = []
        for stream_id in self.random.choices(list(self.streams), k=self.random.randint(1, 6)):
            jitter_ns = self.random.choice([0, self.random.randint(-60, 30) * MS])
            frames.append(self._frame(stream_id, jitter_ns, must_run=self.random.random() < 0.2))
            frames += self._partners(stream_id)
        if self.spare:
            self._send_spare()
        if self.random.random() < 0.5:
            self._step(FramesArrived(frames))
        else:
            for frame in frames:
                self._step(FramesArrived([frame]))

    def _partners(self, stream_id: int) -> list[Frame]:
        """Frames of the other members of the stream's group that come with one of it, as they mostly do."""
        own = self.members.get(stream_id)
        if own is None or self.random.random() < 0.3:
            return []
        others = [id_ for id_, fusion in self.members.items() if id_ != stream_id and fusion.group == own.group]
        return [self._frame(other, 0, must_run=False) for other in others]

    def frame_refused(self) -> None:
        stream_id = self._stream()
        self.frames[stream_id] += 1
        captured_ns = self._captured_ns(stream_id) if stream_id in self.members else None
        self._step(FrameRefused(stream_id, captured_ns))

    def turned_out(self) -> None:
        """Reports that some frames that were answered ON_TIME reached their client too late, or not at all."""
        r, stream_id = self.random, self._stream()
        accounts = self.witness.accounts
        member = accounts.fused.streams.get(stream_id)
        stream = accounts.streams.get(member.fusion.group if member is not None else stream_id)
        outcomes = stream.outcomes.values() if stream is not None else ()
        hits = sum(status is OutcomeStatus.ON_TIME for status in outcomes)
        if hits:
            status = r.choice([OutcomeStatus.LATE, OutcomeStatus.LATE, OutcomeStatus.SUPERSEDED])
            frames = r.randint(1, min(hits, 5))
            self._step(FramesTurnedOut(stream_id, self.streams[stream_id], frames, status, r.random() < 0.7))

    def cancel(self) -> None:
        """Withdraws a frame that waits, or some of the last frames of a stream, whatever became of them."""
        accounts = self.witness.accounts
        joints = [frame for frame in accounts.waiting() if isinstance(frame, JointFrame)]
        if joints and self.random.random() < 0.5:
            piece = self.random.choice(self.random.choice(joints).pieces)
            self._step(FramesCancelled(piece.stream_id, (piece.frame_id,)))
            return
        waiting = [frame for frame in accounts.waiting() if frame.stream_id < GROUP_IDS] + list(
            accounts.pieces.values()
        )
        if waiting and self.random.random() < 0.5:
            frame = self.random.choice(waiting)
            self._step(FramesCancelled(frame.stream_id, (frame.frame_id,)))
            return
        stream_id = self._stream()
        back = self.random.sample(range(6), k=self.random.randint(0, 3))
        self._step(FramesCancelled(stream_id, tuple(self.frames[stream_id] - each for each in back)))

    def evict(self) -> None:
        """Needs the memory of what waits of a stream."""
        self._step(WaitingEvicted(self._stream()))

    def frame_read(self) -> None:
        """Reports a frame that was to be read beside the lanes, or one that was not."""
        accounts, r = self.witness.accounts, self.random
        reading = [frame for frame in accounts.waiting() if frame.seq in accounts.reading]
        for frame in reading[:3] or accounts.waiting()[:1]:
            left_ns = r.choice([accounts.extra_ns[frame.seq], accounts.extra_ns[frame.seq], frame.extra_ns])
            reasons = r.choice([("", ""), ("", ""), ("a damaged picture", ""), ("", "its reader is gone")])
            self._step(FrameRead(frame.stream_id, frame.frame_id, left_ns, *reasons))

    def close_stream(self) -> None:
        joints = [frame for frame in self.witness.accounts.waiting() if isinstance(frame, JointFrame)]
        self._step(StreamClosed(joints[0].pieces[0].stream_id if joints else self._stream()))

    def new_version(self) -> None:
        """Moves a stream to another version of its model between two frames."""
        stream_id = self._stream()
        name = self.streams[stream_id].partition("/")[0]
        model = self.streams[stream_id] = self.random.choice([model for model in MODELS if model.startswith(name)])
        if stream_id in self.members and self.now_ns % 2:  # else the others of its group follow later
            for other, fusion in self.members.items():
                if fusion.group == self.members[stream_id].group:
                    self.streams[other] = model

    def operate_long(self) -> None:
        """Long enough for streams to be told to slow down, and then that there is room."""
        streams = list(self.streams)
        gap_ns = self.random.randint(MS, 10 * MS)
        self._traffic(streams, gap_ns, 4000 * MS // gap_ns)
        self._traffic(streams, 10 * gap_ns, 6000 * MS // (10 * gap_ns))

    def operate(self) -> None:
        """Runs a stretch of traffic: frames come at some rate, batches end about when planned, timers fire in time."""
        r = self.random
        streams = r.sample(list(self.streams), k=r.randint(1, len(self.streams)))
        gap_ns = r.choice([r.randint(100_000, MS), r.randint(MS, 6 * MS), r.randint(5 * MS, 40 * MS)])
        self._traffic(streams, gap_ns, r.randint(5, 60))

    def _traffic(self, streams: list[int], gap_ns: int, frames: int) -> None:
        r = self.random
        ends_ns: dict[int, int] = {}
        next_ns = self.now_ns
        for _ in range(frames):
            next_ns += r.randint(0, 2 * gap_ns)
            while True:
                for batch_id in self.witness.accounts.batches:
                    if batch_id not in ends_ns:
                        ends_ns[batch_id] = self.now_ns + self._takes_ns(batch_id)
                running = [(at_ns, batch_id) for batch_id, at_ns in ends_ns.items() if self._runs(batch_id)]
                end_ns, batch_id = min(running, default=(next_ns + 1, 0))
                if end_ns > next_ns:
                    break
                self._pass(max(0, end_ns - self.now_ns), punctual=True)
                self._step(BatchFinished(batch_id))
            self._pass(max(0, next_ns - self.now_ns), punctual=True)
            stream_id = r.choice(streams)
            self._step(FramesArrived([self._frame(stream_id, 0, must_run=False), *self._partners(stream_id)]))
            if self.spare:
                self._send_spare()
            if self.large and r.random() < 0.4:
                self.frame_read()

    # ---- execution ----

    def batch_finishes(self) -> None:
        if self.witness.accounts.batches:
            batch_id = self.random.choice(list(self.witness.accounts.batches))
            frames = self.witness.accounts.batches[batch_id].frames
            self._pass(self.random.randint(0, 20 * MS), self.random.random() < 0.5)
            event = BatchFinished(batch_id)
            if frames:
                self.random.choice([{}, {}, {}, event.invalid, event.failed])[frames[0].seq] = "not a number"
                if any(frame.extra_ns for frame in frames):
                    event.extra_ns = (-1, 0, 5 * MS)[batch_id % 3]
            self._step(event)

    def batch_fails(self) -> None:
        """Fails a batch, half of them because there is not enough memory for so many frames."""
        if self.witness.accounts.batches:
            batch_id = self.random.choice(list(self.witness.accounts.batches))
            batch = self.witness.accounts.batches[batch_id].action
            if isinstance(batch, DispatchBatch) and batch_id % 2:
                size_max = max(len(batch.frames) - 1, 1)
                self._step(BatchSizesLimited(batch.model, batch.lane, batch.variant, size_max))
            self._step(BatchFailed(batch_id, "the device reset"))

    def batch_reported_twice(self) -> None:
        """Reports the end of a batch that ended long ago, as when a worker answers after it was given up."""
        batch_id = self.random.randrange(40)
        if not self._runs(batch_id):
            fails = self.random.random() < 0.5
            self._step(BatchFailed(batch_id, "again") if fails else BatchFinished(batch_id))

    # ---- lanes and models ----

    def lane_up(self) -> None:
        self._step(LaneUp(self.random.choice(LANES)))

    def lane_down(self) -> None:
        self._step(LaneDown(self.random.choice(LANES), "the device fell off the bus"))

    def model_ready(self) -> None:
        self.random.choice([self._load_everywhere, self._load_somewhere])(self.random.choice(MODELS))

    def model_gone(self) -> None:
        """Takes away any model, or one that frames wait for."""
        lane = self.random.choice([None, *LANES])
        reason = "its worker is gone" if lane else "the model was unloaded"
        back_ns = self.now_ns + self.random.randint(-5, 60) * MS if self.random.random() < 0.7 else 0
        waited_for = [frame.model for frame in self.witness.accounts.waiting() if self.random.random() < 0.5]
        innocent = back_ns // MS % 3 == 0
        self._step(ModelGone(self.random.choice(waited_for or MODELS), lane, reason, back_ns, innocent))

    def worker_dies(self) -> None:
        """Takes away the worker of a batch, if possible of one of several frames, and brings another."""
        running = sorted(self.witness.accounts.batches.values(), key=lambda batch: -len(batch.frames))
        if running:
            action, back_ns = running[0].action, self.random.randint(1, 10) * MS
            innocent = back_ns // MS % 2 == 0
            self._step(ModelGone(action.model, action.lane, "its worker is gone", self.now_ns + back_ns, innocent))
            self._pass(back_ns, punctual=True)
            self._load(action.model, action.lane, self._times_ns())

    # ---- time ----

    def time_passes(self) -> None:
        durations_ns = [self.random.randint(0, 40 * MS), PROBE_AFTER_NS + MS]
        self._pass(self.random.choice(durations_ns), self.random.random() < 0.5)

    def timer(self) -> None:
        """Fires the timer, even if nothing asked for it."""
        self._step(TimerFired())

    def drain(self) -> None:
        self._step(DrainRequested(self.now_ns + self.random.randint(-5 * MS, 60 * MS)))

    def end(self) -> None:
        """Ends the run with a drain, which has to answer every frame, and replays the run from its log."""
        accounts = self.witness.accounts
        self._step(DrainRequested(self.now_ns + 50 * MS))
        self._pass(50 * MS, punctual=True)
        for batch_id in list(accounts.batches):
            self._step(BatchFinished(batch_id))
        assert not accounts.unanswered, "the drain is over and frames have no answer"
        assert not accounts.spare.frames, "the drain is over and frames for spare time have no answer"
        for stream_id in list(accounts.spare.streams):
            self._step(StreamClosed(stream_id))
        for stream_id in self.streams:
            self._step(StreamClosed(stream_id))
        for batch_id in list(accounts.batches):  # of lanes that were warmed meanwhile
            self._step(BatchFinished(batch_id))
        wake_ns = self.witness.next_wake_ns()
        if wake_ns is not None:  # for a frame that has run meanwhile
            self.now_ns = max(self.now_ns, wake_ns)
            self._step(TimerFired())
        assert self.witness.next_wake_ns() is None, "nothing is left to do and the scheduler asks to be woken"
        self.witness.assert_replays()

    # ---- the host's own ----

    def _step(self, event: Event) -> None:
        self.witness.step(self.now_ns, event)

    def _stream(self) -> int:
        return self.random.choice(list(self.streams))

    def _frame(self, stream_id: int, jitter_ns: int, *, must_run: bool) -> Frame:
        self.seq += 1
        self.frames[stream_id] += 1 + (self.seq % 5 == 0)
        deadline_ns = self.now_ns + self.budgets_ns[stream_id] + jitter_ns
        extra_ns = self.seq * 7919 % 40 * MS + 1 if self.large and self.seq % 3 == 0 else 0
        if self.streams[stream_id] in STATEFUL and self.seq % 6 == 0:  # its other version is active from now on
            self.streams[stream_id] = STATEFUL[self.streams[stream_id] == STATEFUL[0]]
        model, alone = self.streams[stream_id], stream_id in self.suspects
        apart_ns = extra_ns // (1, 1, 2)[self.seq // 3 % 3] if self.seq % 4 and model not in STATEFUL else 0
        frame_id = self.frames[stream_id]
        captured_ns = self._captured_ns(stream_id) if stream_id in self.members else 0
        return Frame(
            self.seq,
            stream_id,
            frame_id,
            model,
            deadline_ns,
            must_run,
            alone,
            extra_ns,
            apart_ns,
            captured_ns,
            extra_ns > 0 and self.seq % 4 == 0,
        )

    def _captured_ns(self, stream_id: int) -> int:
        """When the next frame of a member of a group is captured: with those of the others, or about then."""
        shutter_ns = self.now_ns // SHUTTER_NS * SHUTTER_NS
        if self.members[stream_id].wait is FusionWait.EXACT:
            return shutter_ns
        return shutter_ns - self.random.choice([0, 0, MS, 5 * MS])

    def _load_everywhere(self, model: str) -> None:
        times_ns = self._times_ns()
        for lane in LANES:
            self._load(model, lane, times_ns)

    def _load_somewhere(self, model: str) -> None:
        self._load(model, self.random.choice(LANES), self._times_ns())

    def _load(self, model: str, lane: str, times_ns: dict[int, int]) -> None:
        """Adds all variants of a model on a lane that is up; the faster ones are less accurate."""
        accounts = self.witness.accounts
        if lane not in accounts.lanes:
            return
        for rank in range(RANKS[model]):
            if (model, rank, lane) not in accounts.workers:
                samples_ns: dict[int, tuple[int, ...]] = {
                    size: (time_ns * (10 - 3 * rank) // 10,) * 3 for size, time_ns in times_ns.items()
                }
                variant, warm_after_ns = f"rank {rank}", self.warm_after_ns if rank == 0 else 0
                ready = ModelReady(
                    model, lane, variant, samples_ns, model != "fixed/1", model in STATEFUL, rank, warm_after_ns
                )
                ready.state_layout = "FP32[2]" if model in STATEFUL else ""
                ready.takes_state = model in self.takers
                self._step(ready)

    def _times_ns(self) -> dict[int, int]:
        """Draws the run time of each batch size, with or without gain from batching."""
        r = self.random
        sizes = r.choice([(1,), (1, 2), (1, 4), (1, 2, 4, 8), (1, 8), (4,)])
        fixed_ns, each_ns = r.choice([(r.randint(1, 40), r.randint(0, 15)), (r.randint(2, 6), r.randint(0, 2))])
        return {size: (fixed_ns + size * each_ns) * MS for size in sizes}

    def _takes_ns(self, batch_id: int) -> int:
        action = self.witness.accounts.batches[batch_id].action
        planned_ns = action.planned_ns if isinstance(action, DispatchBatch) else 2 * MS
        return planned_ns * self.random.randint(80, 101) // 100

    def _runs(self, batch_id: int) -> bool:
        return batch_id in self.witness.accounts.batches

    def _pass(self, duration_ns: int, punctual: bool) -> None:
        """Lets time pass; a punctual host fires every timer that falls due."""
        until_ns = self.now_ns + duration_ns
        while punctual:
            wake_ns = self.witness.next_wake_ns()
            if wake_ns is None or wake_ns > until_ns:
                break
            self.now_ns = max(self.now_ns, wake_ns)
            self._step(TimerFired())
        self.now_ns = until_ns


USUAL: tuple[Callable[[Host], None], ...] = (
    *[Host.operate] * 4,
    *[Host.frames_arrive] * 6,
    *[Host.batch_finishes] * 4,
    *[Host.time_passes] * 2,
    Host.open_stream,
    Host.frame_refused,
    Host.turned_out,
    Host.cancel,
    Host.close_stream,
    Host.timer,
)
FAULTS: tuple[Callable[[Host], None], ...] = (
    Host.batch_fails,
    Host.batch_reported_twice,
    Host.evict,
    Host.lane_up,
    Host.lane_down,
    Host.model_ready,
    Host.model_ready,
    Host.model_gone,
    Host.worker_dies,
    Host.worker_dies,
    Host.new_version,
)


def run(random: Random, turns_max: int = TURNS_MAX, *, fusing: bool = False) -> Witness:
    """Carries out one run. Raises AssertionError where the law is broken, with the last events as notes."""
    host = Host(random, fusing)
    try:
        host.run(turns_max)
    except BaseException as error:
        error.add_note(f"what went in, the last of {len(host.witness.log)} events:")
        for at_ns, event in host.witness.log[-30:]:
            error.add_note(f"  {at_ns} {event}")
        raise
    return host.witness


def command(seed: int, *, fusing: bool = False) -> str:
    """The command that shows that run again."""
    return f"python -m tests.core.law_run --seed {seed}{' --fusing' * fusing}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.core.law_run", description="The law of the core, at random.")
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--runs", type=int, default=1, help="so many, with the seeds that follow")
    parser.add_argument("--fusing", action="store_true", help="with streams that are members of fusion groups")
    arguments = parser.parse_args()
    seen: Counter[str] = Counter()
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        try:
            seen += run(Random(seed), fusing=arguments.fusing).seen
        except BaseException:
            sys.stderr.write(f"seed {seed} breaks the law: {command(seed, fusing=arguments.fusing)}\n")
            raise
    sys.stdout.write("".join(f"{count:8} {rule}\n" for rule, count in sorted(seen.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
