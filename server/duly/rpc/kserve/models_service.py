"""What the protocol says of models, and how it loads and unloads them.

A model is served as its folder in the repository says. So what Triton lets a request put in its place, a configuration
or files, is refused.
"""

import asyncio
from typing import Any, TypeAlias

import grpc

from duly.metrics import Metrics
from duly.models.repository import ModelVersion, RepositoryProblem
from duly.rpc.errors import guarded
from duly.rpc.kserve.descriptions import configuration, metadata
from duly.rpc.kserve.front_end import FrontEnd
from duly.rpc.kserve.messages import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
)
from duly.rpc.kserve.statistics import statistics
from duly.rpc.kserve.versions import check_version, find
from duly.rpc.principal import rights_of
from duly.runtime.catalogue import LoadedVersion, ModelError, VersionState
from duly.runtime.model_host import ModelHost
from duly.streams.errors import CallError
from duly.streams.rights import Right, Rights

_NAME_CHARS_SHOWN = 64

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_Found: TypeAlias = tuple[list[ModelVersion], list[RepositoryProblem]]


class KServeModels:
    """Each method serves the RPC of its name. The guard has judged whether the caller may use the model."""

    def __init__(self, front: FrontEnd, host: ModelHost, metrics: Metrics) -> None:
        self._front = front
        self._host = host
        self._metrics = metrics
        self._catalogue = front.streams.host.catalogue
        self._reading: asyncio.Task[_Found] | None = None
        """The newest reading of the repository for an index."""

    # ---- what they are ----

    @guarded
    async def ModelReady(self, request: ModelReadyRequest, context: Context) -> ModelReadyResponse:
        check_version(request.version)
        name, version = request.name, request.version
        loaded = self._catalogue.get(name, version) if version else self._catalogue.active(name)
        ready = loaded is not None and loaded.serves and not self._front.streams.draining
        return ModelReadyResponse(ready=ready)

    @guarded
    async def ModelMetadata(self, request: ModelMetadataRequest, context: Context) -> ModelMetadataResponse:
        loaded = self._find(request.name, request.version)
        assert loaded.signature is not None, "it can serve"
        rows = self._front.rows_max(loaded, loaded.signature)
        return metadata(loaded, loaded.signature, self._served(request.name), rows)

    @guarded
    async def ModelConfig(self, request: ModelConfigRequest, context: Context) -> ModelConfigResponse:
        loaded = self._find(request.name, request.version)
        assert loaded.signature is not None, "it can serve"
        budget_ns = self._front.default_budget_ns(loaded.version.config)
        served, lanes = self._served(request.name), self._catalogue.lanes
        rows = self._front.rows_max(loaded, loaded.signature)
        return ModelConfigResponse(config=configuration(loaded, loaded.signature, served, lanes, budget_ns, rows))

    def _find(self, name: str, version: str) -> LoadedVersion:
        """Returns the version, or the active one where none is stated. Raises CallError or ModelError."""
        if not name:
            raise CallError("INVALID_REQUEST", "name: should be the name of a model", "name")
        return find(self._catalogue, name, version)

    def _served(self, name: str) -> list[LoadedVersion]:
        return [loaded for loaded in self._catalogue.versions(name) if loaded.serves]

    # ---- what became of requests ----

    @guarded
    async def ModelStatistics(self, request: ModelStatisticsRequest, context: Context) -> ModelStatisticsResponse:
        check_version(request.version)
        rights = rights_of(context)
        if request.name:
            chosen = self._chosen(request.name, request.version, rights)
        else:
            chosen = [loaded for loaded in self._catalogue.all_versions() if rights.may_use(loaded.version.name)]
        chosen.sort(key=lambda loaded: (loaded.version.name, int(loaded.version.version)))
        return ModelStatisticsResponse(
            model_stats=[self._statistics(loaded) for loaded in chosen if loaded.signature is not None]
        )

    def _chosen(self, name: str, version: str, rights: Rights) -> list[LoadedVersion]:
        """Returns that version, or all of the model. Raises CallError or ModelError."""
        try:
            found = self._catalogue.find(name, version)
        except ModelError as error:
            if error.reason == "MODEL_NOT_READY":
                raise
            # Here alone Triton has this code for what is not there.
            raise CallError("INVALID_REQUEST", error.told_to(rights.may_use), "name") from None
        return [found] if version else self._catalogue.versions(name)

    def _statistics(self, loaded: LoadedVersion) -> Any:
        tally, host = self._metrics.tally(loaded.key), self._front.streams.host
        last_unix_ns = host.wall.now_ns() - (host.driver.clock() - tally.last_ns) if tally.last_ns else 0
        return statistics(loaded.version.name, loaded.version.version, tally, last_unix_ns)

    # ---- the repository ----

    @guarded
    async def RepositoryIndex(self, request: RepositoryIndexRequest, context: Context) -> RepositoryIndexResponse:
        _check_repository(request.repository_name)
        rights, response = rights_of(context), RepositoryIndexResponse()
        known = set(self._catalogue.names())
        entries = [
            (loaded.version.name, loaded.version.version, *_state(loaded)) for loaded in self._catalogue.all_versions()
        ]
        entries += [(name, "", "UNAVAILABLE", reason) for name, reason in self._catalogue.problems.items()]
        if not request.ready:
            entries += [entry for entry in await self._not_loaded() if entry[0] not in known]
        for name, version, state, reason in sorted(entries, key=_by_name_and_version):
            if rights.may_use(name) and (state == "READY" or not request.ready):
                response.models.add(name=name, version=version, state=state, reason=reason)
        return response

    async def _not_loaded(self) -> list[tuple[str, str, str, str]]:
        """Returns the models that lie in the repository, by the newest version of each. Raises ModelError."""
        # One reading is for all that ask meanwhile: many who ask must not keep loads from reading the repository.
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._host.read_repository())
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        versions, problems = await asyncio.shield(self._reading)
        newest: dict[str, tuple[str, str]] = {}
        for version in versions:
            newest.setdefault(version.name, (version.version, "it is not loaded"))
        for problem in problems:
            if not problem.harmless:
                newest.setdefault(problem.name, ("", problem.reason))
        return [(name, version, "UNAVAILABLE", reason) for name, (version, reason) in newest.items()]

    @guarded
    async def RepositoryModelLoad(
        self, request: RepositoryModelLoadRequest, context: Context
    ) -> RepositoryModelLoadResponse:
        """Loads the newest version that lies in the repository, and has it serve requests that state none."""
        _check_repository(request.repository_name)
        _check_model_name(request.model_name)
        for name in request.parameters:
            raise CallError("INVALID_REQUEST", _why_not_taken(name), "parameters")
        name, rights = request.model_name, rights_of(context)
        try:
            loaded = await self._host.load(name, "")
        except ModelError as error:
            if error.reason != "VERSIONS_EXHAUSTED" or Right.UNLOAD not in rights.may:
                raise
            await self._host.make_room(name)
            loaded = await self._host.load(name, "")
        if self._catalogue.active(name) is not loaded:
            if Right.ACTIVATE not in rights.may:
                text = f"{loaded.key} is loaded, but {rights.principal!r} has no right to activate it"
                raise CallError("NOT_PERMITTED", text)
            await self._host.activate(name, loaded.version.version)
        return RepositoryModelLoadResponse()

    @guarded
    async def RepositoryModelUnload(
        self, request: RepositoryModelUnloadRequest, context: Context
    ) -> RepositoryModelUnloadResponse:
        """Unloads all versions of a model. One that is not loaded is no error, as it is none for Triton."""
        _check_repository(request.repository_name)
        _check_model_name(request.model_name)
        for name, parameter in request.parameters.items():
            if name != "unload_dependents":
                text = f"there is no parameter {name[:_NAME_CHARS_SHOWN]!r} of an unload; there is: unload_dependents"
                raise CallError("INVALID_REQUEST", text, "parameters")
            if parameter.WhichOneof("parameter_choice") != "bool_param":  # no model depends on another one
                raise CallError("INVALID_REQUEST", "parameter 'unload_dependents' should be a bool", "parameters")
        if self._catalogue.versions(request.model_name):
            await self._host.unload(request.model_name, "")
        return RepositoryModelUnloadResponse()


def _by_name_and_version(entry: tuple[str, str, str, str]) -> tuple[str, int]:
    return entry[0], int(entry[1] or 0)


def _state(loaded: LoadedVersion) -> tuple[str, str]:
    """Returns (state, reason) of a version as an index has them."""
    if loaded.state is VersionState.LOADING:
        return "LOADING", loaded.progress
    if loaded.serves:
        return "READY", ""
    return "UNAVAILABLE", loaded.failure or "its worker is being replaced"


def _check_repository(name: str) -> None:
    if name:
        raise CallError("NOT_SUPPORTED", "repository_name: there is one repository, it should be empty")


def _check_model_name(name: str) -> None:
    if not name:
        raise CallError("INVALID_REQUEST", "model_name: should be the name of a model", "model_name")


def _why_not_taken(parameter: str) -> str:
    """Says why a parameter of a load is not taken, and what would be right."""
    shown = parameter[:_NAME_CHARS_SHOWN]
    if parameter == "config":
        return (
            "parameter 'config' is not taken: a model is served as its folder in the repository says. Put its settings "
            "there, unload the model and load it again"
        )
    if parameter.startswith("file:"):
        return (
            f"parameter {shown!r} is not taken: files of models come into the repository by whoever runs the server. "
            "Put a folder with the new version there, then load the model"
        )
    return f"there is no parameter {shown!r} of a load, nor any other"
