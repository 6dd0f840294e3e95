"""The step that distils: a smaller graph that is trained to give the original's answers on calibration frames.

Of a network with large convolutions the student has three thinner ones in the place of each (optimize/factorise), of
others it is the pruned network. It is trained from its first changed layer on. What cannot be trained in jax but takes
a vector of numbers, such as trees, gets a student of another kind (optimize/vector_student).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import onnx

from duly_learn.optimize.examples import examples_of, feeds_of
from duly_learn.optimize.factorise import FRAMES_MAX, factorise
from duly_learn.optimize.pruning import SECONDS_MAX as FACTORISING_SECONDS_MAX
from duly_learn.optimize.pruning import SHARE, notes_of, pruned_of, said_of, until
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused
from duly_learn.optimize.vector_student import ROWS_MAX, NoVector, vector_student

STEPS_MAX = 2000
SECONDS_MAX = 600.0
"""Training has so many steps, or as many as fit into so many seconds."""
_PRUNED_BATCH, _PRUNED_RATE = 4, 5e-4
_FACTORISED_BATCH, _FACTORISED_RATE = 8, 1e-4
"""Frames a step, and the rate of training. Thinner layers are fitted well to begin with, and larger steps spoil that
first: at 3e-4, and with weights that were not balanced, the loss on frames of a street had risen from 0.64 to 0.70
after 250 steps; at 6e-5 and balanced it had fallen to 0.50."""
_SAMPLES = 32
"""So many answers tell what kind of loss fits."""


@dataclass(frozen=True, slots=True)
class Distillation:
    """Trains a smaller student."""

    share: float = SHARE
    steps: int = STEPS_MAX
    seconds: float = SECONDS_MAX
    name: str = "distilled"

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        """Raises Refused where no student can be made or trained; the message names the nodes that are in the way."""
        try:
            return self._smaller(source, folder)
        except Refused as refused:
            return _of_another_kind(source, folder, refused)

    def _smaller(self, source: OptimizeSource, folder: Path) -> Candidate:
        """A smaller network, trained."""
        # Whoever only asks which steps there are need not wait for jax.
        from duly_learn.optimize.interpreter import CannotTrain
        from duly_learn.optimize.loss_of_task import loss_of
        from duly_learn.optimize.training import Bounds, TrainingFailed, train

        student = _factorised(source, self.share) or _pruned(source, self.share)
        loss, called = loss_of(source, [answers for _, answers in islice(examples_of(source, _SAMPLES), _SAMPLES)])
        try:
            trained = train(
                student.model,
                examples_of(source),
                loss,
                Bounds(self.steps, self.seconds, student.batch, student.rate),
                source.seed,
                student.first_changed,
            )
        except CannotTrain as error:
            raise Refused(f"the smaller graph cannot be trained: {error}") from error
        except TrainingFailed as error:
            raise Refused(f"training failed: {error}") from error
        onnx.save(trained.model, str(folder / "model.onnx"))
        said = (
            f"{student.said}; then trained to give the original's answers on {trained.frames} frames, by {called}, "
            f"in {trained.steps} steps"
        )
        was, now = trained.unseen
        notes = [*student.notes, f"Its loss on frames kept from training fell from {was:.3g} to {now:.3g}."]
        if trained.steps < self.steps:
            notes.append(
                f"Training was cut to {trained.steps} of {self.steps} steps, as it may take {self.seconds:g} s: how "
                "many depends on the machine, and so do the weights, whatever the seed. More time (--train-seconds) "
                "would do better."
            )
        if trained.cut_short:
            notes.append("What training keeps of all frames would have been too large: the last ones were left out.")
        return Candidate("model.onnx", said, notes)


@dataclass(frozen=True, slots=True)
class _Student:
    """A smaller graph before it is trained."""

    model: onnx.ModelProto
    first_changed: str
    said: str
    notes: Sequence[str]
    batch: int
    rate: float


def _factorised(source: OptimizeSource, share: float) -> _Student | None:
    """The network with thinner layers; None where it has no convolutions that could be split."""
    if not source.calibration:
        return None
    try:
        made = factorise(
            source.load(), feeds_of(source, FRAMES_MAX), share, source.seed, until(FACTORISING_SECONDS_MAX)
        )
    except ValueError:  # nothing can be split, or ONNX Runtime cannot run a part of the graph
        return None
    layers = ", ".join(f"{name} through {a} and {b} numbers" for name, (a, b) in list(made.ranks.items())[:8])
    before, after = made.work
    said = f"convolutions split in three ({layers}), which leaves {after / before:.0%} of the multiplications"
    return _Student(made.model, made.first_changed, said, [], _FACTORISED_BATCH, _FACTORISED_RATE)


def _pruned(source: OptimizeSource, share: float) -> _Student:
    pruned = pruned_of(source, share, "sensitivity")
    return _Student(pruned.model, pruned.first_changed, said_of(pruned), notes_of(pruned), _PRUNED_BATCH, _PRUNED_RATE)


def _of_another_kind(source: OptimizeSource, folder: Path, refused: Refused) -> Candidate:
    """A student for a model that takes a vector, where the network itself can't be made smaller and trained."""
    try:
        model, said = vector_student(source, list(examples_of(source, ROWS_MAX)))
    except NoVector as error:
        raise Refused(f"{refused}; and {error}") from error
    onnx.save(model, str(folder / "model.onnx"))
    return Candidate("model.onnx", said, [f"The graph itself is not trained: {refused}."])
