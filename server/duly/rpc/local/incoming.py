"""What comes in on one local stream: it takes the client's messages in callbacks of the event loop, and waits where the
stream has no room for more.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

from google.protobuf.message import DecodeError

from duly.core.fates import DOES_NOT_FIT
from duly.rpc.duly_v1.opening import clock_of
from duly.rpc.local.areas import FrameArea
from duly.rpc.local.errors import malformed, reason_of
from duly.rpc.local.frames import Described, FrameReader
from duly.rpc.local.layout import FINISH, FRAMES, MESSAGE_BYTES_MAX, REQUEST
from duly.rpc.local.packets import Gone, Packets
from duly.streams.errors import CallError, InvalidFrame
from duly.streams.stream import Stream
from duly.v1 import inference_pb2

COPIED_BYTES_MAX = 4 << 20
"""When encoded frames of so many bytes of one local stream were copied, it waits until others had as much time."""


class Incoming:
    def __init__(self, packets: Packets, stream: Stream, area: FrameArea, clock: Callable[[], int]) -> None:
        """`clock`: the server's, in nanoseconds."""
        self._packets = packets
        self._stream = stream
        self._clock = clock
        self._reader = FrameReader(stream.signature, area)
        self._waiting: deque[Described] = deque()
        """Frames of the newest message that are not taken yet."""
        self._finished = False
        """Whether the client has said that no more comes."""
        self._copied_bytes = 0
        self._resuming: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Takes messages from now on, until the stream ends or `stop` is called."""
        self._packets.on_message(self._readable)

    def stop(self) -> None:
        """Takes no more messages."""
        self._packets.pause()
        if self._resuming is not None:
            self._resuming.cancel()

    def _readable(self) -> None:
        """Takes one message, so that other streams have their turn between two."""
        stream = self._stream
        try:
            if stream.closed:
                return
            message = self._packets.receive()
            if message is not None:
                self._take(message)
                if self._waiting:
                    stream.wait_with(len(message))
                    self._hold()
                elif not stream.has_room:
                    self._hold()
        except Gone:
            self._packets.pause()
            stream.end(None)
        except Exception as error:
            self._packets.pause()
            stream.end(reason_of(error))

    def _take(self, message: memoryview) -> None:
        if len(message) > MESSAGE_BYTES_MAX:
            raise malformed(f"it has more than {MESSAGE_BYTES_MAX} bytes")
        if self._finished:
            raise malformed("it comes after FINISH")
        kind = message[0]
        if kind == FRAMES:
            self._waiting.extend(self._reader.described(message))
            self._take_frames()
        elif kind == REQUEST:
            self._take_request(bytes(message[1:]))
        elif kind == FINISH and len(message) == 1:
            self._finished = True
            self._stream.finish()
        else:
            raise malformed(f"its kind is {kind}, and it has {len(message)} bytes")

    def _take_frames(self) -> None:
        stream, waiting = self._stream, self._waiting
        received_unix_ns = stream.wall.now_ns()
        while waiting and self._copied_bytes < COPIED_BYTES_MAX:
            frame_id, captured_unix_ns, budget_ns, must_run, tensors, size_bytes, encoded_bytes = waiting.popleft()
            try:
                held = stream.take(frame_id, captured_unix_ns, budget_ns, must_run, received_unix_ns)
            except CallError as error:
                error.field = f"frames.{error.field}"
                raise
            if held is None:
                continue
            self._copied_bytes += encoded_bytes
            try:
                payload = self._reader.payload(held.signature, tensors)
            except InvalidFrame as error:
                stream.refuse(held, DOES_NOT_FIT, str(error))
            else:
                stream.submit(held, payload, size_bytes)

    def _take_request(self, message: bytes) -> None:
        try:
            request = inference_pb2.StreamRequest.FromString(message)
        except DecodeError:
            raise malformed("it holds no StreamRequest") from None
        match request.WhichOneof("request"):
            case "clock_ping":
                ping = request.clock_ping
                clock = clock_of(ping.clock, "clock_ping.clock") if ping.HasField("clock") else None
                self._stream.ping(ping.ping_id, ping.client_send_unix_nano, clock)
            case "cancel":
                self._pause_for(partial(self._cancel, request.cancel.frame_ids))
            case "open":
                raise CallError("STREAM_OPENED_TWICE", "the stream is open already; frames are expected", "open")
            case _:
                raise malformed("a request is none of clock_ping and cancel")

    async def _cancel(self, frame_ids: Sequence[int]) -> None:
        await self._stream.cancel(frame_ids)
        await self._resume()

    def _hold(self) -> None:
        """Reads no more until there is room, and all frames that have come are taken."""
        if self._resuming is None or self._resuming.done():
            self._pause_for(self._resume)

    def _pause_for(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        self._packets.pause()
        self._resuming = asyncio.create_task(self._done(work))

    async def _done(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        try:
            await work()
        except Exception as error:
            self._stream.end(reason_of(error))

    async def _resume(self) -> None:
        stream = self._stream
        while not stream.closed:
            if not stream.has_room:
                await stream.room()
            elif self._waiting:
                self._copied_bytes = 0
                began_ns = self._clock()
                self._take_frames()
                if not self._waiting:
                    stream.wait_with(0)
                await asyncio.sleep((self._clock() - began_ns) / 1e9)
            else:
                self._copied_bytes = 0
                self._packets.on_message(self._readable)
                return
