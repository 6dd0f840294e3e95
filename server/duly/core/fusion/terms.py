"""On what terms the joint frames of a fusion group run: what any member was promised holds for all.

A joint frame is one frame of the group's stream, so that admission, fairness and overload count the group once. It is
as critical as the most critical member, and due when the first of its pieces is (`JointFrame`).
"""

from collections.abc import Sequence

from duly.core.backlog import keeps_all
from duly.core.types import GapPolicy, StreamTerms

NO_CREDIT = 1 << 31
"""The credit of a group's stream: what bounds its frames are the credits of the members, whose frames they are."""
_CAREFUL = (GapPolicy.SKIP, GapPolicy.RESET, GapPolicy.CONTINUE)
"""Gap policies, the one that runs least first."""


def combined(members: Sequence[StreamTerms]) -> StreamTerms:
    """Returns the terms of the stream of a group with these members, at least one.

    Joint frames come no more often than the slowest member's. The group is never told to slow down: members that keep
    frames back, each for itself, would send none that fit each other.
    """
    fewest = min(members, key=_frames_waiting)
    gaps = [terms.gap for terms in members]
    floor = max(members, key=_floor_share)
    period_ns = max([terms.period_ns for terms in members])
    return StreamTerms(
        stream_class=min([terms.stream_class for terms in members]),
        backlog=fewest.backlog,
        backlog_frames=fewest.backlog_frames,
        budget_ns=min([terms.budget_ns for terms in members]),
        frames_in_flight_max=NO_CREDIT,
        gap=next((gap for gap in _CAREFUL if gap in gaps), None),
        model=members[0].model,
        period_ns=period_ns,
        variant_rank_max=min([terms.variant_rank_max for terms in members]),
        principal=members[0].principal,
        floor_frames=floor.floor_frames,
        floor_window=floor.floor_window,
        pinned=members[0].pinned,
        policed=period_ns > 0,
    )


def _frames_waiting(terms: StreamTerms) -> float:
    return float("inf") if keeps_all(terms) else terms.backlog_frames


def _floor_share(terms: StreamTerms) -> float:
    return terms.floor_frames / terms.floor_window if terms.floor_window else 0.0
