"""What lanes have of the machine: processors and real time, devices with their memory and health, and engines.

It is put together here as the settings say, and handed to the supervisor, which starts the lanes' workers.
"""

import asyncio
import os
from collections.abc import Sequence
from functools import partial

import structlog

from duly.config import ServerConfig
from duly.nvml.library import Library
from duly.realtime import lane_cpus, silence
from duly.runtime.catalogue import Catalogue
from duly.runtime.device_memory import Devices
from duly.runtime.engine_store import EngineStore, NotTrusted, engine_folder
from duly.runtime.engines import EngineCounts, Engines
from duly.runtime.lane_health import LaneHealth, gpus_of
from duly.runtime.placement import Placement
from duly.runtime.realtime import RealTime, RealTimeError
from duly.runtime.samplers import periodically
from duly.runtime.supervisor import Supervisor
from duly.runtime.tasks import watch_over
from duly.start_error import StartError

_log = structlog.get_logger("duly")


class LaneResources:
    """Call `take_time` and `open_engines` before anything is loaded; `close_engines` and `give_back_time` undo that."""

    def __init__(self, config: ServerConfig, catalogue: Catalogue, supervisor: Supervisor, nvml: Library) -> None:
        """Raises StartError where lanes cannot have the processors that the settings say."""
        self.health = LaneHealth(catalogue, supervisor, nvml)
        self.engine_counts = EngineCounts()
        """What became of what providers compile."""
        self.realtime: RealTime | None = None
        """What the server has of real time; None: it does not ask for it."""
        self._config = config
        self._catalogue = catalogue
        self._supervisor = supervisor
        self._engines = engines_of(config, self.engine_counts)
        self._cpus_before: set[int] | None = None
        """Where this process could run before it left some processors to the lanes; None: it has not."""
        supervisor.cpus = _lanes_cpus(catalogue.lanes, config.cpus)
        supervisor.build_timeout_s = config.engine_build_timeout_s
        supervisor.engines = self._engines
        supervisor.placement = Placement(Devices(nvml, catalogue.lanes, gpus_of).memory, config.lane_memory_bytes_max)

    async def take_time(self) -> list[asyncio.Task[None]]:
        """Leaves the lanes' processors to them, and asks for real time, where that is wanted. Returns what looks after
        it from now on. Raises StartError.
        """
        taken: set[int] = set().union(*self._supervisor.cpus.values())
        if taken:
            try:
                self._cpus_before = lane_cpus.move(os.sched_getaffinity(0) - taken)
            except OSError as error:
                raise StartError(
                    f"cpus: the server cannot be moved from those of the lanes: {error.strerror}"
                ) from None
            lanes = {lane: lane_cpus.told(cpus) for lane, cpus in self._supervisor.cpus.items()}
            _log.info("processors", server=lane_cpus.told(os.sched_getaffinity(0)), **lanes)
        if not self._config.realtime:
            return []
        realtime = RealTime()
        try:
            await realtime.begin(len(taken))
        except RealTimeError as error:
            raise StartError(str(error)) from None
        self.realtime = self._supervisor.realtime = realtime
        look = partial(self._look_at_time, realtime)
        return [watch_over("real time", partial(periodically, look, silence.LOOK_NS / 1e9))]

    def open_engines(self) -> list[asyncio.Task[None]]:
        """Looks at the folder of engines, where the settings name one. Returns what looks after what workers write from
        now on. Raises StartError.
        """
        if self._engines is None:
            return []
        if self._config.engine_cache != "auto":
            try:
                self._engines.open()
            except NotTrusted as error:
                raise StartError(f"engine_cache: {error}") from None
        return [watch_over("what workers compile", self._engines.watch)]

    def watch_health(self) -> asyncio.Task[None]:
        return watch_over("health of lanes", self.health.run)

    def close_engines(self) -> None:
        """Gives back the folders of workers, which must have ended."""
        if self._engines is not None:
            self._engines.close()

    async def give_back_time(self) -> None:
        if self.realtime is not None:
            await self.realtime.close()
        if self._cpus_before is not None:
            lane_cpus.move(self._cpus_before)

    def _look_at_time(self, realtime: RealTime) -> None:
        realtime.look(worker for loaded in self._catalogue.all_versions() for worker in loaded.workers.values())


def engines_of(config: ServerConfig, counts: EngineCounts) -> Engines | None:
    """Returns what keeps engines, as the settings say; None: nothing does."""
    if config.engine_cache == "off":
        return None
    folder = engine_folder(config.engine_cache, os.environ)
    return Engines(partial(EngineStore, folder, config.engine_cache_bytes_max), counts)


def _lanes_cpus(lanes: Sequence[str], entries: Sequence[str]) -> dict[str, frozenset[int]]:
    try:
        return lane_cpus.of_lanes(lanes, entries)
    except ValueError as error:
        raise StartError(f"cpus: {error}") from None
