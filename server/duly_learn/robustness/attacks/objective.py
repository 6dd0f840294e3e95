"""What an attack makes less: how far an answer is from being wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from duly.agreement.boxes import BoxesF1, iou
from duly.agreement.measures import Binary, Measure, Outputs, TopOne
from duly.models.spec import Signature

LOSS_LEAST = -1e6
"""The loss of an answer of another shape, or with no numbers in it: nothing is worse."""


class Objective(Protocol):
    @property
    def words(self) -> str:
        """What the loss is, for people."""

    def loss(self, expected: Outputs, got: Outputs) -> float:
        """Returns a number that is the less, the worse `got` is. It tells more steps than the measure, where it can."""


@dataclass(frozen=True, slots=True)
class Margin:
    """The score of the class that is expected, less that of the best other one: the margin of the paper on the Square
    Attack. The mean over rows.
    """

    output: str
    words: str = "the margin of the expected class"

    def loss(self, expected: Outputs, got: Outputs) -> float:
        wanted, given = (np.asarray(each[self.output], np.float64) for each in (expected, got))
        if wanted.shape != given.shape:
            return LOSS_LEAST
        rows = given.reshape(-1, given.shape[-1])
        classes = wanted.reshape(rows.shape).argmax(axis=-1)
        at = np.arange(len(rows))
        expected_scores = rows[at, classes]
        others = rows.copy()
        others[at, classes] = -np.inf
        return _finite(float(np.mean(expected_scores - others.max(axis=-1))))


@dataclass(frozen=True, slots=True)
class Side:
    """How far numbers are on the side of the threshold on which they are expected. The mean over elements."""

    output: str
    threshold: float
    words: str = "the distance to the threshold"

    def loss(self, expected: Outputs, got: Outputs) -> float:
        wanted, given = (np.asarray(each[self.output], np.float64) for each in (expected, got))
        if wanted.shape != given.shape:
            return LOSS_LEAST
        side = np.where(wanted >= self.threshold, 1.0, -1.0)
        return _finite(float(np.mean((given - self.threshold) * side)))


@dataclass(frozen=True, slots=True)
class Found:
    """How surely boxes are found: the mean score of the box that overlaps each expected one best, and is of its class.
    Where none is expected, less the scores of those that there are.
    """

    measure: BoxesF1
    scores: str
    words: str = "the scores of the boxes that are expected"

    def loss(self, expected: Outputs, got: Outputs) -> float:
        boxes = np.asarray(expected[self.measure.boxes], np.float64).reshape(-1, 4)
        given = np.nan_to_num(np.asarray(got[self.measure.boxes], np.float64).reshape(-1, 4))
        scores = np.nan_to_num(np.asarray(got[self.scores], np.float64).ravel())
        if not len(boxes):
            return -float(scores.sum())
        if not len(given) or len(scores) != len(given):
            return 0.0
        fits = iou(boxes, given) >= self.measure.iou_min
        classes = self.measure.classes
        if classes in expected and classes in got:
            fits &= np.asarray(expected[classes]).ravel()[:, None] == np.asarray(got[classes]).ravel()[None, :]
        return float(np.where(fits, scores[None, :], 0.0).max(axis=1).mean())


@dataclass(frozen=True, slots=True)
class Score:
    """The measure itself."""

    measure: Measure
    words: str = "the measure itself"

    def loss(self, expected: Outputs, got: Outputs) -> float:
        return self.measure.of(expected, got)


def objective_of(measure: Measure, signature: Signature) -> Objective:
    """Returns what to make less, so that the measure becomes less. Where the measure is of the class alone, the scores
    of classes in another output tell more.
    """
    outputs = {spec.name: spec for spec in signature.outputs}
    if isinstance(measure, TopOne):
        for name in (measure.output, *outputs):
            if _scored(outputs[name].datatype, outputs[name].shape):
                return Margin(name)
    if isinstance(measure, Binary):
        return Side(measure.output, measure.threshold)
    if isinstance(measure, BoxesF1) and "scores" in outputs:
        return Found(measure, "scores")
    return Score(measure)


def _scored(datatype: str, shape: Sequence[int]) -> bool:
    return datatype in ("FP64", "FP32", "FP16", "BF16") and len(shape) > 0 and shape[-1] not in (0, 1)


def _finite(loss: float) -> float:
    """An answer that is no number is as wrong as can be."""
    return loss if np.isfinite(loss) else LOSS_LEAST
