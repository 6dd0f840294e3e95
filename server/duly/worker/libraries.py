"""Shared libraries that a model names are loaded only where the server's settings list what they hold.

A library runs code as soon as it is loaded. So it is read once, into memory that cannot change any more, and it is that
memory which is checked and loaded: nobody can put another file into its place in between. Libraries that it needs
itself are looked for where the system looks (LD_LIBRARY_PATH of the server), not beside it.
"""

import fcntl
import hashlib
import os
import re
import stat
from pathlib import Path

from duly.models.spec import ModelConfig, Provider
from duly.models.text_files import unreadable
from duly.worker.errors import LoadError
from duly.worker.version_files import VersionFiles

LIBRARY_BYTES_MAX = 4 << 30
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
        place = f"{name}/model.toml: providers[{index}]"
        update: dict[str, object] = {}
        if provider.library is not None:
            inside = None if provider.library.is_absolute() else f"{name}/{provider.library}"
            path = model_folder / provider.library
            update["library"] = Path(_checked(path, f"{place}.library", inside, allowed, files))
        update["options"] = _checked_options(provider, place, model_folder, allowed, files)
        providers.append(provider.model_copy(update=update))
    return config.model_copy(update={"providers": tuple(providers)})


def shown(library: Path) -> str:
    """Returns the name of the file that a checked library was read from."""
    return Path(os.readlink(library)).name.removeprefix("memfd:").removesuffix(" (deleted)")


def _checked_options(
    provider: Provider, place: str, model_folder: Path, allowed: tuple[str, ...], files: VersionFiles
) -> dict[str, str | int | float | bool]:
    options = dict(provider.options)
    for key, value in provider.options.items():
        if not isinstance(value, str):
            continue
        parts = _SEPARATORS.split(value)
        for part in parts:
            # A bare name is looked for where the system looks, which no model can write to.
            if "/" in part and (_IS_LIBRARY.search(part) or _is_elf(model_folder / part)):
                found = _checked(model_folder / part, f"{place}.options.{key}", None, allowed, files)
                value = value.replace(part, found)
        options[key] = value
    return options


def _is_elf(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except (OSError, ValueError):
        return False


def _checked(path: Path, place: str, inside: str | None, allowed: tuple[str, ...], files: VersionFiles) -> str:
    """Returns the path of a sealed copy in memory. `inside`: its name where it belongs to the model."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as source:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) or os.fstat(descriptor).st_size > LIBRARY_BYTES_MAX:
                raise LoadError(f"{place}: {path.name} is no ordinary file of at most {LIBRARY_BYTES_MAX:,} bytes")
            copy = _sealed(source.read(), path.name)
    except OSError as error:
        raise LoadError(f"{place}: {path.name} {unreadable(error)}") from None
    os.lseek(copy, 0, os.SEEK_SET)
    with open(copy, "rb", closefd=False) as sealed:
        digest = hashlib.file_digest(sealed, "sha256").hexdigest()
        size_bytes = sealed.tell()
    if digest not in allowed:
        raise LoadError(
            f"{place}: {path.name} runs code of its own and is not trusted: its SHA-256 {digest} is not among the "
            "server's libraries_sha256; add it there if you know where the file comes from"
        )
    if inside is not None:
        files.read_library(path, inside, digest, size_bytes)
    return f"/proc/self/fd/{copy}"


def _sealed(data: bytes, name: str) -> int:
    """Puts the data into memory that can neither be written nor cut off any more. The descriptor stays open."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create(name[:200], flags | _MFD_EXEC)
    except OSError:
        descriptor = os.memfd_create(name[:200], flags)
    with open(descriptor, "wb", closefd=False) as copy:
        copy.write(data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor
