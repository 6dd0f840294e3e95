"""How large a batch is, whether frames can be served in order, and which window of the queue has the best rate."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duly.core.dispatch.batch_window import LOOKAHEAD_BATCHES, best_window, keeps_up, largest_size
from duly.core.timing.profile import GAIN_PERCENT, Profile
from duly.core.types import Frame
from tests.core.drawn import MS, NOW_NS, Waiting, profile_of, profiles, queue_of, waiting

GPU = {1: 10, 8: 24}


def pays(profile: Profile, size: int) -> bool:
    """Whether a batch saves lane time over single runs, as is asked for."""
    return size == 1 or profile.plan_ns[size] <= size * profile.plan_ns[1] * (1 - GAIN_PERCENT / 100) + 1


@given(profile=profiles(), limit_ns=st.integers(-5, 60).map(lambda ms: ms * MS), frames=st.integers(1, 12))
def test_the_largest_size_is_the_largest_that_fits_and_pays(profile: Profile, limit_ns: int, frames: int) -> None:
    most = min(frames, profile.batch_max)
    fit = [size for size in range(1, most + 1) if profile.plan_ns[size] <= limit_ns and pays(profile, size)]
    assert largest_size(profile, limit_ns, frames) == max(fit, default=1)


# ---- whether all can be served in their order ----


def served_in_order(frames: list[tuple[int, int]], profile: Profile, lanes: int) -> bool:
    """Whether all frames, given as (arrival, deadline), are in time on one lane that is so many times as fast, or until
    it has caught up with what has arrived.
    """
    free_ns = NOW_NS
    while frames:
        arrived = [due_ns for arrival_ns, due_ns in frames if arrival_ns <= free_ns]
        if not arrived:
            return True
        size = largest_size(profile, arrived[0] - free_ns, len(arrived))
        if free_ns + profile.plan_ns[size] > arrived[0]:
            return False
        free_ns += profile.plan_ns[size] // lanes
        frames = frames[size:]
    return True


@given(case=waiting(), gap_ms=st.integers(0, 60), age_ms=st.integers(0, 50), lanes=st.integers(1, 4))
def test_frames_keep_up_where_serving_them_in_order_does(case: Waiting, gap_ms: int, age_ms: int, lanes: int) -> None:
    """Those that wait, and those that come within the budget of the last of them."""
    lookahead, gap_ns = LOOKAHEAD_BATCHES * case.profile.batch_max, gap_ms * MS
    for _, _, queued in case.entries:
        queued.arrived_ns = NOW_NS - age_ms * MS
    frames = [(NOW_NS, due_ns) for due_ns, _, _ in case.entries[:lookahead]]
    if gap_ns:
        budget_ns = frames[-1][1] - NOW_NS + age_ms * MS
        for nth in range(1, min(budget_ns // gap_ns, lookahead) + 1):
            frames.append((NOW_NS + nth * gap_ns, NOW_NS + nth * gap_ns + budget_ns))
    expected = served_in_order(frames, case.profile, lanes)
    assert keeps_up(case.entries, case.profile, NOW_NS, gap_ns, lanes) == expected


@pytest.mark.parametrize(
    ("gap_ms", "lanes", "expected"), [(0, 1, True), (6, 1, True), (4, 1, False), (4, 2, True), (2, 2, False)]
)
def test_frames_to_come_keep_up_as_far_as_the_lanes_do(gap_ms: float, lanes: int, expected: bool) -> None:
    """Single runs of 10 ms, budgets of 100 ms: a lane may fall behind by one budget in the time of one."""
    entries = queue_of([100] * 2)
    assert keeps_up(entries, profile_of({1: 10, 8: 80}), NOW_NS, gap_ms * MS, lanes) is expected


def test_batches_of_what_comes_meanwhile_keep_up_with_more() -> None:
    entries = queue_of([60] * 2)
    assert keeps_up(entries, profile_of(GPU), NOW_NS, 4 * MS, 1)
    assert not keeps_up(entries, profile_of({1: 10, 8: 80}), NOW_NS, 4 * MS, 1)


def test_one_decision_looks_at_a_bounded_queue() -> None:
    """What is beyond the lookahead can't be in time, and nobody looks."""
    looked_at = [1000.0] * LOOKAHEAD_BATCHES * 8
    assert keeps_up(queue_of([*looked_at, *[1001.0] * 5000]), profile_of(GPU), NOW_NS, 0, 1)


# ---- the window ----


def equal(frame: Frame) -> float:
    return 1.0


@given(case=waiting(), merits=st.lists(st.sampled_from([1.0, 1.2, 1.44, 38.0]), min_size=1, max_size=12))
@settings(max_examples=50)
def test_no_other_window_as_large_is_worth_more_for_the_lane_time(case: Waiting, merits: list[float]) -> None:
    entries, usual = case.entries, case.profile.usual_ns
    merit_of = {entry[2].frame.seq: merits[nth % len(merits)] for nth, entry in enumerate(entries)}
    begin, size = best_window(entries, 0, case.profile, NOW_NS, case.cap_ns, lambda queued: merit_of[queued.frame.seq])
    last = min(len(entries), LOOKAHEAD_BATCHES * case.profile.batch_max)

    def value(start: int, frames: int) -> float:
        counted = sorted(merit_of[entry[2].frame.seq] for entry in entries[start:last])
        return sum(counted[-frames:])

    for start in range(last):
        limit_ns = min(entries[start][0] - NOW_NS, case.cap_ns)
        other = largest_size(case.profile, limit_ns, last - start)
        if last - start > size:
            assert value(start, other) / usual[other] <= value(begin, size) / usual[size] * (1 + 1e-12)


def test_a_window_does_not_pass_over_a_frame_again_for_one_more() -> None:
    """Behind the first frame eight fit instead of seven; its stream missed two."""
    entries = queue_of([23, *[30] * 11])
    before = entries[0][2]
    assert best_window(entries, 0, profile_of(GPU), NOW_NS, 25 * MS, equal) == (1, 8)
    assert best_window(entries, 0, profile_of(GPU), NOW_NS, 25 * MS, lambda f: 1.44 if f is before else 1.0) == (0, 7)


@given(case=waiting())
@settings(max_examples=50)
def test_no_other_window_serves_more_frames_for_the_lane_time(case: Waiting) -> None:
    plan, usual = case.profile.plan_ns, case.profile.usual_ns
    last = min(len(case.entries), LOOKAHEAD_BATCHES * case.profile.batch_max)
    begin, size = best_window(case.entries, 0, case.profile, NOW_NS, case.cap_ns, equal)
    assert 0 <= begin < last
    assert begin + size <= last
    assert NOW_NS + plan[size] <= case.entries[begin][0]
    assert size == 1 or plan[size] <= case.cap_ns
    for start in range(last):
        limit_ns = min(case.entries[start][0] - NOW_NS, case.cap_ns)
        other = largest_size(case.profile, limit_ns, last - start)
        assert other * usual[size] <= size * usual[other] or last - start <= size


@given(case=waiting())
@settings(max_examples=50)
def test_a_window_passes_over_the_shortest_prefix(case: Waiting) -> None:
    begin, size = best_window(case.entries, 0, case.profile, NOW_NS, case.cap_ns, equal)
    last = min(len(case.entries), LOOKAHEAD_BATCHES * case.profile.batch_max)
    if size > 1:
        for start in range(begin):
            limit_ns = min(case.entries[start][0] - NOW_NS, case.cap_ns)
            assert largest_size(case.profile, limit_ns, last - start) < size


@given(case=waiting(), skipped=st.integers(0, 5))
def test_a_window_begins_at_the_first_that_may_run_or_behind(case: Waiting, skipped: int) -> None:
    first = min(skipped, len(case.entries) - 1)
    begin, size = best_window(case.entries, first, case.profile, NOW_NS, case.cap_ns, equal)
    behind, same = best_window(case.entries[first:], 0, case.profile, NOW_NS, case.cap_ns, equal)
    assert (begin, size) == (first + behind, same)


def test_a_window_at_the_end_of_the_queue_passes_over_nothing_that_has_time() -> None:
    """Batches of two are the best of this engine, yet that is no reason to give up all but the last two frames."""
    profile = profile_of({1: 6, 2: 7, 4: 20, 8: 35})
    entries = queue_of([17, 23, 27, 30, *range(36, 100, 3)])
    assert best_window(entries, 0, profile, NOW_NS, 25 * MS, equal) == (0, 3)


def test_a_window_blocks_the_lane_no_longer_than_any_batch() -> None:
    entries = queue_of([11, *[30] * 11])
    assert best_window(entries, 0, profile_of(GPU), NOW_NS, 25 * MS, equal) == (1, 8)
    assert best_window(entries, 0, profile_of(GPU), NOW_NS, 19 * MS, equal) == (1, 5)
