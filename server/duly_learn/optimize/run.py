"""`duly models optimize` from its frames to the new version."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

from duly.agreement.choose import measure_of, missed
from duly.agreement.interval import Interval
from duly.agreement.measures import Measure, Outputs
from duly.models.repository import ModelVersion
from duly.models.spec import Signature, Variant
from duly.models.version_settings import with_settings
from duly_learn.frames.frame import LearnFrame
from duly_learn.frames.places import NoFrames, frames_from
from duly_learn.frames.split import split
from duly_learn.graphs.describe import size_bytes
from duly_learn.optimize.existing import Existing
from duly_learn.optimize.guarded import Guarding, with_guards, without_detectors
from duly_learn.optimize.judge import Bench, joules_of, judge
from duly_learn.optimize.judged import Judged
from duly_learn.optimize.rule import RISK, Rule
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused, Step
from duly_learn.optimize.work import work_folder
from duly_learn.optimize.write import MADE_FILE, NewVariant, alone, check_free, next_number, write_version
from duly_learn.running.model import FrameRefused, NotRunning, Refusal, RunningModel, running

ORIGINAL = "original"
"""The name of the original among the variants, where it has none of its own."""
FRAMES_MAX = 3000
"""Of these, three tenths judge: enough to show that eight candidates lose no more than 1 %, if nearly all agree."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be done."""

    version: ModelVersion
    places: Sequence[Path]
    steps: Sequence[Step]
    tolerance: float
    seed: int = 0
    held_out: float = 0.3
    """The share of the frames that judges."""
    frames_max: int = FRAMES_MAX
    by_mean: bool = False
    threads: int = 1
    number: int | None = None
    """That of the new version; None: the next one."""
    topic: str = ""
    guards: bool = False
    """Whether every variant gets a detector of frames unlike others. A version is written then even if nothing is
    faster."""


@dataclass(slots=True)
class Found:
    """What came of it."""

    asked: Asked
    rule: Rule
    measure: Measure
    signature: Signature
    """What frames hold and answers give, with the names of classes."""
    original: Judged
    no_joules: str
    """Why joules are not known, or what is not among them; empty: nothing is missing."""
    held_out: list[LearnFrame]
    expected: list[Outputs]
    """What the original gave for each held-out frame."""
    candidates: list[Judged] = field(default_factory=list)
    variants: list[NewVariant] = field(default_factory=list)
    """Those of the new version, the most accurate first; none: nothing was kept, and no version was written."""
    number: int = 0
    """That of the new version; 0: none was written."""
    guards: Mapping[str, object] = field(default_factory=dict)
    """What guards were measured to find, by variant."""


def optimize(asked: Asked, told: Callable[[str], None]) -> Found:
    """Makes candidates, judges them, and writes a new version of those that are kept. `told` hears what happens.

    Raises:
        LearnError: there are no frames that fit, the version cannot be run, somebody else optimises the same model, or
            the new version cannot be written.
        NoMeasure: `[task]` asks for a measure that does not fit the model.
        OSError: a place cannot be read, or there is no room to work in.
    """
    before = asked.version
    with ExitStack() as stack:
        stack.enter_context(alone(before.model_folder))
        if asked.number is not None:
            check_free(before.model_folder, asked.number)
        work = stack.enter_context(work_folder())
        version = without_detectors(before, work)
        asked = replace(asked, version=version)
        original = stack.enter_context(running(version, threads=asked.threads))
        measure = measure_of(version.config.task, original.signature)
        told(f"{version.key}: answers are compared by {measure.name}")
        if unseen := missed(version.config.task, measure):
            told(unseen)
        lost = _lost(before, told)
        calibration, answers, held_out, expected = _frames(asked, original, told)
        told(f"{len(calibration)} frames to fit to, {len(held_out)} held out")
        alone_variant = version.config.variants[0]
        one = replace(version, config=version.config.model_copy(update={"variants": (alone_variant,)}))
        source = OptimizeSource(
            one,
            version.folder / alone_variant.file,
            original.signature,
            calibration,
            answers,
            measure,
            asked.tolerance,
            asked.seed,
            asked.threads,
        )
        rule = Rule(asked.tolerance, asked.by_mean, max(1, len(_steps(asked))), lost, len(calibration))
        bench = Bench(source, original, original.signature, held_out, expected, rule)
        as_it_is, no_joules = _as_it_is(source, original, held_out)
        found = Found(asked, rule, measure, original.signature, as_it_is, no_joules, held_out, expected)
        base = _tried(found, bench, work, told)
        _choose(found, base, original.signature.stateful)
        settings = base.candidate.settings if base is not None and base.candidate is not None else {}
        guarding = Guarding(
            version,
            before,
            original.signature,
            calibration,
            held_out,
            asked.seed,
            asked.threads,
            work,
            plain=asked.guards,
        )
        if asked.guards or (found.variants and guarding.had_detector):
            settings = _guard(found, guarding, settings, told)
        if found.variants:
            number = asked.number or next_number(version.model_folder)
            write_version(before, number, found.variants, settings, _made(found), asked.threads)
            found.number = number
        return found


def _frames(
    asked: Asked, original: RunningModel, told: Callable[[str], None]
) -> tuple[list[LearnFrame], list[Outputs], list[LearnFrame], list[Outputs]]:
    """Returns the frames to fit to and those held out, each with what the original gives for them. Frames for which it
    gives nothing are left out.
    """
    frames = frames_from(
        asked.places, original.signature, asked.frames_max, asked.seed, asked.topic, told, asked.version.name
    )
    sides: list[tuple[list[LearnFrame], list[Outputs]]] = []
    reasons: list[str] = []
    for side in split(frames, asked.held_out, asked.seed):
        outcomes = original.outcomes(side)
        reasons += [str(outcome) for outcome in outcomes if isinstance(outcome, Refusal)]
        answered = [(f, o) for f, o in zip(side, outcomes, strict=True) if not isinstance(o, Refusal)]
        sides.append(([frame for frame, _ in answered], [outcome for _, outcome in answered]))
    if reasons:
        told(f"{len(reasons)} of {len(frames)} frames are left out: {reasons[0]}")
    if not all(side[0] for side in sides):
        raise NoFrames(f"{asked.version.key} has no answer to {len(reasons)} of {len(frames)} frames: {reasons[0]}")
    return (*sides[0], *sides[1])


def _as_it_is(source: OptimizeSource, original: RunningModel, held_out: Sequence[LearnFrame]) -> tuple[Judged, str]:
    judged = Judged(_called(source.version.config.variants[0]), "as it is")
    judged.folder, judged.candidate = source.graph.parent, Candidate(source.graph.name, "as it is")
    judged.agreement = Interval(1.0, 1.0, 1.0, len(held_out))
    judged.same = True
    judged.size_bytes = size_bytes(source.graph)
    judged.warm_ns = {size: median(times) for size, times in original.times_ns.items()}
    judged.joules, why_not = joules_of(original, held_out)
    judged.notes = list(original.notes)
    return judged, why_not


def _tried(found: Found, bench: Bench, work: Path, told: Callable[[str], None]) -> Judged | None:
    """Tries all steps. Returns the candidate whose settings the new version has; None: those of the original."""
    base: Judged | None = None
    for step in _steps(found.asked):
        judged = Judged(step.name, folder=work / step.name)
        judged.folder.mkdir()
        found.candidates.append(judged)
        told(f"{step.name}: is made")
        try:
            judged.candidate = candidate = step.make(bench.source, judged.folder)
        except (Refused, FrameRefused, NotRunning) as error:
            judged.refusals.append(str(error))
        else:
            judged.said = candidate.said
            judged.notes += candidate.notes
            judge(bench, judged, candidate, told)
            if judged.kept and candidate.settings:
                base = judged
                bench = _on(bench, judged, candidate)
        told(f"{step.name}: {'kept' if judged.kept else '; '.join(judged.refusals)}")
    return base


def _steps(asked: Asked) -> list[Step]:
    """All that candidates are made by: first the variants that the version has."""
    first, *others = asked.version.config.variants
    there: list[Step] = [Existing(asked.version, variant) for variant in others]
    taken = {step.name for step in there} | {_called(first)}
    return [*there, *(step for step in asked.steps if step.name not in taken)]


def _called(variant: Variant) -> str:
    return ORIGINAL if variant.name == "default" else variant.name


def _lost(version: ModelVersion, told: Callable[[str], None]) -> float:
    """What a version that was made here has lost of the agreement with the one that it was made of, since its first
    variant is not that one's graph."""
    try:
        made = json.loads((version.folder / MADE_FILE).read_text())
    except (OSError, ValueError):
        return 0.0
    accuracy = version.config.variants[0].accuracy
    if not isinstance(made, dict) or not isinstance(made.get("from"), str) or not 0 < accuracy < 1:
        return 0.0
    told(
        f"{version.key} agrees with {made['from']}, of which it was made, by {accuracy:.4g}: what is missing counts as "
        f"lost already, for each candidate; to begin anew, say {made['from']}"
    )
    return 1 - accuracy


def _on(bench: Bench, judged: Judged, candidate: Candidate) -> Bench:
    """Has all further candidates made of this one, since it needs settings that they then have, too."""
    version = bench.source.version
    variants = (Variant(name=judged.name, file=candidate.file),)
    config = with_settings(version.config, candidate.settings).model_copy(update={"variants": variants})
    version = replace(version, folder=judged.folder, config=config)
    source = replace(bench.source, version=version, graph=judged.folder / candidate.file)
    return replace(bench, source=source, signature=None)


def _choose(found: Found, base: Judged | None, stateful: bool) -> None:
    """Fills in the variants of the new version, and says of candidates that are within the tolerance, and are none of
    them, why not.
    """
    kept = sorted((each for each in found.candidates if each.kept), key=lambda each: (-_accuracy(each), -each.speed_up))
    if base is not None:
        for each in kept[:]:
            if found.candidates.index(each) < found.candidates.index(base):
                each.refusals.append(f"it takes what {found.asked.version.key} takes, and {base.name} something else")
                kept.remove(each)
    if not kept:
        return
    if stateful:
        fastest = max(kept, key=lambda each: each.speed_up)
        for each in kept:
            if each is not fastest:
                each.refusals.append(
                    f"a model that keeps state has one variant, and {fastest.name} is {fastest.speed_up:.2f} times as "
                    f"fast as the original, this {each.speed_up:.2f} times"
                )
        chosen = [fastest]
    else:
        chosen = [] if base is not None or any(each.same for each in kept) else [found.original]
        for each in kept:
            beaten = [other for other in chosen if other.speed_up >= each.speed_up]
            if beaten:
                better = beaten[0]
                each.refusals.append(
                    f"it is of no use beside {better.name}, which agrees at least as much and is {better.speed_up:.2f} "
                    f"times as fast as the original, this {each.speed_up:.2f} times"
                )
            else:
                chosen.append(each)
    found.variants = [
        NewVariant(each.name, each.folder, each.candidate.file, max(0.0, _accuracy(each) - found.rule.lost))
        for each in chosen
        if each.candidate is not None
    ]


def _guard(
    found: Found, guarding: Guarding, settings: Mapping[str, object], told: Callable[[str], None]
) -> Mapping[str, object]:
    """Puts detectors into the graphs of the new version, and leaves out those for which none is good enough. Returns
    what its model.toml says besides its variants.
    """
    guarded = with_guards(guarding, found.variants or _only_original(found), settings, told)
    found.guards = guarded.measured
    for each in (found.original, *found.candidates):
        if each.name in guarded.refused:
            each.refusals.append(guarded.refused[each.name])
            told(f"{each.name}: {guarded.refused[each.name]}")
    if guarded.added or found.variants:
        found.variants = guarded.variants
    if not guarding.plain and [each.name for each in found.variants] == [found.original.name]:
        found.variants = []  # nothing was asked for but what is faster
    return guarded.settings


def _only_original(found: Found) -> list[NewVariant]:
    original = found.original
    assert original.candidate is not None
    return [NewVariant(original.name, original.folder, original.candidate.file, max(0.0, 1 - found.rule.lost))]


def _accuracy(judged: Judged) -> float:
    return judged.agreement.mean if judged.agreement is not None else 0.0


def _made(found: Found) -> dict[str, object]:
    asked = found.asked
    return {
        "from": asked.version.key,
        "frames": {"fitted": found.rule.fitted, "held_out": len(found.held_out)},
        "measure": found.measure.name,
        "tolerance": asked.tolerance,
        "compared": "mean" if asked.by_mean else "lower end",
        "intervals": f"the lower ends of all {found.rule.candidates} candidates hold at once with {1 - RISK:.0%}",
        "lost_before": found.rule.lost,
        "seed": asked.seed,
        "candidates": [
            {
                "name": each.name,
                "said": each.said,
                "kept": each.kept,
                "refusals": each.refusals,
                "agreement": None if each.agreement is None else asdict(each.agreement),
                "times_as_fast": {str(size): round(times.ratio, 3) for size, times in each.times.items()},
                "size_bytes": each.size_bytes,
            }
            for each in [found.original, *found.candidates]
        ],
        **({"guards": found.guards} if found.guards else {}),
    }
