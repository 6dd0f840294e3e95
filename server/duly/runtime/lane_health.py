"""Takes lanes down whose GPUs fail, and back up when they work again: what `duly.nvml.health` finds out in its thread
is done on the event loop.
"""

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence

import structlog

from duly.accelerators import kind_of
from duly.nvml.figures import Figures
from duly.nvml.gpus import cuda_devices, devices_of_lanes
from duly.nvml.health import HealthWatch
from duly.nvml.library import Library
from duly.runtime.catalogue import Catalogue
from duly.runtime.supervisor import Supervisor
from duly.runtime.worker_command import worker_environment

_log = structlog.get_logger("duly.lanes")

GPU_LANES = ("cuda", "tensorrt-rtx")
"""The kinds of lanes that may be on a GPU of NVIDIA's."""


class LaneHealth:
    def __init__(self, catalogue: Catalogue, supervisor: Supervisor, library: Library) -> None:
        """`library`: which others ask, too."""
        self._catalogue = catalogue
        self._supervisor = supervisor
        self._library = library
        self._watch: HealthWatch | None = None

    @property
    def figures(self) -> Mapping[str, Figures]:
        """How the GPUs of lanes do, by lane, as of the newest look. Any thread may ask."""
        return self._watch.figures if self._watch is not None else {}

    @property
    def xids(self) -> Mapping[tuple[str, str], int]:
        """How many Xids were reported, by lane and by what they are of. Any thread may ask."""
        return self._watch.xids.copy() if self._watch is not None else {}

    async def run(self) -> None:
        """Looks after the lanes until it is cancelled."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def heard() -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(changed.set)

        watch = self._watch = HealthWatch(lambda: gpus_of(self._catalogue.lanes), self._library, heard)
        watch.start()
        try:
            while True:
                await changed.wait()
                changed.clear()
                self._take(watch)
        finally:
            watch.stop()

    def _take(self, watch: HealthWatch) -> None:
        while watch.notes:
            _log.warning("GPU", note=watch.notes.popleft())
        down, before = watch.down, self._catalogue.lanes_down
        for lane in self._catalogue.lanes:
            if lane in down and before.get(lane) != down[lane]:
                _log.error("lane is down", lane=lane, reason=down[lane])
                self._supervisor.lane_down(lane, down[lane])
            elif lane in before and lane not in down:
                _log.info("lane is up again, its workers are started", lane=lane)
                self._supervisor.lane_up(lane)


def gpus_of(lanes: Sequence[str]) -> Mapping[str, str]:
    """Returns the UUID of the GPU of each lane that is on one of NVIDIA's. It may block for some seconds."""
    if not any(kind_of(lane) in GPU_LANES for lane in lanes):
        return {}
    return devices_of_lanes(lanes, cuda_devices(worker_environment(os.environ)))
