"""Labels say whether a candidate is right less often, whatever frames they are for and whenever they come."""

from collections.abc import Callable
from random import Random

import pytest

from duly.trials.accuracy import BLOCKS_MAX, LABELS_A_PAIR_MAX, QUIET_NS, Accuracy, LabelledFrame
from tests.trials.fleet import BLOCK_NS, S
from tests.trials.test_switchback import most

RISK = 0.05
SEEDS = 100
WORSE_MAX = 0.05
FRAMES_A_BLOCK = 4


def said(received_ns: int, right: bool, nth: int = 0, drawn: bool = True) -> LabelledFrame:
    return LabelledFrame("m", drawn, ("s", nth), received_ns, right)


def in_turns(labels_min: int = 1) -> Accuracy:
    return Accuracy(WORSE_MAX, labels_min, in_turns=True)


def canary(
    seed: int, pairs: int, mine: float, rest: float, harder: Callable[[int, Random], float] = lambda block, random: 0.0
) -> Accuracy:
    """A canary whose frames get labels, each after a while of its own. `harder`: how much less often answers of a block
    are right, whichever version gives them.
    """
    random, accuracy = Random(seed), in_turns(50)
    labels: list[tuple[int, LabelledFrame, bool]] = []
    first = False
    for block in range(2 * pairs):
        first = random.random() < 0.5 if block % 2 == 0 else not first
        accuracy.turn(block * BLOCK_NS, first)
        less = harder(block, random)
        for nth in range(FRAMES_A_BLOCK):
            at_ns = block * BLOCK_NS + nth * BLOCK_NS // FRAMES_A_BLOCK
            right = random.random() < (mine if first else rest) - less
            if random.random() < 0.7:
                labels.append((at_ns + random.randrange(5 * S), said(at_ns, right, len(labels)), first))
    for now_ns, frame, by_candidate in sorted(labels, key=lambda label: label[0]):
        accuracy.add(now_ns, frame, by_candidate)
        accuracy.passed(now_ns)
    accuracy.passed(2 * pairs * BLOCK_NS + QUIET_NS + 10 * S)
    return accuracy


def sinks(block: int, random: Random) -> float:
    return block / 400


def odd_blocks(block: int, random: Random) -> float:
    """All frames of some blocks are wrong, as what lies in the world for a while is new to both."""
    return 1.0 if random.random() < 0.2 else 0.0


@pytest.mark.parametrize("harder", [lambda block, random: 0.0, sinks, odd_blocks], ids=["alike", "sinks", "odd blocks"])
def test_one_that_is_right_as_often_is_called_worse_no_more_often_than_stated(
    harder: Callable[[int, Random], float],
) -> None:
    worse = sum(canary(seed, 60, 0.9, 0.9, harder).proves_worse(RISK / 4) for seed in range(SEEDS))
    assert worse <= most(SEEDS, RISK / 4)


def test_at_the_edge_it_passes_no_more_often_than_stated() -> None:
    passed = sum(canary(seed, 60, 0.85, 0.9).lets_pass(RISK) for seed in range(SEEDS))
    assert passed <= most(SEEDS, RISK)


def test_one_that_is_right_less_often_is_found_and_one_as_good_passes() -> None:
    assert all(canary(seed, 150, 0.5, 0.9).proves_worse(RISK / 4) for seed in range(10))
    assert all(canary(seed, 400, 0.99, 0.99).lets_pass(RISK) for seed in range(10))
    assert all(canary(seed, 150, 0.95, 0.6).lets_pass(RISK) for seed in range(10))


def test_with_few_labels_nothing_is_decided() -> None:
    accuracy = canary(1, 10, 0.0, 1.0)
    assert accuracy.mine.count < 50
    assert not accuracy.proves_worse(0.2)
    assert accuracy.lets_pass(1e-6)
    assert accuracy.said().endswith("too few to decide (labels_min)")
    assert in_turns().said() == "no labels came"


def test_a_frame_counts_once_and_in_its_own_pair_alone() -> None:
    accuracy = in_turns()
    for block in range(4):
        accuracy.turn(block * BLOCK_NS, block % 2 == 0)
    accuracy.add(0, said(-1, True), True)  # before the canary
    accuracy.add(0, said(0, True, drawn=False), True)  # of a stream that does not go in turns
    accuracy.add(0, said(BLOCK_NS, True), True)  # of the other version's block, as clocks were set
    assert (accuracy.mine.count, accuracy.rest.count) == (0, 0)
    for _ in range(3):
        accuracy.add(0, said(5, True), True)
    accuracy.add(0, said(BLOCK_NS + 5, False, 1), False)
    assert (str(accuracy.mine), str(accuracy.rest)) == ("100.0% of 1", "0.0% of 1")
    accuracy.passed(QUIET_NS)
    accuracy.add(QUIET_NS, said(6, True, 2), True)
    assert accuracy.mine.count == 1, "the pair is judged"


def test_a_pair_waits_until_no_more_labels_come() -> None:
    accuracy = in_turns()
    accuracy.turn(0, True)
    accuracy.turn(BLOCK_NS, False)
    accuracy.add(0, said(0, True), True)
    accuracy.passed(100 * QUIET_NS)
    accuracy.add(100 * QUIET_NS, said(BLOCK_NS, True, 1), False)
    accuracy.passed(101 * QUIET_NS - 1)
    assert accuracy._open
    accuracy.passed(101 * QUIET_NS)
    assert not accuracy._open


def test_what_is_kept_is_bounded() -> None:
    accuracy = in_turns()
    for block in range(2 * BLOCKS_MAX):
        accuracy.turn(block * BLOCK_NS, block % 2 == 0)
        accuracy.add(0, said(block * BLOCK_NS, True, block), block % 2 == 0)
        accuracy.passed(0)
        assert len(accuracy._open) <= BLOCKS_MAX // 2
    assert len(accuracy._blocks) == BLOCKS_MAX
    at_ns = (2 * BLOCKS_MAX - 1) * BLOCK_NS
    for nth in range(2 * LABELS_A_PAIR_MAX):
        accuracy.add(0, said(at_ns, True, -nth), False)
    assert max(len(pair.keys) for pair in accuracy._open) == LABELS_A_PAIR_MAX


def test_where_streams_stay_each_label_is_compared_with_one_of_other_streams() -> None:
    accuracy = Accuracy(WORSE_MAX, 20, in_turns=False)
    accuracy.turn(0, True)
    for nth in range(60):
        accuracy.add(0, said(1, True, nth, drawn=False), False)
        accuracy.add(0, said(1, nth % 2 == 0, nth, drawn=False), True)
    assert accuracy.proves_worse(RISK / 4)
