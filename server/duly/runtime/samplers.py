"""What the server looks at periodically, rather than when something happens: its event loop's lag, and hung workers.

A new sampler is a method here that `start` runs, and the counter or gauge in `metrics` that it feeds. Samplers run on
the event loop, so they must not block it: what takes more than a fraction of a millisecond belongs into a thread
(`asyncio.to_thread`).
"""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from duly.metrics import Metrics
from duly.runtime.catalogue import Catalogue
from duly.runtime.tasks import watch_over

_log = structlog.get_logger("duly.samplers")

SAMPLE_SECONDS = 0.25
"""Time between two looks. Hung workers are found that much later, and the lag of a loop is measured four times a
second, which is often enough to see every pause that a client could notice more than once."""
PLANS_MAX = 20
"""A batch that has run for so many times its plan hangs, if it has exceeded `batch_timeout_ms` as well."""


class Samplers:
    def __init__(
        self, clock: Callable[[], int], catalogue: Catalogue, metrics: Metrics, batch_timeout_ms: float
    ) -> None:
        """`clock`: nanoseconds that never go back. `batch_timeout_ms`: no batch that is shorter counts as hung."""
        self._clock = clock
        self._catalogue = catalogue
        self._metrics = metrics
        self._batch_timeout_ns = int(batch_timeout_ms * 1e6)

    def start(self) -> list["asyncio.Task[None]"]:
        """Starts all samplers. They run until their tasks are cancelled."""
        return [
            watch_over("event loop lag", self._measure_loop_lag),
            watch_over("watch for workers that hang", partial(periodically, self.kill_hung_workers)),
        ]

    async def _measure_loop_lag(self) -> None:
        """Measures how late the event loop wakes a task that sleeps."""
        due_ns = self._clock()
        while True:
            due_ns += int(SAMPLE_SECONDS * 1e9)
            await asyncio.sleep(max(0, due_ns - self._clock()) / 1e9)
            self._metrics.loop_lag(max(0, self._clock() - due_ns))

    def kill_hung_workers(self) -> None:
        """Kills workers that hang. The supervisor replaces them like any worker that died."""
        now_ns = self._clock()
        for loaded in self._catalogue.all_versions():
            for worker in list(loaded.workers.values()):
                if worker.running_since_ns is None:
                    continue
                ran_ns = now_ns - worker.running_since_ns
                if ran_ns > max(self._batch_timeout_ns, PLANS_MAX * worker.planned_ns):
                    ran_s = ran_ns / 1e9
                    _log.error("worker hangs, it is killed", model=worker.model, lane=worker.lane, batch_s=ran_s)
                    worker.give_up(f"its worker did not answer for {ran_s:.1f} s and was killed")


async def periodically(look: Callable[[], None]) -> None:
    """Calls `look` every SAMPLE_SECONDS, for ever."""
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        look()
