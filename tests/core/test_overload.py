"""What is served when not all can be, and what the others are told."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.dispatch.batch_window import LOOKAHEAD_BATCHES
from duly.core.dispatch.overload import MISFITS_MAX, fits_serially, worthiest
from duly.core.fates import of_doomed
from duly.core.types import OutcomeStatus
from duly.core.waiting import QueuedFrame
from tests.core.drawn import MS, NOW_NS, queue_of

batches = st.lists(st.tuples(st.integers(-5, 60), st.integers(1, 40), st.integers(1, 3)), max_size=6).map(
    lambda specs: sorted((NOW_NS + start_ms * MS, planned_ms * MS, frames) for start_ms, planned_ms, frames in specs)
)


@given(urgencies=batches)
def test_batches_fit_on_one_lane_where_no_more_than_a_frame_comes_too_late(
    urgencies: list[tuple[int, int, int]],
) -> None:
    start_ns, lost = NOW_NS, 0
    for latest_ns, planned_ns, frames in urgencies:
        if start_ns > latest_ns:
            lost += frames
        else:
            start_ns += planned_ns
    assert fits_serially(NOW_NS, 1, urgencies) is (lost <= MISFITS_MAX)


@given(urgencies=batches, lanes=st.integers(1, 4))
def test_lanes_without_end_fit_all_that_could_start_now(urgencies: list[tuple[int, int, int]], lanes: int) -> None:
    could = [batch for batch in urgencies if batch[0] >= NOW_NS]
    assert fits_serially(NOW_NS, lanes * 10**12, could)


@given(merits=st.lists(st.integers(1, 9), min_size=1, max_size=12), data=st.data())
def test_the_worthiest_are_worth_most_and_keep_their_order(merits: list[int], data: st.DataObject) -> None:
    entries = queue_of([20.0 + nth for nth in range(len(merits))])
    begin = data.draw(st.integers(0, len(merits) - 1))
    size = data.draw(st.integers(1, len(merits) - begin))
    frames, value = worthiest(entries, begin, size, len(merits), lambda queued: float(merits[queued.frame.seq]))
    most = max(sum(chosen) for chosen in combinations(merits[begin:], size))
    assert value == sum(merits[queued.frame.seq] for queued in frames) == most
    assert [queued.frame.seq for queued in frames] == sorted({queued.frame.seq for queued in frames})
    assert len(frames) == size
    assert all(queued.frame.seq >= begin for queued in frames)


def test_among_equals_the_first_in_the_queue_are_chosen() -> None:
    frames, _ = worthiest(queue_of([20, 21, 22, 23]), 1, 2, 8, lambda frame: 1.0)
    assert [queued.frame.seq for queued in frames] == [1, 2]


def test_among_equals_those_at_the_edge_come_last() -> None:
    entries, edge_ns = queue_of([11, 14, 16, 50]), NOW_NS + 15 * MS
    assert [q.frame.seq for q in worthiest(entries, 0, 1, 8, lambda frame: 1.0, edge_ns)[0]] == [2]
    assert [q.frame.seq for q in worthiest(entries[:2], 0, 1, 8, lambda frame: 1.0, edge_ns)[0]] == [0]
    assert [
        queued.frame.seq
        for queued in worthiest(entries, 0, 1, 8, lambda queued: 3.0 - queued.frame.seq % 2, edge_ns)[0]
    ] == [2]
    merits = {0: 1.0, 1: 3.0, 2: 1.0, 3: 1.0}
    assert [q.frame.seq for q in worthiest(entries, 0, 1, 8, lambda queued: merits[queued.frame.seq], edge_ns)[0]] == [
        1
    ]


def test_one_decision_weighs_a_bounded_queue() -> None:
    asked: list[int] = []

    def merit(queued: QueuedFrame) -> float:
        asked.append(queued.frame.seq)
        return 1.0

    worthiest(queue_of([20] * 1000), 3, 4, 4, merit)
    assert asked == list(range(3, 3 + LOOKAHEAD_BATCHES * 4))


@pytest.mark.parametrize(
    ("arrived_ms", "due_ms", "preferred_ms", "passed_ms", "status", "reason"),
    [
        (0, -3, -1, -1, OutcomeStatus.EXPIRED, "its deadline had passed 3 ms before it came"),
        (0, 4, -1, -1, OutcomeStatus.EXPIRED, "came with 4 ms left of its budget, 10 ms needed"),
        (0, 4, 0, 0, OutcomeStatus.EXPIRED, "came with 4 ms left of its budget, 10 ms needed"),
        (-7, 9, -8, -8, OutcomeStatus.EXPIRED, "waited 7 ms for a lane; less than the 10 ms needed were left"),
        (-7, 9, -8, -7, OutcomeStatus.SHED, "overload: passed over for a batch that serves more"),
        (-7, 9, -7, -8, OutcomeStatus.SHED, "overload: the lane was given to more critical frames"),
        (-7, 9, -1, -1, OutcomeStatus.SHED, "overload: the lane was given to more critical frames"),
    ],
)
def test_a_doomed_frame_is_told_why(
    arrived_ms: int, due_ms: int, preferred_ms: int, passed_ms: int, status: OutcomeStatus, reason: str
) -> None:
    deadline_ns, arrived_ns = NOW_NS + due_ms * MS, NOW_NS + arrived_ms * MS
    outranked_ns, passed_over_ns = NOW_NS + preferred_ms * MS, NOW_NS + passed_ms * MS
    fate, told = of_doomed(NOW_NS, deadline_ns, arrived_ns, 10 * MS, outranked_ns, passed_over_ns)
    assert (fate.status, told) == (status, reason)


def test_a_frame_whose_model_no_lane_served_is_told_so() -> None:
    fate, told = of_doomed(NOW_NS, NOW_NS - 1, NOW_NS - 20 * MS, 0, -1, -1)
    assert (fate.status, told) == (OutcomeStatus.EXPIRED, "waited 20 ms while no lane served its model")
