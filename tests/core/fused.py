"""Fusion groups as an observer of the scheduler knows them: who is a member, which frames wait for partners, and
whether what becomes of them is lawful. `law` asks here.
"""

from dataclasses import dataclass, field

from duly.core import fates
from duly.core.events import (
    DrainRequested,
    Event,
    FrameRefused,
    FramesArrived,
    FramesCancelled,
    ModelGone,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
    WaitingEvicted,
)
from duly.core.fates import Fate
from duly.core.fusion.joiner import PIECES_MAX
from duly.core.fusion.terms import combined
from duly.core.scheduler import Scheduler
from duly.core.types import Frame, Fusion, FusionWait, JointFrame, StreamTerms


@dataclass(slots=True)
class FusedStream:
    terms: StreamTerms
    fusion: Fusion
    waiting: dict[int, Frame] = field(default_factory=dict)
    """Frames that wait for partners; keys are `seq`."""
    captured_ns: int | None = None
    """When its last frame was captured."""


class Fused:
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.streams: dict[int, FusedStream] = {}
        """The open members of all groups, by stream id."""
        self.pieces: dict[int, Frame] = {}
        """Frames of members without an answer, joined or not; keys are `seq`."""
        self.joints: dict[int, JointFrame] = {}
        """Joint frames without an answer, by the `seq` of each of their pieces."""
        self.came: list[Frame] = []
        """The frames of members that came with the event of this step."""
        self.joined: list[JointFrame] = []
        """The joint frames that were made in this step."""
        self.closing: int | None = None
        """The group whose last member closes in this step."""
        self.drain_ns: int | None = None
        self.loaded: dict[str, bool] = {}

    def members(self, group: int) -> dict[int, FusedStream]:
        """The members of a group, by the place of their inputs."""
        return {s.fusion.place: s for s in self.streams.values() if s.fusion.group == group}

    def group_terms(self, group: int) -> StreamTerms | None:
        members = self.members(group)
        return combined([members[place].terms for place in sorted(members)]) if members else None

    def groups(self) -> set[int]:
        return {stream.fusion.group for stream in self.streams.values()}

    # ---- what happens ----

    def note(self, event: Event) -> None:
        self.came, self.joined, self.closing = [], [], None
        match event:
            case StreamOpened(stream_id, terms) if terms.fusion is not None:
                self.streams[stream_id] = FusedStream(terms, terms.fusion)
            case StreamClosed(stream_id) if stream_id in self.streams:
                group = self.streams.pop(stream_id).fusion.group
                if not self.members(group):
                    self.closing = group
            case FramesArrived(frames):
                for frame in frames:
                    stream = self.streams.get(frame.stream_id)
                    if stream is not None:
                        self.came.append(frame)
                        self.pieces[frame.seq] = frame
                        stream.waiting[frame.seq] = frame
                        stream.captured_ns = frame.captured_ns
            case FrameRefused(stream_id, int(captured_ns)) if stream_id in self.streams:
                self.streams[stream_id].captured_ns = captured_ns
            case DrainRequested(until_ns):
                self.drain_ns = until_ns
            case _:
                pass

    def note_joined(self, joint: JointFrame, told: str) -> None:
        """Checks and notes a joint frame that was not there before."""
        members = self.members(joint.stream_id)
        pieces = joint.pieces
        assert len(pieces) == len(members), f"{told}: {len(pieces)} frames, {len(members)} members"
        for place, piece in enumerate(pieces):
            stream = members[place]
            of = f"{told}: frame {piece.stream_id}/{piece.frame_id}"
            assert self.streams.get(piece.stream_id) is stream, f"{of} is not of input {place}"
            assert stream.waiting.pop(piece.seq, None) is piece, f"{of} does not wait for partners"
            older = [frame for frame in stream.waiting.values() if frame.frame_id < piece.frame_id]
            assert all(frame.seq not in self.joints for frame in older), f"{of} goes before older ones"
        fusion = members[0].fusion
        times_ns = [piece.captured_ns for piece in pieces]
        assert max(times_ns) - min(times_ns) <= fusion.tolerance_ns, f"{told}: captured at {times_ns}"
        assert {piece.model for piece in pieces} == {joint.model}, f"{told}: of several versions"
        assert joint.deadline_ns == min(piece.deadline_ns for piece in pieces), f"{told}: not due with the first"
        assert joint.seq == max(piece.seq for piece in pieces), f"{told}: number {joint.seq}"
        assert any(piece in self.came for piece in pieces), f"{told}: nothing new came"
        assert joint.must_run == any(piece.must_run for piece in pieces), told
        assert joint.alone == any(piece.alone for piece in pieces), told
        self.joined.append(joint)
        for piece in pieces:
            self.joints[piece.seq] = joint

    def note_answered(self, joint: JointFrame, told: str) -> None:
        """Notes that all pieces of a joint frame have one answer."""
        for piece in joint.pieces:
            assert self.pieces.pop(piece.seq, None) is piece, f"{told}: {piece.stream_id}/{piece.frame_id} has one"
            del self.joints[piece.seq]

    # ---- how pieces end ----

    def resolved(self, now_ns: int, event: Event, action: ResolveFrame, found: list[Fate], told: str) -> None:
        """Checks the answer to a piece alone. `found`: the fates that its status and reason may be those of."""
        piece = action.frame
        assert self.pieces.pop(piece.seq, None) is piece, f"{told}: never came, or is answered already"
        assert (action.batch_id, action.batch_size) == (0, 0), f"{told}: it never ran"
        assert any(self._lawful(now_ns, event, action, fate) for fate in found), f"{told}: no ground for it"
        stream = self.streams.get(piece.stream_id)
        joint = self.joints.pop(piece.seq, None)
        if stream is not None and joint is None:
            del stream.waiting[piece.seq]

    def _lawful(self, now_ns: int, event: Event, action: ResolveFrame, fate: Fate) -> bool:
        piece, reason = action.frame, action.reason
        stream = self.streams.get(piece.stream_id)
        joint = self.joints.get(piece.seq)
        arrives = piece in self.came
        if stream is None:
            closes = isinstance(event, StreamClosed) and event.stream_id == piece.stream_id
            return closes and fate is fates.CLOSED_WAITING
        members = self.members(stream.fusion.group)
        others = {place: other for place, other in members.items() if other is not stream}
        names = stream.fusion.inputs
        partner_ids = {id_ for id_, other in self.streams.items() if other in others.values()}
        if fate in (fates.PARTNER_CLOSED, fates.PARTNER_WITHDRAWN) or joint is None:
            pass
        else:
            return isinstance(event, FramesCancelled) and fate is fates.WITHDRAWN and piece.frame_id in event.frame_ids
        if fate is fates.CAME_WHILE_DRAINING:
            return arrives and self.drain_ns is not None
        if fate is fates.PARTNER_NOT_TAKEN:
            return isinstance(event, DrainRequested) and any(repr(names[place]) in reason for place in others)
        if fate is fates.MODEL_NOT_LOADED:
            return arrives and piece.model not in self.loaded
        if fate is fates.OVER_CREDIT:
            # It is taken out of the account already; all that is older, and not answered, counts.
            before = [f for f in self.pieces.values() if f.stream_id == piece.stream_id and f.seq < piece.seq]
            return arrives and len(before) + 1 > stream.terms.frames_in_flight_max
        if fate is fates.NO_PARTNER_STREAM:
            missing = [name for place, name in enumerate(names) if place not in members]
            return arrives and bool(missing) and all(repr(name) in reason for name in missing)
        if fate is fates.OUTRUN_BEFORE_JOINED:
            newer = [f for f in self.came if f.stream_id == piece.stream_id and f.frame_id > piece.frame_id]
            outrun = [f for j in self.joined for f in j.pieces if f.stream_id == piece.stream_id]
            crowded = len(stream.waiting) > PIECES_MAX
            fresh = stream.fusion.wait is FusionWait.NEWEST and bool(newer) and not piece.must_run
            passed = any(f.frame_id > piece.frame_id for f in outrun)
            return (fresh or passed or crowded) and any(repr(names[place]) in reason for place in others)
        if fate is fates.PARTNER_PASSED:
            gone = [
                names[place]
                for place, other in others.items()
                if other.captured_ns is not None
                and any(
                    f.captured_ns - piece.captured_ns >= stream.fusion.tolerance_ns
                    for f in [*self.came, *_captured(other)]
                    if f.stream_id in partner_ids or f.stream_id == 0
                )
            ]
            return any(repr(name) in reason for name in gone)
        if fate in (fates.PARTNER_LATE, fates.CAME_TOO_LATE, fates.CAME_PAST_DEADLINE):
            named = any(repr(names[place]) in reason for place in others) or fate is not fates.PARTNER_LATE
            return named and now_ns > self.latest_start_ns(piece, members)
        if fate is fates.PARTNER_CLOSED:
            return isinstance(event, StreamClosed) and event.stream_id not in self.streams
        if fate is fates.PARTNER_WITHDRAWN:
            return (
                isinstance(event, FramesCancelled)
                and joint is not None
                and any(f.stream_id == event.stream_id and f.frame_id in event.frame_ids for f in joint.pieces)
            )
        if fate is fates.PARTNER_ON_OTHER_VERSION:
            group = [f for f in self.came if f.stream_id in partner_ids or f.stream_id == piece.stream_id]
            return any(f.model != piece.model for f in group)
        if fate is fates.WITHDRAWN:
            return isinstance(event, FramesCancelled) and piece.frame_id in event.frame_ids
        if fate is fates.EVICTED:
            return isinstance(event, WaitingEvicted) and event.stream_id == piece.stream_id
        if fate is fates.MODEL_UNLOADED:
            return isinstance(event, ModelGone) and event.lane is None and event.model == piece.model
        return False

    def latest_start_ns(self, piece: Frame, members: dict[int, FusedStream]) -> int:
        rank_max = min(member.terms.variant_rank_max for member in members.values())
        return piece.deadline_ns - piece.extra_ns - self.scheduler.planned_one_ns(piece.model, rank_max)

    # ---- what holds between steps ----

    def settled(self, now_ns: int, wake_ns: int | None, loaded: dict[str, bool]) -> None:
        self.loaded = dict(loaded)
        waiting = {seq for stream in self.streams.values() for seq in stream.waiting}
        assert waiting | self.joints.keys() == self.pieces.keys(), f"{now_ns}: pieces {self.pieces.keys()} are lost"
        for joint in self.joints.values():
            assert all(self.joints.get(p.seq) is joint for p in joint.pieces), f"{now_ns}: part of {joint} is answered"
        for group in self.groups():
            members = self.members(group)
            for stream in members.values():
                self._settled(now_ns, wake_ns, stream, members)
            self._nothing_fits(now_ns, group, members)

    def _settled(self, now_ns: int, wake_ns: int | None, stream: FusedStream, members: dict[int, FusedStream]) -> None:
        fusion = stream.fusion
        for piece in stream.waiting.values():
            told = f"{now_ns}: frame {piece.stream_id}/{piece.frame_id} waits for partners"
            latest_ns = self.latest_start_ns(piece, members)
            assert len(members) == len(fusion.inputs), f"{told} that no stream gives"
            assert piece.model in self.loaded, f"{told} of a model that is not loaded"
            assert now_ns <= latest_ns, f"{told} past its latest start"
            assert wake_ns is not None, f"{told} and nobody will wake"
            assert wake_ns <= latest_ns + 1, f"{told}, is due at {latest_ns}, the wake at {wake_ns}"
            assert self.drain_ns is None, f"{told} that the server takes no more"
            for place, other in members.items():
                if other is not stream and other.captured_ns is not None:
                    gone = other.captured_ns - piece.captured_ns >= fusion.tolerance_ns
                    fits = [f for f in other.waiting.values() if _near(f, piece, fusion.tolerance_ns)]
                    assert fits or not gone, f"{told}, those of input {place} have gone past it"
        replaceable = [piece for piece in stream.waiting.values() if not piece.must_run]
        newest = fusion.wait is FusionWait.NEWEST
        assert len(replaceable) <= (1 if newest else PIECES_MAX), f"{now_ns}: {len(replaceable)} wait for partners"
        assert len(stream.waiting) <= PIECES_MAX
        ids = {frame.stream_id for frame in stream.waiting.values()}
        unanswered = [f for f in self.pieces.values() if f.stream_id in ids]
        assert len(unanswered) <= stream.terms.frames_in_flight_max, f"{now_ns}: {ids} are over their credit"

    def _nothing_fits(self, now_ns: int, group: int, members: dict[int, FusedStream]) -> None:
        """Of the frames that wait, no set could be joined."""
        tolerance_ns = next(iter(members.values())).fusion.tolerance_ns
        for first in [f for stream in members.values() for f in stream.waiting.values()]:
            till_ns = first.captured_ns + tolerance_ns
            whole = all(
                any(first.captured_ns <= f.captured_ns <= till_ns for f in stream.waiting.values())
                for stream in members.values()
            )
            assert not whole or len(members) < len(members[0].fusion.inputs), f"{now_ns}: group {group} could join"


def _near(one: Frame, other: Frame, tolerance_ns: int) -> bool:
    return abs(one.captured_ns - other.captured_ns) <= tolerance_ns


def _captured(stream: FusedStream) -> list[Frame]:
    """The last frame of the stream, refused or not, as far as it matters: when it was captured."""
    return [Frame(0, 0, 0, "", 0, captured_ns=stream.captured_ns or 0)]
