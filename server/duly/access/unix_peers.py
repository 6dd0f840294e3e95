"""Tells users of a UNIX socket apart by their user and group, which the kernel vouches for (SO_PEERCRED).

gRPC's Python server gives a handler no such thing. So this accepts the connections itself, asks the kernel who is
there, and carries the bytes to the socket on which gRPC listens, inside a folder that only this user may enter. Its own
end of that connection is bound to a name which says who the client is, and gRPC gives that name to handlers as the
peer. A client cannot forge it: who may connect to the inner socket runs as this very user.

It costs one more copy through this process: some 0.15 ms a round trip with small messages. It is used only where a
policy names users or groups, or clients of KServe's protocol share memory.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote

from duly.access.evidence import LocalConnection, UnixPeer

PIECE_BYTES = 256 * 1024
"""So much of a connection is held here at most in each direction, beside what the sockets hold."""
TAKE_SECONDS_MAX = 60.0
"""A client that takes nothing for so long is gone, as those of gRPC always read what comes."""
_Bound = TypeVar("_Bound")
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class UnixPeers:
    """Listens on the outer socket for as long as it lives. `inner` is where gRPC should listen."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="duly-")  # for this user alone
        self.inner = f"unix:{self._folder}/grpc.sock"
        self._mark = f"duly-{secrets.token_hex(8)}"
        self._server: asyncio.Server | None = None
        self._carrying: set[asyncio.Task[None]] = set()
        self._here: set[str] = set()
        """The names of connections that are not over."""

    async def listen(self, outer: socket.socket, connections_max: int) -> None:
        """Accepts at a socket that is bound already. Connections beyond `connections_max` are closed as they come."""
        self._connections_max = connections_max
        self._server = await asyncio.start_unix_server(self._accept, sock=outer, limit=PIECE_BYTES)

    def peer(self, name: str) -> UnixPeer | None:
        """Returns who is at the other end, by gRPC's name of the peer; None: it did not come this way."""
        kind, _, address = unquote(name).partition(":")
        mark, *numbers = address.split("/")
        if kind != "unix-abstract" or mark != self._mark or len(numbers) != 4:
            return None
        uid, gid, pid, _ = map(int, numbers)
        return UnixPeer(uid, gid, pid)

    def connection(self, name: str) -> LocalConnection | None:
        """Returns the connection of a client, by gRPC's name of it; None: it is over, or did not come this way."""
        address = unquote(name).partition(":")[2]
        if address not in self._here:
            return None
        _, uid, _, _, number = address.split("/")
        return LocalConnection(int(uid), int(number))

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._carrying:
            task.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._carrying) >= self._connections_max:
            writer.close()
            return
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        outer: socket.socket = writer.get_extra_info("socket")
        pid, uid, gid = _CREDENTIALS.unpack(outer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        inner = socket.socket(socket.AF_UNIX)
        # Others see these names, and would take the next one beforehand if they could guess it.
        name = f"{self._mark}/{uid}/{gid}/{pid}/{secrets.randbits(63)}"
        try:
            inner.setblocking(False)
            inner.bind(f"\0{name}")
            await asyncio.get_running_loop().sock_connect(inner, self.inner.removeprefix("unix:"))
            reader2, writer2 = await asyncio.open_unix_connection(sock=inner, limit=PIECE_BYTES)
        except OSError:
            inner.close()
            writer.close()
            return
        self._here.add(name)
        coming = asyncio.create_task(_carry(reader, writer2))
        try:
            # The connection is over when gRPC says so, whether the client closes its end then or not.
            await _carry(reader2, writer)
        finally:
            self._here.discard(name)
            coming.cancel()
            for end in (writer, writer2):
                end.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries bytes until one end is closed, or takes nothing for TAKE_SECONDS_MAX; then the other end learns of it."""
    writer.transport.set_write_buffer_limits(PIECE_BYTES)
    with contextlib.suppress(OSError, TimeoutError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            async with asyncio.timeout(TAKE_SECONDS_MAX):
                await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):  # uvloop raises the latter where it is closed already
        writer.write_eof()


def bind_unix(path: str, backlog: int = 128) -> socket.socket:
    """Returns a socket that is bound at `path` and listens."""
    outer = socket.socket(socket.AF_UNIX)
    try:
        outer.bind(path)
        outer.listen(backlog)
    except OSError:
        outer.close()
        raise
    return outer


def under_mode(mode: int | None, bind: Callable[[], _Bound]) -> _Bound:
    """Calls `bind`, which makes a UNIX socket, so that the socket has `mode` from its first moment on. None: as the
    umask has it.
    """
    if mode is None:
        return bind()
    before = os.umask(0o777 & ~mode)
    try:
        return bind()
    finally:
        os.umask(before)
