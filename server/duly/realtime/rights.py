"""What of real time this process may have, and what would grant the rest."""

import os
import resource
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from duly.realtime import scheduling, wakefulness

_CAP_IPC_LOCK, _CAP_SYS_NICE = 14, 23  # linux/capability.h
CPUS_MIN = 2


@dataclass(frozen=True, slots=True)
class Rights:
    """What the kernel says of this process."""

    fifo: bool
    """Whether it may run threads under SCHED_FIFO, as was tried."""
    may_nice: bool
    """Whether it has CAP_SYS_NICE."""
    rtprio_max: int
    """RLIMIT_RTPRIO, the hard one; -1: there is no limit."""
    may_lock: bool
    """Whether it has CAP_IPC_LOCK."""
    memlock_bytes: int
    """RLIMIT_MEMLOCK, the hard one; -1: there is no limit."""
    wakefulness: str
    """Why the device that keeps processors awake cannot be held; empty: it can."""
    cpus: int
    """How many processors it may run on."""
    runtime_us: int
    """/proc/sys/kernel/sched_rt_runtime_us: for how long of a second threads like these may run; -1: for all of it."""


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that is wanting."""

    what: str
    remedy: str


def look() -> Rights:
    """Looks at what this process may. It changes nothing but the soft limits, which it raises as far as it may."""
    _raise_limits()
    capabilities = _capabilities()
    return Rights(
        fifo=_permitted(_try_fifo),
        may_nice=bool(capabilities >> _CAP_SYS_NICE & 1),
        rtprio_max=resource.getrlimit(resource.RLIMIT_RTPRIO)[1],
        may_lock=bool(capabilities >> _CAP_IPC_LOCK & 1),
        memlock_bytes=resource.getrlimit(resource.RLIMIT_MEMLOCK)[1],
        wakefulness=_unheld(),
        cpus=len(os.sched_getaffinity(0)),
        runtime_us=_runtime_us(),
    )


def lacking(rights: Rights, lanes_cpus: int = 0) -> list[Lack]:
    """Says what is wanting for real time in whole. `lanes_cpus`: processors that lanes have beside the server's."""
    found = []
    if not rights.fifo:
        highest = scheduling.PRIORITY_MAX
        if rights.may_nice or rights.rtprio_max >= highest or rights.rtprio_max < 0:
            what = "SCHED_FIFO is not permitted though there is the right: its control group has no real-time share"
            remedy = "give it one: cpu.rt_runtime_us, docker run --cpu-rt-runtime; or leave the namespace of a user"
        else:
            what = f"SCHED_FIFO is not permitted: no CAP_SYS_NICE, and RLIMIT_RTPRIO is {rights.rtprio_max}"
            remedy = (
                f"LimitRTPRIO={highest} in the unit of systemd, docker run --ulimit rtprio={highest} or --cap-add "
                "SYS_NICE, rtprio in limits.conf, or setcap cap_sys_nice,cap_ipc_lock+ep on Python"
            )
        found.append(Lack(what, remedy))
    # A limit counts what is mapped and not what is there: below it, a later allocation would fail under load.
    if not rights.may_lock and rights.memlock_bytes >= 0:
        found.append(
            Lack(
                f"memory cannot be locked: no CAP_IPC_LOCK, and RLIMIT_MEMLOCK is {rights.memlock_bytes:,} bytes, "
                "which counts all that is mapped and so must be unlimited",
                "LimitMEMLOCK=infinity in the unit of systemd, docker run --ulimit memlock=-1 or --cap-add IPC_LOCK",
            )
        )
    if rights.wakefulness:
        found.append(
            Lack(
                f"{wakefulness.WAKEFULNESS} cannot be held, {rights.wakefulness}",
                "let the server's user write to it, docker run --device " + wakefulness.WAKEFULNESS,
            )
        )
    if rights.cpus + lanes_cpus < CPUS_MIN:
        found.append(
            Lack(
                "there is one processor, which the server and its workers would take from everything else",
                f"give it {CPUS_MIN}",
            )
        )
    return found


def _raise_limits() -> None:
    """Raises the soft limits to the hard ones, for this process and what it starts."""
    for limit in (resource.RLIMIT_RTPRIO, resource.RLIMIT_MEMLOCK):
        soft, hard = resource.getrlimit(limit)
        if soft != hard:
            resource.setrlimit(limit, (hard, hard))


def _capabilities() -> int:
    lines = Path("/proc/self/status").read_text("utf-8", "replace").splitlines()
    return int(next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0"), 16)


def _runtime_us() -> int:
    try:
        return int(Path("/proc/sys/kernel/sched_rt_runtime_us").read_text())
    except (OSError, ValueError):
        return -1


def _unheld() -> str:
    try:
        os.close(os.open(wakefulness.WAKEFULNESS, os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def _try_fifo() -> None:
    scheduling.make_urgent([threading.get_native_id()], scheduling.PRIORITY_MAX)


def _permitted(attempt: Callable[[], None]) -> bool:
    """Whether that is permitted to a thread of its own, which ends at once."""
    granted = []

    def run() -> None:
        try:
            attempt()
            granted.append(True)
        except PermissionError:
            return

    thread = threading.Thread(target=run, name="rights")
    thread.start()
    thread.join()
    return bool(granted)
