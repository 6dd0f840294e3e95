"""Runs attacks on a version, frames side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from duly.agreement.measures import Outputs
from duly_learn.frames.frame import Array, LearnFrame
from duly_learn.robustness.attacks.ball import Ball, ball
from duly_learn.robustness.attacks.objective import Objective, objective_of
from duly_learn.robustness.attacks.search import Search
from duly_learn.robustness.attacks.spsa import Spsa
from duly_learn.robustness.attacks.square import Square
from duly_learn.robustness.bench import Bench, Deadline
from duly_learn.robustness.inputs import Harmable
from duly_learn.robustness.kinds import Kind
from duly_learn.robustness.result import Level, Row

ATTACKED_BYTES_MAX = 64 << 20
"""Frames are attacked together as far as their inputs are no larger than this; some copies of each are held."""
LOSS_MOST = 1e6
"""The loss of an input that the model refuses."""
ATTACKS = ("square", "spsa")
_PAPERS = {
    "square": "Square Attack, Andriushchenko et al. 2020",
    "spsa": "SPSA, Uesato et al. 2018",
}


@dataclass(slots=True)
class _Attacked:
    """One frame under attack."""

    index: int
    ball: Ball
    search: Search
    queries: int = 0
    score: float = 2.0
    given: Array | None = None
    """The input with the least score that was found; None: none was tried."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What an attack may use."""

    attack: str
    frames: Sequence[int]
    """The places of the frames that are attacked; of a model with state the first ones, with those that warm up, which
    run as they are."""
    queries: int
    """Of each frame, within each ball."""
    deadline: Deadline


def attack_row(
    bench: Bench, clean: Level, target: Harmable, epsilons: Sequence[float], effort: Effort, name: str
) -> Row:
    """Attacks one input of frames within balls, from the smallest to the largest, as far as there is time. A frame
    whose answer is wholly wrong within one is so within all larger ones, and is not attacked again. `name`: that of the
    row.
    """
    attack = _Attack(bench, objective_of(bench.measure, bench.model.signature), target, effort, clean.scores)
    levels = []
    for nth, epsilon in enumerate(sorted(epsilons)):
        if effort.deadline.is_over:
            break
        levels.append(attack.within(epsilon, nth, effort.deadline.share(len(epsilons) - nth)))
    unit = "epsilon, standard deviations" if target.kind is Kind.TABLE else "epsilon, share of the range"
    left_out = len(epsilons) - len(levels)
    return Row(name, "attack", (target.name,), unit, _PAPERS[effort.attack], tuple(levels), left_out)


class _Attack:
    """An attack on the frames of a bench."""

    def __init__(
        self, bench: Bench, objective: Objective, target: Harmable, effort: Effort, clean: Sequence[float]
    ) -> None:
        self._bench = bench
        self._objective = objective
        self._target = target
        self._effort = effort
        scores = dict(zip(bench.plain.judged, clean, strict=True))
        self._scores = {index: scores[index] for index in effort.frames if index in scores}
        self._stateful = bench.model.signature.stateful
        self._worst: dict[int, Array] = {}
        """Inputs that have done harm, by the place of their frames."""

    def within(self, epsilon: float, nth: int, deadline: Deadline) -> Level:
        """Attacks within one ball, which is larger than those before. `nth`: how many there were."""
        queries = at_limit = out_of_time = 0
        groups = self._groups()
        for place, group in enumerate(groups):
            begun = [self._begin(epsilon, index, nth) for index in group]
            attacked = [each for each in begun if np.any(each.ball.radius > 0)]
            self._run(attacked, deadline.share(len(groups) - place))
            for each in attacked:
                queries += each.queries
                at_limit += each.score > 0
                out_of_time += each.score > 0 and self._may_ask(each)
                if each.given is not None and each.score < self._scores[each.index]:
                    self._scores[each.index], self._worst[each.index] = each.score, each.given
        if self._stateful and self._worst:  # what is given for one frame bears on those after it
            given = self._bench.outcomes([self._frame(index, self._worst.get(index)) for index in self._effort.frames])
            self._scores = {
                index: self._bench.score(index, each)
                for index, each in zip(self._effort.frames, given, strict=True)
                if index in self._scores
            }
        label = f"{epsilon * 255:.3g}/255" if self._target.kind is Kind.PICTURE else f"{epsilon:.3g}"
        return Level(label, epsilon, tuple(self._scores.values()), 0, 0, queries, at_limit, out_of_time)

    def _groups(self) -> list[list[int]]:
        """Divides frames that are not wholly wrong into those attacked together: of a model with state, all of them."""
        live = [index for index, score in self._scores.items() if score > 0]
        if not live or self._stateful:
            return [live] if live else []
        size = max(1, ATTACKED_BYTES_MAX // max(1, 8 * self._bench.plain.array(live[0], self._target.name).size))
        return [live[low : low + size] for low in range(0, len(live), size)]

    def _begin(self, epsilon: float, index: int, nth: int) -> _Attacked:
        target = self._target
        around = ball(self._bench.plain.array(index, target.name), epsilon, target.kind, target.extent)
        seed = (self._bench.seed, index, nth)
        if self._effort.attack == "square":
            return _Attacked(index, around, Square(around, target.kind, self._effort.queries, seed))
        return _Attacked(index, around, Spsa(around, seed))

    def _run(self, live: list[_Attacked], deadline: Deadline) -> None:
        """Attacks frames side by side, until each is wholly wrong or its queries, or the time, are used up."""
        while (live := [each for each in live if each.score > 0 and self._may_ask(each)]) and not deadline.is_over:
            asked = [each.search.ask() for each in live]
            for each, tried, outcomes in zip(live, asked, self._answers(live, asked), strict=True):
                expected = {**self._bench.clean[each.index], **self._bench.expected[each.index]}
                for array, outcome in zip(tried, outcomes, strict=True):
                    if isinstance(outcome, str):
                        continue  # what the model refuses is no success
                    score = self._bench.score(each.index, outcome)
                    if score < each.score:
                        each.score, each.given = score, array
                each.queries += len(tried)
                each.search.tell([_loss(self._objective, expected, outcome) for outcome in outcomes])

    def _may_ask(self, each: _Attacked) -> bool:
        """Tells whether the frame's queries are enough for one more round."""
        return each.queries + each.search.asks <= self._effort.queries

    def _answers(self, live: Sequence[_Attacked], asked: Sequence[Sequence[Array]]) -> list[Sequence[Outputs | str]]:
        """Returns the answers to all inputs that are asked for, of which each frame has equally many."""
        if not self._stateful:
            frames = [
                self._frame(each.index, array) for each, tried in zip(live, asked, strict=True) for array in tried
            ]
            outcomes, each_asks = self._bench.outcomes(frames), len(asked[0])
            return [outcomes[low : low + each_asks] for low in range(0, len(outcomes), each_asks)]
        rounds: list[Sequence[Outputs | str]] = []
        for nth in range(len(asked[0])):  # a query is a run of all frames
            given = self._worst | {each.index: tried[nth] for each, tried in zip(live, asked, strict=True)}
            frames = [self._frame(index, given.get(index)) for index in self._effort.frames]
            rounds.append(self._bench.outcomes(frames))
        places = [self._effort.frames.index(each.index) for each in live]
        return [[outcomes[place] for outcomes in rounds] for place in places]

    def _frame(self, index: int, array: Array | None) -> LearnFrame:
        frame = self._bench.plain.frames[index]
        return frame if array is None else replace(frame, inputs={**frame.inputs, self._target.name: array})


def _loss(objective: Objective, expected: Outputs, outcome: Outputs | str) -> float:
    return LOSS_MOST if isinstance(outcome, str) else objective.loss(expected, outcome)
