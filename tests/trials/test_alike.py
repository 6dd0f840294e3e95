"""On-time ratios are compared at about the same time, so that what changes for all says nothing against the canary."""

from random import Random

from duly.trials.alike import BEFORE_MIN, KEPT_MAX, Compared, Since
from duly.trials.canary import Canary, drawn

RUNS = 300
RISK = 0.05 / 3


def run(seed: int, mine: float, others: float, worse_max: float, frames: int, ebb: float = 0.0) -> tuple[int, int]:
    """After how many frames the canary is said to be worse, and as good; 0: never. `ebb`: how much both fall in the
    second half.
    """
    random, compared = Random(seed), Compared(worse_max)
    worse = good = 0
    for nth in range(1, frames + 1):
        less = ebb if nth > frames // 2 else 0.0
        for _ in range(random.randint(0, 4)):
            compared.add_other(2, random.random() < others - less)
        compared.add(2, random.random() < mine - less)
        worse = worse or nth * compared.proves_worse(RISK)
        good = good or nth * compared.proves_as_good(0.05)
    return worse, good


def test_streams_that_fare_alike_are_not_told_apart_while_load_comes_and_goes() -> None:
    found = [run(seed, 0.95, 0.95, 0.02, 500, ebb=0.4) for seed in range(RUNS)]
    assert sum(worse > 0 for worse, _ in found) <= RISK * RUNS


def test_at_the_edge_neither_is_claimed_more_often_than_stated() -> None:
    found = [run(seed, 0.88, 0.9, 0.02, 500) for seed in range(RUNS)]
    assert sum(worse > 0 for worse, _ in found) <= RISK * RUNS
    assert sum(good > 0 for _, good in found) <= 0.05 * RUNS


def test_a_canary_that_is_always_on_time_is_as_good_soon_and_one_that_misses_is_worse_soon() -> None:
    assert 0 < run(1, 1.0, 1.0, 0.02, 1000)[1] <= 400
    assert 0 < run(1, 0.5, 1.0, 0.02, 1000)[0] <= 60


def test_each_is_compared_with_its_own_class_and_once() -> None:
    compared = Compared(0.02)
    compared.add_other(1, True)
    compared.add(2, False)
    assert compared.pairs == 0
    compared.add(1, False)
    compared.add(1, False)
    assert compared.pairs == 1
    assert (compared.frames, compared.on_time, compared.others, compared.others_on_time) == (3, 0, 1, 1)


def test_what_is_kept_is_bounded() -> None:
    compared = Compared(0.02)
    for _ in range(2 * KEPT_MAX):
        compared.add_other(1, True)
    assert len(compared._others[1]) == KEPT_MAX


def test_a_stream_stays_where_it_is_and_a_share_of_all_is_drawn() -> None:
    keys = [f"north/camera {nth}" for nth in range(4000)]
    canary = Canary("m/2", 0.1)
    there = [key for key in keys if canary.has(key)]
    assert 320 < len(there) < 480
    assert [key for key in keys if Canary("m/2", 0.1).has(key)] == there, "whoever asks, and whenever"
    more = [key for key in keys if Canary("m/2", 0.2).has(key)]
    assert set(there) < set(more), "a larger share has the same streams and others"
    assert set(there) != {key for key in keys if Canary("m/3", 0.1).has(key)}, "each trial draws others"
    assert not [key for key in keys if Canary("m/2", 0.0).has(key)]
    assert all(Canary("m/2", 1.0).has(key) for key in keys)


def test_of_a_few_streams_one_at_least_is_drawn() -> None:
    for nth in range(50):
        keys = [f"{nth}/{each}" for each in range(3)]
        assert 1 <= sum(map(drawn("m/2", 0.01, keys).has, keys)) <= 1
    assert drawn("m/2", 0.3, []) == Canary("m/2", 0.3)


def test_one_stream_that_is_drawn_because_there_are_few_draws_no_others_in() -> None:
    later = [f"later/{nth}" for nth in range(2000)]
    for nth in range(20):
        canary = drawn("m/2", 0.1, [f"first/{nth}"])
        assert canary.has(f"first/{nth}")
        assert 150 < sum(map(canary.has, later)) < 250


def test_what_was_before_never_runs_out() -> None:
    since = Since(0.02)
    for _ in range(2 * BEFORE_MIN):
        since.before(2, True)
    for _ in range(100_000):
        since.add(2, True)
    late = 0
    while not since.proves_worse(RISK):
        since.add(2, late % 3 > 0)
        late += 1
        assert late < 20_000
    assert since.frames == 100_000 + late


def test_a_few_frames_from_before_prove_nothing() -> None:
    since = Since(0.02)
    for _ in range(BEFORE_MIN - 1):
        since.before(2, True)
    for _ in range(1000):
        since.add(2, False)
    assert not since.proves_worse(RISK)
