"""Reads the files of a version, each once, into memory of the worker's own, and says what they held.

Nothing of what a model is made of is read again or mapped once it serves, so that a file may be overwritten, cut off or
deleted under it. What a provider reads by itself is not in our hands: its own library, and engines that it keeps in
files (EPContext nodes, caches of TensorRT).
"""

import errno
import fcntl
import hashlib
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from google.protobuf.message import DecodeError

from duly.models.digests import FILES_MAX, FileDigest
from duly.models.files import Unfit, open_ordinary
from duly.models.formats import contents, too_large
from duly.models.manifest import Manifest, ManifestError
from duly.worker.errors import LoadError
from duly.worker.external_data import LEADS_OUT, elsewhere, take_in

PROTECTED_HARDLINKS = Path("/proc/sys/fs/protected_hardlinks")
_CHUNK_BYTES = 1 << 20
_ORT_FORMAT = b"ORTM"
_F_SETSIG = 10  # linux/fcntl.h; the module fcntl has no name for it
WHOLE = "is it still being written? Move a version into its place in whole"


Report = Callable[[dict[str, FileDigest]], None]


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A graph in memory, as ONNX Runtime is to get it."""

    path: Path
    """Where it lies; only for providers that read files beside it by themselves."""
    data: bytes
    external: dict[str, memoryview]
    """The files of its initializers, by the location that the graph gives."""
    names: tuple[str, ...] = ()
    """Its own and all files that were read for it, as they were reported."""


class VersionFiles:
    """The files of one version."""

    def __init__(self, key: str, folder: Path, report: Report, manifest: Manifest | None = None) -> None:
        """`key`: NAME/VERSION. `report` is told what the files of a graph held before the graph is used. `manifest`:
        what they must hold; None: nothing says.
        """
        self._key = key
        self._manifest = manifest
        self._folder = folder
        self._report = report
        self._seen: dict[str, tuple[Path, tuple[int, ...]]] = {}
        """Each file that was read, by name, with what the file system said of it."""
        self._digests: dict[str, FileDigest] = {}
        """What each file held; variants may share one, and each reads it."""
        self._untold: dict[str, FileDigest] = {}

    def graph(self, file: str) -> GraphFile:
        """Reads a graph with its external data. Raises LoadError."""
        path = self._folder / file
        name = f"{self._key}/{file}"
        names = [name]

        def external_data(location: str) -> memoryview:
            names.append(f"{self._key}/{(path.parent / location).relative_to(self._folder)}")
            return self._read_external(path, location)

        try:
            with self._opened(path, name) as opened:
                size_bytes = os.fstat(opened.fileno()).st_size
                if large := too_large(size_bytes):
                    raise LoadError(large)
                data = opened.read(size_bytes)
                if data[4:8] == _ORT_FORMAT:  # which ONNX Runtime would take from memory
                    raise LoadError(contents(path))
                if len(data) < size_bytes:
                    raise LoadError(f"became shorter while it was read; {WHOLE}")
            self._note(name, FileDigest(hashlib.sha256(data).hexdigest(), len(data)))
            data, external = take_in(data, external_data)
        except LoadError as error:
            raise LoadError(f"{name}: {error}") from error
        except DecodeError as error:
            raise LoadError(f"{name}: {contents(path)}") from error
        finally:
            self._tell()
        return GraphFile(path, data, external, tuple(names))

    def read_library(self, path: Path, name: str, sha256: str, size_bytes: int) -> None:
        """Notes what the library of a provider holds, which was read and is about to be loaded. Raises LoadError."""
        self._seen[name] = path, _state(os.stat(path))
        try:
            self._note(name, FileDigest(sha256, size_bytes))
        except LoadError as error:
            raise LoadError(f"{name}: {error}") from error
        self._tell()

    def sample(self, path: Path, name: str, bytes_max: int) -> bytes:
        """Reads a check sample, which is no part of what the version is. Raises LoadError."""
        with self._opened(path, name) as opened:
            size_bytes = os.fstat(opened.fileno()).st_size
            if size_bytes > bytes_max:
                raise LoadError(f"has {size_bytes:,} bytes; at most {bytes_max:,} are read")
            return opened.read(bytes_max)

    def beside(self, path: Path, name: str, bytes_max: int) -> bytes:
        """Reads a file beside model.toml that is part of what the version is. Raises LoadError."""
        with self._opened(path, name) as opened:
            size_bytes = os.fstat(opened.fileno()).st_size
            if size_bytes > bytes_max:
                raise LoadError(f"has {size_bytes:,} bytes; {bytes_max:,} are expected")
            data = opened.read(bytes_max)
        self._note(name, FileDigest(hashlib.sha256(data).hexdigest(), len(data)))
        self._tell()
        return data

    def _note(self, name: str, digest: FileDigest) -> None:
        if self._digests.setdefault(name, digest) != digest:
            raise LoadError(f"{name} changed while it was loaded; {WHOLE}")
        if self._manifest is not None:
            inside = f"{self._key}/"
            listed = name.removeprefix(inside) if name.startswith(inside) else f"../{name.partition('/')[2]}"
            try:
                self._manifest.check(listed, digest.sha256)
            except ManifestError as error:
                raise LoadError(f"{'' if name.endswith('.onnx') else f'{listed} '}{error}") from error
        self._untold[name] = digest

    def _tell(self) -> None:
        untold, self._untold = self._untold, {}
        self._report(untold)

    def check_unchanged(self) -> None:
        """Raises LoadError where a file was written to, or another took its place, since it was read."""
        for name, (path, before) in self._seen.items():
            try:
                now = _state(os.stat(path))
            except OSError:
                now = ()
            if now != before:
                raise LoadError(f"{name} changed while it was loaded; {WHOLE}")

    def _read_external(self, graph: Path, location: str) -> memoryview:
        path = graph.parent / location
        name = f"{self._key}/{path.relative_to(self._folder)}"
        what = f"its external data file {location} "
        with self._opened(path, name, what, lambda: "is missing" + elsewhere(graph, location)) as opened:
            # The link has been followed, so that nobody can turn it elsewhere between this look and the read.
            place = Path(os.readlink(f"/proc/self/fd/{opened.fileno()}"))
            if not self._is_inside(place, graph):
                raise LoadError(f"{what}{LEADS_OUT}")
            if os.fstat(opened.fileno()).st_nlink > 1 and _anybody_may_link():
                raise LoadError(
                    f"{what}has further names (hard links), and here anybody may make one of a file that is not "
                    "theirs: copy the file itself, or set fs.protected_hardlinks = 1"
                )
            size_bytes = os.fstat(opened.fileno()).st_size
            # Not bytes of Python's heap, so that the memory goes back to the system when the session has its copy.
            buffer = memoryview(mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if size_bytes else b"")
            hashed = hashlib.sha256()
            at = 0
            while at < size_bytes and (count := opened.readinto(buffer[at : at + _CHUNK_BYTES])):
                hashed.update(buffer[at : at + count])
                at += count
            if at < size_bytes:
                raise LoadError(f"{what}became shorter while it was read; {WHOLE}")
        self._note(name, FileDigest(hashed.hexdigest(), size_bytes))
        return buffer

    def _is_inside(self, place: Path, graph: Path) -> bool:
        return any(place.is_relative_to(home) for home in (self._folder.resolve(), graph.resolve().parent))

    @contextmanager
    def _opened(
        self, path: Path, name: str, what: str = "", missing: Callable[[], str] = lambda: "there is no such file"
    ) -> Iterator[FileIO]:
        """Opens a file that errors call `what`. Raises LoadError where it is not there (`missing`), cannot be read, or
        somebody else writes to it.
        """
        if len(self._seen) >= FILES_MAX:
            raise LoadError(f"has more than {FILES_MAX} files; export it with all tensors in one file")
        try:
            with open_ordinary(path) as opened:
                if is_written(opened.fileno()):
                    raise LoadError(f"{what}is open for writing; {WHOLE}")
                self._seen[name] = path, _state(os.fstat(opened.fileno()))
                yield opened
        except Unfit as error:
            raise LoadError(f"{what}is no ordinary file; put the file itself into the same folder") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LoadError(f"{what}{missing()}") from error
        except PermissionError as error:
            if what and not self._is_inside(Path(os.path.realpath(path)), path):
                raise LoadError(f"{what}{LEADS_OUT}") from error  # the sandbox hides what lies there
            raise LoadError(
                f"{what}cannot be read: permission denied; let the user that runs the server read it"
            ) from error
        except OSError as error:
            raise LoadError(f"{what}cannot be read: {os.strerror(error.errno or errno.EIO)}") from error


def _state(state: os.stat_result) -> tuple[int, ...]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _anybody_may_link() -> bool:
    """Whether the kernel lets users make hard links to files that they can neither read nor write."""
    try:
        return PROTECTED_HARDLINKS.read_text().strip() == "0"
    except OSError:
        return False


def is_written(descriptor: int) -> bool:
    """Whether a process has the file open for writing, as far as the system tells: it tells the owner and root.

    A lease is refused then. It is given back at once; whoever opens the file in between waits until that is done.
    """
    try:
        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)  # which is ignored, while SIGIO would end the process
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
