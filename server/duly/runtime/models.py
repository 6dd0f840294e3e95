"""The models that this server serves: loads, activates, replaces and unloads them through worker processes.

Everything slow (reading the file, building the session, warm-up, profiling) happens in the worker; here it is only
waited for, so that streams go on meanwhile. A version is served by one worker on each lane.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial

import structlog

from duly.core.events import LaneUp, ModelGone, ModelReady
from duly.metrics import Metrics
from duly.models.repository import ModelVersion, Repository
from duly.models.spec import Signature, TensorSpec
from duly.runtime.driver import Driver
from duly.runtime.loading import start_worker
from duly.runtime.tasks import watch_over
from duly.runtime.workers import Ready, Worker, WorkerError

_log = structlog.get_logger("duly.models")

BACKOFF_SECONDS_MIN = 0.1
BACKOFF_SECONDS_MAX = 30.0
"""A worker that dies again and again is replaced at most this rarely."""
WATCH_SECONDS = 0.25
"""How often running batches are looked at for workers that hang."""


class ModelState(IntEnum):
    """Same numbers as on the wire."""

    LOADING = 1
    READY = 2
    FAILED = 3
    RECOVERING = 4


@dataclass(slots=True, eq=False)
class Served:
    """One version that is, was meant to be, or will be served."""

    version: ModelVersion
    state: ModelState = ModelState.LOADING
    error: str = ""
    signature: Signature | None = None
    """As loaded, with labels; None until a worker told."""
    providers: list[tuple[str, ...]] = field(default_factory=list)
    """By variant: those that truly run it, as the newest worker told."""
    workers: dict[str, Worker] = field(default_factory=dict)
    """By lane, those that are ready."""

    @property
    def key(self) -> str:
        return self.version.key


class ModelError(Exception):
    """A model that was asked for cannot be had. `reason` is stable, the text is for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Models:
    def __init__(
        self,
        repository: Repository,
        driver: Driver,
        metrics: Metrics,
        lanes: tuple[str, ...],
        threads: int,
        load_timeout_s: float,
        batch_timeout_ms: float,
    ) -> None:
        self._repository = repository
        self._driver = driver
        self._metrics = metrics
        self.lanes = lanes
        self._threads = threads
        self._load_timeout_s = load_timeout_s
        self._batch_timeout_ns = int(batch_timeout_ms * 1e6)
        self._served: dict[str, Served] = {}
        """By key, NAME/VERSION."""
        self._active: dict[str, Served] = {}
        """By name."""
        self._busy: set[str] = set()
        """Names of models that are being loaded or unloaded."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._dying: set[Worker] = set()
        """Those that ended unasked, until their processes are gone."""
        self._changed = asyncio.Event()
        self._closing = False
        self.message_bytes_max = 0
        """Largest message that the transport reads once it is up; 0: not up yet."""
        self.problems: dict[str, str] = {}
        """By model name: what the repository holds that cannot be served."""
        for lane in lanes:
            driver.submit(LaneUp(lane))

    # ---- looking up ----

    def names(self) -> list[str]:
        return sorted({served.version.name for served in self._served.values()} | self.problems.keys())

    def versions(self, name: str) -> list[Served]:
        """Newest first."""
        of_name = [served for served in self._served.values() if served.version.name == name]
        return sorted(of_name, key=lambda served: -int(served.version.version))

    def active(self, name: str) -> Served | None:
        return self._active.get(name)

    def loaded(self, key: str) -> Served | None:
        """NAME/VERSION as it is loaded now, ready or not."""
        return self._served.get(key)

    def find(self, name: str, version: str = "") -> Served:
        """The version to serve a stream with, ready. Raises ModelError."""
        served = self._served.get(f"{name}/{version}") if version else self._active.get(name)
        if served is not None and served.signature is not None and served.state is not ModelState.FAILED:
            return served
        known = self.versions(name)
        if not known and name not in self.problems:
            names = ", ".join(self.names()) or "none"
            raise ModelError("MODEL_NOT_FOUND", f"there is no model {name!r}; there are: {names}")
        if version and served is None:
            versions = ", ".join(s.version.version for s in known) or "none"
            raise ModelError(
                "VERSION_NOT_FOUND", f"model {name!r} has no version {version!r} loaded; loaded are: {versions}"
            )
        failed = served or (known[0] if known else None)
        error = failed.error if failed is not None else self.problems[name]
        raise ModelError("MODEL_NOT_READY", f"model {name!r} is not ready: {error or 'it is being loaded'}")

    def served(self) -> list[Served]:
        return list(self._served.values())

    def frame_bytes_max(self) -> int:
        """Payload of the largest frame that any version takes."""
        return max((_frame_bytes(served.signature) for served in self._served.values() if served.signature), default=0)

    # ---- coming and going ----

    async def load_all(self) -> None:
        """Loads the newest version of every model, one after another, so that each is profiled undisturbed."""
        versions, problems = self._repository.scan()
        for problem in problems:
            self.problems[problem.name] = problem.reason
            _log.error("model cannot be served", model=problem.name, reason=problem.reason)
        newest: dict[str, ModelVersion] = {}
        for version in versions:
            newest.setdefault(version.name, version)
        for version in newest.values():
            try:
                async with self._alone(version.name):
                    await self._load(version)
            except ModelError as error:
                _log.error("model cannot be served", model=version.key, reason=str(error))
            else:
                self._activate(self._served[version.key])

    async def load(self, name: str, version: str) -> Served:
        """Loads a version (the newest where none is named) beside those that serve. Raises ModelError."""
        async with self._alone(name):
            versions, problems = await asyncio.to_thread(self._repository.scan)
            candidates = [v for v in versions if v.name == name and version in ("", v.version)]
            if not candidates:
                broken = [problem.reason for problem in problems if problem.name == name]
                if broken:
                    raise ModelError("REPOSITORY_INVALID", "; ".join(broken))
                what = f"version {version!r} of model {name!r}" if version else f"model {name!r}"
                raise ModelError("MODEL_NOT_FOUND", f"the repository holds no {what}")
            served = self._served.get(candidates[0].key)
            if served is None or served.state is ModelState.FAILED:
                await self._load(candidates[0])
            self.problems.pop(name, None)
            served = self._served[candidates[0].key]
            if name not in self._active:
                self._activate(served)
            return served

    @contextlib.asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """One coming or going of a model at a time. Raises ModelError where another is under way."""
        if name in self._busy:
            raise ModelError("MODEL_NOT_READY", f"model {name!r} is being loaded or unloaded already")
        self._busy.add(name)
        try:
            yield
        finally:
            self._busy.discard(name)

    def activate(self, name: str, version: str) -> Served:
        """Streams without a stated version use it from their next frame on. Raises ModelError."""
        served = self.find(name, version)
        self._activate(served)
        return served

    async def unload(self, name: str, version: str) -> None:
        """Its waiting and running frames are FAILED. Raises ModelError where it is not loaded."""
        async with self._alone(name):
            chosen = [s for s in self.versions(name) if version in ("", s.version.version)]
            if not chosen:
                self.find(name, version)
            for served in chosen:
                del self._served[served.key]
                if self._active.get(name) is served:
                    del self._active[name]
                self._driver.submit(ModelGone(served.key, None, f"model {served.key} was unloaded"))
            for served in chosen:
                await self._stop_workers(served)
                self._metrics.drop_model(served.key)
            self.problems.pop(name, None)
            self._notify()

    def replace_no_more(self) -> None:
        """Workers that end from now on are missed by nobody."""
        self._closing = True
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Ends all workers, those that are on their way included."""
        self.replace_no_more()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.reaped() for worker in self._dying))
        await asyncio.gather(*(self._stop_workers(served) for served in self._served.values()))

    async def changes(self) -> AsyncIterator[list[str]]:
        """The names of all models, now and whenever something about any of them has changed."""
        while True:
            changed = self._changed
            yield self.names()
            await changed.wait()

    def watch_workers(self) -> None:
        """Kills workers that hang; they are then replaced like any that died."""
        now_ns = self._driver.clock()
        for served in list(self._served.values()):
            for worker in list(served.workers.values()):
                since_ns = worker.hung_since_ns(now_ns, self._batch_timeout_ns)
                if since_ns is not None:
                    ran_s = (now_ns - since_ns) / 1e9
                    _log.error("worker hangs, it is killed", model=worker.model, lane=worker.lane, batch_s=ran_s)
                    worker.give_up(f"its worker did not answer for {ran_s:.1f} s and was killed")

    # ---- workers ----

    async def _load(self, version: ModelVersion) -> None:
        served = self._served[version.key] = Served(version)
        self._notify()
        _log.info("loading", model=version.key, lanes=",".join(self.lanes))
        try:
            for lane in self.lanes:
                worker, ready = await self._spawn(served, lane)
                served.workers[lane] = worker
                self._serve(served, worker, ready)
        except BaseException as error:
            known = isinstance(error, WorkerError)
            served.state, served.error = ModelState.FAILED, str(error) if known else "loading it was given up"
            self._driver.submit(ModelGone(served.key, None, served.error))
            await self._stop_workers(served)
            self._notify()
            if not known:
                raise
            raise ModelError("LOAD_FAILED", f"{served.key}: {error}") from None
        served.state = ModelState.READY
        self._notify()

    async def _spawn(self, served: Served, lane: str) -> tuple[Worker, Ready]:
        worker = start_worker(served.version, lane, self._threads, self._driver.batch_ended, self._worker_ended)
        try:
            ready = await worker.ready(self._load_timeout_s)
            if worker.ended:
                raise WorkerError("its worker process ended as soon as it was ready")
            frame_bytes = _frame_bytes(ready.signature)
            if self.message_bytes_max and frame_bytes > self.message_bytes_max:
                text = f"its frames take {frame_bytes} bytes, this server reads {self.message_bytes_max}; restart it"
                raise WorkerError(text)
            return worker, ready
        except BaseException:
            await worker.stop()
            raise

    def _serve(self, served: Served, worker: Worker, ready: Ready) -> None:
        served.signature = _with_labels(ready.signature, served.version.labels)
        served.providers = [variant.providers for variant in ready.variants]
        self._driver.add_worker(worker)
        names = served.version.config.variant_names
        for rank, (name, variant) in enumerate(zip(names, ready.variants, strict=True)):
            self._driver.submit(
                ModelReady(
                    worker.model,
                    worker.lane,
                    name,
                    variant.samples_ns,
                    variant.any_size,
                    stateful=ready.signature.stateful,
                    rank=rank,
                    warm_after_ns=variant.warm_after_ns,
                )
            )

    def _worker_ended(self, worker: Worker) -> None:
        served = self._served.get(worker.model)
        if served is None or served.workers.get(worker.lane) is not worker:
            return
        del served.workers[worker.lane]
        self._dying.add(worker)
        self._driver.remove_worker(worker)
        self._driver.submit(ModelGone(worker.model, worker.lane, worker.end_reason))
        if self._closing:
            return
        served.state = ModelState.RECOVERING
        self._notify()
        task = watch_over(f"replacement of the worker of {worker.model}", partial(self._replace, served, worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            self._metrics.worker_restarted(worker.model, worker.lane)
        except Exception:
            _log.exception("counting failed", model=worker.model)

    async def _replace(self, served: Served, ended: Worker) -> None:
        lane = ended.lane
        how = await ended.reaped()
        self._dying.discard(ended)
        _log.warning("worker ended, it is replaced", model=served.key, lane=lane, how=how)
        backoff_s = BACKOFF_SECONDS_MIN
        while self._served.get(served.key) is served:
            try:
                worker, ready = await self._spawn(served, lane)
            except Exception as error:  # whatever it is, the model must come back when it has passed
                served.error = str(error) if isinstance(error, WorkerError) else "its worker cannot be started"
                _log.error("worker could not be replaced", model=served.key, lane=lane, reason=str(error))
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, BACKOFF_SECONDS_MAX)
                continue
            if self._served.get(served.key) is not served:
                await worker.stop()
                return
            served.workers[lane] = worker
            self._serve(served, worker, ready)
            if len(served.workers) == len(self.lanes):
                served.state, served.error = ModelState.READY, ""
            _log.info("worker replaced", model=served.key, lane=lane)
            self._notify()
            return

    async def _stop_workers(self, served: Served) -> None:
        workers = list(served.workers.values())
        served.workers.clear()
        for worker in workers:
            self._driver.remove_worker(worker)
        await asyncio.gather(*(worker.stop() for worker in workers))

    def _activate(self, served: Served) -> None:
        self._active[served.version.name] = served
        _log.info("model active", model=served.key)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _frame_bytes(signature: Signature) -> int:
    return sum(spec.bytes_max for spec in signature.inputs)


def _with_labels(signature: Signature, labels: tuple[str, ...]) -> Signature:
    if not labels:
        return signature
    outputs = tuple(TensorSpec.model_validate(spec.model_dump() | {"labels": labels}) for spec in signature.outputs)
    return signature.model_copy(update={"outputs": outputs})
