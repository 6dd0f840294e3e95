"""What a server is surrounded with: a full disk, a network of its own, a clock that is set, a line gone silent."""

import asyncio
import contextlib
import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tests.chaos.verdict import CannotRun

SHIM = Path(__file__).parent / "shim.c"


def _command(*words: str) -> None:
    """Raises CannotRun where the machine does not let it."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRun(f"{' '.join(words)}: {error}") from None
    if done.returncode:
        raise CannotRun(f"{' '.join(words)}: {done.stderr.strip()}")


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "256k") -> Iterator[Path]:
    """A file system that is full soon. Raises CannotRun."""
    if os.geteuid():
        raise CannotRun("a small file system takes root to mount")
    folder.mkdir(parents=True)
    _command("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True)


class Line:
    """A pair of network namespaces, this one and another, with a line between them that can be cut."""

    HERE, THERE = "10.213.13.1", "10.213.13.2"

    def __init__(self) -> None:
        self.name = f"chaos{os.getpid() % 10_000}"
        self.wrap = ("ip", "netns", "exec", self.name)

    def __enter__(self) -> "Line":
        if os.geteuid():
            raise CannotRun("a network namespace takes root")
        with contextlib.ExitStack() as undo:
            _command("ip", "netns", "add", self.name)
            undo.callback(self._remove)
            here, there = f"{self.name}a", f"{self.name}b"
            _command("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", self.name)
            _command("ip", "addr", "add", f"{self.HERE}/24", "dev", here)
            _command("ip", "link", "set", here, "up")
            _command(*self.wrap, "ip", "addr", "add", f"{self.THERE}/24", "dev", there)
            _command(*self.wrap, "ip", "link", "set", there, "up")
            _command(*self.wrap, "ip", "link", "set", "lo", "up")
            undo.pop_all()
        return self

    def cut(self) -> None:
        _command(*self.wrap, "ip", "link", "set", f"{self.name}b", "down")

    def heal(self) -> None:
        _command(*self.wrap, "ip", "link", "set", f"{self.name}b", "up")

    def _remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
        subprocess.run(["ip", "link", "del", f"{self.name}a"], capture_output=True)

    def __exit__(self, *_: object) -> None:
        self._remove()


class SetClock:
    """The wall clock of a server that is started with `env`, which can be set."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise CannotRun("a clock that can be set takes a C compiler")
        folder.mkdir(parents=True)
        library, place = folder / "shim.so", folder / "clock"
        _command(compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl")
        place.write_bytes(bytes(8))
        with place.open("r+b") as file:
            self._ahead = mmap.mmap(file.fileno(), 8)
        self.env = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(place)}

    def step(self, seconds: int) -> None:
        (now,) = struct.unpack("<q", self._ahead[:8])
        self._ahead[:8] = struct.pack("<q", now + seconds)


class Relay:
    """A line to a server that can fall silent without an end."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self.address = ""
        self._open = asyncio.Event()
        self._open.set()
        self._connections: set[asyncio.Task[None]] = set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        other_reader, other_writer = await asyncio.open_connection(self._host, self._port)
        try:
            await asyncio.gather(self._carry(reader, other_writer), self._carry(other_reader, writer))
        except asyncio.CancelledError:
            pass  # the run is over, and the line was silent
        finally:
            writer.close()
            other_writer.close()

    def silence(self) -> None:
        self._open.clear()

    async def end(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


@contextlib.asynccontextmanager
async def relay_to(address: str) -> AsyncIterator[Relay]:
    relay = Relay(address)
    server = await asyncio.start_server(relay._connected, "127.0.0.1", 0)
    relay.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        server.close()
        await relay.end()
