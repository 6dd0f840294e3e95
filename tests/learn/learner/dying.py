"""A learner that is killed as a step begins: python -m tests.learn.learner.dying STEP ARGUMENTS..."""

import os
import signal
import sys

from duly_learn.learner import __main__
from duly_learn.learner.telling import Teller


def dying(self: Teller, model: str, step: str) -> None:
    if step == WHEN:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    WHEN = sys.argv.pop(1)
    Teller.step = dying  # type: ignore[method-assign]
    sys.exit(__main__.main())
