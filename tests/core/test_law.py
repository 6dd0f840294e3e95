"""The law of the core under random events of every kind, in every order, faults included."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from core.law import Witness
from duly.core.events import (
    BatchFailed,
    BatchFinished,
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
    TimerFired,
)
from duly.core.scheduler import PROBE_AFTER_NS, Scheduler
from duly.core.types import BacklogPolicy, Frame, GapPolicy, StreamClass, StreamTerms

MS = 1_000_000
LANES = ("cpu:0", "cpu:1", "gpu:0")
MODELS = ("detect/1", "fixed/1", "speech/1", "track/2")
STATEFUL = ("speech/1", "track/2")
LIVE_STEPS_MIN = 15
"""A drain ends the interesting part of a run; it does not come before so many steps."""

lanes = st.sampled_from(LANES)
models = st.sampled_from(MODELS)
budgets_ns = st.integers(1, 120).map(lambda ms: ms * MS)
execution_ns = st.integers(1 * MS, 40 * MS)


@st.composite
def samples(draw: st.DrawFn) -> dict[int, tuple[int, ...]]:
    """Warm-up times of some batch sizes, with and without gain from batching, one to three runs each."""
    sizes = draw(st.sampled_from([(1,), (1, 2), (1, 4), (1, 2, 4, 8), (4,)]))
    fixed_ns, each_ns = draw(execution_ns), draw(st.integers(0, 15 * MS))
    runs = draw(st.integers(1, 3))
    return {size: tuple(fixed_ns + size * each_ns + run * MS // 10 for run in range(runs)) for size in sizes}


@st.composite
def terms(draw: st.DrawFn, stateful: bool) -> StreamTerms:
    backlog = draw(st.sampled_from(BacklogPolicy))
    backlog_frames = {BacklogPolicy.LATEST: 1, BacklogPolicy.KEEP_LAST: draw(st.integers(1, 3)), BacklogPolicy.ALL: 0}
    return StreamTerms(
        stream_class=draw(st.sampled_from(StreamClass)),
        backlog=backlog,
        backlog_frames=backlog_frames[backlog],
        budget_ns=draw(budgets_ns),
        frames_in_flight_max=draw(st.sampled_from([1, 3, 6, 16])),
        gap=draw(st.sampled_from(GapPolicy)) if stateful else None,
    )


class Law(RuleBasedStateMachine):
    """A host whose clock begins anywhere and moves only when a rule says so. Its timer may come late."""

    def __init__(self) -> None:
        super().__init__()
        self.witness = Witness()
        self.now_ns = 0
        self.steps = 0
        self.streams: dict[int, str] = {}
        """Stream id to model; closed ones stay, since their frames may still be on the way."""
        self.frames: dict[int, int] = {}
        """Stream id to the last frame id."""
        self.seq = 0
        self.broken = False
        """A step failed: what follows would only hide why."""

    @initialize(clock_ns=st.integers(0, 2**62), profiles=st.lists(samples(), min_size=4, max_size=4), data=st.data())
    def start(self, clock_ns: int, profiles: list[dict[int, tuple[int, ...]]], data: st.DataObject) -> None:
        self.now_ns = clock_ns
        for lane in LANES[:2]:
            self.witness.step(self.now_ns, LaneUp(lane))
        for model, times_ns in zip(MODELS, profiles, strict=True):
            self._ready(model, LANES[0], times_ns)
        for model in MODELS:
            self._open(model, data.draw(terms(model in STATEFUL)))

    # ---- traffic ----

    @rule(model=models, data=st.data())
    def open_stream(self, model: str, data: st.DataObject) -> None:
        if len(self.streams) < 10:
            self._open(model, data.draw(terms(model in STATEFUL)))

    @rule(
        data=st.data(),
        count=st.integers(1, 6),
        budget_ns=budgets_ns,
        jitter_ns=st.integers(0, 30 * MS),
        must_run=st.booleans(),
        together=st.booleans(),
    )
    def frames_arrive(
        self, data: st.DataObject, count: int, budget_ns: int, jitter_ns: int, must_run: bool, together: bool
    ) -> None:
        """Several frames of one stream at once; the later ones may be due sooner."""
        stream_id = data.draw(st.sampled_from(sorted(self.streams)))
        frames = []
        for nth in range(count):
            self.seq += 1
            self.frames[stream_id] += 1 + (self.seq % 5 == 0)
            deadline_ns = self.now_ns + budget_ns + (nth * 7 % 3 - 1) * jitter_ns
            frame = Frame(
                self.seq, stream_id, self.frames[stream_id], self.streams[stream_id], deadline_ns, must_run and nth == 0
            )
            frames.append(frame)
        if together:
            self._step(FramesArrived(frames))
        else:
            for frame in frames:
                self._step(FramesArrived([frame]))

    @rule(data=st.data())
    def new_version(self, data: st.DataObject) -> None:
        """A stream moves to another version of its model between two frames."""
        stream_id = data.draw(st.sampled_from(sorted(self.streams)))
        stateful = self.streams[stream_id] in STATEFUL
        self.streams[stream_id] = data.draw(st.sampled_from([m for m in MODELS if (m in STATEFUL) == stateful]))

    @rule(data=st.data(), ids=st.lists(st.integers(0, 6), max_size=3))
    def cancel(self, data: st.DataObject, ids: list[int]) -> None:
        stream_id = data.draw(st.sampled_from(sorted(self.streams)))
        newest = self.frames[stream_id]
        self._step(FramesCancelled(stream_id, tuple(newest - back for back in ids)))

    @rule(data=st.data())
    def close_stream(self, data: st.DataObject) -> None:
        self._step(StreamClosed(data.draw(st.sampled_from(sorted(self.streams)))))

    # ---- execution ----

    @precondition(lambda self: self.witness.batches)
    @rule(
        data=st.data(), after_ns=st.integers(0, 20 * MS), punctual=st.booleans(), bad=st.sampled_from([0, 0, 0, 1, 2])
    )
    def batch_finishes(self, data: st.DataObject, after_ns: int, punctual: bool, bad: int) -> None:
        batch_id = data.draw(st.sampled_from(sorted(self.witness.batches)))
        self._pass(after_ns, punctual)
        if batch_id in self.witness.batches:
            first = self.witness.batches[batch_id].action.frames[0].seq
            event = BatchFinished(batch_id)
            if bad:
                (event.invalid if bad == 1 else event.failed)[first] = "not a number"
            self._step(event)

    @precondition(lambda self: self.witness.batches)
    @rule(data=st.data())
    def batch_fails(self, data: st.DataObject) -> None:
        self._step(BatchFailed(data.draw(st.sampled_from(sorted(self.witness.batches))), "the device reset"))

    @rule(batch_id=st.integers(0, 40), fails=st.booleans())
    def batch_reported_twice(self, batch_id: int, fails: bool) -> None:
        """The end of a batch that ended long ago, as when a worker answers after it was given up."""
        if batch_id not in self.witness.batches:
            self._step(BatchFailed(batch_id, "again") if fails else BatchFinished(batch_id))

    # ---- lanes and models ----

    @rule(lane=lanes)
    def lane_up(self, lane: str) -> None:
        self._step(LaneUp(lane))

    @rule(lane=lanes)
    def lane_down(self, lane: str) -> None:
        self._step(LaneDown(lane, "the device fell off the bus"))

    @rule(model=models, lane=lanes, times_ns=samples())
    def model_ready(self, model: str, lane: str, times_ns: dict[int, tuple[int, ...]]) -> None:
        if (model, lane) not in self.witness.workers:
            self._ready(model, lane, times_ns)

    @rule(model=models, lane=st.one_of(st.none(), lanes, lanes))
    def model_gone(self, model: str, lane: str | None) -> None:
        self._step(ModelGone(model, lane, "its worker is gone" if lane else "the model was unloaded"))

    # ---- time ----

    @rule(duration_ns=st.one_of(st.integers(0, 40 * MS), st.just(PROBE_AFTER_NS + MS)), punctual=st.booleans())
    def time_passes(self, duration_ns: int, punctual: bool) -> None:
        self._pass(duration_ns, punctual)

    @rule()
    def timer(self) -> None:
        """A timer may fire when nothing asked for it."""
        self._step(TimerFired())

    @precondition(lambda self: self.steps > LIVE_STEPS_MIN)
    @rule(after_ns=st.integers(-5 * MS, 60 * MS))
    def drain(self, after_ns: int) -> None:
        self._step(DrainRequested(self.now_ns + after_ns))

    def teardown(self) -> None:
        """Every run ends in a drain whose end answers every frame, and replays from its log."""
        if self.broken:
            return
        self._step(DrainRequested(self.now_ns + 50 * MS))
        self._pass(50 * MS, punctual=True)
        for batch_id in sorted(self.witness.batches):
            self._step(BatchFinished(batch_id))
        assert not self.witness.unanswered
        assert not self.witness.batches
        wake_ns = self.witness.next_wake_ns()
        if wake_ns is not None:  # that of a frame which has run meanwhile
            self.now_ns = max(self.now_ns, wake_ns)
            self._step(TimerFired())
        assert self.witness.next_wake_ns() is None
        self.witness.assert_replays()

    # ---- the host ----

    def _step(self, event: Event) -> None:
        self.steps += 1
        self.broken = True
        self.witness.step(self.now_ns, event)
        self.broken = False

    def _open(self, model: str, agreed: StreamTerms) -> None:
        stream_id = len(self.streams) + 1
        self.streams[stream_id] = model
        self.frames[stream_id] = 0
        self._step(StreamOpened(stream_id, agreed))

    def _ready(self, model: str, lane: str, times_ns: dict[int, tuple[int, ...]]) -> None:
        self._step(ModelReady(model, lane, "default", times_ns, model != "fixed/1", model in STATEFUL))

    def _pass(self, duration_ns: int, punctual: bool) -> None:
        """Time passes; a punctual host fires every timer that falls due."""
        until_ns = self.now_ns + duration_ns
        while punctual:
            wake_ns = self.witness.next_wake_ns()
            if wake_ns is None or wake_ns > until_ns:
                break
            self.now_ns = wake_ns
            self._step(TimerFired())
        self.now_ns = until_ns


TestLaw = Law.TestCase


def test_a_gap_skips_a_long_queue_at_once() -> None:
    """However many frames wait behind the gap, each is answered."""
    scheduler = Scheduler()
    scheduler.step(0, LaneUp("cpu:0"))
    scheduler.step(0, ModelReady("speech/1", "cpu:0", "default", {1: (MS,)}, any_size=True, stateful=True))
    scheduler.step(
        0, StreamOpened(1, StreamTerms(StreamClass.STANDARD, BacklogPolicy.ALL, 0, MS, 5000, GapPolicy.SKIP))
    )
    for frame_id in range(4000):
        scheduler.step(0, FramesArrived([Frame(frame_id, 1, frame_id, "speech/1", 10_000 * MS)]))
    actions = scheduler.step(0, FramesCancelled(1, (1,)))
    answered = [action.frame.frame_id for action in actions if isinstance(action, ResolveFrame)]
    assert answered == list(range(1, 4000))
