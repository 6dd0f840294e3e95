"""One end of a SEQPACKET socket on the event loop: whole messages go out and come in, and none waits in between."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Sequence

from duly.rpc.local.errors import no_room
from duly.rpc.local.layout import MESSAGE_BYTES_MAX

RETRY_SECONDS = 0.01
"""After how long a local message is sent again that the system had no memory for."""
SO_PEERPIDFD = 77
"""The socket option of Linux 6.5 that gives a descriptor of the process at the other end; Python has no name for it."""
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF)


class Gone(Exception):
    """The other end is closed."""


class Packets:
    def __init__(self, connection: socket.socket, buffer: memoryview) -> None:
        """`buffer`: of MESSAGE_BYTES_MAX + 1 bytes. Several may share it: what is received is looked at before
        they go on.
        """
        connection.setblocking(False)
        self._socket = connection
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        self._reading = False

    def receive(self) -> memoryview | None:
        """Returns the next message, which holds until something else is received into the buffer; None: there is none.
        A message that is too long has more than MESSAGE_BYTES_MAX bytes. Descriptors that come along are closed by the
        kernel. Raises Gone.
        """
        try:
            size = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return None
        except OSError:
            raise Gone from None
        if not size:
            raise Gone
        return self._buffer[:size]

    def send_at_once(self, message: bytes) -> bool:
        """Sends a message if the other end has room for it. Returns whether it is sent. Raises Gone."""
        try:
            self._socket.send(message)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _GONE:
                raise Gone from None
            return False  # `send` says what is wrong
        return True

    async def send(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """Sends a message as soon as the other end has room for it. Raises Gone. It may be cancelled."""
        while True:
            try:
                if fds:
                    socket.send_fds(self._socket, [message], fds)
                else:
                    self._socket.send(message)
                return
            except BlockingIOError:
                await self._room()
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # the system has no memory in one piece now
                    await asyncio.sleep(RETRY_SECONDS)
                elif error.errno == errno.ETOOMANYREFS:
                    raise no_room("too many descriptors are on their way to clients") from None
                elif error.errno in _GONE:
                    raise Gone from None
                else:
                    raise

    async def _room(self) -> None:
        fd = self._socket.fileno()
        if fd < 0:
            raise Gone
        writable: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(fd, tell, writable)
        try:
            await writable
        finally:
            if self._socket.fileno() >= 0:
                self._loop.remove_writer(fd)

    def on_message(self, call: Callable[[], None]) -> None:
        """Has `call` called whenever there may be a message, until `pause`."""
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), call)
            self._reading = True

    def pause(self) -> None:
        if self._reading and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
        self._reading = False

    def close(self) -> None:
        """Closes this end. What was sent can still be received by the other one."""
        self.pause()
        with contextlib.suppress(OSError):
            self._socket.close()


def tell(waiting: "asyncio.Future[None]") -> None:
    """Ends a wait, if nobody has yet."""
    if not waiting.done():
        waiting.set_result(None)


def receive_buffer() -> memoryview:
    return memoryview(bytearray(MESSAGE_BYTES_MAX + 1))


class Process:
    """Watches for the end of the process at the other end of a connection. It holds the process from the beginning, as
    its number may be another one's later.
    """

    def __init__(self, connection: socket.socket, pid: int) -> None:
        """`connection`: which has just been accepted. `pid`: who is at its other end; 0 where that is of another
        namespace. Where the system cannot tell of its end, nobody is told.
        """
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._is_gone = False
        try:
            self._fd = _process_of(connection, pid)
        except ProcessLookupError:  # a child of it may have its socket still
            self._is_gone = True
        except OSError:
            pass

    def on_end(self, ended: Callable[[], None]) -> None:
        """Has `ended` called when it ends, and soon where it has, until `close`."""
        self._tell = ended
        if self._is_gone:
            self._loop.call_soon(ended)
        elif self._fd >= 0:
            self._loop.add_reader(self._fd, self._ended)

    def _ended(self) -> None:
        self.close()
        self._tell()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def _process_of(connection: socket.socket, pid: int) -> int:
    """Returns a descriptor of the process that has connected; -1: there is none to be had. Raises OSError."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:  # older than Linux 6.5, or it has ended
        return os.pidfd_open(pid) if pid > 0 else -1
