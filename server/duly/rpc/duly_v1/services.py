"""ModelService and ServerService of duly.v1: models that come and go, statistics, drain."""

import asyncio
import importlib.metadata
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from duly.core.types import StreamClass
from duly.metrics import Metrics
from duly.rpc.duly_v1.learning import learning
from duly.rpc.duly_v1.tensors import tensor_spec
from duly.rpc.duly_v1.trials import trial
from duly.rpc.errors import abort, guarded
from duly.rpc.principal import is_on_this_machine, rights_of
from duly.runtime.catalogue import Catalogue, LoadedVersion
from duly.runtime.driver import Driver
from duly.runtime.flight_recorder import DumpError
from duly.runtime.learning import Learning
from duly.runtime.model_host import ModelHost
from duly.runtime.trials import Trials
from duly.streams.errors import REASON_CHARS_MAX, CallError
from duly.streams.open_streams import OpenStreams
from duly.streams.rights import Rights
from duly.v1 import model_pb2, model_pb2_grpc, server_pb2, server_pb2_grpc

WATCH_NS_MIN = 100_000_000
WATCH_NS_DEFAULT = 1_000_000_000
WATCH_NS_EACH = 2_000_000
"""With many watchers of statistics each is told less often, so that all together are told once in so long."""
SNAPSHOT_NS = 20_000_000
"""Statistics are put together for watchers no more often than this, once for all of them."""
DRAIN_NS_MAX = 600 * 10**9
"""A drain that asks for a longer grace is refused."""
_VERSION = re.compile("[1-9][0-9]{0,18}")
"""As folders of versions are called."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class ModelService(model_pb2_grpc.ModelServiceServicer):
    def __init__(self, host: ModelHost, catalogue: Catalogue, driver: Driver, trials: Trials, learns: Learning) -> None:
        self._host = host
        self._catalogue = catalogue
        self._driver = driver
        self._trials = trials
        self._learns = learns

    @guarded
    async def ListModels(self, request: model_pb2.ListModelsRequest, context: Context) -> model_pb2.ListModelsResponse:
        names = filter(rights_of(context).may_use, self._catalogue.names())
        return model_pb2.ListModelsResponse(models=[self._describe(name) for name in names])

    @guarded
    async def GetModel(self, request: model_pb2.GetModelRequest, context: Context) -> model_pb2.GetModelResponse:
        if request.name not in self._catalogue.names():
            self._catalogue.find(request.name)
        return model_pb2.GetModelResponse(model=self._describe(request.name))

    @guarded
    async def LoadModel(self, request: model_pb2.LoadModelRequest, context: Context) -> model_pb2.LoadModelResponse:
        await self._host.load(request.name, request.version)
        return model_pb2.LoadModelResponse(model=self._describe(request.name))

    @guarded
    async def UnloadModel(
        self, request: model_pb2.UnloadModelRequest, context: Context
    ) -> model_pb2.UnloadModelResponse:
        await self._host.unload(request.name, request.version)
        return model_pb2.UnloadModelResponse()

    @guarded
    async def ActivateVersion(
        self, request: model_pb2.ActivateVersionRequest, context: Context
    ) -> model_pb2.ActivateVersionResponse:
        if not request.version:
            raise CallError("INVALID_REQUEST", "version: should be the number of a loaded version", "version")
        await self._host.activate(request.name, request.version, request.force)
        return model_pb2.ActivateVersionResponse(model=self._describe(request.name))

    @guarded
    async def ListTrials(self, request: model_pb2.ListTrialsRequest, context: Context) -> model_pb2.ListTrialsResponse:
        may_use = rights_of(context).may_use
        reports = [report for report in self._trials.reports() if request.name in ("", report.name)]
        return model_pb2.ListTrialsResponse(trials=[trial(report) for report in reports if may_use(report.name)])

    @guarded
    async def ListLearning(
        self, request: model_pb2.ListLearningRequest, context: Context
    ) -> model_pb2.ListLearningResponse:
        may_use = rights_of(context).may_use
        found = [(name, of) for name, of in sorted(self._learns.models.items()) if request.name in ("", name)]
        return model_pb2.ListLearningResponse(models=[learning(name, of) for name, of in found if may_use(name)])

    @guarded
    async def StartTrial(self, request: model_pb2.StartTrialRequest, context: Context) -> model_pb2.StartTrialResponse:
        if not request.version:
            raise CallError("INVALID_REQUEST", "version: should be the number of a version, as 4", "version")
        loaded = await self._host.load(request.name, request.version)
        return model_pb2.StartTrialResponse(trial=trial(await self._trials.begin(loaded)))

    @guarded
    async def VetoVersion(
        self, request: model_pb2.VetoVersionRequest, context: Context
    ) -> model_pb2.VetoVersionResponse:
        if not _VERSION.fullmatch(request.version):
            raise CallError("INVALID_REQUEST", "version: should be the number of a version, as 4", "version")
        if len(request.reason) > REASON_CHARS_MAX or not request.reason.isprintable():
            text = f"reason: should be at most {REASON_CHARS_MAX} characters that can be printed"
            raise CallError("INVALID_REQUEST", text, "reason")
        who = rights_of(context).principal
        report = await self._trials.veto(request.name, request.version, who, request.reason)
        return model_pb2.VetoVersionResponse(trial=trial(report) if report is not None else None)

    async def WatchModels(
        self, request: model_pb2.WatchModelsRequest, context: Context
    ) -> AsyncIterator[model_pb2.WatchModelsResponse]:
        reported: dict[str, bytes] = {}
        async for all_names in self._catalogue.changes():
            names = list(filter(rights_of(context).may_use, all_names))
            for name in reported.keys() - set(names):
                del reported[name]
                yield model_pb2.WatchModelsResponse(model=model_pb2.Model(name=name), removed=True)
            for name in names:
                model = self._describe(name)
                state = model.SerializeToString(deterministic=True)
                if reported.get(name) != state:
                    reported[name] = state
                    yield model_pb2.WatchModelsResponse(model=model)

    def _describe(self, name: str) -> model_pb2.Model:
        active, previous = self._catalogue.active(name), self._catalogue.previous(name)
        versions = self._catalogue.versions(name)
        model = model_pb2.Model(
            name=name,
            active_version=active.version.version if active else "",
            previous_version=previous.version.version if previous else "",
            versions=[self._version(served) for served in versions],
            description=versions[0].version.config.description if versions else "",
        )
        if name in self._catalogue.problems:
            model.versions.add(state=model_pb2.MODEL_STATE_FAILED, error=self._catalogue.problems[name])
        return model

    def _version(self, served: LoadedVersion) -> model_pb2.ModelVersion:
        config, signature = served.version.config, served.signature
        message = model_pb2.ModelVersion(
            version=served.version.version,
            state=int(served.state),  # type: ignore[arg-type]  # equal numbers
            error=served.trouble,
            progress=served.progress,
            default_budget_nano=int(config.default_budget_ms * 1e6),
            default_class=int(StreamClass[config.default_class]),  # type: ignore[arg-type]
        )
        report = self._trials.report(served.version.name, served.version.version)
        if report is not None:
            message.trial.CopyFrom(trial(report))
        if signature is not None:
            message.inputs.extend(map(tensor_spec, signature.inputs))
            message.outputs.extend(map(tensor_spec, signature.outputs))
            message.stateful = signature.stateful
            for variant, providers in zip(config.variants, served.providers, strict=True):
                described = message.variants.add(name=variant.name, accuracy=variant.accuracy, providers=providers)
                for lane in self._catalogue.lanes:
                    planned = self._driver.scheduler.planned_ns(served.key, lane, variant.name)
                    for batch_size, planned_ns in enumerate(planned, start=1):
                        described.profile.add(lane=lane, batch_size=batch_size, planned_nano=planned_ns)
        return message


class ServerService(server_pb2_grpc.ServerServiceServicer):
    def __init__(
        self,
        catalogue: Catalogue,
        driver: Driver,
        streams: OpenStreams,
        metrics: Metrics,
        drain: Callable[[int], "asyncio.Future[None]"],
        dump: Callable[[], Awaitable[str]],
        local_path: Callable[[], str] = lambda: "",
    ) -> None:
        """`drain(grace_ns)` begins to drain, with the server's own grace where that is 0. Its future is done when every
        frame is answered. `dump()` writes down the flight recording and gives the name of its file; it may raise
        DumpError. `local_path()` gives the path of the UNIX socket at which clients on this machine share memory.
        """
        self._catalogue = catalogue
        self._driver = driver
        self._streams = streams
        self._metrics = metrics
        self._drain = drain
        self._watchers = 0
        self._taken: dict[tuple[str, ...], bytes] = {}
        """The newest statistics of watchers, by the models that they may see."""
        self._taken_ns = -SNAPSHOT_NS - 1
        self._dump = dump
        self._local_path = local_path
        self._server_version = importlib.metadata.version("duly")  # which reads files
        self._started_ns = driver.clock()

    @guarded
    async def GetServerInfo(
        self, request: server_pb2.GetServerInfoRequest, context: Context
    ) -> server_pb2.GetServerInfoResponse:
        limits = self._streams.limits
        return server_pb2.GetServerInfoResponse(
            server_version=self._server_version,
            server_time_unix_nano=time.time_ns(),
            lanes=self._lanes(),
            streams_max=limits.server.streams_max,
            frames_in_flight_max=limits.stream.frames_in_flight_max,
            bytes_in_flight_max=limits.stream.bytes_in_flight_max,
            message_bytes_max=self._catalogue.message_bytes_max,
            draining=self._streams.draining,
            local_path=self._local_path() if is_on_this_machine(context.peer()) else "",
        )

    @guarded
    async def GetStatistics(
        self, request: server_pb2.GetStatisticsRequest, context: Context
    ) -> server_pb2.GetStatisticsResponse:
        return server_pb2.GetStatisticsResponse(statistics=self._statistics(rights_of(context)))

    async def WatchStatistics(
        self, request: server_pb2.WatchStatisticsRequest, context: Context
    ) -> AsyncIterator[bytes]:
        period_ns = request.period_nano or WATCH_NS_DEFAULT
        if period_ns < WATCH_NS_MIN:
            text = f"period_nano: should be 0 or at least {WATCH_NS_MIN}, got {period_ns}"
            await abort(context, CallError("INVALID_REQUEST", text, "period_nano"))
        self._watchers += 1
        try:
            while True:
                yield self._snapshot(rights_of(context))
                await asyncio.sleep(max(period_ns, self._watchers * WATCH_NS_EACH) / 1e9)
        finally:
            self._watchers -= 1

    @guarded
    async def Drain(self, request: server_pb2.DrainRequest, context: Context) -> server_pb2.DrainResponse:
        if not 0 <= request.grace_nano <= DRAIN_NS_MAX:
            text = f"grace_nano: should be 0 to {DRAIN_NS_MAX}, got {request.grace_nano}"
            raise CallError("INVALID_REQUEST", text, "grace_nano")
        await asyncio.shield(self._drain(request.grace_nano))
        return server_pb2.DrainResponse()

    @guarded
    async def DumpRecording(
        self, request: server_pb2.DumpRecordingRequest, context: Context
    ) -> server_pb2.DumpRecordingResponse:
        try:
            return server_pb2.DumpRecordingResponse(file_name=await self._dump())
        except DumpError as error:
            raise CallError("DUMP_FAILED", str(error)) from None

    def _lanes(self) -> list[server_pb2.Lane]:
        up_ns = max(1, self._driver.clock() - self._started_ns)
        return [
            server_pb2.Lane(
                name=lane,
                busy_ratio=self._metrics.lane_busy_ns(lane) / up_ns,
                down=self._catalogue.lanes_down.get(lane, ""),
            )
            for lane in self._catalogue.lanes
        ]

    def _snapshot(self, rights: Rights) -> bytes:
        """Returns the statistics as watchers with these rights get them, as they were a moment ago at most."""
        now_ns = self._driver.clock()
        if now_ns - self._taken_ns > SNAPSHOT_NS:
            self._taken_ns = now_ns
            self._taken.clear()
        taken = self._taken.get(rights.models)
        if taken is None:
            message = server_pb2.WatchStatisticsResponse(statistics=self._statistics(rights))
            taken = self._taken[rights.models] = message.SerializeToString()
        return taken

    def _statistics(self, rights: Rights) -> server_pb2.Statistics:
        statistics = server_pb2.Statistics(
            server_time_unix_nano=time.time_ns(),
            streams_open=len(self._streams),
            frames_in_flight=len(self._driver.held),
            bytes_in_flight=self._driver.held.bytes,
            lanes=self._lanes(),
            wasted_nano=self._metrics.wasted_ns(),
            energy=[
                server_pb2.DeviceEnergy(device=device, joules=joules)
                for device, joules in self._metrics.energy_joules().items()
            ],
        )
        waiting = self._driver.scheduler.frames_waiting_by_model()
        by_model: dict[str, Any] = {}
        for name in [served.key for served in self._catalogue.all_versions() if rights.may_use(served.version.name)]:
            batches, frames = self._metrics.batches(name)
            by_model[name] = statistics.models.add(
                model=name, batches=batches, batched_frames=frames, frames_waiting=waiting.get(name, 0)
            )
        for name, status, cls, frames in self._metrics.counts():
            if name in by_model:
                by_model[name].outcomes.add(status=int(status), stream_class=int(cls), frames=frames)
        return statistics
