"""A process that the server has started ends with it, and not before (prctl(2))."""

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


def leave_signals_to_server() -> None:
    """Ignores what may go to the whole process group, such as from a terminal: what it means the server decides."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
