"""Which versions of which models this server has, which one of each model is active, and what cannot be served.

The catalogue starts and stops nothing. `ModelHost` adds and removes versions, `Supervisor` keeps their states and
workers up to date, and everyone else only looks them up. Everything happens on the event loop.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from duly.models.contents import Fingerprint
from duly.models.repository import ModelVersion
from duly.models.spec import Signature
from duly.models.wording import in_print
from duly.runtime.blame import CrashLoop
from duly.runtime.worker_process import Worker
from duly.trials.canary import Canary

FAILED_MAX = 16
"""So many versions of a model that could not be loaded are remembered with their reasons."""


class VersionState(IntEnum):
    """The state of one version. The numbers are those of `ModelState` in the protocol."""

    LOADING = 1
    READY = 2
    FAILED = 3
    RECOVERING = 4


@dataclass(slots=True, eq=False)
class LoadedVersion:
    """One version that is served, is being loaded, or could not be loaded."""

    version: ModelVersion
    key: str = field(init=False)
    """NAME/VERSION. It is unique in the server, and frames carry it as the name of their model."""
    state: VersionState = VersionState.LOADING
    error: str = ""
    """Why the version, or a worker of it, cannot be loaded; empty where nothing is wrong."""
    signature: Signature | None = None
    """What frames hold, with labels; None until the first worker is ready."""
    fingerprint: Fingerprint | None = None
    """What the version is, as its first worker has loaded it; None until then."""
    providers: list[tuple[str, ...]] = field(default_factory=list)
    """The execution providers that truly run each variant, as the newest worker reports them."""
    weights_bytes: int = 0
    """What its files of weights have, as far as they can be told by their names."""
    memory_bytes_max: int = 0
    """Private memory that each of its workers lets itself have; 0: they have no limit of their own."""
    sizes_max: dict[tuple[str, str], int] = field(default_factory=dict)
    """The largest batches for which there is memory, by lane and variant, where larger ones have failed for want of it.
    """
    hollow: bool = False
    """Whether a worker was given up because it gave nothing finite; another one fails the version."""
    workers: dict[str, Worker] = field(default_factory=dict)
    """The workers that are ready, by lane."""
    starting: set[Worker] = field(default_factory=set)
    """The workers that load it."""
    load_s: float = 0.0
    """How long a worker took to load it, the longest of its lanes; 0 until it is loaded."""
    crashes: CrashLoop = field(default_factory=CrashLoop)

    def __post_init__(self) -> None:
        self.key = self.version.key

    def takes_state_of(self, other: "LoadedVersion") -> bool:
        """Whether streams go on with the state that the other version has kept of them."""
        if self.version.config.version_change != "CARRY" or self.signature is None or other.signature is None:
            return False
        layout = self.signature.state_layout
        return self.key != other.key and bool(layout) and layout == other.signature.state_layout

    @property
    def serves(self) -> bool:
        """Whether a frame can be served now."""
        return self.state is not VersionState.FAILED and bool(self.workers)

    @property
    def trouble(self) -> str:
        """What is wrong with it, whether it serves or not; empty: nothing is."""
        limits = [f"{size} on {lane} ({variant})" for (lane, variant), size in self.sizes_max.items()]
        limited = f"for want of memory batches have at most as many frames: {', '.join(limits)}" if limits else ""
        return "; ".join(filter(None, (self.error, limited)))

    @property
    def progress(self) -> str:
        """What the workers that load it do, for people; empty: nothing that takes long is known."""
        busy = [worker for worker in self.starting if worker.load.progress.doing]
        if not busy:
            return ""
        now_s = asyncio.get_running_loop().time()
        return "; ".join(sorted(f"{worker.load.progress.told(now_s)} ({worker.lane})" for worker in busy))

    @property
    def failure(self) -> str:
        """Why no frame can be served now; empty: one can, or as far as is known soon will."""
        return self.error if self.state is VersionState.FAILED or not self.workers else ""


@dataclass(slots=True)
class CanaryVersion:
    """A version that serves some streams of its model, though another one is active."""

    loaded: LoadedVersion
    streams: Canary
    open_streams: bool
    """Whether streams that were open before are among them."""
    has_turn: bool
    """Whether the streams are with it now; where they go in turns, this comes and goes."""

    def takes(self, key: str, before: LoadedVersion | None) -> bool:
        """Whether it serves the stream with that key. `before`: what has served it; None: nothing yet."""
        if not self.has_turn or not self.loaded.serves or not self.streams.has(key):
            return False
        if before is None or before is self.loaded:
            return True
        signature = self.loaded.signature
        stateful = signature is None or signature.stateful
        carried = self.loaded.takes_state_of(before) and before.takes_state_of(self.loaded)
        return self.open_streams and (carried or not stateful)


class ModelError(Exception):
    """A model that was asked for cannot be had. `reason` is a stable word, the text is for people."""

    def __init__(
        self, reason: str, text: str, metadata: dict[str, str] | None = None, models: Iterable[str] | None = None
    ) -> None:
        """`metadata`: figures for programs. `models`: the models that there are in its place, which end the text."""
        self._text, self._models = text, models
        super().__init__(self.told_to(lambda name: True))
        self.reason = reason
        self.metadata = metadata or {}

    def told_to(self, may_know: Callable[[str], bool]) -> str:
        """Returns the text for who may know of these models alone."""
        if self._models is None:
            return self._text
        return self._text + (", ".join(filter(may_know, self._models)) or "none")


class Catalogue:
    def __init__(self, lanes: tuple[str, ...]) -> None:
        """Every version is served on all of `lanes`, as long as they are up."""
        self.lanes = lanes
        self.lanes_down: dict[str, str] = {}
        """Why lanes are down, those that are; their devices do not work."""
        self.message_bytes_max = 0
        """The largest message that the transport reads, in bytes; 0 until the transport is up. Versions that are loaded
        from then on have to do with it."""
        self.problems: dict[str, str] = {}
        """Why something in the repository cannot be served, by the name of the model."""
        self._versions: dict[tuple[str, str], LoadedVersion] = {}
        """All versions by name and number. Look-ups happen for every frame, so they must not build a string."""
        self._active: dict[str, LoadedVersion] = {}
        """The version that serves streams without a stated version, by the name of the model."""
        self._canaries: dict[str, CanaryVersion] = {}
        """The versions that are tried on some streams, by the name of the model."""
        self._previous: dict[str, LoadedVersion] = {}
        """The version that was active before, by the name of the model, as long as it is loaded."""
        self._changed = asyncio.Event()
        self.changes_count = 0
        """How often anything has changed: who remembers it need not look up again for every frame."""

    # ---- looking up ----

    def names(self) -> list[str]:
        """The names of all models, in order, including those that cannot be served."""
        return sorted({name for name, _ in self._versions} | self.problems.keys())

    def versions(self, name: str) -> list[LoadedVersion]:
        """The versions of one model, the newest first."""
        of_name = [loaded for loaded in self._versions.values() if loaded.version.name == name]
        return sorted(of_name, key=lambda loaded: -int(loaded.version.version))

    def all_versions(self) -> list[LoadedVersion]:
        """The versions of all models, in the order in which they were first loaded."""
        return list(self._versions.values())

    def serves_any(self) -> bool:
        """Whether a frame of any model can be served now."""
        return any(loaded.serves for loaded in self._active.values())

    def active(self, name: str) -> LoadedVersion | None:
        return self._active.get(name)

    def follows(self, name: str, key: str, before: LoadedVersion | None) -> LoadedVersion | None:
        """The version that the stream with that key, which states none, uses from its next frame on: the active one, or
        one that is tried. `before`: what has served it; None: nothing yet.
        """
        canary = self._canaries.get(name)
        if canary is not None and canary.takes(key, before):
            return canary.loaded
        return self._active.get(name)

    def has_canary(self, name: str) -> bool:
        """Whether some streams of the model are served by a version that is not the active one, perhaps in turns."""
        return name in self._canaries

    def draws(self, name: str, key: str) -> bool:
        """Whether the stream with that key is one of those, whichever version has its turn."""
        canary = self._canaries.get(name)
        return canary is not None and canary.streams.has(key)

    def previous(self, name: str) -> LoadedVersion | None:
        """The version that was active before the one that is now, to which one can go back; None: it is gone."""
        return self._previous.get(name)

    def get(self, name: str, version: str) -> LoadedVersion | None:
        """That version as it is now, ready or not; None: it is not loaded."""
        return self._versions.get((name, version))

    def find(self, name: str, version: str = "") -> LoadedVersion:
        """The version, or the active one where none is stated, that can serve a stream. Raises ModelError."""
        loaded = self.get(name, version) if version else self._active.get(name)
        if loaded is not None and loaded.signature is not None and loaded.state is not VersionState.FAILED:
            return loaded
        known = self.versions(name)
        if not known and name not in self.problems:
            raise ModelError("MODEL_NOT_FOUND", f"there is no model {name!r}; there are: ", models=self.names())
        if version and loaded is None:
            versions = ", ".join(other.version.version for other in known) or "none"
            raise ModelError(
                "VERSION_NOT_FOUND", f"model {name!r} has no version {version!r} loaded; loaded are: {versions}"
            )
        ready = [other.version.version for other in known if other.state is VersionState.READY]
        if ready and not version and name not in self._active:
            raise ModelError(
                "MODEL_NOT_READY",
                f"model {name!r} has no active version since that one was unloaded; ready are: {', '.join(ready)}; "
                "activate one, or name it",
            )
        failed = loaded or (known[0] if known else None)
        error = failed.error if failed is not None else self.problems[name]
        if not error and failed is not None:
            error = f"it is being loaded{f': {failed.progress}' if failed.progress else ''}"
        raise ModelError("MODEL_NOT_READY", f"model {name!r} is not ready: {error or 'it is being loaded'}")

    def current(self, loaded: LoadedVersion) -> LoadedVersion | None:
        """The same version as it is now: another object if it was loaded again, None if it was unloaded."""
        return self._versions.get((loaded.version.name, loaded.version.version))

    async def changes(self) -> AsyncIterator[list[str]]:
        """Yields the names of all models at once, and again whenever anything about any of them has changed."""
        while True:
            changed = self._changed
            yield self.names()
            await changed.wait()

    # ---- changing ----

    def put(self, loaded: LoadedVersion) -> None:
        """Adds a version, or puts it in the place of the same version as it was loaded before. Of versions that could
        not be loaded, the newest FAILED_MAX of each model stay.
        """
        name = loaded.version.name
        self._versions[name, loaded.version.version] = loaded
        failed = [other for other in self.versions(name) if other.state is VersionState.FAILED]
        for other in failed[FAILED_MAX:]:
            if other is not self._active.get(name):
                self.remove(other)
        self.notify()

    def remove(self, loaded: LoadedVersion) -> None:
        """Removes a version. If it was the active one, its model has none until another is activated.

        `notify` is left to the caller, who may remove several.
        """
        del self._versions[loaded.version.name, loaded.version.version]
        self.changes_count += 1
        for of_name in (self._active, self._previous):
            if of_name.get(loaded.version.name) is loaded:
                del of_name[loaded.version.name]

    def activate(self, loaded: LoadedVersion) -> None:
        """Streams without a stated version use this version from their next frame on."""
        name = loaded.version.name
        before = self._active.get(name)
        if before is not None and before.key != loaded.key:
            self._previous[name] = before
        self._active[name] = loaded
        self.notify()

    def begin_canary(self, canary: CanaryVersion) -> None:
        """Some streams use this version from their next frame on."""
        self._canaries[canary.loaded.version.name] = canary
        self.notify()

    def give_turn(self, name: str, to_canary: bool) -> None:
        """The streams of the model's canary use its version from their next frame on, or the active one. Those who
        follow `changes` are not woken, as nothing that they show has changed.
        """
        canary = self._canaries.get(name)
        if canary is not None and canary.has_turn is not to_canary:
            canary.has_turn = to_canary
            self.changes_count += 1

    def end_canary(self, name: str) -> None:
        """All streams of the model use the active version from their next frame on."""
        if self._canaries.pop(name, None) is not None:
            self.notify()

    def fail(self, loaded: LoadedVersion, reason: str) -> None:
        """Marks the version as FAILED for good. If it is the active one and others are ready, the one that was active
        before takes its place, or else the newest.
        """
        name = loaded.version.name
        loaded.state, loaded.error = VersionState.FAILED, in_print(reason)
        if self._active.get(name) is loaded:
            ready = [other for other in self.versions(name) if other.state is VersionState.READY]
            before = self._previous.pop(name, None)
            if ready:
                self._active[name] = before if before in ready else ready[0]
        self.notify()

    def notify(self) -> None:
        """Wakes everyone who follows `changes`."""
        self.changes_count += 1
        self._changed.set()
        self._changed = asyncio.Event()
