"""What of real time a process may have, and what is said where it may not."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from duly.realtime import rights
from duly.realtime.rights import Rights, lacking
from tests.realtime.needs import needs_rights

ALL = Rights(
    fifo=True,
    may_nice=True,
    rtprio_max=0,
    may_lock=True,
    memlock_bytes=8 << 20,
    wakefulness="",
    cpus=2,
    runtime_us=950_000,
)
LOOK = (
    "import dataclasses, json; from duly.realtime import rights; print(json.dumps(dataclasses.asdict(rights.look())))"
)


def test_nothing_is_lacking_where_all_is_there() -> None:
    assert lacking(ALL) == []
    assert lacking(replace(ALL, may_lock=False, memlock_bytes=-1)) == []


@pytest.mark.parametrize(
    ("wrong", "what", "remedy"),
    [
        ({"fifo": False, "may_nice": False}, "no CAP_SYS_NICE, and RLIMIT_RTPRIO is 0", "LimitRTPRIO=13"),
        ({"fifo": False, "may_nice": False, "rtprio_max": 12}, "RLIMIT_RTPRIO is 12", "--ulimit rtprio=13"),
        ({"fifo": False}, "its control group has no real-time share", "cpu.rt_runtime_us"),
        ({"fifo": False, "may_nice": False, "rtprio_max": 13}, "no real-time share", "--cpu-rt-runtime"),
        ({"may_lock": False}, "RLIMIT_MEMLOCK is 8,388,608 bytes", "LimitMEMLOCK=infinity"),
        ({"wakefulness": "Permission denied"}, "cannot be held, Permission denied", "--device /dev/cpu_dma_latency"),
        ({"cpus": 1}, "there is one processor", "give it 2"),
    ],
)
def test_what_is_lacking_is_named_with_what_grants_it(wrong: dict[str, object], what: str, remedy: str) -> None:
    (found,) = lacking(replace(ALL, **wrong))  # type: ignore[arg-type]
    assert what in found.what
    assert remedy in found.remedy


def test_lanes_processors_count_beside_the_server_s() -> None:
    assert lacking(replace(ALL, cpus=1), lanes_cpus=1) == []


def test_a_look_leaves_this_thread_as_it_was() -> None:
    before = os.sched_getscheduler(0), os.sched_getaffinity(0)
    rights.look()
    assert before == (os.sched_getscheduler(0), os.sched_getaffinity(0))


def looked(*command: str) -> Rights:
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([*command, sys.executable, "-P", "-c", LOOK], capture_output=True, text=True, env=environment)
    if done.returncode:
        pytest.skip(f"{command[0]} is refused here: {done.stderr.strip()}")
    return Rights(**json.loads(done.stdout))


@needs_rights
def test_capabilities_are_seen_to_be_gone() -> None:
    found = looked("setpriv", "--bounding-set=-sys_nice,-ipc_lock")
    assert (found.may_nice, found.may_lock) == (False, False)
    assert found.fifo is (found.rtprio_max < 0 or found.rtprio_max >= 13)


@needs_rights
def test_capabilities_of_another_namespace_are_no_rights() -> None:
    found = looked("unshare", "--user", "--map-root-user")
    assert found.may_nice
    assert found.fifo is (found.rtprio_max < 0 or found.rtprio_max >= 13)


@needs_rights
def test_a_limit_alone_is_right_enough() -> None:
    found = looked("prlimit", "--rtprio=13", "setpriv", "--bounding-set=-sys_nice")
    assert (found.may_nice, found.fifo) == (False, True)
