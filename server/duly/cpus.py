"""How many CPUs this process may use, by its affinity and by the quotas of its control groups.

Affinity alone shows all CPUs of a host to a container that may use two of them. A process with more busy threads than
its quota has CPUs is stopped for the rest of each period, usually 100 ms, which no deadline survives.
"""

import os
from collections.abc import Iterator

from duly.cgroups import group_settings


def usable_cpus() -> int:
    """Returns the number of CPUs that this process can keep busy, at least 1. Of a quota of 2.5 CPUs these are two."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(int, _quotas())]))


def default_threads() -> int:
    """Intra-op threads of a CPU worker: where there are several CPUs to use, one is left to the serving process."""
    return max(1, usable_cpus() - 1)


def _quotas() -> Iterator[float]:
    """Yields the quotas that bind this process, in CPUs."""
    for text in group_settings("cpu", "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
        try:
            quota_us, period_us = map(float, text.split())
        except ValueError:  # there is no such group, or it says `max`
            continue
        if quota_us > 0 and period_us > 0:  # -1 means that there is no quota
            yield quota_us / period_us
