"""Writes a new version of a model: everything into a folder that is passed over by whoever looks at the repository,
which then becomes the version's by one rename.
"""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from duly.models.folders import CHECKS_FOLDER, CONFIG_FILE, VERSION
from duly.models.repository import ModelVersion
from duly.models.sizes import SizeLimits
from duly.models.toml_text import toml_text
from duly.models.version_settings import own_settings, with_settings
from duly.runtime.worker_launch import check_version
from duly_learn.alone import Taken
from duly_learn.errors import LearnError
from duly_learn.graphs.describe import external_files
from duly_learn.running.model import LOAD_SECONDS_MAX

_PARTIAL = re.compile(r"\.[0-9]+\.[0-9]+\.partial")
MADE_FILE = "optimize.json"
"""What a version was made of and how, beside its graphs."""


class Unfit(LearnError):
    """The version that was made cannot be served. The message says why."""


class NoRoom(LearnError):
    """The version cannot be written. The message says why; nothing of it is there."""


@dataclass(frozen=True, slots=True)
class NewVariant:
    """A graph of the new version."""

    name: str
    folder: Path
    file: str
    """Its path in `folder`; external data lies beside it."""
    accuracy: float
    """Its agreement with the original; 0: nobody knows."""
    table: Path | None = None
    """A table of ranges in which its graph runs with 8 bits; None: the graph runs as it is."""


def clear(model_folder: Path) -> None:
    """Removes what one that was killed has left of a version; for who is alone there."""
    for path in model_folder.iterdir():
        if _PARTIAL.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def next_number(model_folder: Path) -> int:
    """Returns the number after all that the model has."""
    there = [int(path.name) for path in model_folder.iterdir() if VERSION.fullmatch(path.name)]
    return max(there, default=0) + 1


def check_free(model_folder: Path, number: int) -> None:
    """Raises Taken where the model has that version."""
    for path in model_folder.iterdir():
        if VERSION.fullmatch(path.name) and int(path.name) == number:
            raise Taken(f"{model_folder.name} has a version {number} already; a version never changes")


def write_version(
    version: ModelVersion,
    number: int,
    variants: Sequence[NewVariant],
    settings: Mapping[str, object],
    made: Mapping[str, object],
    threads: int,
) -> Path:
    """Writes version `number` of the model of `version`, and returns its folder.

    `variants`: the most accurate first. `settings`: what its model.toml says besides them, in place of the model's;
    what `version` says for itself it says too. `made`: how it was made, for whoever wants to know.

    Before it is moved into its place it is loaded as a server would load it, with its check samples.

    Raises:
        Unfit: it cannot be loaded.
        NoRoom: the file system takes no more, or does not let it be written.
        Taken: somebody else has made that version meanwhile.
    """
    home = version.model_folder
    partial = home / f".{number}.{os.getpid()}.partial"
    final = home / str(number)
    try:
        partial.mkdir()
        tables = []
        files: dict[Path, str] = {}
        for variant in variants:
            source = variant.folder / variant.file
            if source not in files:
                files[source] = _copy_graph(variant, partial)
            table: dict[str, object] = {"name": variant.name, "file": files[source]}
            if variant.accuracy:
                table["accuracy"] = round(variant.accuracy, 6)
            if variant.table is not None:
                table["int8_calibration"] = f"{variant.name}.calibration"
                shutil.copyfile(variant.table, partial / f"{variant.name}.calibration")
            tables.append(table)
        own = own_settings(version.config, version.own) | dict(settings) | {"variant": tables}
        config = with_settings(version.config, own)
        (partial / CONFIG_FILE).write_text(toml_text(config, own.keys()))
        (partial / MADE_FILE).write_text(json.dumps(made, indent=2) + "\n")
        if (version.folder / CHECKS_FOLDER).is_dir():
            shutil.copytree(version.folder / CHECKS_FOLDER, partial / CHECKS_FOLDER)
        _check(
            replace(version, version=str(number), folder=partial, config=with_settings(version.config, own)), threads
        )
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                _to_disk(path)
        os.rename(partial, final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if final.exists() and not isinstance(error, FileNotFoundError):
            raise Taken(f"{version.name} has a version {number} already, which somebody made meanwhile") from error
        needed = sum(
            path.stat().st_size for variant in variants for path in variant.folder.rglob("*") if path.is_file()
        )
        free = shutil.disk_usage(home).free
        raise NoRoom(
            f"{version.name}/{number} cannot be written: {os.strerror(error.errno or 0)}; it takes about {needed:,} "
            f"bytes, and {free:,} are free where the models lie. Nothing of it is there"
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _to_disk(home)
    return final


def _check(version: ModelVersion, threads: int) -> None:
    plain = tuple(variant for variant in version.config.variants if not variant.int8_calibration)
    if len(plain) < len(version.config.variants):  # what takes tables may not be on this machine
        version = replace(version, config=version.config.model_copy(update={"variants": plain, "providers": ()}))
    checked = asyncio.run(check_version(version, ("cpu:0",), threads, SizeLimits(), LOAD_SECONDS_MAX))
    if checked.problem is not None:
        raise Unfit(f"{version.key} is not written, as it cannot be served: {checked.problem}")


def _copy_graph(variant: NewVariant, folder: Path) -> str:
    """Copies a graph with its external data. Returns the path of the copy in `folder`, where one with external data has
    a folder of its own.
    """
    source = variant.folder / variant.file
    beside = external_files(onnx.load(str(source), load_external_data=False))
    file = f"{variant.name}/model.onnx" if beside else f"{variant.name}.onnx"
    (folder / file).parent.mkdir(exist_ok=True)
    shutil.copyfile(source, folder / file)
    for name in beside:
        target = (folder / file).parent / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / name, target)
    return file


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
