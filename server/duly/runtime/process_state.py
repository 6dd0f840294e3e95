"""Reads from /proc what a worker process does."""

import os
from pathlib import Path

from duly.runtime.hang import ProcessState

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_THREADS_MAX = 256
"""So many threads are looked at; a process of more is taken for one that runs."""


def process_state(pid: int) -> ProcessState | None:
    """Returns what the process does; None where it is gone or the system does not say."""
    try:
        own = _fields(Path(f"/proc/{pid}/stat"))
        cpu_ns = (int(own[11]) + int(own[12])) * _TICK_NS
        states = {own[0]}
        if own[0] not in ("T", "t"):
            threads = os.listdir(f"/proc/{pid}/task")
            if len(threads) > _THREADS_MAX:
                return ProcessState(False, True, cpu_ns)
            for thread in threads:
                states.add(_fields(Path(f"/proc/{pid}/task/{thread}/stat"))[0])
        return ProcessState(own[0] in ("T", "t"), bool(states & {"R", "D"}), cpu_ns)
    except (OSError, ValueError, IndexError):
        return None


def _fields(stat: Path) -> list[str]:
    """Returns the fields from the third on, the state (proc_pid_stat(5)). The second may hold anything."""
    return stat.read_text(errors="replace").rpartition(")")[2].split()
