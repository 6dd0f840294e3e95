"""What the file system says of everything in a repository, to be compared with what it said before.

Names, sizes, times and inodes are read and no contents, so that looking once a second costs next to nothing. A change
that leaves all of them as they were is not seen.
"""

import os
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

from duly.models.files import open_ordinary
from duly.models.folders import ENTRIES_MAX, passed_over

_DEPTH = 3
"""How deep in a model's folder is looked: NAME/VERSION/FOLDER/FILE. External data rarely lies deeper."""

Stamp = int
Stamps = Mapping[str, Mapping[str, Stamp]]
"""By model, and by what lies in its folder. Equal stamps: nothing has changed."""


def read_stamps(root: Path) -> Stamps:
    """Looks at all models. Raises OSError where the repository itself cannot be read."""
    return {name: _inside(path) for name, path in _entries(root) if os.path.isdir(path)}


def written_to(folder: Path, is_written: Callable[[int], bool]) -> str:
    """Returns the name of a file in a version's folder that a process has open for writing; empty: there is none."""
    for name, path in _entries(folder):
        try:
            with open_ordinary(Path(path)) as file:
                if is_written(file.fileno()):
                    return name
        except OSError:
            continue  # whoever loads the version says what is wrong with it
    return ""


def _inside(folder: str) -> dict[str, Stamp]:
    try:
        return {name: hash(_state(path, _DEPTH - 1)) for name, path in _entries(Path(folder))}
    except OSError as error:
        return {"": hash(error.errno)}


def _state(path: str, depth: int) -> tuple[object, ...]:
    try:
        state = os.stat(path)
        found = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        if depth and os.path.isdir(path):
            return (*found, *((name, _state(inside, depth - 1)) for name, inside in _entries(Path(path))))
        return found
    except OSError as error:
        return (error.errno,)


def _entries(folder: Path) -> list[tuple[str, str]]:
    with os.scandir(folder) as found:
        return sorted((entry.name, entry.path) for entry in islice(found, ENTRIES_MAX) if not passed_over(entry.name))
