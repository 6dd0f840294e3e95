"""How many CPUs this process may use, by its affinity and by the quotas of its control groups.

Affinity alone shows all CPUs of a host to a container that may use two of them. A process with more busy threads than
its quota has CPUs is stopped for the rest of each period, usually 100 ms, which no deadline survives.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_UNIFIED = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
"""Where version 2 of control groups is mounted: alone, or beside version 1."""
_CPU_CONTROLLER = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/cpuacct,cpu")
"""Where version 1 of the CPU controller is mounted."""


def usable_cpus() -> int:
    """Returns the number of CPUs that this process can keep busy, at least 1. Of a quota of 2.5 CPUs these are two."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(int, _quotas())]))


def _quotas() -> Iterator[float]:
    """Yields the quotas that bind this process, in CPUs: of its own control group and of all groups above it.

    A container may see the name that its group has on the host, though its own group is what is mounted as the root.
    Hence groups that are not there are passed over, and the root is always looked at.
    """
    for line in _text(_ROOT / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        group = PurePosixPath(name.lstrip("/"))
        groups = (group, *group.parents)
        if hierarchy == "0":
            for place in (_ROOT / mount / above for mount in _UNIFIED for above in groups):
                yield from _quota(*_numbers(place / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for place in (_ROOT / mount / above for mount in _CPU_CONTROLLER for above in groups):
                yield from _quota(*_numbers(place / "cpu.cfs_quota_us"), *_numbers(place / "cpu.cfs_period_us"))


def _quota(quota_us: float = -1, period_us: float = 0, *_: float) -> Iterator[float]:
    """Yields the quota in CPUs, if there is one: -1 means that there is none."""
    if quota_us > 0 and period_us > 0:
        yield quota_us / period_us


def _numbers(file: Path) -> list[float]:
    """Returns the numbers in a file of a control group; none where it is not there or says `max`."""
    try:
        return [float(word) for word in _text(file).split()]
    except ValueError:
        return []


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
