"""The shared memory of one local stream: an area that the client writes frames to, and one that it reads outcomes from.

The server makes both, and their sizes are sealed: memory that shrinks under a mapping kills who reads it. The client
gets a descriptor of the second one that it can only read by. Where frames lie in their area is the client's business:
the server checks that they lie within, and what else lies there harms nobody else.

What outcomes take is given back to the system when the stream ends, whatever the client still maps. What frames take is
the client's own: it has written to it, or it is none.
"""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Sequence

from duly.realtime import memory
from duly.rpc.local.layout import ALIVE, HEAD_BYTES, READ
from duly.runtime.shared_memory import ClientMemory
from duly.streams.errors import CallError

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_OWNER_MAY_READ = 0o400
ALIGNMENT = 64
"""What the server puts into memory begins at multiples of this."""


def _sealed_memory(size_bytes: int) -> int:
    """Returns the descriptor of fresh memory whose size nobody can change. Raises OSError."""
    fd = os.memfd_create("duly local", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        os.fchmod(fd, _OWNER_MAY_READ)  # else any user who has a descriptor could open it again to write
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read_only(fd: int) -> int:
    """Returns another descriptor of the same memory, by which it can only be read. Raises OSError."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def _give_back(area: mmap.mmap) -> None:
    with contextlib.suppress(OSError):  # not every system can; it is given back when the last mapping is gone
        memory.give_back_mapped(area)


class FrameArea:
    """Where the client of a stream puts the data of its frames. Nothing of it is mapped here: what is read of it is
    read once, and pages that the client has left empty are not filled for it.
    """

    def __init__(self, stream_id: int, size_bytes: int) -> None:
        """Raises OSError where the system has no room for it."""
        self.size_bytes = size_bytes
        self.fd = _sealed_memory(size_bytes)
        """To be sent to the client, and closed by `sent`."""
        try:
            self.memory = ClientMemory(stream_id, _read_only(self.fd))
        except BaseException:
            os.close(self.fd)
            raise

    def sent(self) -> None:
        """Notes that the client has its descriptor."""
        os.close(self.fd)
        self.fd = -1

    def close(self) -> None:
        """Lets go of it. The memory is given back when the client and the workers have, too."""
        self.memory.close()
        if self.fd >= 0:
            self.sent()


class OutcomeArea:
    """A ring that the server puts the data of outputs into, in order; the client says how much of them it has read.

    Places are counted by positions, which only grow: a position modulo the ring's size is an offset in the ring, which
    begins behind the head. What was read comes over an eventfd and not with the client's other messages, as these are
    not read while outcomes wait.

    The head says whether the memory holds what it should. Before it is given back the head is 0, so that a client which
    finds something else in it after it has copied outcomes knows that they are whole.
    """

    def __init__(self, size_bytes: int) -> None:
        """Raises OSError where the system has no room for it."""
        self.size_bytes = size_bytes
        self._ring_bytes = size_bytes - HEAD_BYTES
        self.piece_bytes_max = self._ring_bytes // 4 // ALIGNMENT * ALIGNMENT
        """What is no larger always finds room once the client has read what it was sent, and said so where that is more
        than a quarter: nothing is cut in two by the end of the ring."""
        self.position = 0
        """Up to where the ring was filled."""
        self._released = 0
        fd = _sealed_memory(size_bytes)
        try:
            # All its pages are taken now: one that the system did not have as it is written to would end the server.
            os.posix_fallocate(fd, 0, size_bytes)
            self._map = mmap.mmap(fd, size_bytes)
            self.fd = _read_only(fd)
            """To be sent to the client, and closed by `sent`."""
        finally:
            os.close(fd)
        try:
            self.read_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            """Readable when the client has read outcomes; to be sent to it, too."""
        except BaseException:
            self.sent()
            raise
        self._view = memoryview(self._map)
        ALIVE.pack_into(self._view, 0, 1)

    def sent(self) -> None:
        """Notes that the client has its descriptor."""
        os.close(self.fd)
        self.fd = -1

    @staticmethod
    def takes(outputs: Sequence[bytes]) -> int:
        """Returns how many bytes the outputs of one outcome take. They are in the ring together, as the client hears of
        them at once.
        """
        if len(outputs) == 1:  # as nearly always
            return -(-len(outputs[0]) // ALIGNMENT) * ALIGNMENT
        return sum([-(-len(data) // ALIGNMENT) * ALIGNMENT for data in outputs])

    def put(self, data: bytes | memoryview) -> int:
        """Puts data into the ring, no more than `piece_bytes_max`. Returns its offset; -1: there is no room now."""
        ring_bytes = self._ring_bytes
        size_bytes, offset = len(data), self.position % ring_bytes
        skipped = ring_bytes - offset if offset + size_bytes > ring_bytes else 0
        end = self.position + skipped + -(-size_bytes // ALIGNMENT) * ALIGNMENT
        if end - self._released > ring_bytes:
            return -1
        offset = HEAD_BYTES if skipped else HEAD_BYTES + offset
        self._view[offset : offset + size_bytes] = data
        self.position = end
        return offset

    def hear(self) -> None:
        """Takes the client's word for what it has read. Raises CallError where that cannot be."""
        number = bytearray(READ.size)
        try:
            # The client could make the descriptor one that waits, and read it first: never wait, whatever it is.
            os.preadv(self.read_fd, [number], -1, os.RWF_NOWAIT)
        except BlockingIOError:
            return
        (read_bytes,) = READ.unpack(number)
        if read_bytes > self.position - self._released:
            text = f"{read_bytes} bytes of outcomes were read, {self.position - self._released} were sent"
            raise CallError("MESSAGE_MALFORMED", text)
        self._released += read_bytes

    def close(self) -> None:
        """Gives the memory back."""
        if self.fd >= 0:
            self.sent()
        os.close(self.read_fd)
        ALIVE.pack_into(self._view, 0, 0)
        _give_back(self._map)
        self._view.release()
        self._map.close()


def check_system() -> None:
    """Raises OSError where the system lacks what areas need."""
    area = OutcomeArea(mmap.PAGESIZE)
    try:
        area.hear()
    finally:
        area.close()
