"""Keeps the kernel from taking this process's memory away, and from rearranging it, while a frame waits.

Memory that is locked is neither swapped out nor, where it is a file such as a library, dropped and read again. What has
never been touched is not there yet and is locked as soon as it is (MCL_ONFAULT): else every stack and every reserved
arena of the C library would be filled, which is gigabytes.

Huge pages are put together behind the process's back (khugepaged), or at once as memory is touched first, for which the
kernel may move other pages about: some hundred microseconds to milliseconds that no plan knows of. So there are none.
What starts later inherits that, and not the lock.

Locked mappings cannot give pages back by madvise(2), MADV_REMOVE: `give_back` makes a hole in the file behind them.
"""

import ctypes
import mmap
import os

# linux/mman.h, linux/prctl.h, linux/falloc.h
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_PR_SET_THP_DISABLE = 41
_KEEP_SIZE, _PUNCH_HOLE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.munlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def lock() -> None:
    """Locks what this process has of memory, and what it will have. Raises OSError."""
    _check(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT))


def unlock() -> None:
    """Undoes `lock`."""
    _check(_libc.munlockall())


def allow_huge_pages(allowed: bool) -> None:
    """Says whether this process, and those that it starts from now on, may have huge pages. Raises OSError."""
    _check(_libc.prctl(_PR_SET_THP_DISABLE, *[ctypes.c_ulong(each) for each in (not allowed, 0, 0, 0)]))


def give_back(fd: int, start: int, size_bytes: int) -> None:
    """Gives the memory of a part of a memfd back to the system, whoever maps it; zeros are there from then on.

    Raises OSError where the system cannot.
    """
    _check(_libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, start, size_bytes))


def give_back_mapped(area: mmap.mmap) -> None:
    """Does so with all of a mapping that one can write to, whose descriptor is closed. It is not locked any more.

    Raises OSError where the system cannot.
    """
    first = ctypes.c_char.from_buffer(area)
    _libc.munlock(ctypes.addressof(first), len(area))
    del first  # else the mapping could not be closed
    area.madvise(mmap.MADV_REMOVE)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
