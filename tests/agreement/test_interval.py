"""Intervals against what can be worked out by hand, and against chance."""

from collections.abc import Callable

import numpy as np
import pytest

from duly.agreement.interval import SCORES_MAX, Interval, interval, scores_needed

RUNS = 400
Scores = Callable[[np.random.Generator, int], list[float]]


def coins(rng: np.random.Generator, count: int) -> list[float]:
    return list((rng.random(count) < 0.95).astype(float))


def breaks(rng: np.random.Generator, count: int) -> list[float]:
    """Nearly 1, but for one in twenty that is wholly wrong."""
    return list(np.where(rng.random(count) < 0.95, 1 - 1e-4 * rng.random(count), 0.0))


def skewed(rng: np.random.Generator, count: int) -> list[float]:
    return list(rng.beta(0.95, 0.05, count))


@pytest.mark.parametrize("count", [2, 5, 20, 60, 300])
@pytest.mark.parametrize("scores", [coins, breaks, skewed], ids=lambda scores: scores.__name__)
def test_it_holds_the_truth_as_often_as_it_says(scores: Scores, count: int) -> None:
    rng = np.random.default_rng(4)
    truth = 0.95 * (1 - 0.5e-4) if scores is breaks else 0.95
    found = [interval(scores(rng, count)) for _ in range(RUNS)]
    assert np.mean([each.low <= truth <= each.high for each in found]) >= 0.95
    assert np.mean([each.low >= truth for each in found]) <= 0.025


def in_blocks(rng: np.random.Generator) -> Interval:
    """Of 30 blocks of ten frames that come out alike."""
    return interval(list(np.repeat((rng.random(30) < 0.95).astype(float), 10)), alike=10)


def test_it_holds_the_truth_where_neighbours_are_alike() -> None:
    rng = np.random.default_rng(5)
    found = [in_blocks(rng) for _ in range(RUNS)]
    assert np.mean([each.low <= 0.95 <= each.high for each in found]) >= 0.95
    assert {(each.count, each.worth) for each in found} == {(300, 30)}


def test_frames_that_are_alike_count_as_one() -> None:
    alone, rows = interval([1.0] * 19 + [0.0]), interval([1.0] * 190 + [0.0] * 10, alike=10)
    assert (rows.low, rows.high) == (alone.low, alone.high)
    assert str(rows).endswith("200 frames that count as 20)")
    assert str(alone).endswith("20 frames)")


def test_two_good_frames_prove_little() -> None:
    assert interval([0.99998, 0.99999]).low < 0.2
    assert interval([0.7]).low < 0.02
    assert interval([0.7]).high > 0.99


def test_no_score_that_is_lower_raises_an_end() -> None:
    perfect, worse = interval([1.0] * 20), interval([1.0] * 19 + [0.9])
    assert worse.low < perfect.low < 0.98
    rng = np.random.default_rng(6)
    for _ in range(100):
        scores = rng.beta(3, 0.3, rng.integers(1, 30))
        lower = scores * np.where(np.arange(len(scores)) == rng.integers(len(scores)), rng.random(), 1)
        first, second = interval(list(scores)), interval(list(lower))
        assert second.low <= first.low
        assert second.high <= first.high


def test_it_narrows_around_the_mean() -> None:
    rng = np.random.default_rng(7)
    found = [interval(list((rng.random(count) < 0.9).astype(float))) for count in (50, 500, 5000)]
    widths = [each.high - each.low for each in found]
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 0.04
    assert interval(list(0.9 + 0.01 * rng.random(1000))).low > 0.895, "what varies little needs fewer"


def test_no_score_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no score"):
        interval([])


def test_ends_lie_in_0_to_1_and_around_the_mean() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        found = interval(list(rng.beta(5, 0.3, size=rng.integers(1, 30))))
        assert 0.0 <= found.low <= found.mean <= found.high <= 1.0


def test_so_many_frames_are_needed_and_no_fewer() -> None:
    needed = scores_needed([1.0] * 3, 0.99)
    assert needed == 419
    assert interval([1.0] * needed).low >= 0.99 - 1e-8 > interval([1.0] * (needed - 1)).low
    some = [0.0] + [1.0] * 299
    times = -(-scores_needed(some, 0.99) // 300)
    assert interval(some * times).low >= 0.99 > interval(some * (times - 1)).low
    assert scores_needed([0.0, 1.0], 0.6) == 0, "no number of them is as good"
    assert scores_needed([1.0], 1 - 1e-7) == 0, f"more than {SCORES_MAX}"
