"""Where optimising works: a folder that goes with it, or, where it was killed, when the next one begins."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "duly-optimizing-"
YOUNG_SECONDS = 60.0
"""A folder is left alone for so long after anything was put into it: its owner may not hold the lock yet."""


@contextmanager
def work_folder() -> Iterator[Path]:
    """Gives an empty folder, which is removed when the block ends, as are those of processes that were killed: each
    holds a lock on its own, which the system lets go with the process. Raises OSError.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        descriptor = _locked(left) if _is_old(left) else None
        if descriptor is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(descriptor)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        descriptor = _locked(Path(name))
        try:
            yield Path(name).resolve()
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _is_old(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > YOUNG_SECONDS
    except OSError:
        return False


def _locked(folder: Path) -> int | None:
    """Returns the descriptor that holds the folder's lock; None: another process holds it, or it can't be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
