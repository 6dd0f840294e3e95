"""Whether a new version is better than the one that it was made from, and what it has forgotten.

Both versions answer the same frames, that no trainer has seen: those of the present regime, for the gain, and old ones
that are still true, for what is forgotten. The gain must be sure as well as large enough. Frames are held out in blocks
of neighbours, which are alike, so that the blocks count and not the frames: how far the gain would be off is estimated
by leaving out one block at a time (the jackknife), and its lower end is by Student's t with that many blocks. The same
held-out frames judge every attempt. So the risk RISK is spent over the attempts that are made from one version: the
first has a half of it, and the n-th one of n (n + 1) parts; together they never have more.
"""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from duly.models.learning import Validation

Classes = npt.NDArray[np.int64]

RISK = 0.05
"""The chance that a version which is no better is ever published, of those that are made from one version while its
errors stay what they are; and the chance that one which has forgotten too much passes."""
RENEWED_MAX = 8
"""So many times the risk of a gain begins anew for a version, whatever drifts."""
BLOCKS_MIN = 5
"""On fewer blocks no gain is sure."""
OLD_MIN = 20
"""On fewer old frames forgetting is not measured."""
OLD_OF_CLASS_MIN = 8
"""Classes with fewer old frames do not count in it, as a few frames would decide."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Frames that both versions have answered, all [n]."""

    labels: Classes
    before: Classes
    after: Classes
    blocks: Sequence[Hashable]
    """Of each frame, which block it is of."""


NONE = Answered(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), ())


@dataclass(frozen=True, slots=True)
class Figures:
    """What came out. Shares are of right answers, by the measure of the settings."""

    held_out: int
    before: float
    after: float
    gain_low: float
    """What the gain surely is, at the risk of this attempt; -1: there are too few blocks to be sure of any."""
    old: int
    old_before: float
    old_after: float
    forgotten_high: float | None
    """By how much it is worse on old frames, at most, at the risk RISK; None: there are too few to measure it."""

    @property
    def forgotten(self) -> float | None:
        """By how much it is worse on old frames; None: it is not measured."""
        return self.old_before - self.old_after if self.forgotten_high is not None else None

    def told(self) -> dict[str, float]:
        """The figures by name, rounded, for people and programs. What was not measured is not among them."""
        figures = asdict(self) | {"forgotten": self.forgotten}
        if self.forgotten_high is None:
            del figures["old_before"], figures["old_after"]
        return {name: round(value, 4) for name, value in figures.items() if value is not None}


def measured(right: npt.NDArray[np.bool_], labels: Classes, measure: str) -> float:
    """Returns the share of right answers, of each class and averaged (balanced) or of all (accuracy)."""
    if not len(labels):
        return 0.0
    if measure == "accuracy":
        return float(right.mean())
    return float(np.mean([right[labels == each].mean() for each in np.unique(labels)]))


def compare(held: Answered, old: Answered, settings: Validation, attempt: int) -> Figures:
    """Compares the answers of both versions with the labels: of held-out frames of the present regime, and of old ones
    that are still true. `attempt`: how many were judged from this version in this regime, this one included; from 1.
    """
    classes, counts = np.unique(old.labels, return_counts=True)
    counted = np.isin(old.labels, classes[counts >= OLD_OF_CLASS_MIN])
    old = Answered(
        old.labels[counted],
        old.before[counted],
        old.after[counted],
        [block for block, each in zip(old.blocks, counted, strict=True) if each],
    )
    measure = settings.measure
    gain_low = _surely(held, measure, RISK / (attempt * (attempt + 1)))
    kept_low = _surely(old, measure, RISK) if len(old.labels) >= OLD_MIN else None
    return Figures(
        held_out=len(held.labels),
        before=measured(held.before == held.labels, held.labels, measure),
        after=measured(held.after == held.labels, held.labels, measure),
        gain_low=-1.0 if gain_low is None else gain_low,
        old=len(old.labels),
        old_before=measured(old.before == old.labels, old.labels, measure),
        old_after=measured(old.after == old.labels, old.labels, measure),
        forgotten_high=None if kept_low is None else -kept_low,
    )


def _surely(answered: Answered, measure: str, risk: float) -> float | None:
    """Returns the lower end of the gain's one-sided interval; None: there are too few blocks for one."""
    labels, before, after = answered.labels, answered.before, answered.after
    numbers: dict[Hashable, int] = {}
    block = np.array([numbers.setdefault(each, len(numbers)) for each in answered.blocks], np.int64)
    count = len(numbers)
    if count < BLOCKS_MIN:
        return None

    def gain(kept: npt.NDArray[np.bool_]) -> float:
        said = labels[kept]
        return measured(after[kept] == said, said, measure) - measured(before[kept] == said, said, measure)

    without = np.array([gain(block != at) for at in range(count)])
    error = float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))
    return gain(np.ones(len(labels), bool)) - float(student.isf(risk, count - 1)) * error


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
    if figures.forgotten_high is not None and figures.forgotten_high > settings.forgetting_max:
        return (
            f"it may have forgotten too much: of {figures.old} old frames that are still true it is right about "
            f"{figures.old_after:.1%} and the version before about {figures.old_before:.1%}, surely no more than "
            f"{figures.forgotten_high:.1%} less, and validation.forgetting_max is {settings.forgetting_max:.1%}"
        )
    return ""
