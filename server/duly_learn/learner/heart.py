"""What the learner knows of one model, and when it does something: drift is told, a new version is to be tried.

No I/O and no clock: frames and labels are told to it in their order, and it answers with what follows. The same frames
and labels lead to the same answers, so that after a crash it is made anew from the store.

A version is tried once `frames_min` labels have come since errors were found to be others (or since the beginning),
and again after every `every` more. Nothing is tried while a version is on trial.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duly.models.learning import Learning
from duly_learn.learner.regimes import Regimes
from duly_learn.learner.signals import Signals
from duly_learn.learner.summaries import Vector

ERRORS = "errors"
"""The signal of answers that turn out to be wrong, or right, more often than before."""
KNOWN_TIMES = 2
"""So many times the window of labels is remembered, as a regime may begin behind the newest ones."""


@dataclass(frozen=True, slots=True)
class Drifted:
    """Something of the model is not as it was."""

    signal: str
    """Such as `input.amount`, `output.scores[1]` or `errors`."""
    at: int
    """The number of the frame, or for errors of the label, at which it was seen, since the learner began."""
    text: str
    new_regime: bool = False
    """Whether errors are others from now on, and it was no mere episode that is over."""


@dataclass(frozen=True, slots=True)
class Known:
    """A frame with its label."""

    number: int
    """Labels are counted from 0, in the order in which they came."""
    place: tuple[int, int]
    """The segment of the store, and the row in it."""
    key: tuple[str, int]
    """The stream and the frame's id."""
    came_ns: int
    """When the label came, on the server's wall clock."""
    numbers: Vector
    label: int
    answer: int
    principal: str
    """Who sent the label."""
    source: str
    """Where it is from, as its sender says."""
    version: str
    scores: str
    """The output that the answer is from."""
    held_out: bool
    """Whether it is kept back from trainers."""


class Heart:
    def __init__(self, settings: Learning) -> None:
        self.settings = settings
        self.regimes = Regimes(settings.drift.false_alarms)
        self.frames = 0
        """Frames seen."""
        self.labels = 0
        """Labels seen."""
        self.drifts: dict[str, int] = {}
        """How often each signal has drifted."""
        self._signals: Signals | None = None
        self._answering = ""
        """The version whose outputs are watched."""
        self._known: OrderedDict[tuple[str, int], Known] = OrderedDict()
        self._tried_at = 0
        """How many labels there were when a version was tried last; 0: none was."""
        self._tried_start = -1
        """The regime in which one was tried last."""
        self.active = ""
        """The version that serves; empty: it is not known, and the newest is taken for it."""
        self.on_trial = False
        """Whether a newer version is on its way."""

    # ---- what happens ----

    def frame(self, names: list[str], numbers: Vector, version: str) -> list[Drifted]:
        """Takes the numbers of a frame that was answered by `version`. Outputs of a version that does not serve are
        passed over.
        """
        self.frames += 1
        if self._signals is None:
            self._signals = Signals(names, self.settings.drift, self.settings.seed)
        if self.active and version != self.active:
            numbers = np.where([name.startswith("input.") for name in names], numbers, np.nan)
        elif version != self._answering:
            self._answering = version
            self._signals.anew_outputs()
        found = self._signals.update(numbers)
        return [self._told(Drifted(name, self.frames, f"{name} is not as it was")) for name in found]

    def label(self, known: Known) -> list[Drifted]:
        """Takes a frame whose label has come, or a correction of one. `known.number` must be `labels`."""
        self.labels += 1
        self._known.pop(known.key, None)
        self._known[known.key] = known
        while len(self._known) > KNOWN_TIMES * self.settings.window:
            self._known.popitem(last=False)
        if self.active and known.version != self.active:
            return []  # an error of a version that serves no more, or is on trial
        change = self.regimes.update(known.number, known.label != known.answer, known.version)
        if change is None:
            return []
        passed = ", as before an episode that is over" if change.episode else ""
        text = f"{change.after:.1%} of answers are wrong since label {change.at}, {change.before:.1%} were{passed}"
        return [self._told(Drifted(ERRORS, change.seen_at, text, not change.episode))]

    def tried(self, published: str, errors: Sequence[tuple[int, bool]]) -> None:
        """A version was tried. `published`: its number, where it was published, so that the regime is no mere episode;
        else empty. `errors`: of held-out labels, by their numbers, whether it is wrong about them.
        """
        self._tried_at, self._tried_start = self.labels, self.regimes.start
        if published:
            self.regimes.confirmed()
            self.regimes.expect(published, errors)

    def tried_before(self) -> None:
        """One was tried at this place before the learner was started again."""
        self._tried_at, self._tried_start = self.labels, self.regimes.start

    # ---- what follows ----

    @property
    def due(self) -> str:
        """Why a version is to be tried now; empty: none is."""
        if self.on_trial:
            return ""
        here = self.present()
        if here < self.settings.frames_min or self._held_out() < self.settings.validation.held_out_min:
            return ""
        if self._tried_start != self.regimes.start:
            return f"{here} labels since errors changed" if self.regimes.start else f"the first {here} labels"
        return (
            f"{self.labels - self._tried_at} labels more" if self.labels - self._tried_at >= self.settings.every else ""
        )

    def present(self) -> int:
        """How many of the labels that are remembered belong to the present regime."""
        return sum(self.regimes.within(each.number) for each in self._known.values())

    def _held_out(self) -> int:
        return sum(each.held_out and self.regimes.within(each.number) for each in self._known.values())

    def usable(self) -> list[Known]:
        """The newest labels of the present regime, the oldest first."""
        within = [each for each in self._known.values() if self.regimes.within(each.number)]
        return within[-self.settings.window :]

    def _told(self, drifted: Drifted) -> Drifted:
        self.drifts[drifted.signal] = self.drifts.get(drifted.signal, 0) + 1
        return drifted
