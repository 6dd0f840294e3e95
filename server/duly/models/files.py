"""Opens and reads files that others have put into a repository, whatever they are.

In the place of a file there may be a pipe that nobody writes to, a device that never ends, a socket, or a file of the
kernel's whose size says 0. None of them may hold up whoever reads, and nothing is read without a limit.
"""

import os
import stat
from io import FileIO
from pathlib import Path

_CHUNK_BYTES = 1 << 16


class Unfit(OSError):
    """It is no ordinary file, too large, or was written to meanwhile. `strerror` says so."""

    def __init__(self, text: str, path: Path | None = None) -> None:
        super().__init__(0, text, *([] if path is None else [str(path)]))


def open_ordinary(path: Path) -> FileIO:
    """Opens an ordinary file for reading, and never waits. Raises OSError, which is Unfit where it is another thing."""
    # A look first, because opening a device may do something, such as rewinding a tape.
    _check_ordinary(os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    file = FileIO(descriptor)
    try:
        _check_ordinary(os.fstat(descriptor).st_mode)  # something else may have taken its place since
    except OSError:
        file.close()
        raise
    return file


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """Reads an ordinary file of at most `bytes_max` bytes, by what it gives and not only by its stated size.

    Raises OSError, which is Unfit where it is no such file, or changed while it was read.
    """
    with open_ordinary(path) as file:
        before = os.fstat(file.fileno())
        if before.st_size > bytes_max:
            raise Unfit(f"{before.st_size:,} bytes; at most {bytes_max:,} are read")
        read = bytearray()
        while chunk := file.read(_CHUNK_BYTES):
            read += chunk
            if len(read) > bytes_max:
                raise Unfit(f"more than {bytes_max:,} bytes; no more are read")
        if chunk is None:  # a file of the kernel's that would have had us wait
            raise Unfit("is no ordinary file")
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(read) != after.st_size:
        raise Unfit("changed while it was read; move files into their place in whole")
    return bytes(read)


def _check_ordinary(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise Unfit("is a folder; a file is expected there")
    if not stat.S_ISREG(mode):
        raise Unfit("is no ordinary file")
