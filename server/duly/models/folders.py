"""The folders of a repository as file systems, tools and people leave them: what belongs to no model, and what a folder
is that was given as a repository and is none.
"""

import os
import re
from itertools import islice
from pathlib import Path

from duly.models.files import Unfit
from duly.models.formats import is_model, is_onnx

CONFIG_FILE = "model.toml"
"""The settings of a model, beside the folders of its versions."""
BARE_FILE = "model.onnx"
CHECKS_FOLDER = "checks"
"""Where the check samples of a version or of a model lie."""
ENTRIES_MAX = 10_000
"""A folder that holds more is not looked at any further. A version may be read from 4,096 files."""
VERSION = re.compile(r"[0-9]{1,18}")
"""The name of a version's folder, which must not be all zeros. TensorFlow Serving writes 0001 and 1700000000."""

_NOT_MODELS = frozenset({"lost+found", "system volume information", "desktop.ini", "thumbs.db"})
"""What file systems and desktops put anywhere, in lower case."""
_UNFINISHED = (".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".swp", ".swo", "~")
"""Names of what is still being copied, and of editors' back-ups, end so."""
_FIRST = (".", "__", "@", "#", "$", "~")
"""Names that begin so are hidden (.git, ._file, ..data) or belong to tools (__pycache__, @eaDir, #recycle)."""
_LISTED_MAX = 3


def passed_over(name: str) -> bool:
    """Whether what is called so is no part of a model, whatever it holds."""
    lower = name.lower()
    return name.startswith(_FIRST) or lower in _NOT_MODELS or lower.endswith(_UNFINISHED)


def entries(folder: Path) -> list[Path]:
    """What lies in a folder and may be part of a model, in order of the names.

    Raises OSError, which is Unfit where there is more than any model or repository has.
    """
    with os.scandir(folder) as inside:
        names = [entry.name for entry in islice(inside, ENTRIES_MAX + 1)]
    if len(names) > ENTRIES_MAX:
        raise Unfit(f"holds more than {ENTRIES_MAX:,} files and folders; take some of them away", folder)
    return [folder / name for name in sorted(names) if not passed_over(name)]


def onnx_files(folder: Path) -> list[str]:
    """The names of the ONNX files in a folder; none where it cannot be read."""
    try:
        return [path.name for path in entries(folder) if is_onnx(path.name)]
    except OSError:
        return []


def model_files(folder: Path) -> list[str]:
    """The names of the files in a folder that are models by their names, ONNX or not; none where it cannot be read."""
    try:
        return [path.name for path in entries(folder) if is_model(path.name)]
    except OSError:
        return []


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that may be part of a model; none where it cannot be read."""
    try:
        return [path for path in entries(folder) if path.is_dir()]
    except OSError:
        return []


def is_models_folder(folder: Path) -> bool:
    """Whether versions with models lie in a folder, so that it is the folder of one model."""
    return any(VERSION.fullmatch(path.name) and model_files(path) for path in subfolders(folder))


def instead_of(root: Path) -> str:
    """Says which folder was likely meant where `root` was given as a repository and holds no model; empty: unknown."""
    whole = Path(os.path.abspath(root))
    if root.is_file():
        if is_onnx(root.name) and VERSION.fullmatch(whole.parent.name):
            return f"{root} is the file of a version; give the parent of its model, {_path(whole.parents[2], root)}"
        return f"{root} is a file; a repository is a folder that holds NAME/VERSION/{BARE_FILE}"
    if files := onnx_files(root):
        if VERSION.fullmatch(whole.name):
            model, parent = whole.parent, _path(whole.parents[1], root)
            return f"{root} is a version of the model {model.name}; give the parent of the model, {parent}"
        return (
            f"{root} holds {files[0]} itself; move it to {_path(whole / Path(files[0]).stem / '1' / BARE_FILE, root)}, "
            "since each version of each model has a folder of its own"
        )
    if (root / "model.toml").exists() or is_models_folder(root):
        return f"{root} is the folder of the model {whole.name}; give its parent, {_path(whole.parent, root)}"
    inner = [path for path in subfolders(root) if any(map(is_models_folder, subfolders(path)))]
    if inner:
        names = " or ".join(_path(whole / path.name, root) for path in inner[:_LISTED_MAX])
        return f"{root} is one level too high, models lie in its folder {inner[0].name}; give {names}"
    return ""


def _path(path: Path, given: Path) -> str:
    """A path as the one who gave `given` would write it."""
    return str(path) if given.is_absolute() else os.path.relpath(path)
