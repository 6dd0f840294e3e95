"""What a new version must show, and which figure it was that failed."""

import numpy as np

from duly.models.learning import Validation
from duly_learn.learner.validation import Figures, compare, measured, refusal

NONE = np.empty(0, np.int64)


def answers(labels: np.ndarray, share_right: float, seed: int) -> np.ndarray:
    right = np.random.default_rng(seed).random(len(labels)) < share_right
    return np.where(right, labels, 1 - labels)


LABELS = np.array([0, 0, 0, 1] * 50)
ALONE = range(200)
"""Each frame is a block."""


def test_a_sure_gain_passes_and_says_its_figures() -> None:
    figures = compare(
        LABELS, answers(LABELS, 0.6, 1), answers(LABELS, 0.95, 2), NONE, NONE, NONE, Validation(), ALONE, 1
    )
    assert figures.held_out == 200
    assert figures.after - figures.before > figures.gain_low > 0.2
    assert refusal(figures, Validation()) == ""
    assert figures.told()["forgotten"] == 0.0


def test_a_gain_that_may_be_chance_does_not() -> None:
    before, after = LABELS.copy(), LABELS.copy()
    before[:8] = 1 - before[:8]
    after[6:11] = 1 - after[6:11]
    figures = compare(LABELS, before, after, NONE, NONE, NONE, Validation(), ALONE, 1)
    assert figures.after - figures.before > 0.01
    assert "a gain of" in refusal(figures, Validation())


def test_too_few_held_out_frames_do_not() -> None:
    few = LABELS[:40]
    figures = compare(few, 1 - few, few, NONE, NONE, NONE, Validation(), ALONE[:40], 1)
    assert refusal(figures, Validation()).startswith("40 held-out frames of the present regime are too few")


def test_what_was_forgotten_counts() -> None:
    old = np.array([0, 1] * 30)
    figures = compare(LABELS, 1 - LABELS, LABELS, old, old, answers(old, 0.7, 3), Validation(), ALONE, 1)
    assert figures.forgotten > 0.1
    assert "it has forgotten too much: of 60 old frames" in refusal(figures, Validation())


def test_forgetting_is_not_measured_on_a_handful_of_frames_nor_on_rare_classes() -> None:
    old = np.array([0] * 30 + [1] * 3)
    figures = compare(LABELS, 1 - LABELS, LABELS, old, old, np.zeros(33, np.int64), Validation(), ALONE, 1)
    assert (figures.old, figures.forgotten) == (30, 0.0)
    assert Figures(100, 0.5, 0.9, 0.3, 5, 1.0, 0.0).forgotten == 0.0


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
        not refusal(compare(labels, before, answered(), NONE, NONE, NONE, settings, block.tolist(), nth), settings)
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
    figures = compare(LABELS, 1 - LABELS, LABELS, NONE, NONE, NONE, Validation(), block, 1)
    assert figures.gain_low == -1.0
    assert refusal(figures, Validation())
