"""What the server looks at periodically, rather than when something happens: its event loop's lag, hung workers, and
what energy the machine takes.

A new sampler is a method here that `start` runs, and the counter or gauge in `metrics` that it feeds. Samplers run on
the event loop, so they must not block it: what takes more than a fraction of a millisecond belongs into a thread
(`asyncio.to_thread`).
"""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from duly.energy.watch import EnergyWatch, sources
from duly.metrics import Metrics
from duly.nvml.library import Library
from duly.runtime.catalogue import Catalogue, LoadedVersion, VersionState
from duly.runtime.hang import LOOK_NS, PLANS_MAX
from duly.runtime.process_state import process_state
from duly.runtime.tasks import watch_over
from duly.runtime.worker_process import Worker

_log = structlog.get_logger("duly.samplers")

SAMPLE_SECONDS = 0.25
"""Time between two looks. The lag of a loop is measured four times a second, which is often enough to see every pause
that a client could notice more than once."""

LOAD_STILL_NS = 2_000_000_000
LOAD_NS_MAX = 1 << 62
"""No limit: the supervisor says how long a load may take in all."""
LAST_NS = 2_000_000_000
"""In this last part of a drain no worker could be replaced in time."""


class Samplers:
    def __init__(
        self,
        clock: Callable[[], int],
        catalogue: Catalogue,
        metrics: Metrics,
        batch_timeout_ms: float,
        library: Library | None = None,
    ) -> None:
        """`clock`: nanoseconds that never go back. `batch_timeout_ms`: no batch that is longer than this, and than many
        times its plan, is waited for. `library`: NVML, where others ask it, too.
        """
        self._library = library
        self._clock = clock
        self._catalogue = catalogue
        self._metrics = metrics
        self._batch_timeout_ns = int(batch_timeout_ms * 1e6)
        self._looked_ns = clock()
        self._ends_ns: int | None = None

    def start(self) -> list["asyncio.Task[None]"]:
        """Starts all samplers. They run until their tasks are cancelled."""
        return [
            watch_over("event loop lag", self._measure_loop_lag),
            watch_over("watch for workers that hang", partial(periodically, self.kill_hung_workers, LOOK_NS / 1e9)),
            watch_over("energy", self._measure_energy),
        ]

    async def _measure_loop_lag(self) -> None:
        """Measures how late the event loop wakes a task that sleeps."""
        due_ns = self._clock()
        while True:
            due_ns += int(SAMPLE_SECONDS * 1e9)
            await asyncio.sleep(max(0, due_ns - self._clock()) / 1e9)
            self._metrics.loop_lag(max(0, self._clock() - due_ns))

    async def _measure_energy(self) -> None:
        """Lets a thread look at what energy the machine takes, until the server ends. Its reads may block."""
        watch = EnergyWatch(sources(self._library))
        self._metrics.set_energy(lambda: watch.joules)
        watch.start()
        try:
            await asyncio.Event().wait()
        finally:
            watch.stop()

    def drain(self, until_ns: int) -> None:
        """The server ends at that time, and with it every worker that hangs: shortly before, none is replaced."""
        self._ends_ns = until_ns

    def kill_hung_workers(self) -> None:
        """Gives up workers that hang (`hang`) or whose end was not heard of, and pings idle ones. The supervisor
        replaces them like any worker that died.
        """
        now_ns = self._clock()
        elapsed_ns, self._looked_ns = now_ns - self._looked_ns, now_ns
        if self._ends_ns is not None and now_ns > self._ends_ns - LAST_NS:
            return
        for loaded in self._catalogue.all_versions():
            for worker in list(loaded.workers.values()):
                self._look(worker, elapsed_ns)
            self._look_at_loads(loaded, elapsed_ns)

    def _look(self, worker: Worker, elapsed_ns: int) -> None:
        worker.hear()
        if worker.ended:
            return
        watch = worker.watch
        if not watch.look(worker.owes, elapsed_ns):
            if watch.ping_is_due():
                worker.ping()
            return
        planned_ns = worker.planned_ns if worker.busy else 0
        how = watch.hangs(process_state(worker.pid), planned_ns, worker.sizes_vary, self._batch_timeout_ns)
        if how:
            self._give_up(worker, how, watch.waited_ns / 1e9)

    def _look_at_loads(self, loaded: LoadedVersion, elapsed_ns: int) -> None:
        """Gives up workers that are stopped, or do nothing for longer than the first load took, while they load a
        version again: their load is tried once more, a first one is not.
        """
        if loaded.state is not VersionState.RECOVERING:
            return
        for worker in list(loaded.starting):
            if worker.load.compiler_works:
                continue  # how long that may take is another matter (`load_patience`)
            watch = worker.watch
            if watch.look(("load", 0), elapsed_ns):
                still_ns = LOAD_STILL_NS + int(loaded.load_s * 1e9)
                how = watch.hangs(process_state(worker.pid), still_ns // PLANS_MAX, True, LOAD_NS_MAX)
                if how:
                    self._give_up(worker, f"{how} while it loaded", watch.waited_ns / 1e9)

    def _give_up(self, worker: Worker, how: str, waited_s: float) -> None:
        _log.error("worker hangs, it is killed", model=worker.model, lane=worker.lane, how=how, waited_s=waited_s)
        worker.give_up(f"its worker {how} for {waited_s:.1f} s and was killed")


async def periodically(look: Callable[[], None], seconds: float = SAMPLE_SECONDS) -> None:
    """Calls `look` every so many seconds, for ever, at whole multiples of them: all who look then wake the loop
    together, as waking a processor costs more than looking.
    """
    loop = asyncio.get_running_loop()
    looks = 0
    while True:
        looks = max(looks, int(loop.time() / seconds)) + 1
        await asyncio.sleep(looks * seconds - loop.time())
        look()
