"""Orders of outcomes: nothing is lost or doubled by any of them."""

from hypothesis import given
from hypothesis import strategies as st

from duly.core import fates
from duly.core.types import Frame, OutcomeStatus, StreamClass
from duly.runtime.held_frames import HeldFrame
from duly.runtime.outcome import Outcome
from duly.streams.ordering import Arrival, Monotonic
from tests.runtime.held import SIGNATURE


def outcome(frame_id: int, status: OutcomeStatus = OutcomeStatus.ON_TIME) -> Outcome:
    frame = Frame(frame_id, 1, frame_id, "m/1", 0)
    return Outcome(HeldFrame(frame, StreamClass.STANDARD, SIGNATURE, 0, 0), status, "")


ENDS = st.permutations(range(12)).flatmap(
    lambda order: st.tuples(st.just(order), st.lists(st.sampled_from(OutcomeStatus), min_size=12, max_size=12))
)


@given(ENDS, st.sampled_from([Arrival, Monotonic]))
def test_each_outcome_leaves_once(ends: tuple[list[int], list[OutcomeStatus]], kind: type[Arrival | Monotonic]) -> None:
    ordering = kind()
    for frame_id in range(12):
        ordering.arrived(frame_id)
    order, statuses = ends
    left = [o for i in order for o in ordering.push(outcome(i, statuses[i]))]
    assert sorted(o.held.frame.frame_id for o in left) == list(range(12))
    ids = [o.held.frame.frame_id for o in left]
    results = [o.held.frame.frame_id for o in left if o.status in fates.RESULTS and o.turned_out is None]
    if kind is Arrival:
        assert ids == sorted(ids)
    if kind is Monotonic:
        assert ids == order
        assert results == sorted(results)


def test_arrival_holds_back_until_the_gap_is_filled() -> None:
    ordering = Arrival()
    for frame_id in (1, 2, 3):
        ordering.arrived(frame_id)
    assert ordering.push(outcome(3)) == []
    assert ordering.push(outcome(2)) == []
    assert [o.held.frame.frame_id for o in ordering.push(outcome(1))] == [1, 2, 3]


def test_arrival_releases_what_it_holds_when_the_stream_ends() -> None:
    ordering = Arrival()
    for frame_id in (1, 2, 3):
        ordering.arrived(frame_id)
    assert ordering.push(outcome(3)) == []
    assert [o.held.frame.frame_id for o in ordering.release()] == [3]
    assert ordering.release() == []


def test_a_result_older_than_one_delivered_is_withheld() -> None:
    ordering = Monotonic()
    assert ordering.push(outcome(5))[0].status is OutcomeStatus.ON_TIME
    (late,) = ordering.push(outcome(4))
    assert late.turned_out is fates.OUTRUN
    assert late.outputs is None
    assert "frame 5" in late.reason
