"""How much is asked of the lanes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.timing.arrival_rate import GAP_FRAMES, ArrivalGap, lanes_needed
from duly.core.timing.profile import Profile
from tests.core.drawn import MS, profile_of, profiles


def test_the_gap_is_not_known_before_the_second_frame() -> None:
    arrivals = ArrivalGap()
    assert arrivals.now(10**12) == 0
    arrivals.arrived(5 * MS)
    assert arrivals.now(10**12) == 0
    arrivals.arrived(8 * MS)
    assert arrivals.now(8 * MS) == 3 * MS


@given(period_ns=st.integers(1, 10**9), start_ns=st.integers(0, 2**62))
def test_periodic_frames_have_the_gap_of_their_period(period_ns: int, start_ns: int) -> None:
    arrivals = ArrivalGap()
    for nth in range(50):
        arrivals.arrived(start_ns + nth * period_ns)
    assert arrivals.gap_ns == pytest.approx(period_ns)


def test_a_new_rate_is_learnt_within_dozens_of_frames() -> None:
    arrivals, now_ns = ArrivalGap(), 0
    for period_ns in [10 * MS] * 100 + [2 * MS] * 3 * GAP_FRAMES:
        now_ns += period_ns
        arrivals.arrived(now_ns)
    assert 2 * MS < arrivals.gap_ns < 2.5 * MS


def test_a_silence_counts_when_it_is_longer_than_the_average() -> None:
    arrivals = ArrivalGap()
    for nth in range(10):
        arrivals.arrived(nth * MS)
    last_ns = 9 * MS
    assert arrivals.now(last_ns + GAP_FRAMES * MS) == pytest.approx(MS)
    assert arrivals.now(last_ns + 10 * GAP_FRAMES * MS) == pytest.approx(10 * MS)


def test_frames_at_once_have_no_gap() -> None:
    arrivals = ArrivalGap()
    for _ in range(10):
        arrivals.arrived(7)
    assert arrivals.now(7) == 0
    assert lanes_needed(profile_of({1: 10}), arrivals.now(7), 100 * MS) == 0


@pytest.mark.parametrize(
    ("gap_ms", "budget_ms", "size"),
    [
        (100, 100, 1),  # fewer than one comes within half a budget
        (10, 60, 3),  # three do
        (1, 60, 8),  # no more than a full batch
        (1, 30, 3),  # two batches have to fit into the budget: 14 ms each
        (1, 10, 1),  # not even two of one fit
    ],
)
def test_demand_counts_the_batches_that_a_steady_load_can_use(gap_ms: int, budget_ms: int, size: int) -> None:
    profile = profile_of({1: 10, 8: 24})
    expected = profile.usual_ns[size] / size / (gap_ms * MS)
    assert lanes_needed(profile, gap_ms * MS, budget_ms * MS) == pytest.approx(expected)


@given(profile=profiles(), gap_ms=st.integers(1, 100), budget_ms=st.integers(0, 200))
def test_batches_never_take_more_lanes_than_single_runs(profile: Profile, gap_ms: int, budget_ms: int) -> None:
    needed = lanes_needed(profile, gap_ms * MS, budget_ms * MS)
    assert 0 < needed <= profile.plan_ns[1] / (gap_ms * MS) + 1e-6
