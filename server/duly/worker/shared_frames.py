"""Large frames that lie in memory which the server shares with clients: a worker reads them there itself.

    server -> worker   SHARE (stream id, memory)            frames of this stream lie there
                       GATHER (slot, pieces)                goes before a RUN whose inputs are not all in the slot
                       FORGET (stream ids)                  the memory is not needed any more

The client may change or free its memory at any moment, so the worker maps none of it: it reads each piece once, into
the slot, and all that follows looks at the slot. The descriptor can only be read by.
"""

import os
import struct
from collections.abc import Collection, Iterable, Sequence

from duly.worker.channel import GATHER, SHARE, TensorRef

SHARED_MAX = 512
"""So many streams may have large frames read by one worker itself; the server copies those of further ones."""
UNREAD = "the frame could not be read from the memory that is shared with its client"
_HEAD = struct.Struct("<BBHxxxxQ")  # kind, slot, pieces, stream id
_PIECE = struct.Struct("<QQQQ")

Piece = tuple[int, int, int, int]
"""(stream id, offset in its memory, offset in the slot's input area, bytes)."""


def encode_share(stream_id: int) -> bytes:
    return _HEAD.pack(SHARE, 0, 0, stream_id)


def encode_gather(slot: int, pieces: Sequence[Piece]) -> bytes:
    return _HEAD.pack(GATHER, slot, len(pieces), 0) + b"".join([_PIECE.pack(*piece) for piece in pieces])


def decode_share(message: bytes) -> int:
    """Returns the stream's id."""
    stream_id: int = _HEAD.unpack_from(message)[3]
    return stream_id


def decode_gather(message: bytes) -> tuple[int, list[Piece]]:
    """Returns (slot, pieces)."""
    return message[1], list(_PIECE.iter_unpack(message[_HEAD.size :]))


class SharedFrames:
    """What one worker can read of clients' memory."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._unread: set[int] = set()
        """Where in the slot the newest pieces should be that could not be read."""

    def share(self, stream_id: int, fd: int) -> None:
        """Takes over the descriptor."""
        self.forget((stream_id,))
        self._fds[stream_id] = fd

    def gather(self, area: memoryview, pieces: Iterable[Piece]) -> None:
        """Reads the pieces into a slot's input area. What was there before is left of none that could not be read."""
        self._unread = set()
        for stream_id, source, target, size_bytes in pieces:
            place = area[target : target + size_bytes]
            if not _read(self._fds.get(stream_id, -1), place, source):
                place[:] = bytes(size_bytes)
                self._unread.add(target)

    def unread_frames(self, frames: Sequence[tuple[int, bool, Sequence[TensorRef]]]) -> Collection[int]:
        """Returns which frames of the batch, by index, had pieces that could not be read. It is said once."""
        if not self._unread:
            return ()
        unread, self._unread = self._unread, set()
        return {index for index, (_, _, refs) in enumerate(frames) if any(ref[0] in unread for ref in refs)}

    def forget(self, stream_ids: Iterable[int]) -> None:
        for stream_id in stream_ids:
            fd = self._fds.pop(stream_id, -1)
            if fd >= 0:
                os.close(fd)


def _read(fd: int, place: memoryview, source: int) -> bool:
    """Fills a place. Returns whether there was enough to be read, and how to."""
    filled = 0
    try:
        while filled < len(place):  # the system reads no more than 2 GiB at once
            read_bytes = os.preadv(fd, [place[filled:]], source + filled)
            if not read_bytes:
                return False
            filled += read_bytes
    except OSError:
        return False
    return True
