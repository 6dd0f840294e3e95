"""An alarm that rings in the event loop at instants of the monotonic clock, to some tens of microseconds.

The timers of event loops count in milliseconds (epoll's do, and uvloop's). The kernel's timerfd counts in nanoseconds
and is a descriptor that a loop can wait for, see timerfd_create(2). Python wraps it from 3.13 on only.
"""

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import Callable

_ABSOLUTE = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
"""Equal to TFD_NONBLOCK and TFD_CLOEXEC."""


class _Time(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """Rings in the loop that runs where it is made. Linux only."""

    def __init__(self, ring: Callable[[], None]) -> None:
        """Raises OSError."""
        self._ring = ring
        self._fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, _FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._rang)

    def set(self, at_ns: int) -> None:
        """Lets it ring once, at `at_ns` of the monotonic clock or at once; an earlier setting is forgotten."""
        s, ns = divmod(max(1, at_ns), 1_000_000_000)
        setting = _Setting(_Time(0, 0), _Time(s, ns))
        if _libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(setting), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _rang(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it was set anew meanwhile
            os.read(self._fd, 8)
            self._ring()
