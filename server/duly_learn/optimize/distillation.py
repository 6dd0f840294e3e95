"""The step that distils: a smaller graph that is trained to give the original's answers on calibration frames.

Of a network of convolutions and dense layers the student is the pruned network, trained from its first changed layer
on. What cannot be trained in jax but takes a vector of numbers, such as trees, gets a student of another kind
(optimize/vector_student).
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import onnx

from duly_learn.optimize.examples import examples_of
from duly_learn.optimize.pruning import SHARE, notes_of, pruned_of, said_of
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused
from duly_learn.optimize.vector_student import ROWS_MAX, NoVector, vector_student

STEPS_MAX = 2000
SECONDS_MAX = 600.0
"""Training has so many steps (`training.Bounds.batch` frames each), or as many as fit into so many seconds."""
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
        """The pruned network, trained."""
        # Whoever only asks which steps there are need not wait for jax.
        from duly_learn.optimize.interpreter import CannotTrain
        from duly_learn.optimize.loss_of_task import loss_of
        from duly_learn.optimize.training import Bounds, TrainingFailed, train

        pruned = pruned_of(source, self.share, "sensitivity")
        loss, called = loss_of(source, [answers for _, answers in islice(examples_of(source, _SAMPLES), _SAMPLES)])
        try:
            trained = train(
                pruned.model,
                examples_of(source),
                loss,
                Bounds(self.steps, self.seconds),
                source.seed,
                pruned.first_changed,
            )
        except CannotTrain as error:
            raise Refused(f"the pruned graph cannot be trained: {error}") from error
        except TrainingFailed as error:
            raise Refused(f"training failed: {error}") from error
        onnx.save(trained.model, str(folder / "model.onnx"))
        said = (
            f"{said_of(pruned)}; then trained to give the original's answers on {trained.frames} frames, by {called}, "
            f"in {trained.steps} steps"
        )
        was, now = trained.unseen
        notes = [*notes_of(pruned), f"Its loss on frames kept from training fell from {was:.3g} to {now:.3g}."]
        if trained.steps < self.steps:
            notes.append(
                f"Training was cut to {trained.steps} of {self.steps} steps, as it may take {self.seconds:g} s: how "
                "many depends on the machine, and so do the weights, whatever the seed. More time (--train-seconds) "
                "would do better."
            )
        if trained.cut_short:
            notes.append("What training keeps of all frames would have been too large: the last ones were left out.")
        return Candidate("model.onnx", said, notes)


def _of_another_kind(source: OptimizeSource, folder: Path, refused: Refused) -> Candidate:
    """A student for a model that takes a vector, where the network itself can't be made smaller and trained."""
    try:
        model, said = vector_student(source, list(examples_of(source, ROWS_MAX)))
    except NoVector as error:
        raise Refused(f"{refused}; and {error}") from error
    onnx.save(model, str(folder / "model.onnx"))
    return Candidate("model.onnx", said, [f"The graph itself is not trained: {refused}."])
