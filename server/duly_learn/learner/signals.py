"""Watches the inputs and outputs of one model for drift, with river's detectors.

Each number is first put in its place among those of the first frames (`reference_frames`): its rank, 0..1, which is the
same for amounts in cents and in millions, and which an outlier cannot stretch. How far from the middle it lies,
|2 rank - 1|, is watched beside it, so that numbers that spread show as well as numbers that move.

False alarms: the confidence of the settings holds for all signals of a model together (Bonferroni), whatever their
number. ADWIN (Bifet and Gavalda, SDM 2007) bounds by it the chance of an alarm at a look; river looks at every 32nd
frame. tests/learn/learner/test_signals.py counts alarms on data that stand still: at most 1 in 100,000 frames of ten
signals.

Once a signal has told, it is silent for QUIET_FRAMES, and its reference is made anew from what comes then, so that
each shift is told once.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from river import drift

from duly.models.learning import Drift
from duly_learn.learner.summaries import Vector

QUIET_FRAMES = 200
_KSWIN_WINDOW, _KSWIN_NEW = 120, 40
_PAGE_HINKLEY_DELTA, _PAGE_HINKLEY_FRAMES = 0.05, 10_000


class _Detector(Protocol):
    @property
    def drift_detected(self) -> bool: ...

    def update(self, x: float) -> object: ...


class Signals:
    def __init__(self, names: list[str], settings: Drift, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self._watched = [
            at for at, name in enumerate(names) if (settings.inputs if name.startswith("input.") else settings.outputs)
        ]
        self._names = names
        self._made = 0
        self._signals = {at: _Signal(self._detector, settings.reference_frames) for at in self._watched}

    def update(self, numbers: Vector) -> list[str]:
        """Takes the numbers of the next frame; those that are not finite are passed over. Returns the names of the
        signals that drift, as of this frame.
        """
        return [self._names[at] for at, signal in self._signals.items() if signal.update(float(numbers[at]))]

    def anew_outputs(self) -> None:
        """Another version answers: what is usual of outputs is learnt anew."""
        for at, signal in self._signals.items():
            if not self._names[at].startswith("input."):
                signal.begin(0)

    def _detector(self) -> _Detector:
        share = self._settings.false_alarms / (2 * max(1, len(self._watched)))
        self._made += 1
        if self._settings.detector == "adwin":
            return drift.ADWIN(delta=share)
        if self._settings.detector == "kswin":
            # The test is made at every frame, on windows that overlap: about one in so many is independent of others.
            return drift.KSWIN(
                alpha=share / _KSWIN_WINDOW,
                window_size=_KSWIN_WINDOW,
                stat_size=_KSWIN_NEW,
                seed=self._seed + self._made,
            )
        # A walk of numbers of variance 1/12 that falls by delta a step ever rises to h above its lowest point with a
        # chance of exp(-24 h delta) (Wald), and may begin to at each of so many frames.
        threshold = -np.log(share / _PAGE_HINKLEY_FRAMES) / (24 * _PAGE_HINKLEY_DELTA)
        return drift.PageHinkley(min_instances=30, delta=_PAGE_HINKLEY_DELTA, threshold=float(threshold), alpha=1.0)


class _Signal:
    """One number of each frame, and what is usual of it."""

    def __init__(self, make: Callable[[], _Detector], reference_frames: int) -> None:
        self._make = make
        self._wanted = reference_frames
        self.begin(0)

    def begin(self, quiet: int) -> None:
        self._quiet = quiet
        self._first: list[float] = []
        self._reference: Vector | None = None
        self._detectors = (self._make(), self._make())

    def update(self, number: float) -> bool:
        if not np.isfinite(number):
            return False
        if self._quiet:
            self._quiet -= 1
            return False
        if self._reference is None:
            self._first.append(number)
            if len(self._first) >= self._wanted:
                self._reference = np.sort(np.asarray(self._first))
                self._first = []
            return False
        below = int(np.searchsorted(self._reference, number, "left"))
        upto = int(np.searchsorted(self._reference, number, "right"))
        rank = (below + upto) / (2 * len(self._reference))
        place, spread = self._detectors
        place.update(rank)
        spread.update(abs(2 * rank - 1))
        if not (place.drift_detected or spread.drift_detected):
            return False
        self.begin(QUIET_FRAMES)
        return True
