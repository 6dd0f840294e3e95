"""Places models in the memory of lanes' devices before they are loaded, and refuses what does not fit, with the sum.

Theory. A worker's memory is known once it is warm, when all batch sizes have run. Until then it is expected to take

    what a worker of the same version took there before, when it was warm; else
    what the newest measured version of its model took, with its own weights in the place of that one's; else
    the least that its weights can take.

That is what their files have, and a quarter of it where a provider compiles engines of its own: those may have 8 bits
where the files have 32. OpenVINO's processor keeps them as they are.

So a first load is refused only where it can't fit, and later ones by what was measured. What was measured is remembered
as long as the server runs. It is of the kind of lane, as drivers and runtimes take memory of their own.

Together with it count all workers on the same device, whatever their lanes, versions on trial and those that are being
loaded among them, and what others have of it: what is in use and is none of these workers'. While a worker is being
loaded nobody can tell what it has by then, unless the system tells memory by processes; what others have is then at
most what they had before. So it is for a worker that replaces another, of which something may still be left: it is
never refused because of its own dead predecessor. A worker that was measured and has grown since counts as it is now.

Nothing is refused where the memory of a device is not known. Nobody is unloaded to make room.

Whoever loads a version may not be allowed to know of others, so that he is told how many there are and what they have
together. The log names them.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from duly.accelerators import compiles, kind_of
from duly.models.wording import first_few
from duly.runtime.device_memory import HOST, DeviceMemory, on_host, process_bytes

_log = structlog.get_logger("duly.placement")

KNOWN_MAX = 1024
"""So many measurements are remembered; of one more the oldest is forgotten."""
ENGINE_PARTS = 4
"""An engine has no less than one of so many parts of the weights that it is compiled from."""
NAMED_MAX = 64
"""The log names so many versions of those that are on a device, and counts the rest."""


class NoPlace(Exception):
    """A version does not fit into the memory of a lane's device. The text has the sum."""


@dataclass(slots=True, eq=False)
class Claim:
    """What one worker has, or is expected to have, of a device."""

    key: str
    """NAME/VERSION of what it serves."""
    lane: str
    device: str
    size_bytes: int
    """What is expected of it, and what was measured once it is warm."""
    least_bytes: int
    """What its weights take at least."""
    room_bytes: int
    """What was left on the device for it when it was placed, in bytes; it may take no more."""
    before_bytes: int
    """What was in use on the device when it was placed."""
    alone: bool
    """Whether no other worker has been loaded there since it was placed."""
    pid: int = 0
    warm: bool = False


class Placement:
    def __init__(self, memory: Callable[[str], Awaitable[DeviceMemory | None]], lane_memory_bytes_max: int = 0) -> None:
        """`memory(lane)` tells the memory of the device that a lane is on. `lane_memory_bytes_max`: what all workers on
        one device may have together; 0: what the device has.
        """
        self._memory = memory
        self._bytes_max = lane_memory_bytes_max
        self._claims: list[Claim] = []
        self._others: dict[str, int] = {}
        """What others had of each device when that could last be told."""
        self._known: dict[tuple[str, str], tuple[int, int]] = {}
        """What was measured of a version on a kind of lanes, and the least that its weights take; the newest last."""

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What all workers have, or are expected to have."""
        return tuple(self._claims)

    async def claim(
        self, key: str, lane: str, weights_bytes: int, providers: Sequence[str] = (), *, replaces: bool = False
    ) -> Claim | None:
        """Places a worker of the version before it is started. `weights_bytes`: what its files of weights have.
        `providers`: those that it asks for; none: the lane's own. `replaces`: another one that is gone. Returns what it
        claims, to be told when it is warm and when it is gone; None: the memory of that lane is not known. Raises
        NoPlace.
        """
        memory = await self._memory(lane)
        if memory is None:
            return None
        measured = (key, kind_of(lane)) in self._known
        least_bytes = _least_bytes(lane, weights_bytes, providers)
        size_bytes = self._expected(key, lane, least_bytes)
        there = [claim for claim in self._claims if claim.device == memory.device]
        others_bytes = self._others_have(memory, there, replaces)
        held = {claim: self._held(memory, claim) for claim in there}
        room_bytes = memory.total_bytes - others_bytes - sum(held.values())
        if self._bytes_max:
            room_bytes = min(room_bytes, self._bytes_max - sum(held.values()))
        if size_bytes > room_bytes:
            _log.warning("version does not fit", model=key, lane=lane, needs=in_gb(size_bytes), there=_listed(held))
            raise NoPlace(self._refusal(memory, others_bytes, held, key, size_bytes, measured))
        for claim in there:
            claim.alone = False
        alone = all(claim.warm for claim in there)
        claim = Claim(key, lane, memory.device, size_bytes, least_bytes, room_bytes, memory.used_bytes, alone)
        self._claims.append(claim)
        return claim

    async def warm(self, claim: Claim) -> None:
        """The worker, whose process is `claim.pid`, is warm: what it takes now is measured and counts from now on."""
        memory = await self._memory(claim.lane)
        if memory is None or claim not in self._claims:
            claim.warm = True
            return
        size_bytes = _of_process(memory, claim.pid)
        if not size_bytes and claim.alone:
            size_bytes = memory.used_bytes - claim.before_bytes
        if size_bytes > 0:
            claim.size_bytes = size_bytes
            place = claim.key, kind_of(claim.lane)
            self._known.pop(place, None)
            self._known[place] = size_bytes, claim.least_bytes
            if len(self._known) > KNOWN_MAX:
                del self._known[next(iter(self._known))]
        claim.warm = True

    def gone(self, claim: Claim) -> None:
        """The process of the worker is gone, or was never started."""
        if claim in self._claims:
            self._claims.remove(claim)

    async def says(self, key: str, lane: str) -> str:
        """Returns what of the memory of a lane's device is free now, as a sentence for who loads the version; empty: it
        is not known. The log is told who has the rest.
        """
        memory = await self._memory(lane)
        if memory is None:
            return ""
        held = {
            claim: self._held(memory, claim) for claim in self._claims if claim.device == memory.device and claim.warm
        }
        free = memory.total_bytes - memory.used_bytes
        _log.warning("no memory for a version as it was loaded", model=key, lane=lane, there=_listed(held))
        loaded = f"; loaded there: {_counted(held, key)}" if held else "; nothing else of this server is loaded there"
        return f"{memory.name} has {in_gb(memory.total_bytes)}, of which {in_gb(free)} are free{loaded}"

    def _expected(self, key: str, lane: str, least_bytes: int) -> int:
        kind = kind_of(lane)
        if (key, kind) in self._known:
            return max(self._known[key, kind][0], least_bytes)
        name = key.partition("/")[0]
        for (other, its_kind), (size_bytes, its_least_bytes) in reversed(self._known.items()):
            if its_kind == kind and other.partition("/")[0] == name:
                return max(size_bytes - its_least_bytes, 0) + least_bytes
        return least_bytes

    def _held(self, memory: DeviceMemory, claim: Claim) -> int:
        return max(claim.size_bytes, _of_process(memory, claim.pid))

    def _others_have(self, memory: DeviceMemory, there: list[Claim], replaces: bool) -> int:
        """What is in use on the device by others than these workers."""
        ours, vague = 0, replaces
        for claim in there:
            its_bytes = _of_process(memory, claim.pid)
            vague |= not its_bytes and not claim.warm
            ours += its_bytes or (claim.size_bytes if claim.warm else 0)
        now = max(0, memory.used_bytes - ours)
        before = self._others.get(memory.device, now)
        if vague:
            return min(now, before)
        self._others[memory.device] = now
        return now

    def _refusal(
        self, memory: DeviceMemory, others: int, held: dict[Claim, int], key: str, size: int, measured: bool
    ) -> str:
        sum_bytes = sum(held.values()) + size
        known = "as measured" if measured else "at least"
        parts = f"{_counted(held, key)} + {key} (this, {known}) {in_gb(size)}" if held else f"{key} takes {in_gb(size)}"
        total = f" = {in_gb(sum_bytes)}" if held else f" ({known})"
        if self._bytes_max and sum_bytes > self._bytes_max:
            return (
                f"models on {memory.name} may have {in_gb(self._bytes_max)} (lane_memory_bytes_max): {parts}{total}; "
                "unload a version, or allow more"
            )
        return (
            f"{memory.name} has {in_gb(memory.total_bytes)}, {in_gb(others)} in use by others: {parts}{total}; "
            "unload a version, take smaller batch_sizes, or use fewer lanes of that device"
        )


def _of_process(memory: DeviceMemory, pid: int) -> int:
    """What a process has of the device; 0: that cannot be told."""
    if not pid:
        return 0
    return process_bytes(pid) if memory.device == HOST else memory.of_processes.get(pid, 0)


def _least_bytes(lane: str, weights_bytes: int, providers: Sequence[str]) -> int:
    return weights_bytes // ENGINE_PARTS if compiles(lane, providers) and not on_host(lane) else weights_bytes


def _counted(held: dict[Claim, int], key: str) -> str:
    """What the version has by then, if anything, and how many others have how much, without their names."""
    mine = [size_bytes for claim, size_bytes in held.items() if claim.key == key]
    others = len({claim.key for claim in held} - {key})
    parts = [f"{key} (loaded) {in_gb(sum(mine))}"] if mine else []
    if others:
        versions = "1 other version" if others == 1 else f"{others} other versions"
        parts.append(f"{versions} {in_gb(sum(held.values()) - sum(mine))}")
    return " + ".join(parts)


def _listed(held: dict[Claim, int]) -> str:
    """Who has how much, the most first. Workers of one version on several lanes are one."""
    of_version: dict[str, int] = {}
    for claim, size_bytes in held.items():
        of_version[claim.key] = of_version.get(claim.key, 0) + size_bytes
    ranked = sorted(of_version.items(), key=lambda each: (-each[1], each[0]))
    return first_few([f"{key} {in_gb(size_bytes)}" for key, size_bytes in ranked], NAMED_MAX, " + ", " + ")


def in_gb(size_bytes: int) -> str:
    """Says a size for people, in GB of 10^9 bytes, or in MB where it is small."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 100_000_000 else f"{size_bytes / 1e6:.1f} MB"
