"""Since when the labels have been what they are now: the regime, found from the errors of the version that serves.

ADWIN says that the share of errors is another one; the place where it changed is the one that splits the errors best
in two (the most likely change point of a sequence of yes and no). What lies before is another regime, whose labels may
contradict those of now.

An episode that passes, after which errors are as they were before it, is no regime: it is cut out, and the regime
before it goes on. That is what a batch of wrong labels looks like from here.

Time is the number of the label. Nothing here reads a clock.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from river import drift

HISTORY_MAX = 4096
"""So many errors are looked back at for the place of a change."""
EPISODES_MAX = 64
"""So many episodes are remembered; with more, the oldest is forgotten, and its labels count as others."""
_SEGMENT_MIN = 8
_SAME_RATE = 0.05
"""Errors are as before an episode if their share differs by no more than this and half of what it differed in it."""


@dataclass(frozen=True, slots=True)
class Change:
    """The share of errors has changed."""

    at: int
    """The number of the first label of the new regime, or of the first after an episode."""
    seen_at: int
    """The number of the label at which it was seen."""
    before: float
    after: float
    episode: bool
    """Whether it is the end of an episode rather than a new regime."""


class Regimes:
    def __init__(self, delta: float) -> None:
        """`delta`: ADWIN's, the chance of a false alarm at a look."""
        self._delta = delta
        self._version = ""
        self._expected: dict[str, tuple[tuple[int, bool], ...]] = {}
        self._anew()
        self.start = 0
        """The number of the first label of the present regime."""
        self._before: tuple[int, float] | None = None
        """The regime before, with its share of errors, while the present one may yet be an episode."""
        self.episodes: deque[tuple[int, int]] = deque(maxlen=EPISODES_MAX)
        """First label, and first label after it."""

    def _anew(self, known: Sequence[tuple[int, bool]] = ()) -> None:
        self._errors: deque[tuple[int, bool]] = deque(known, maxlen=HISTORY_MAX)
        self._watch()

    def _watch(self) -> None:
        self._adwin = drift.ADWIN(delta=self._delta)
        for _, wrong in self._errors:
            self._adwin.update(float(wrong))

    def expect(self, version: str, errors: Sequence[tuple[int, bool]]) -> None:
        """Takes what is known of the errors of a version before it serves: those about labels that it was validated
        with, by their numbers. So a change that came before it began to serve is seen in its errors too.
        """
        self._expected = {version: tuple(errors)}

    def update(self, number: int, wrong: bool, version: str) -> Change | None:
        """Takes whether the answer of `version` to the frame of label `number` was wrong. Numbers rise.

        Errors of another version than before are other errors: the watch begins anew, with what is known of them, and
        the regime stays.
        """
        if version != self._version:
            self._version = version
            self._anew(self._expected.get(version, ()))
        self._errors.append((number, wrong))
        self._adwin.update(float(wrong))
        if not self._adwin.drift_detected:
            return None
        split, before, after = _change_point(np.array([wrong for _, wrong in self._errors], np.float64))
        at = self._errors[split][0]
        while self._errors[0][0] < at:
            self._errors.popleft()
        self._watch()  # anew, as it still has some from before the change, and would tell it again
        return self._changed(at, number, before, after)

    def _changed(self, at: int, number: int, before: float, after: float) -> Change | None:
        if at <= self.start:
            return None
        if self._before is not None:
            start, rate = self._before
            if abs(after - rate) <= max(_SAME_RATE, abs(before - rate) / 2) and abs(after - rate) < abs(before - rate):
                self.episodes.append((self.start, at))
                self.start, self._before = start, None
                return Change(at, number, before, after, True)
        self._before = (self.start, before)
        self.start = at
        return Change(at, number, before, after, False)

    def confirmed(self) -> None:
        """The present regime was learnt from: it is no episode any more."""
        self._before = None

    def within(self, number: int) -> bool:
        """Whether a label belongs to the present regime."""
        return number >= self.start and not any(first <= number < after for first, after in self.episodes)


def _change_point(wrong: npt.NDArray[np.float64]) -> tuple[int, float, float]:
    """Returns the first place after the most likely change, and the shares before and after it."""
    count = len(wrong)
    sums = np.cumsum(wrong)
    places = np.arange(_SEGMENT_MIN, count - _SEGMENT_MIN + 1)
    if not len(places):
        return 0, float(wrong.mean()), float(wrong.mean())
    left, right = sums[places - 1], sums[-1] - sums[places - 1]
    likelihood = _log_likelihood(left, places) + _log_likelihood(right, count - places)
    place = int(places[int(likelihood.argmax())])
    return place, float(wrong[:place].mean()), float(wrong[place:].mean())


def _log_likelihood(hits: npt.NDArray[np.float64], count: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    share = np.clip(hits / count, 1e-9, 1 - 1e-9)
    return np.asarray(hits * np.log(share) + (count - hits) * np.log(1 - share))
