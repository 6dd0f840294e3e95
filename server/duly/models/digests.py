"""What files of a version hold, as whoever reads them can say in few bytes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from duly.models.files import Unfit, open_ordinary

FILES_MAX = 4096
"""A version of more files is not loaded. Exporters that give each weight a file of its own write some hundreds."""


class FileDigest(NamedTuple):
    """What one file holds."""

    sha256: str
    """In hexadecimal digits; empty: the file cannot be read."""
    size_bytes: int
    problem: str = ""
    """Why the file cannot be read, as the end of a sentence that begins with its name."""


Contents = Mapping[str, FileDigest]
"""The files by name, which is NAME/VERSION/FILE, or NAME/FILE for one that lies beside model.toml."""


def digest_file(path: Path) -> FileDigest:
    """Reads the file, at about a GB a second."""
    try:
        with open_ordinary(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return FileDigest(sha256, file.tell())
    except FileNotFoundError:
        return FileDigest("", 0, "is gone")
    except Unfit as error:
        return FileDigest("", 0, str(error.strerror))
    except OSError as error:
        return FileDigest("", 0, f"cannot be read: {error.strerror}")
