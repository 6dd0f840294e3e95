"""The state of streams on its way from the worker of one version to that of another, as both sides and the server see
it.

    server -> old worker   GIVE (number, places, memory)    it writes the states there, and forgets the streams
    old worker -> server   STATE (number, which were there)
    server -> new worker   TAKE (places, memory)            it reads them before the batch that follows

The memory is a memfd of the server's. Its size is sealed before the old worker gets it, and its contents before the new
one does, so that neither can harm the other by it: the new worker reads what does not change, of just the size that was
asked for. The server itself reads nothing of it, and receives no descriptor.
"""

import fcntl
import os
import struct
from collections.abc import Sequence

from duly.worker.channel import GIVE, STATE, TAKE

_HEAD = struct.Struct("<BxHxxxxQ")  # kind, streams, number
_PLACE = struct.Struct("<QQ")  # stream id, offset in the memory

Place = tuple[int, int]
"""A stream, and where its state lies in the memory."""


def encode_give(number: int, places: Sequence[Place]) -> bytes:
    return _HEAD.pack(GIVE, len(places), number) + b"".join([_PLACE.pack(*place) for place in places])


def encode_take(places: Sequence[Place]) -> bytes:
    return _HEAD.pack(TAKE, len(places), 0) + b"".join([_PLACE.pack(*place) for place in places])


def decode_places(message: bytes) -> tuple[int, list[Place]]:
    """Returns (number, places) of a GIVE or TAKE."""
    _, _, number = _HEAD.unpack_from(message)
    return number, list(_PLACE.iter_unpack(message[_HEAD.size :]))


def encode_state(number: int, there: Sequence[bool]) -> bytes:
    return _HEAD.pack(STATE, len(there), number) + bytes(there)


def decode_state(message: bytes, number: int, count: int) -> list[bool]:
    """Returns which of the states were there. Raises ValueError unless the message answers just what was asked."""
    flags = message[_HEAD.size :]
    if message[: _HEAD.size] != _HEAD.pack(STATE, count, number) or len(flags) != count or not set(flags) <= {0, 1}:
        raise ValueError(f"a STATE of {len(message)} bytes that does not answer what was asked of {count} streams")
    return [bool(flag) for flag in flags]


def new_memory(size_bytes: int) -> int:
    """Returns a descriptor of memory that can neither shrink nor grow. Raises OSError where there is no room."""
    fd = os.memfd_create("duly state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(fd)
        raise
    return fd


def seal(fd: int) -> None:
    """Lets nobody write to the memory any more. Raises OSError where somebody still has it mapped for that."""
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & seals != seals:  # else the worker has done so itself
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
