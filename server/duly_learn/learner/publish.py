"""A new version is moved into the repository in whole, by one rename, or not at all.

It is first copied to a folder of the model whose name a repository passes over, and is on the disk when it is renamed:
whoever looks, and whatever breaks off, finds a whole version or none. The next attempt clears away what is left of one
that broke off: who publishes, clears or prunes has the model's folder alone (`duly_learn.alone`), so that what lies
there is of somebody who is no more.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from duly.models.folders import CONFIG_FILE, VERSION
from duly.models.manifest import MANIFEST_FILE
from duly_learn.errors import LearnError
from duly_learn.learner.job import LEARNED_FILE

_STAGE = ".learning-"
_TRIES = 8
"""So many numbers are tried where others publish versions at the same time."""


class NotPublished(LearnError):
    """The version is made and cannot be put into the repository. The message says why; it is tried again."""


def publish(
    model_folder: Path, out: Path, told: Mapping[str, object], with_manifest: bool, step: Callable[[str], None]
) -> str:
    """Puts the files of `out` into the repository as the next version, and returns its number.

    `told`: what is written down about how it was made. `with_manifest`: whether it gets a sha256sums, as the version
    that it was made from has one. `step`: told each step as it begins. Raises NotPublished.
    """
    step("publish")
    try:
        clear(model_folder)
        stage = model_folder / f"{_STAGE}{os.getpid()}"
        shutil.copytree(out, stage)
        (stage / LEARNED_FILE).write_text(json.dumps(told, indent=2))
        if with_manifest:
            (stage / MANIFEST_FILE).write_text(_manifest(stage, model_folder))
        mode = stat.S_IMODE(model_folder.stat().st_mode)  # who may read the model may read its versions
        for path in (*stage.rglob("*"), stage):
            path.chmod(mode if path.is_dir() else mode & 0o666)
            _sync(path)
        step("rename")
        for _ in range(_TRIES):
            number = str(max(version_numbers(model_folder), default=0) + 1)
            try:
                os.rename(stage, model_folder / number)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue  # somebody else has published that number meanwhile
            _sync(model_folder)
            return number
        raise NotPublished(f"{model_folder.name}: others publish versions faster than this one can be")
    except OSError as error:
        clear(model_folder)
        full = "; make room on its disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise NotPublished(
            f"{model_folder.name}: the repository cannot be written to: {error.strerror}{full}"
        ) from None


def clear(model_folder: Path) -> None:
    """Removes what is left of publishing that broke off."""
    for path in model_folder.glob(f"{_STAGE}*"):
        shutil.rmtree(path, ignore_errors=True)


def prune(model_folder: Path, kept: int, needed: Collection[str]) -> list[str]:
    """Removes the oldest versions that a learner made, beyond `kept` of them, but none of `needed`. Returns those."""
    own = [
        number
        for number in sorted(version_numbers(model_folder))
        if (model_folder / str(number) / LEARNED_FILE).is_file()
    ]
    removed = []
    for number in own[: max(0, len(own) - kept)]:
        if str(number) in needed:
            continue
        gone = model_folder / f"{_STAGE}gone-{number}"
        try:
            os.rename(model_folder / str(number), gone)
        except OSError:
            continue
        shutil.rmtree(gone, ignore_errors=True)
        removed.append(str(number))
    return removed


def version_numbers(model_folder: Path) -> list[int]:
    """Returns the numbers of the versions that a model has."""
    return [int(path.name) for path in model_folder.iterdir() if VERSION.fullmatch(path.name)]


def _manifest(stage: Path, model_folder: Path) -> str:
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(stage)}"
        for path in sorted(stage.rglob("*"))
        if path.is_file()
    ]
    if (config := model_folder / CONFIG_FILE).is_file():
        lines.append(f"{hashlib.sha256(config.read_bytes()).hexdigest()}  ../{CONFIG_FILE}")
    return "\n".join(lines) + "\n"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
