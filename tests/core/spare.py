"""What an observer knows of frames that run in spare time only, and what the scheduler promises of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from duly.core import fates
from duly.core.events import (
    BatchFailed,
    BatchFinished,
    DispatchBatch,
    DrainRequested,
    Event,
    FramesArrived,
    LaneDown,
    ModelGone,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
)
from duly.core.spare_time import JITTER_PART
from duly.core.types import Frame, OutcomeStatus, StreamTerms

if TYPE_CHECKING:
    from tests.core.accounts import Accounts


class Spare:
    def __init__(self) -> None:
        self.streams: dict[int, StreamTerms] = {}
        self.frames: dict[int, Frame] = {}
        """Those without an answer; keys are `seq`."""
        self._periods_ns: dict[int, int] = {}
        """The stated period of each other stream that has one."""
        self._came_ns: dict[int, int] = {}
        """When the last frame of each other stream came."""
        self._drains = False

    def note(self, now_ns: int, event: Event) -> None:
        match event:
            case StreamOpened(stream_id, terms) if terms.spare:
                self.streams[stream_id] = terms
            case StreamOpened(stream_id, terms):
                self._periods_ns[stream_id] = terms.period_ns
            case StreamClosed(stream_id):
                self.streams.pop(stream_id, None)
                self._periods_ns.pop(stream_id, None)
                self._came_ns.pop(stream_id, None)
            case FramesArrived(frames):
                for frame in frames:
                    if frame.stream_id in self.streams:
                        self.frames[frame.seq] = frame
                    else:
                        self._came_ns[frame.stream_id] = now_ns
            case DrainRequested():
                self._drains = True

    def started(self, now_ns: int, batch: DispatchBatch, accounts: "Accounts", told: str) -> None:
        """Asserts that the run is at nobody's expense."""
        (frame,) = batch.frames
        told += f", in spare time, of {frame.stream_id}/{frame.frame_id}"
        planned_ns = accounts.planned_ns((batch.model, accounts.rank[frame.seq]), batch.lane)[1] + frame.extra_ns
        assert batch.planned_ns == planned_ns, f"{told}: not the published plan"
        assert not accounts.waiting(), f"{told}: {len(accounts.waiting())} frames wait"
        joining = [stream for stream in accounts.fused.streams.values() if stream.waiting]
        assert not joining, f"{told}: frames of {len(joining)} streams wait to be joined"
        assert not self._drains, f"{told}: the server drains"
        assert now_ns <= frame.deadline_ns, f"{told}: overdue"
        assert not accounts.stateful[batch.model], f"{told}: the model keeps state"
        for stream_id, period_ns in self._periods_ns.items():
            came_ns = self._came_ns.get(stream_id)
            if period_ns and came_ns is not None:
                next_ns = came_ns + period_ns - period_ns // JITTER_PART
                room = f"stream {stream_id} is expected at {next_ns}"
                assert next_ns <= now_ns or now_ns + planned_ns <= next_ns, f"{told}: {room}"
        accounts.batch_of[frame.seq] = batch.batch_id

    def resolved(self, now_ns: int, event: Event, action: ResolveFrame, accounts: "Accounts", told: str) -> None:
        """Asserts that there is ground for the outcome, and that it is the first."""
        frame, status = action.frame, action.status
        assert self.frames.pop(frame.seq) is frame, told
        if frame.seq in accounts.batch_of:
            running = accounts.batches[accounts.batch_of.pop(frame.seq)]
            end = running.end
            assert (action.batch_id, action.batch_size) == (running.action.batch_id, 1), f"{told}: wrong batch"
            assert isinstance(end, BatchFinished | BatchFailed | ModelGone | LaneDown), f"{told}: its batch still runs"
            if not isinstance(end, BatchFinished):
                expected = OutcomeStatus.FAILED
            elif frame.seq in end.invalid:
                expected = OutcomeStatus.INVALID
            elif frame.seq in end.failed:
                expected = OutcomeStatus.FAILED
            elif frame.stream_id not in self.streams:
                expected = OutcomeStatus.CANCELLED
            else:
                expected = OutcomeStatus.ON_TIME if now_ns <= frame.deadline_ns else OutcomeStatus.LATE
            assert status is expected, told
            return
        assert (action.batch_id, action.batch_size) == (0, 0), f"{told}: never ran"
        match action.reason:
            case fates.SPARE_OUTRUN.wording:
                arrived = event.frames if isinstance(event, FramesArrived) else []
                ground = any(f.stream_id == frame.stream_id and f.seq > frame.seq for f in arrived)
            case fates.NO_SPARE_TIME.wording:
                ground = self._drains or now_ns > frame.deadline_ns
            case fates.SPARE_STATE.wording:
                ground = accounts.stateful[frame.model]
            case fates.CLOSED_WAITING.wording:
                ground = isinstance(event, StreamClosed)
            case fates.CAME_WHILE_DRAINING.wording:
                ground = self._drains
            case _:
                ground = frame.model not in accounts.stateful
        assert ground, f"{told}: no ground for it"

    def settled(self, now_ns: int, wake_ns: int | None, running: Mapping[int, int]) -> None:
        """Asserts what holds between steps: one frame of each stream waits at most, and none past its deadline."""
        waiting = [frame for frame in self.frames.values() if frame.seq not in running]
        for frame in waiting:
            told = f"{now_ns}: frame {frame.stream_id}/{frame.frame_id} for spare time"
            assert now_ns <= frame.deadline_ns, f"{told} waits past its deadline"
            assert wake_ns is not None, f"{told} waits and nobody will wake"
            assert wake_ns <= frame.deadline_ns + 1, f"{told} is due at {frame.deadline_ns}, the wake at {wake_ns}"
        assert len(waiting) == len({frame.stream_id for frame in waiting}), f"{now_ns}: several wait of one stream"
