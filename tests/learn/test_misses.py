"""What turns with a learner and without say about the deadlines that it costs."""

import re

from tests.learn.misses import Turn, told


def turns(with_one: list[int], without: list[int], frames: int = 1000) -> list[Turn]:
    """Pairs of turns, with the frames that were missed in each; now the one and now the other is first."""
    found: list[Turn] = []
    for at, (with_it, without_it) in enumerate(zip(with_one, without, strict=True)):
        pair = [Turn(True, frames, with_it, attempts=1), Turn(False, frames, without_it)]
        found += pair if at % 2 == 0 else pair[::-1]
    return found


def test_counts_shares_and_the_difference_are_told() -> None:
    said = told(turns([12, 9, 11, 10, 13, 12], [1, 0, 2, 1, 0, 1]))
    assert "with a learner: 67 of 6000 CRITICAL frames missed, 1.117%, 6 attempts" in said
    assert "without a learner: 5 of 6000 CRITICAL frames missed, 0.083%" in said
    assert "6 pairs: +1.033 points more are missed with one, 95 % interval +0.8" in said
    assert re.search(r"come by chance in 1\.[4-8]%", said), "one in 64"


def test_no_difference_is_none() -> None:
    said = told(turns([0, 3, 0, 1], [3, 0, 1, 0]))
    assert "4 pairs: +0.000 points more" in said
    assert "95 % interval -0." in said


def test_one_pair_says_nothing_about_chance() -> None:
    assert "1 pair of turns says nothing about chance" in told(turns([5], [0]))
