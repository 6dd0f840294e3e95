"""What signals do to the server. None ends it with frames unanswered, but SIGKILL and those of a crash.

| signal | what the server does |
| --- | --- |
| SIGTERM, SIGINT, SIGQUIT, SIGPWR, SIGXCPU | drains; at the second one it ends without waiting for frames |
| SIGHUP | reloads what may change; where it comes because the server's terminal is gone, it drains |
| SIGUSR1 | writes down the flight recording |
| SIGTSTP, SIGSTOP, SIGTTIN, SIGTTOU, SIGCONT | is stopped and goes on, as any program |
| all others that would end a program, such as SIGUSR2, SIGALRM, SIGPIPE and the real-time ones | nothing |
"""

import asyncio
import os
import signal
from collections.abc import Callable

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR, signal.SIGXCPU)
IGNORED = (
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGSTKFLT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)


def unblock() -> None:
    """Lets the signals through that whoever started this process may have blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPPING, signal.SIGHUP, signal.SIGUSR1))


def handle(stop: Callable[[], None], reload: Callable[[], None], dump: Callable[[], None]) -> None:
    """Calls these on the running event loop when signals come."""
    loop = asyncio.get_running_loop()
    had_terminal = _has_terminal()

    def hang_up() -> None:
        if had_terminal and not _has_terminal():
            stop()
        else:
            reload()

    for signum in STOPPING:
        loop.add_signal_handler(signum, stop)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    loop.add_signal_handler(signal.SIGUSR1, dump)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


def _has_terminal() -> bool:
    """Whether this process has a terminal that controls it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
