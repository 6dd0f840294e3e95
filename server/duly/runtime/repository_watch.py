"""Follows the repository while the server runs: a new version is loaded beside those that serve, and made active if it
passes.

The repository is looked at once a second, since no notice of a file system comes over a network, out of a container's
volume, or for a link that is turned elsewhere. What is to be done follows from what lies there and what is loaded, and
is worked out anew each time, so nothing queues up. A version is loaded once nothing in its model's folder has changed
for a while and no file of it is open for writing. It is tried once; a failed one is tried again when it changes.

A version whose model.toml has `[trial]` is not activated but tried (`trials`), and one that did not pass a trial is not
loaded again. While a version is on trial a newer one waits until that is over.

What serves is never touched: files that change, or go, under a loaded version are told and no more. A version that was
loaded or unloaded by hand is left as it is.
"""

import asyncio
from functools import partial

import structlog

from duly.models.folders import CHECKS_FOLDER, CONFIG_FILE
from duly.models.repository import ModelVersion, RepositoryProblem
from duly.models.stamps import Stamp, Stamps, read_stamps, written_to
from duly.models.triton.origin import TRITON_FILE
from duly.models.wording import first_few
from duly.runtime.catalogue import Catalogue, LoadedVersion, ModelError, VersionState
from duly.runtime.model_host import REASONS_MAX, ModelHost
from duly.runtime.trials import Trials
from duly.worker.version_files import is_written

_log = structlog.get_logger("duly.models")

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
FOLLOWED_MAX = 8
"""So many models may be loading at once. Then all others wait until one of them is done, at most `load_timeout_s`."""
_PASSING = ("MODEL_NOT_READY", "REPOSITORY_INVALID")
"""Reasons for which a load is tried again soon: the model is being loaded by hand, or the disk does not answer."""


class RepositoryWatch:
    def __init__(
        self,
        host: ModelHost,
        catalogue: Catalogue,
        activate: bool,
        settle_s: float,
        trials: Trials | None = None,
    ) -> None:
        """`activate`: whether a version that was loaded also becomes active, or is tried. `settle_s`: how long nothing
        must have changed. `trials`: None where none are held.
        """
        self._trials = trials
        self._put_off: set[str] = set()
        """The models with a newer version that waits for the end of a trial."""
        self._host = host
        self._catalogue = catalogue
        self._activate = activate
        self._settle_s = settle_s
        self._stamps: Stamps = {}
        """What was seen at the last look."""
        self._changed_s: dict[str, float] = {}
        """The models that have changed and have not settled yet, with when."""
        self._tried: dict[str, Stamp] = {}
        """What a version was when it was loaded or tried, by its key."""
        self._told: dict[str, str] = {}
        """What was logged of a model or version last, by name or key, so that it is said once."""
        self._readable = True
        self._following: dict[str, asyncio.Task[bool]] = {}
        """What is being done for models, by their names."""

    async def run(self) -> None:
        """Looks again and again, for ever."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in self._following.values():
                task.cancel()
            await asyncio.gather(*self._following.values(), return_exceptions=True)

    async def look(self) -> None:
        """Looks once, and does what is due."""
        try:
            stamps = await self._host.read(partial(read_stamps, self._host.root))
        except (ModelError, OSError) as error:
            if self._readable:
                _log.error("the repository cannot be watched, what is loaded serves on", reason=str(error))
            self._readable = False
            return
        self._readable = True
        now_s = asyncio.get_running_loop().time()
        for name in stamps.keys() | self._stamps.keys():
            if stamps.get(name) != self._stamps.get(name):
                self._changed_s[name] = now_s
        self._stamps = stamps
        for name in [name for name in self._put_off if not self._on_trial(name)]:
            self._put_off.discard(name)
            self._changed_s.setdefault(name, now_s - self._settle_s)
        due = [
            name
            for name, since_s in self._changed_s.items()
            if now_s - since_s >= self._settle_s and name not in self._following
        ]
        if not due:
            return
        try:
            versions, problems = await self._host.read_repository()
        except ModelError:
            return  # it is logged
        for name in sorted(due):
            if len(self._following) >= FOLLOWED_MAX:
                return
            task = asyncio.create_task(self._follow(name, versions, problems), name=f"following {name}")
            self._following[name] = task
            task.add_done_callback(partial(self._followed, name, self._changed_s[name]))
            await asyncio.wait([task], timeout=PATIENCE_SECONDS)

    def _followed(self, name: str, since_s: float, task: "asyncio.Task[bool]") -> None:
        del self._following[name]
        if task.cancelled():
            return
        if error := task.exception():  # it is tried again
            _log.error("a model could not be followed", model=name, exc_info=error)
        elif task.result() and self._changed_s.get(name) == since_s:
            del self._changed_s[name]

    async def _follow(self, name: str, versions: list[ModelVersion], problems: list[RepositoryProblem]) -> bool:
        """Does what is due for one model. Returns False where it is to be tried again soon."""
        found = [version for version in versions if version.name == name]
        self._tell_problems(
            name, [problem.reason for problem in problems if problem.name == name and not problem.harmless]
        )
        for loaded in self._catalogue.versions(name):
            self._compare(loaded)
        if not found:
            return True
        newest = found[0]
        loaded_now, active = self._catalogue.get(name, newest.version), self._catalogue.active(name)
        if loaded_now is not None and loaded_now.state is not VersionState.FAILED:
            return True
        if active is not None and int(newest.version) < int(active.version.version):
            return True  # it was put there to go back to by hand
        if self._tried.get(newest.key) == self._stamp(newest):
            return True
        if self._on_trial(name):
            self._put_off.add(name)
            return True
        ended = self._trials.memory.ended(newest.key) if self._trials is not None else None
        if ended is not None:
            self._tell(newest.key, f"{newest.key} did not pass its trial ({ended.stage.name}): {ended.reason}")
            return True
        if file := await self._host.read(partial(written_to, newest.folder, is_written)):
            self._tell(newest.key, f"{newest.key}/{file} is open for writing")
            return False
        return await self._load(newest)

    async def _load(self, version: ModelVersion) -> bool:
        stamp = self._stamp(version)
        try:
            await self._host.make_room(version.name)
            loaded = await self._host.load(version.name, version.version)
        except ModelError as error:
            if error.reason in _PASSING:
                return False
            self._tried[version.key] = stamp
            self._tell(version.key, str(error))
            return True
        self._tried[version.key] = stamp
        self._told.pop(version.key, None)
        if self._activate and self._catalogue.active(version.name) is not loaded:
            tried = self._trials is not None and loaded.version.config.trial is not None
            try:
                if self._trials is not None and tried:
                    await self._trials.begin(loaded)
                else:
                    await self._host.activate(version.name, version.version)
            except ModelError as error:
                self._tell(version.key, f"loaded and not {'tried' if tried else 'activated'}: {error}")
        return True

    def _on_trial(self, name: str) -> bool:
        return self._trials is not None and bool(self._trials.on_trial(name))

    def _compare(self, loaded: LoadedVersion) -> None:
        """Says once that the files of a loaded version are gone or have changed."""
        if loaded.state in (VersionState.LOADING, VersionState.FAILED):
            if loaded.state is VersionState.FAILED and loaded.key not in self._tried:
                self._tried[loaded.key] = self._stamp(loaded.version)  # it failed as the server started
            return
        stamp = self._stamp(loaded.version)
        if stamp == self._tried.setdefault(loaded.key, stamp):
            return
        self._tried[loaded.key] = stamp
        what = "its files have changed" if stamp else "its files are gone"
        self._tell(loaded.key, f"{what}; what was loaded serves until it is unloaded")

    def _tell_problems(self, name: str, reasons: list[str]) -> None:
        """Keeps what is wrong with a model in the catalogue, from where everyone has it."""
        problems = self._catalogue.problems
        reason = first_few(reasons, REASONS_MAX, "; ", "; and ")
        if reason == problems.get(name, ""):
            return
        if reason:
            problems[name] = reason
            self._tell(name, reason)
        else:
            del problems[name]
            self._told.pop(name, None)
        self._catalogue.notify()

    def _stamp(self, version: ModelVersion) -> Stamp:
        """What the version is, with the settings of its model; 0: it is gone."""
        inside = self._stamps.get(version.name, {})
        own = [name for name in inside if name.isdigit() and int(name) == int(version.version)]
        config = version.config
        first = [state.initial.partition("/")[0] for state in config.states]
        named = (CONFIG_FILE, TRITON_FILE, config.labels.partition("/")[0], CHECKS_FOLDER, *first)
        beside = [name for name in inside if name in named]
        return hash(tuple((name, inside[name]) for name in sorted(own + beside))) if own else 0

    def _tell(self, what: str, reason: str) -> None:
        if self._told.get(what) != reason:
            self._told[what] = reason
            _log.warning("the repository has something that is not served", model=what, reason=reason)
