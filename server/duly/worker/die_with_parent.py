"""A process that must not outlive the one that started it asks the kernel to end it then (prctl(2))."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent_pid: int, signum: signal.Signals = signal.SIGKILL) -> None:
    """Has the kernel send `signum` to this process when the thread that started it ends, however that comes about.

    `parent_pid`: the process that this one was started by. It may have ended before this call: then the signal is sent
    at once. The wish holds across execve.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signum)
