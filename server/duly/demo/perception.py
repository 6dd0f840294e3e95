"""Puts into words what the models see and hear."""

from collections import Counter
from typing import Protocol

import numpy as np

from duly_client import Outcome

SPEECH_MIN = 0.5
"""Probability from which on a chunk counts as speech, as Silero's authors recommend."""
BOXES_SHOWN_MAX = 4
CLASSES_SHOWN_MAX = 4


class Perception(Protocol):
    """What one sensor perceives."""

    def take(self, index: int, outcome: Outcome) -> None:
        """Takes the result for the payload at `index` of the clip."""

    def now(self) -> str:
        """Says what the sensor perceives now; empty: no result has come yet."""

    def summary(self) -> str:
        """Says in a sentence what the sensor perceived in all; empty: no result came."""


class Sight:
    """Perceives boxes in pictures, each with a class and a score."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels
        self._pictures = 0
        self._pictures_with: Counter[str] = Counter()
        self._score_max: dict[str, float] = {}
        self.boxes: list[tuple[str, float]] = []
        """Class and score of each box in the newest picture."""

    def take(self, index: int, outcome: Outcome) -> None:
        classes, scores = outcome.outputs["classes"].tolist(), outcome.outputs["scores"].tolist()
        self.boxes = [(self._labels[number], score) for number, score in zip(classes, scores, strict=True)]
        self._pictures += 1
        self._pictures_with.update({label for label, _ in self.boxes})
        for label, score in self.boxes:
            self._score_max[label] = max(score, self._score_max.get(label, 0.0))

    def now(self) -> str:
        if not self._pictures:
            return ""
        shown = ", ".join(f"{label} {score:.2f}" for label, score in self.boxes[:BOXES_SHOWN_MAX])
        more = len(self.boxes) - BOXES_SHOWN_MAX
        return f"{shown} and {more} more" if more > 0 else shown or "nothing that it knows"

    def summary(self) -> str:
        if not self._pictures:
            return ""
        seen = [
            f"{label} in {count} ({self._score_max[label]:.2f} at best)"
            for label, count in self._pictures_with.most_common(CLASSES_SHOWN_MAX)
        ]
        return f"In {self._pictures} pictures it saw: {', '.join(seen) or 'nothing that it knows'}."


class Hearing:
    """Perceives in chunks of sound whether somebody speaks."""

    def __init__(self, truth: list[bool]) -> None:
        """`truth` says for each chunk of the clip whether there is speech in it."""
        self._truth = truth
        self._probability: float | None = None
        self._chunks = self._speech = self._agreed = 0

    def take(self, index: int, outcome: Outcome) -> None:
        self._probability = float(np.ravel(outcome.outputs["speech"])[0])
        speech = self._probability >= SPEECH_MIN
        self._chunks += 1
        self._speech += speech
        self._agreed += speech == self._truth[index]

    def now(self) -> str:
        if self._probability is None:
            return ""
        return f"{'speech' if self._probability >= SPEECH_MIN else 'no speech'} {self._probability:.2f}"

    def summary(self) -> str:
        if not self._chunks:
            return ""
        right = self._agreed / self._chunks
        return (
            f"It heard speech in {self._speech} of {self._chunks} chunks, and was right in {right:.1%} by the "
            "recording's ground truth."
        )
