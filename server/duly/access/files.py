"""Reads the files that access depends on, in whole and never without a bound."""

import os
from pathlib import Path

from duly.access.errors import AccessError


def read_file(path: Path, bytes_max: int) -> bytes:
    """Returns what a file holds. Raises AccessError where it is none, is too large or cannot be read."""
    try:
        if not path.is_file():
            raise AccessError(f"{path}: " + ("should be a file" if path.exists() else "there is no such file"))
        with path.open("rb") as file:
            contents = file.read(bytes_max + 1)
    except OSError as error:
        raise AccessError(f"{path}: can't be read: {error.strerror}") from None
    if len(contents) > bytes_max:
        raise AccessError(f"{path}: has more than {bytes_max} bytes")
    return contents


def stamp(path: Path) -> tuple[int, ...]:
    """Returns what changes when a file does, links that lead to it included; empty where it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
