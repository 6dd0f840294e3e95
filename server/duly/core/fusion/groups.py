"""Fusion groups in the scheduler: members come and go, and what becomes of one frame becomes of those joined with it.

Pieces wait in the `Joiner`, joint frames in the ledger, as frames of the group's stream. That stream is open as long as
the group has a member, on the terms of all of them together (`terms`).
"""

from duly.core import fates
from duly.core.events import Action, FramesTurnedOut, ResolveFrame, StreamOpened
from duly.core.fates import Fate
from duly.core.fusion.joiner import Group, Joiner, Member
from duly.core.fusion.terms import combined
from duly.core.ledger import FrameLedger
from duly.core.model_table import ModelTable
from duly.core.types import Frame, Fusion, JointFrame, StreamTerms


class FusionGroups:
    __slots__ = ("_actions", "_frames", "joiner", "members")

    def __init__(self, models: ModelTable, frames: FrameLedger, actions: list[Action]) -> None:
        self._frames = frames
        self._actions = actions
        self.joiner = Joiner(models, actions)
        self.members = self.joiner.members
        """By the id of the stream."""

    def opened(self, stream_id: int, terms: StreamTerms, fusion: Fusion) -> None:
        groups = self.joiner.groups
        group = groups.get(fusion.group)
        if group is None:
            group = groups[fusion.group] = Group(fusion, terms.model)
            self._frames.opened(StreamOpened(fusion.group, combined([terms])))
        group.by_place[fusion.place] = self.members[stream_id] = Member(stream_id, terms, fusion, group)
        self._frames.changed(fusion.group, combined([member.terms for member in group.members()]))

    def closed(self, now_ns: int, stream_id: int) -> None:
        """Answers what waits of the group: a member is gone, so that nothing of it can be joined any more."""
        member = self.members[stream_id]
        group = member.group
        fate = fates.PARTNER_CLOSED
        reason = fate.says(missing=repr(member.fusion.inputs[member.fusion.place]))
        for piece in list(member.waiting):
            self.joiner.end(member, piece, fates.CLOSED_WAITING, fates.CLOSED_WAITING.wording)
        self._part(now_ns, member, None, fates.CLOSED_WAITING, fate, reason)
        self.joiner.end_all(group, fate, reason)
        del self.members[stream_id]
        if group.by_place[member.fusion.place] is member:
            group.by_place[member.fusion.place] = None
        left = group.members()
        if left:
            self._frames.changed(member.fusion.group, combined([other.terms for other in left]))
        else:
            self._frames.closed(member.fusion.group)
            del self.joiner.groups[member.fusion.group]

    def cancelled(self, now_ns: int, stream_id: int, frame_ids: tuple[int, ...]) -> None:
        member = self.members[stream_id]
        for piece in [piece for piece in member.waiting if piece.frame.frame_id in frame_ids]:
            self.joiner.end(member, piece, fates.WITHDRAWN, fates.WITHDRAWN.wording)
        self._part(now_ns, member, frame_ids, fates.WITHDRAWN, fates.PARTNER_WITHDRAWN)

    def evicted(self, now_ns: int, stream_id: int) -> None:
        """Answers what waits of the stream, and what was joined with it: all of it gives up its memory."""
        member = self.members[stream_id]
        for piece in list(member.waiting):
            self.joiner.end(member, piece, fates.EVICTED, fates.EVICTED.wording)
        self._frames.evicted(now_ns, member.fusion.group)

    def refused(self, stream_id: int, captured_ns: int | None) -> None:
        if captured_ns is not None:
            self.joiner.refused(stream_id, captured_ns)

    def unloaded(self, name: str, reason: str) -> None:
        """Ends every piece for a model that is about to be unloaded."""
        for group in self.joiner.groups.values():
            if group.model == name:
                self.joiner.end_all(group, fates.MODEL_UNLOADED, reason)

    def as_group(self, event: FramesTurnedOut) -> FramesTurnedOut | None:
        """What results turned out to be counts once for the joint frame: as it was for the group's first input."""
        member = self.members[event.stream_id]
        if member is not next(iter(member.group.members())):
            return None
        return FramesTurnedOut(member.fusion.group, event.model, event.frames, event.status, event.missed)

    def settle(self) -> None:
        """Notes which pieces were answered along with their joint frames in this step."""
        for action in self._actions:
            if isinstance(action, ResolveFrame) and isinstance(action.frame, JointFrame):
                for piece in action.frame.pieces:
                    self.joiner.answered(piece)

    def _part(
        self,
        now_ns: int,
        member: Member,
        frame_ids: tuple[int, ...] | None,
        own: Fate,
        others: Fate,
        reason: str = "",
    ) -> None:
        """Ends the waiting joint frames with frames of the member, all or those with these ids: its own in one way,
        those that were joined with them in another.
        """
        stream = self._frames.streams[member.fusion.group]
        for queued in list(stream.waiting.values()):
            joint = queued.frame
            if not isinstance(joint, JointFrame):
                continue
            lost = joint.pieces[member.fusion.place]
            if lost.stream_id != member.stream_id or (frame_ids is not None and lost.frame_id not in frame_ids):
                continue
            at = len(self._actions)
            missing = repr(member.fusion.inputs[member.fusion.place])
            told = reason or others.says(frame=lost.frame_id, missing=missing)
            self._frames.withdraw(now_ns, member.fusion.group, queued, others, told)
            if at < len(self._actions):  # else it was SKIPPED along with one before it
                self._actions[at : at + 1] = [_parted(piece, lost, own, others, told) for piece in joint.pieces]
                for piece in joint.pieces:
                    self.joiner.answered(piece)


def _parted(piece: Frame, lost: Frame, own: Fate, others: Fate, told: str) -> ResolveFrame:
    if piece is lost:
        return ResolveFrame(piece, own.status, own.wording)
    return ResolveFrame(piece, others.status, told)
