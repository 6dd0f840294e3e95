"""A stream to a server on the same machine: frames and outcomes lie in shared memory, a UNIX socket says where.

It has the face of `connection.Connection`. What is sent goes out at once, or together with what else is sent in the
same turn of the loop. docs/local.md explains the messages.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from duly.v1 import inference_pb2
from duly_client import local_opening, local_wire, wire
from duly_client.clock import ClockEstimate
from duly_client.convert import Array
from duly_client.errors import DulyError, ProtocolError, ServerUnavailable
from duly_client.forked import is_forked
from duly_client.local_memory import FrameMemory, aligned
from duly_client.types import Advice, OutcomeMessage, StreamTerms, advice_of, terms_of

HAND_OVER_FRAMES = 16
"""So many frames that are sent in one turn of the loop go out together."""
TURN_FRAMES_MAX = 64
"""After so many frames in one turn of the loop the sender lets others have their turn."""
RECEIVED_MAX = 8
"""So many messages may wait to be taken in; then no more are read from the socket."""
_WITHIN = 8
"""Inputs of one frame begin at multiples of this, which is no more than gRPC's heads take that sizes count."""


class SameClock:
    """The clock of a server on the same machine."""

    def estimate(self, now_ns: int) -> ClockEstimate:
        return ClockEstimate(0, 1)


class LocalConnection:
    def __init__(self, path: str, target: str, token: str, memory_bytes: int, on_room: Callable[[], None]) -> None:
        """`memory_bytes`: what the client asks for its frames; 0: the server's choice. `on_room` is called whenever
        there may be room for further frames. Whoever listens at `path` must run as this user or as root, unless it is
        what `target` states, or what the server there has said itself.
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
        self._on_room = on_room
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._buffer = memoryview(bytearray(local_wire.MESSAGE_BYTES_MAX + 1))
        self._memory: FrameMemory | None = None
        self._read_fd = -1
        self._told = 0
        self._blocks: dict[int, int] = {}
        """Where the frames in flight lie."""
        self._inputs: dict[str, int] = {}
        """The places of the inputs, by name."""
        self._tail: tuple[object, int, bytes] = (None, 0, b"")
        """What the last input was, as described and in bytes, and what was said of it."""
        self._queue: deque[bytes] = deque()
        """Frames that go out together, or wait for the socket to have room."""
        self._later: deque[bytes] = deque()
        """Other messages, which go out behind these frames."""
        self._in_turn = 0
        """How many frames were put in this turn of the loop."""
        self._blocked = False
        self._flushed: asyncio.Future[None] | None = None
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
        self._inputs = {spec.name: place for place, spec in enumerate(opened.inputs)}
        if len(self._inputs) == 1:
            self._inputs[""] = 0
        self._reader = local_wire.OutcomeReader(shared.outcomes, opened)
        self._reader.position = aligned(shared.opened_bytes)
        self._quarter = len(shared.outcomes) // 4
        self._memory = FrameMemory(shared.frames, shared.frames_fd, shared.reserved_bytes)
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
        if self._in_turn >= TURN_FRAMES_MAX or len(self._queue) >= TURN_FRAMES_MAX:
            return False
        return not size or self._memory.has_room(size)

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
        """Sends frames. A frame that is alone in its turn of the loop goes at once, others go together. Raises
        ValueError where one is too large.
        """
        for frame_id, captured_ns, inputs in frames:
            if len(inputs.described) == 1:
                block, tail = self._write_one(inputs)
                frame = local_wire.frame_of_one(frame_id, captured_ns, budget_ns, must_run, block, tail)
            else:
                parts = [local_wire.frame_head(frame_id, captured_ns, budget_ns, must_run, len(inputs.described))]
                block = self._write(inputs, parts)
                frame = b"".join(parts)
            self._blocks[frame_id] = block
            self._queue.append(frame)
        if self._over:
            return  # reading says why
        if not self._in_turn:
            self._loop.call_soon(self._end_turn)
        self._in_turn += len(frames)
        if self._in_turn == len(frames) or len(self._queue) >= HAND_OVER_FRAMES:
            self._flush()

    def _write_one(self, inputs: wire.Inputs) -> tuple[int, bytes]:
        """Puts a frame's only input into shared memory. Returns where it lies, and the tail of what to say of it."""
        memory = self._memory
        assert memory is not None
        data, described = inputs.pieces[1], inputs.described[0]
        size_bytes = data.nbytes if isinstance(data, np.ndarray) else len(data)
        before, before_bytes, tail = self._tail
        if described is not before or size_bytes != before_bytes:
            name, kind, shape = described
            tail = local_wire.tensor_tail(size_bytes, self._inputs.get(name, 0xFFFF), kind, shape)
            self._tail = described, size_bytes, tail
        block = memory.sent(data) if isinstance(data, np.ndarray) else -1
        if block < 0:
            block = self._room(size_bytes)
            memory.write(block, data, size_bytes)
        return block, tail

    def _write(self, inputs: wire.Inputs, parts: list[bytes]) -> int:
        """Puts inputs into shared memory, and what to say of them into `parts`. Returns where they lie."""
        memory = self._memory
        assert memory is not None
        pieces, described = inputs.pieces, inputs.described
        sizes = [data.nbytes if isinstance(data, np.ndarray) else len(data) for data in pieces[1::2]]
        block = offset = self._room(sum([-(-size // _WITHIN) * _WITHIN for size in sizes]))
        for each, data, size_bytes in zip(described, pieces[1::2], sizes, strict=True):
            memory.write(offset, data, size_bytes)
            parts.append(self._tensor(each, offset, size_bytes))
            offset += -(-size_bytes // _WITHIN) * _WITHIN
        return block

    def _room(self, size_bytes: int) -> int:
        assert self._memory is not None
        block = self._memory.take(size_bytes)
        if block < 0:
            raise ValueError(f"a frame of {size_bytes} bytes is too large: {self.most}")
        return block

    def _tensor(self, described: tuple[str, int, tuple[int, ...]], offset: int, size_bytes: int) -> bytes:
        name, kind, shape = described
        return local_wire.tensor(offset, size_bytes, self._inputs.get(name, 0xFFFF), kind, shape)

    def cancel_frames(self, frame_ids: Iterable[int]) -> None:
        """Withdraws frames, after those that were added before."""
        cancel = inference_pb2.CancelFrames(frame_ids=frame_ids)
        request = inference_pb2.StreamRequest(cancel=cancel).SerializeToString()
        self._send_later(bytes((local_wire.REQUEST,)) + request)

    async def finish(self) -> None:
        """Says that no more follows, behind all that waits. Returns when that is sent or the stream is over."""
        self._send_later(bytes((local_wire.FINISH,)))
        if self._queue or self._later:
            self._flushed = self._loop.create_future()
            await asyncio.wait((self._flushed,))

    def _send_later(self, message: bytes) -> None:
        self._later.append(message)
        self._flush()

    def _end_turn(self) -> None:
        many, self._in_turn = self._in_turn >= TURN_FRAMES_MAX, 0
        self._flush()
        if many:
            self._on_room()

    def _flush(self) -> None:
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
                self.lose(f"nothing can be sent to {self._target}: {error.strerror}")
        if not queue and not later and self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)

    def _has_room(self) -> None:
        self._blocked = False
        self._loop.remove_writer(self._socket.fileno())
        self._flush()
        self._on_room()

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

    def _begin_reading(self) -> None:
        if not self._reading and not self._over and self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._readable)
            self._reading = True

    def _stop_reading(self) -> None:
        if self._reading and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
        self._reading = False

    def _readable(self) -> None:
        try:
            size = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except ConnectionResetError:  # what came before can still be read
            return
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
            self._reader.name_outputs(inference_pb2.StreamOpened.FromString(message[1:]))
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
        if self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)

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
            self._loop.remove_writer(fd)
            if not is_forked():  # a child that was forked may have the socket still
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        if self._read_fd >= 0:
            os.close(self._read_fd)
            self._read_fd = -1
        if self._memory is not None:
            self._memory.close()
        for waiting in (self._waiting, self._flushed):
            if waiting is not None and not waiting.done():
                waiting.cancel()


def _fitting(queue: Sequence[bytes]) -> int:
    """How many of these frames, from the first on, go out in one message."""
    size, count = local_wire.FRAMES_HEAD.size, 0
    for frame in queue:
        size += len(frame)
        if count and (size > local_wire.MESSAGE_BYTES_MAX or count == local_wire.FRAMES_MAX):
            break
        count += 1
    return count
