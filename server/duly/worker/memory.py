"""How much memory this process may use."""

import os
import resource

from duly.cgroups import group_settings


def memory_bytes_max() -> int:
    """Returns the memory of the machine, or less where a control group or a limit of the process says so, in bytes.
    Shared memory is a file to the kernel, and the limit of files counts, too.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    texts = map(str.strip, group_settings("memory", "memory.max", "memory.limit_in_bytes"))
    groups = [int(text) for text in texts if text.isdigit()]  # else it says `max`
    limits = [resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE)]
    return min([machine, *groups, *(limit for limit in limits if limit != resource.RLIM_INFINITY)])
