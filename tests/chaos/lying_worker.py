"""A worker that misbehaves when it is told to, by a real-time signal whose number says how.

It is the worker as it is but for its socket, which alters the next answer to a batch. Signals need no file, no network
and no environment, so that they reach a worker that is shut in, too.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from duly.worker import channel
from duly.worker import main as real

LIED = "lied"
"""The name of a worker's process from the moment at which it misbehaves."""
_PR_SET_NAME = 15  # linux/prctl.h
HOUR_NS = 3600 * 10**9
MEMORY_BYTES = 64 << 20

Lie = Callable[[channel.Done], bytes | bytearray]


def _but(**fields: Any) -> Lie:
    def change(done: channel.Done) -> bytes | bytearray:
        for name, value in fields.items():
            setattr(done, name, value)
        return channel.encode_done(done)

    return change


def _refs(change: Callable[[int, int, int, tuple[int, ...]], channel.TensorRef]) -> Lie:
    """Alters the places of all outputs."""

    def lie(done: channel.Done) -> bytes | bytearray:
        done.frames = [(status, [change(*ref) for ref in refs]) for status, refs in done.frames]
        return channel.encode_done(done)

    return lie


def _shrink(done: channel.Done) -> bytes | bytearray:
    """Cuts all shared memory of this process to nothing, where the kernel lets it."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:"):
                os.ftruncate(int(name), 0)
        except OSError:
            continue
    return channel.encode_done(done)


def _memory(done: channel.Done) -> bytes | bytearray:
    """Runs into a limit of memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    raise MemoryError(len(bytearray(16 * MEMORY_BYTES)))


def _crash(done: channel.Done) -> bytes | bytearray:
    ctypes.string_at(0)
    raise AssertionError("it is dead")


def _abort(done: channel.Done) -> bytes | bytearray:
    os.abort()


def _leave(done: channel.Done) -> bytes | bytearray:
    os._exit(0)


LIES: dict[str, Lie] = {
    "a garbage byte": lambda done: b"\xff",
    "random bytes": lambda done: os.urandom(300),
    "an empty DONE": lambda done: bytes([channel.DONE]),
    "half a message": lambda done: bytes(channel.encode_done(done))[:-9],
    "more than a message": lambda done: bytes(channel.encode_done(done)) + b"{}",
    "a huge message": lambda done: bytes(channel.encode_done(done)).ljust(channel.MESSAGE_BYTES_MAX, b"\xff"),
    "DONE of another batch": lambda done: _but(batch_id=done.batch_id + 7)(done),
    "DONE without frames": _but(frames=[]),
    "a frame too many": lambda done: _but(frames=done.frames * 2)(done),
    "another slot": lambda done: _but(slot=1 - done.slot)(done),
    "a slot that is not there": _but(slot=99),
    "finished an hour ago": lambda done: _but(finished_ns=done.finished_ns - HOUR_NS)(done),
    "finished in an hour": lambda done: _but(finished_ns=done.finished_ns + HOUR_NS)(done),
    "offsets out of range": _refs(lambda offset, length, encoding, shape: (1 << 40, length, encoding, shape)),
    "another frame's place": _refs(lambda offset, length, encoding, shape: (offset + 64, length, encoding, shape)),
    "too short an output": _refs(lambda offset, length, encoding, shape: (offset, length // 2, encoding, shape)),
    "a shape below zero": _refs(lambda offset, length, encoding, shape: (offset, length, encoding, (-1, -length))),
    "READY again": lambda done: channel.encode_text(channel.READY, {"signature": {}}),
    "FAILED of another batch": lambda done: channel.encode_text(channel.FAILED, {"reason": "?"}, done.batch_id + 3),
    "shared memory shrunk": _shrink,
    "the memory limit": _memory,
    "SIGSEGV within a batch": _crash,
    "SIGABRT within a batch": _abort,
    "exit within a batch": _leave,
}
NAMES = list(LIES)
CLOSE = "the socket closed"
"""The socket is shut at once, whatever runs."""
UNASKED = "an answer that nobody asked for"
"""It is sent at once, whatever runs."""


def signal_of(name: str) -> int:
    """Returns the signal that tells a worker to misbehave so."""
    return signal.SIGRTMIN + [*NAMES, CLOSE, UNASKED].index(name)


class Lying:
    """The worker's socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lie: Lie | None = None
        for index, name in enumerate((*NAMES, CLOSE, UNASKED)):
            signal.signal(signal.SIGRTMIN + index, lambda number, frame, name=name: self._told(name))  # type: ignore[misc]

    def _told(self, name: str) -> None:
        if name == CLOSE:
            self._connection.shutdown(socket.SHUT_RDWR)
        elif name == UNASKED:
            self._connection.send(channel.encode_done(channel.Done(1, 0, 1, 2, [], {})))
        else:
            self._lie = LIES[name]

    def send(self, message: bytes | bytearray) -> int:
        if self._lie is not None and channel.kind_of(bytes(message)) == channel.DONE:
            done = channel.decode_done(bytes(message), self.outputs)
            lie, self._lie = self._lie, None
            ctypes.CDLL(None).prctl(_PR_SET_NAME, LIED.encode())
            message = lie(done)
        return self._connection.send(message)

    outputs = 1
    """The number of outputs of the model; the models of this folder have one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


_serve = real._serve


if __name__ == "__main__":
    real._serve = lambda connection, *more: _serve(Lying(connection), *more)  # type: ignore[arg-type]
    sys.exit(real.main(sys.argv[1:]))
