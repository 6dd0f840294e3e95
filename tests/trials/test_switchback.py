"""A canary in turns keeps its risk whatever streams and load are like, and finds what harms."""

from math import comb
from random import Random

import pytest

from duly.trials.alike import Alike
from duly.trials.comparison import By
from duly.trials.switchback import BLOCKS_MAX, Switchback
from tests.trials.fleet import BLOCK_NS, LOADS, UNLIKE, Fleet, Load, S, rising, steady

RISK = 0.05
EACH = RISK / 3
"""The risk of each of the rules that roll back."""
WORSE_MAX = 0.02
SEEDS = 100
PAIRS = 120
FEW = ((0.6,), (0.999,))
"""One stream that is late by nature, among three that are not, and the other way round."""


def most(seeds: int, risk: float) -> int:
    """In how many of so many seeds something may happen whose chance is at most `risk`: more do in one of a thousand
    such tests.
    """
    tail = 1.0
    for count in range(seeds + 1):
        tail -= comb(seeds, count) * risk**count * (1 - risk) ** (seeds - count)
        if tail < 1e-3:
            return count
    return seeds


def in_turns(seed: int) -> Switchback:
    return Switchback(WORSE_MAX, BLOCK_NS, Random(f"lot {seed}"))


def outcomes(fleet: Fleet, seeds: int = SEEDS, pairs: int = PAIRS) -> list[tuple[str, int]]:
    """What is proven first with each seed, and after how many pairs."""
    found = []
    for seed in range(seeds):
        canary = in_turns(seed)
        proven = ""

        def over(canary: Switchback = canary) -> bool:
            nonlocal proven
            if canary.proves_worse(EACH):
                proven = "worse"
            elif canary.proves_others_suffer(EACH):
                proven = "others suffer"
            elif canary.proves_as_good(RISK):
                proven = "as good"
            return bool(proven)

        took = fleet.run(seed, canary, pairs, over)
        found.append((proven, took))
    return found


def share(found: list[tuple[str, int]], *ends: str) -> int:
    return sum(proven in ends for proven, _ in found)


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__)
@pytest.mark.parametrize("mine", [UNLIKE[:2], *FEW], ids=["two", "one that is late", "one that is early"])
def test_a_candidate_that_changes_nothing_is_rolled_back_no_more_often_than_stated(
    load: Load, mine: tuple[float, ...]
) -> None:
    found = outcomes(Fleet(mine, UNLIKE[2:], load))
    rolled_back = share(found, "worse", "others suffer")
    assert rolled_back <= most(SEEDS, 2 * EACH), f"{rolled_back} of {SEEDS}"


def test_the_same_streams_break_what_takes_them_as_alike() -> None:
    """So the fleet of these tests is one for which going in turns is needed."""

    def rolled_back(seed: int, fleet: Fleet) -> bool:
        canary = Alike(WORSE_MAX, "a test")
        random = Random(seed)
        for _ in range(1000):
            canary.frame(0, By.ACTIVE, False, 2, random.random() < 0.99)
        over = False

        def worse() -> bool:
            nonlocal over
            over = canary.proves_worse(EACH) or canary.proves_others_suffer(EACH)
            return over

        fleet.run(seed, canary, 100, worse)
        return over

    assert sum(rolled_back(seed, Fleet((0.6,), UNLIKE[1:])) for seed in range(20)) > 15
    assert sum(rolled_back(seed, Fleet((0.99,), (0.99,) * 4, rising)) for seed in range(20)) > 15


def test_at_the_edge_neither_is_claimed_more_often_than_stated() -> None:
    found = outcomes(Fleet((0.7, 0.9), UNLIKE[2:], steady, harm=WORSE_MAX))
    assert share(found, "worse", "others suffer") <= most(SEEDS, 2 * EACH)
    assert share(found, "as good") <= most(SEEDS, RISK)


def test_one_that_makes_others_late_is_not_promoted_though_its_own_streams_are_on_time() -> None:
    found = outcomes(Fleet((1.0, 1.0), (0.95,) * 3, harm_to_others=WORSE_MAX), seeds=60, pairs=400)
    assert share(found, "as good") <= most(SEEDS, RISK)


@pytest.mark.parametrize("load", [steady, rising], ids=lambda load: load.__name__)
@pytest.mark.parametrize(("harm", "pairs"), [(1.0, 15), (0.3, 60), (0.1, 250)])
def test_a_worse_candidate_is_found(harm: float, pairs: int, load: Load) -> None:
    found = outcomes(Fleet((0.99, 0.98), UNLIKE[2:], load, harm=harm), seeds=20, pairs=500)
    assert share(found, "as good") <= most(20, RISK)
    took = sorted(took for proven, took in found if proven == "worse")
    assert len(took) >= 18
    assert took[len(took) // 2] <= pairs


def test_one_that_makes_others_suffer_is_found() -> None:
    found = outcomes(Fleet((0.99, 0.98), UNLIKE[2:], rising, harm_to_others=0.2), seeds=20, pairs=200)
    assert share(found, "others suffer") == 20
    assert max(took for _, took in found) <= 150


def test_a_good_candidate_passes_as_soon_as_can_be() -> None:
    """Where nobody misses, a loss in one of fifty pairs is what 242 of them rule out, of frames or of blocks."""
    found = outcomes(Fleet((1.0,), (1.0,)), seeds=5, pairs=300)
    assert found == [("as good", 243)] * 5, "and a block after the last"
    alone = outcomes(Fleet((1.0,), ()), seeds=5, pairs=300)
    assert alone == found, "where there are no others none can suffer"


def run_blocks(canary: Switchback, blocks: int, each: list[tuple[int, bool]], by: By = By.ACTIVE) -> None:
    """Frames come at these times after the beginning of each block."""
    canary.begin(0)
    for block in range(blocks):
        for after_ns, on_time in each:
            at_ns = block * BLOCK_NS + after_ns
            canary.frame(at_ns, by, True, 2, on_time)
        canary.passed((block + 1) * BLOCK_NS, None)


def test_each_pair_has_one_block_with_it_and_which_one_is_a_lot() -> None:
    canary = in_turns(1)
    canary.begin(0)
    turns = [canary.has_candidate]
    for block in range(1, 400):
        assert canary.passed(block * BLOCK_NS - 1, None) is False
        assert canary.passed(block * BLOCK_NS, None) is True
        assert canary.due_ns == (block + 1) * BLOCK_NS
        turns.append(canary.has_candidate)
    assert all(first is not second for first, second in zip(turns[::2], turns[1::2], strict=True))
    assert 70 < sum(turns[::2]) < 130


def test_frames_of_the_block_before_belong_to_none() -> None:
    canary = in_turns(1)
    run_blocks(canary, 3, [(0, False), (S // 4 - 1, False), (S // 4, True), (S - 1, True)])
    seen = canary.mine
    assert (seen.frames, seen.on_time, seen.frames_without, seen.on_time_without) == (2, 2, 2, 2)


def test_a_frame_counts_in_the_block_in_which_it_came_and_is_waited_for() -> None:
    canary = in_turns(1)
    canary.begin(0)
    by = {True: By.CANDIDATE, False: By.ACTIVE}
    first = canary.has_candidate
    for block in range(1, 20):
        canary.passed(block * BLOCK_NS, S // 2)
        assert canary.mine.frames == 0, "a frame of the first block is open"
    canary.frame(BLOCK_NS + S // 2, by[not first], True, 2, True)
    canary.frame(S // 2, by[first], True, 2, False)
    canary.passed(20 * BLOCK_NS, None)
    seen = canary.mine
    assert (seen.frames, seen.frames_without, seen.pairs) == (1, 1, 1)
    assert (seen.on_time, seen.on_time_without) == ((0, 1) if first else (1, 0))


def test_who_states_the_version_is_in_no_account_and_other_models_are_others() -> None:
    canary = in_turns(1)
    canary.begin(0)
    for block in range(3):
        at_ns = block * BLOCK_NS + S // 2
        canary.frame(at_ns, By.CANDIDATE, False, 2, False)
        canary.frame(at_ns, By.OTHER, True, 2, True)
        canary.passed((block + 1) * BLOCK_NS, None)
    assert canary.mine.frames == 0
    assert canary.said_of_others().startswith("100.0% of 1 frames on time in blocks with it, 100.0% of 1 in those")


def test_classes_count_the_same() -> None:
    """Where the few that are critical are harmed, the many that are not do not hide it."""
    canary = in_turns(1)
    canary.begin(0)
    for block in range(200):
        at_ns = block * BLOCK_NS + S // 2
        canary.frame(at_ns, By.OTHER, False, 1, not canary.has_candidate)
        for _ in range(100):
            canary.frame(at_ns, By.OTHER, False, 3, True)
        canary.passed((block + 1) * BLOCK_NS, None)
    assert canary.proves_others_suffer(EACH)


def test_what_is_kept_is_bounded() -> None:
    canary = in_turns(1)
    canary.begin(0)
    for block in range(1, 2 * BLOCKS_MAX):
        canary.passed(block * BLOCK_NS, None)
        assert len(canary._blocks) <= 4
    for block in range(2 * BLOCKS_MAX, 5 * BLOCKS_MAX):
        canary.passed(block * BLOCK_NS, 0)
        assert len(canary._blocks) <= BLOCKS_MAX + 1
