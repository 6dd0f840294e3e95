"""A folder of models, read and checked without loading any.

    ROOT/NAME/model.toml            optional: what the graph does not say
    ROOT/NAME/VERSION/*.onnx        VERSION: 1, 2, 3 ...; immutable once it is there

Whatever is wrong with one model is reported with its name and place, and never hides the other models.
"""

import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import get_args

from pydantic import ValidationError

from duly.models.spec import ModelConfig, Step, Variant, op_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_TAGS = frozenset({*map(op_of, get_args(Step)), "int", "float", "str", "bool"})
"""Members of unions. Pydantic puts the one that it tried into the place of an error, where the file has no such key."""

CONFIG_FILE = "model.toml"
BARE_FILE = "model.onnx"
FILE_BYTES_MAX = 1 << 20
"""The largest model.toml or label file. The largest label set in wide use, ImageNet-21k, has half of that."""
ERRORS_NAMED_MAX = 5
"""A problem names so many errors of one model.toml and counts the rest."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model that can be given to a worker."""

    name: str
    version: str
    """A positive integer."""
    folder: Path
    """The folder with the files of the variants, behind any link, which may lead elsewhere later."""
    model_folder: Path
    """The folder with model.toml and the files that it names, except the variants, behind any link."""
    config: ModelConfig
    labels: tuple[str, ...]
    key: str = field(init=False)
    """NAME/VERSION, unique in the server."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.name}/{self.version}")


@dataclass(frozen=True, slots=True)
class RepositoryProblem:
    """A model or a version that cannot be used."""

    name: str
    version: str
    """The version; empty: the problem concerns the whole model."""
    reason: str
    """What is wrong, with file and place relative to the repository."""


class _Broken(Exception):
    """One model or version cannot be used; the message says why."""


class Repository:
    """The models in the folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def scan(self) -> tuple[list[ModelVersion], list[RepositoryProblem]]:
        """Returns all versions that lie there now, by name and the newest first, and what is wrong with the others.

        Hidden folders and files beside the models' folders are passed over.

        Raises:
            NotADirectoryError: there is no such folder.
        """
        if not self.root.is_dir():
            raise NotADirectoryError(f"model repository {self.root} is not a folder")
        versions: list[ModelVersion] = []
        problems: list[RepositoryProblem] = []
        for folder in sorted(_folders(self.root)):
            try:
                _check_name(folder.name)
                config = _config(folder)
                labels = _labels(folder, config)
                names = _version_names(folder, problems)
            except (_Broken, OSError) as error:
                problems.append(RepositoryProblem(folder.name, "", f"{folder.name}{_relative(error)}"))
                continue
            for name in names:
                try:
                    versions.append(_version(folder, name, config, labels))
                except (_Broken, OSError) as error:
                    problems.append(RepositoryProblem(folder.name, name, f"{folder.name}{_relative(error)}"))
        return versions, problems


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _relative(error: _Broken | OSError) -> str:
    """Returns the error's text without the path of the repository."""
    return f"/{Path(error.filename).name}: {error.strerror}" if isinstance(error, OSError) else str(error)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise _Broken(
            ": a model's name has letters, digits, '_', '.' and '-' alone, begins with a letter or digit "
            "and has at most 64 of them; rename the folder"
        )


def _version_names(folder: Path, problems: list[RepositoryProblem]) -> list[str]:
    """Returns the versions of a model, the newest first."""
    names = []
    for path in sorted(_folders(folder)):
        if _VERSION.fullmatch(path.name):
            names.append(path.name)
        else:
            reason = (
                f"{folder.name}/{path.name}: a version is a positive integer without leading zeros; rename the folder"
            )
            problems.append(RepositoryProblem(folder.name, path.name, reason))
    if not names and not any(problem.name == folder.name for problem in problems):
        raise _Broken(f": no version is there; put the model's file to {folder.name}/1/{BARE_FILE}")
    return sorted(names, key=int, reverse=True)


def _config(folder: Path) -> ModelConfig:
    path = folder / CONFIG_FILE
    if not path.exists():
        return ModelConfig()
    try:
        contents = tomllib.loads(_text(path, CONFIG_FILE))
        # From JSON pydantic takes a list for a tuple even when it is strict; strict means that "416" is not a number.
        return ModelConfig.model_validate_json(json.dumps(contents, default=str), strict=True)
    except tomllib.TOMLDecodeError as error:
        raise _Broken(f"/{CONFIG_FILE}: not TOML: {error}") from error
    except ValidationError as error:
        raise _Broken(f"/{CONFIG_FILE}: {_sentences(error)}") from error


def _text(path: Path, name: str) -> str:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise _Broken(f"/{name}: {path.stat().st_size:,} bytes; at most {FILE_BYTES_MAX:,} are read")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise _Broken(f"/{name}: not UTF-8: byte {error.start} can't be decoded") from error


def _sentences(error: ValidationError) -> str:
    """Puts pydantic's errors into sentences such as `place: what is wrong, got what`."""
    sentences: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_context=False):
        place = _place(detail["loc"])
        if detail["type"] == "extra_forbidden":
            sentence = f"{place}: there is no such key"
        elif detail["type"] == "missing":
            sentence = f"{place}: is missing"
        elif detail["type"] == "value_error":
            sentence = detail["msg"].removeprefix("Value error, ")
        elif isinstance(detail["input"], dict | list):
            sentence = f"{place}: {detail['msg']}"
        else:
            sentence = f"{place}: {detail['msg']}, got {json.dumps(detail['input'], default=str)}"
        sentences.setdefault(place or sentence, sentence)
    more = len(sentences) - ERRORS_NAMED_MAX
    return "; ".join(list(sentences.values())[:ERRORS_NAMED_MAX]) + (f"; and {more} more" if more > 0 else "")


def _place(location: tuple[int | str, ...]) -> str:
    """Formats a place like `input[0].preprocess[1].width`."""
    place = ""
    for index, part in enumerate(location):
        if isinstance(part, int):
            place += f"[{part}]"
        elif index < 2 or part not in _TAGS:
            place += f".{part}" if place else part
    return place


def _labels(folder: Path, config: ModelConfig) -> tuple[str, ...]:
    if not config.labels:
        return ()
    _check_inside(config.labels, f"/{CONFIG_FILE}: labels")
    path = folder / config.labels
    if not path.is_file():
        raise _Broken(f"/{CONFIG_FILE}: labels: there is no file {config.labels} beside it")
    labels = tuple(line.strip() for line in _text(path, config.labels).strip().splitlines())
    if not labels:
        raise _Broken(f"/{config.labels}: no label is in it; write one class name a line")
    return labels


def _check_inside(file: str, place: str) -> None:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise _Broken(f'{place}: "{file}" leaves the folder; name a file in it')


def _version(folder: Path, version: str, config: ModelConfig, labels: tuple[str, ...]) -> ModelVersion:
    version_folder = folder / version
    files = sorted(path.name for path in version_folder.iterdir() if path.suffix == ".onnx")
    stated = "variants" in config.model_fields_set
    if not stated and BARE_FILE not in files and len(files) == 1:
        config = config.model_copy(update={"variants": (Variant(name="default", file=files[0]),)})
    for index, variant in enumerate(config.variants):
        place = f"/{CONFIG_FILE}: variant[{index}].file" if stated else f"/{version}"
        _check_inside(variant.file, place)
        if not (version_folder / variant.file).is_file():
            has = f"which has {', '.join(files)}" if files else "where no .onnx file is"
            raise _Broken(f"{place}: there is no {variant.file} in {folder.name}/{version}, {has}")
    for index, provider in enumerate(config.providers):
        if provider.library and not (folder / provider.library).is_file():
            raise _Broken(f"/{CONFIG_FILE}: providers[{index}].library: there is no file {provider.library}")
    return ModelVersion(folder.name, version, version_folder.resolve(), folder.resolve(), config, labels)
