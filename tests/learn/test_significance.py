"""Differences of two versions on the same frames: intervals that hold, tests that neither cry wolf nor sleep."""

import numpy as np
import pytest

from duly_learn.robustness.significance import MISTAKE, difference, significant


def test_hits_are_tested_exactly_by_the_frames_on_which_they_differ() -> None:
    """McNemar's: 8 gained and 1 lost of 40; the others say nothing."""
    mine = [0.0] * 8 + [1.0] + [1.0] * 31
    its = [1.0] * 8 + [0.0] + [1.0] * 31
    found = difference(mine, its, 0)
    assert found.p == pytest.approx(2 * (1 + 9) / 2**9)
    assert found.mean == pytest.approx(7 / 40)
    assert found.low < 7 / 40 < found.high
    assert found.low > 0, "the interval and the test agree here"


def test_equal_scores_do_not_differ_and_are_still_uncertain() -> None:
    found = difference([1.0] * 20, [1.0] * 20, 0)
    assert (found.mean, found.p) == (0.0, 1.0)
    assert found.low < 0 < found.high


def test_few_other_scores_are_tested_by_all_patterns_of_signs() -> None:
    found = difference([0.5] * 8, [0.6, 0.7, 0.55, 0.8, 0.9, 0.65, 0.75, 0.52], 0)
    assert found.p == 2 / 2**8
    assert found.mean == pytest.approx(np.mean([0.1, 0.2, 0.05, 0.3, 0.4, 0.15, 0.25, 0.02]))
    assert -1 <= found.low < found.mean < found.high <= 1


def test_one_frame_proves_nothing() -> None:
    assert difference([0.2], [0.9], 0).p == 1.0
    assert difference([0.0], [1.0], 0).p == 1.0


@pytest.mark.parametrize("hits", [True, False])
def test_where_nothing_differs_it_is_seldom_called_different(hits: bool) -> None:
    chance = np.random.default_rng(0)
    called = covered = 0
    rounds = 400
    for _ in range(rounds):
        both = chance.random((2, 30))
        mine, its = ((both < 0.7).astype(float) if hits else both).tolist()
        found = difference(mine, its, 1)
        called += found.p <= 0.05
        covered += found.low <= 0 <= found.high
    assert called / rounds <= 0.075
    assert covered / rounds >= 0.93


def test_what_differs_is_found() -> None:
    chance = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        mine = (chance.random(200) < 0.9).astype(float)
        its = np.where(chance.random(200) < 0.15, 0.0, mine)
        each = difference(mine.tolist(), its.tolist(), 0)
        found += each.p < 0.001
        assert each.high < 0.02
    assert found == 100


def test_many_conditions_are_held_to_more() -> None:
    assert significant([]) == []
    assert significant([0.04]) == [True]
    assert significant([0.04, 0.04]) == [False, False]
    assert significant([0.04, 0.02]) == [True, True], "once the first is sure, the second has all of the rest"
    assert significant([0.5, 0.001, 0.0167]) == [False, True, True]
    assert significant([0.5, 0.001, 0.026]) == [False, True, False]
    assert MISTAKE == 0.05
