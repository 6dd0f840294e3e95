"""How much memory the devices of lanes have, and what of it is in use.

    a lane on a processor (cpu:0, openvino:CPU) ... the machine, or the control group that leaves the least
    a lane on a GPU of NVIDIA (cuda:0, ...) ....... that GPU, or the part of it, as NVML tells
    any other ..................................... not known

Reading it may block (a driver that hangs), so it is done in a thread that nobody waits for at the end.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from duly.accelerators import kind_of
from duly.cgroups import group_settings
from duly.nvml.library import Library
from duly.nvml.memory import gpu_memory
from duly.runtime.disk_reader import in_thread

ASK_SECONDS_MAX = 35.0
"""What is not told by then counts as not known. The first time CUDA is asked for its order of GPUs, too."""
ASK_AGAIN_SECONDS = 60.0
"""Where CUDA has counted no GPU, as a driver may not be there yet, it is asked again after so long."""
HOST = "host"
"""The id of the processors' memory."""
_HOST_LANES = ("cpu", "openvino:CPU")
_MEMINFO = Path("/proc/meminfo")
_PROCESS_IDS = Path("/proc/self/ns/pid")
"""Whose process ids this process has: those of the system, or of a container."""
_OF_THE_SYSTEM = "pid:[4026531836]"
"""The kernel's number for the process ids of the system (PROC_PID_INIT_INO), by which the driver knows processes."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of a device at one moment."""

    device: str
    """What tells it from others: HOST, or the UUID of a GPU."""
    name: str
    """How people call it."""
    total_bytes: int
    used_bytes: int
    """What is in use, by whoever."""
    of_processes: Mapping[int, int] = field(default_factory=dict)
    """What processes have of it, by their ids, as far as that can be told; of the host nothing, see `process_bytes`.
    Where this process runs with ids of a container's own, none, as those of the driver may be of other processes.
    """


class Devices:
    """Tells the memory of lanes' devices."""

    def __init__(
        self,
        library: Library,
        lanes: Sequence[str],
        find: Callable[[Sequence[str]], Mapping[str, str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`find(lanes)` gives the UUID of the GPU of each lane that is on one of NVIDIA's. `clock`: in seconds."""
        self._library = library
        self._lanes = lanes
        self._find = find
        self._clock = clock
        self._gpus: Mapping[str, str] = {}
        self._ask_after_s = -math.inf
        self._hangs: asyncio.Future[DeviceMemory | None] | None = None
        """The answer that was waited for in vain; None: none was."""

    async def memory(self, lane: str) -> DeviceMemory | None:
        """Returns the memory of the device that the lane is on; None: it is not known. Where one answer hangs, no other
        is waited for.
        """
        if self._hangs is not None and not self._hangs.done() and not on_host(lane):
            return None
        asked = in_thread(lambda: self._memory(lane))
        try:
            async with asyncio.timeout(ASK_SECONDS_MAX):
                return await asyncio.shield(asked)
        except TimeoutError:
            if not on_host(lane):
                self._hangs = asked
            return None

    def _memory(self, lane: str) -> DeviceMemory | None:
        if on_host(lane):
            return host_memory()
        if not self._gpus and self._clock() >= self._ask_after_s:
            self._gpus = self._find(self._lanes)
            self._ask_after_s = self._clock() + ASK_AGAIN_SECONDS
        device = self._gpus.get(lane)
        found = gpu_memory(self._library, device) if device is not None else None
        if device is None or found is None:
            return None
        of_processes = found.of_processes if _has_ids_of_the_system() else {}
        return DeviceMemory(device, lane, found.total_bytes, found.used_bytes, of_processes)


def on_host(lane: str) -> bool:
    """Whether what runs on the lane lies in the memory of the machine alone."""
    return kind_of(lane) in _HOST_LANES or lane.partition("/")[0] in _HOST_LANES


def _has_ids_of_the_system() -> bool:
    try:
        return os.readlink(_PROCESS_IDS) == _OF_THE_SYSTEM
    except OSError:
        return False


def host_memory() -> DeviceMemory | None:
    """Returns the memory of the machine, or of the control group around this process that has less left; None: the
    system does not tell.
    """
    try:
        lines = _MEMINFO.read_text("ascii").splitlines()
        facts = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        total = facts["MemTotal"]
        found = [DeviceMemory(HOST, "this machine", total, total - facts["MemAvailable"])]
    except (OSError, KeyError, ValueError, IndexError):
        return None
    limits = group_settings("memory", "memory.max", "memory.limit_in_bytes")
    used = group_settings("memory", "memory.current", "memory.usage_in_bytes")
    stats = group_settings("memory", "memory.stat", "memory.stat")
    for limit, current, stat in zip(limits, used, stats, strict=True):
        if limit.strip().isdigit() and current.strip().isdigit() and int(limit) < total:
            kept = max(0, int(current) - _given_back(stat))
            found.append(DeviceMemory(HOST, "the control group", int(limit), kept))
    return min(found, key=lambda memory: memory.total_bytes - memory.used_bytes)


def _given_back(stat: str) -> int:
    """What of a group's memory is kept only as long as nobody wants it: files that were read."""
    values = dict(zip(stat.split()[::2], stat.split()[1::2], strict=False))
    names = ("total_inactive_file", "total_active_file")  # version 1: with the groups below it
    if names[0] not in values:
        names = ("inactive_file", "active_file")
    return sum(int(values[name]) for name in names if values.get(name, "").isdigit())


def process_bytes(pid: int) -> int:
    """Returns the memory of the machine that a process has of its own or shares with the server; 0: it is gone, or the
    system does not tell.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return sum(
        int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")) and "kB" in line
    )
