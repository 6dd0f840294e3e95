"""Keeps the processors of a virtual machine from sleeping, so that they need no waking.

A hypervisor takes an idle processor away and, on a busy host, gives it back late: timers then ring milliseconds too
late. A process for each processor that spins at the lowest priority there is (SCHED_IDLE, sched(7)) prevents that; the
kernel runs everything else first.

It is for a generator on a machine of its own, or to measure the harness. Where a host caps what a virtual machine may
use, spinning uses it up, and a server on the same machine goes without: one that answered 99 % of its frames in time
answered 15 to 38 %. So nothing spins where a control group gives this process less than the processors that it sees.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from duly.cpus import usable_cpus
from duly_load.generator import die_with_parent

_SPIN = (
    "import os, sys\n"
    "os.sched_setaffinity(0, {int(sys.argv[1])})\n"
    "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
    "while True: pass\n"
)


@contextlib.contextmanager
def keep_cpus_awake(wanted: bool) -> Iterator[None]:
    """No processor of this process sleeps inside the block; nothing happens unless `wanted`, nor under a quota."""
    processors = os.sched_getaffinity(0)
    spin = [sys.executable, "-I", die_with_parent.__file__, str(os.getpid()), sys.executable, "-c", _SPIN]
    spinners = []
    try:
        for processor in sorted(processors) if wanted and usable_cpus() == len(processors) else ():
            spinners.append(subprocess.Popen([*spin, str(processor)]))
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
