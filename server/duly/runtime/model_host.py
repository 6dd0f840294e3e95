"""Models come and go here: versions of the repository are loaded, activated and unloaded while streams go on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import structlog

from duly.core.events import ModelGone
from duly.metrics import Metrics
from duly.models.contents import Fingerprint, changed_files, changed_settings, digest_files, how_to_publish, in_words
from duly.models.repository import ModelVersion, NotARepository, Repository
from duly.runtime.catalogue import Catalogue, LoadedVersion, ModelError, VersionState
from duly.runtime.driver import Driver
from duly.runtime.supervisor import Supervisor

_log = structlog.get_logger("duly.models")

START_SECONDS_MAX = 60.0
START_IDLE_SECONDS_MAX = 5.0
START_LOOK_SECONDS = 0.5
"""At the start a model that takes longer does not keep the others from being loaded and served."""

UNLOADED_MAX = 256
"""Of so many versions it is remembered what they were when they were unloaded."""


class ModelHost:
    def __init__(
        self, repository: Repository, catalogue: Catalogue, supervisor: Supervisor, driver: Driver, metrics: Metrics
    ) -> None:
        self._repository = repository
        self._catalogue = catalogue
        self._supervisor = supervisor
        self._driver = driver
        self._metrics = metrics
        self._busy: set[str] = set()
        """Names of the models that are being loaded or unloaded."""
        self._unloaded: dict[str, LoadedVersion] = {}
        """What was served as a version before it was unloaded, by its key, so that the log says when that changes."""
        self._unloading: set[asyncio.Task[None]] = set()
        self._serves = False
        """Whether any model has been loaded since the start."""
        self._first_failures: list[tuple[str, str]] = []
        """Models that could not be loaded at the start, with the reasons, which are not logged yet."""

    async def load_all(self) -> None:
        """Loads the newest version of every model, one after another, so that each is profiled undisturbed.

        Models that cannot be loaded are listed in the catalogue; the others serve. As soon as one serves they are
        logged, too. Where none does, whoever starts the server says why. A model that seems to hang keeps the others
        waiting for a limited time (`_patience`), and goes on loading beside them; unless it is the only one that may
        still serve, this returns without it.
        """
        versions, problems = self._repository.scan()
        failed: list[tuple[str, str]] = []
        for problem in problems:
            if problem.harmless:
                _log.warning("passed over", model=problem.name, reason=problem.reason)
            else:
                self._catalogue.problems[problem.name] = problem.reason
                failed.append((problem.name, problem.reason))
        newest: dict[str, ModelVersion] = {}
        for version in versions:
            newest.setdefault(version.name, version)
        self._first_failures = failed
        tasks = []
        for version in newest.values():
            task = asyncio.create_task(self._load_first(version), name=f"first load of {version.key}")
            self._supervisor.end_with_server(task)
            tasks.append(task)
            await self._patience(task, version)
        while not self._serves and any(not task.done() for task in tasks):
            await asyncio.wait([task for task in tasks if not task.done()], return_when=asyncio.FIRST_COMPLETED)

    async def _load_first(self, version: ModelVersion) -> None:
        try:
            async with self._alone(version.name):
                loaded = await self._load(version)
        except ModelError as error:
            self._first_failures.append((version.key, str(error)))
        except Exception as error:  # whatever it is, it must not keep the others from being served
            _log.exception("model cannot be loaded", model=version.key)
            self._first_failures.append((version.key, f"the server failed on it: {type(error).__name__}"))
        else:
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

    async def load(self, name: str, version: str) -> LoadedVersion:
        """Loads a version, or the newest where none is stated, beside those that serve. Raises ModelError."""
        async with self._alone(name):
            try:
                versions, problems = await asyncio.to_thread(self._repository.scan)
            except NotARepository as error:
                _log.error("the repository cannot be read", reason=str(error))
                raise ModelError("REPOSITORY_INVALID", "the repository cannot be read; see the server's log") from None
            candidates = [v for v in versions if v.name == name and version in ("", v.version)]
            if not candidates:
                broken = [problem.reason for problem in problems if problem.name == name and not problem.harmless]
                if broken:
                    raise ModelError("REPOSITORY_INVALID", "; ".join(broken))
                raise ModelError("MODEL_NOT_FOUND", _not_there(name, version, versions))
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

    def activate(self, name: str, version: str) -> LoadedVersion:
        """Streams without a stated version use this version from their next frame on. Raises ModelError."""
        loaded = self._catalogue.find(name, version)
        self._activate(loaded)
        return loaded

    async def unload(self, name: str, version: str) -> None:
        """Unloads a version, or all where none is stated. Waiting and running frames are FAILED.

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
                self._driver.submit(ModelGone(loaded.key, None, f"model {loaded.key} was unloaded"))
            self._catalogue.notify()  # nobody shall take it for served while its workers end
            for loaded in chosen:
                await self._supervisor.stop(loaded)
                self._metrics.drop_model(loaded.key)
                self._remember(loaded)
            self._catalogue.problems.pop(name, None)
            self._catalogue.notify()

    async def _check_same(self, loaded: LoadedVersion, expected: Fingerprint, now: ModelVersion) -> None:
        """Raises ModelError where the repository holds something else than what was loaded as this version."""
        changes = changed_settings(loaded.version, now)
        digests = await asyncio.to_thread(digest_files, now, list(expected.contents))
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
        """Loads a version. `expected`: what it must be; None: what lies there is taken."""
        loaded = LoadedVersion(version, fingerprint=expected)
        self._catalogue.put(loaded)
        await self._supervisor.start(loaded)
        before = self._unloaded.pop(loaded.key, None)
        if before is not None and before.fingerprint is not None and loaded.fingerprint is not None:
            changes = changed_settings(before.version, version)
            changes += changed_files(before.fingerprint.contents, loaded.fingerprint.contents)
            if changes:
                _log.warning("another version than was unloaded", model=loaded.key, changes=in_words(changes))
        return loaded

    def _activate(self, loaded: LoadedVersion) -> None:
        self._catalogue.activate(loaded)
        _log.info("model active", model=loaded.key)


def _not_there(name: str, version: str, versions: Sequence[ModelVersion]) -> str:
    """Says what the repository does not hold, and what it holds in its place."""
    numbers = [other.version for other in versions if other.name == name]
    if version and numbers:
        return f"the repository holds no version {version!r} of model {name!r}; it holds: {', '.join(numbers)}"
    names = ", ".join(sorted({other.name for other in versions})) or "none"
    return f"the repository holds no model {name!r}; it holds: {names}"
