"""Reads the files that access depends on, in whole and never without a bound."""

import os
from pathlib import Path

from duly.access.errors import AccessError
from duly.models.files import Unfit, read_bounded


def read_file(path: Path, bytes_max: int) -> bytes:
    """Returns what a file holds. Raises AccessError where it is none, is too large or cannot be read."""
    try:
        return read_bounded(path, bytes_max)
    except FileNotFoundError:
        raise AccessError(f"{path}: there is no such file") from None
    except Unfit as error:
        raise AccessError(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise AccessError(f"{path}: can't be read: {error.strerror}") from None


def stamp(path: Path) -> tuple[int, ...]:
    """Returns what changes when a file does, links that lead to it included; empty where it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
