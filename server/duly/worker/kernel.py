"""Calls of the kernel that Python has no name for, by their numbers on x86_64 and aarch64."""

import ctypes
import os
import platform

X86_64 = "x86_64"
AARCH64 = "aarch64"
MACHINE = {"amd64": X86_64, "arm64": AARCH64}.get(platform.machine().lower(), platform.machine().lower())
"""The machine as Linux calls it."""

PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_CAPSET = {X86_64: 126, AARCH64: 91}
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(number: int, *arguments: "int | bytes | ctypes.Array[ctypes.c_char] | None") -> int:
    """Makes a system call and returns its result. Raises OSError where the kernel refuses it."""
    plain = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *plain))
    if result < 0:
        number_of_error = ctypes.get_errno()
        raise OSError(number_of_error, os.strerror(number_of_error))
    return result


def no_new_privileges() -> None:
    """Keeps this process, and all that it starts, from gaining rights by execve. Raises OSError."""
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), *[ctypes.c_ulong(0)] * 3):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def capabilities() -> int:
    """Returns the set of capabilities that this process may use, one bit each."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        lines = dict(line.split(":", 1) for line in file if ":" in line)
    return int(lines.get("CapPrm", "0").strip(), 16)


def keep_capabilities(kept: int) -> None:
    """Gives up all capabilities of this thread but those in `kept`. Raises OSError."""
    wanted = capabilities() & kept
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)  # effective, permitted, inheritable, twice
    call(_CAPSET[MACHINE], ctypes.addressof(header), ctypes.addressof(data))
