"""When a lane's speed is said to have changed: soon after a lasting shift, by what it shifted, and not on noise."""

from math import exp, log
from random import Random

import pytest

from duly.core.timing.lane_speed import Change, LaneSpeed


class Lane:
    """A lane whose times are `factor` times those at first, with lognormal noise and hiccups of five times as long."""

    def __init__(self, seed: int, deviation: float, hiccup_probability: float = 0.0) -> None:
        self.speed = LaneSpeed()
        self.factor = 1.0
        self._rng = Random(seed)
        self._deviation = deviation
        self._hiccup_probability = hiccup_probability

    def run(self, profile: int, own_factor: float = 1.0) -> Change:
        ratio = self.factor * own_factor / self.speed.factor * self._rng.lognormvariate(0, self._deviation)
        if self._rng.random() < self._hiccup_probability:
            ratio *= 5
        return self.speed.observe(profile, ratio)


@pytest.mark.parametrize("hiccup_probability", [0.0, 0.005])
@pytest.mark.parametrize("deviation", [0.02, 0.05, 0.1, 0.2, 0.4])
def test_noise_changes_next_to_nothing(deviation: float, hiccup_probability: float) -> None:
    lane = Lane(5, deviation, hiccup_probability)
    profile = lane.speed.join(deviation)
    for _ in range(30_000):
        lane.run(profile)
        # Less than a third of the noise, or of 10 % where that is more.
        assert abs(log(lane.speed.factor)) < 0.34 * max(0.1, deviation) + 0.02
    assert lane.speed.changes <= 6


def test_one_hiccup_after_another_is_no_shift_as_long_as_good_runs_are_between() -> None:
    speed = LaneSpeed()
    profile = speed.join(0.0)
    for nth in range(2_000):
        ratio = 5.0 if nth % 100 in (0, 1, 2, 10, 13) else 1.0
        assert speed.observe(profile, ratio) is Change.NONE


@pytest.mark.parametrize(
    ("deviation", "factor", "runs_max"),
    [
        (0.02, 1.2, 10),
        (0.05, 1.2, 14),
        (0.05, 1 / 1.2, 14),
        (0.10, 1.2, 25),
        (0.05, 1.5, 5),
        (0.05, 5.0, 4),
        (0.05, 0.2, 4),
    ],
)
def test_a_lasting_shift_is_found_and_measured(deviation: float, factor: float, runs_max: int) -> None:
    for seed in range(30):
        lane = Lane(seed, deviation)
        profile = lane.speed.join(0.0)
        for _ in range(200):
            assert lane.run(profile) is Change.NONE
        lane.factor = factor
        changes = [lane.run(profile) for _ in range(runs_max)]
        assert Change.LANE in changes
        assert Change.OWN not in changes
        assert abs(log(lane.speed.factor / factor)) < 0.02 + 1.6 * deviation


def test_the_runs_that_revealed_a_shift_are_told_from_those_before() -> None:
    speed = LaneSpeed()
    profile = speed.join(0.0)
    for _ in range(50):
        speed.observe(profile, 1.0)
    slow = 0
    while speed.observe(profile, 1.2) is Change.NONE:
        slow += 1
        assert slow < 20
    assert speed.shift_run == 50
    assert speed.shift == speed.factor == pytest.approx(1.2)
    assert speed.changes == 1


def test_a_drift_too_slow_for_an_alarm_is_followed() -> None:
    lane = Lane(3, 0.05)
    profile = lane.speed.join(0.0)
    for nth in range(3_000):
        lane.factor = exp(0.3 * nth / 3_000)
        lane.run(profile)
        assert abs(log(lane.speed.factor / lane.factor)) < 0.08
    assert lane.speed.factor > 1.25


def test_what_one_model_does_alone_is_its_own() -> None:
    for seed in range(20):
        lane = Lane(seed, 0.05)
        first, second = lane.speed.join(0.0), lane.speed.join(0.0)
        for _ in range(100):
            lane.run(first)
            lane.run(second)
        changes = []
        for _ in range(30):
            changes.append(lane.run(first, own_factor=1.5))
            if changes[-1] is not Change.NONE:
                break
            changes.append(lane.run(second))
        assert changes[-1] is Change.OWN
        assert lane.speed.factor == 1.0
        assert lane.speed.shift == pytest.approx(1.5, rel=0.1)


def test_what_all_models_do_is_the_lanes() -> None:
    for seed in range(20):
        lane = Lane(seed, 0.05)
        profiles = [lane.speed.join(0.0) for _ in range(4)]
        for nth in range(200):
            lane.run(profiles[nth % 4])
        lane.factor = 1.3
        changes = [lane.run(profiles[nth % 4]) for nth in range(20)]
        assert changes.count(Change.LANE) == 1
        assert changes.count(Change.OWN) == 0
        assert lane.speed.factor == pytest.approx(1.3, rel=0.12)


def test_a_probe_that_is_much_shorter_counts_at_once_one_that_is_longer_does_not() -> None:
    speed = LaneSpeed()
    profile = speed.join(0.0)
    assert speed.observe(profile, 5.0, probe=True) is Change.NONE
    assert speed.observe(profile, 0.9, probe=True) is Change.NONE
    assert speed.observe(profile, 0.2) is Change.NONE
    assert speed.observe(profile, 0.2, probe=True) is Change.LANE
    assert speed.factor == pytest.approx(0.2)


def test_a_probe_of_one_model_leaves_the_others_alone_where_they_contradict() -> None:
    speed = LaneSpeed()
    first, second = speed.join(0.0), speed.join(0.0)
    for _ in range(10):
        speed.observe(first, 1.0)
    assert speed.observe(second, 0.2, probe=True) is Change.OWN
    assert (speed.shift, speed.factor) == (pytest.approx(0.2), 1.0)
