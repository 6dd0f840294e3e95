"""An object of POSIX shared memory that a client has made, such as /dev/shm/frames.

Its client may write to it, shorten it and remove it at any time. So it is never mapped here, where touching what is
gone would end the process: it is read and written by its descriptor, and what is read is a copy that stays as it is.

Who registers an object must be the user whose it is, so that nobody has the server read or write what is another's.
"""

import errno
import os
import stat
from collections.abc import Sequence

from duly.streams.errors import CallError

FOLDER = "/dev/shm"
KEY_BYTES_MAX = 255
"""The longest name of an object, without the / before it: the system's file names are no longer. A longer one is
INVALID_REQUEST."""
PARTS_ONCE = 512
"""So many pieces are written at once; the system takes 1024."""
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class SharedObject:
    def __init__(self, key: str, uid: int) -> None:
        """Opens the object `key`, which must belong to the user `uid`. Raises CallError."""
        self._fd = _open(_file_name(key))
        try:
            self._check(uid)
        except BaseException:
            self.close()
            raise

    def _check(self, uid: int) -> None:
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode) or found.st_dev != os.stat(FOLDER).st_dev:
            raise invalid_key("is no shared memory")
        if found.st_uid != uid:
            raise CallError(
                "NOT_PERMITTED",
                f"shared_memory_key: the object belongs to the user with id {found.st_uid}, the caller is {uid}; "
                "a client can register what is its own",
                "shared_memory_key",
            )

    def size_bytes(self) -> int:
        """Returns how large it is now."""
        return os.fstat(self._fd).st_size

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Returns a copy of what is there, fewer bytes where the object ends before."""
        try:
            return os.pread(self._fd, size_bytes, offset)
        except OSError as error:
            raise _failed("read", error) from None

    def write(self, offset: int, parts: Sequence[bytes]) -> None:
        """Writes the parts one after another. Raises CallError where the system has no room for them, or the client has
        sealed the object.
        """
        try:
            for start in range(0, len(parts), PARTS_ONCE):
                some = parts[start : start + PARTS_ONCE]
                needed = sum([len(part) for part in some])
                if os.pwritev(self._fd, some, offset) != needed:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                offset += needed
        except OSError as error:
            raise _failed("written to", error) from None

    def close(self) -> None:
        os.close(self._fd)


def invalid_key(text: str) -> CallError:
    """Returns the error of a key that names nothing that could be registered."""
    return CallError("INVALID_REQUEST", f"shared_memory_key {text}", "shared_memory_key")


def _file_name(key: str) -> str:
    """Returns the name of the object's file. Raises CallError."""
    name = key.removeprefix("/")
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise invalid_key(f"should be the name of an object as shm_open takes it, such as /frames, got {key[:64]!r}")
    if len(name.encode()) > KEY_BYTES_MAX:
        raise invalid_key(f"has {len(name.encode())} bytes, at most {KEY_BYTES_MAX} are taken")
    return name


def _open(name: str) -> int:
    """Returns a descriptor of the file. Raises CallError."""
    folder = -1
    try:
        folder = os.open(FOLDER, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return os.open(name, _FLAGS, dir_fd=folder)
    except OSError as error:
        match error.errno:
            case errno.ENOENT:
                raise invalid_key(f"names no object that is there: {name[:64]!r}") from None
            case errno.EACCES | errno.EPERM:
                raise invalid_key(
                    "names an object that the server's user may not read and write; let it, or run both as one user"
                ) from None
            case errno.EMFILE | errno.ENFILE | errno.ENOMEM:
                raise CallError("REGIONS_EXHAUSTED", f"the server has no room: {error.strerror}") from None
            case _:  # a link, a folder, a socket, something without a reader
                raise invalid_key(f"is no shared memory: {error.strerror}") from None
    finally:
        if folder >= 0:
            os.close(folder)


def _failed(what: str, error: OSError) -> CallError:
    return CallError("INVALID_REQUEST", f"the shared memory could not be {what}: {error.strerror}")
