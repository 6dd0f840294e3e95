"""Which labels are believed before anything is trained or judged on them.

Labels come from outside, and some of them may be wrong by mistake or on purpose. They are looked at in batches: the
labels of one source that came one after another. A source is what a principal says that its labels are from; who sent
them is known, and so a principal does not become several by stating many sources. A batch is not believed

- where classes are far more or less frequent in it than they were (`base_rate_jump_max`): the flipped labels of a rare
  class, or a class that somebody floods;
- where it says the opposite of the model (the balanced share of right answers is below REVERSED of what chance gives):
  flipped labels of classes that are as frequent as one another. A concept that turned around in whole would look the
  same, and is not learnt;
- where a witness, a model trained on all the other batches, is right about it far more rarely than about the others
  (`disagreement_max`): random labels, and those of a source that flips what suits it.

A principal most of whose batches are not believed is not believed at all, where there are others. Where more than
`suspects_max` of all labels are not believed, nobody knows which half is true, and nothing is trained. Of what is
believed, one of three or more principals has at most `source_share_max`.

Not defended against: wrong labels of all or most sources that agree with one another, do not move the shares of classes
and last for more than `frames_min` labels, since they are what a change of the concept is; flips so rare or so well
hidden among hard cases that a witness finds them as easy as others'; and a source that is everybody, as there is one
alone, with flips of less than `disagreement_max`. What such labels can do is bounded by what follows: a gain on
held-out labels, what is forgotten, the trial of the new version, and its roll-back.

Everything here is a function of its arguments: numbers, labels and a seed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesClassifier

from duly.models.learning import Trust

Numbers = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Members = npt.NDArray[np.int64]
"""Places of labels."""
Source = tuple[str, str]
"""A principal, and the source that it states, or none."""

BATCHES_MAX = 24
"""Labels are cut into so many batches at most, and as many again where there are many sources."""
BATCH_LABELS_MIN = 25
"""Fewer labels of a source than this are looked at together with the small sources' of the same principal, and where
these are fewer, with those of all principals that have few."""
REVERSED = 0.6
TREES = 40
FOLDS = 6
"""So many witnesses are trained, each on the batches of all folds but one."""
ROUNDS_MAX = 2
"""Where labels are found that are not believed, the others are looked at again without them, so many times in all."""
OTHERS = "(others)"
"""Stands for all principals, or sources of one, that have few labels."""
_SURE = 4.0
"""Standard errors by which a batch must differ to be told from chance."""
_CLASS_BY = 0.25
"""About one class witnesses are right less steadily: it takes so much more to be odd."""
_ABOUT_MIN = 8
"""Fewer labels say nothing about a class."""


@dataclass(frozen=True, slots=True)
class Judgement:
    believed: Mask
    """Of each label, whether it is believed."""
    reasons: tuple[str, ...]
    """What is wrong with the others, one line for a batch or source."""
    refused: str
    """Why none can be used; empty: those that are believed can."""


def judge(
    numbers: Numbers,
    labels: Classes,
    answers: Classes,
    sources: Sequence[Source],
    base_rates: dict[int, float],
    settings: Trust,
    seed: int,
) -> Judgement:
    """Judges the labels of the present regime, in the order in which they came.

    `numbers`: what is known of each frame, [n, k]. `labels`, `answers`: [n], what was said and what the model answered.
    `base_rates`: the share of each class among labels that were believed before; empty: there are none.
    """
    believed = np.ones(len(labels), bool)
    batches = _batches(sources)
    doubts: dict[Source, list[tuple[int, str]]] = {}
    for source, members in batches:
        if reason := _odd(labels[members], answers[members], base_rates, settings):
            believed[members] = False
            doubts.setdefault(source, []).append((len(members), reason))
    for _ in range(ROUNDS_MAX):
        left = [(source, members) for source, members in batches if believed[members].all()]
        if len(left) < 3:
            break
        guesses = _guesses(numbers, labels, [members for _, members in left], seed)
        outliers = _outliers(left, guesses, labels, settings.disagreement_max)
        for at, reason in sorted(outliers.items()):
            source, members = left[at]
            believed[members] = False
            doubts.setdefault(source, []).append((len(members), reason))
        if not outliers:
            break
    _whole_principals(batches, believed)
    reasons = [
        f"{sum(count for count, _ in found)} labels of {'/'.join(filter(None, source))}: {found[0][1]}"
        for source, found in doubts.items()
    ]
    wrong = 1.0 - float(believed.mean()) if len(believed) else 0.0
    if wrong > settings.suspects_max:
        told = f"{wrong:.0%} of the labels are not believed, and so none is: {'; '.join(reasons[:4])}"
        return Judgement(np.zeros(len(labels), bool), tuple(reasons), told)
    _bound_shares([principal for principal, _ in sources], believed, settings.source_share_max)
    return Judgement(believed, tuple(reasons), "")


def _batches(sources: Sequence[Source]) -> list[tuple[Source, Members]]:
    """Cuts the labels of each source into runs in time. Small sources of a principal are one, and so are principals
    that have few labels.
    """
    named = _few_as_one(sources, lambda source: (source[0], OTHERS))
    named = _few_as_one(named, lambda source: (OTHERS, ""))
    size = max(BATCH_LABELS_MIN, -(-len(sources) // BATCHES_MAX))
    batches: list[tuple[Source, Members]] = []
    for source in sorted(set(named)):
        members = np.flatnonzero([each == source for each in named])
        pieces = max(1, len(members) // size)
        batches += [(source, piece) for piece in np.array_split(members, pieces)]
    return batches


def _few_as_one(sources: Sequence[Source], one: Callable[[Source], Source]) -> list[Source]:
    """Returns the sources, with those that have few labels called as `one` says."""
    counts = Counter(sources)
    return [source if counts[source] >= BATCH_LABELS_MIN else one(source) for source in sources]


def _rates(labels: Classes) -> dict[int, float]:
    return {int(each): float(np.mean(labels == each)) for each in np.unique(labels)}


def _odd(labels: Classes, answers: Classes, base_rates: dict[int, float], settings: Trust) -> str:
    """Says what is wrong with a batch by itself; empty: nothing."""
    if base_rates:
        rates = _rates(labels)
        for each in sorted(base_rates.keys() | rates.keys()):
            was, now = base_rates.get(each, 0.0), rates.get(each, 0.0)
            chance = _SURE * np.sqrt(max(was * (1 - was), 0.01) / len(labels))
            if abs(now - was) > settings.base_rate_jump_max and abs(now - was) > chance:
                return f"{now:.0%} of them are of class {each}, which were {was:.0%}"
    shares = [
        (float((answers[labels == each] == each).mean()), int((labels == each).sum())) for each in np.unique(labels)
    ]
    if len(shares) > 1 and min(count for _, count in shares) >= 8:
        share = float(np.mean([each for each, _ in shares]))
        chance = _SURE * float(np.sqrt(sum(0.25 / count for _, count in shares))) / len(shares)
        by_chance = 1 / len(shares)
        if share < REVERSED * by_chance and share + chance < by_chance:
            return f"they say the opposite of the model, which is right about {share:.0%}"
    return ""


def _guesses(numbers: Numbers, labels: Classes, batches: list[Members], seed: int) -> list[Classes]:
    """Of each batch, what a witness says that was trained on batches of other folds."""
    filled = np.clip(np.nan_to_num(numbers), -1e30, 1e30).astype(np.float32)
    folds = min(FOLDS, len(batches))
    found: list[Classes] = [np.empty(0, np.int64)] * len(batches)
    for fold in range(folds):
        others = np.concatenate([members for at, members in enumerate(batches) if at % folds != fold])
        witness = ExtraTreesClassifier(TREES, min_samples_leaf=2, class_weight="balanced", random_state=seed, n_jobs=1)
        witness.fit(filled[others], labels[others])
        for at in range(fold, len(batches), folds):
            found[at] = np.asarray(witness.predict(filled[batches[at]]), np.int64)
    return found


def _outliers(
    batches: list[tuple[Source, Members]], guesses: list[Classes], labels: Classes, by: float
) -> dict[int, str]:
    """The batches about which witnesses are right far more rarely than about others, with what is odd: each batch by
    itself, runs of 2, 4 and 8 of a source one after another, and all batches of a source, and of a principal, together.
    Where there are more labels, half of the disagreement says as much.

    They are right or wrong about all labels, and about each class by itself: where they or the label say that class.
    So the flips of a rare class show as well.
    """
    told: dict[int, str] = {}
    groups = [[at] for at in range(len(batches))]
    _tell_outliers(groups, batches, guesses, labels, by, told)
    of_source: dict[Source, list[int]] = {}
    of_principal: dict[str, list[int]] = {}
    for at, (source, _) in enumerate(batches):
        of_source.setdefault(source, []).append(at)
        of_principal.setdefault(source[0], []).append(at)
    for length in (2, 4, 8):
        runs = [
            own[at : at + length] for own in of_source.values() for at in range(0, len(own) - length + 1, length // 2)
        ]
        _tell_outliers(runs, batches, guesses, labels, by / 2, told)
    for together in (of_source, of_principal):
        if len(together) >= 3:
            _tell_outliers(list(together.values()), batches, guesses, labels, by / 2, told)
    return told


def _tell_outliers(
    groups: list[list[int]],
    batches: list[tuple[Source, Members]],
    guesses: list[Classes],
    labels: Classes,
    by: float,
    told: dict[int, str],
) -> None:
    for each in (None, *(int(known) for known in np.unique(labels))):
        right = []
        for group in groups:
            said = np.concatenate([labels[batches[at][1]] for at in group])
            guessed = np.concatenate([guesses[at] for at in group])
            about = np.ones(len(said), bool) if each is None else (said == each) | (guessed == each)
            right.append((said == guessed)[about])
        shares = [float(hits.mean()) for hits in right if len(hits) >= _ABOUT_MIN]
        if len(shares) < 3:
            continue
        usual = float(np.median(shares))
        for group, hits in zip(groups, right, strict=True):
            if len(hits) < _ABOUT_MIN:
                continue
            share = float(hits.mean())
            chance = _SURE * float(np.sqrt(max(usual * (1 - usual), 0.01) / len(hits)))
            if usual - share > max(by if each is None else max(by, _CLASS_BY), chance):
                whose = "of them" if each is None else f"about class {each}"
                for at in group:
                    told.setdefault(at, f"the others' labels predict {share:.0%} {whose}, and usually {usual:.0%}")


def _whole_principals(batches: list[tuple[Source, Members]], believed: Mask) -> None:
    """A principal most of whose batches are not believed is not believed at all, where there are others."""
    principals = {principal for (principal, _), _ in batches}
    for principal in sorted(principals):
        own = [members for (name, _), members in batches if name == principal]
        wrong = sum(not believed[members].any() for members in own)
        if len(principals) > 1 and 0 < wrong < len(own) and wrong * 2 > len(own):
            for members in own:
                believed[members] = False


def _bound_shares(principals: Sequence[str], believed: Mask, share_max: float) -> None:
    """Takes the oldest labels of a principal that has too many, where there are three or more."""
    counts = Counter(source for source, each in zip(principals, believed, strict=True) if each)
    if len(counts) < 3:
        return
    for principal, count in counts.items():
        rest = sum(counts.values()) - count
        allowed = max(1, int(rest * share_max / (1 - share_max))) if share_max < 1 else count
        for at in [at for at, each in enumerate(principals) if each == principal and believed[at]][
            : max(0, count - allowed)
        ]:
            believed[at] = False
