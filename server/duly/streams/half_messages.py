"""Finds clients that fill the server's memory with messages that they do not end.

What has come of a message lies in the transport until its last byte is there, and nobody can see it or count it; only
the memory of the process grows. So when that has grown by more than ALLOWED_BYTES beyond what is counted, streams from
which nothing whole has come for SILENT_NS are ended, some at a time: of the connection that has most of them, the least
critical and then the oldest first. Where that gives no memory back, something else holds it, and what is held now is
allowed from then on.

When it has grown by more than `bytes_max`, streams are given HURRIED_NS only, so that the ceiling of memory is held
against clients, too, that end each message just before they would be silent.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from duly.core.types import StreamClass
from duly.freed_memory import give_back

ALLOWED_BYTES = 256 << 20
SILENT_NS = 5_000_000_000
HURRIED_NS = 500_000_000
STREAMS_A_TIME = 32
_STATM = "/proc/self/statm"


class Silent(Protocol):
    heard_ns: int
    connection: str

    @property
    def stream_class(self) -> StreamClass: ...


_S = TypeVar("_S", bound=Silent)


def own_bytes() -> int:
    """Returns the bytes of memory that this process has for itself, shared memory apart; 0 where nobody tells."""
    try:
        with open(_STATM, "rb") as file:
            resident, shared = file.read().split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGESIZE")


class HalfMessages:
    def __init__(
        self,
        bytes_max: int,
        own_bytes: Callable[[], int] = own_bytes,
        give_back: Callable[[], None] = give_back,
    ) -> None:
        """`bytes_max`: what all unfinished messages together may take, if it is more than ALLOWED_BYTES. `give_back`:
        gives the kernel what the process has, but does not use.
        """
        self._bytes_max = bytes_max
        self._own_bytes = own_bytes
        self._give_back = give_back
        self._usual_bytes = 0
        """What the process has at most beside what is counted, if no client does anything wrong."""
        self._before_bytes = 0
        """What it had when the last streams were ended; 0: none were since it was well."""

    def too_much(self, now_ns: int, streams: Collection[_S], counted_bytes: int) -> list[_S]:
        """Returns the streams that must end. `counted_bytes`: what is known to be held. Call it periodically."""
        own_bytes = self._own_bytes() - counted_bytes
        if not self._usual_bytes:
            self._usual_bytes = own_bytes
        if own_bytes <= self._usual_bytes + ALLOWED_BYTES:
            self._before_bytes = 0
            return []
        if not self._before_bytes and not self._silent(now_ns, streams, own_bytes):
            return []
        self._give_back()  # memory that was freed is no client's doing
        own_bytes = self._own_bytes() - counted_bytes
        if own_bytes <= self._usual_bytes + ALLOWED_BYTES:
            self._before_bytes = 0
            return []
        if self._before_bytes and own_bytes >= self._before_bytes:
            self._usual_bytes, self._before_bytes = own_bytes, 0
            return []
        silent = self._silent(now_ns, streams, own_bytes)
        if not silent:
            return []
        self._before_bytes = own_bytes
        (connection, _), *_ = Counter(stream.connection for stream in silent).most_common(1)
        silent = [stream for stream in silent if stream.connection == connection]
        return sorted(silent, key=lambda stream: (-stream.stream_class, stream.heard_ns))[:STREAMS_A_TIME]

    def _silent(self, now_ns: int, streams: Collection[_S], own_bytes: int) -> list[_S]:
        """Returns the streams from which nothing whole has come for too long, where the process has so much."""
        patience_ns = SILENT_NS if own_bytes <= self._usual_bytes + self._bytes_max else HURRIED_NS
        return [stream for stream in streams if now_ns - stream.heard_ns > patience_ns]
