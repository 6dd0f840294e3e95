"""What a client of the local transport sends: it goes out at once, or together with what else is sent in the same turn
of the event loop, as far as the socket has room.
"""

import asyncio
import contextlib
import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic_ns

from duly_client import local_wire

HAND_OVER_FRAMES = 16
"""So many frames that are sent in one turn of the loop go out together."""
TURN_FRAMES_MAX = 64
"""After so many frames in one turn of the loop the sender lets others have their turn."""
WAIT_NS_MAX = 4_000_000
"""Frames wait for others of their turn of the loop where the turn before put several within so long."""


class Outgoing:
    def __init__(self, connection: socket.socket, on_room: Callable[[], None], lost: Callable[[str], None]) -> None:
        """`on_room` is called whenever there may be room for further frames; `lost`, with the reason, where nothing can
        be sent any more that reading would not explain.
        """
        self._socket = connection
        self._on_room = on_room
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._queue: deque[bytes] = deque()
        """Frames that go out together, or wait for the socket to have room."""
        self._later: deque[bytes] = deque()
        """Other messages, which go out behind these frames."""
        self._in_turn = 0
        """How many frames were put in this turn of the loop."""
        self._began_ns = 0
        """When the first of them was put."""
        self._waits = False
        """Whether the first ones of a turn wait for others, as the last turn had several in a short time."""
        self._blocked = False
        self._flushed: asyncio.Future[None] | None = None
        self._over = False

    @property
    def room(self) -> int:
        """How many more frames may be put in this turn of the loop."""
        return TURN_FRAMES_MAX - max(self._in_turn, len(self._queue))

    def put(self, frames: Sequence[bytes]) -> None:
        """Sends frames: at once where they come alone, together where there are several in a turn of the loop."""
        self._queue.extend(frames)
        self._count(len(frames))

    def put_message(self, message: memoryview, frames: int) -> None:
        """Sends as many frames in a message of their own, which need not hold after the return."""
        if not (self._queue or self._blocked or self._over):
            with contextlib.suppress(OSError):  # then it waits with others, or is told of when these are sent
                self._socket.send(message)
                message = message[:0]
        self._queue.extend(local_wire.frames_of(message))
        self._count(frames)

    def put_later(self, message: bytes) -> None:
        """Sends another message behind all that waits."""
        self._later.append(message)
        self.flush()

    def _count(self, frames: int) -> None:
        if self._over:
            return  # reading says why
        if not self._in_turn:
            self._began_ns = monotonic_ns()
            self._loop.call_soon(self._end_turn)
        self._in_turn += frames
        if (self._in_turn == frames and not self._waits) or len(self._queue) >= HAND_OVER_FRAMES:
            self.flush()

    def _end_turn(self) -> None:
        many, several, self._in_turn = self._in_turn >= TURN_FRAMES_MAX, self._in_turn > 1, 0
        self._waits = several and monotonic_ns() - self._began_ns < WAIT_NS_MAX
        self.flush()
        if many:
            self._on_room()

    def flush(self) -> None:
        """Sends what waits, as far as the socket has room."""
        if self._blocked or self._over:
            return
        queue, later = self._queue, self._later
        try:
            while queue:
                count = _fitting(queue)
                self._socket.send(local_wire.frames_message([queue[index] for index in range(count)]))
                for _ in range(count):
                    queue.popleft()
            while later:
                self._socket.send(later[0])
                later.popleft()
        except BlockingIOError:
            self._blocked = True
            self._loop.add_writer(self._socket.fileno(), self._has_room)
        except OSError as error:
            queue.clear()
            later.clear()
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):  # else reading says why
                self._lost(error.strerror or str(error))
        if not queue and not later:
            self._tell_flushed()

    def _has_room(self) -> None:
        self._blocked = False
        self._loop.remove_writer(self._socket.fileno())
        self.flush()
        self._on_room()

    async def flushed(self) -> None:
        """Returns when all is sent or the stream is over."""
        if (self._queue or self._later) and not self._over:
            self._flushed = self._loop.create_future()
            await asyncio.wait((self._flushed,))

    def _tell_flushed(self) -> None:
        if self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)

    def end(self) -> None:
        """The stream is over: nothing is sent any more."""
        self._over = True
        self._tell_flushed()

    def close(self) -> None:
        """Ends it before the socket is closed. Who waits in `flushed` does no more."""
        self._over = True
        self._loop.remove_writer(self._socket.fileno())
        if self._flushed is not None and not self._flushed.done():
            self._flushed.cancel()


def _fitting(queue: Sequence[bytes]) -> int:
    """How many of these frames, from the first on, go out in one message."""
    size, count = local_wire.FRAMES_HEAD.size, 0
    for frame in queue:
        size += len(frame)
        if count and (size > local_wire.MESSAGE_BYTES_MAX or count == local_wire.FRAMES_MAX):
            break
        count += 1
    return count
