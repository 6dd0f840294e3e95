"""When a free lane waits for more frames, and until when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.dispatch.deferral import DEMAND_MIN_PERCENT, LANES_PER_MODEL, may_hold, ripe_at_ns
from duly.core.timing.profile import Profile
from tests.core.drawn import MS, NOW_NS, profile_of, profiles

MUCH = 100.0


@pytest.mark.parametrize(
    ("lanes", "models", "needed", "expected"),
    [
        (1, 1, MUCH, False),
        (LANES_PER_MODEL - 1, 1, MUCH, False),
        (LANES_PER_MODEL, 1, MUCH, True),
        (LANES_PER_MODEL, 2, MUCH, False),
        (2 * LANES_PER_MODEL - 1, 2, MUCH, False),
        (2 * LANES_PER_MODEL, 2, MUCH, True),
        (10, 1, 10 * DEMAND_MIN_PERCENT / 100, False),
        (10, 1, 10 * DEMAND_MIN_PERCENT / 100 + 0.01, True),
        (10, 1, 0.0, False),
    ],
)
def test_a_lane_holds_with_lanes_to_spare_and_high_demand(
    lanes: int, models: int, needed: float, expected: bool
) -> None:
    assert may_hold(lanes, models, needed) is expected


@given(profile=profiles(), data=st.data())
def test_a_batch_is_ripe_when_one_more_frame_would_be_late_or_would_not_pay(
    profile: Profile, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, profile.batch_max))
    waiting = size + data.draw(st.integers(0, 2))
    deadline_ns = NOW_NS + data.draw(st.integers(0, 100)) * MS
    ripe = ripe_at_ns(profile, size, waiting, deadline_ns)
    grows = waiting == size < profile.batch_max and profile.largest_efficient(size + 1) == size + 1
    if grows:
        assert ripe + profile.plan_ns[size + 1] == deadline_ns
        assert ripe + profile.plan_ns[size] <= deadline_ns, "what holds can still run when it is ripe"
    else:
        assert ripe == 0


def test_more_than_the_batch_takes_need_not_wait() -> None:
    profile = profile_of({1: 10, 8: 24})
    assert ripe_at_ns(profile, 2, 3, NOW_NS) == 0
    assert ripe_at_ns(profile, 8, 8, NOW_NS) == 0
    assert ripe_at_ns(profile, 2, 2, NOW_NS) == NOW_NS - profile.plan_ns[3]
