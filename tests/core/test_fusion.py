"""Fusion groups in parts: which frames belong together, on what terms they run, and what is bounded."""

from itertools import product

from hypothesis import example, given
from hypothesis import strategies as st

from duly.core.events import Action, FramesArrived, LaneUp, ModelReady, ResolveFrame, StreamClosed, StreamOpened
from duly.core.fusion.joiner import PIECES_MAX
from duly.core.fusion.match import Piece, closest, fits
from duly.core.fusion.terms import NO_CREDIT, combined
from duly.core.scheduler import Scheduler
from duly.core.types import (
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

MS = 1_000_000


def piece(captured_ns: int) -> Piece:
    return Piece(Frame(1, 1, 1, "m/1", 0, captured_ns=captured_ns), 0)


TIMES = st.lists(st.integers(0, 30), max_size=5)


@example(at_ns=5, waiting=[[0, 7], [1]], tolerance_ns=10)  # the nearest ones together are not the closest set
@given(at_ns=st.integers(0, 30), waiting=st.lists(TIMES, min_size=1, max_size=3), tolerance_ns=st.integers(0, 12))
def test_the_closest_set_is_the_smallest_range_with_one_of_each(
    at_ns: int, waiting: list[list[int]], tolerance_ns: int
) -> None:
    new = piece(at_ns).frame
    others = [[piece(time_ns) for time_ns in times] for times in waiting]
    ranges = [max(at_ns, *each) - min(at_ns, *each) for each in product(*waiting)]
    found = closest(new, others, tolerance_ns)
    if min(ranges, default=tolerance_ns + 1) > tolerance_ns:
        assert found is None
        return
    assert found is not None
    assert all(chosen in of_one for chosen, of_one in zip(found, others, strict=True))
    times = [at_ns, *[chosen.frame.captured_ns for chosen in found]]
    assert max(times) - min(times) == min(ranges)
    assert all(fits(new, of_one, tolerance_ns) for of_one in others)


def terms(**more: object) -> StreamTerms:
    usual = {
        "stream_class": StreamClass.STANDARD,
        "backlog": BacklogPolicy.ALL,
        "backlog_frames": 0,
        "budget_ns": 100 * MS,
        "frames_in_flight_max": 1000,
        "model": "m/1",
    }
    return StreamTerms(**(usual | more))  # type: ignore[arg-type]


def test_what_any_member_was_promised_holds_for_all() -> None:
    whole = combined(
        [
            terms(
                stream_class=StreamClass.BEST_EFFORT, period_ns=10 * MS, frames_in_flight_max=5, gap=GapPolicy.CONTINUE
            ),
            terms(
                budget_ns=40 * MS, backlog=BacklogPolicy.KEEP_LAST, backlog_frames=3, gap=GapPolicy.RESET, advise=True
            ),
            terms(period_ns=30 * MS, variant_rank_max=1, floor_frames=3, floor_window=4, gap=GapPolicy.CONTINUE),
            terms(floor_frames=1, floor_window=2, variant_rank_max=2, gap=GapPolicy.CONTINUE),
        ]
    )
    assert whole == terms(
        budget_ns=40 * MS,
        backlog=BacklogPolicy.KEEP_LAST,
        backlog_frames=3,
        frames_in_flight_max=NO_CREDIT,
        gap=GapPolicy.RESET,
        period_ns=30 * MS,
        variant_rank_max=1,
        floor_frames=3,
        floor_window=4,
        policed=True,
    )
    assert combined([terms(), terms(backlog=BacklogPolicy.LATEST, backlog_frames=1)]).backlog is BacklogPolicy.LATEST


def group_of(wait: FusionWait, *inputs: str, tolerance_ns: int = 5 * MS) -> Scheduler:
    scheduler = Scheduler()
    scheduler.step(0, LaneUp("cpu:0"))
    scheduler.step(0, ModelReady("m/1", "cpu:0", "default", {1: (MS,)}, any_size=True))
    for place in range(len(inputs)):
        fusion = Fusion(100, "rig", inputs, place, tolerance_ns, wait)
        scheduler.step(0, StreamOpened(place + 1, terms(fusion=fusion)))
    return scheduler


def ended(actions: list[Action]) -> dict[tuple[int, int], OutcomeStatus]:
    return {
        (frame.stream_id, frame.frame_id): action.status
        for action in actions
        if isinstance(action, ResolveFrame)
        for frame in (action.frame.pieces if isinstance(action.frame, JointFrame) else (action.frame,))
    }


def test_only_so_many_frames_wait_for_partners() -> None:
    scheduler = group_of(FusionWait.WITHIN_DEADLINE, "left", "right")
    seen: dict[tuple[int, int], OutcomeStatus] = {}
    for frame_id in range(1, PIECES_MAX + 4):
        at_ns = frame_id * 20 * MS
        frame = Frame(frame_id, 1, frame_id, "m/1", 10**12, captured_ns=at_ns)
        seen |= ended(scheduler.step(frame_id, FramesArrived([frame])))
    assert seen == dict.fromkeys([(1, 1), (1, 2), (1, 3)], OutcomeStatus.SUPERSEDED)
    left = ended(scheduler.step(1000, StreamClosed(2)))
    assert left == {(1, frame_id): OutcomeStatus.EXPIRED for frame_id in range(4, PIECES_MAX + 4)}


def test_clocks_that_are_set_back_cost_a_group_one_frame_and_no_more() -> None:
    scheduler = group_of(FusionWait.EXACT, "left", "right", tolerance_ns=0)
    joined = 0
    for nth in range(20):
        captured_ns = nth * 33 * MS - (10**15 if nth >= 10 else 0)
        for stream_id in (1, 2):
            frame = Frame(2 * nth + stream_id, stream_id, nth + 1, "m/1", 10**12, captured_ns=captured_ns)
            actions = scheduler.step(nth, FramesArrived([frame]))
            for action in actions:
                if isinstance(action, ResolveFrame):
                    assert action.status in (OutcomeStatus.EXPIRED, OutcomeStatus.SUPERSEDED)
                    assert nth == 10
        joined = scheduler._fusion.joiner.groups[100].last_id
    assert joined >= 18


def test_a_stream_that_opens_before_the_one_in_its_place_has_closed_keeps_the_place() -> None:
    """As when the host finds a stream broken, and its client is back already."""
    scheduler = group_of(FusionWait.NEWEST, "left", "right")
    fusion = Fusion(100, "rig", ("left", "right"), 0, 5 * MS, FusionWait.NEWEST)
    scheduler.step(1, StreamOpened(3, terms(fusion=fusion)))
    scheduler.step(2, StreamClosed(1))
    scheduler.step(3, FramesArrived([Frame(1, 3, 1, "m/1", 10**12, captured_ns=0)]))
    actions = scheduler.step(4, FramesArrived([Frame(2, 2, 1, "m/1", 10**12, captured_ns=0)]))
    assert [type(action).__name__ for action in actions] == ["DispatchBatch"]
