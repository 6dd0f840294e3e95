"""Which files a process may reach from now on, by paths (Landlock, landlock(7)), with no connections of TCP and no
signals to others, where the kernel knows these.
"""

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from duly.worker.kernel import call

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on all machines
_VERSION = 1
_PATH_BENEATH = 1
_TSYNC = 1 << 3  # LANDLOCK_RESTRICT_SELF_TSYNC, from ABI 8 on

# linux/landlock.h
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_OF_ABI_1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_BIND_AND_CONNECT_TCP = 0b11
_NO_ABSTRACT_SOCKETS_NO_SIGNALS = 0b11
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""The rights that mean something for what is no folder."""

READ = _READ_FILE | _READ_DIR
READ_WRITE_DEVICES = READ | _WRITE_FILE | _IOCTL_DEV
ABI_NETWORK, ABI_SCOPE, ABI_ALL_THREADS = 4, 6, 8


def abi() -> int:
    """Returns the version of Landlock that the kernel has; 0: none, or it is switched off."""
    try:
        return call(_CREATE, None, 0, _VERSION)
    except OSError:
        return 0


def _handled(version: int) -> int:
    return (
        _OF_ABI_1
        | (_REFER if version >= 2 else 0)
        | (_TRUNCATE if version >= 3 else 0)
        | (_IOCTL_DEV if version >= 5 else 0)
    )


def restrict_files(readable: Iterable[Path], devices: Iterable[Path], writable: Iterable[Path]) -> None:
    """Lets this thread, and those that it starts, reach nothing but these files and what lies in these folders.

    `devices` may be read and written, but not made or removed. In `writable` everything may be done but to run
    programs. Paths that are not there, or cannot be reached, are passed over. Raises OSError where the kernel will not.

    The process must have given up new privileges before.
    """
    version = abi()
    handled = _handled(version)
    attributes = struct.pack(
        "QQQ",
        handled,
        _BIND_AND_CONNECT_TCP if version >= ABI_NETWORK else 0,
        _NO_ABSTRACT_SOCKETS_NO_SIGNALS if version >= ABI_SCOPE else 0,
    )
    attributes = attributes[: 24 if version >= ABI_SCOPE else 16 if version >= ABI_NETWORK else 8]
    ruleset = call(_CREATE, attributes, len(attributes), 0)
    try:
        for paths, rights in ((readable, READ), (devices, READ_WRITE_DEVICES), (writable, handled & ~_EXECUTE)):
            for path in paths:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    _allow(ruleset, path, rights & handled)
        call(_RESTRICT, ruleset, _TSYNC if version >= ABI_ALL_THREADS else 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, descriptor))
        call(_ADD, ruleset, _PATH_BENEATH, ctypes.addressof(rule), 0)
    finally:
        os.close(descriptor)
