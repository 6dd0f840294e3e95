"""Who makes a new version of a model does so alone: neither two learners nor a learner and a person who optimises."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from duly_learn.errors import LearnError


class Taken(LearnError):
    """Somebody else is at it, or has been."""


@contextmanager
def alone(model_folder: Path) -> Iterator[None]:
    """Keeps others from making versions of the same model meanwhile, in this process or another, until the block ends;
    also where this process dies. Raises Taken, or OSError where the folder is gone.
    """
    descriptor = os.open(model_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Taken(
                f"{model_folder.name}: a version is being made already, by an optimisation or a learner; wait until "
                "that is done"
            ) from None
        yield
    finally:
        os.close(descriptor)
