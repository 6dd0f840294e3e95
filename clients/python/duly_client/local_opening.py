"""How a stream to a server on the same machine begins: who is at the other end, and what the server shares."""

import asyncio
import contextlib
import mmap
import os
import socket
import struct
from math import prod
from typing import NamedTuple

from google.protobuf.message import DecodeError

from duly.v1 import inference_pb2
from duly_client import local_wire
from duly_client.convert import element_bytes
from duly_client.errors import DulyError, LocalUnavailable, ProtocolError, error_of
from duly_client.local_memory import STEPS, aligned

_CONNECT_PAUSE_S = 0.01
_FDS = 3
_CREDENTIALS = struct.Struct("3i")


class Shared(NamedTuple):
    """What the server shares with a stream."""

    opened: inference_pb2.StreamOpened
    opened_bytes: int
    frames: mmap.mmap
    frames_fd: int
    """The caller's to be closed."""
    reserved_bytes: int
    """How much of the memory for frames the system has given already."""
    outcomes: mmap.mmap
    read_fd: int
    """What the server is told by how much of its outcomes was read. It is the caller's to be closed."""


async def connect(connection: socket.socket, path: str, target: str, trusted: bool) -> None:
    """Connects to `path`. Unless it is `trusted`, whoever listens there must run as this user or as root. Raises
    LocalUnavailable.
    """
    while True:
        try:
            connection.connect(path)
            break
        except BlockingIOError:  # more clients connect than the server has taken yet
            await asyncio.sleep(_CONNECT_PAUSE_S)
        except OSError as error:
            raise LocalUnavailable(f"no answer from {target}: {path}: {error.strerror}") from error
    shown = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(shown)
    if not trusted and uid not in (0, os.getuid()):
        raise LocalUnavailable(f"{path} belongs to the user {uid}: state the path if that server is meant")


def take_first(connection: socket.socket, target: str) -> Shared:
    """Takes the server's first message, which is there. Raises DulyError where it opens no stream."""
    message, fds = _first_message(connection)
    try:
        if not message:
            raise LocalUnavailable(f"no answer from {target}: the server closed the connection")
        if message[0] == local_wire.END:
            raise end_error(message) or ProtocolError("the stream ended as it began")
        return _shared(message, fds, target)
    finally:
        for fd in fds:
            os.close(fd)


def end_error(message: bytes) -> DulyError | None:
    """Returns the error with which an END ends the stream; None: all is well."""
    reason, text, metadata = local_wire.end_of(message)
    return error_of(reason, text, metadata) if reason else None


def _first_message(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Returns it with its descriptors; nothing where the connection is closed."""
    for _ in range(2):  # what came before a reset can still be read
        with contextlib.suppress(OSError):
            return socket.recv_fds(connection, local_wire.MESSAGE_BYTES_MAX, _FDS, socket.MSG_CMSG_CLOEXEC)[:2]
    return b"", []


def _shared(message: bytes, fds: list[int], target: str) -> Shared:
    """Takes the descriptors that are kept out of `fds`."""
    head = local_wire.OPENED_HEAD
    if len(message) != head.size or message[0] != local_wire.OPENED or len(fds) != _FDS:
        raise ProtocolError(f"the stream began with a message of kind {message[0]} with {len(fds)} descriptors")
    _, version, opened_bytes, frame_bytes, outcome_bytes = head.unpack(message)
    if version != local_wire.VERSION:
        raise LocalUnavailable(f"the server speaks version {version} of the local transport, the client 1")
    try:
        frames = mmap.mmap(fds[0], frame_bytes)
        outcomes = mmap.mmap(fds[1], outcome_bytes, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise LocalUnavailable(f"the memory of {target} cannot be mapped: {error}") from error
    try:
        end = local_wire.HEAD_BYTES + opened_bytes
        opened = inference_pb2.StreamOpened.FromString(outcomes[local_wire.HEAD_BYTES : end])
    except DecodeError as error:
        raise ProtocolError("the stream began with what is no StreamOpened") from error
    reserved_bytes = min(max(_frame_bytes(opened), frame_bytes // STEPS), frame_bytes)
    try:
        os.posix_fallocate(fds[0], 0, reserved_bytes)
    except OSError as error:
        raise LocalUnavailable(f"there is no memory to share with {target}: {error.strerror}") from error
    read_fd, frames_fd = fds.pop(2), fds.pop(0)
    return Shared(opened, opened_bytes, frames, frames_fd, reserved_bytes, outcomes, read_fd)


def _frame_bytes(opened: inference_pb2.StreamOpened) -> int:
    """Returns how many bytes a frame takes, as far as the model fixes its shapes."""
    fixed = [spec for spec in opened.inputs if min(spec.shape, default=0) >= 0]  # text counts for nothing
    return sum(aligned(prod(spec.shape) * element_bytes(spec.datatype)) for spec in fixed)
