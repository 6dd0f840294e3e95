"""Starts the workers of a version, one on each lane, hands them to the driver, and replaces those that end.

Everything slow (reading the file, building the session, warm-up, profiling) happens in the worker. This process only
waits for it, so that streams go on meanwhile.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from functools import partial

import structlog

from duly.accelerators import share_device
from duly.core.events import BatchSizesLimited, LaneDown, LaneUp, ModelGone, ModelReady
from duly.metrics import Metrics
from duly.models.contents import Fingerprint, how_to_publish
from duly.models.repository import notes_of_labels, with_labels
from duly.models.sizes import SizeLimits
from duly.models.trust import Trust
from duly.nvml.recovery import PAUSE_NS_MIN
from duly.runtime.catalogue import Catalogue, LoadedVersion, ModelError, VersionState
from duly.runtime.device_memory import on_host
from duly.runtime.driver import Driver
from duly.runtime.engines import Engines
from duly.runtime.load_answers import Ready
from duly.runtime.placement import Claim, NoPlace, Placement
from duly.runtime.process_state import process_state
from duly.runtime.read_apart import ApartReaders, readable
from duly.runtime.realtime import RealTime
from duly.runtime.tasks import watch_over
from duly.runtime.worker_groups import WorkerGroups
from duly.runtime.worker_launch import Place, start_worker, too_slow
from duly.runtime.worker_load import BUILD_TIMEOUT_SECONDS, MemoryFull, OtherContents, WorkerError
from duly.runtime.worker_process import Worker

_log = structlog.get_logger("duly.models")

BACKOFF_SECONDS_MIN = 0.1
BACKOFF_SECONDS_MAX = 30.0
"""A worker that cannot be loaded again is tried at most this rarely."""
RELOAD_LOADS = 3.0
RELOAD_SECONDS_MIN = 10.0
"""A worker that replaces another may take RELOAD_LOADS times as long as the first one took, and RELOAD_SECONDS_MIN
more, as the machine may be busier now. What takes longer most likely hangs; in case it does not, each further try may
take twice as long, up to the time-out of a first load. One that is stopped or does nothing is found sooner
(`samplers`)."""

LANE_BACK_SECONDS = PAUSE_NS_MIN / 1e9
"""A lane that is down is not up again sooner."""
HOLLOW = (
    "two workers in a row gave nothing but NaN and infinities, even for a made-up frame: its weights or its device are "
    "broken; output_finite = false in model.toml serves it all the same"
)


CRASHES = "version crashes again and again, it is started later"


class EndedAtOnce(WorkerError):
    """A worker was ready and has ended before it was given anything, which counts as one that crashed as it ran."""


class Supervisor:
    def __init__(
        self,
        catalogue: Catalogue,
        driver: Driver,
        metrics: Metrics,
        threads: int,
        load_timeout_s: float,
        limits: SizeLimits,
        trust: Trust | None = None,
    ) -> None:
        """`threads`: intra-op threads of a worker whose model states none; 0: as many as its lane has processors
        (`cpus`). `load_timeout_s`: for one worker. `limits`: what a frame may have. `trust`: what workers may do.
        """
        self.groups: WorkerGroups | None = None
        """What makes control groups for workers; None: they have none of their own."""
        self.cpus: Mapping[str, frozenset[int]] = {}
        """The processors that lanes have for themselves, by the lane."""
        self.engines: Engines | None = None
        """What keeps what providers compile; None: nothing is kept."""
        self.build_timeout_s = BUILD_TIMEOUT_SECONDS
        """How long engines may be compiled."""
        self.realtime: RealTime | None = None
        """What makes workers urgent; None: they are ordinary."""
        self.placement: Placement | None = None
        """What places workers in the memory of devices; None: each is loaded wherever it is wanted."""
        self.apart = ApartReaders(driver, trust, lambda: self.groups)
        self._limits = limits
        self._trust = trust
        self._catalogue = catalogue
        self._driver = driver
        self._metrics = metrics
        self._threads = threads
        self._load_timeout_s = load_timeout_s
        self._replacements: set[asyncio.Task[None]] = set()
        """What starts workers, or replaces them."""
        self._time = asyncio.get_running_loop().time
        self._processes: set[Worker] = set()
        """All workers whose processes may not be gone yet."""
        self._claims: dict[Worker, Claim] = {}
        """What they have of the memory of devices."""
        self._closing = False
        driver.limited = self._limited
        self._lane_came_up = asyncio.Event()
        for lane in catalogue.lanes:
            driver.submit(LaneUp(lane))

    async def start(self, loaded: LoadedVersion) -> None:
        """Starts one worker on each lane, one after another; each serves as soon as it is warm.

        Raises ModelError where a worker cannot load the version: it is then FAILED, and none of its workers is left.
        """
        before = loaded.fingerprint
        began_s = self._time()
        _log.info("loading", model=loaded.key, lanes=",".join(self._catalogue.lanes))
        down: dict[str, str] = {}
        """The lanes that it was not loaded on, and why."""
        try:
            for lane in self._catalogue.lanes:
                try:
                    if lane in self._catalogue.lanes_down:
                        raise WorkerError(self._says_down(lane))
                    worker, ready = await self._start_worker(loaded, lane, self._load_timeout_s)
                except WorkerError:
                    if lane not in self._catalogue.lanes_down:
                        raise
                    down[lane] = self._says_down(lane)
                    continue
                loaded.load_s = max(loaded.load_s, self._time() - began_s)
                began_s = self._time()
                if loaded.state is VersionState.FAILED:  # as a worker of another lane had to be replaced meanwhile
                    await self._end(worker)
                    raise WorkerError(loaded.error)
                if not loaded.workers:
                    if slow := too_slow(loaded.version, ready):
                        await self._end(worker)
                        raise WorkerError(slow)
                    for note in (*ready.notes, *notes_of_labels(loaded.version, ready.signature)):
                        _log.warning("model serves otherwise than was perhaps meant", model=loaded.key, note=note)
                self._serve(loaded, worker, ready)
            if len(down) == len(self._catalogue.lanes):
                raise WorkerError(next(iter(down.values())))
        except BaseException as error:
            known = isinstance(error, WorkerError)
            reason = _told(loaded, error) if known else "loading it was given up"
            loaded.signature = None  # it never served on all lanes
            if before is None:
                loaded.fingerprint = None  # so that nothing says which files were meant
            await self._give_up(loaded, reason)
            if not known:
                raise
            raise ModelError("LOAD_FAILED", f"{loaded.key}: {reason}") from None
        # Workers of lanes that it was loaded on may have ended since.
        everywhere = len(loaded.workers) == len(self._catalogue.lanes)
        loaded.state = VersionState.READY if everywhere else VersionState.RECOVERING
        for lane, says in down.items():
            loaded.error = says
            bring = partial(self._bring_back, loaded, lane)
            self.end_with_server(watch_over(f"worker of {loaded.key} on {lane}", bring))
        self._catalogue.notify()
        assert loaded.signature is not None, "there is a lane"
        _log.info(
            "loaded",
            model=loaded.key,
            memory_bytes_max=loaded.memory_bytes_max,
            frame_bytes_max=sum(spec.bytes_max for spec in loaded.signature.inputs),
            result_bytes_max=sum(spec.bytes_max for spec in loaded.signature.outputs),
        )

    def _others_serve(self, loaded: LoadedVersion) -> bool:
        """Whether streams may be served by other versions, which loading this one must not disturb. There are none
        until the server listens, and a machine that boots leaves nothing to a load that waits for it.
        """
        listens = self._catalogue.message_bytes_max > 0
        return listens and any(other.workers for other in self._catalogue.all_versions() if other is not loaded)

    async def _give_up(self, loaded: LoadedVersion, reason: str) -> None:
        """Ends a version that cannot be served. It is FAILED, and so are its frames. Returns when its workers are
        gone.
        """
        self._catalogue.fail(loaded, reason)
        self._driver.submit(ModelGone(loaded.key, None, reason))
        await self.stop(loaded)

    async def stop(self, loaded: LoadedVersion) -> None:
        """Ends all workers of the version. Returns when their processes are gone."""
        workers = list(loaded.workers.values())
        loaded.workers.clear()
        for worker in workers:
            self._driver.remove_worker(worker)
        self._driver.costs.pop(loaded.key, None)
        await asyncio.gather(self.apart.stop(loaded.key), *map(self._end, workers))

    async def _end(self, worker: Worker) -> None:
        await worker.stop()
        self._is_gone(worker)

    def _is_gone(self, worker: Worker) -> None:
        self._processes.discard(worker)
        claim = self._claims.pop(worker, None)
        if claim is not None and self.placement is not None:
            self.placement.gone(claim)

    def end_with_server(self, task: "asyncio.Task[None]") -> None:
        """Has the task cancelled when the server ends, as it starts workers."""
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    def replace_no_more(self) -> None:
        """Workers that end from now on are not replaced."""
        if not self._closing:
            self._closing = True
            for task in self._replacements:
                task.cancel()

    async def close(self) -> None:
        """Ends all workers, including those that are just being started. Returns when their processes are gone."""
        self.replace_no_more()
        await asyncio.gather(*self._replacements, return_exceptions=True)
        await asyncio.gather(*map(self.stop, self._catalogue.all_versions()))
        await self.apart.close()
        # What is left was given up, or whoever was ending it was cancelled meanwhile.
        await asyncio.gather(*map(self._end, list(self._processes)))

    # ---- lanes whose devices do not work ----

    def lane_down(self, lane: str, reason: str) -> None:
        """Gives up the workers of a lane whose device does not work, which is no frame's fault, and starts none there
        until `lane_up`. Frames wait for other lanes, or for this one as long as they have the time.
        """
        self._catalogue.lanes_down[lane] = reason
        for loaded in self._catalogue.all_versions():
            for worker in (loaded.workers.get(lane), *(each for each in loaded.starting if each.lane == lane)):
                if worker is not None:
                    worker.device_lost = True
                    worker.give_up(f"{lane} is down: {reason}")
        self._driver.submit(LaneDown(lane, reason))
        self._catalogue.notify()

    def lane_up(self, lane: str) -> None:
        """Starts workers on a lane again."""
        if self._catalogue.lanes_down.pop(lane, None) is not None:
            self._driver.submit(LaneUp(lane))
            self._lane_came_up.set()
            self._lane_came_up = asyncio.Event()
            self._catalogue.notify()

    def _says_down(self, lane: str) -> str:
        return f"{lane} is down: {self._catalogue.lanes_down[lane]}"

    def loads(self, loaded: LoadedVersion) -> int:
        """Returns how much processor time the workers have used that load the version, in ns; a rising number shows
        that they do not hang.
        """
        states = [process_state(worker.pid) for worker in loaded.starting]
        return sum(state.cpu_ns for state in states if state is not None)

    async def _start_worker(
        self, loaded: LoadedVersion, lane: str, timeout_s: float, timeout_name: str = "load_timeout_s"
    ) -> tuple[Worker, Ready]:
        while True:
            message_bytes_max = self._catalogue.message_bytes_max
            worker, ready = await self._start_worker_for(loaded, lane, timeout_s, timeout_name, message_bytes_max)
            limit = self._catalogue.message_bytes_max
            if limit == message_bytes_max or self._limits.message_bytes(ready.signature.inputs) <= limit:
                return worker, ready
            await self._end(worker)  # the transport came up meanwhile, and does not read what it takes for the largest

    async def _start_worker_for(
        self, loaded: LoadedVersion, lane: str, timeout_s: float, timeout_name: str, message_bytes_max: int
    ) -> tuple[Worker, Ready]:
        ended = partial(self._worker_ended, loaded)
        limits = self._limits.model_copy(update={"message_bytes_max": message_bytes_max})
        ran, expected = self._driver.batch_ended, loaded.fingerprint
        # A worker that replaces another is waited for; a new version can wait for what serves.
        background = loaded.state is VersionState.LOADING and self._others_serve(loaded)
        claim = await self._place(loaded, lane)
        room_bytes = claim.room_bytes if claim is not None and not on_host(lane) else 0
        shares = share_device(lane, self._catalogue.lanes)
        place = Place(self.cpus.get(lane, frozenset()), self.realtime is not None, shares, room_bytes)
        threads = self._threads or len(place.cpus)
        engines = None
        try:
            if self.engines is not None:
                engines = await self.engines.begin(loaded.key, lane, loaded.version.config)
            if lane in self._catalogue.lanes_down:  # it went down meanwhile, which gives up what was started by then
                raise WorkerError(self._says_down(lane))
            group = self.groups.add() if self.groups is not None else None
            worker = start_worker(
                loaded.version,
                lane,
                threads,
                limits,
                ran,
                ended,
                expected,
                self._trust,
                background,
                group,
                place=place,
                engines=engines,
            )
        except BaseException:
            if engines is not None:
                engines.abandon()
            if claim is not None and self.placement is not None:
                self.placement.gone(claim)
            raise
        worker.load.on_progress = self._catalogue.notify
        if engines is not None:
            engines.on_too_large = worker.give_up
        self._processes.add(worker)
        if claim is not None:
            claim.pid = worker.pid
            self._claims[worker] = claim
        loaded.starting.add(worker)
        try:
            ready = await worker.load.ready(timeout_s, timeout_name, self.build_timeout_s)
            if claim is not None and self.placement is not None:
                await self.placement.warm(claim)
            if engines is not None:
                await engines.keep()
            await worker.hold_memory(self._trust.worker_memory_bytes_max if self._trust else 0)
            if worker.ended:
                raise EndedAtOnce("its worker process ended as soon as it was ready")
            if self.realtime is not None:
                longest_ns = max(max(times) for each in ready.variants for times in each.samples_ns.values())
                self.realtime.serve(worker, longest_ns, loaded.version.config.spinning)
            return worker, ready
        except MemoryFull as error:
            await self._end(worker)
            says = await self.placement.says(loaded.key, lane) if self.placement is not None else ""
            raise WorkerError("; ".join(filter(None, (str(error), says, self._more_memory(lane))))) from None
        except BaseException:
            if engines is not None and worker.load.crashed:
                await engines.distrust()
            await self._end(worker)
            raise
        finally:
            loaded.starting.discard(worker)

    def _more_memory(self, lane: str) -> str:
        """What helps a worker that has not enough of it."""
        if on_host(lane) and self._trust is not None and self._trust.worker_memory_bytes_max:
            return "take smaller batch_sizes, or let workers have more (worker_memory_bytes_max)"
        return "unload a version, take smaller batch_sizes, or use fewer lanes of that device"

    async def _place(self, loaded: LoadedVersion, lane: str) -> Claim | None:
        """Places a worker in the memory of the lane's device. Raises WorkerError where it does not fit."""
        if self.placement is None:
            return None
        replaces = loaded.state is not VersionState.LOADING
        try:
            providers = [provider.name for provider in loaded.version.config.providers]
            return await self.placement.claim(loaded.key, lane, loaded.weights_bytes, providers, replaces=replaces)
        except NoPlace as error:
            raise WorkerError(str(error)) from None

    def _serve(self, loaded: LoadedVersion, worker: Worker, ready: Ready) -> None:
        """Gives frames to the worker from now on."""
        loaded.workers[worker.lane] = worker
        worker.served_s = self._time()
        if loaded.fingerprint is None:
            loaded.fingerprint = Fingerprint(worker.load.contents, ready.signature)
        loaded.signature = with_labels(ready.signature, loaded.version)
        if chunk := loaded.version.config.chunk:
            loaded.signature = loaded.signature.model_copy(update={"chunk": chunk})
        loaded.memory_bytes_max = ready.memory_bytes_max
        loaded.providers = [variant.providers for variant in ready.variants]
        self._catalogue.changes_count += 1  # streams follow from here on; watchers hear of it with the version's state
        self._metrics.lane_serves(worker.model, worker.lane, ready.signature.guards)
        self._driver.add_worker(worker)
        if ready.costs:
            self._driver.costs.setdefault(worker.model, ready.costs)
        what = readable(loaded.version, ready.signature, ready.rows)
        if what is not None:
            self.apart.serve(what)
        names = loaded.version.config.variant_names
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
                    state_layout=ready.signature.state_layout,
                    takes_state=loaded.version.config.version_change == "CARRY",
                )
            )

    def _limited(self, limit: BatchSizesLimited) -> None:
        """Notes that a version has only smaller batches from now on, for want of memory."""
        loaded = next((each for each in self._catalogue.all_versions() if each.key == limit.model), None)
        if loaded is not None:
            loaded.sizes_max[limit.lane, limit.variant] = limit.size_max
            self._catalogue.notify()

    def _worker_ended(self, loaded: LoadedVersion, worker: Worker) -> None:
        if self._catalogue.current(loaded) is not loaded or loaded.workers.get(worker.lane) is not worker:
            return
        del loaded.workers[worker.lane]
        for key in [key for key in loaded.sizes_max if key[0] == worker.lane]:
            del loaded.sizes_max[key]  # the next worker has all sizes again
        pause_s = loaded.crashes.ended(self._time() - worker.served_s, 0 if worker.full else worker.batches)
        back_s = pause_s + RELOAD_LOADS * loaded.load_s
        if worker.lane in self._catalogue.lanes_down:
            back_s += LANE_BACK_SECONDS
        self._driver.worker_ended(worker, worker.end_reason, back_s, blameless=worker.device_lost)
        if self._closing:
            return
        if worker.hollow and loaded.hollow:
            _log.error("version gives nothing finite, it is not served any more", model=loaded.key)
            self.end_with_server(watch_over(f"end of {loaded.key}", partial(self._give_up, loaded, HOLLOW)))
            self.end_with_server(watch_over(f"end of a worker of {loaded.key}", partial(self._end, worker)))
            return
        loaded.hollow |= worker.hollow
        loaded.state = VersionState.RECOVERING
        if worker.lane in self._catalogue.lanes_down:
            loaded.error = self._says_down(worker.lane)
        elif pause_s:
            loaded.error = _crashes(loaded, pause_s)
        self._catalogue.notify()
        replace = partial(self._replace, loaded, worker, pause_s)
        self.end_with_server(watch_over(f"replacement of the worker of {worker.model}", replace))
        try:
            self._metrics.worker_restarted(worker.model, worker.lane)
        except Exception:
            _log.exception("counting failed", model=worker.model)

    def _wanted(self, loaded: LoadedVersion) -> bool:
        """Whether workers of the version are still to be started."""
        return self._catalogue.current(loaded) is loaded and loaded.state is not VersionState.FAILED

    async def _replace(self, loaded: LoadedVersion, ended: Worker, pause_s: float) -> None:
        lane = ended.lane
        how = await ended.reaped()
        self._is_gone(ended)
        _log.warning("worker ended, it is replaced", model=loaded.key, lane=lane, how=how)
        if pause_s:
            _log.error(CRASHES, model=loaded.key, pause_s=pause_s)
            await asyncio.sleep(pause_s)
        await self._bring_back(loaded, lane)

    async def _bring_back(self, loaded: LoadedVersion, lane: str) -> None:
        """Starts a worker for a lane that has none, as soon as the lane is up, and again until it serves."""
        backoff_s = BACKOFF_SECONDS_MIN
        timeout_s = RELOAD_SECONDS_MIN + RELOAD_LOADS * loaded.load_s
        while self._wanted(loaded):
            if lane in self._catalogue.lanes_down:
                with contextlib.suppress(TimeoutError):  # and then it is looked whether the version is still wanted
                    async with asyncio.timeout(BACKOFF_SECONDS_MAX):
                        await self._lane_came_up.wait()
                continue
            try:
                worker, ready = await self._start_worker(
                    loaded, lane, min(timeout_s, self._load_timeout_s), "its first load took much less"
                )
            except OtherContents as error:
                if self._wanted(loaded):
                    _log.error(
                        "version is not what it was, it is not served any more", model=loaded.key, reason=str(error)
                    )
                    await self._give_up(loaded, _told(loaded, error))
                return
            except Exception as error:  # whatever it is, the model must come back when it has passed
                pause_s = loaded.crashes.ended(0.0, 0) if isinstance(error, EndedAtOnce) else 0.0
                if pause_s:
                    loaded.error = _crashes(loaded, pause_s)
                    _log.error(CRASHES, model=loaded.key, pause_s=pause_s)
                else:
                    loaded.error = str(error) if isinstance(error, WorkerError) else "its worker cannot be started"
                    _log.error("worker could not be replaced", model=loaded.key, lane=lane, reason=str(error))
                self._catalogue.notify()
                await asyncio.sleep(pause_s or backoff_s)
                backoff_s = min(2 * backoff_s, BACKOFF_SECONDS_MAX)
                timeout_s = min(2 * timeout_s, self._load_timeout_s)
                continue
            if not self._wanted(loaded):
                await self._end(worker)
                return
            self._serve(loaded, worker, ready)
            if len(loaded.workers) == len(self._catalogue.lanes):
                loaded.state, loaded.error = VersionState.READY, ""
            _log.info("worker replaced", model=loaded.key, lane=lane)
            self._catalogue.notify()
            return


def _crashes(loaded: LoadedVersion, pause_s: float) -> str:
    """Says that the version's workers crash, and when the next one is started."""
    return (
        f"its workers ended {loaded.crashes.fruitless} times in a row as soon as they ran; the next one is started in "
        f"{pause_s:g} s"
    )


def _told(loaded: LoadedVersion, error: BaseException) -> str:
    """Returns why the version cannot be served, with what to do about it."""
    reason = loaded.version.told(str(error))
    return f"{reason}; {how_to_publish(loaded.version)}" if isinstance(error, OtherContents) else reason
