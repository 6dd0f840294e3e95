"""A system without memory to give: what a thread asks for with fallocate(2) fails with ENOSPC, as where none is left.

    python -m tests.no_room BYTES MODULE ARGUMENTS      runs a module in which nothing of so many bytes is to be had

The answer is the kernel's own, from a filter of system calls (seccomp).
"""

import ctypes
import errno
import runpy
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from duly.worker.kernel import AARCH64, MACHINE, X86_64, call, no_new_privileges

_Result = TypeVar("_Result")

_SECCOMP = {X86_64: 317, AARCH64: 277}
_FALLOCATE = {X86_64: 285, AARCH64: 47}
_SET_MODE_FILTER = 1
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # linux/filter.h
_NUMBER_AT, _OFFSET_AT, _SIZE_AT = 0, 16 + 8 * 2, 16 + 8 * 3  # struct seccomp_data
NEVER = 0xFFFF_FFFF


def no_room(size_bytes: int = NEVER, offset: int = NEVER) -> None:
    """From now on this thread, and what it starts, has no memory of so many bytes or more, nor any at that offset of a
    file or behind it. It can't be undone.
    """
    steps = (
        (_LOAD, 0, 0, _NUMBER_AT),
        (_EQUAL, 0, 5, _FALLOCATE[MACHINE]),
        (_LOAD, 0, 0, _SIZE_AT),
        (_AT_LEAST, 2, 0, size_bytes),
        (_LOAD, 0, 0, _OFFSET_AT),
        (_AT_LEAST, 0, 1, offset),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSPC),
        (_RETURN, 0, 0, _ALLOW),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(program)))
    no_new_privileges()
    call(_SECCOMP[MACHINE], _SET_MODE_FILTER, 0, ctypes.addressof(head))


def without_room(work: Callable[[], _Result], size_bytes: int = NEVER, offset: int = NEVER) -> _Result:
    """Returns what `work` does in a thread of its own that has no room."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(no_room, size_bytes, offset).result()
        return threads.submit(work).result()


if __name__ == "__main__":
    no_room(int(sys.argv[1]))
    module = sys.argv[2]
    del sys.argv[:2]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
