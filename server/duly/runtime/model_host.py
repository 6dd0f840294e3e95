"""Models come and go here: versions of the repository are loaded, activated and unloaded while streams go on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from duly.core.events import ModelGone
from duly.core.types import in_ms
from duly.metrics import Metrics
from duly.models.contents import Fingerprint, changed_files, changed_settings, digest_files, how_to_publish, in_words
from duly.models.repository import ModelVersion, NotARepository, Repository, RepositoryProblem
from duly.models.weights import weights_bytes
from duly.models.wording import first_few
from duly.runtime.admission import Admission, SwapVerdict
from duly.runtime.catalogue import Catalogue, LoadedVersion, ModelError, VersionState
from duly.runtime.disk_reader import DiskReader
from duly.runtime.driver import Driver
from duly.runtime.supervisor import Supervisor

_log = structlog.get_logger("duly.models")

START_SECONDS_MAX = 60.0
"""At the start a model that takes longer does not keep the others from being loaded and served."""
START_IDLE_SECONDS_MAX = 5.0
"""At the start a model that computes nothing for so long does not keep the others from being served, either."""
START_LOOK_SECONDS = 0.5

REASONS_MAX = 5
"""So many reasons of one model are named, and the rest is counted."""
UNLOADED_MAX = 256
"""Of so many versions it is remembered what they were when they were unloaded."""
DIGEST_SECONDS_MAX = 600.0
"""A repeated load of a version fails where its files are not read by then, at about a second for each GB."""
FINISH_SECONDS_MAX = 2.0
"""A version that is unloaded is given so long to finish the frames that have come for it; then they are FAILED."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class VersionLimits:
    """How many versions may be loaded at once. Each has a worker with its memory on every lane."""

    of_model: int
    of_all: int


class ModelHost:
    def __init__(
        self,
        repository: Repository,
        catalogue: Catalogue,
        supervisor: Supervisor,
        driver: Driver,
        metrics: Metrics,
        admission: Admission,
        limits: VersionLimits,
    ) -> None:
        self._repository = repository
        self._disk = DiskReader()
        self._catalogue = catalogue
        self._supervisor = supervisor
        self._driver = driver
        self._metrics = metrics
        self._admission = admission
        self._limits = limits
        self._busy: set[str] = set()
        """Names of the models that are being loaded or unloaded."""
        self._unloaded: dict[str, LoadedVersion] = {}
        """What was served as a version before it was unloaded, by its key, so that the log says when that changes."""
        self._unloading: set[asyncio.Task[None]] = set()
        self._serves = False
        """Whether any model has been loaded since the start."""
        self.on_trial: Callable[[str], str] = lambda name: ""
        """Returns the number of the version of that model which is on trial; empty: none is."""
        self.first: Callable[[Sequence[ModelVersion]], Sequence[ModelVersion]] = lambda versions: versions
        """Returns those of a model's versions, the newest first, that may be loaded at the start: all, or those that a
        trial before has left."""
        self._first_failures: list[tuple[str, str]] = []
        """Models that could not be loaded at the start, with the reasons, which are not logged yet."""

    async def load_all(self) -> None:
        """Loads the newest version of every model, or as many as its settings say (`versions`), one after another, so
        that each is profiled undisturbed.

        Models that cannot be loaded are listed in the catalogue; the others serve. As soon as one serves they are
        logged, too. Where none does, whoever starts the server says why. A model that seems to hang keeps the others
        waiting for a limited time (`_patience`), and goes on loading beside them; unless it is the only one that may
        still serve, this returns without it.
        """
        versions, problems = await self._disk.read(self._repository.scan)
        failed: list[tuple[str, str]] = []
        for problem in problems:
            if problem.harmless:
                _log.warning("passed over", model=problem.name, reason=problem.reason)
            else:
                self._catalogue.problems[problem.name] = problem.reason
                failed.append((problem.name, problem.reason))
        self._first_failures = failed
        tasks = []
        for version in self._first_versions(versions):
            task = asyncio.create_task(self._load_first(version), name=f"first load of {version.key}")
            self._supervisor.end_with_server(task)
            tasks.append(task)
            await self._patience(task, version)
        while not self._serves and any(not task.done() for task in tasks):
            await asyncio.wait([task for task in tasks if not task.done()], return_when=asyncio.FIRST_COMPLETED)

    def _first_versions(self, versions: Sequence[ModelVersion]) -> list[ModelVersion]:
        """Returns what is loaded at the start, the newest version of each model before all others."""
        of_model: dict[str, list[ModelVersion]] = {}
        for version in versions:
            of_model.setdefault(version.name, []).append(version)
        newest: list[ModelVersion] = []
        others: list[ModelVersion] = []
        for all_mine in of_model.values():
            mine = self.first(all_mine)
            wanted = min(mine[0].config.versions.loaded or len(mine), len(mine))
            room = min(wanted, self._limits.of_model)
            newest.append(mine[0])
            others += mine[1:room]
            if room < wanted:
                left_out = [version.version for version in mine[room:wanted]]
                _log.warning("not loaded, as versions_max is less", model=mine[0].name, versions=",".join(left_out))
        return newest + others

    async def _load_first(self, version: ModelVersion) -> None:
        try:
            async with self._alone(version.name):
                loaded = await self._load(version)
        except ModelError as error:
            if not self._catalogue.versions(version.name):
                self._catalogue.problems[version.name] = str(error)
            self._first_failures.append((version.key, str(error)))
        except Exception as error:  # whatever it is, it must not keep the others from being served
            _log.exception("model cannot be loaded", model=version.key)
            self._first_failures.append((version.key, f"the server failed on it: {type(error).__name__}"))
        else:
            active = self._catalogue.active(version.name)
            if active is None or active.state is VersionState.FAILED:  # else a newer one serves already
                self._activate(loaded)
            self._serves = True
        while self._serves and self._first_failures:
            model, reason = self._first_failures.pop(0)
            _log.error("model cannot be served", model=model, reason=reason)

    async def _patience(self, task: "asyncio.Task[None]", version: ModelVersion) -> None:
        """Waits for a first load: as long as it computes, at most START_SECONDS_MAX, and otherwise for
        START_IDLE_SECONDS_MAX without any computing.
        """
        clock = asyncio.get_running_loop().time
        began_s = idle_since_s = clock()
        used_ns = 0
        while not task.done():
            await asyncio.wait([task], timeout=START_LOOK_SECONDS)
            now_s = clock()
            loaded = self._catalogue.get(version.name, version.version)
            before_ns, used_ns = used_ns, self._supervisor.loads(loaded) if loaded is not None else 0
            if used_ns != before_ns:
                idle_since_s = now_s
            if now_s - idle_since_s > START_IDLE_SECONDS_MAX or now_s - began_s > START_SECONDS_MAX:
                waited_s = round(now_s - began_s, 1)
                _log.error("model takes long to load, the others go on", model=version.key, waited_s=waited_s)
                return

    @property
    def root(self) -> Path:
        """The folder of the repository."""
        return self._repository.root

    async def read(self, work: Callable[[], _Result]) -> _Result:
        """Does something that reads from the repository beside the event loop. Raises ModelError where it hangs."""
        return await self._disk.read(work)

    async def read_repository(self) -> tuple[list[ModelVersion], list[RepositoryProblem]]:
        """Returns what the repository holds now. Raises ModelError where it cannot be read."""
        try:
            return await self._disk.read(self._repository.scan)
        except NotARepository as error:
            _log.error("the repository cannot be read", reason=str(error))
            raise ModelError("REPOSITORY_INVALID", "the repository cannot be read; see the server's log") from None

    async def load(self, name: str, version: str) -> LoadedVersion:
        """Loads a version, or the newest where none is stated, beside those that serve. Raises ModelError."""
        async with self._alone(name):
            versions, problems = await self.read_repository()
            candidates = [v for v in versions if v.name == name and version in ("", v.version)]
            if not candidates:
                broken = [problem.reason for problem in problems if problem.name == name and not problem.harmless]
                if broken:
                    raise ModelError("REPOSITORY_INVALID", first_few(broken, REASONS_MAX, "; ", "; and "))
                raise _not_there(name, version, versions)
            newest = candidates[0]
            loaded = self._catalogue.get(newest.name, newest.version)
            if loaded is not None and loaded.fingerprint is not None:
                await self._check_same(loaded, loaded.fingerprint, newest)
            if loaded is None or loaded.state is VersionState.FAILED:
                loaded = await self._load(newest, loaded.fingerprint if loaded is not None else None)
            self._catalogue.problems.pop(name, None)
            active = self._catalogue.active(name)
            if active is None or active.state is VersionState.FAILED:
                self._activate(loaded)
            return loaded

    async def activate(
        self, name: str, version: str, force: bool = False, *, promotes: Callable[[], bool] | None = None
    ) -> LoadedVersion:
        """Streams without a stated version use this version from their next frame on. `promotes`: a trial has come to
        its end with it, if that says so still once admission has been asked, which takes a while.

        Raises ModelError, which is ACTIVATION_REFUSED where streams that are open would no longer get what they were
        promised, or a version of the model is on trial; with `force` it is activated all the same.
        """
        loaded = self._catalogue.find(name, version)
        if (candidate := self.on_trial(name)) and not force and promotes is None:
            raise ModelError(
                "ACTIVATION_REFUSED",
                f"{name}/{candidate} is on trial, which decides what is active; veto it first, or force it, which ends "
                "the trial",
            )
        active = self._catalogue.active(name)
        if active is not None and active is not loaded and active.state is not VersionState.FAILED:
            async with self._admission.swap(name, active.key, loaded.key) as verdict:
                loaded = self._catalogue.find(name, version)  # it may have gone meanwhile
                _check_promotes(loaded, promotes)
                if verdict.broken:
                    refusal = _refusal(active, loaded, verdict)
                    if self._admission.enforces and not force:
                        raise refusal
                    _log.warning("model active, though promises break", model=loaded.key, reason=str(refusal))
                self._activate(loaded)
        elif active is not loaded:
            _check_promotes(loaded, promotes)
            self._activate(loaded)
        return loaded

    async def refusal(self, name: str, version: str) -> str:
        """Returns why the version would not be activated now; empty: it would."""
        loaded, active = self._catalogue.find(name, version), self._catalogue.active(name)
        if active is None or active is loaded or not self._admission.enforces:
            return ""
        async with self._admission.swap(name, active.key, loaded.key) as verdict:
            return str(_refusal(active, loaded, verdict)) if verdict.broken else ""

    async def make_room(self, name: str) -> None:
        """Unloads the oldest version of the model that nobody uses, where as many are loaded as may be: neither the
        active one, nor the one before it, nor one that a stream is open for.
        """
        loaded = [other for other in self._catalogue.versions(name) if other.state is not VersionState.FAILED]
        if len(loaded) < self._limits.of_model:
            return
        used = {demand.model for demand in self._driver.scheduler.demands(self._driver.clock())}
        kept = (self._catalogue.active(name), self._catalogue.previous(name))
        for other in reversed(loaded):
            if other not in kept and other.key not in used and other.state is VersionState.READY:
                _log.info("unloaded to make room for a new version", model=other.key)
                await self.unload(name, other.version.version)
                return

    async def unload(self, name: str, version: str) -> None:
        """Unloads a version, or all where none is stated. Frames that came for it are finished, in FINISH_SECONDS_MAX
        at most, and what is left then is FAILED.

        Raises ModelError where nothing of the kind is loaded. What has begun is finished, even if the caller is
        cancelled meanwhile: nobody else knows of the workers of a version that is not in the catalogue any more.
        """
        unloading = asyncio.create_task(self._unload(name, version))
        self._unloading.add(unloading)
        unloading.add_done_callback(self._unloading.discard)
        await asyncio.shield(unloading)

    async def _unload(self, name: str, version: str) -> None:
        async with self._alone(name):
            chosen = [loaded for loaded in self._catalogue.versions(name) if version in ("", loaded.version.version)]
            if not chosen:
                self._catalogue.find(name, version)
            for loaded in chosen:
                self._catalogue.remove(loaded)
            self._catalogue.notify()  # nobody shall take it for served while its workers end
            await self._driver.finished({loaded.key for loaded in chosen}, FINISH_SECONDS_MAX)
            for loaded in chosen:
                self._driver.submit(ModelGone(loaded.key, None, f"model {loaded.key} was unloaded"))
                await self._supervisor.stop(loaded)
                self._metrics.drop_model(loaded.key)
                self._remember(loaded)
            self._catalogue.problems.pop(name, None)
            self._catalogue.notify()

    async def _check_same(self, loaded: LoadedVersion, expected: Fingerprint, now: ModelVersion) -> None:
        """Raises ModelError where the repository holds something else than what was loaded as this version."""
        changes = changed_settings(loaded.version, now)
        digests = await self._disk.read(partial(digest_files, now, list(expected.contents)), DIGEST_SECONDS_MAX)
        changes += changed_files(expected.contents, digests)
        if changes:
            text = (
                f"{loaded.key} was loaded, and the repository holds something else since: {in_words(changes)}; "
                f"{how_to_publish(now)}, or unload {loaded.key} and load it again"
            )
            raise ModelError("VERSION_CHANGED", text)

    def _remember(self, unloaded: LoadedVersion) -> None:
        self._unloaded.pop(unloaded.key, None)
        self._unloaded[unloaded.key] = unloaded
        if len(self._unloaded) > UNLOADED_MAX:
            del self._unloaded[next(iter(self._unloaded))]

    @contextlib.asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """Allows one load or unload of a model at a time. Raises ModelError where another is under way."""
        if name in self._busy:
            raise ModelError("MODEL_NOT_READY", f"model {name!r} is being loaded or unloaded already")
        self._busy.add(name)
        try:
            yield
        finally:
            self._busy.discard(name)

    async def _load(self, version: ModelVersion, expected: Fingerprint | None = None) -> LoadedVersion:
        """Loads a version. `expected`: what it must be; None: what lies there is taken. Raises ModelError."""
        size_bytes = await self._disk.read(partial(weights_bytes, version.folder, version.config.variants))
        self._check_room(version.name)
        loaded = LoadedVersion(version, fingerprint=expected, weights_bytes=size_bytes)
        self._catalogue.put(loaded)
        await self._supervisor.start(loaded)
        before = self._unloaded.pop(loaded.key, None)
        if before is not None and before.fingerprint is not None and loaded.fingerprint is not None:
            changes = changed_settings(before.version, version)
            changes += changed_files(before.fingerprint.contents, loaded.fingerprint.contents)
            if changes:
                _log.warning("another version than was unloaded", model=loaded.key, changes=in_words(changes))
        return loaded

    def _check_room(self, name: str) -> None:
        """Raises ModelError where as many versions are loaded as may be."""
        loaded = [other for other in self._catalogue.all_versions() if other.state is not VersionState.FAILED]
        of_model = [other.version.version for other in loaded if other.version.name == name]
        if len(of_model) >= self._limits.of_model:
            raise ModelError(
                "VERSIONS_EXHAUSTED",
                f"{len(of_model)} versions of model {name!r} are loaded already (versions_max): "
                f"{', '.join(sorted(of_model, key=int))}; unload one first",
            )
        if len(loaded) >= self._limits.of_all:
            text = f"{len(loaded)} versions of all models are loaded already (versions_all_max); unload one first"
            raise ModelError("VERSIONS_EXHAUSTED", text)

    def _activate(self, loaded: LoadedVersion) -> None:
        self._catalogue.activate(loaded)
        _log.info("model active", model=loaded.key)


def _check_promotes(loaded: LoadedVersion, promotes: Callable[[], bool] | None) -> None:
    """Raises ModelError where the trial that wanted the version to be active has ended otherwise meanwhile."""
    if promotes is not None and not promotes():
        raise ModelError("ACTIVATION_REFUSED", f"the trial of {loaded.key} has ended otherwise meanwhile")


def _refusal(active: LoadedVersion, loaded: LoadedVersion, verdict: SwapVerdict) -> ModelError:
    """Returns why the version is not activated, with figures."""
    worst, streams = verdict.broken[0], sum(kind.streams for kind in verdict.broken)
    demand = worst.demand
    period = f" every {in_ms(demand.period_ns)}" if demand.period_ns else ""
    times = f"planned at {in_ms(verdict.after_ns)}, with {active.key} at {in_ms(verdict.before_ns)}"
    stream = f"a {demand.stream_class.name} stream{period} with a budget of {in_ms(demand.budget_ns)}"
    text = (
        f"{loaded.key} would break what {streams} of {verdict.streams} open streams were promised: one frame is "
        f"{times}; {stream}: {worst.reason}; close streams first, or force it"
    )
    figures = {
        "streams": str(streams),
        "planned_nano": str(verdict.after_ns),
        "planned_before_nano": str(verdict.before_ns),
    }
    return ModelError("ACTIVATION_REFUSED", text, figures)


def _not_there(name: str, version: str, versions: Sequence[ModelVersion]) -> ModelError:
    """Returns what the repository does not hold, and what it holds in its place."""
    numbers = [other.version for other in versions if other.name == name]
    if version and numbers:
        text = f"the repository holds no version {version!r} of model {name!r}; it holds: {', '.join(numbers)}"
        return ModelError("MODEL_NOT_FOUND", text)
    names = sorted({other.name for other in versions})
    return ModelError("MODEL_NOT_FOUND", f"the repository holds no model {name!r}; it holds: ", models=names)
