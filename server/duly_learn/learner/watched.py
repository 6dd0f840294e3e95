"""One model that learns: its frames and labels are read from the store, its heart is told of them, and what has to last
is written down.

What is written down is where it was in the store, so that after an end of any kind no drift is told twice and no
attempt made twice. All else is made anew from the store, by reading again what is still there.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from duly.agreement.classes import answer_of, classes_of, label_of, scores_name
from duly.models.repository import ModelVersion
from duly.sampling.files import BrokenFile, read_file
from duly.sampling.sample import Sample
from duly.sampling.store import FRAMES, LABELLED, segment_name, segment_numbers
from duly_learn.learner.attempt import Attempt, Verdict, compared
from duly_learn.learner.heart import Drifted, Heart, Known
from duly_learn.learner.held_out import held_out
from duly_learn.learner.job import LEARNED_FILE
from duly_learn.learner.limits import Limits
from duly_learn.learner.old import OldFrames
from duly_learn.learner.publish import version_numbers
from duly_learn.learner.summaries import Summary
from duly_learn.learner.validation import RENEWED_MAX

REPLAYED_SEGMENTS = 8
"""After a start so many segments of frames from before are read again, to know what is usual."""
FRAMES_A_LOOK_MAX = 4096
"""At one look segments are read until there were so many frames, so that others have their turn."""
STATE_FILE = "state.json"
_LEARNED_BYTES_MAX = 1 << 20


@dataclass(slots=True)
class Lasting:
    """What is written down: the last segments of frames and of labels of which everything was told, the last one of
    labels that was there when a version was tried, and of what old frames were drawn.
    """

    frames: int = 0
    labelled: int = 0
    tried: int = 0
    offered: int = 0
    offered_ns: int = 0
    published: str = ""
    """The newest version that the learner has published."""
    judged: int = 0
    judged_from: str = ""
    """How many versions were judged in this regime that were made from this one, the last that one was made from."""
    renewed: int = 0
    """How often that number began anew for that version, as errors had changed."""
    trying: str = ""
    """The mark of the version that is tried; empty: none is, or how it ended is written down."""
    trying_labelled: int = 0
    """The last segment of labels that was there when that attempt began."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Drift, and the frame at which it was seen."""

    drifted: Drifted
    unix_ns: int
    """When the frame was received, or its label came."""
    stream: str
    """The stream's name, or its key where its client gave it none."""


class Watched:
    def __init__(
        self, version: ModelVersion, store: Path, work: Path, limits: Limits, passed_over: Callable[[Path, str], None]
    ) -> None:
        """`version`: the one that serves. `store`, `work`: the model's folders, of the store and of the learner."""
        learning = version.config.learning
        assert learning is not None
        self.version = version
        self.heart = Heart(learning)
        self.unusable = 0
        """Labels that name no class of the model, and those of frames without scores."""
        self.lasting = _read_state(work / STATE_FILE)
        _know_own_version(self.lasting, version.model_folder)
        self._written = replace(self.lasting)
        self._told = replace(self.lasting)
        """Up to there all was told before this start."""
        self._store, self._work, self._limits = store, work, limits
        self._passed_over = passed_over
        replayed = [number for number in segment_numbers(store / FRAMES) if number <= self.lasting.frames]
        self._frames_at = replayed[-REPLAYED_SEGMENTS] - 1 if len(replayed) >= REPLAYED_SEGMENTS else 0
        self._labelled_at = 0
        self._watched, self._compared = Summary(), Summary()

    # ---- what comes ----

    def look(self) -> list[Seen]:
        """Reads what is new. Returns the drift that was not told before this start."""
        self._begin_anew()
        found: list[Seen] = []
        for number, rows in self._segments(FRAMES, self._frames_at):
            seen = self._taken(FRAMES, number, rows)
            found += seen if number > self._told.frames else []
            self._frames_at = number
        for number, rows in self._segments(LABELLED, self._labelled_at):
            seen = self._taken(LABELLED, number, rows)
            found += seen if number > self._told.labelled else []
            self._labelled_at = number
            if number <= self._told.tried:
                self.heart.tried_before()
        self.lasting.frames = max(self.lasting.frames, self._frames_at)
        self.lasting.labelled = max(self.lasting.labelled, self._labelled_at)
        if any(each.drifted.new_regime for each in found):
            self._renew_risk()
        return found

    def _renew_risk(self) -> None:
        """What is judged from now on is another question than before the drift, and asked of other frames."""
        lasting = self.lasting
        if lasting.judged_from == self.version.version and lasting.judged and lasting.renewed < RENEWED_MAX:
            lasting.judged, lasting.renewed = 0, lasting.renewed + 1

    def _begin_anew(self) -> None:
        """Forgets where it was where the numbers of segments have begun again, as after their folder was removed."""
        lasting = self.lasting
        frames = _is_below(self._store / FRAMES, lasting.frames)
        labelled = _is_below(self._store / LABELLED, lasting.labelled)
        if frames:
            lasting.frames = self._told.frames = 0
        if labelled:
            lasting.labelled = lasting.tried = self._told.labelled = self._told.tried = 0
        if frames or labelled:
            self._passed_over(self._store, "the numbers of segments have begun again, all that is there is read anew")
            self.heart = Heart(self.heart.settings)
            self._watched, self._compared = Summary(), Summary()
            self._frames_at = self._labelled_at = 0

    @property
    def behind(self) -> bool:
        """Whether there is more to read at once."""
        numbers = segment_numbers(self._store / FRAMES)[-1:], segment_numbers(self._store / LABELLED)[-1:]
        return any(
            last and last[0] > at for last, at in zip(numbers, (self._frames_at, self._labelled_at), strict=True)
        )

    def _segments(self, kind: str, after: int) -> Iterator[tuple[int, list[Sample]]]:
        taken = 0
        for number in segment_numbers(self._store / kind):
            if number <= after:
                continue
            path = self._store / kind / segment_name(number)
            try:
                rows = read_file(path)
            except (BrokenFile, OSError) as error:
                self._passed_over(path, str(error) if isinstance(error, BrokenFile) else str(error.strerror))
                rows = []
            except Exception as error:  # a file that is odd in a way that reading does not know
                self._passed_over(path, f"{type(error).__name__}: {error}")
                rows = []
            yield number, rows
            taken += len(rows)
            if taken >= FRAMES_A_LOOK_MAX:
                return

    def _taken(self, kind: str, number: int, rows: Sequence[Sample]) -> list[Seen]:
        """Takes the frames or labels of a segment. One that is odd in a way that nobody has thought of ends it: it must
        stop neither what comes after it nor other models.
        """
        found: list[Seen] = []
        for row, sample in enumerate(rows):
            try:
                drifted = self._frame(sample) if kind == FRAMES else self._label(sample, (number, row))
                came_ns = sample.received_unix_ns if sample.labelled is None else sample.labelled.unix_ns
                found += [Seen(each, came_ns, sample.stream_name or sample.stream) for each in drifted]
            except Exception as error:
                reason = f"row {row} and those after it: {type(error).__name__}: {error}"
                self._passed_over(self._store / kind / segment_name(number), reason)
                break
        return found

    def _frame(self, sample: Sample) -> list[Drifted]:
        numbers = self._watched.of(sample.inputs, sample.outputs)
        return self.heart.frame(self._watched.names, numbers, sample.form.version)

    def _label(self, sample: Sample, place: tuple[int, int]) -> list[Drifted]:
        config = self.version.config
        assert config.learning is not None
        name = scores_name(sample.outputs, config.learning.output or config.task.output)
        scores = sample.outputs.get(name)
        label = None if scores is None else label_of(sample.labels, config.learning.label, name, classes_of(scores))
        if scores is None or label is None or sample.labelled is None:
            self.unusable += 1
            return []
        told = sample.labelled
        return self.heart.label(
            Known(
                number=self.heart.labels,
                place=place,
                key=(sample.stream, sample.frame_id),
                came_ns=told.unix_ns,
                numbers=compared(self._compared, sample),
                label=label,
                answer=answer_of(scores, config.task.threshold),
                principal=told.principal,
                source=told.source,
                version=sample.form.version,
                scores=name,
                held_out=held_out(sample, config.learning.validation.held_out, config.learning.seed),
            )
        )

    # ---- an attempt ----

    def attempt(self, step: Callable[[str], None], commands_allowed: bool) -> Attempt:
        """Returns what is to be tried now. Raises OSError where it cannot be written down that it is."""
        known = self.heart.usable()
        lasting = self.lasting
        lasting.trying, lasting.trying_labelled = secrets.token_hex(8), self._labelled_at
        self.write()
        return Attempt(
            version=self.version,
            known=known,
            scores=known[-1].scores,
            threshold=self.version.config.task.threshold,
            store=self._store,
            work=self._work,
            step=step,
            commands_allowed=commands_allowed,
            nth=1 + (lasting.judged if lasting.judged_from == self.version.version else 0),
            mark=lasting.trying,
            limits=self._limits,
        )

    def ended(self, verdict: Verdict, attempt: Attempt) -> None:
        """Takes how an attempt ended, and draws old frames from those that are believed. Raises OSError."""
        self.heart.tried(verdict.published, verdict.errors)
        self.lasting.tried = self._labelled_at
        self.lasting.trying = ""
        self.clear()
        if verdict.figures is not None:
            if self.lasting.judged_from != attempt.version.version:
                self.lasting.renewed = 0
            self.lasting.judged, self.lasting.judged_from = attempt.nth, attempt.version.version
        if verdict.published:
            self.lasting.published = verdict.published
        learning = self.heart.settings
        fresh = [
            sample
            for sample in verdict.trusted
            if sample.labelled is not None and sample.labelled.unix_ns > self.lasting.offered_ns
        ]
        old = self._old()
        if verdict.not_kept:
            old.let_go(verdict.not_kept)
        if fresh and learning.old_frames:
            self.lasting.offered = old.add(self.lasting.offered, fresh)
            self.lasting.offered_ns = max(sample.labelled.unix_ns for sample in fresh if sample.labelled is not None)
        self.write()

    def clear(self) -> None:
        """Removes the frames and files of an attempt that is over."""
        shutil.rmtree(self._work / "job", ignore_errors=True)

    def _old(self) -> OldFrames:
        learning = self.heart.settings
        return OldFrames(self._work / "old", learning.old_frames, learning.seed, self._limits.old_bytes_max)

    def write(self) -> None:
        """Writes down what has to last, if it has changed. Raises OSError."""
        if self.lasting == self._written:
            return
        self._work.mkdir(parents=True, exist_ok=True)
        half = self._work / f".{STATE_FILE}.half"
        half.write_text(json.dumps(asdict(self.lasting)))
        os.replace(half, self._work / STATE_FILE)
        self._written = replace(self.lasting)


def forget(work: Path, before_unix_ns: int) -> None:
    """Removes what a learner has copied into its folder of a model, where nothing is tried: the frames of an attempt
    that was ended, and old ones that were received earlier. Raises OSError.
    """
    shutil.rmtree(work / "job", ignore_errors=True)
    OldFrames(work / "old", 0, 0, 0).let_go_before(before_unix_ns)


def _is_below(folder: Path, number: int) -> bool:
    """Whether there are segments, and all have lower numbers."""
    last = segment_numbers(folder)[-1:]
    return bool(last) and last[0] < number


def _know_own_version(lasting: Lasting, model_folder: Path) -> None:
    """Takes it down where the version that was tried last is there, as of a learner that was ended just then."""
    if not lasting.trying:
        return
    for number in sorted(version_numbers(model_folder), reverse=True):
        try:
            with (model_folder / str(number) / LEARNED_FILE).open("rb") as file:
                said = json.loads(file.read(_LEARNED_BYTES_MAX))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(said, dict) and said.get("mark") == lasting.trying:
            lasting.published, lasting.tried = str(number), lasting.trying_labelled
            break
    lasting.trying = ""


def _read_state(file: Path) -> Lasting:
    try:
        return Lasting(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return Lasting()
