"""One attempt at a new version: the labels are judged, a trainer makes it, it is validated, and published.

Every step can fail or end in the middle, and leaves the store, the repository and what serves as they were, but for
folders of work that the next attempt replaces. Nothing counts before the rename that publishes. All the while nobody
else makes a version of the model.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duly.agreement.classes import classes_of, label_of
from duly.models.manifest import MANIFEST_FILE
from duly.models.repository import ModelVersion
from duly.runtime.worker_command import worker_environment
from duly.sampling.files import BrokenFile, read_file
from duly.sampling.sample import Sample
from duly.sampling.store import LABELLED, segment_name
from duly_learn.alone import alone
from duly_learn.errors import LearnError
from duly_learn.learner.heart import Known
from duly_learn.learner.held_out import held_out
from duly_learn.learner.job import Job, Lesson, not_made, write_job
from duly_learn.learner.judging import Judged, judge_variants, settle
from duly_learn.learner.limited import TrainerFailed, run_limited
from duly_learn.learner.limits import Limits
from duly_learn.learner.old import Old, OldFrames, sort_out
from duly_learn.learner.publish import publish
from duly_learn.learner.summaries import Summary
from duly_learn.learner.trust import judge
from duly_learn.learner.validation import Figures, refusal

TRAINER = (sys.executable, "-P", "-m", "duly_learn.learner.train")
"""The built-in trainers."""
OLD_WEIGHT = 0.3
"""What an old frame counts in training, beside a new one of 1."""
NEWEST_WEIGHT = 2.0
"""The newest label counts so many times as much as the oldest of the window."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended."""

    published: str
    """The number of the new version; empty: there is none."""
    reason: str
    """Why there is none."""
    figures: Figures | None
    believed: int
    doubted: tuple[str, ...]
    """What is wrong with labels that are not believed."""
    trusted: tuple[Sample, ...] = ()
    """Frames whose labels are believed, of which old ones are drawn."""
    not_kept: frozenset[tuple[str, int]] = frozenset()
    """Streams and ids of frames whose labels are not believed, or not used as their source has too many: what was drawn
    of them earlier is let go."""
    errors: tuple[tuple[int, bool], ...] = ()
    """Of the held-out labels, by their numbers, whether the new version is wrong about them."""
    left_out: tuple[str, ...] = ()
    """What the attempt did without: labels whose frames take too much, variants that are not made again."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is tried, and where."""

    version: ModelVersion
    known: Sequence[Known]
    """Labels of the present regime, the oldest first."""
    scores: str
    threshold: float
    store: Path
    """The model's folder in the store."""
    work: Path
    """A folder of the learner for this model."""
    step: Callable[[str], None]
    """Told each step as it begins."""
    commands_allowed: bool
    nth: int
    """How many versions were judged that were made from this one in this regime, this one included."""
    mark: str
    """Stands in what the new version says of itself, so that the learner knows it whatever happens."""
    limits: Limits = field(default_factory=Limits)

    def run(self) -> Verdict:
        """Raises LearnError and OSError where something is not as it must be, Taken where somebody else makes a version
        of the model, and TrainerFailed.
        """
        with alone(self.version.model_folder):
            return self._run()

    def _run(self) -> Verdict:
        learning = self.version.config.learning
        assert learning is not None
        self.step("read")
        known, samples, beyond = self._read(self.limits.attempt_bytes_max(learning.train_bytes_max))
        if not samples:
            raise LearnError("the store has none of the labelled frames any more; give it more room")
        numbers = np.nan_to_num(np.stack([each.numbers for each in known]))
        labels = np.array([each.label for each in known], np.int64)
        self.step("trust")
        old = self._old(numbers.shape[1])
        judged = judge(
            numbers,
            labels,
            np.array([each.answer for each in known], np.int64),
            [(each.principal, each.source) for each in known],
            _base_rates(old),
            learning.trust,
            learning.seed,
        )
        trusted = tuple(sample for sample, each in zip(samples, judged.believed, strict=True) if each)
        verdict = Verdict("", judged.refused, None, int(judged.believed.sum()), judged.reasons, left_out=beyond)
        if judged.refused:
            return verdict
        old_now = sort_out(old, numbers[judged.believed], labels[judged.believed], known[0].came_ns)
        recent = [(sample, each) for sample, each, good in zip(samples, known, judged.believed, strict=True) if good]
        # What is thought of a label now counts, whatever was thought of it before: doubted ones are not trained on.
        keys = {each.key for each in known}
        doubted = frozenset(each.key for each, good in zip(known, judged.believed, strict=True) if not good)
        verdict = replace(verdict, not_kept=doubted)
        true, unknown = (
            [each for each in of_kind if (each.sample.stream, each.sample.frame_id) not in keys]
            for of_kind in (old_now.true, old_now.unknown)
        )
        share, seed = learning.validation.held_out, learning.seed
        held = [(sample, each) for sample, each in recent if each.held_out]
        old_held = [(each.sample, each.label) for each in true if held_out(each.sample, share, seed)]
        lessons = [
            Lesson(each.sample, each.label, _said_weight(each.sample) * OLD_WEIGHT, True)
            for each in (*true, *unknown)
            if not held_out(each.sample, share, seed)
        ]
        fresh = [(sample, each.label) for sample, each in recent if not each.held_out]
        lessons += [
            Lesson(sample, label, _said_weight(sample) * (1.0 + (NEWEST_WEIGHT - 1.0) * nth / len(fresh)), False)
            for nth, (sample, label) in enumerate(fresh)
        ]
        if len(held) < learning.validation.held_out_min:
            return replace(
                verdict,
                reason=f"{len(held)} believed labels are held out, validation.held_out_min is "
                f"{learning.validation.held_out_min}",
            )
        self._train(lessons, samples)
        self.step("validate")
        out = self.work / "job" / "out"
        tried = judge_variants(
            self.version,
            out,
            [(sample, each.label) for sample, each in held],
            old_held,
            self.scores,
            self.nth,
            self._not_made(),
        )
        errors = tuple(
            (each.number, each.label != int(answer)) for (_, each), answer in zip(held, tried.answers, strict=True)
        )
        without = tuple(f"variant {name}: {reason}" for name, reason in tried.left_out.items())
        verdict = replace(
            verdict, figures=tried.figures, trusted=trusted, errors=errors, left_out=(*verdict.left_out, *without)
        )
        if reason := refusal(tried.figures, learning.validation):
            return replace(verdict, reason=reason)
        settle(self.version, out, tried)
        told = self._told(tried, len(fresh), len(lessons) - len(fresh), int((~judged.believed).sum()))
        with_manifest = (self.version.folder / MANIFEST_FILE).is_file()
        number = publish(self.version.model_folder, out, told, with_manifest, self.step)
        self.step("published")
        return replace(verdict, published=number)

    def _told(self, tried: Judged, labels: int, old_labels: int, not_believed: int) -> Mapping[str, object]:
        """What the new version says of itself. Whoever reads the repository reads it, and so it names no sender."""
        learning = self.version.config.learning
        assert learning is not None
        return {
            "from": self.version.version,
            "trainer": list(learning.command) or f"builtin {learning.kind}",
            "seed": learning.seed,
            "labels": labels,
            "old_labels": old_labels,
            "not_believed": not_believed,
            "figures": tried.figures.told(),
            "variants": {name: round(share, 4) for name, share in tried.accuracies.items()},
            "left_out": dict(tried.left_out),
            "mark": self.mark,
        }

    def _not_made(self) -> dict[str, str]:
        """Why variants have no graph. Raises TrainerFailed where the first has none."""
        first, *others = self.version.config.variants
        out, said = self.work / "job" / "out", not_made(self.work / "job")
        if not (out / first.file).is_file():
            raise TrainerFailed(f"the trainer has ended well and has not made out/{first.file}")
        lacking = [each for each in others if not (out / each.file).is_file()]
        return {each.name: said.get(each.name, "the trainer has not made it") for each in lacking}

    def _read(self, bytes_max: int) -> tuple[list[Known], list[Sample], tuple[str, ...]]:
        """Returns the labels whose frames are still in the store, with the frames, the newest that take no more than
        `bytes_max`; and what is said of others.
        """
        found: list[tuple[Known, Sample]] = []
        segment, rows = -1, list[Sample]()
        left = bytes_max
        beyond: tuple[str, ...] = ()
        for nth, each in enumerate(reversed(self.known)):
            if each.place[0] != segment:
                segment = each.place[0]
                try:
                    rows = read_file(self.store / LABELLED / segment_name(segment))
                except (BrokenFile, OSError):
                    rows = []
            if each.place[1] >= len(rows):
                continue
            sample = rows[each.place[1]]
            left -= sum(array.nbytes for array in sample.arrays.values())
            if left < 0:
                beyond = (
                    f"the oldest {len(self.known) - nth} of {len(self.known)} labels: all frames would take more than "
                    f"{bytes_max:,} bytes, as learn_bytes_max, learn_memory_bytes_max and train_bytes_max have it",
                )
                break
            # A copy: else one frame would hold all of its segment in memory.
            arrays = {name: array.copy() for name, array in sample.arrays.items()}
            found.append((each, replace(sample, arrays=arrays)))
        found.reverse()
        return [each for each, _ in found], [sample for _, sample in found], beyond

    def _old(self, width: int) -> list[Old]:
        learning = self.version.config.learning
        assert learning is not None
        old, summary = [], Summary()
        for sample in OldFrames(
            self.work / "old", learning.old_frames, learning.seed, self.limits.old_bytes_max
        ).read():
            label = self._label(sample)
            numbers = np.nan_to_num(compared(summary, sample))
            if label is not None and sample.labelled is not None and len(numbers) == width:
                old.append(Old(sample, label, numbers, sample.labelled.unix_ns))
        return old

    def _label(self, sample: Sample) -> int | None:
        scores = sample.outputs.get(self.scores)
        return (
            label_of(sample.labels, self._class_label, self.scores, classes_of(scores)) if scores is not None else None
        )

    @property
    def _class_label(self) -> str:
        return self.version.config.learning.label if self.version.config.learning is not None else ""

    def _train(self, lessons: Sequence[Lesson], samples: Sequence[Sample]) -> None:
        learning = self.version.config.learning
        assert learning is not None
        scores = samples[0].outputs[self.scores]
        values = [sample.outputs[self.scores] for sample in samples]
        logits = any(float(value.min()) < 0 or float(value.max()) > 1 for value in values if value.size)
        job = Job(
            self.version.name,
            self.version.version,
            self.scores,
            classes_of(scores),
            logits,
            learning.seed,
            self.version.config.model_dump(mode="json", by_alias=True, exclude_unset=True),
        )
        self.step("write job")
        folder = self.work / "job"
        write_job(folder, job, self.version, lessons)
        command: tuple[str, ...] = TRAINER
        if learning.command:
            if not self.commands_allowed:
                raise LearnError(
                    f"{self.version.name}/model.toml names a trainer of its own, and the server does not allow it: set "
                    "learn_commands, or take learning.command away"
                )
            command = learning.command
        self.step("train")
        environment = worker_environment(os.environ) | ONE_THREAD
        run_limited([*command, str(folder)], learning.train_bytes_max, learning.train_s_max, environment, folder)


def compared(summary: Summary, sample: Sample) -> npt.NDArray[np.float64]:
    """The numbers by which frames are compared: the inputs' where they are few, and else the answers' beside them."""
    numbers = summary.of(sample.inputs, sample.outputs)
    plain = [at for at, name in enumerate(summary.names) if name.startswith("input.")]
    small = all(not name.endswith((".mean", ".size")) for name in summary.names if name.startswith("input."))
    return numbers[plain] if small and plain else numbers


def _said_weight(sample: Sample) -> float:
    """What its sender says that a label counts; nobody makes a label count more than others."""
    return min(1.0, sample.labelled.weight) if sample.labelled is not None else 1.0


def _base_rates(old: Sequence[Old]) -> dict[int, float]:
    """The share of each class among labels that were believed before; empty: there are too few."""
    labels = [each.label for each in old]
    if len(labels) < 100:
        return {}
    return {label: labels.count(label) / len(labels) for label in set(labels)}
