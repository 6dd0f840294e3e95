"""Runs threads before all others of the machine (SCHED_FIFO), and takes that back.

Theory. A thread under SCHED_FIFO runs until it sleeps or one of higher priority wants its processor; whatever is not
real time gets what is left (sched(7)). Who does little and is waited for by all goes first, as in rate-monotonic
scheduling (Liu and Layland, 1973): what watches, then the event loop and the transport's threads, then the workers,
whose batches are long. The other threads of the serving process write files and judge streams, and nobody waits for
them; but while one holds the interpreter's lock the loop does, and Python's lock lends no priority to who holds it. So
they give way to the loop and not to the workers. All these are low ones of the priorities that there are, below the
threads of interrupts (50), through which frames come in.

What such a thread starts is ordinary (SCHED_RESET_ON_FORK): neither a process nor a thread gets it unasked.
"""

import os
from collections.abc import Iterable

WORKER_PRIORITY = 10
BESIDE_PRIORITY = 11
"""Of the serving process's threads that are not on a frame's way."""
LOOP_PRIORITY = 12
WATCHDOG_PRIORITY = 13
PRIORITY_MAX = WATCHDOG_PRIORITY
"""The highest that is asked for, and so what RLIMIT_RTPRIO must allow."""

WARNED_US = 1_000_000
"""A worker's process is warned (SIGXCPU) when one of its threads has run for so long without sleeping once."""

_URGENT = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
# Without privileges a thread keeps the mark, so it stays.
_ORDINARY = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK


def threads(pid: int) -> set[int]:
    """Returns the numbers of the threads of a process; empty: it is gone."""
    try:
        return set(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return set()


def make_urgent(numbers: Iterable[int], priority: int) -> None:
    """Runs these threads under SCHED_FIFO. Those that have ended are passed over. Raises PermissionError."""
    _set(numbers, _URGENT, priority)


def make_ordinary(numbers: Iterable[int]) -> None:
    """Runs these threads as any other. Those that have ended are passed over. Raises PermissionError."""
    _set(numbers, _ORDINARY, 0)


def _set(numbers: Iterable[int], policy: int, priority: int) -> None:
    parameter = os.sched_param(priority)
    for number in numbers:
        try:
            os.sched_setscheduler(number, policy, parameter)
        except ProcessLookupError:
            continue
