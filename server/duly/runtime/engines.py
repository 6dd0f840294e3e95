"""Engines of workers: looked for, made once where several want the same, and kept (`engine_store`).

A worker asks while it loads a model (`worker/engines`). What it is given, or makes, lies in a folder that it alone
reaches and that is empty again once it serves: it has its engine in memory by then. So whatever lies there later was
compiled while frames waited, and is told.
"""

import asyncio
import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from duly.accelerators import compiles
from duly.models.digests import FileDigest
from duly.models.spec import ModelConfig
from duly.runtime.engine_store import NOTHING, EngineStore, KeyLock, NotTrusted, empty, key_of

_log = structlog.get_logger("duly.engines")

ENGINES_MAX = 64
"""A worker that asks more often is broken: a version has sixteen variants, each with an engine that may be damaged."""
MODELS_MAX = 1024
"""Engines of so many models are counted; those of further ones are not."""
WAIT_SECONDS_MAX = 3600.0
"""So long a worker waits for another server that makes the same engine; then it makes one, too."""
WAIT_LOOK_SECONDS = 0.5
LOOK_SECONDS = 10.0
"""So often it is looked at what workers write."""
WRITTEN_TIMES = 2
"""A worker that has written so many times of what all engines may take is killed."""
WRITTEN_FILES_MAX = 10_000
"""A worker that has written more files is killed."""
TOO_LARGE = "it wrote far more than an engine (see engine_cache_bytes_max)"
_PARTS_CHARS_MAX = 100_000


class BadQuestion(ValueError):
    """What a worker has asked for makes no sense."""


@dataclass(slots=True)
class _Engine:
    """One engine of a worker."""

    key: str
    folder: Path
    lock: KeyLock | None
    there: bool
    began_s: float
    began_ns: int
    """When it was begun with, by the clock of the folder's disk, which is that of the files in it."""
    about: str
    graph: str
    """What it is made of, whatever it is made for."""


class EngineCounts:
    """What became of engines, by the name of the model."""

    def __init__(self) -> None:
        self.made: dict[str, int] = {}
        self.reused: dict[str, int] = {}
        self.made_late: dict[str, int] = {}
        """How often one was compiled while frames waited."""

    def by_model(self) -> dict[tuple[str, str], int]:
        """Returns all counts, by the model and what became of its engines: made, reused, late."""
        kinds = {"made": self.made, "reused": self.reused, "late": self.made_late}
        return {(model, how): count for how, counts in kinds.items() for model, count in counts.items()}

    def add(self, counts: dict[str, int], model: str) -> None:
        name = model.partition("/")[0]
        if name in counts or len(counts) < MODELS_MAX:
            counts[name] = counts.get(name, 0) + 1


class WorkerEngines:
    """The engines of one worker, from its start to its end."""

    def __init__(self, store: EngineStore, model: str, lane: str, counts: EngineCounts) -> None:
        """Makes the worker's folder. Raises OSError where there is none to be had."""
        self.folder = store.worker_folder()
        self.waits = False
        """Whether the worker waits for an answer, so that it does nothing."""
        self._store = store
        self._model = model
        self._lane = lane
        self._counts = counts
        self._engines: dict[str, _Engine] = {}
        self._asked = 0
        self._late: set[str] = set()
        self.serves = False
        """Whether it has loaded its model, so that what is compiled from now on is late."""
        self.on_too_large: Callable[[str], None] = lambda reason: None
        """Is called with the reason when the worker has written too much."""
        self.over = False
        """Whether the worker ends or is gone. What it writes as it ends is not late."""

    async def answer(self, body: Mapping[str, Any], contents: Mapping[str, FileDigest]) -> dict[str, Any]:
        """Answers what a worker asks (`worker/engines.Link.ask`). `contents`: what the files held that it has read.

        Raises BadQuestion where it makes no sense.
        """
        key, graph, about = _key_asked(body, contents, self._model)
        self._asked += 1
        if self._asked > ENGINES_MAX:
            raise BadQuestion(f"more than {ENGINES_MAX} engines")
        self.waits = True
        try:
            if body.get("damaged"):
                _log.warning("engine does not work, it is made anew", model=self._model, lane=self._lane)
                await asyncio.to_thread(self._throw_away, key)
            engine, seconds = await self._find(key, graph, about)
        except OSError as error:
            _log.warning("engines are not kept", model=self._model, lane=self._lane, why=error.strerror)
            return {"folder": "", "there": False, "seconds": 0.0}
        finally:
            self.waits = False
        if engine is None:
            return {"folder": "", "there": False, "seconds": 0.0}
        engine.began_s = time.monotonic()
        engine.began_ns = await asyncio.to_thread(_disk_time_ns, engine.folder)
        return {"folder": str(engine.folder), "there": engine.there, "seconds": seconds}

    async def keep(self) -> None:
        """Keeps what the worker has compiled, and gives back what it has loaded. Call it when the worker is ready. What
        is compiled from then on is late.
        """
        for engine in self._engines.values():
            if engine.there:
                self._counts.add(self._counts.reused, self._model)
                await asyncio.to_thread(_emptied, engine.folder)
                continue
            self._counts.add(self._counts.made, self._model)
            seconds = await asyncio.to_thread(_seconds_to_make, engine)
            why_not = await asyncio.to_thread(self._store.put, engine.key, engine.folder, seconds, engine.about)
            if why_not != NOTHING:
                await asyncio.to_thread(self._store.note_seconds, engine.graph, seconds)
            if why_not == NOTHING:
                _log.info("there is no engine to keep", model=self._model, lane=self._lane)
            elif why_not:
                _log.warning("engine is not kept", model=self._model, lane=self._lane, why=why_not)
            else:
                _log.info("engine is kept", model=self._model, lane=self._lane, seconds=round(seconds, 1))
            self._release(engine)
        self.serves = True

    async def distrust(self) -> None:
        """Throws away what the worker was given, as it has died of it, for all that is known."""
        for engine in self._engines.values():
            if engine.there:
                _log.warning("worker died with a kept engine, it is made anew", model=self._model, lane=self._lane)
                await asyncio.to_thread(self._store.discard, engine.key)

    def is_too_large(self) -> bool:
        """Whether the worker has written more into its folder than any engine may be. It reads the disk."""
        size_bytes = looked = 0
        for parent, folders, files in os.walk(self.folder):
            looked += len(folders) + len(files)
            if looked > WRITTEN_FILES_MAX:
                return True
            for name in files:
                with contextlib.suppress(OSError):
                    size_bytes += os.lstat(os.path.join(parent, name)).st_size
        return size_bytes > WRITTEN_TIMES * self._store.bytes_max

    def look_for_late(self) -> None:
        """Tells of what was compiled since the worker serves, while frames waited. It reads the disk."""
        for engine in self._engines.values():
            with contextlib.suppress(OSError):
                new = {each.name for each in engine.folder.iterdir()} - self._late
                if new:
                    self._late |= new
                    self._counts.add(self._counts.made_late, self._model)
                    _log.error(
                        "something was compiled while frames waited; say all shapes in model.toml",
                        model=self._model,
                        lane=self._lane,
                        files=len(new),
                    )

    def abandon(self) -> None:
        """Removes the empty folder of a worker that could not be started."""
        self.over = True
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    async def end(self) -> None:
        """Gives everything back. Call it when the worker is gone."""
        self.over = True
        for engine in self._engines.values():
            self._release(engine)
        await asyncio.to_thread(_removed, self.folder)

    async def _find(self, key: str, graph: str, about: str) -> tuple[_Engine | None, float]:
        """Returns the engine, or the right to make it, and how long it took to make; None: it is not kept."""
        before = self._engines.get(key)
        folder = before.folder if before is not None else self.folder / str(len(self._engines))
        await asyncio.to_thread(_ready, folder)
        until_s = time.monotonic() + WAIT_SECONDS_MAX
        told = False
        while True:
            found = await asyncio.to_thread(self._store.take, key, folder)
            if found is not None:
                engine = self._engines[key] = _Engine(key, folder, None, True, 0.0, 0, about, graph)
                return engine, found.seconds
            lock = self._given_up(before) or await self._take_lock(key)
            if lock is not None or time.monotonic() > until_s:
                break
            if not told:
                told = True
                _log.info("another server makes the same engine", model=self._model, lane=self._lane)
            await asyncio.sleep(WAIT_LOOK_SECONDS)
        kept = False
        try:
            # It may have been made since it was looked for.
            found = await asyncio.to_thread(self._store.take, key, folder) if lock is not None else None
            if found is not None:
                engine = self._engines[key] = _Engine(key, folder, None, True, 0.0, 0, about, graph)
                return engine, found.seconds
            if not await asyncio.to_thread(self._store.has_room):
                _log.warning("engine is not kept", model=self._model, lane=self._lane, why="the disk is full")
                return None, 0.0
            kept = True
            engine = self._engines[key] = _Engine(key, folder, lock, False, 0.0, 0, about, graph)
            return engine, await asyncio.to_thread(self._store.seconds_of, graph)
        finally:
            if lock is not None and not kept:  # also where this is cancelled: nobody else could make it any more
                lock.release()

    async def _take_lock(self, key: str) -> KeyLock | None:
        """Asks for the lock in a thread, as a folder on the net may be slow to answer. Where this is cancelled, the
        lock is given back as soon as it is there.
        """
        taking = asyncio.get_running_loop().run_in_executor(None, self._store.lock, key)
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(_give_back)
            raise

    def _throw_away(self, key: str) -> None:
        self._store.discard(key)
        if key in self._engines:
            empty(self._engines[key].folder)

    def _given_up(self, engine: _Engine | None) -> KeyLock | None:
        """Takes the lock from an engine that is no use, for another attempt."""
        if engine is None:
            return None
        lock, engine.lock = engine.lock, None
        return lock

    def _release(self, engine: _Engine) -> None:
        lock = self._given_up(engine)
        if lock is not None:
            lock.release()


class Engines:
    """What keeps engines for all workers of this server."""

    def __init__(self, make_store: Callable[[], EngineStore], counts: EngineCounts) -> None:
        """`make_store`: is called when the first engine is wanted; it may raise NotTrusted."""
        self._make_store = make_store
        self._store: EngineStore | None = None
        self._refused = False
        self._counts = counts
        self._workers: set[WorkerEngines] = set()
        self._opening = threading.Lock()

    def open(self) -> EngineStore:
        """Opens the folder, unless it is open. It reads and writes files, and may wait for another server. Raises
        NotTrusted.
        """
        with self._opening:
            if self._store is None:
                self._store = self._make_store()
            return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    async def begin(self, model: str, lane: str, config: ModelConfig) -> WorkerEngines | None:
        """Makes a folder for a worker; None: nothing that it runs on compiles anything, or it cannot have one."""
        if self._refused or not compiles(lane, [provider.name for provider in config.providers]):
            return None
        try:
            engines = WorkerEngines(await asyncio.to_thread(self.open), model, lane, self._counts)
            self._workers.add(engines)
            return engines
        except NotTrusted as error:
            self._refused = True
            _log.warning("engines are not kept, and compiled at every load", why=str(error))
        except OSError as error:
            _log.warning("engines are not kept", model=model, lane=lane, why=error.strerror)
        return None

    async def watch(self) -> None:
        """Looks again and again at what workers write: whether it is too much, or compiled while frames wait."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        self._workers = {engines for engines in self._workers if not engines.over}
        for engines in list(self._workers):
            if await asyncio.to_thread(engines.is_too_large):
                engines.on_too_large(TOO_LARGE)
            elif engines.serves:
                await asyncio.to_thread(engines.look_for_late)


def _key_asked(body: Mapping[str, Any], contents: Mapping[str, FileDigest], model: str) -> tuple[str, str, str]:
    """Returns the keys of what a worker asks for and of its graph alone, and what it is for people. Raises
    BadQuestion.
    """
    files, parts = body.get("files"), body.get("parts")
    if not isinstance(files, list) or not files or not isinstance(parts, dict) or len(str(parts)) > _PARTS_CHARS_MAX:
        raise BadQuestion("an engine of nothing")
    unread = [name for name in files if name not in contents]
    if unread:
        raise BadQuestion("an engine of files that it has not read")
    # The same graph is the same under another name and number.
    digests = {name.removeprefix(f"{model}/"): contents[name].sha256 for name in files}
    return key_of(digests, parts), key_of(digests, {}), f"{model}: {', '.join(digests)}"


def _ready(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    empty(folder)


def _give_back(taken: asyncio.Future[KeyLock | None]) -> None:
    if taken.cancelled() or taken.exception() is not None:
        return
    lock = taken.result()
    if lock is not None:
        lock.release()


def _disk_time_ns(folder: Path) -> int:
    """Returns the time by the clock of the folder's disk; 0: it does not say."""
    with contextlib.suppress(OSError):
        os.utime(folder)
        return folder.stat().st_mtime_ns
    return 0


def _seconds_to_make(engine: _Engine) -> float:
    """Returns how long after it was begun with the engine was last written: warming up, and what else is done with a
    worker until it is ready, comes later. It is never more than has passed, whatever times a worker gives its files.
    """
    passed_s = time.monotonic() - engine.began_s
    written_ns = engine.began_ns
    for parent, _, files in os.walk(engine.folder):
        for name in files[:WRITTEN_FILES_MAX]:
            with contextlib.suppress(OSError):
                written_ns = max(written_ns, os.lstat(os.path.join(parent, name)).st_mtime_ns)
    return min((written_ns - engine.began_ns) / 1e9, passed_s)


def _emptied(folder: Path) -> None:
    with contextlib.suppress(OSError):
        empty(folder)


def _removed(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
