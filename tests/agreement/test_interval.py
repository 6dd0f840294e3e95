"""Intervals against figures that others have worked out, and against chance."""

import numpy as np
import pytest
from scipy import stats

from duly.agreement.interval import frames_needed, interval


@pytest.mark.parametrize(("hits", "count"), [(60, 60), (9, 10), (0, 20), (999, 1000), (1, 2)])
def test_shares_have_wilsons_interval(hits: int, count: int) -> None:
    found = interval([1.0] * hits + [0.0] * (count - hits))
    low, high = stats.binomtest(hits, count).proportion_ci(0.95, "wilson")
    assert (found.mean, found.count) == (hits / count, count)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


@pytest.mark.parametrize("count", [2, 3, 4, 10, 100])
def test_other_scores_have_students_interval(count: int) -> None:
    scores = 0.5 + 0.01 * np.random.default_rng(count).normal(size=count)
    found = interval(list(scores))
    half = stats.t.ppf(0.975, count - 1) * scores.std(ddof=1) / np.sqrt(count)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.02)


def test_one_score_says_nothing_but_itself() -> None:
    assert (interval([0.7]).low, interval([0.7]).high) == (0.0, 1.0)


def test_no_score_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no score"):
        interval([])


def test_ends_lie_in_0_to_1_and_around_the_mean() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        found = interval(list(rng.beta(5, 0.3, size=rng.integers(1, 30))))
        assert 0.0 <= found.low <= found.mean <= found.high <= 1.0


def test_it_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    found = [interval(list(rng.random(200) < 0.95)) for _ in range(400)]
    assert 0.92 <= np.mean([each.low <= 0.95 <= each.high for each in found]) <= 0.98


def test_so_many_frames_are_needed_and_no_fewer() -> None:
    needed = frames_needed(0.99)
    assert needed == 381
    assert interval([1.0] * needed).low >= 0.99 > interval([1.0] * (needed - 1)).low
