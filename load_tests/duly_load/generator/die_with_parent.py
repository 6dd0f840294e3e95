"""A process that does not outlive the one that started it: the kernel ends it then, however that comes about (prctl(2),
PR_SET_PDEATHSIG).

As a script it does so for any command:

    python die_with_parent.py PARENT_PID COMMAND...
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent_pid: int, signum: signal.Signals) -> None:
    """Has the kernel send `signum` to this process when the thread that started it ends.

    `parent_pid`: the process that this one was started by. Raises SystemExit where it has ended already. The wish holds
    across execve.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent_pid:  # it ended before prctl
        sys.exit(1)


if __name__ == "__main__":
    _, parent, *command = sys.argv
    die_with_parent(int(parent), signal.SIGTERM)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: cannot be started: {error.strerror}")
