"""One `Stream` call, from its OpenStream to its status. A stream uses one after the other when connections are lost.

One writer task owns the sending side. gRPC allows one write at a time, and a write that is cancelled ends the whole
call, so no task of the caller may write. Frames that were added while a write was under way leave together in one
message. The receiving side belongs to the stream's own task.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from duly.v1 import inference_pb2
from duly_client import wire
from duly_client.clock import Clock
from duly_client.errors import ProtocolError
from duly_client.types import StreamTerms, terms_of
from duly_client.wall_clock import WallClock

PENDING_BYTES_MAX = 256 * 1024
"""Bytes of frames that may wait for the write before them; a larger frame waits alone. The limit is small because older
data is worth less than newer data."""
PENDING_FRAMES_MAX = 64
"""Number of frames that may wait for the write before them."""
PINGS_AT_OPEN = 8
"""Number of exchanges, one after the other, when the stream opens: enough to meet a quick one."""
PING_PERIOD_S = 10.0


class Connection:
    """The call of one stream. `on_room` is called whenever frames that waited went to the transport. `wall`: the clock
    that frames are stamped with, which is looked at before each of them.
    """

    def __init__(
        self, call: "grpc.aio.StreamStreamCall[Any, Any]", on_room: Callable[[], None], wall: WallClock
    ) -> None:
        self.clock = Clock()
        self.clock_related: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """It is done once the server can count budgets from capture."""
        self._call = call
        self._on_room = on_room
        self._wall = wall
        self._wall_moved_ns = wall.moved_ns  # what `clock` knows of
        self._frames: list[wire.FrameRequest] = []
        self._frame_bytes = 0
        self._cancels: list[int] = []
        self._ping_due = False
        self._frames_before_ping = 0
        """How many of the frames that wait were stamped before the clock was set: the server judges them by what it
        knew, and those after them by what the ping tells it."""
        self._ping_id = 0
        self._pings_in_a_row = PINGS_AT_OPEN
        self._ping_moved_ns = 0  # how far the clock had been set when the newest ping was sent
        self._ping_timer: asyncio.TimerHandle | None = None
        self._finishing = False
        self._idle: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    async def open(self, request: inference_pb2.OpenStream) -> StreamTerms:
        """Opens the stream. Raises AioRpcError where the server refuses it or does not answer."""
        with contextlib.suppress(grpc.aio.InternalError):  # the call is over already; reading raises why
            await self._send(inference_pb2.StreamRequest(open=request).SerializeToString())
        response = await self._read()
        if response is None or response.WhichOneof("response") != "opened":
            raise ProtocolError(f"the stream began with {response!r} in place of StreamOpened")
        terms = terms_of(response.opened)
        self._ping_due = True
        self._writer = asyncio.create_task(self._write())
        return terms

    @property
    def is_open(self) -> bool:
        """True once the server agreed to the stream."""
        return self._writer is not None

    async def read(self) -> inference_pb2.StreamResponse | None:
        """Returns the next outcomes or advice; None: the server ended the stream with status OK. Raises AioRpcError
        where the server or the network ended it otherwise.
        """
        while True:
            response = await self._read()
            if response is None or response.WhichOneof("response") != "clock_pong":
                return response
            self._take_pong(response.clock_pong)

    async def _read(self) -> inference_pb2.StreamResponse | None:
        response = await self._call.read()
        return response if isinstance(response, inference_pb2.StreamResponse) else None

    async def _send(self, message: bytes) -> None:
        """Writes in place of the call's own `write`. Where the server ends the call meanwhile, that one replaces the
        server's status with INTERNAL, and what the server sent before is lost. Raises AioRpcError or InternalError
        where the call is over.
        """
        await self._call.wait_for_connection()
        call: Any = self._call
        await call._cython_call.send_serialized_message(message)

    def has_room(self, size: int) -> bool:
        """False where a frame of `size` bytes has to wait until earlier ones went to the transport."""
        return not self._frames or (
            len(self._frames) < PENDING_FRAMES_MAX and self._frame_bytes + size <= PENDING_BYTES_MAX
        )

    def add(self, frame: wire.FrameRequest) -> bool:
        """Hands a frame to the writer. True: the writer was idle, and it writes as soon as the caller yields."""
        self._heed_the_wall_clock()
        self._frames.append(frame)
        self._frame_bytes += len(frame.message)
        return self._wake()

    def cancel_frames(self, frame_ids: Iterable[int]) -> None:
        """Withdraws frames, after those that were added before."""
        self._cancels.extend(frame_ids)
        self._wake()

    async def finish(self) -> None:
        """Half-closes the stream behind all that waits to be sent. Returns when that is done or the call is over."""
        self._finishing = True
        self._wake()
        if self._writer is not None:
            await asyncio.wait((self._writer,))

    async def close(self) -> None:
        """Ends the call and its writer. A pending `read` raises CancelledError."""
        self._call.cancel()
        self.clock_related.cancel()
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait((self._writer,))

    def _wake(self) -> bool:
        if self._idle is None or self._idle.done():
            return False
        self._idle.set_result(None)
        return True

    async def _write(self) -> None:
        try:
            while True:
                if self._ping_due:
                    now_ns = self._wall.now_ns()
                    self._heed_the_wall_clock()
                    if not self._frames_before_ping:
                        self._ping_due = False
                        await self._send(self._ping(now_ns))
                        continue  # the clock may have been set meanwhile, which goes before frames again
                if self._frames:
                    count = self._frames_before_ping or len(self._frames)
                    frames, self._frames, self._frames_before_ping = self._frames[:count], self._frames[count:], 0
                    self._frame_bytes = sum(len(frame.message) for frame in self._frames)
                    self._on_room()
                    await self._send(wire.joined(frames))
                elif self._cancels:  # behind the frames that they may name
                    cancel = inference_pb2.CancelFrames(frame_ids=self._cancels)
                    self._cancels.clear()
                    await self._send(inference_pb2.StreamRequest(cancel=cancel).SerializeToString())
                elif self._finishing:
                    await self._call.done_writing()
                    return
                elif not self._ping_due:
                    self._idle = asyncio.get_running_loop().create_future()
                    await self._idle
        except (grpc.aio.InternalError, grpc.aio.AioRpcError):
            pass  # the call is over; reading raises why

    def _ping(self, now_ns: int) -> bytes:
        self._ping_id += 1
        self._ping_moved_ns = self._wall.moved_ns
        ping = inference_pb2.ClockPing(ping_id=self._ping_id, client_send_unix_nano=now_ns)
        # The server uses the estimate until the next one comes, so it must hold until then.
        estimate = self.clock.estimate(now_ns + int(PING_PERIOD_S * 1e9))
        if estimate is not None:
            ping.clock.offset_nano, ping.clock.uncertainty_nano = estimate
        return inference_pb2.StreamRequest(clock_ping=ping).SerializeToString()

    def _take_pong(self, pong: inference_pb2.ClockPong) -> None:
        received_ns = self._wall.now_ns()
        self._heed_the_wall_clock()
        if pong.ping_id != self._ping_id:
            return  # another ping followed it at once
        sent_ns = pong.client_send_unix_nano + self._wall.moved_ns - self._ping_moved_ns
        if self.clock.add(sent_ns, pong.server_receive_unix_nano, pong.server_send_unix_nano, received_ns):
            self._pings_in_a_row = PINGS_AT_OPEN  # a clock was set: the server shall know at once, and well
        self._pings_in_a_row = max(0, self._pings_in_a_row - 1)
        if self._pings_in_a_row:
            self._ping_now()
        elif not self._ping_due:  # else the pong of that one sets the timer
            self._ping_timer = asyncio.get_running_loop().call_later(PING_PERIOD_S, self._ping_now)
        if not self.clock_related.done():
            self.clock_related.set_result(None)  # the writer, woken before, sends the estimate first

    def _heed_the_wall_clock(self) -> None:
        """Where the client's clock was set, the server learns of it before it gets the next frame."""
        ahead_ns = self._wall.moved_ns - self._wall_moved_ns
        if not ahead_ns:
            return
        self._wall_moved_ns = self._wall.moved_ns
        self.clock.moved(ahead_ns)
        self._frames_before_ping = len(self._frames)
        self._pings_in_a_row = max(self._pings_in_a_row, 1)
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        self._ping_now()

    def _ping_now(self) -> None:
        self._ping_due = True
        self._wake()
