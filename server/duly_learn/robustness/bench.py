"""One version with the frames that it is tested on, and what would be right for each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from duly.agreement.measures import Measure, Outputs
from duly.models.spec import Signature
from duly_learn.frames.frame import LearnFrame
from duly_learn.robustness.inputs import Plain
from duly_learn.robustness.result import Level

Said = Callable[[int], None]
"""Is told how many frames were answered."""


class Answers(Protocol):
    """What runs frames: `running.model.RunningModel` is one."""

    signature: Signature
    flagged: int
    """Frames on which a guard of the model has found something so far, warm-up left out."""

    def outcomes(self, frames: Sequence[LearnFrame], batch: int = 1) -> Sequence[Outputs | str]:
        """See `RunningModel.outcomes`. Text in place of outputs is the reason why there are none."""


class Deadline:
    """When there is no more time."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends = clock() + seconds

    def share(self, parts: int) -> "Deadline":
        """Returns the end of the first of so many equal parts of the time that is left."""
        return Deadline(max(0.0, self._ends - self._clock()) / parts, self._clock)

    @property
    def is_over(self) -> bool:
        return self._clock() >= self._ends


@dataclass(frozen=True, slots=True)
class Bench:
    """One version with what it is tested on."""

    model: Answers
    plain: Plain
    expected: Sequence[Outputs]
    """What would be right for each frame, in the form of the model's answers: of labels, those outputs that are
    compared."""
    clean: Sequence[Outputs]
    """The version's own answers to the frames as they are."""
    measure: Measure
    batch: int
    seed: int
    answered: Said

    def outcomes(self, frames: Sequence[LearnFrame]) -> Sequence[Outputs | str]:
        found = self.model.outcomes(frames, self.batch)
        self.answered(len(frames))
        return found

    def level(self, outcomes: Sequence[Outputs | str], indices: Sequence[int]) -> Level:
        """Returns the level of the outcomes of the frames at these places, without its name. Those that warm up count
        for nothing.
        """
        frames = self.plain.frames
        judged = [(index, each) for index, each in zip(indices, outcomes, strict=True) if not frames[index].warms_up]
        scores = tuple(self.score(index, each) for index, each in judged)
        return Level("", None, scores, sum(isinstance(each, str) for _, each in judged))

    def score(self, index: int, outcome: Outputs | str) -> float:
        """Returns how good an outcome of a frame is."""
        return 0.0 if isinstance(outcome, str) else self.measure.of(self.expected[index], outcome)
