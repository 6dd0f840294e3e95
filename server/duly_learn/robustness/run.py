"""The whole test of a version, and of another one on the same frames."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np

from duly.agreement.boxes import BoxesF1
from duly.agreement.choose import NoMeasure, measure_of
from duly.agreement.interval import interval
from duly.agreement.measures import Measure, Outputs
from duly.models.spec import Signature
from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame
from duly_learn.frames.runs import judging
from duly_learn.robustness.attack import Effort, attack_row
from duly_learn.robustness.bench import Bench, Deadline
from duly_learn.robustness.corrupt import corruption_row, harmed
from duly_learn.robustness.corruptions import SEVERITIES, corruption_for
from duly_learn.robustness.inputs import Plain, plain
from duly_learn.robustness.kinds import Kind
from duly_learn.robustness.result import CLEAN, Compared, Level, Result, Row, Tested
from duly_learn.robustness.significance import difference, significant
from duly_learn.robustness.truth import expected_of
from duly_learn.running.model import RunningModel

EPSILONS: dict[Kind, tuple[float, ...]] = {
    Kind.PICTURE: (1 / 255, 2 / 255, 4 / 255, 8 / 255),
    Kind.SIGNAL: (0.001, 0.003, 0.01, 0.03),
    Kind.TABLE: (0.05, 0.1, 0.2, 0.5),
}
"""The balls of attacks where none are asked for: of the range of values, of a table of standard deviations."""
FRAMES_MIN = 10
"""So many frames are tested whatever time there is."""
PROBED = 4
"""So many frames tell how long all will take."""
CORRUPTIONS_SHARE = 0.6
"""Of the time, where there are attacks besides."""

Say = Callable[[str, int], None]
"""Is told what comes next, and of how many answers it is at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be tested, and how much it may cost."""

    corruptions: tuple[str, ...]
    attacks: tuple[str, ...]
    epsilons: tuple[float, ...] = ()
    """Empty: EPSILONS."""
    queries: int = 200
    attack_frames: int = 50
    seconds: float = 600.0
    """About how long one version may take; frames are left out where all would take longer."""
    seed: int = 0
    inputs: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)


@dataclass(slots=True)
class Teller:
    """Who hears how far the test is."""

    say: Say
    answered: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Material:
    """What both versions are tested on."""

    plain: Plain
    labels: Sequence[Any] | None
    """One for each frame, those that warm up as well; None: nobody has said what is right."""
    notes: tuple[str, ...]
    is_cut: bool = False
    """Whether there were more frames than there was time for, so that another run may take others."""


def material_of(
    model: RunningModel, frames: Sequence[LearnFrame], labels: Sequence[Any] | None, plan: Plan
) -> Material:
    """Chooses the frames that there is time for, and decodes them. `labels`: one for each frame; None: those that the
    frames carry, if all do that are judged. Raises LearnError.
    """
    notes: list[str] = []
    if not (there := judging(frames)):
        raise LearnError(
            f"all of the {len(frames)} frames come before the model's state is known, and none is left to judge; take "
            "more (--frames-max)"
        )
    carrying = sum(frame.label is not None for frame in frames if not frame.warms_up)
    if labels is None and carrying == there:
        labels = [frame.label for frame in frames]
    elif labels is None and carrying:
        notes.append(f"{carrying} of {there} frames carry a label: labels are left out of account")
    stateful = model.signature.stateful
    at_best = _in_time(frames, _seconds_at_best(model, plan), plan, stateful)
    taken = _taken(model, frames, at_best, notes)
    found = plain([frames[index] for index in taken], model.signature, plan.inputs, plan.kinds)
    frame_s = _seconds_of_one(found, model, plan)
    fit = _in_time(found.frames, frame_s, plan, stateful)
    found = replace(found, frames=tuple(found.frames[place] for place in fit))
    chosen = [taken[place] for place in fit]
    judged = len(found.judged)
    is_cut = len(at_best) < len(frames) or len(fit) < len(taken)
    if is_cut:
        needed_s = plan.seconds * frame_s * len(frames) / _corruption_seconds(plan)
        notes.append(
            f"{judged} of {there} frames are tested: all take about {needed_s:,.0f} s a version, there were "
            f"{plan.seconds:g}; how many these are depends on how fast the machine was, and another run may take "
            "others: with more time (--seconds) or fewer frames (--frames-max) it takes the same"
        )
    if warm_up := len(found.frames) - judged:
        notes.append(f"{warm_up} frames more are run before them so that the model's state is known, and not judged")
    own = None if labels is None else [labels[index] for index in chosen]
    return Material(found, own, (*notes, *found.notes), is_cut)


def _seconds_of_one(found: Plain, model: RunningModel, plan: Plan) -> float:
    """Returns how long a frame takes with all corruptions at all severities, by what a few take with each."""
    few = range(min(PROBED, len(found.frames))) if model.signature.stateful else _spread(found.frames, PROBED, False)
    began_ns = time.monotonic_ns()
    for name in plan.corruptions:
        if any(corruption_for(name, each.kind) for each in found.harmable):
            middle = SEVERITIES[len(SEVERITIES) // 2]
            model.outcomes([harmed(found, name, middle, index, plan.seed) for index in few], _batch(model))
    return len(SEVERITIES) * (time.monotonic_ns() - began_ns) / 1e9 / len(few)


def _corruption_seconds(plan: Plan) -> float:
    return plan.seconds * (CORRUPTIONS_SHARE if plan.attacks else 1.0)


def _taken(model: RunningModel, frames: Sequence[LearnFrame], chosen: Sequence[int], notes: list[str]) -> Sequence[int]:
    """Returns the places of the frames that the model takes as they are. Raises LearnError where it takes none."""
    outcomes = model.outcomes([frames[index] for index in chosen], _batch(model))
    refused = [outcome for outcome in outcomes if isinstance(outcome, str)]
    taken = [index for index, outcome in zip(chosen, outcomes, strict=True) if not isinstance(outcome, str)]
    if not judging([frames[index] for index in taken]):
        there = judging([frames[index] for index in chosen])
        raise LearnError(f"{model.version.key}: refuses all of the {there} frames: {refused[0]}")
    if refused:
        notes.append(f"{len(refused)} of {len(chosen)} frames are refused by the model as they are: {refused[0]}")
    return taken


def _seconds_at_best(model: RunningModel, plan: Plan) -> float:
    """Returns how long a frame would take with all corruptions if only the worker took any time."""
    size = _batch(model)
    return (1 + len(SEVERITIES) * len(plan.corruptions)) * median(model.times_ns[size]) / size / 1e9


def _in_time(frames: Sequence[LearnFrame], frame_s: float, plan: Plan, stateful: bool) -> Sequence[int]:
    """Returns the places of the frames that there is time for, where one takes so long in all conditions together.
    Those that warm up take as long, and are not counted.
    """
    judged_s = frame_s * len(frames) / judging(frames)
    return _spread(frames, max(FRAMES_MIN, int(_corruption_seconds(plan) / max(1e-9, judged_s))), stateful)


def _spread(frames: Sequence[LearnFrame], most: int, stateful: bool) -> Sequence[int]:
    """Returns the places of at most so many frames that are judged, from the first to the last; of a model with state
    the first, with all that come before them.
    """
    judged = [index for index, frame in enumerate(frames) if not frame.warms_up]
    if most >= len(judged):
        return range(len(frames))
    if stateful:
        return range(judged[most - 1] + 1)
    return [int(place) for place in np.linspace(0, len(frames) - 1, most).round()]


def _batch(model: RunningModel) -> int:
    """Returns the largest batch size: which is fastest would follow from the clock, and the last digits with it."""
    return max(model.times_ns)


def tested(
    model: RunningModel, name: str, material: Material, plan: Plan, teller: Teller
) -> tuple[Tested, list[Outputs], list[str]]:
    """Tests one version. Returns what came of it, its answers to the clean frames, and notes. Raises LearnError."""
    frames = material.plain.frames
    measure = measure_for(model)
    teller.say(f"{name}: clean frames", len(frames))
    flagged_before = model.flagged
    clean = model.answers(frames, _batch(model))
    flagged = model.flagged - flagged_before
    teller.answered(len(frames))
    expected = clean
    if material.labels is not None:
        expected = [
            answer if frames[index].warms_up else expected_of(label, measure, answer, model.signature, index)
            for index, (label, answer) in enumerate(zip(material.labels, clean, strict=True))
        ]
    bench = Bench(model, material.plain, expected, clean, measure, _batch(model), plan.seed, teller.answered)
    judged = material.plain.judged
    level = Level(CLEAN, None, tuple(bench.score(index, clean[index]) for index in judged), flagged=flagged)
    notes = [f"{name}: {words}" for words in _says_nothing(measure, [expected[index] for index in judged])]
    rows: list[Row] = []
    kinds = ", ".join(sorted({each.kind for each in material.plain.harmable}))
    unfit: list[str] = []
    for corruption in plan.corruptions:
        teller.say(f"{name}: {corruption}", len(SEVERITIES) * len(frames))
        row = corruption_row(bench, corruption)
        rows += [row] if row is not None else []
        unfit += [corruption] if row is None else []
    if unfit and not rows:
        raise LearnError(f"{', '.join(unfit)}: not for inputs of this kind ({kinds})")
    if unfit:
        notes.append(f"for inputs of other kinds than {kinds}, and left out: {', '.join(unfit)}")
    for row in _attacks(bench, name, level, plan, teller):
        rows.append(row)
        notes += [f"{name}: {words}" for words in _limits_of(row, plan)]
    refused = sum(each.refused for row in rows for each in row.levels)
    if refused:
        notes.append(f"{name}: {refused} harmed frames were refused by the model, which counts as 0")
    return Tested(name, level, tuple(rows)), clean, notes


def _attacks(bench: Bench, name: str, clean: Level, plan: Plan, teller: Teller) -> Sequence[Row]:
    """Runs the attacks, which have their share of the time however long the corruptions took."""
    deadline = Deadline(plan.seconds - (_corruption_seconds(plan) if plan.corruptions else 0.0))
    rows: list[Row] = []
    harmable = bench.plain.harmable
    for attack in plan.attacks:
        for target in harmable:
            epsilons = plan.epsilons or EPSILONS[target.kind]
            places = _spread(bench.plain.frames, plan.attack_frames, bench.model.signature.stateful)
            left = len(plan.attacks) * len(harmable) - len(rows)
            effort = Effort(attack, places, plan.queries, deadline.share(left))
            row_name = attack if len(harmable) == 1 else f"{attack} {target.name}"
            each_runs = len(places) if bench.model.signature.stateful else 1
            teller.say(f"{name}: {row_name}", len(epsilons) * len(places) * plan.queries * each_runs)
            rows.append(attack_row(bench, clean, target, epsilons, effort, row_name))
    return rows


def _says_nothing(measure: Measure, expected: Sequence[Outputs]) -> list[str]:
    """Returns what is to be known where a detector that finds nothing any more is right on some frames."""
    if not isinstance(measure, BoxesF1):
        return []
    empty = sum(not np.asarray(each[measure.boxes]).size for each in expected)
    return [
        f"on {empty} of {len(expected)} frames no box is expected: who finds nothing at all scores "
        f"{100 * empty / len(expected):.1f} %"
    ][: bool(empty)]


def _limits_of(row: Row, plan: Plan) -> list[str]:
    notes = []
    tries = sum(len(level.scores) for level in row.levels)
    out_of_time = sum(level.out_of_time for level in row.levels)
    if at_limit := sum(level.at_limit for level in row.levels) - out_of_time:
        notes.append(
            f"{row.name}: {at_limit} of {tries} attacks on a frame within a ball ended at {plan.queries} queries; with "
            "more, the scores may be less"
        )
    if out_of_time:
        notes.append(
            f"{row.name}: {out_of_time} of {tries} attacks on a frame within a ball were cut short, as "
            f"{plan.seconds:g} s a version were over: scores from there on depend on how fast the machine was. Give "
            "more time (--seconds), fewer frames (--attack-frames) or fewer queries (--queries)"
        )
    if row.left_out:
        notes.append(f"{row.name}: {row.left_out} balls were left out: {plan.seconds:g} s were over")
    return notes


def measure_for(model: RunningModel) -> Measure:
    """Returns the measure of the model's task. Raises LearnError."""
    try:
        return measure_of(model.version.config.task, model.signature)
    except NoMeasure as error:
        raise LearnError(f"{model.version.key}: {error}") from error


def same_frames(signature: Signature, other: Signature, name: str) -> None:
    """Raises LearnError where another version takes or gives other tensors, so that both cannot be compared."""
    for what, ours, theirs in (("takes", signature.inputs, other.inputs), ("gives", signature.outputs, other.outputs)):
        mine, its = ({spec.name: (spec.datatype, spec.shape) for spec in specs} for specs in (ours, theirs))
        if mine != its:
            apart = sorted(mine.items() ^ its.items())
            raise LearnError(f"{name}: {what} something else, so that they cannot be compared: {apart[0][0]}")


def compared(first: Tested, second: Tested, seed: int) -> tuple[Compared, ...]:
    """Compares two versions in every condition that both were tested in as hard: attacks that were cut short were not,
    nor were those within larger balls, as they go on from there.
    """
    pairs = [(CLEAN, CLEAN, first.clean, second.clean)]
    for row in first.rows:
        for level in row.levels:
            other = second.level(row.name, level.label)
            if other is None or level.out_of_time or other.out_of_time:
                break
            pairs.append((row.name, level.label, level, other))
    found = [difference(one.scores, other.scores, seed) for _, _, one, other in pairs]
    differs = significant([each.p for each in found])
    return tuple(
        Compared(row, label, each, is_sure)
        for (row, label, _, _), each, is_sure in zip(pairs, found, differs, strict=True)
    )


def result_of(
    first: tuple[Tested, Sequence[Outputs]],
    second: tuple[Tested, Sequence[Outputs]] | None,
    material: Material,
    measure: Measure,
    plan: Plan,
    notes: Sequence[str],
) -> Result:
    """Puts together what was found of one version or of two."""
    agreement = None
    if second is not None:
        agreement = interval([measure.of(first[1][index], second[1][index]) for index in material.plain.judged])
    return Result(
        tested=first[0],
        against=second[0] if second is not None else None,
        compared=compared(first[0], second[0], plan.seed) if second is not None else (),
        measure=measure.name,
        expected="labels" if material.labels is not None else "each version's own answers to the clean frames",
        frames=len(material.plain.judged),
        streams=len({frame.stream for frame in material.plain.frames}),
        seed=plan.seed,
        is_repeatable=not (material.is_cut or first[0].is_cut or (second is not None and second[0].is_cut)),
        agreement=agreement,
        notes=tuple(dict.fromkeys((*material.notes, *notes))),
    )
