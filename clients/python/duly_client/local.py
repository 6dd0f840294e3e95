"""A stream to a server on the same machine: frames and outcomes lie in shared memory, a UNIX socket says where.

It has the face of `connection.Connection`. What is sent goes out at once, or together with what else is sent in the
same turn of the loop. docs/local.md explains the messages.
"""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import prod
from time import monotonic_ns
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from duly.v1 import inference_pb2
from duly_client import local_opening, local_wire, wire
from duly_client.clock import ClockEstimate
from duly_client.convert import Array
from duly_client.errors import DulyError, ProtocolError, ServerUnavailable
from duly_client.forked import is_forked
from duly_client.local_frames import FrameWriter
from duly_client.local_memory import FrameMemory, aligned
from duly_client.local_outgoing import Outgoing
from duly_client.types import Advice, OutcomeMessage, StreamTerms, advice_of, terms_of

SPIN_US_MAX = 1000
"""Nobody may look for outcomes for longer without sleeping."""
RECEIVED_MAX = 8
"""So many messages may wait to be taken in; then no more are read from the socket."""


class SameClock:
    """The clock of a server on the same machine."""

    def estimate(self, now_ns: int) -> ClockEstimate:
        return ClockEstimate(0, 1)


class LocalConnection:
    def __init__(
        self, path: str, target: str, token: str, memory_bytes: int, spin_us: float, on_room: Callable[[], None]
    ) -> None:
        """`memory_bytes`: what the client asks for its frames; 0: the server's choice. `spin_us`: how long `look` looks
        for outcomes; 0: not at all. `on_room` is called whenever there may be room for further frames. Whoever listens
        at `path` must run as this user or as root, unless it is what `target` states, or what the server there has said
        itself.
        """
        self.clock = SameClock()
        self._loop = asyncio.get_running_loop()
        self.clock_related: asyncio.Future[None] = self._loop.create_future()
        self.clock_related.set_result(None)
        self._path = path
        self._target = target
        self._token = token
        self._memory_bytes = memory_bytes
        self._trusted = target == f"local:{path}" or not target.startswith("local:")
        self._spin_ns = int(spin_us * 1e3)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._outgoing = Outgoing(
            self._socket, on_room, lambda why: self.lose(f"nothing can be sent to {target}: {why}")
        )
        self._buffer = memoryview(bytearray(local_wire.MESSAGE_BYTES_MAX + 1))
        self._memory: FrameMemory | None = None
        self._read_fd = -1
        self._told = 0
        self._blocks: dict[int, int] = {}
        """Where the frames in flight lie."""
        self._writer: FrameWriter | None = None
        self.take_at_once: Callable[[Sequence[OutcomeMessage]], bool] | None = None
        """Takes outcomes while nobody but a `read` waits for them, which need not wake up for that. It returns whether
        more may come; where not, `read` returns as if it had read none. Raises ProtocolError.
        """
        self._received: deque[Advice | Sequence[OutcomeMessage]] = deque()
        self._reading = False
        self._waiting: asyncio.Future[None] | None = None
        self._over = False
        self._error: DulyError | None = None

    # ---- opening ----

    async def open(self, request: inference_pb2.OpenStream) -> StreamTerms:
        """Opens the stream. Raises DulyError where the server refuses it or does not answer."""
        await local_opening.connect(self._socket, self._path, self._target, self._trusted)
        asked = inference_pb2.OpenStream()
        asked.CopyFrom(request)
        asked.clock.offset_nano, asked.clock.uncertainty_nano = 0, 1
        message = local_wire.open_message(asked, self._token, self._memory_bytes)
        if len(message) > local_wire.MESSAGE_BYTES_MAX:
            raise ValueError(f"the names of the stream and its outputs take {len(message)} bytes, which is too much")
        with contextlib.suppress(OSError):  # the server has ended the stream already, and reading says why
            self._socket.send(message)
        await self._answered()
        return self._begin(local_opening.take_first(self._socket, self._target))

    async def _answered(self) -> None:
        there = self._loop.create_future()
        self._waiting = there
        self._loop.add_reader(self._socket.fileno(), lambda: None if there.done() else there.set_result(None))
        try:
            await there
        finally:
            self._waiting = None
            if self._socket.fileno() >= 0:
                self._loop.remove_reader(self._socket.fileno())

    def _begin(self, shared: local_opening.Shared) -> StreamTerms:
        opened = shared.opened
        self._read_fd = shared.read_fd
        self._reader = local_wire.OutcomeReader(shared.outcomes, opened.outputs)
        self._reader.position = aligned(shared.opened_bytes)
        self._quarter = len(shared.outcomes) // 4
        self._memory = FrameMemory(shared.frames, shared.frames_fd, shared.reserved_bytes)
        self._writer = FrameWriter(self._memory, [spec.name for spec in opened.inputs], lambda: self.most)
        self._tell_read()
        self._begin_reading()
        return terms_of(opened)

    @property
    def most(self) -> str:
        """How large frames may be, in words."""
        size_bytes = self._memory.size_bytes if self._memory is not None else 0
        return f"the stream shares {size_bytes} with the server for all its frames (local_memory_bytes)"

    @property
    def is_open(self) -> bool:
        """True once the server agreed to the stream."""
        return self._memory is not None

    # ---- sending ----

    def has_room(self, size: int, frames: int) -> bool:
        """False where frames of `size` bytes in all have to wait until earlier ones are answered, or went out."""
        assert self._memory is not None
        return self._outgoing.room > 0 and (not size or self._memory.has_room(size))

    def holds(self, inputs: wire.Inputs) -> bool:
        """Whether they are an array that was lent and not sent yet."""
        if len(inputs.pieces) != 2:
            return False
        array = inputs.pieces[1]
        assert self._memory is not None
        return isinstance(array, np.ndarray) and self._memory.holds(array)

    def lend(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Array | None:
        """Returns an array to be filled and sent; None: there is no room for it now. Raises ValueError where it is too
        large for ever.
        """
        assert self._memory is not None
        size_bytes = prod(shape) * dtype.itemsize
        array = self._memory.lend(shape, dtype, size_bytes)
        if array is None and size_bytes > self._memory.size_bytes:
            raise ValueError(f"an array of {size_bytes} bytes is too large: {self.most}")
        return array

    def put(self, frames: Sequence[wire.Stamped], budget_ns: int, must_run: bool) -> None:
        """Sends frames. Raises ValueError where one is too large; those before it are sent."""
        assert self._writer is not None
        made: list[bytes] = []
        try:
            for frame_id, captured_ns, inputs in frames:
                self._blocks[frame_id], frame = self._writer.frame(frame_id, captured_ns, budget_ns, must_run, inputs)
                made.append(frame)
        finally:
            self._outgoing.put(made)

    def place_alike(self, alike: wire.Alike, count: int) -> tuple[int, int]:
        """Puts frames into shared memory, as many of the first `count` as may go now. Returns how many, and where they
        lie; 0 of them: none may go, or there is no room for them in one piece.
        """
        assert self._writer is not None
        count = min(count, self._outgoing.room)
        block = self._writer.place(alike, count) if count > 0 else -1
        return (0, -1) if block < 0 else (count, block)

    def put_alike(
        self, ids: range, captured_ns: int, budget_ns: int, must_run: bool, alike: wire.Alike, block: int
    ) -> None:
        """Sends as many frames, which `place_alike` has put there, as one message."""
        assert self._writer is not None
        message = self._writer.alike(ids, captured_ns, budget_ns, must_run, alike, block)
        self._blocks.update(dict.fromkeys(ids, block))
        self._outgoing.put_message(message, len(ids))

    def cancel_frames(self, frame_ids: Iterable[int]) -> None:
        """Withdraws frames, after those that were added before."""
        cancel = inference_pb2.CancelFrames(frame_ids=frame_ids)
        request = inference_pb2.StreamRequest(cancel=cancel).SerializeToString()
        self._outgoing.put_later(bytes((local_wire.REQUEST,)) + request)

    async def finish(self) -> None:
        """Says that no more follows, behind all that waits. Returns when that is sent or the stream is over."""
        self._outgoing.put_later(bytes((local_wire.FINISH,)))
        await self._outgoing.flushed()

    # ---- receiving ----

    async def read(self) -> Advice | Sequence[OutcomeMessage] | None:
        """Returns the next outcomes or advice; None: the server ended the stream and all is well. Raises DulyError
        where it ended it otherwise.
        """
        while not self._received:
            if self._over:
                if self._error is not None:
                    raise self._error
                return None
            self._waiting = self._loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        received = self._received.popleft()
        if not self._reading and len(self._received) < RECEIVED_MAX // 2:
            self._begin_reading()
        return received

    def look(self) -> None:
        """Looks for what comes next again and again, no longer than it may. Nothing else is done meanwhile."""
        if self._spin_ns and self._reading and not self._received:
            self._outgoing.flush()
            until_ns = monotonic_ns() + self._spin_ns
            while not self._readable() and monotonic_ns() < until_ns:
                os.sched_yield()  # the server may have been woken up on this very processor

    def _begin_reading(self) -> None:
        if not self._reading and not self._over and self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._readable)
            self._reading = True

    def _stop_reading(self) -> None:
        if self._reading and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
        self._reading = False

    def _readable(self) -> bool:
        """Takes in a message. Returns whether there was one."""
        try:
            size = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # what came before can still be read
            return False
        except OSError:
            size = 0
        try:
            if not size:
                self._end(ServerUnavailable(f"the connection to {self._target} is lost"))
            else:
                self._take(bytes(self._buffer[:size]))
        except DulyError as error:
            self._end(error)
        except DecodeError as error:
            self._end(ProtocolError(f"a message that makes no sense: {error}"))
        if len(self._received) >= RECEIVED_MAX or self._over:
            self._stop_reading()
        if self._received or self._over:
            self._wake()
        return True

    def _take(self, message: bytes) -> None:
        kind = message[0]
        if kind == local_wire.OUTCOMES:
            outcomes = self._reader.outcomes(message)
            self._tell_read()
            memory, blocks = self._memory, self._blocks
            assert memory is not None
            for outcome in outcomes:
                block = blocks.pop(outcome.frame_id, None)
                if block is not None:
                    memory.give_back(block)
            if self.take_at_once is None or self._waiting is None or self._received:
                self._received.append(outcomes)
            elif not self.take_at_once(outcomes):
                self._received.append(())
        elif kind == local_wire.RESPONSE:
            response = inference_pb2.StreamResponse.FromString(message[1:])
            if response.WhichOneof("response") == "advice":
                self._received.append(advice_of(response.advice))
        elif kind == local_wire.OUTPUTS:
            self._reader.name_outputs(inference_pb2.StreamOpened.FromString(message[1:]).outputs)
        elif kind == local_wire.PART:
            self._reader.part(message)
            self._tell_read()
        elif kind == local_wire.END:
            self._end(local_opening.end_error(message))
        else:
            raise ProtocolError(f"a message of kind {kind}, which this client does not know")

    def _tell_read(self) -> None:
        """Tells the server how much of its outcomes was read, as soon as that is a quarter of what has room."""
        unsaid = self._reader.position - self._told
        if unsaid > self._quarter:
            self._told = self._reader.position
            with contextlib.suppress(OSError):
                os.eventfd_write(self._read_fd, unsaid)

    def _end(self, error: DulyError | None) -> None:
        self._over = True
        self._error = error
        self._outgoing.end()

    # ---- the end ----

    def lose(self, why: str) -> None:
        """Ends the stream as if the connection were lost."""
        if not self._over:
            self._end(ServerUnavailable(why))
            self._stop_reading()
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def close(self) -> None:
        """Ends the stream. A pending `read` raises CancelledError."""
        self._over = True
        fd = self._socket.fileno()
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._outgoing.close()
            if not is_forked():  # a child that was forked may have the socket still
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        if self._read_fd >= 0:
            os.close(self._read_fd)
            self._read_fd = -1
        if self._memory is not None:
            self._memory.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.cancel()


def checked_spin_us(spin_us: float) -> float:
    """Raises ValueError where nobody may look for outcomes for so long."""
    if not 0 <= spin_us <= SPIN_US_MAX:
        raise ValueError(f"spin_us should be 0 to {SPIN_US_MAX}, got {spin_us}")
    return spin_us
