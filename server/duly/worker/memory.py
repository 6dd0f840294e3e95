"""How much memory this process may use."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path


def memory_bytes_max() -> int:
    """Returns the memory of the machine, or less where a control group or a limit of the process says so, in bytes.
    Shared memory is a file to the kernel, and the limit of files counts, too.
    """
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_of_groups()]
    limits = [resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE)]
    return min(bounds + [limit for limit in limits if limit != resource.RLIM_INFINITY])


def _of_groups() -> Iterator[int]:
    """The limits of the control groups that this process is in, by version 2 and by version 1."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = ("/sys/fs/cgroup", "memory.max")
        if controllers:
            root, name = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        group = Path(path.strip("/"))
        for folder in (group, *group.parents):
            try:
                text = Path(root, folder, name).read_text().strip()
            except OSError:
                continue
            if text.isdigit():
                yield int(text)
