"""Frames that lie where their client put them, in memory which the server shares with it."""

import os

READ_THERE_BYTES_MIN = 32 << 10
"""An input that is smaller is copied by the server: telling a worker to read it would take longer."""


class ClientMemory:
    """The memory of one stream's frames."""

    __slots__ = ("fd", "stream_id")

    def __init__(self, stream_id: int, fd: int) -> None:
        """`fd`: a descriptor by which it can only be read, of which it takes ownership."""
        self.stream_id = stream_id
        self.fd = fd
        """-1: the stream has ended."""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class SharedData:
    """The data of one input in it, which the client may change at any moment: it is read once."""

    __slots__ = ("_size_bytes", "memory", "offset")

    def __init__(self, memory: ClientMemory, offset: int, size_bytes: int) -> None:
        """It must lie in the memory."""
        self.memory = memory
        self.offset = offset
        self._size_bytes = size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    def copy(self) -> bytes:
        """Reads it. It must be no more than the system reads at once, 2 GiB."""
        return os.pread(self.memory.fd, self._size_bytes, self.offset)

    def read_into(self, place: memoryview) -> bool:
        """Reads it into a place of its size. What is not there is zeros, as where the stream has ended; returns whether
        all was there.
        """
        filled = 0
        if self.memory.fd >= 0:
            while filled < self._size_bytes:  # the system reads no more than 2 GiB at once
                read_bytes = os.preadv(self.memory.fd, [place[filled:]], self.offset + filled)
                if not read_bytes:
                    break
                filled += read_bytes
        if filled < self._size_bytes:
            place[filled:] = bytes(self._size_bytes - filled)
        return filled == self._size_bytes
