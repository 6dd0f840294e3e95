"""The kernel's own limit for workers: who sleeps now and then lives with it, who never comes to itself is ended."""

import os
import signal
import subprocess
import sys

import pytest

from duly.realtime import scheduling
from tests.realtime.needs import needs_rights

HARD_US = scheduling.WARNED_US + 200_000
BEGIN = f"""
import os, resource, time
from duly.realtime.scheduling import make_urgent
from duly.worker.main import _stay_in_time
_stay_in_time("m")
resource.setrlimit(resource.RLIMIT_RTTIME, ({scheduling.WARNED_US}, {HARD_US}))
make_urgent([0], {scheduling.WORKER_PRIORITY})
"""
RUNS = f"""
while time.process_time() < {3 * HARD_US / 1e6}:
    pass
"""
"""It comes back to the interpreter all the time, as a worker between batches."""
IS_LOST = "sum(range(10**15))"
"""It does not, as in a run without end."""


@needs_rights
@pytest.mark.parametrize(("then", "status"), [(RUNS, 0), (IS_LOST, -signal.SIGKILL)])
def test_the_kernel_ends_only_who_never_comes_to_itself(then: str, status: int) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-P", "-c", BEGIN + then], env=environment)
    assert done.returncode == status
