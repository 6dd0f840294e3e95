"""Composition root: it puts the parts together and takes the server through its life from warm-up to drain."""

import asyncio
import gc
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial

import structlog
import uvloop

from duly import freed_memory, signals
from duly.access.errors import AccessError
from duly.addresses import local_path
from duly.config import ServerConfig
from duly.config_sources import service_links
from duly.core.events import DrainRequested
from duly.cpus import default_threads
from duly.default_lanes import default_lanes
from duly.descriptors import DescriptorError, connections_max, raise_limit
from duly.lane_resources import LaneResources, engines_of
from duly.log_lines import Lines, not_blocking
from duly.metrics import Gauges, Metrics
from duly.metrics_server import MetricsError, MetricsServer, serve_metrics
from duly.models.manifest import ManifestError
from duly.models.repository import Repository
from duly.models.trust import Trust, trust_of
from duly.nvml.library import Library
from duly.rpc.doors import Doors
from duly.rpc.duly_v1.inference_service import InferenceService
from duly.rpc.duly_v1.services import ModelService, ServerService
from duly.rpc.health import HealthService
from duly.rpc.kserve.front_end import FrontEnd
from duly.rpc.kserve.inference_service import KServeInference
from duly.rpc.kserve.machine_service import KServeMachine
from duly.rpc.kserve.models_service import KServeModels
from duly.rpc.kserve.regions import REGIONS_MAX, Regions, Sharing
from duly.rpc.kserve.shared_memory_service import SharedMemoryService
from duly.rpc.local.listener import DESCRIPTORS_EACH, OPENING_MAX, LocalListener
from duly.rpc.server import MESSAGE_BYTES_MIN, ListenError, Server, add_services, create_server, message_limit
from duly.runtime.admission import SWITCH_SECONDS, Admission
from duly.runtime.catalogue import Catalogue, VersionState
from duly.runtime.driver import Driver
from duly.runtime.engines import EngineCounts
from duly.runtime.flight_recorder import DumpError, FlightRecorder
from duly.runtime.learning import Drift, LearnerSettings, Learning, missing_packages
from duly.runtime.model_host import ModelHost, VersionLimits
from duly.runtime.read_apart import READERS_MAX
from duly.runtime.recording_file import RecordingWriter
from duly.runtime.repository_watch import RepositoryWatch
from duly.runtime.running_trial import TrialReport
from duly.runtime.samplers import Samplers, periodically
from duly.runtime.scheduler_state import snapshot
from duly.runtime.supervisor import Supervisor
from duly.runtime.tasks import once, watch_over
from duly.runtime.trial_memory import StateInUse, TrialMemory
from duly.runtime.trials import Trials
from duly.runtime.worker_groups import worker_groups
from duly.runtime.worker_launch import CheckedModel, check_version
from duly.sampling.host import Sampling
from duly.start_error import StartError
from duly.streams.clock_watch import ClockWatch
from duly.streams.limits import CriticalLimits, Limits, PrincipalLimits, ServerLimits, StreamLimits
from duly.streams.memory_ceiling import WorkerMemory, memory_ceiling
from duly.streams.open_streams import OpenStreams
from duly.streams.stream import StreamHost
from duly.streams.verdict import Verdicts
from duly.telemetry import configure_logging
from duly.worker import confine
from duly.worker.errors import BackendError
from duly.worker.memory import memory_bytes_max
from duly.worker.ort_installed import check_installed

_log = structlog.get_logger("duly")

STOP_SECONDS = 1.0
"""Calls that are still open after the drain get this long to end."""
ADMIN_CONNECTIONS_MAX = 32
"""How many may be connected to the admin address at once; further connections are closed."""
GRACE_SLACK_SECONDS = 0.1
"""When the grace is over, the scheduler answers what waits. What still runs is given up this much later."""


class App:
    """The server, in one event loop. `start`, then `run` until it is drained; `close` gives everything back."""

    def __init__(self, config: ServerConfig) -> None:
        """Must be called inside the server's event loop. Raises StartError where the recording cannot be written."""
        self._config = config
        self.address = ""
        """The address at which the server listens, with the port that it got."""
        self.metrics_address = ""
        self.local_path = ""
        """The UNIX socket at which clients on this machine share memory with the server; empty: they do not."""
        self.metrics = Metrics()
        self._recording = FlightRecorder(
            lambda: self.driver.scheduler, config.flight_folder, self._recording_file(config)
        )
        self.failed = False
        """Whether the server ends because something broke for good, so that the exit status should not be 0."""
        verdicts = Verdicts(self.metrics)
        limits = _limits(config)
        self.driver = Driver(
            self.metrics,
            limits.server.bytes_in_flight_max,
            record=self._recording,
            fatal=self._fatal,
            unheard=verdicts.unheard,
            stay_awake=config.wake_ahead or config.realtime,
            copy_ahead=config.copy_ahead,
        )
        self.catalogue = Catalogue(config.lanes or default_lanes())
        self._supervisor = Supervisor(
            self.catalogue,
            self.driver,
            self.metrics,
            config.threads or (0 if config.cpus else default_threads()),
            config.load_timeout_s,
            limits.frame,
            _trust(config),
        )
        nvml = Library()
        self.resources = LaneResources(config, self.catalogue, self._supervisor, nvml)
        self._admission = Admission(lambda: self.driver.scheduler, self.driver.clock, config.admission == "enforce")
        self.host = ModelHost(
            Repository(config.models),
            self.catalogue,
            self._supervisor,
            self.driver,
            self.metrics,
            self._admission,
            VersionLimits(config.versions_max, config.versions_all_max),
        )
        self._sampling = Sampling(config, self.driver, self.catalogue)
        self._samplers = Samplers(self.driver.clock, self.catalogue, self.metrics, config.batch_timeout_ms, nvml)
        host = StreamHost(self.driver, self.catalogue, verdicts, limits, config.advice)
        if self._sampling.sampler is not None:
            host.key_of = self._sampling.sampler.key_of
        try:
            self._doors = Doors(config)
        except AccessError as error:
            raise StartError(str(error)) from None
        self.streams = OpenStreams(host, self.metrics, self._admission, config.slow_reader_timeout_s)
        self.trials = Trials(
            self.host,
            self.catalogue,
            self.driver,
            TrialMemory(config.state_folder),
            self.streams.keys,
            verdicts.observed_by,
            self._trial_decided,
        )
        self._sampling.tell_trials(self.trials)
        self.learning = Learning(
            LearnerSettings(
                config.models,
                config.learn,
                config.learn_commands,
                config.learn_memory_bytes_max,
                config.learn_bytes_max,
                config.learn_age_s_max,
            ),
            self.catalogue,
            self._is_coming,
            self._drifted,
        )
        self.kserve: KServeInference | None = None
        """The front end for KServe's protocol; None: the server does not listen yet."""
        self._server: Server | None = None
        self._admin_server: Server | None = None
        self._local: LocalListener | None = None
        self._health = HealthService(self.catalogue)
        self.regions = Regions(Sharing.OFF, self._doors.connection)
        """The shared memory that clients of KServe's protocol have registered."""
        self._metrics_server: MetricsServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._drain: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._dump: asyncio.Task[None] | None = None
        self._reload: asyncio.Task[None] | None = None
        self.reloads: dict[str, Callable[[], Awaitable[object]]] = {
            "recording": self._recording.reopen,
            "access": self._doors.reload,
        }
        """What `reload` does, by what it takes up anew."""
        self.log_lines_lost: Callable[[], int] = lambda: 0

    async def start(self) -> None:
        """Loads and warms all models, then listens. Raises StartError."""
        config = self._config
        self._tasks += await self.resources.take_time()
        try:
            check_installed()
        except BackendError as error:
            raise StartError(str(error)) from None
        if config.learn is not None and (missing := missing_packages()):
            raise StartError(f"learn: the package {missing} is not installed: `pip install 'duly[learn]'`")
        try:
            self.trials.memory.keep()
        except StateInUse as error:
            raise StartError(f"state_folder: {error}") from None
        except OSError as error:
            raise StartError(f"state_folder: it cannot be opened: {error.strerror}") from None
        try:
            # This comes before the models are loaded, because a taken port should not cost a warm-up.
            self._doors.check_free()
            await self._doors.start()
            if config.metrics:
                self.metrics.set_gauges(self._gauges)
                self._metrics_server = serve_metrics(config.metrics, self.metrics)
                self.metrics_address = f"{config.metrics.rpartition(':')[0]}:{self._metrics_server.port}"
        except (AccessError, ListenError, MetricsError) as error:
            raise StartError(str(error)) from None
        self._say_sandbox()
        limit = raise_limit()  # here, as workers inherit it
        self._supervisor.groups = worker_groups(config.sandbox)
        self._tasks += self.resources.open_engines()
        await self.host.load_all()
        if not any(loaded.signature for loaded in self.catalogue.all_versions()):
            raise StartError(self._nothing_to_serve())
        limits, served = self.streams.limits.frame, self.catalogue.all_versions()
        needed = max(limits.message_bytes(version.signature.inputs) for version in served if version.signature)
        message_bytes_max = self.catalogue.message_bytes_max = message_limit(needed)
        inference = InferenceService(self.streams, message_bytes_max, self._sampling.desk)
        connections = self._connections_max(limit)
        sharing = Sharing(config.kserve_shared_memory)
        if sharing is not Sharing.OFF:
            self.regions = Regions(sharing, self._doors.connection, max(1, min(REGIONS_MAX, connections // 4)))
            connections -= self.regions.regions_max
        front = FrontEnd(self.streams, self.regions, int(config.kserve_budget_ms * 1e6))
        kserve = self.kserve = KServeInference(front)
        local_connections = 0
        if config.local is not None:
            local_connections = min(config.streams_max + OPENING_MAX, max(2, connections // 2 // DESCRIPTORS_EACH))
            connections -= local_connections * DESCRIPTORS_EACH
        server = self._server = create_server(
            config.transport,
            inference,
            kserve,
            SharedMemoryService(self.regions),
            config.streams_max,
            message_bytes_max,
            connections,
            self._doors.guard(),
            config.compression,
        )
        control = ServerService(
            self.catalogue,
            self.driver,
            self.streams,
            self.metrics,
            self.drain,
            self._recording.dump,
            lambda: self._local.offered if self._local is not None else "",
        )
        models = ModelService(self.host, self.catalogue, self.driver, self.trials, self.learning)
        of_kserve = KServeModels(front, self.host, self.metrics), KServeMachine(front, sharing is not Sharing.OFF)
        add_services(server, models, control, self._health, of_kserve, config.reflection)
        try:
            self.address = await self._doors.open(server, connections)
            if (guard := self._doors.admin_guard()) is not None:
                admin = self._admin_server = create_server(
                    "lan", None, None, None, 0, MESSAGE_BYTES_MIN, ADMIN_CONNECTIONS_MAX, guard
                )
                add_services(admin, models, control, self._health, of_kserve, config.reflection)
                await self._doors.open_admin(admin, ADMIN_CONNECTIONS_MAX)
                await admin.start()
            self._listen_locally(local_connections)
        except ListenError as error:
            raise StartError(str(error)) from None
        sys.setswitchinterval(SWITCH_SECONDS)
        # Objects made until now live as long as the server. Full collections skip them, which keeps pauses short.
        gc.collect()
        gc.freeze()
        self._sampling.start()
        await server.start()
        self._tasks += [
            *self._watches(),
            watch_over("watch for clients that do not read", partial(periodically, self.streams.watch)),
            watch_over("watch for idle sequences", partial(periodically, kserve.watch)),
            watch_over("watch of the wall clock", partial(periodically, ClockWatch(self.streams.host.wall).look)),
            watch_over("access", self._doors.gate.watch),
            watch_over("regions of shared memory", partial(periodically, self.regions.look)),
            watch_over("files of TLS", partial(periodically, self._doors.look)),
            *self._samplers.start(),
            self.resources.watch_health(),
            watch_over("versions on trial", self.trials.watch),
            watch_over("time of trials", self.trials.tick),
        ]
        self.learning.start()
        self._say_ceiling(message_bytes_max)
        _log.info("serving", address=self.address, local=self.local_path or None, metrics=self.metrics_address or None)

    def _listen_locally(self, connections_max: int) -> None:
        """Lets clients on this machine share memory with the server, if that is wanted. Raises ListenError."""
        if self._config.local is not None:
            self._local = LocalListener(self.streams, self._doors.gate, connections_max)
            mode = self._doors.socket_mode
            self._local.listen(local_path(self._config.local), mode)
            self._doors.give_to_group(self._local.path)
            self.local_path = self._local.path

    def _say_ceiling(self, message_bytes_max: int) -> None:
        config = self._config
        workers = [
            WorkerMemory(version.signature, version.memory_bytes_max)
            for version in self.catalogue.all_versions()
            if version.signature
            for _ in version.workers
        ]
        apart = [version for version in self.catalogue.all_versions() if version.key in self.driver.read_apart]
        workers += [
            WorkerMemory(version.signature, version.memory_bytes_max)
            for version in apart[:READERS_MAX]
            if version.signature
        ]
        local_bytes_max = config.local_bytes_max if config.local is not None else 0
        ceiling = memory_ceiling(
            config.payload_bytes_max,
            message_bytes_max,
            config.streams_max,
            workers,
            local_bytes_max,
            self._sampling.bytes_max,
            self._learning_bytes_max(),
        )
        _log.info("most memory under the limits, in bytes", total=ceiling.total, **asdict(ceiling))
        has_bytes = memory_bytes_max()
        if ceiling.total > has_bytes:
            _log.warning(
                "the limits allow more memory than there is: lower payload_bytes_max, or bytes_max and batch_sizes of "
                "models, or serve fewer of them",
                total=ceiling.total,
                has=has_bytes,
            )

    def _learning_bytes_max(self) -> int:
        """The most memory that learning takes: one attempt is made at a time, on the old and the new version."""
        if self._config.learn is None:
            return 0
        attempts = [
            learning.train_bytes_max + 2 * loaded.memory_bytes_max
            for loaded in self.catalogue.all_versions()
            if (learning := loaded.version.config.learning) is not None and learning.on
        ]
        return self._config.learn_memory_bytes_max + max(attempts, default=0)

    def _watches(self) -> list[asyncio.Task[None]]:
        config = self._config
        if config.watch == "off":
            return []
        activate = config.watch == "activate"
        watch = RepositoryWatch(self.host, self.catalogue, activate, config.watch_settle_s, self.trials)
        return [watch_over("watch for new versions", watch.run)]

    async def run(self) -> None:
        """Returns when the server was drained, by `drain` or over the wire."""
        await self._drained.wait()

    def reload(self) -> None:
        """Takes up anew what may change while the server runs, by calling `reloads`. What fails stays as it was."""
        if self._reload is None or self._reload.done():
            self._reload = once("reload", self._do_reload(), lambda reason: None)

    async def _do_reload(self) -> None:
        _log.info("reloading", what=", ".join(self.reloads))
        for what, work in self.reloads.items():
            try:
                await work()
            except Exception as error:
                _log.error("not reloaded, it stays as it was", what=what, reason=f"{type(error).__name__}: {error}")

    def dump_recording(self) -> None:
        """Writes down the flight recording, of which the log tells."""
        if self._dump is None or self._dump.done():
            self._dump = watch_over("flight recording", self._dump_recording)

    async def _dump_recording(self) -> None:
        try:
            await self._recording.dump()
        except DumpError as error:
            _log.error("flight recording not written", reason=str(error))

    def drain(self, grace_ns: int = 0) -> "asyncio.Future[None]":
        """Begins to stop. The result is done when every frame is answered; a second call gets the same one."""
        if self._drain is None:
            grace_ns = grace_ns or int(self._config.drain_grace_s * 1e9)
            self._drain = once("drain", self._do_drain(grace_ns), self._fatal)
        return self._drain

    def _fatal(self, reason: str) -> None:
        """Ends the process once every frame is answered, so that whoever supervises it can start a fresh one."""
        _log.critical("the server cannot go on, it drains and ends", reason=reason)
        self.failed = True
        self.drain()

    async def close(self) -> None:
        """Ends what is left. Frames are lost unless the server was drained before."""
        for task in self._tasks:
            task.cancel()
        closing = asyncio.create_task(self._local.close(STOP_SECONDS)) if self._local is not None else None
        if self.kserve is not None:
            self.kserve.end_all()
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)
        if closing is not None:
            await closing
        if self._admin_server is not None:
            await self._admin_server.stop(STOP_SECONDS)
        self.regions.close()
        await self._sampling.close()
        await self.learning.close()
        await self.trials.close()
        self._admission.close()
        await self._supervisor.close()
        self.resources.close_engines()
        if self._metrics_server is not None:
            self._metrics_server.stop()
        self._recording.close()
        await self._doors.close()
        await self.resources.give_back_time()

    async def _do_drain(self, grace_ns: int) -> None:
        _log.info("draining", grace_s=grace_ns / 1e9, frames_in_flight=len(self.driver.held))
        try:
            self._health.drain()
            self.trials.drain()
            self.streams.drain()
            self._samplers.drain(self.driver.clock() + grace_ns)
            self.driver.submit(DrainRequested(self.driver.clock() + grace_ns))
            try:
                async with asyncio.timeout(grace_ns / 1e9 + GRACE_SLACK_SECONDS):
                    await self.driver.drained()
            except TimeoutError:
                _log.warning("the grace is over, what runs is given up", frames_in_flight=len(self.driver.held))
                self._supervisor.replace_no_more()
                self.driver.stop_running("the server stopped while the frame ran")
            self.streams.end_all()
            if self.kserve is not None:
                self.kserve.end_all()
            _log.info("drained")
        finally:
            self._drained.set()

    def _is_coming(self, name: str, version: str) -> bool:
        """Whether a loaded version that is not active may yet become so: its trial is not over."""
        report = self.trials.report(name, version)
        return report is None or not report.stage.over

    def _gauges(self) -> Gauges:
        held, realtime = self.driver.held, self.resources.realtime
        waiting = self.driver.scheduler.frames_waiting_by_model()
        demoted = self.driver.scheduler.frames_demoted_by_model()
        versions = dict.fromkeys(self.catalogue.problems.copy(), VersionState.FAILED.name)
        versions |= {loaded.key: loaded.state.name for loaded in self.catalogue.all_versions()}
        sizes_max = {
            (loaded.key, lane, variant): size
            for loaded in self.catalogue.all_versions()
            for (lane, variant), size in loaded.sizes_max.copy().items()
        }
        return Gauges(
            queue_depth=waiting,
            frames_in_flight=len(held),
            bytes_in_flight=held.bytes,
            bytes_shared=self.streams.host.memory.shared_bytes,
            streams_open=self.streams.by_model(),
            frames_demoted=demoted,
            frames_read_apart=self._supervisor.apart.read.copy(),
            versions=versions,
            sizes_max=sizes_max,
            lanes_down=self.catalogue.lanes_down.copy(),
            lanes=self.catalogue.lanes,
            gpus=self.resources.health.figures,
            xids=self.resources.health.xids,
            log_lines_lost=self.log_lines_lost(),
            recorded_events_lost=self._recording.lost,
            trials=self.trials.stages(),
            trials_ended={(name, end.name): n for (name, end), n in self.trials.ended_counts.copy().items()},
            frames_refused=self.streams.host.refused.copy(),
            calls_failed=self._doors.gate.failed.copy(),
            samples=self._sampling.counts,
            learning=self.learning.counts(),
            realtime=realtime.urgent if realtime is not None else None,
            engines=self.resources.engine_counts.by_model(),
            realtime_fallbacks=realtime.fallbacks.copy() if realtime is not None else {},
        )

    def _drifted(self, name: str, drift: Drift) -> None:
        """Notes drift, and tells the trial of the model, if one is on."""
        self._doors.gate.audit.drifted(name, drift.signal, drift.stream, drift.text)
        self.trials.drifted(name, f"{drift.signal}: {drift.text}")

    def _trial_decided(self, report: TrialReport) -> None:
        """Notes what a trial has come to, with the figures that it rests on."""
        figures = report.figures
        self._doors.gate.audit.decided(
            f"{report.name}/{report.version}",
            report.against,
            report.stage.name,
            report.reason,
            frames_compared=figures.frames_compared,
            agreement=f"{figures.agreement:.4f} ({figures.agreement_low:.4f} to {figures.agreement_high:.4f})",
            canary=f"{figures.canary_on_time} of {figures.canary_frames} on time",
            rest=f"{figures.rest_on_time} of {figures.rest_frames} on time",
            pairs=figures.canary_pairs,
            labels=f"{figures.labels} right, without it {figures.rest_labels}",
            errors=figures.errors,
        )

    def _say_sandbox(self) -> None:
        """Logs how workers are confined. Raises StartError where they must be and the kernel cannot do it."""
        sandbox, wanting = self._config.sandbox, confine.lacking()
        if sandbox == "off":
            _log.warning("workers are not confined: sandbox = off")
        elif not wanting:
            _log.info("workers are confined", files=True, network=True, processes=True)
        elif sandbox == "require":
            raise StartError(f"sandbox = require, but {'; '.join(wanting)}; auto confines as far as possible")
        else:
            _log.warning("workers are confined in part, duly doctor says more", wanting="; ".join(wanting))

    def _recording_file(self, config: ServerConfig) -> RecordingWriter | None:
        if config.record is None:
            return None
        try:
            return RecordingWriter(config.record, config.record_bytes_max, lambda: snapshot(self.driver.scheduler))
        except OSError as error:
            raise StartError(f"cannot record to {config.record}: {error.strerror}") from None

    def _connections_max(self, limit: int) -> int:
        """Returns how many clients may be connected where so many files may be open. Raises StartError where there is
        no room for any.
        """
        try:
            connections = connections_max(limit)
        except DescriptorError as error:
            raise StartError(str(error)) from None
        _log.info("open files", limit=limit, connections_max=connections)
        if connections < self._config.streams_max:
            _log.warning(
                "fewer clients can connect than streams may open: raise the hard limit (ulimit -Hn, LimitNOFILE=)",
                limit=limit,
                connections_max=connections,
                streams_max=self._config.streams_max,
            )
        return connections

    def _nothing_to_serve(self) -> str:
        failures = [f"{loaded.key}: {loaded.error}" for loaded in self.catalogue.all_versions()]
        failures += self.catalogue.problems.values()
        if not failures:
            return f"no model in {self._config.models}: expected NAME/VERSION/model.onnx"
        return "no model can be served:\n  " + "\n  ".join(failures)


def _limits(config: ServerConfig) -> Limits:
    return Limits(
        StreamLimits(config.frames_in_flight_max, config.bytes_in_flight_max, int(config.budget_ms_max * 1e6)),
        PrincipalLimits(config.principal_streams_max, config.principal_bytes_in_flight_max),
        ServerLimits(config.streams_max, config.payload_bytes_max, config.local_bytes_max),
        CriticalLimits(config.critical_streams_max, config.critical_share_max),
    )


def _trust(config: ServerConfig) -> Trust:
    try:
        return trust_of(config)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise StartError(f"manifest_keys: {config.manifest_keys} cannot be read: {reason}") from None
    except ManifestError as error:
        raise StartError(f"manifest_keys: {error}") from None


async def _serve(config: ServerConfig, lines: Lines) -> int:
    app = App(config)
    app.log_lines_lost = lambda: lines.lost_total
    main = asyncio.current_task()
    assert main is not None
    stopping = 0

    def stop() -> None:
        nonlocal stopping
        stopping += 1
        if stopping == 1 and app.address:
            app.drain()
        elif not closing and not main.cancelling():
            main.cancel()  # it was asked twice, or does not serve yet

    closing = False
    signals.handle(stop, app.reload, app.dump_recording)
    try:
        await app.start()
        await app.run()
    except asyncio.CancelledError:
        _log.warning("stopped before it was drained")
        return 1
    finally:
        closing = True
        await app.close()
    return 1 if app.failed else 0


def serve(config: ServerConfig) -> int:
    """Runs the server until it is asked to stop (by a signal or Drain). Returns the exit status.

    Raises StartError where it cannot start.
    """
    signals.unblock()
    freed_memory.keep()
    lines = configure_logging(config.log_format, config.log_level)
    with not_blocking():
        try:
            if links := service_links(os.environ):
                _log.info("variables of the container platform are no settings", variables=" ".join(links))
            return uvloop.run(_serve(config, lines))
        finally:
            lines.flush()


def check_models(config: ServerConfig) -> list[CheckedModel]:
    """Loads and warms every version in the repository in a worker of its own, one after another, under the settings
    that the server would have.

    Returns them by name. Raises StartError where nothing can be run here at all.
    """
    configure_logging(config.log_format, config.log_level)
    try:
        check_installed()
    except BackendError as error:
        raise StartError(str(error)) from None
    return asyncio.run(_check_models(config))


async def _check_models(config: ServerConfig) -> list[CheckedModel]:
    lanes, threads = config.lanes or default_lanes()[:1], config.threads or default_threads()
    versions, problems = Repository(config.models).scan()
    trust = _trust(config)
    engines = engines_of(config, EngineCounts())
    found = [CheckedModel(problem.name, problem.reason) for problem in problems if not problem.harmless]
    timeouts_s = config.load_timeout_s, config.engine_build_timeout_s
    try:
        for version in versions:
            frame = _limits(config).frame
            found.append(await check_version(version, lanes, threads, frame, *timeouts_s, trust, engines))
    finally:
        if engines is not None:
            engines.close()
    return sorted(found, key=lambda checked: checked.key)
