"""Joins frames of several streams, by capture time, into the frames that a model with several inputs runs on.

Theory of operation. A group has a member stream for each input of its model. A frame of a member, a piece, waits here
until each other input has a piece that fits it (`match`). All of them then leave as one `JointFrame`, which is a frame
of the group's own stream like any other. A piece that finds no partner is answered here, as soon as it is known:

    it comes while an input has no stream                       EXPIRED at once
    a partner's frames have gone past its capture time          EXPIRED when the first of them comes
    its latest start passes, by the plan for a batch of one     EXPIRED then
    NEWEST: a newer frame of its stream comes                   SUPERSEDED
    a newer frame of its stream is joined                       SUPERSEDED, as each stream keeps its order
    a partner's stream closes, or goes on with another version  EXPIRED
    the server drains, and takes in nothing more                SHED

At most PIECES_MAX frames of a member wait; of more the oldest is SUPERSEDED. The credit of each stream counts all of
its frames that are unanswered, joined or not. Pieces that were never joined leave no gap in the state of the group.
"""

from bisect import bisect_left
from collections.abc import Sequence

from duly.core import fates
from duly.core.events import Action, ResolveFrame
from duly.core.fates import Fate
from duly.core.fusion.match import Piece, closest, fits
from duly.core.model_table import ModelTable
from duly.core.types import Frame, Fusion, FusionWait, JointFrame, StreamTerms, in_ms

PIECES_MAX = 64
"""So many frames of one stream of a fusion group may wait for partners; of more the oldest is SUPERSEDED."""


class Member:
    """One stream of a group."""

    __slots__ = ("captured_ns", "frame_id", "fusion", "group", "stream_id", "terms", "unanswered", "waiting")

    def __init__(self, stream_id: int, terms: StreamTerms, fusion: Fusion, group: "Group") -> None:
        self.stream_id = stream_id
        self.terms = terms
        self.fusion = fusion
        self.group = group
        self.waiting: list[Piece] = []
        """Its frames that wait for partners, oldest first."""
        self.unanswered = 0
        self.captured_ns: int | None = None
        """When its last frame was captured, and its id; None: none has come."""
        self.frame_id = -1


class Group:
    __slots__ = ("by_place", "changed", "fusion", "last_id", "model", "planned_ns", "waiting", "wake_ns")

    def __init__(self, fusion: Fusion, model: str) -> None:
        self.fusion = fusion
        """As its first member stated it; the others state the same."""
        self.by_place: list[Member | None] = [None] * len(fusion.inputs)
        """The member that gives each input; None: none does."""
        self.model = model
        """The model version that its frames are for."""
        self.last_id = 0
        """Id of the last joint frame."""
        self.waiting = 0
        """How many pieces wait."""
        self.changed = False
        """Whether a piece has come or gone, or was refused, since `passed` looked at the group."""
        self.planned_ns = 0
        """The planned time of a batch of one then."""
        self.wake_ns = 0
        """When the next latest start of a piece has passed."""

    def members(self) -> list[Member]:
        return [member for member in self.by_place if member is not None]

    def others(self, member: Member) -> list[Member]:
        return [other for other in self.by_place if other is not None and other is not member]

    def missing(self) -> list[str]:
        """Names of the inputs that no stream gives."""
        return [name for name, member in zip(self.fusion.inputs, self.by_place, strict=True) if member is None]


class Joiner:
    """The pieces that wait, of all groups."""

    __slots__ = ("_actions", "_models", "groups", "members", "waiting", "wake_ns")

    def __init__(self, models: ModelTable, actions: list[Action]) -> None:
        """`actions`: what the host is to do, in this order; the joiner adds the outcomes of pieces."""
        self._models = models
        self._actions = actions
        self.groups: dict[int, Group] = {}
        """By the id of the group's stream."""
        self.members: dict[int, Member] = {}
        """By the id of the stream. It is empty on nearly all servers, which then pay nothing for fusion."""
        self.waiting = 0
        """How many pieces wait."""
        self.wake_ns: int | None = None
        """When the next latest start has passed; None: nothing waits."""

    # ---- pieces that come ----

    def arrived(self, now_ns: int, frames: Sequence[Frame], draining: bool) -> list[Frame]:
        """Takes in the pieces among `frames`. Returns all others, and each joint frame in place of its last piece."""
        left: list[Frame] = []
        for frame in frames:
            member = self.members.get(frame.stream_id)
            whole = frame if member is None else self._take(now_ns, member, frame, draining)
            if whole is not None:
                left.append(whole)
        return left

    def _take(self, now_ns: int, member: Member, frame: Frame, draining: bool) -> JointFrame | None:
        group = member.group
        group.changed = True
        member.unanswered += 1
        member.captured_ns, member.frame_id = frame.captured_ns, frame.frame_id
        joint: JointFrame | None = None
        if draining:
            self.answer(frame, fates.CAME_WHILE_DRAINING, fates.CAME_WHILE_DRAINING.wording)
        elif frame.model not in self._models.by_name:
            self.answer(frame, fates.MODEL_NOT_LOADED, fates.MODEL_NOT_LOADED.says(model=frame.model))
        elif member.unanswered > member.terms.frames_in_flight_max:
            reason = fates.OVER_CREDIT.says(frames_max=member.terms.frames_in_flight_max)
            self.answer(frame, fates.OVER_CREDIT, reason)
        elif missing := group.missing():
            reason = fates.NO_PARTNER_STREAM.says(missing=_and(missing), group=repr(group.fusion.name))
            self.answer(frame, fates.NO_PARTNER_STREAM, reason)
        else:
            self._leave_version(group, frame.model)
            others = group.others(member)
            chosen = closest(frame, [other.waiting for other in others], group.fusion.tolerance_ns)
            if chosen is None:
                self._wait(now_ns, member, frame)
            else:
                joint = self._join(member, frame, others, chosen)
        return joint

    def _join(self, member: Member, frame: Frame, others: list[Member], chosen: list[Piece]) -> JointFrame:
        group = member.group
        pieces = [frame] * len(group.by_place)
        for other, piece in zip(others, chosen, strict=True):
            pieces[other.fusion.place] = piece.frame
            self._remove(other, piece)
        group.last_id += 1
        joint = JointFrame(group.fusion.group, group.last_id, tuple(pieces))
        for other in group.members():
            joined = pieces[other.fusion.place]
            for older in [older for older in other.waiting if older.frame.frame_id < joined.frame_id]:
                self._outrun(other, older, joined.frame_id)
        return joint

    def _wait(self, now_ns: int, member: Member, frame: Frame) -> None:
        """Lets a piece wait for its partners. One that is too late for them is answered by `passed`, in this step."""
        waiting = member.waiting
        waiting.append(Piece(frame, now_ns))
        member.group.waiting += 1
        self.waiting += 1
        if member.fusion.wait is FusionWait.NEWEST:
            for older in [older for older in waiting[:-1] if not older.frame.must_run]:
                self._outrun(member, older, frame.frame_id)
        if len(waiting) > PIECES_MAX:
            self._outrun(member, waiting[0], frame.frame_id)

    def refused(self, stream_id: int, captured_ns: int) -> None:
        """Notes that the host answered a frame of a member itself, which so is no partner for any."""
        member = self.members[stream_id]
        member.captured_ns, member.frame_id = captured_ns, -1
        member.group.changed = True

    # ---- pieces that end ----

    def passed(self, now_ns: int) -> None:
        """Answers the pieces that can have no partner in time any more, and works out `wake_ns`. Call it in each step
        while any wait, once all frames have come: plans may have changed, and partners may have ended.
        """
        self.wake_ns = None
        if not self.waiting:
            return
        for group in self.groups.values():
            if not group.waiting:
                continue
            rank_max = min([member.terms.variant_rank_max for member in group.members()])
            planned_ns = self._models.planned_one_ns(group.model, rank_max)
            # Most steps are of other streams, which must not pay for what waits here.
            if group.changed or planned_ns != group.planned_ns or now_ns >= group.wake_ns:
                group.planned_ns = planned_ns
                self._end_hopeless(now_ns, group)
            if group.waiting and (self.wake_ns is None or group.wake_ns < self.wake_ns):
                self.wake_ns = group.wake_ns

    def _end_hopeless(self, now_ns: int, group: Group) -> None:
        members, planned_ns = group.members(), group.planned_ns
        for member in members:
            for piece in list(member.waiting):
                needed_ns = planned_ns + piece.frame.extra_ns
                if piece.frame.deadline_ns - needed_ns < now_ns:
                    self._end_late(now_ns, member, piece, needed_ns)
        while self._end_passed(group):
            pass  # what has ended was perhaps the last that fit another
        latest_ns = [piece.frame.deadline_ns - piece.frame.extra_ns for member in members for piece in member.waiting]
        group.wake_ns = min(latest_ns, default=0) - planned_ns + 1
        group.changed = False

    def _end_late(self, now_ns: int, member: Member, piece: Piece, needed_ns: int) -> None:
        if piece.arrived_ns == now_ns:
            fate, reason = fates.of_doomed(now_ns, piece.frame.deadline_ns, now_ns, needed_ns, -1, -1)
        else:
            fate = fates.PARTNER_LATE
            waited = in_ms(now_ns - piece.arrived_ns)
            missing = self._lacks(member, piece.frame)
            reason = fate.says(waited=waited, missing=missing, needed=in_ms(needed_ns))
        self.end(member, piece, fate, reason)

    def _end_passed(self, group: Group) -> bool:
        """Answers the pieces past which a partner's frames have gone. Returns whether there were any."""
        tolerance_ns, waiting = group.fusion.tolerance_ns, group.waiting
        members = group.members()
        times_ns = [sorted([piece.frame.captured_ns for piece in member.waiting]) for member in members]
        for member in members:
            for piece in list(member.waiting):
                for other, of_other_ns in zip(members, times_ns, strict=True):
                    if other is member or other.captured_ns is None:
                        continue
                    at_ns = piece.frame.captured_ns
                    apart_ns = other.captured_ns - at_ns
                    if apart_ns < tolerance_ns:
                        continue
                    first = bisect_left(of_other_ns, at_ns - tolerance_ns)
                    if first == len(of_other_ns) or of_other_ns[first] > at_ns + tolerance_ns:
                        self._end_past(member, piece, other, apart_ns)
                        break
        return group.waiting < waiting

    def _end_past(self, member: Member, piece: Piece, other: Member, apart_ns: int) -> None:
        fusion = other.fusion
        reason = fates.PARTNER_PASSED.says(
            missing=_and([fusion.inputs[fusion.place]]),
            frame=f"frame {other.frame_id}" if other.frame_id >= 0 else "one that was refused",
            apart=in_ms(apart_ns),
            tolerance=in_ms(fusion.tolerance_ns),
        )
        self.end(member, piece, fates.PARTNER_PASSED, reason)

    def _outrun(self, member: Member, piece: Piece, newer: int) -> None:
        reason = fates.OUTRUN_BEFORE_JOINED.says(newer=newer, missing=self._lacks(member, piece.frame))
        self.end(member, piece, fates.OUTRUN_BEFORE_JOINED, reason)

    def _leave_version(self, group: Group, model: str) -> None:
        """Goes on with frames for that model version. What waits for partners of another one finds none any more."""
        if group.model == model:
            return
        group.model = model
        fate = fates.PARTNER_ON_OTHER_VERSION
        for member in group.members():
            for piece in [piece for piece in member.waiting if piece.frame.model != model]:
                self.end(member, piece, fate, fate.says(missing=self._lacks(member, piece.frame), model=model))

    def drains(self) -> None:
        """Answers every piece, as no partner is taken in any more."""
        fate = fates.PARTNER_NOT_TAKEN
        for member in self.members.values():
            for piece in list(member.waiting):
                self.end(member, piece, fate, fate.says(missing=self._lacks(member, piece.frame)))

    def end_all(self, group: Group, fate: Fate, reason: str) -> None:
        """Gives every piece of the group that waits the same end."""
        for member in group.members():
            for piece in list(member.waiting):
                self.end(member, piece, fate, reason)

    def end(self, member: Member, piece: Piece, fate: Fate, reason: str) -> None:
        """Ends a piece that waits."""
        self._remove(member, piece)
        self.answer(piece.frame, fate, reason)

    def answer(self, frame: Frame, fate: Fate, reason: str) -> None:
        """Answers a piece that does not wait."""
        self._actions.append(ResolveFrame(frame, fate.status, reason))
        self.answered(frame)

    def answered(self, frame: Frame) -> None:
        """Notes that a piece has its answer."""
        member = self.members.get(frame.stream_id)
        if member is not None:
            member.unanswered -= 1

    def _remove(self, member: Member, piece: Piece) -> None:
        member.waiting.remove(piece)
        member.group.changed = True
        member.group.waiting -= 1
        self.waiting -= 1

    def _lacks(self, member: Member, frame: Frame) -> str:
        """Names the inputs that have no frame which fits this one, or all others, where it is together that they don't
        fit.
        """
        fusion = member.fusion
        others = member.group.others(member)
        lacking = [other for other in others if not fits(frame, other.waiting, fusion.tolerance_ns)]
        return _and([fusion.inputs[other.fusion.place] for other in lacking or others])


def _and(names: list[str]) -> str:
    return " and input ".join([repr(name) for name in names])
