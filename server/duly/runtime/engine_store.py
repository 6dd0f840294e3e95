"""Engines on the disk: what providers have compiled of graphs, so that it is compiled once (docs/gpu.md).

An entry is a folder under `entries`, named by the SHA-256 of all that it was made of, with a manifest of its files and
their digests. Engines are code. So the folder belongs to the server's user and nobody else may write there; workers
never reach it: each has a folder of its own, into which an entry is copied, and every byte is checked against the
manifest on its way. What a worker has made is moved out of its reach, measured, and becomes an entry by one rename. A
server that dies leaves nothing that could be taken for an entry.

    entries/KEY/manifest.json, entries/KEY/files/...      engines
    locks/KEY                                             whoever makes it, as long as it does
    servers/ID/lock, servers/ID/N/...                     folders of the workers of a server that runs
    times.json                                            how long engines of graphs took to make

Several servers may share the folder. All of this reads and writes files; call it from a thread.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILES_MAX = 256
"""An engine of more files is not kept."""
FREE_BYTES_MIN = 64 << 20
"""Nothing is kept on a disk with less."""
TIMES_MAX = 4096
"""Of so many graphs it is remembered how long their engines took to make."""
MANIFEST_BYTES_MAX = 1 << 20
"""A longer manifest is none, and its engine is made anew."""
ABOUT_CHARS_MAX = 500
"""What is said of an entry, for people, is cut off there."""
NOTHING = "nothing was written"
"""Why there is no engine where a provider has compiled nothing that it could keep."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_CHUNK_BYTES = 1 << 20
_MANIFEST = "manifest.json"
_LOCK_TRIES = 100
_LOCK_SECONDS = 0.1


class NotTrusted(Exception):
    """The folder cannot be used for engines; the text says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Found:
    """An engine that was there."""

    files: int
    size_bytes: int
    seconds: float
    """How long it took to make."""


class EngineStore:
    """The engines in one folder."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        """Makes the folder where it is not there. `bytes_max`: what all engines may take; the one that was not used for
        longest goes first. Raises NotTrusted.
        """
        self.bytes_max = bytes_max
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = folder.resolve(strict=True)
            check_folder(folder)
            self._entries = _made(folder / "entries")
            self._locks = _made(folder / "locks")
            self._times_file = folder / "times.json"
            servers = _made(folder / "servers")
            self._all = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._alone():
                self._own = servers / uuid.uuid4().hex
                self._own.mkdir(mode=0o700)
                self._alive = os.open(self._own / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._alive, fcntl.LOCK_EX)
                self._remove_dead(servers)
        except OSError as error:
            raise NotTrusted(f"{self.folder} cannot be used: {os.strerror(error.errno or 0)}") from None
        self._number = 0

    def close(self) -> None:
        """Removes what is of this server alone."""
        shutil.rmtree(self._own, ignore_errors=True)
        os.close(self._alive)
        os.close(self._all)

    def worker_folder(self) -> Path:
        """Makes an empty folder for a worker. Raises OSError."""
        self._number += 1
        folder = self._own / str(self._number)
        folder.mkdir(mode=0o700)
        return folder

    def has_room(self) -> bool:
        """Whether the disk has room for engines."""
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize >= FREE_BYTES_MIN

    # ---- engines ----

    def take(self, key: str, target: Path) -> Found | None:
        """Copies an engine into an empty folder; None: there is none, or it was damaged and is gone now. Raises OSError
        where the system has no room for the copy, which says nothing about the engine.
        """
        entry = self._entries / key
        try:
            manifest = _manifest(entry)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _raise_for_want_of_room(error)
            self.discard(key)
            return None
        try:
            size_bytes = 0
            for name, (sha256, size) in manifest["files"].items():
                place = target / name
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if _copied(entry / "files" / name, place) != (sha256, size):
                    raise ValueError(f"{name} is not what it was")
                size_bytes += size
            with contextlib.suppress(OSError):  # it may have been removed meanwhile
                os.utime(entry / _MANIFEST)
            return Found(len(manifest["files"]), size_bytes, float(manifest["seconds"]))
        except (OSError, ValueError) as error:
            empty(target)
            _raise_for_want_of_room(error)
            if entry.exists():
                self.discard(key)
            return None

    def put(self, key: str, source: Path, seconds: float, about: str) -> str:
        """Moves what lies in a folder to become the engine of that key. Returns why it did not; empty: it did.

        `seconds`: how long it took. `about`: what it is, for people. The folder is empty then.
        """
        staged = self._own / f"staged-{uuid.uuid4().hex}"
        staged.mkdir(mode=0o700)
        try:
            source.rename(staged / "files")  # from here on nobody else can put files there
            source.mkdir(mode=0o700)
            files = {name: _measured(staged / "files" / name) for name in _names(staged / "files")}
            size_bytes = sum(size for _, size in files.values())
            if not files:
                return NOTHING
            if not all(size for _, size in files.values()):
                return "a file of it is empty, as when a disk is full"
            if size_bytes > self.bytes_max:
                most = f"{self.bytes_max:,} (engine_cache_bytes_max)"
                return f"it has {size_bytes:,} bytes, and all engines together may have {most}"
            body = {"files": files, "seconds": seconds, "about": about[:ABOUT_CHARS_MAX]}
            _write(staged / _MANIFEST, json.dumps(body).encode())
            with self._alone():
                self.discard(key)
                staged.rename(self._entries / key)
                self._make_room(key)
            return ""
        except ValueError as error:
            return str(error)
        except OSError as error:
            return os.strerror(error.errno or 0)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def discard(self, key: str) -> None:
        """Removes an engine, if it is there."""
        gone = self._own / f"gone-{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            (self._entries / key).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def seconds_of(self, graph: str) -> float:
        """Returns how long an engine of that graph took to make when one was last made; 0: nobody knows."""
        try:
            return float(self._times()[graph])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def note_seconds(self, graph: str, seconds: float) -> None:
        """Notes how long it took. It is for people, and may be lost. `graph`: a key of the graph alone."""
        with contextlib.suppress(OSError), self._alone():
            try:
                times = self._times()
            except (OSError, ValueError):
                times = {}
            times.pop(graph, None)
            kept = dict(list(times.items())[1 - TIMES_MAX :]) | {graph: seconds}
            new = self._own / "times.json"
            new.unlink(missing_ok=True)
            _write(new, json.dumps(kept).encode())
            new.rename(self._times_file)

    def _times(self) -> dict[str, Any]:
        with open(self._times_file, "rb") as file:
            times = json.loads(file.read(MANIFEST_BYTES_MAX))
        if not isinstance(times, dict):
            raise ValueError("no times")
        return times

    def lock(self, key: str) -> "KeyLock | None":
        """Becomes the one that makes an engine; None: somebody else does just now."""
        path = self._locks / key
        for _ in range(_LOCK_TRIES):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                    return KeyLock(path, descriptor)
            os.close(descriptor)  # who had it before has just removed it
        return None

    def _make_room(self, kept: str) -> None:
        """Removes the engines that were not used for longest, until the others are no more than may be."""
        found: list[tuple[float, str, int]] = []
        for entry in self._entries.iterdir():
            try:
                size_bytes = sum(size for _, size in _manifest(entry)["files"].values())
                found.append(((entry / _MANIFEST).stat().st_mtime, entry.name, size_bytes))
            except (OSError, ValueError) as error:
                _raise_for_want_of_room(error)
                self.discard(entry.name)  # it is none, and counts for nothing
        total = sum(size for _, _, size in found)
        for _, name, size in sorted(found):
            if total <= self.bytes_max:
                break
            if name != kept:
                self.discard(name)
                total -= size

    def _remove_dead(self, servers: Path) -> None:
        """Removes what servers have left that are gone."""
        for folder in servers.iterdir():
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)
        for path in list(self._locks.iterdir()):
            if (lock := self.lock(path.name)) is not None:
                lock.release()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds all other servers off, for a moment. Raises OSError where one of them hangs."""
        for attempt in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._all, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _LOCK_TRIES - 1:
                    raise
                time.sleep(_LOCK_SECONDS)
        try:
            yield
        finally:
            fcntl.flock(self._all, fcntl.LOCK_UN)


class KeyLock:
    """The right to make the engine of a key, until `release` or the end of this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def engine_folder(setting: str, environ: Mapping[str, str]) -> Path:
    """Returns the folder that the setting names. For "auto" it is in what systemd gives a service for caches
    (CacheDirectory=), or else in the user's folder for them.
    """
    if setting != "auto":
        return Path(setting)
    given = environ.get("CACHE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given) / "engines"
    home = environ.get("XDG_CACHE_HOME", "")
    caches = Path(home) if Path(home).is_absolute() else Path(environ.get("HOME") or "/nonexistent") / ".cache"
    return caches / "duly/engines"


def key_of(digests: Mapping[str, str], parts: Mapping[str, Any]) -> str:
    """Returns the key of what is made of files with these digests, by their names, and depends on `parts`."""
    whole = {"layout": 1, "files": digests, "parts": parts}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_folder(folder: Path) -> None:
    """Raises NotTrusted where somebody else could put files into the folder, or turn its path elsewhere. `folder`:
    without links.
    """
    own = os.geteuid()
    for place in (folder, *folder.parents):
        state = place.stat()
        whose = (own,) if place == folder else (own, 0)
        if state.st_uid not in whose:
            raise NotTrusted(
                f"{place} belongs to user {state.st_uid}, who could exchange engines; choose a folder of user {own}"
            )
        sticky = place != folder and state.st_mode & stat.S_ISVTX
        if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            raise NotTrusted(f"others may write to {place} and so exchange engines, which are code: chmod go-w {place}")


def empty(folder: Path) -> None:
    """Removes what lies in a folder."""
    for each in list(folder.iterdir()):
        shutil.rmtree(each, ignore_errors=True) if each.is_dir() and not each.is_symlink() else each.unlink()


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _manifest(entry: Path) -> dict[str, Any]:
    """Reads the manifest of an entry. Raises OSError, and ValueError where it is none."""
    with open(entry / _MANIFEST, "rb") as file:
        body = json.loads(file.read(MANIFEST_BYTES_MAX))
    try:
        files = {str(name): (str(sha256), int(size)) for name, (sha256, size) in body["files"].items()}
        manifest = {"files": files, "seconds": float(body["seconds"]), "about": str(body["about"])}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise ValueError("a name leads out")
    return manifest


def _raise_for_want_of_room(error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        raise error


def _names(folder: Path) -> list[str]:
    """Names all files in the folder. Raises ValueError where there is anything else, or there are too many."""
    names: list[str] = []
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise ValueError(f"{name} is no file")
        names += [str(Path(parent, name).relative_to(folder)) for name in files]
        if len(names) > FILES_MAX:
            raise ValueError("too many files")
    return sorted(names)


def _measured(path: Path) -> tuple[str, int]:
    """Returns digest and size of a file. Raises OSError, and ValueError where it is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path.name} is no file")
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()


def _copied(source: Path, target: Path) -> tuple[str, int]:
    """Copies a file. Returns digest and size of what was copied. Raises OSError."""
    hashed, size = hashlib.sha256(), 0
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as read, open(target, "xb") as written:
        while chunk := read.read(_CHUNK_BYTES):
            hashed.update(chunk)
            written.write(chunk)
            size += len(chunk)
    return hashed.hexdigest(), size


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
