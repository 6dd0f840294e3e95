"""Frames that take longer than usual ones: they wait for a gap between more critical streams, and batches are planned
with what all of their frames take.
"""

import pytest

from duly.core.events import (
    Action,
    BatchFinished,
    DispatchBatch,
    Event,
    FramesArrived,
    LaneUp,
    ModelReady,
    ResolveFrame,
    StreamOpened,
)
from duly.core.scheduler import Scheduler
from duly.core.types import BacklogPolicy, Frame, OutcomeStatus, StreamClass, StreamTerms, larger

MS = 1_000_000
ONE_MS = 5
"""A frame of either model takes so long alone, in milliseconds, and a batch of two hardly more."""


class Lane:
    """A scheduler with one lane; its batches take what is planned."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.now_ns = 0
        self.outcomes: dict[int, ResolveFrame] = {}
        self.batches: list[DispatchBatch] = []
        self._ends: list[tuple[int, int]] = []
        self._seq = 0
        self.step(LaneUp("cpu:0"))
        for model in ("control/1", "camera/1"):
            samples_ns = {1: (ONE_MS * MS,) * 3, 2: (6 * MS,) * 3, 4: (8 * MS,) * 3}
            self.step(ModelReady(model, "cpu:0", "best", samples_ns, any_size=True))

    def step(self, event: Event) -> None:
        actions: list[Action] = self.scheduler.step(self.now_ns, event)
        for action in actions:
            if isinstance(action, ResolveFrame):
                self.outcomes[action.frame.seq] = action
            elif isinstance(action, DispatchBatch):
                self.batches.append(action)
                self._ends.append((self.now_ns + action.planned_ns, action.batch_id))

    def open(self, stream_id: int, stream_class: StreamClass, model: str, period_ms: int = 0) -> None:
        budget_ns = 50 * MS if period_ms else 1000 * MS
        terms = StreamTerms(stream_class, BacklogPolicy.ALL, 0, budget_ns, 64, model=model, period_ns=period_ms * MS)
        self.step(StreamOpened(stream_id, terms))

    def frames(self, stream_id: int, model: str, budget_ms: int, *extras_ms: int, untried: bool = False) -> list[int]:
        frames = []
        for extra_ms in extras_ms:
            self._seq += 1
            deadline_ns = self.now_ns + budget_ms * MS
            frame = Frame(self._seq, stream_id, self._seq, model, deadline_ns)
            frames.append(larger(frame, extra_ms * MS, untried=untried))
        self.step(FramesArrived(frames))
        return [frame.seq for frame in frames]

    def until(self, at_ms: float) -> None:
        while self._ends and self._ends[0][0] <= at_ms * MS:
            self.now_ns, batch_id = self._ends.pop(0)
            self.step(BatchFinished(batch_id))
        self.now_ns = round(at_ms * MS)


@pytest.mark.parametrize(("extra_ms", "runs"), [(20, True), (60, True), (200, False)])
def test_a_large_frame_waits_for_a_gap_and_is_told_where_there_is_none(extra_ms: int, runs: bool) -> None:
    lane = Lane()
    lane.open(1, StreamClass.CRITICAL, "control/1", period_ms=50)
    lane.open(2, StreamClass.BEST_EFFORT, "camera/1")
    promised: list[int] = []
    large: list[int] = []
    for nth in range(40):
        lane.until(50 * nth)
        promised += lane.frames(1, "control/1", 50, 0)
        if nth == 3:
            large = lane.frames(2, "camera/1", 1000, extra_ms)
    lane.until(3000)
    assert {lane.outcomes[seq].status for seq in promised} == {OutcomeStatus.ON_TIME}
    outcome = lane.outcomes[large[0]]
    assert outcome.status is (OutcomeStatus.ON_TIME if runs else OutcomeStatus.SHED)
    assert ("more critical streams left no such gap" in outcome.reason) is not runs


def test_without_more_critical_streams_it_runs_at_once_and_is_planned_so() -> None:
    lane = Lane()
    lane.open(2, StreamClass.BEST_EFFORT, "camera/1")
    lane.frames(2, "camera/1", 1000, 200)
    (batch,) = lane.batches
    assert batch.planned_ns >= 200 * MS + ONE_MS * MS


def test_a_large_frame_that_can_t_be_in_time_never_runs() -> None:
    lane = Lane()
    lane.open(2, StreamClass.STANDARD, "camera/1")
    lane.frames(2, "camera/1", 1000, 0)
    (seq,) = lane.frames(2, "camera/1", 100, 120)
    assert lane.outcomes[seq].status is OutcomeStatus.EXPIRED
    assert len(lane.batches) == 1


def test_a_guess_does_not_keep_a_size_from_ever_running() -> None:
    lane = Lane()
    lane.open(1, StreamClass.STANDARD, "control/1")
    lane.open(2, StreamClass.STANDARD, "camera/1")
    lane.frames(2, "camera/1", 1000, 0)
    (behind,) = lane.frames(2, "camera/1", 100, 120, untried=True)
    assert lane.outcomes[behind].status is OutcomeStatus.EXPIRED  # the lane has something else to do
    lane.until(ONE_MS + 1)
    (tried,) = lane.frames(2, "camera/1", 100, 120, untried=True)
    assert [frame.seq for frame in lane.batches[1].frames] == [tried]
    (behind,) = lane.frames(2, "camera/1", 100, 120, untried=True)
    assert lane.outcomes[behind].status is OutcomeStatus.EXPIRED


def test_a_guess_is_not_tried_where_more_critical_streams_leave_no_such_gap() -> None:
    lane = Lane()
    lane.open(1, StreamClass.CRITICAL, "control/1", period_ms=50)
    lane.open(2, StreamClass.STANDARD, "camera/1")
    lane.frames(1, "control/1", 50, 0)
    lane.until(ONE_MS + 1)
    (seq,) = lane.frames(2, "camera/1", 100, 120, untried=True)
    assert lane.outcomes[seq].status is OutcomeStatus.EXPIRED
    assert len(lane.batches) == 1


def test_a_batch_takes_no_more_large_frames_than_are_in_time_together() -> None:
    lane = Lane()
    lane.open(2, StreamClass.STANDARD, "camera/1")
    lane.frames(2, "camera/1", 1000, 0)  # the lane is busy with it
    lane.frames(2, "camera/1", 100, 30, 30, 30, 30)
    lane.until(ONE_MS + 1)
    batch = lane.batches[1]
    assert len(batch.frames) == 2
    assert batch.planned_ns >= 60 * MS
    assert lane.now_ns + batch.planned_ns <= min(frame.deadline_ns for frame in batch.frames)


def test_admission_counts_what_a_model_s_streams_send() -> None:
    lane = Lane()
    lane.open(2, StreamClass.STANDARD, "camera/1")
    before_ns = lane.scheduler.plans()["camera/1"].ranks[0]
    lane.frames(2, "camera/1", 1000, 40)
    after_ns = lane.scheduler.plans()["camera/1"].ranks[0]
    assert [after - before for after, before in zip(after_ns, before_ns, strict=True)] == [
        40 * MS * size for size in range(1, len(before_ns) + 1)
    ]
