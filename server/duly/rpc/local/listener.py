"""The UNIX socket at which local streams begin. Who comes in is asked of the kernel, and a task serves each."""

import asyncio
import contextlib
import errno
import glob
import os
import secrets
import socket
import stat
import struct

import structlog

from duly.access.evidence import UnixPeer
from duly.access.gate import Gate
from duly.access.listeners import Listener
from duly.access.unix_peers import under_mode
from duly.rpc.bugs import internal
from duly.rpc.local.areas import check_system
from duly.rpc.local.call import Call
from duly.rpc.local.errors import ended_by, no_room
from duly.rpc.local.layout import SEND_BUFFER_BYTES
from duly.rpc.local.packets import Packets, Process, receive_buffer
from duly.rpc.places import Places
from duly.rpc.server import ListenError, clear_socket
from duly.streams.open_streams import OpenStreams

ACCEPTS_A_TURN = 16
"""How many local connections are taken before others have their turn."""
OPENING_MAX = 128
"""So many local connections may wait for their OPEN, and no more than half of all. When more come, the oldest of the
process that has most ends."""
PAUSE_SECONDS = 0.1
"""How long no connections are taken where the system has no descriptor for another one."""
DESCRIPTORS_EACH = 7
"""What one local stream takes at most: its socket, both areas, what is sent of them, its eventfd and its process."""
OFFERED_CHARS = 16
"""How many characters of the socket's other name nobody can guess."""
PATH_BYTES_MAX = 107
"""UNIX sockets have no longer paths. Where the other name of the local socket would be longer, clients that are
connected otherwise are not told of it."""

SO_PASSRIGHTS = 83
"""The socket option of Linux 6.16 that says whether descriptors may be sent along; Python has no name for it."""
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_ALL_TAKEN = ended_by(no_room("as many local connections are open as the server takes"))
_log = structlog.get_logger("duly.local")


class LocalListener:
    def __init__(self, streams: OpenStreams, gate: Gate, connections_max: int) -> None:
        """`connections_max`: as many connections are taken. Those that have shown their OPEN leave room for others that
        have not; what comes when they have no more is closed as it comes.
        """
        self._streams = streams
        self._gate = gate
        self._listener = Listener(False, "admin acts are taken over gRPC alone")
        self._opening = Places(min(OPENING_MAX, max(1, connections_max // 2)), may_end=True)
        self._streams_max = max(1, connections_max - self._opening.places)
        self._buffer = receive_buffer()
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self.path = ""
        self.offered = ""
        """Another name of the socket, which no other server's has: what clients are told that are connected otherwise.
        Empty: there is none."""

    def listen(self, path: str, mode: int | None = None) -> None:
        """Listens at `path`; a socket there that nobody listens at is removed. Raises ListenError."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            check_system()
            _own_folder(os.path.dirname(path))
            clear_socket(path, socket.SOCK_SEQPACKET)
            under_mode(mode, lambda: listening.bind(path))
            listening.listen(socket.SOMAXCONN)
        except OSError as error:
            listening.close()
            raise ListenError(f"cannot listen on local:{path}: {error.strerror or error}") from None
        listening.setblocking(False)
        with contextlib.suppress(OSError):
            # Connections are made so, too: nobody can send descriptors, which are closed by who receives them, and
            # closing a file or a socket may take as long as whoever made it likes. Since Linux 6.16.
            listening.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        self._socket, self.path = listening, path
        self._offer()
        self._loop.add_reader(listening.fileno(), self._accept)

    def _offer(self) -> None:
        """Gives the socket its other name. Those of servers that were killed are removed."""
        for old in glob.glob(f"{glob.escape(self.path)}.{'[0-9a-f]' * OFFERED_CHARS}"):
            with contextlib.suppress(OSError):
                os.unlink(old)
        offered = f"{self.path}.{secrets.token_hex(OFFERED_CHARS // 2)}"
        if len(os.fsencode(offered)) <= PATH_BYTES_MAX:
            with contextlib.suppress(OSError):
                os.link(self.path, offered)
                self.offered = offered

    def _accept(self) -> None:
        assert self._socket is not None
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    self._loop.remove_reader(self._socket.fileno())
                    self._loop.call_later(PAUSE_SECONDS, self._go_on)
                return
            if len(self._calls) - len(self._opening) >= self._streams_max:
                with contextlib.suppress(OSError):
                    connection.send(_ALL_TAKEN, socket.MSG_DONTWAIT)
                connection.close()
                continue
            with contextlib.suppress(OSError):
                if connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < SEND_BUFFER_BYTES:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            try:
                shown = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            except OSError:
                connection.close()
                continue
            pid, uid, gid = _CREDENTIALS.unpack(shown)
            process = Process(connection, pid)
            task = asyncio.create_task(self._serve(connection, UnixPeer(uid, gid, pid), process))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    def _go_on(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._accept)

    async def _serve(self, connection: socket.socket, peer: UnixPeer, process: Process) -> None:
        with contextlib.closing(connection), contextlib.closing(process):
            try:
                packets = Packets(connection, self._buffer)
                call = Call(packets, peer, process, self._streams, self._gate, self._listener, self._opening)
                await call.serve()
            except OSError:
                pass  # the client is gone
            except Exception:
                internal("a local connection")

    async def close(self, seconds: float) -> None:
        """Takes no more connections, and ends those that are still there after so long."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            for path in filter(None, (self.offered, self.path)):
                with contextlib.suppress(OSError):
                    os.unlink(path)  # as long as it is this server's for certain
            self._socket.close()
            self._socket = None
        if self._calls:
            await asyncio.wait(self._calls, timeout=seconds)
        for task in self._calls:
            task.cancel()
        if self._calls:
            await asyncio.wait(self._calls)


def _own_folder(folder: str) -> None:
    """Makes the folder for sockets of this user in /tmp, where others could have made one of that name. Raises
    OSError.
    """
    if folder != f"/tmp/duly-{os.getuid()}":
        return
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise OSError(errno.EPERM, f"{folder} is not a folder of this user's alone")
