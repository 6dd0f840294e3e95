"""Shared libraries that a model names are loaded only where the server's settings list what they hold.

A library runs code as soon as it is loaded. So it is read once, into memory that cannot change any more, and it is that
memory which is checked and loaded: nobody can put another file into its place in between. Libraries that it needs
itself are looked for where the system looks (LD_LIBRARY_PATH of the server), not beside it.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from duly.models.files import Unfit, open_ordinary
from duly.models.spec import ModelConfig, Provider
from duly.models.text_files import unreadable
from duly.worker.errors import LoadError
from duly.worker.version_files import VersionFiles

LIBRARY_BYTES_MAX = 4 << 30
"""A larger file is not loaded as a library, and the version that names it fails."""
_MFD_EXEC = 0x0010  # linux/memfd.h, from 6.3 on
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_IS_LIBRARY = re.compile(r"\.(so(\.[0-9]+)*|dll|dylib)$", re.IGNORECASE)
_SEPARATORS = re.compile(r"[;:,]")


def with_checked_libraries(
    config: ModelConfig, name: str, model_folder: Path, allowed: tuple[str, ...], files: VersionFiles
) -> ModelConfig:
    """Returns the settings with the libraries that they name replaced by copies in memory that were checked: those of
    plugin providers, and those that options of providers name by a path.

    `name`: that of the model. `allowed`: digests. Raises LoadError where one is not among them.
    """
    providers = []
    for index, provider in enumerate(config.providers):
        options, library = dict(provider.options), provider.library
        for key, part in _named(provider, model_folder):
            copy, digest, size_bytes = _checked(model_folder / part, _place(name, index, key), allowed)
            if key:
                options[key] = str(options[key]).replace(part, f"/proc/self/fd/{copy}")
                continue
            library = Path(f"/proc/self/fd/{copy}")
            if not Path(part).is_absolute():  # else it is the system's, not the model's
                files.read_library(model_folder / part, f"{name}/{part}", digest, size_bytes)
        providers.append(provider.model_copy(update={"library": library, "options": options}))
    return config.model_copy(update={"providers": tuple(providers)})


def trusted_libraries(config: ModelConfig, name: str, model_folder: Path, allowed: tuple[str, ...]) -> list[Path]:
    """Returns the libraries that the settings name, for a sandbox to leave them readable. Raises LoadError where one is
    not among `allowed`.
    """
    paths = []
    for index, provider in enumerate(config.providers):
        for key, part in _named(provider, model_folder):
            os.close(_checked(model_folder / part, _place(name, index, key), allowed)[0])
            paths.append(model_folder / part)
    return paths


def shown(library: Path) -> str:
    """Returns the name of the file that a checked library was read from."""
    return Path(os.readlink(library)).name.removeprefix("memfd:").removesuffix(" (deleted)")


def _place(name: str, index: int, key: str) -> str:
    return f"{name}/model.toml: providers[{index}].{f'options.{key}' if key else 'library'}"


def _named(provider: Provider, model_folder: Path) -> Iterator[tuple[str, str]]:
    """Yields each library that a provider names: the option, or nothing for `library`, and the path."""
    if provider.library is not None:
        yield "", str(provider.library)
    for key, value in provider.options.items():
        for part in _SEPARATORS.split(value) if isinstance(value, str) else ():
            # A bare name is looked for where the system looks, which no model can write to.
            if "/" in part and (_IS_LIBRARY.search(part) or _is_elf(model_folder / part)):
                yield key, part


def _is_elf(path: Path) -> bool:
    try:
        with open_ordinary(path) as file:
            return file.read(4) == b"\x7fELF"
    except (OSError, ValueError):
        return False


def _checked(path: Path, place: str, allowed: tuple[str, ...]) -> tuple[int, str, int]:
    """Returns the descriptor of a sealed copy in memory, its SHA-256 and its size. Raises LoadError."""
    try:
        with open_ordinary(path) as source:
            if os.fstat(source.fileno()).st_size > LIBRARY_BYTES_MAX:
                raise Unfit("is too large")
            copy = _sealed(source, path.name)
    except Unfit:
        words = f"{place}: {path.name} is no ordinary file of at most {LIBRARY_BYTES_MAX:,} bytes"
        raise LoadError(words) from None
    except OSError as error:
        raise LoadError(f"{place}: {path.name} {unreadable(error)}") from None
    os.lseek(copy, 0, os.SEEK_SET)
    with open(copy, "rb", closefd=False) as sealed:
        digest = hashlib.file_digest(sealed, "sha256").hexdigest()
        size_bytes = sealed.tell()
    if digest not in allowed:
        os.close(copy)
        raise LoadError(
            f"{place}: {path.name} runs code of its own and is not trusted: its SHA-256 {digest} is not among the "
            "server's libraries_sha256; add it there if you know where the file comes from"
        )
    return copy, digest, size_bytes


def _sealed(source: FileIO, name: str) -> int:
    """Copies a file into memory that can neither be written nor cut off any more. The descriptor stays open."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create(name[:200], flags | _MFD_EXEC)
    except OSError:
        descriptor = os.memfd_create(name[:200], flags)
    with open(descriptor, "wb", closefd=False) as copy:
        shutil.copyfileobj(source, copy)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor
