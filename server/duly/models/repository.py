"""A folder of models, read and checked without loading any.

    ROOT/NAME/model.toml            optional: what the graph does not say
    ROOT/NAME/config.pbtxt          the same as Triton has it, read where there is no model.toml
    ROOT/NAME/VERSION/*.onnx        VERSION: 1, 2, 3 ...; immutable once it is there
    ROOT/NAME/VERSION/model.toml    optional: what this version says otherwise, see version_settings

Whatever is wrong with one model is reported with its name and place, and never hides the other models. What file
systems, desktops, editors and copies that are under way put beside models is passed over.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from duly.models.errors import BrokenModel
from duly.models.files import Unfit
from duly.models.folders import (
    BARE_FILE,
    CONFIG_FILE,
    VERSION,
    entries,
    instead_of,
    is_models_folder,
    model_files,
    onnx_files,
    subfolders,
)
from duly.models.formats import is_model, is_onnx
from duly.models.labels import read_labels
from duly.models.missing_file import foreign, no_file
from duly.models.settings_file import read_settings
from duly.models.spec import ModelConfig, Signature, TensorSpec, Variant
from duly.models.text_files import unreadable, what_is_there
from duly.models.triton.config_pbtxt import Settings
from duly.models.triton.origin import TRITON_FILE, Lines, in_pbtxt
from duly.models.version_settings import in_own_file, own_name, with_own_settings
from duly.models.wording import first_few, in_print

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAME_CHARS_MAX = 64
_NEARLY_VERSION = re.compile(r"[vV]?[-_.]?0*([1-9][0-9]{0,17})(\.0*)*")
_VERSION_RULE = "a version is a positive whole number"
_NAMED_MAX = 5
"""A problem names so many files and counts the rest."""


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
    digests: Mapping[str, str] = field(default_factory=dict, compare=False)
    """SHA-256 of what was read of model.toml and of the labels, by their names; without a file of settings: nothing."""
    own: frozenset[str] = field(default=frozenset(), compare=False)
    """The settings that are from the version's own model.toml, by their keys."""
    lines: Lines = field(default_factory=dict, compare=False)
    """Where in config.pbtxt a setting is from; empty where it is not what the settings were read from."""
    key: str = field(init=False)
    """NAME/VERSION, unique in the server."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.name}/{self.version}")

    def told(self, reason: str) -> str:
        """Puts a reason that names a place in model.toml into the words of the file that the settings are from."""
        return in_pbtxt(in_own_file(reason, self.version, self.own), self.lines)


@dataclass(frozen=True, slots=True)
class RepositoryProblem:
    """A model or a version that cannot be used, or something odd beside those that can."""

    name: str
    version: str
    """The version; empty: the problem concerns the whole model."""
    reason: str
    """What is wrong, with file and place relative to the repository."""
    harmless: bool = False
    """Nothing is kept from being served: it is only worth knowing."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", in_print(self.reason))


class NotARepository(NotADirectoryError):
    """The folder that was given holds no models. The message says what it is, and which folder to give."""


class Repository:
    """The models in the folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def scan(self) -> tuple[list[ModelVersion], list[RepositoryProblem]]:
        """Returns all versions that lie there now, by name and the newest first, and what is wrong with the others.

        Raises:
            NotARepository: there is no such folder, it cannot be read, or it is a folder above or below a repository.
        """
        versions: list[ModelVersion] = []
        problems: list[RepositoryProblem] = []
        try:
            if not self.root.is_dir():
                raise NotARepository(instead_of(self.root) or f"model repository {self.root} is not a folder")
            found = entries(self.root)
        except NotARepository:
            raise
        except OSError as error:
            raise NotARepository(f"model repository {self.root} {unreadable(error)}") from error
        for path in found:
            try:
                if not path.is_dir():
                    problems += _beside_models(path)
                elif _is_called_as_a_model(path, problems):
                    _scan_model(path, versions, problems)
            except Exception as error:  # whatever lies there, it is not the other models' affair
                name = in_print(path.name)
                problems.append(RepositoryProblem(name, "", _reason(name, error, {})))
        if not versions and (advice := instead_of(self.root)):
            raise NotARepository(advice)
        return versions, problems


def _scan_model(folder: Path, versions: list[ModelVersion], problems: list[RepositoryProblem]) -> None:
    """Adds the versions of one model, the newest first, and what is wrong with it and with others of its versions."""
    lines: Lines = {}
    try:
        inside = entries(folder)
        if not _holds_model(inside):
            reason = f"{folder.name}: holds neither a version nor a model's file, and is passed over"
            problems.append(RepositoryProblem(folder.name, "", reason, harmless=True))
            return
        _check_config_name(folder, inside)
        digests: dict[str, str] = {}
        settings = read_settings(folder, {path.name for path in inside}, digests)
        lines = settings.lines
        labels = _labels(folder, settings.config, digests)
        numbered = _versions(folder, inside, problems)
    except Exception as error:  # whatever it is, the other models are read
        problems.append(RepositoryProblem(folder.name, "", _reason(folder.name, error, lines)))
        return
    problems += _worth_knowing(folder, inside, numbered, settings.notes)
    for number in sorted(_served(folder, numbered, settings.config, problems), reverse=True):
        try:
            versions.append(_version(folder, numbered[number], str(number), settings, labels, digests))
        except Exception as error:
            problems.append(RepositoryProblem(folder.name, str(number), _reason(folder.name, error, lines)))


def _served(
    folder: Path, numbered: Mapping[int, Path], config: ModelConfig, problems: list[RepositoryProblem]
) -> list[int]:
    """Returns the versions that may be served, and adds those that the settings leave out."""
    only = config.versions.only
    for number, path in numbered.items():
        if only and number not in only:
            listed = first_few([str(each) for each in only], _NAMED_MAX)
            reason = (
                f"{folder.name}/{path.name}: is passed over, as the settings name the versions that serve: {listed}"
            )
            problems.append(RepositoryProblem(folder.name, str(number), reason, harmless=True))
    return [number for number in numbered if not only or number in only]


def _reason(name: str, error: Exception, lines: Lines) -> str:
    """Returns what is wrong without the path of the repository."""
    if isinstance(error, BrokenModel):
        return f"{name}{in_pbtxt(str(error), lines)}"
    if not isinstance(error, OSError):
        return f"{name}: cannot be read ({type(error).__name__})"
    inside = Path(error.filename).name if error.filename else ""
    what = error.strerror if isinstance(error, Unfit) else unreadable(error)
    return f"{name}{f'/{inside}' if inside not in ('', name) else ''}: {what}"


# ---- beside the models ----


def _is_called_as_a_model(folder: Path, problems: list[RepositoryProblem]) -> bool:
    """Whether a folder's name can be a model's. Where it can't and the folder holds a model, that is a problem."""
    if _NAME.fullmatch(folder.name):
        return True
    if any(map(model_files, subfolders(folder))):
        name = in_print(folder.name)
        reason = (
            f"{name}: a model's name has letters, digits, '_', '.' and '-' alone, begins with a letter or digit "
            f"and has at most 64 of them; rename the folder, such as to {_plain_name(folder.name)}"
        )
        problems.append(RepositoryProblem(name, "", reason))
    return False


def _plain_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip("_.-")[:_NAME_CHARS_MAX] or "model"


def _beside_models(path: Path) -> list[RepositoryProblem]:
    """What a file beside the models' folders would want to be; nothing where it is just a file."""
    name = in_print(path.name)
    if is_onnx(path.name):
        reason = f"{name}: lies beside the models and is not served; move it to {Path(name).stem}/1/{BARE_FILE}"
        return [RepositoryProblem(name, "", reason, harmless=True)]
    if path.is_symlink() and not path.exists() and _NAME.fullmatch(path.name):
        return [RepositoryProblem(name, "", f"{name}: {what_is_there(path)}")]
    return []


def _holds_model(inside: list[Path]) -> bool:
    """Whether what lies in a folder is, or should be, a model: an empty folder is one whose files are forgotten."""
    return not inside or any(
        VERSION.fullmatch(path.name)
        or path.name in (CONFIG_FILE, TRITON_FILE)
        or is_model(path.name)
        or (path.is_dir() and model_files(path))
        for path in inside
    )


# ---- in the folder of one model ----


def _check_config_name(folder: Path, inside: list[Path]) -> None:
    """Raises BrokenModel where the settings of the model would be passed over because of their file's name or place."""
    names = [path.name for path in inside]
    if CONFIG_FILE in names:
        return
    for name in names:
        if name.lower() in (CONFIG_FILE, f"{CONFIG_FILE}.txt"):
            raise BrokenModel(f"/{name}: is not read; a model's settings stand in {CONFIG_FILE}: rename it")


def _labels(folder: Path, config: ModelConfig, digests: dict[str, str], toml: str = CONFIG_FILE) -> tuple[str, ...]:
    if not config.labels:
        return ()
    _check_inside(config.labels, f"/{toml}: labels")
    return read_labels(folder, config.labels, digests, toml)


def _versions(folder: Path, inside: list[Path], problems: list[RepositoryProblem]) -> dict[int, Path]:
    """Returns the folders of a model's versions by their numbers, and adds what is wrong with others.

    Raises:
        BrokenModel: there is no version.
    """
    numbered: dict[int, Path] = {}
    wrong: dict[str, str] = {}
    harmless: dict[str, str] = {}
    for path in inside:
        if not VERSION.fullmatch(path.name):
            continue
        if path.is_file():
            harmless[path.name] = "is a file; a version is a folder"
        elif not path.is_dir():
            wrong[path.name] = f"{what_is_there(path)}; a version is a folder"
        elif not int(path.name):
            wrong[path.name] = f"{_VERSION_RULE}; rename the folder to 1"
        elif (first := numbered.setdefault(int(path.name), path)) is not path:
            wrong[path.name] = (
                f"is version {int(path.name)} again, as {folder.name}/{first.name} is; take one of them away"
            )
    places = {version.resolve() for version in numbered.values()}
    for path in inside:
        if VERSION.fullmatch(path.name) or not path.is_dir() or (path.is_symlink() and path.resolve() in places):
            continue  # a link such as `latest` stands for a version that is there under its number too
        if nearly := _NEARLY_VERSION.fullmatch(path.name):
            if model_files(path):
                wrong[path.name] = f"{_VERSION_RULE}; rename the folder to {nearly[1]}"
        elif onnx_files(path) or (model_files(path) and not numbered):
            odd = harmless if numbered else wrong
            odd[path.name] = f"{_VERSION_RULE}; rename the folder to {max(numbered, default=0) + 1} for it to be one"
    for odd in (wrong, harmless):
        problems += [
            RepositoryProblem(folder.name, name, f"{folder.name}/{name}: {reason}", harmless=odd is harmless)
            for name, reason in odd.items()
        ]
    if not numbered and not wrong:
        raise BrokenModel(_nothing_there(folder, inside))
    return numbered


def _nothing_there(folder: Path, inside: list[Path]) -> str:
    if files := onnx_files(folder):
        return f": {files[0]} lies beside the versions; move it to {folder.name}/1/{BARE_FILE}"
    if models := [path.name for path in inside if path.is_dir() and is_models_folder(path)]:
        return f": holds models itself ({first_few(models, _NAMED_MAX)}); move them one level up, or serve this folder"
    return f": no version is there; put the model's file to {folder.name}/1/{BARE_FILE}{foreign(inside)}"


def _worth_knowing(
    folder: Path, inside: list[Path], numbered: dict[int, Path], notes: Sequence[str]
) -> list[RepositoryProblem]:
    """What lies in a model's folder and is passed over, though its author may expect that it is not; `notes`: what its
    file of settings says without effect.
    """
    names = {path.name for path in inside}
    reasons = [*notes]
    if numbered and (files := onnx_files(folder)):
        reasons.append(f"/{files[0]}: lies beside the versions and is not served; put it into a version's folder")
    if CONFIG_FILE not in names:
        others = [name for name in sorted(names) if CONFIG_FILE in name.lower() or name.lower().endswith(".toml")]
        reasons += [f"/{name}: is not read; a model's settings stand in {CONFIG_FILE}" for name in others]
    return [RepositoryProblem(folder.name, "", f"{folder.name}{reason}", harmless=True) for reason in reasons]


# ---- in the folder of one version ----


def _version(
    folder: Path,
    version_folder: Path,
    number: str,
    settings: Settings,
    labels: tuple[str, ...],
    digests: Mapping[str, str],
) -> ModelVersion:
    digests = dict(digests)
    config, own = with_own_settings(settings.config, version_folder, number, digests)
    if "labels" in own:
        digests.pop(settings.config.labels, None)
        labels = _labels(folder, config, digests, own_name(number))
    inside = entries(version_folder)
    files = [path.name for path in inside if is_onnx(path.name) and path.is_file()]
    stated = "variants" in config.model_fields_set
    if settings.lines and not stated and (version_folder / BARE_FILE / BARE_FILE).is_file():  # as Triton allows it
        config = config.model_copy(update={"variants": (Variant(name="default", file=f"{BARE_FILE}/{BARE_FILE}"),)})
    elif not stated and BARE_FILE not in files and len(files) == 1:
        config = config.model_copy(update={"variants": (Variant(name="default", file=files[0]),)})
    for index, variant in enumerate(config.variants):
        toml = own_name(number) if "variant" in own else CONFIG_FILE
        place = f"/{toml}: variant[{index}].file" if stated else f"/{version_folder.name}"
        _check_inside(variant.file, place)
        if not (version_folder / variant.file).is_file():
            raise BrokenModel(f"{place}: {no_file(version_folder, variant.file, inside, files, stated)}")
        if table := variant.int8_calibration:
            place = f"/{toml}: variant[{index}].int8_calibration"
            _check_inside(table, place)
            if not (version_folder / table).is_file():
                raise BrokenModel(f"{place}: there is no file {version_folder.name}/{table}")
    for index, provider in enumerate(config.providers):
        if provider.library and not (folder / provider.library).is_file():
            toml = own_name(number) if "providers" in own else CONFIG_FILE
            raise BrokenModel(f"/{toml}: providers[{index}].library: there is no file {provider.library}")
    places = version_folder.resolve(), folder.resolve()
    return ModelVersion(folder.name, number, *places, config, labels, digests, own, settings.lines)


def with_labels(signature: Signature, version: ModelVersion) -> Signature:
    """Gives the labels to the outputs that have them: those of which model.toml says so, or else all."""
    labels = version.labels
    if not labels:
        return signature
    named = {output.name for output in version.config.outputs if output.labelled}
    outputs = tuple(
        TensorSpec.model_validate(spec.model_dump() | {"labels": labels}) if not named or spec.name in named else spec
        for spec in signature.outputs
    )
    return signature.model_copy(update={"outputs": outputs})


def notes_of_labels(version: ModelVersion, signature: Signature) -> tuple[str, ...]:
    """Says that a version has more or fewer labels than classes, so that some may be those of other classes.

    How many classes there are is known where every output is one list of fixed length.
    """
    lengths = {spec.name: [extent for extent in spec.shape if extent != 1] for spec in signature.outputs}
    labels = len(version.labels)
    if not labels or any(len(extents) != 1 or extents[0] < 0 for extents in lengths.values()):
        return ()
    classes = {name: extents[0] for name, extents in lengths.items()}
    if labels in classes.values():
        return ()
    counts = ", ".join(f"'{name}' has {count:,}" for name, count in classes.items())
    likely = (
        "a line too many, such as a heading" if labels > max(classes.values()) else "a name or a blank line missing"
    )
    return (
        f"{version.config.labels} has {labels:,} names, but {counts}; is there {likely}? Line n names class n, from 0",
    )


def _check_inside(file: str, place: str) -> None:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise BrokenModel(f'{place}: "{file}" leaves the folder; name a file in it')
