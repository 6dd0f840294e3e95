"""How many frames in a row count as one, against series of which it is known."""

from collections.abc import Callable

import numpy as np
import pytest

from duly.agreement.alike import BLOCKS_MIN, FRAMES_MIN, frames_alike
from duly.agreement.interval import interval

Margins = Callable[[np.random.Generator, int], np.ndarray]


def independent(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal(count)


def following(share: float) -> Margins:
    """Each is this share of the one before it, and chance."""

    def follow(rng: np.random.Generator, count: int) -> np.ndarray:
        found = np.empty(count)
        last = rng.standard_normal()
        for nth, chance in enumerate(rng.standard_normal(count)):
            last = found[nth] = share * last + (1 - share**2) ** 0.5 * chance
        return found

    return follow


def scenes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Scenes of 1 to 50 frames, each of a level of its own, which is most of what there is."""
    lengths = rng.integers(1, 51, count)
    levels = rng.standard_normal(count)
    return np.repeat(levels, lengths)[:count] + 0.3 * rng.standard_normal(count)


KINDS = {
    "independent": independent,
    "half": following(0.5),
    "nine tenths": following(0.9),
    "nearly all": following(0.98),
    "scenes": scenes,
}


@pytest.mark.parametrize("wrong", [0.02, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_lower_end_by_it_is_too_high_no_more_often_than_it_says(kind: str, wrong: float) -> None:
    rng = np.random.default_rng(11)
    threshold = np.quantile(KINDS[kind](rng, 300_000), wrong)
    missed = 0
    for _ in range(200):
        margins = KINDS[kind](rng, 300)
        scores = (margins > threshold).astype(float)
        missed += interval(list(scores), alike=frames_alike(list(margins))).low > 1 - wrong
    assert missed <= 200 * 0.025


def test_it_is_what_the_mean_varies_by() -> None:
    rng = np.random.default_rng(12)

    def usual(margins: Margins) -> float:
        return float(np.mean([frames_alike(list(margins(rng, 900))) for _ in range(60)]))

    assert 1 <= usual(independent) < 1.1
    assert usual(following(0.5)) == pytest.approx(3, rel=0.3)  # (1 + share) / (1 - share)
    assert usual(following(0.9)) == pytest.approx(19, rel=0.5)
    assert usual(lambda rng, count: np.repeat(rng.standard_normal(count // 3), 3)) == pytest.approx(3, rel=0.3)


def test_a_faint_drift_over_all_of_it_is_seen() -> None:
    """Of neighbours hardly anything is to be seen of it."""
    rng = np.random.default_rng(13)
    slow = np.repeat(rng.standard_normal(9), 100) * 0.5
    assert min(frames_alike(list(slow + rng.standard_normal(900))) for _ in range(20)) >= 4


def test_what_does_not_tell_is_said() -> None:
    rng = np.random.default_rng(14)
    assert frames_alike(list(rng.standard_normal(FRAMES_MIN - 1))) == 0
    assert frames_alike([1.0] * 300) == 0
    assert frames_alike([1.0] * 230 + list(rng.random(70))) == 0
    assert frames_alike([-np.inf, *rng.standard_normal(299)]) >= 1
    assert frames_alike(list(np.arange(600.0))) == pytest.approx(64, rel=0.1), f"blocks of which there are {BLOCKS_MIN}"
