"""A model on a lane, driven batch by batch: a real worker, as a server has it, without the server and its scheduler."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from duly.core.events import DispatchBatch
from duly.core.types import Frame
from duly.models.repository import ModelVersion, Repository
from duly.models.sizes import SizeLimits
from duly.runtime.held_frames import InputData
from duly.runtime.load_answers import Ready
from duly.runtime.worker_launch import start_worker
from duly.runtime.worker_port import BatchResult
from duly.runtime.worker_process import Worker
from duly.streams.inputs import InputChecks
from duly.worker.dtypes import Array, datatype_of

LOAD_SECONDS_MAX = 300.0
THREADS = 1
STAGED_BYTES_MAX = 1 << 40
"""A whole batch is taken in at once, as nothing else waits here for the loop."""

Payloads = Sequence[Sequence[InputData]]


class Lane:
    """Made by `lane_of`."""

    def __init__(self, version: ModelVersion, worker: Worker, ready: Ready) -> None:
        self.providers = ready.variants[0].providers
        self.notes = ready.notes
        self.version = version
        self._worker = worker
        self._checks = InputChecks(ready.signature)
        self._seq = 0
        self.waiting: asyncio.Future[BatchResult] | None = None

    @property
    def stages(self) -> bool:
        """Whether frames go on to the device as soon as they are taken in, as far as is known by now."""
        return self._worker.stages

    def payload(self, frame: Array) -> list[InputData]:
        """Returns one frame as the worker is given it. `frame`: without a batch dimension."""
        (spec,) = self._checks.signature.inputs
        assert datatype_of(frame.dtype) == spec.datatype
        return [self._checks.tensor(0, spec.datatype, frame.shape, frame.tobytes())]

    async def batch(self, payloads: Payloads) -> int:
        """Runs a batch. Returns how long it took in ns, from handing it over until its result is read."""
        began_ns = time.perf_counter_ns()
        await self._run(self._frames(payloads), payloads)
        return time.perf_counter_ns() - began_ns

    async def batches(self, payloads: Payloads, count: int, beside: bool) -> None:
        """Runs so many batches of the same payloads. `beside`: whether those of the next one are taken in while this
        one runs, as a server does that foresees it; else each batch is handed over when the one before is done.
        """
        frames = self._frames(payloads)
        for _ in range(count):
            following = self._frames(payloads)
            await self._run(frames, payloads, following if beside else ())
            frames = following

    def _frames(self, payloads: Payloads) -> list[Frame]:
        frames = []
        for stream in range(1, len(payloads) + 1):
            self._seq += 1
            frames.append(Frame(self._seq, stream, self._seq, self.version.key, 0))
        return frames

    async def _run(self, frames: list[Frame], payloads: Payloads, following: Sequence[Frame] = ()) -> None:
        variant = self.version.config.variant_names[0]
        action = DispatchBatch(frames[-1].seq, self._worker.lane, self.version.key, variant, frames, 0)
        self.waiting = asyncio.get_running_loop().create_future()
        if not self._worker.run(action, payloads):
            raise RuntimeError(f"{self.version.key}: its worker has ended")
        if following:
            self._worker.stage(following, payloads, STAGED_BYTES_MAX)
        result = await self.waiting
        if reasons := result.invalid | result.failed:
            raise RuntimeError(f"{self.version.key}: {next(iter(reasons.values()))}")
        self._outputs = result.outputs

    def output(self, index: int) -> Array:
        """Returns the first output of that frame of the newest batch, as numbers of 32 bits."""
        (spec, *_) = self._checks.signature.outputs
        _, shape, data = self._outputs(index)[0]
        kind = np.float16 if spec.datatype == "FP16" else np.float32
        return np.frombuffer(data, kind).reshape(shape).astype(np.float32)


@asynccontextmanager
async def lane_of(models: Path, name: str, lane: str) -> AsyncIterator[Lane]:
    """Loads and warms the newest version of a model in the repository `models` on `lane`."""
    versions, problems = Repository(models).scan()
    assert not problems, problems
    version = next(each for each in versions if each.name == name)
    lanes: list[Lane] = []

    def on_batch(batch_id: int, result: BatchResult | str) -> None:
        waiting = lanes[0].waiting
        if waiting is None or waiting.done():
            return
        if isinstance(result, str):
            waiting.set_exception(RuntimeError(f"{version.key}: {result}"))
        else:
            waiting.set_result(result)

    def on_end(worker: Worker) -> None:
        waiting = lanes[0].waiting if lanes else None
        if waiting is not None and not waiting.done():
            waiting.set_exception(RuntimeError(f"{version.key}: {worker.end_reason}"))

    worker = start_worker(version, lane, THREADS, SizeLimits(), on_batch, on_end, checked=False)
    try:
        lanes.append(Lane(version, worker, await worker.load.ready(LOAD_SECONDS_MAX)))
        yield lanes[0]
    finally:
        await worker.stop()
