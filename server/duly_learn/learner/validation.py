"""Whether a new version is better than the one that it was made from, and what it has forgotten.

Both versions answer the same frames, that no trainer has seen: those of the present regime, for the gain, and old ones
that are still true, for what is forgotten. The gain must be sure as well as large enough: its interval is a bootstrap's
(the same frames drawn again and again, of each class as many as there are, with a seed).
"""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from duly.models.learning import Validation

Classes = npt.NDArray[np.int64]

DRAWS = 1000
CONFIDENCE = 0.9
OLD_MIN = 20
"""On fewer old frames forgetting is not measured."""
OLD_OF_CLASS_MIN = 8
"""Classes with fewer old frames do not count in it, as a few frames would decide."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What came out. Shares are of right answers, by the measure of the settings."""

    held_out: int
    before: float
    after: float
    gain_low: float
    """The lower end of the gain's interval."""
    old: int
    old_before: float
    old_after: float

    @property
    def forgotten(self) -> float:
        """By how much it is worse on old frames; 0 where there are too few."""
        return self.old_before - self.old_after if self.old >= OLD_MIN else 0.0

    def told(self) -> dict[str, float]:
        """The figures by name, rounded, for people and programs."""
        return {name: round(value, 4) for name, value in asdict(self).items()} | {"forgotten": round(self.forgotten, 4)}


def measured(right: npt.NDArray[np.bool_], labels: Classes, measure: str) -> float:
    """Returns the share of right answers, of each class and averaged (balanced) or of all (accuracy)."""
    if not len(labels):
        return 0.0
    if measure == "accuracy":
        return float(right.mean())
    return float(np.mean([right[labels == each].mean() for each in np.unique(labels)]))


def compare(
    labels: Classes,
    before: Classes,
    after: Classes,
    old_labels: Classes,
    old_before: Classes,
    old_after: Classes,
    settings: Validation,
    seed: int,
) -> Figures:
    """Compares the answers `before` and `after` with the labels, all [n], and those to old frames, [m]."""
    random = np.random.default_rng(seed)
    places = [np.flatnonzero(labels == each) for each in np.unique(labels)]
    gains = np.empty(DRAWS)
    for draw in range(DRAWS):
        drawn = np.concatenate([random.choice(each, len(each)) for each in places])
        gains[draw] = measured(after[drawn] == labels[drawn], labels[drawn], settings.measure) - measured(
            before[drawn] == labels[drawn], labels[drawn], settings.measure
        )
    classes, counts = np.unique(old_labels, return_counts=True)
    counted = np.isin(old_labels, classes[counts >= OLD_OF_CLASS_MIN])
    old_labels, old_before, old_after = old_labels[counted], old_before[counted], old_after[counted]
    return Figures(
        held_out=len(labels),
        before=measured(before == labels, labels, settings.measure),
        after=measured(after == labels, labels, settings.measure),
        gain_low=float(np.quantile(gains, (1 - CONFIDENCE) / 2)),
        old=len(old_labels),
        old_before=measured(old_before == old_labels, old_labels, settings.measure),
        old_after=measured(old_after == old_labels, old_labels, settings.measure),
    )


def refusal(figures: Figures, settings: Validation) -> str:
    """Says which figure is not good enough; empty: all are."""
    if figures.held_out < settings.held_out_min:
        return (
            f"{figures.held_out} held-out frames of the present regime are too few, validation.held_out_min is "
            f"{settings.held_out_min}"
        )
    gain = figures.after - figures.before
    if gain < settings.gain_min or figures.gain_low <= 0:
        return (
            f"it is right about {figures.after:.1%} of held-out frames and the version before about "
            f"{figures.before:.1%}: a gain of {gain:.1%}, surely {figures.gain_low:.1%}, and validation.gain_min is "
            f"{settings.gain_min:.1%}"
        )
    if figures.forgotten > settings.forgetting_max:
        return (
            f"it has forgotten too much: of {figures.old} old frames that are still true it is right about "
            f"{figures.old_after:.1%} and the version before about {figures.old_before:.1%}, and "
            f"validation.forgetting_max is {settings.forgetting_max:.1%}"
        )
    return ""
