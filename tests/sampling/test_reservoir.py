"""Samples are drawn evenly, whatever comes, and in no more groups than there may be."""

from collections import Counter
from random import Random

import pytest
from scipy.stats import chisquare

from duly.sampling.reservoir import NoPlace, Reservoir, Reservoirs


def drawn(size: int, offers: int, random: Random) -> list[int]:
    """Which offers are there in the end, by their places."""
    reservoir = Reservoir(size, random)
    places: dict[int, int] = {}
    for number in range(offers):
        place = reservoir.offer()
        if place is not None:
            assert 0 <= place < size
            places[place] = number
    return [places[place] for place in sorted(places)]


def test_every_frame_is_as_likely_to_be_kept() -> None:
    random, size, offers, rounds = Random(7), 5, 60, 12_000
    kept: Counter[int] = Counter()
    for _ in range(rounds):
        there = drawn(size, offers, random)
        assert len(set(there)) == size
        kept.update(there)
    assert sum(kept.values()) == rounds * size
    assert chisquare([kept[number] for number in range(offers)]).pvalue > 0.01
    # A draw that keeps what came first more often than the others would be told by it.
    unfair = Counter(kept)
    unfair[0] += 400
    assert chisquare([unfair[number] for number in range(offers)]).pvalue < 0.01


@pytest.mark.parametrize("size", [1, 2, 64])
def test_all_is_kept_until_it_is_full(size: int) -> None:
    assert drawn(size, size, Random(1)) == list(range(size))
    assert len(drawn(size, 10 * size, Random(1))) == size


def test_few_frames_of_a_long_stream_are_kept() -> None:
    reservoir = Reservoir(64, Random(3))
    kept = sum(reservoir.offer() is not None for _ in range(100_000))
    assert 64 * (1 + 0.7 * 7.35) < kept < 64 * (1 + 1.3 * 7.35), "64 (1 + ln(100,000 / 64)) on average"


def test_numbers_that_are_too_small_end_in_no_error() -> None:
    reservoir = Reservoir(1, Random(1))
    reservoir._w = 1e-300
    assert reservoir.offer() == 0
    assert not any(reservoir.offer() == 0 for _ in range(1000))


def test_a_group_that_may_go_gives_way_the_oldest_first_and_no_other() -> None:
    reservoirs = Reservoirs(2, Random(1))
    assert (reservoirs.of("a", 4).offer(), reservoirs.of("b", 4).offer()) == (0, 0)
    with pytest.raises(NoPlace):
        reservoirs.of("c", 4)
    reservoirs.may_go("b")
    reservoirs.may_go("a")
    reservoirs.may_go("unknown")
    assert reservoirs.of("c", 4).offer() == 0
    assert reservoirs.of("a", 4).offer() == 1, "it is still there"
    assert reservoirs.of("b", 4).offer() == 0, "it begins anew, in place of a"
    assert len(reservoirs) == 2
