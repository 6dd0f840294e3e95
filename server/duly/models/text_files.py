"""Reads the text files of a model as editors and exports of all systems write them.

A file is UTF-8, with or without a byte order mark, or UTF-16 with one. Anything else is refused with the line at fault,
because a guessed encoding gives wrong names without a word.
"""

import codecs
import hashlib
from collections.abc import MutableMapping
from pathlib import Path

from duly.models.errors import BrokenModel
from duly.models.files import Unfit, read_bounded
from duly.models.formats import stand_in

FILE_BYTES_MAX = 1 << 20
"""The largest label file. The largest label set in wide use, ImageNet-21k, has half of that."""


def read_text(
    path: Path, name: str, bytes_max: int = FILE_BYTES_MAX, digests: MutableMapping[str, str] | None = None
) -> str:
    """Reads the text of a file, which errors call `name`, without a byte order mark. `digests`: gets the SHA-256 of the
    bytes that were read, by that name.

    Raises:
        BrokenModel: it is too large, is neither UTF-8 nor UTF-16, or cannot be read.
    """
    try:
        if not path.exists():
            raise BrokenModel(f"/{name}: {what_is_there(path)}")
        contents = read_bounded(path, bytes_max)
    except Unfit as error:
        raise BrokenModel(f"/{name}: {error.strerror}") from error
    except OSError as error:
        raise BrokenModel(f"/{name}: {unreadable(error)}") from error
    if digests is not None:
        digests[name] = hashlib.sha256(contents).hexdigest()
    if found := stand_in(contents):
        raise BrokenModel(f"/{name}: {found}")
    encoding = "utf-8-sig"
    if contents.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in contents:
        raise BrokenModel(f"/{name}: is no UTF-8 text, since it holds bytes of 0; save it as UTF-8")
    try:
        return contents.decode(encoding)
    except UnicodeDecodeError as error:
        line = contents.count(b"\n", 0, error.start) + 1
        byte = contents[error.start]
        hint = "save it as UTF-8, such as by: iconv -f LATIN1 -t UTF-8"
        raise BrokenModel(f"/{name}: line {line}: byte 0x{byte:02X} is not UTF-8; {hint}") from error


def unreadable(error: OSError) -> str:
    """Says why a file or folder cannot be read, and what helps."""
    advice = "; let the user that runs the server read it" if isinstance(error, PermissionError) else ""
    return f"cannot be read: {error.strerror}{advice}"


def what_is_there(path: Path) -> str:
    """Says what stands where a file is expected."""
    if path.is_dir():
        return "is a folder; a file is expected there"
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink().name}, which is not there"
    return "is no ordinary file" if path.exists() else "there is no such file"
