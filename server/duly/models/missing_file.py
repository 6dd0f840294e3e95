"""Says why the file of a model is not where it is looked for, and what lies there in its place."""

import os
from itertools import islice
from pathlib import Path

from duly.models.folders import CONFIG_FILE, ENTRIES_MAX, onnx_files, passed_over, subfolders
from duly.models.formats import named
from duly.models.text_files import what_is_there
from duly.models.wording import first_few

_NAMED_MAX = 5


def foreign(inside: list[Path]) -> str:
    """Says what the first file is that is a model of another kind; empty: none is."""
    return next((f"; {path.name} is {what}" for path in inside if (what := named(path.name))), "")


def no_file(folder: Path, file: str, inside: list[Path], files: list[str], stated: bool) -> str:
    """Says why the file of a variant cannot be had, and which one to name in its place."""
    place = f"{folder.parent.name}/{folder.name}"
    path = folder / file
    if path.is_symlink():
        return f"{file} in {place} {what_is_there(path)}"
    deeper = [f"{inner.name}/{found}" for inner in subfolders(folder) for found in onnx_files(inner)]
    others = files or deeper
    has = f"which has {first_few(others, _NAMED_MAX)}" if others else "where no .onnx file is"
    reason = f"there is no {file} in {place}, {has}"
    if path.is_dir():
        reason = f"{file} in {place} is a folder" + (f" with {first_few(deeper, _NAMED_MAX)}" if deeper else "")
    if others and not stated:
        reason += f'; name it in {CONFIG_FILE}: variant = [{{ name = "default", file = "{others[0]}" }}]'
    return reason + ("" if others else foreign(inside) + _unfinished(folder))


def _unfinished(folder: Path) -> str:
    """Says which file is still being copied, where one is."""
    with os.scandir(folder) as found:
        names = sorted(entry.name for entry in islice(found, ENTRIES_MAX) if ".onnx" in entry.name.lower())
    return f"; {names[0]} is not read, by its name it is not yet whole" if names and passed_over(names[0]) else ""
