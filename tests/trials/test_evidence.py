"""The stated risk holds however often one looks, and little is needed where much speaks for it."""

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random

import pytest

from duly.trials.evidence import Above, Mean

RUNS = 400
RISK = 0.05

Values = Callable[[Random, float], Iterator[float]]


def coins(random: Random, mean: float) -> Iterator[float]:
    """Ones and zeros."""
    while True:
        yield float(random.random() < mean)


def between(random: Random, mean: float) -> Iterator[float]:
    """Values of all sizes, mostly close to their mean."""
    spread = min(mean, 1 - mean)
    while True:
        yield mean + random.uniform(-spread, spread)


def moods(random: Random, mean: float) -> Iterator[float]:
    """Values that depend on those before: after a miss the next ones have less spread, but never another mean."""
    spread = min(mean, 1 - mean)
    calm = False
    while True:
        value = mean + random.uniform(-spread, spread) / 10 if calm else float(random.random() < mean)
        calm = value < mean
        yield value


def ever(values: Iterator[float], bound: float, frames: int, risk: float = RISK) -> int:
    """After how many values the mean is said to be above the bound; 0: never."""
    test = Above(bound)
    for count, value in enumerate(islice(values, frames), start=1):
        test.add(value)
        if test.proves(risk):
            return count
    return 0


@pytest.mark.parametrize("bound", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("values", [coins, between, moods], ids=lambda values: values.__name__)
def test_looking_all_the_time_is_wrong_no_more_often_than_stated(values: Values, bound: float) -> None:
    wrong = sum(ever(values(Random(seed), bound), bound, 600) > 0 for seed in range(RUNS))
    assert wrong <= RISK * RUNS, f"{wrong} of {RUNS}"


def test_what_is_nearly_always_so_is_proven_soon() -> None:
    assert 0 < ever(iter([1.0] * 1000), 0.95, 1000) <= 120
    assert 0 < ever(iter([1.0] * 1000), 0.99, 1000) <= 600
    found = [ever(coins(Random(seed), 0.99), 0.95, 2000) for seed in range(100)]
    assert min(found) > 0
    assert sorted(found)[50] < 300


def test_what_is_worse_is_seen_soon() -> None:
    """The same test, of what is left to 1, says that the mean is below."""
    for mean, frames in ((0.5, 40), (0.8, 150), (0.9, 1200)):
        found = [
            ever((1 - value for value in coins(Random(seed), mean)), 1 - 0.95, 3000, RISK / 3) for seed in range(60)
        ]
        assert min(found) > 0
        assert sorted(found)[30] < frames, mean


@pytest.mark.parametrize("values", [coins, between], ids=lambda values: values.__name__)
@pytest.mark.parametrize("mean", [0.2, 0.97])
def test_the_interval_holds_the_mean_all_the_time(values: Values, mean: float) -> None:
    missed = 0
    for seed in range(60):
        seen = Mean()
        for count, value in enumerate(islice(values(Random(seed), mean), 300), start=1):
            seen.add(value)
            if count % 20 == 0:
                low, high = seen.interval(RISK)
                if not low <= mean <= high:
                    missed += 1
                    break
    assert missed <= RISK * 60


def test_the_interval_narrows_around_the_mean() -> None:
    seen = Mean()
    assert seen.interval(RISK) == (0.0, 1.0)
    widths = []
    for count, value in enumerate(islice(coins(Random(1), 0.9), 2000), start=1):
        seen.add(value)
        if count in (50, 500, 2000):
            low, high = seen.interval(RISK)
            assert low <= seen.mean <= high
            widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 0.06
