"""Judges what models say against ground truth, and puts it into words."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from duly_client import Outcome


def probability(outcome: Outcome) -> float:
    """Probability of the last class, of a classifier as `duly.demo.training` writes them."""
    return float(outcome.outputs["probabilities"][-1])


@dataclass(frozen=True, slots=True)
class Words:
    """What yes and no are called."""

    yes: str
    no: str
    """For the live table: the newest answer."""
    things: str
    """What there is to find, in the plural."""
    others: str
    """What is no such thing, in the plural."""


class Verdicts:
    """Perceives a yes or a no in each frame, and compares it with what is true."""

    def __init__(
        self, truth: Sequence[bool], words: Words, threshold: float, score: Callable[[Outcome], float] = probability
    ) -> None:
        """`truth` is that of each payload of the clip. A score of `threshold` and above is a yes."""
        self._truth, self._words, self._threshold, self._score = truth, words, threshold, score
        self._newest: float | None = None
        self.counts: Counter[tuple[bool, bool]] = Counter()
        """How many frames there were, by (truth, answer)."""

    def take(self, index: int, outcome: Outcome) -> None:
        self._newest = self._score(outcome)
        self.counts[bool(self._truth[index]), self._newest >= self._threshold] += 1

    def now(self) -> str:
        if self._newest is None:
            return ""
        yes = self._newest >= self._threshold
        found, there = self.counts[True, True], self.counts[True, True] + self.counts[True, False]
        return (
            f"{self._words.yes if yes else self._words.no} {self._newest:.2f}; {found} of {there} "
            f"{self._words.things} found, {self.counts[False, True]} false alarms"
        )

    def summary(self) -> str:
        if not self.counts:
            return ""
        return found_and_missed(self.counts, self._words)


def found_and_missed(counts: Counter[tuple[bool, bool]], words: Words) -> str:
    """Says how many were found, how many alarms were false, and how often the answer was right."""
    found, missed, false = counts[True, True], counts[True, False], counts[False, True]
    there, others, total = found + missed, false + counts[False, False], counts.total()
    right = (found + counts[False, False]) / total
    sentences = []
    if there:
        sentences.append(f"{found:,} of {there:,} {words.things} were found ({found / there:.0%}).")
    else:
        sentences.append(f"There were no {words.things} among what was answered.")
    if others:
        sentences.append(f"{false:,} of {others:,} {words.others} were taken for one ({false / others:.1%}).")
    sentences.append(f"{right:.1%} of {total:,} answers were right by the ground truth.")
    return " ".join(sentences)


class Naming:
    """Perceives one of several classes in each frame, and compares it with the true one."""

    def __init__(self, truth: Sequence[int], names: Sequence[str], output: str = "label") -> None:
        """`truth` is that of each payload of the clip: an index into `names`."""
        self._truth, self._names, self._output = truth, names, output
        self._newest: int | None = None
        self.right = self.total = 0

    def take(self, index: int, outcome: Outcome) -> None:
        self._newest = int(np.ravel(outcome.outputs[self._output])[0])
        self.total += 1
        self.right += self._newest == self._truth[index]

    def now(self) -> str:
        if self._newest is None:
            return ""
        return f"{self._names[self._newest]}; {self.right} of {self.total} right"

    def summary(self) -> str:
        if not self.total:
            return ""
        return f"{self.right / self.total:.1%} of {self.total:,} answers were right by the ground truth."
