"""Drift of inputs and outputs: seen when it is there, hardly ever when it is not, told once."""

import numpy as np
import pytest

from duly.models.learning import Drift
from duly_learn.learner.signals import Signals

NAMES = [f"input.x[{at}]" for at in range(10)]


def alarms(settings: Drift, rows: np.ndarray, seed: int = 0) -> list[tuple[int, str]]:
    signals = Signals(NAMES, settings, seed)
    return [(at, name) for at, row in enumerate(rows) for name in signals.update(row)]


def still(seed: int, count: int) -> np.ndarray:
    """Ten numbers of as many kinds, that stand still."""
    random = np.random.default_rng(seed)
    rows = np.stack([random.normal(size=count) for _ in range(10)], axis=1)
    rows[:, 1] = random.lognormal(3, 2, count)
    rows[:, 2] = random.random(count) < 0.02
    rows[:, 3] = random.poisson(0.3, count)
    rows[:, 4] = random.standard_cauchy(count)
    rows[:, 5] = 7.0
    return rows


def test_data_that_stand_still_give_at_most_one_alarm_in_100_000_frames() -> None:
    found = [alarm for seed in range(5) for alarm in alarms(Drift(), still(seed, 20_000))]
    assert len(found) <= 1, found


@pytest.mark.parametrize("detector", ["page_hinkley", "kswin"])
def test_other_detectors_keep_still_too(detector: str) -> None:
    frames = 400 if detector == "kswin" else 10_000  # KSWIN takes a third of a millisecond a number
    assert alarms(Drift.model_validate({"detector": detector}), still(1, 200 + frames)) == []


@pytest.mark.parametrize("detector", ["adwin", "page_hinkley", "kswin"])
def test_a_number_that_moves_is_seen_and_told_once(detector: str) -> None:
    rows = still(3, 1100)
    rows[600:, 0] += 2.0
    found = alarms(Drift.model_validate({"detector": detector}), rows)
    assert [name for _, name in found] == ["input.x[0]"]
    assert 600 < found[0][0] < 800


def test_a_number_that_spreads_is_seen_though_its_mean_stays() -> None:
    rows = still(3, 1400)
    rows[600:, 0] *= 4.0
    found = alarms(Drift(), rows)
    assert [name for _, name in found] == ["input.x[0]"]


def test_what_is_not_finite_is_passed_over() -> None:
    rows = still(3, 1000)
    rows[::3, 0] = np.nan
    rows[1::3, 1] = np.inf
    assert alarms(Drift(), rows) == []


def test_inputs_or_outputs_can_be_left_out() -> None:
    rows = still(3, 1000)
    rows[600:, 0] += 5.0
    assert alarms(Drift(inputs=False), rows) == []


def test_outputs_of_another_version_are_no_drift() -> None:
    signals = Signals(["output.scores"], Drift(), 0)
    random = np.random.default_rng(1)
    for number in random.normal(size=500):
        assert signals.update(np.array([number])) == []
    signals.anew_outputs()
    for number in random.normal(5, size=500):
        assert signals.update(np.array([number])) == []
