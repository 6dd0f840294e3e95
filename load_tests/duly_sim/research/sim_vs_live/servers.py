"""The live servers that a scenario is run on: one whose lanes sleep, one whose model truly runs.

The sleeping server is the whole server in this process, down to worker processes that run a graph which costs next to
nothing. Only the time is made up: between the scheduler's host and each worker stands a lane that keeps the worker's
answer until the batch has taken as long as the scenario says.
"""

import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from duly.app import App
from duly.config import ServerConfig
from duly.core.events import DispatchBatch, ModelGone, ModelReady, WarmLane
from duly.core.types import Frame
from duly.models.sizes import SizeLimits
from duly.runtime.catalogue import LoadedVersion
from duly.runtime.driver import Driver
from duly.runtime.given_state import GivenState
from duly.runtime.held_frames import InputData
from duly.runtime.worker_launch import start_worker
from duly.runtime.worker_load import WorkerError
from duly.runtime.worker_port import BatchResult, NoRoom
from duly.runtime.worker_process import Worker
from duly.start_error import StartError
from duly_load.graphs import Chain
from duly_load.scenario.scenario import Scenario
from duly_load.targets.duly_and_floor import OwnServer, running
from duly_load.targets.models import THREADS
from duly_sim.simulator.world import World

READY_S = 60.0


class LiveError(Exception):
    """A server for the live run can't be had; says why."""


SLEEPING = Chain(1, 1)
REAL = Chain(256, 200)
"""The chain before it is made as deep as the scenario's times ask for on this machine."""
RUNS = 30
"""The number of runs that are timed to find how deep it has to be."""


# ---- lanes that sleep ----


class SleepingLane:
    """A worker whose batches take as long as `duration_ns` says; that it runs them, too, takes hardly any time."""

    def __init__(self, driver: Driver, duration_ns: Callable[[str, int], int], sleepers: ThreadPoolExecutor) -> None:
        """`duration_ns(variant, batch size)`. `sleepers`: a thread for each lane, since they keep time better than the
        event loop's timers, which count in milliseconds.
        """
        self._driver = driver
        self._duration_ns = duration_ns
        self._sleepers = sleepers
        self._loop = asyncio.get_running_loop()
        self._batch_id = 0
        self._result: BatchResult | NoRoom | str | None = None
        self._woke_ns = 0

    async def start(self, served: LoadedVersion, lane: str) -> None:
        """Starts the worker. Raises WorkerError."""
        self.model, self.lane = served.key, lane
        self._worker = start_worker(served.version, lane, THREADS, SizeLimits(), self._ran, self._ended)
        try:
            await self._worker.load.ready(READY_S)
        except BaseException:
            await self._worker.stop()
            raise

    async def stop(self) -> None:
        self._driver.remove_worker(self)
        await self._worker.stop()

    # ---- as the driver sees it ----

    def run(self, action: DispatchBatch, payloads: Sequence[Sequence[InputData]], last: frozenset[int]) -> bool:
        return self._worker.run(action, payloads, last) and self._sleep(action, len(action.frames))

    @property
    def copied_ahead(self) -> int:
        return self._worker.copied_ahead

    @property
    def stages(self) -> bool:
        return self._worker.stages

    def stage(self, frames: Sequence[Frame], payloads: Sequence[Sequence[InputData]], bytes_max: int) -> bool:
        return self._worker.stage(frames, payloads, bytes_max)

    def warm(self, action: WarmLane) -> bool:
        return self._worker.warm(action) and self._sleep(action, 1)

    def forget(self, stream_id: int) -> None:
        self._worker.forget(stream_id)

    def give_state(self, stream_ids: Sequence[int], given: Callable[[GivenState | None], None]) -> int:
        return self._worker.give_state(stream_ids, given)

    def take_state(self, given: GivenState) -> bool:
        return self._worker.take_state(given)

    def rouse(self) -> None:
        self._worker.rouse()

    def has_answered(self, batch_id: int) -> bool:
        return self._worker.has_answered(batch_id)

    def hear(self) -> None:
        self._worker.hear()

    @property
    def busy(self) -> bool:
        return self._worker.busy

    def give_up(self, reason: str) -> None:
        self._worker.give_up(reason)

    # ---- a batch ----

    def _sleep(self, action: DispatchBatch | WarmLane, size: int) -> bool:
        self._batch_id, self._result, self._woke_ns = action.batch_id, None, 0
        until_ns = time.monotonic_ns() + self._duration_ns(action.variant, size)
        self._loop.run_in_executor(self._sleepers, _sleep_until, until_ns).add_done_callback(self._woke)
        return True

    def _woke(self, sleep: "asyncio.Future[int]") -> None:
        self._woke_ns = sleep.result()
        self._tell()

    def _ran(self, batch_id: int, result: BatchResult | NoRoom | str) -> None:
        self._result = result
        self._tell()

    def _tell(self) -> None:
        if self._result is None or not self._woke_ns:
            return
        result, self._result = self._result, None
        if isinstance(result, BatchResult):
            result.finished_ns = self._woke_ns
        self._driver.batch_ended(self._batch_id, result)

    def _ended(self, worker: Worker) -> None:
        self._ran(self._batch_id, "its worker process ended")


def _sleep_until(until_ns: int) -> int:
    time.sleep(max(0, until_ns - time.monotonic_ns()) / 1e9)
    return time.monotonic_ns()


@contextlib.asynccontextmanager
async def sleeping(world: World, folder: Path) -> AsyncIterator[str]:
    """A server in this event loop whose lanes sleep as `world.service` says; its address. Raises LiveError."""
    scenario = world.scenario
    _write_repository(folder, scenario, SLEEPING, warmup_runs=1)
    app = App(
        ServerConfig(
            models=folder / "models",
            listen=f"unix:{folder}/duly.sock",
            lanes=scenario.to_simulate().lanes,
            threads=THREADS,
            admission="advise",
            frames_in_flight_max=scenario.stream[0].credit,
        )
    )
    lanes: list[SleepingLane] = []
    with ThreadPoolExecutor(len(scenario.to_simulate().lanes)) as sleepers:
        try:
            await app.start()
            for _, event in world.script:
                if isinstance(event, ModelReady):
                    lane = SleepingLane(app.driver, partial(_duration_ns, world, event), sleepers)
                    await _put_in_place(app, lane, event)
                    lanes.append(lane)
            yield app.address
        except (StartError, WorkerError) as error:
            raise LiveError(str(error)) from error
        finally:
            for lane in lanes:
                await lane.stop()
            await app.close()


async def _put_in_place(app: App, lane: SleepingLane, ready: ModelReady) -> None:
    """The lane takes the place of the worker that the server started, with the times of the scenario's table."""
    served = next((served for served in app.catalogue.all_versions() if served.version.name == ready.model), None)
    if served is None or served.signature is None:
        why = app.catalogue.problems.get(ready.model, "") if served is None else served.error
        raise LiveError(f"model {ready.model} can't be served: {why}")
    await lane.start(served, ready.lane)
    app.driver.submit(ModelGone(served.key, ready.lane, "a lane that sleeps takes its place"))
    app.driver.add_worker(lane)
    app.driver.submit(replace(ready, model=served.key))


def _duration_ns(world: World, ready: ModelReady, variant: str, batch_size: int) -> int:
    took_ns = world.service.duration_ns(0, ready.lane, ready.model, variant, batch_size)
    assert took_ns is not None, "no lane hangs"
    return took_ns


# ---- a model that truly runs ----


@contextlib.contextmanager
def real(scenario: Scenario, folder: Path) -> Iterator[OwnServer]:
    """`duly serve` in a process of its own, on one CPU lane. Raises PeerError."""
    _write_repository(folder, scenario, _as_deep(scenario), warmup_runs=30)
    command = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(folder / "models")]
    command += ["--lanes", scenario.to_simulate().lanes[0], "--admission", "advise"]
    command += ["--frames-in-flight-max", str(scenario.stream[0].credit)]
    with running("duly", command, folder) as server:
        yield server


def _as_deep(scenario: Scenario) -> Chain:
    """A chain whose largest batches take about as long as those of the scenario's first model."""
    model = scenario.to_simulate().model[0]
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(REAL.build().SerializeToString(), options, providers=["CPUExecutionProvider"])
    batch = {"x": np.zeros((model.batch_max, REAL.width), np.float32)}
    took_ns = []
    for _ in range(RUNS):
        begin_ns = time.perf_counter_ns()
        session.run(None, batch)
        took_ns.append(time.perf_counter_ns() - begin_ns)
    times_ns = model.variants[0].times_ns(model.batch_max)
    return replace(REAL, layers=max(1, round(REAL.layers * times_ns[-1] / statistics.median(took_ns))))


def _write_repository(folder: Path, scenario: Scenario, chain: Chain, warmup_runs: int) -> None:
    """Each model of the scenario is a `chain`; batch sizes are those of the scenario."""
    graph = chain.build()
    for model in scenario.to_simulate().model:
        version = folder / "models" / model.name / "1"
        version.mkdir(parents=True)
        onnx.save(graph, version / "model.onnx")
        sizes = sorted({min(1 << power, model.batch_max) for power in range(model.batch_max.bit_length() + 1)})
        config = f"batch_sizes = {sizes}\nany_size = {str(model.any_size).lower()}\n"
        config += f"threads = {THREADS}\nwarmup_runs = {warmup_runs}\n"
        config += f"[[variant]]\nname = {json.dumps(model.variants[0].name)}\n"
        (version.parent / "model.toml").write_text(config, encoding="utf-8")
