"""What a new version must show, and which figure it was that failed."""

import numpy as np
import pytest

from duly.models.learning import Validation
from duly_learn.learner.validation import NONE, Answered, Figures, compare, measured, refusal


def answers(labels: np.ndarray, share_right: float, seed: int) -> np.ndarray:
    right = np.random.default_rng(seed).random(len(labels)) < share_right
    return np.where(right, labels, 1 - labels)


LABELS = np.array([0, 0, 0, 1] * 50)


def of(before: np.ndarray, after: np.ndarray, labels: np.ndarray = LABELS) -> Answered:
    return Answered(labels, before, after, range(len(labels)))


def test_a_sure_gain_passes_and_says_its_figures() -> None:
    figures = compare(of(answers(LABELS, 0.6, 1), answers(LABELS, 0.95, 2)), NONE, Validation(), 1)
    assert figures.held_out == 200
    assert figures.after - figures.before > figures.gain_low > 0.2
    assert refusal(figures, Validation()) == ""


def test_a_gain_that_may_be_chance_does_not() -> None:
    before, after = LABELS.copy(), LABELS.copy()
    before[:8] = 1 - before[:8]
    after[6:11] = 1 - after[6:11]
    figures = compare(of(before, after), NONE, Validation(), 1)
    assert figures.after - figures.before > 0.01
    assert "a gain of" in refusal(figures, Validation())


def test_too_few_held_out_frames_do_not() -> None:
    few = LABELS[:40]
    figures = compare(of(1 - few, few, few), NONE, Validation(), 1)
    assert refusal(figures, Validation()).startswith("40 held-out frames of the present regime are too few")


def with_old(old: np.ndarray, after: np.ndarray) -> Figures:
    """A version that is right about all held-out frames, made from one that was right about all old ones."""
    return compare(of(1 - LABELS, LABELS), of(old, after, old), Validation(), 1)


def test_what_was_forgotten_counts() -> None:
    old = np.array([0, 1] * 30)
    figures = with_old(old, answers(old, 0.7, 3))
    assert figures.forgotten is not None
    assert figures.forgotten > 0.1
    assert "it may have forgotten too much: of 60 old frames" in refusal(figures, Validation())


def test_what_may_have_been_forgotten_counts_as_forgotten() -> None:
    old = np.array([0, 1] * 200)
    after = old.copy()
    after[::25] = 1 - after[::25]  # 4 %, of which the upper end is beyond 5 %
    figures = with_old(old, after)
    assert figures.forgotten == pytest.approx(0.04)
    assert figures.forgotten_high is not None
    assert 0.05 < figures.forgotten_high < 0.07
    assert "surely no more than" in refusal(figures, Validation(forgetting_max=0.05))
    assert refusal(figures, Validation()) == ""


@pytest.mark.parametrize("old", [np.array([0, 1] * 9), np.array([0] * 15 + [1] * 7), np.empty(0, np.int64)])
def test_forgetting_that_is_not_measured_is_not_told_as_none(old: np.ndarray) -> None:
    """On a handful of frames, of which rare classes are none."""
    figures = with_old(old, 1 - old)
    assert figures.forgotten is None
    assert not figures.told().keys() & {"forgotten", "forgotten_high", "old_before", "old_after"}
    assert refusal(figures, Validation()) == ""


def test_balanced_is_not_moved_by_the_common_class() -> None:
    all_common = np.zeros(len(LABELS), np.int64)
    assert measured(all_common == LABELS, LABELS, "balanced") == 0.5
    assert measured(all_common == LABELS, LABELS, "accuracy") == 0.75


def published(random: np.random.Generator, attempts: int, frames_a_block: int) -> bool:
    """Whether one of so many versions that are no better is published; errors are alike within blocks of frames."""
    blocks = 30
    labels = random.integers(0, 2, blocks * frames_a_block)
    block = np.repeat(np.arange(blocks), frames_a_block)
    settings = Validation(measure="accuracy")

    def answered() -> np.ndarray:
        return np.where(np.repeat(random.random(blocks) < 0.8, frames_a_block), labels, 1 - labels)

    before = answered()
    return any(
        not refusal(compare(Answered(labels, before, answered(), block.tolist()), NONE, settings, nth), settings)
        for nth in range(1, attempts + 1)
    )


def test_errors_that_are_alike_within_blocks_do_not_make_chance_a_gain() -> None:
    random = np.random.default_rng(5)
    assert sum(published(random, 1, 8) for _ in range(200)) <= 0.08 * 200


def test_the_risk_holds_for_all_attempts_from_one_version_together() -> None:
    random = np.random.default_rng(6)
    assert sum(published(random, 8, 4) for _ in range(100)) <= 0.1 * 100


def test_a_gain_on_a_handful_of_blocks_is_not_sure() -> None:
    block = [at // 50 for at in range(200)]
    figures = compare(Answered(LABELS, 1 - LABELS, LABELS, block), NONE, Validation(), 1)
    assert figures.gain_low == -1.0
    assert refusal(figures, Validation())
