"""One `Stream` call, from its OpenStream to its status. A stream uses one after the other when connections are lost.

gRPC allows one write at a time. What is added while none is under way goes at once. What is added meanwhile waits, and
the frames among it leave together in one message. The receiving side belongs to the stream's own task.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc
import numpy as np

from duly.v1 import inference_pb2
from duly_client import wire
from duly_client.call import Call
from duly_client.clock import Clock
from duly_client.convert import Array
from duly_client.errors import ProtocolError
from duly_client.types import Advice, OutcomeMessage, StreamTerms, advice_of, terms_of
from duly_client.wall_clock import WallClock

PENDING_BYTES_MAX = 256 * 1024
"""Bytes of frames that may wait for the write before them; more that belong together wait alone. The limit is small
because older data is worth less than newer data."""
PENDING_FRAMES_MAX = 64
"""Number of frames that may wait for the write before them; more that belong together wait alone."""
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
        self.is_open = False
        """True once the server agreed to the stream."""
        self._call = Call(call, self._written)
        self._on_room = on_room
        self._wall = wall
        self._wall_moved_ns = wall.moved_ns  # what `clock` knows of
        self._writing = False
        self._requests: list[wire.FrameRequest] = []
        """Frames that wait, those of one entry stamped together."""
        self._frames = 0
        self._frame_bytes = 0
        self._bytes_max = PENDING_BYTES_MAX
        self._message_bytes_max = 0
        self._fields = inference_pb2.Frame()  # of the frame that is being sent, all but its inputs
        self._cancels: list[int] = []
        self._ping_due = False
        self._requests_before_ping = 0
        """How many of the entries that wait were stamped before the clock was set: the server judges them by what it
        knew, and those after them by what the ping tells it."""
        self._ping_id = 0
        self._pings_in_a_row = PINGS_AT_OPEN
        self._ping_moved_ns = 0  # how far the clock had been set when the newest ping was sent
        self._ping_timer: asyncio.TimerHandle | None = None
        self._finishing = self._half_closing = False
        self._sending_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """It is done once this side is half-closed, or the call is over."""

    async def open(self, request: inference_pb2.OpenStream) -> StreamTerms:
        """Opens the stream. Raises AioRpcError where the server refuses it or does not answer."""
        opening = inference_pb2.StreamRequest(open=request).SerializeToString()
        message = await self._call.first_exchange(opening)
        response = None if message is None else inference_pb2.StreamResponse.FromString(message)
        if response is None or response.WhichOneof("response") != "opened":
            raise ProtocolError(f"the stream began with {response!r} in place of StreamOpened")
        terms = terms_of(response.opened)
        self._message_bytes_max = terms.message_bytes_max
        self._bytes_max = min(PENDING_BYTES_MAX, terms.message_bytes_max or PENDING_BYTES_MAX)
        self.is_open = True
        self._ping_now()
        return terms

    async def read(self) -> Advice | Sequence[OutcomeMessage] | None:
        """Returns the next outcomes or advice; None: the server ended the stream with status OK. Raises AioRpcError
        where the server or the network ended it otherwise.
        """
        while True:
            message = await self._call.receive()
            if message is grpc.aio.EOF:
                await self._call.ended()
                return None
            response = inference_pb2.StreamResponse.FromString(message)
            if response.HasField("outcomes"):
                return response.outcomes.outcomes
            if response.HasField("advice"):
                return advice_of(response.advice)
            self._take_pong(response.clock_pong)

    def has_room(self, size: int, frames: int) -> bool:
        """False where frames of `size` bytes in all have to wait until earlier ones went to the transport."""
        return not self._requests or (
            self._frames + frames <= PENDING_FRAMES_MAX and self._frame_bytes + size <= self._bytes_max
        )

    @property
    def most(self) -> str:
        """How large frames may be, in words."""
        return f"the server reads up to {self._message_bytes_max} (see bytes_max of [[input]] in its model.toml)"

    def holds(self, inputs: wire.Inputs) -> bool:
        """Whether they were lent and lie where they are sent from: none does here."""
        return False

    def lend(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Array | None:
        """Returns an array to be filled and sent."""
        return np.empty(shape, dtype)

    def put(self, frames: Sequence[wire.Stamped], budget_ns: int, must_run: bool) -> None:
        """Sends frames in one message, at once where nothing else is being written."""
        fields = self._fields
        fields.budget_nano, fields.must_run = budget_ns, must_run
        parts = []
        for frame_id, captured_ns, inputs in frames:
            fields.frame_id = frame_id
            fields.capture_time_unix_nano = captured_ns
            parts.append((fields.SerializeToString(), inputs))
        self.add(*wire.frames_message(parts), len(parts))

    def add(self, message: bytes, entries_at: int, frames: int) -> None:
        """Sends a message with frames, at once where nothing else is being written; see `wire.frames_message`."""
        self._heed_the_wall_clock()
        if not self._writing and not self._ping_due:
            self._write(message)
            return
        self._requests.append(wire.FrameRequest(message, entries_at, frames))
        self._frames += frames
        self._frame_bytes += len(message)
        self._go_on()

    def cancel_frames(self, frame_ids: Iterable[int]) -> None:
        """Withdraws frames, after those that were added before."""
        self._cancels.extend(frame_ids)
        self._go_on()

    async def finish(self) -> None:
        """Half-closes the stream behind all that waits to be sent. Returns when that is done or the call is over."""
        self._finishing = True
        self._go_on()
        await asyncio.wait((self._sending_over,))

    async def close(self) -> None:
        """Ends the call. A pending `read` raises CancelledError."""
        self._over()
        self.clock_related.cancel()
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        await self._call.close()

    # ---- writing ----

    def _write(self, message: bytes) -> None:
        self._writing = True
        self._call.write(message)

    def _written(self, done: bool) -> None:
        """What was being written is. False: the call is over, and reading raises why."""
        if not done or self._half_closing:
            self._over()
        elif not self._sending_over.done():
            self._writing = False
            self._go_on()

    def _over(self) -> None:
        """Nothing is written any more."""
        self._writing = True
        if not self._sending_over.done():
            self._sending_over.set_result(None)

    def _go_on(self) -> None:
        """Writes what is next, if nothing is being written."""
        if self._writing:
            return
        message = self._next_message()
        if message is not None:
            self._write(message)
        elif self._finishing:
            self._writing = self._half_closing = True
            self._call.half_close()

    def _next_message(self) -> bytes | None:
        if self._ping_due:
            now_ns = self._wall.now_ns()
            self._heed_the_wall_clock()
            if not self._requests_before_ping:
                self._ping_due = False
                return self._ping(now_ns)
        if self._requests:
            count = self._requests_before_ping or len(self._requests)
            requests, self._requests, self._requests_before_ping = self._requests[:count], self._requests[count:], 0
            self._frames = sum(request.frames for request in self._requests)
            self._frame_bytes = sum(len(request.message) for request in self._requests)
            self._on_room()
            return wire.joined(requests)
        if self._cancels:  # behind the frames that they may name
            cancel = inference_pb2.CancelFrames(frame_ids=self._cancels)
            self._cancels.clear()
            return inference_pb2.StreamRequest(cancel=cancel).SerializeToString()
        return None

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
        if pong.ping_id == self._ping_id:  # else another ping followed it at once
            self._learn(pong, received_ns)
        self._go_on()

    def _learn(self, pong: inference_pb2.ClockPong, received_ns: int) -> None:
        sent_ns = pong.client_send_unix_nano + self._wall.moved_ns - self._ping_moved_ns
        if self.clock.add(sent_ns, pong.server_receive_unix_nano, pong.server_send_unix_nano, received_ns):
            self._pings_in_a_row = PINGS_AT_OPEN  # a clock was set: the server shall know at once, and well
        self._pings_in_a_row = max(0, self._pings_in_a_row - 1)
        if self._pings_in_a_row:
            self._ping_due = True
        elif not self._ping_due:  # else the pong of that one sets the timer
            self._ping_timer = asyncio.get_running_loop().call_later(PING_PERIOD_S, self._ping_now)
        if not self.clock_related.done():
            self.clock_related.set_result(None)  # the ping that is due has the estimate, and goes before any frame

    def _heed_the_wall_clock(self) -> None:
        """Where the client's clock was set, the server learns of it before it gets the next frame."""
        ahead_ns = self._wall.moved_ns - self._wall_moved_ns
        if not ahead_ns:
            return
        self._wall_moved_ns = self._wall.moved_ns
        self.clock.moved(ahead_ns)
        self._requests_before_ping = len(self._requests)
        self._pings_in_a_row = max(self._pings_in_a_row, 1)
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        self._ping_due = True

    def _ping_now(self) -> None:
        self._ping_due = True
        self._go_on()
