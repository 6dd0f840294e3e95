"""The variants of a version that was made: which answer as well as the ones before them, and so are published.

The first variant is what the trainer made; on it the whole version stands or falls. Any other is loaded too, answers
the same held-out frames, and may be worse than the first by no more than it was in the version before, on the same
frames, and the tolerance of `[task]`. One that is not is left out by name, as is one that could not be made again: an
8-bit graph has no weights of a head that could be trained further. What a variant's `accuracy` says is measured anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duly.agreement.classes import answer_of
from duly.agreement.measures import Outputs
from duly.models.folders import CONFIG_FILE
from duly.models.repository import ModelVersion
from duly.models.spec import Signature
from duly.models.toml_text import toml_text
from duly.models.version_settings import own_settings, with_settings
from duly.sampling.sample import Sample
from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame
from duly_learn.frames.samples import frame_of
from duly_learn.learner.held_out import block_of
from duly_learn.learner.limited import TrainerFailed
from duly_learn.learner.validation import Answered, Figures, compare, measured
from duly_learn.running.model import running

BATCH = 16
"""Frames that are answered together, where the model allows it."""
REASON_CHARS_MAX = 300
"""Longer reasons are cut."""

Classes = npt.NDArray[np.int64]
Lessons = Sequence[tuple[Sample, int]]
"""Frames with their classes."""


@dataclass(frozen=True, slots=True)
class Judged:
    figures: Figures
    answers: Classes
    """What the first variant answers to the held-out frames."""
    accuracies: Mapping[str, float]
    """Of each variant that is kept, in their order, the share of right answers about the held-out frames."""
    left_out: Mapping[str, str]
    """Why other variants are not."""


def judge_variants(
    version: ModelVersion,
    out: Path,
    held: Lessons,
    old: Lessons,
    scores: str,
    attempt: int,
    not_made: Mapping[str, str],
) -> Judged:
    """Judges the version whose graphs are in `out` beside `version`, which it was made from, on held-out frames of the
    present regime and on old ones. `not_made`: why variants have no graph there.

    Raises LearnError where the first variant cannot be run, and TrainerFailed where it takes or gives other tensors.
    """
    learning, threshold = version.config.learning, version.config.task.threshold
    assert learning is not None
    frames = [frame_of(sample) for sample, _ in (*held, *old)]
    candidate = replace(version, version=str(int(version.version) + 1), folder=out.resolve())
    labels, count = np.array([label for _, label in (*held, *old)], np.int64), len(held)
    measure = learning.validation.measure

    def accuracy(answers: Classes) -> float:
        return measured((answers == labels)[:count], labels[:count], measure)

    first, *others = version.config.variant_names
    signature, before = _answers(version, first, frames, scores, threshold)
    after = _same_tensors(candidate, first, frames, scores, threshold, signature)
    figures = compare(
        Answered(labels[:count], before[:count], after[:count], [block_of(s.stream, s.frame_id) for s, _ in held]),
        Answered(labels[count:], before[count:], after[count:], [block_of(s.stream, s.frame_id) for s, _ in old]),
        learning.validation,
        attempt,
    )
    best, accuracies, left_out = accuracy(after), {first: accuracy(after)}, dict(not_made)
    for name in others:
        if name in not_made:
            continue
        try:
            _, own_before = _answers(version, name, frames, scores, threshold)
            own = accuracy(_same_tensors(candidate, name, frames, scores, threshold, signature))
        except (LearnError, TrainerFailed) as error:
            left_out[name] = str(error)[:REASON_CHARS_MAX]
            continue
        allowed = max(0.0, accuracy(before) - accuracy(own_before)) + version.config.task.tolerance
        if reason := worse_than_allowed(first, best, own, allowed):
            left_out[name] = reason
        else:
            accuracies[name] = min(own, min(accuracies.values()))  # the order is that of the version before
    return Judged(figures, after[:count], accuracies, left_out)


def worse_than_allowed(first: str, best: float, own: float, allowed: float) -> str:
    """Says by how much a variant is worse than the `first`, as shares of right answers; empty: not by too much."""
    if best - own <= allowed:
        return ""
    return (
        f"it is right about {own:.1%} of held-out frames, {first} about {best:.1%}, and {allowed:.1%} less is allowed"
    )


def settle(version: ModelVersion, out: Path, judged: Judged) -> None:
    """Has `out` say the settings of its own that `version` has, with the variants that are kept, and removes the graphs
    of others. What a trainer has written of settings does not count: the rules that a version is tried by are not its
    own. Raises OSError.
    """
    own = own_settings(version.config, version.own)
    if "variants" in version.config.model_fields_set:
        own["variant"] = [
            {"name": each.name, "file": each.file, "accuracy": round(judged.accuracies[each.name], 6)}
            for each in version.config.variants
            if each.name in judged.accuracies
        ]
    for each in version.config.variants:
        if each.name not in judged.accuracies:
            (out / each.file).unlink(missing_ok=True)
    file = out / CONFIG_FILE
    file.unlink(missing_ok=True)
    if own:
        file.write_text(toml_text(with_settings(version.config, own), own.keys()))


def _answers(
    version: ModelVersion, variant: str, frames: Sequence[LearnFrame], scores: str, threshold: float
) -> tuple[Signature, Classes]:
    with running(version, variant) as model:
        outputs: Sequence[Outputs] = model.answers(frames, BATCH)
        return model.signature, np.array([answer_of(each[scores], threshold) for each in outputs], np.int64)


def _same_tensors(
    version: ModelVersion, variant: str, frames: Sequence[LearnFrame], scores: str, threshold: float, old: Signature
) -> Classes:
    """Returns the answers. Raises TrainerFailed where clients would have to send, or would get, something else."""
    new, answers = _answers(version, variant, frames, scores, threshold)
    if (new.inputs, new.outputs) == (old.inputs, old.outputs):
        return answers
    takes, gives, took, gave = (
        ", ".join(f"{spec.name} {spec.said()}" for spec in specs)
        for specs in (new.inputs, new.outputs, old.inputs, old.outputs)
    )
    raise TrainerFailed(
        f"variant {variant} of the new version takes {takes} and gives {gives}; before it took {took} and gave {gave}"
    )
