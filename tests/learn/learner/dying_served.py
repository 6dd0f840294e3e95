"""A learner of a server that dies again and again: in each life at the next step of a list, and for good at none.

    dying_served.py ARGUMENTS --store FOLDER/store ...

FOLDER/steps has the steps that are left, a line each. At `trainer NAME` it is the trainer that is killed, and the
learner with its report on it: as it begins, when it has trained, in the middle of writing the graph, or at its end.
"""

import os
import signal
import sys
from pathlib import Path

import onnx

from duly_learn.learner import __main__, attempt, train
from duly_learn.learner.telling import Teller

TRAINER = "trainer "
DEATHS = ("begins", "has trained", "writes", "ends")


def die(*ignored: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_half(model: onnx.ModelProto, path: str) -> None:
    graph = model.SerializeToString()
    with open(path, "wb") as file:
        file.write(graph[: len(graph) // 2])
        file.flush()
        die()


def train_until(death: str) -> None:
    if death == "begins":
        die()
    elif death == "has trained":
        onnx.save = die
    elif death == "writes":
        onnx.save = write_half
    train.main()
    die()


def learn_until(steps: Path) -> int:
    step, *left = steps.read_text().splitlines() or [""]
    steps.write_text("\n".join(left))
    if step.startswith(TRAINER):
        death = step.removeprefix(TRAINER)
        attempt.TRAINER = (sys.executable, "-P", __file__, TRAINER, death)
        Teller.attempt = die  # type: ignore[method-assign]
    elif step:
        told = Teller.step

        def dying(self: Teller, model: str, now: str) -> None:
            told(self, model, now)
            if now == step:
                die()

        Teller.step = dying  # type: ignore[method-assign]
    return __main__.main()


if __name__ == "__main__":
    if sys.argv[1] == TRAINER:
        death = sys.argv[2]
        del sys.argv[1:3]  # what is left is the folder of the job
        train_until(death)
    sys.exit(learn_until(Path(sys.argv[sys.argv.index("--store") + 1]).parent / "steps"))
