"""Rates of a quota: a second's worth may come at once, then as much as the rate gives, whatever streams come and go."""

import pytest

from duly.core import fates
from duly.streams.quota import BURST_NS, METERS_MAX, Meter, Meters
from duly.streams.rights import Quota

S = 1_000_000_000
NOW = 7 * S


def taken(meter: Meter, frames: int, *, every_ns: int, size_bytes: int = 100, from_ns: int = NOW) -> int:
    return sum(meter.over(from_ns + n * every_ns, size_bytes) is None for n in range(frames))


@pytest.mark.parametrize(
    ("quota", "fate"),
    [
        (Quota(frames_per_s_max=50), fates.OVER_QUOTA_FRAMES),
        (Quota(bytes_per_s_max=5000), fates.OVER_QUOTA_BYTES),
    ],
)
def test_a_rate_holds_over_any_time(quota: Quota, fate: fates.Fate) -> None:
    meter = Meter(quota, lanes=1)
    assert 49 <= taken(meter, 500, every_ns=1000) <= 51, "a second's worth at once"
    over = meter.over(NOW + 500_000, 100)
    assert over is not None
    assert over[0] is fate
    assert "quota is 5" in over[1]
    assert 499 <= taken(meter, 10_000, every_ns=S // 1000, from_ns=NOW + S // 1000) <= 501, "ten seconds' worth"
    assert taken(meter, 500, every_ns=S // 50, from_ns=NOW + 100 * S) == 500, "who keeps to it is never refused"


def test_a_frame_larger_than_the_rate_passes_when_nothing_is_owed() -> None:
    meter = Meter(Quota(bytes_per_s_max=1000), lanes=1)
    assert meter.over(NOW, 5000) is None
    assert meter.over(NOW + 4 * S, 1) is not None
    assert meter.over(NOW + 5 * S, 5000) is None


def test_a_rate_below_one_a_second() -> None:
    meter = Meter(Quota(frames_per_s_max=0.5), lanes=1)
    assert 5 <= taken(meter, 100, every_ns=S // 10) <= 6


def test_lane_time_counts_by_the_share_of_all_lanes() -> None:
    meter = Meter(Quota(lane_share_max=0.25), lanes=2)
    for _ in range(6):
        assert meter.over(NOW, 1) is None
        meter.ran(NOW, 0.1 * S)
    over = meter.over(NOW, 1)
    assert over is not None
    assert over[1] == "the principal's quota is 25% of all lane time (lane_share_max)"
    assert meter.over(NOW + BURST_NS, 1) is None


def test_meters_outlive_streams_and_are_bounded() -> None:
    meters = Meters(1)
    quota = Quota(frames_per_s_max=2)
    first = meters.of("a", quota)
    assert first is not None
    assert taken(first, 10, every_ns=1) == 2
    again = meters.of("a", Quota(frames_per_s_max=4))
    assert again is first
    assert meters.of("b", Quota()) is None
    for number in range(METERS_MAX):
        meters.of(str(number), quota)
    assert meters.of("a", quota) is not first
