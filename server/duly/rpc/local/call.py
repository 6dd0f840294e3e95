"""One stream of the local transport, from its OPEN to its END: who may have it, its memory, and how it ends."""

import asyncio
import struct
from functools import partial

import structlog
from google.protobuf.message import DecodeError

from duly.access.evidence import Evidence, UnixPeer
from duly.access.gate import Caller, Gate
from duly.access.listeners import Listener
from duly.rpc.bugs import internal
from duly.rpc.duly_v1.opening import invalid_open, opened, stream_request
from duly.rpc.local.areas import FrameArea, OutcomeArea
from duly.rpc.local.errors import ended_by, malformed, no_room
from duly.rpc.local.incoming import Incoming
from duly.rpc.local.layout import OPEN, OPEN_HEAD, VERSION
from duly.rpc.local.outgoing import Outgoing
from duly.rpc.local.packets import Gone, Packets, Process, tell
from duly.rpc.local.sizes import frame_area_bytes, outcome_area_bytes
from duly.rpc.places import Places
from duly.runtime.catalogue import ModelError
from duly.streams.errors import CallError, InvalidTerms
from duly.streams.open_streams import OpenStreams
from duly.streams.rights import Right, Rights
from duly.streams.stream import Stream
from duly.v1 import inference_pb2

OPEN_SECONDS_MAX = 10.0
"""How long a local connection may be there before its OPEN comes; then it ends: FIRST_MESSAGE_NOT_OPEN."""
FLUSH_SECONDS = 1.0
"""How long the end of a broken local stream waits for its client to take its last outcomes, and then the status."""
PASSED_OVER_MAX = 64
"""So many messages that come when a local stream has ended are passed over; then it is not looked for its client's end
any more, and waited for as long as for one that reads nothing."""
ACT = "InferenceService/Stream"

_log = structlog.get_logger("duly.local")


class Call:
    """Serves one connection."""

    def __init__(
        self,
        packets: Packets,
        peer: UnixPeer,
        process: Process,
        streams: OpenStreams,
        gate: Gate,
        listener: Listener,
        opening: Places,
    ) -> None:
        """`peer`, `process`: who is at the other end. `opening`: the places of calls that wait for their OPEN."""
        self._packets = packets
        self._peer = peer
        self._process = process
        self._streams = streams
        self._gate = gate
        self._opening = opening
        self._loop = asyncio.get_running_loop()
        self._left_alone: asyncio.Future[None] = self._loop.create_future()
        """Done when nobody reads any more."""
        self.connection = f"unix:uid={peer.uid},gid={peer.gid},pid={peer.pid}"
        self._caller = Caller(gate, listener, ACT, Right.INFER, self.connection)

    async def serve(self) -> None:
        """Serves the connection until it is over, and closes it."""
        lasting = False
        try:
            stream = await self._open()
            self._gate.begins(self._caller)
            lasting = True
            await self._serve(stream)
        except Gone:
            pass
        except (CallError, ModelError) as error:
            await self._end(error)
        except Exception:
            await self._end(internal("a local stream"))
        finally:
            if lasting:
                self._gate.over(self._caller)
            self._packets.close()

    async def _open(self) -> Stream:
        """Waits for the OPEN, judges who asks, and opens the stream."""
        message = await self._first_message()
        try:
            kind, version, token_bytes, _, memory_bytes = OPEN_HEAD.unpack_from(message)
            if kind != OPEN:
                raise CallError("FIRST_MESSAGE_NOT_OPEN", "the first message should be an OPEN", "open")
            if version != VERSION:
                error = malformed(f"it is of version {version} of the layout, the server speaks {VERSION}")
                error.metadata["transport"] = "grpc"
                raise error
            token = message[OPEN_HEAD.size :][:token_bytes].decode("ascii")
            request = inference_pb2.OpenStream.FromString(message[OPEN_HEAD.size + token_bytes :])
        except (struct.error, UnicodeDecodeError, DecodeError):
            raise malformed("it is no OPEN") from None
        rights = await self._caller.judge(Evidence("unix", token, None, self._peer))
        memory = self._streams.host.memory
        try:
            stream = await self._streams.open(stream_request(request), rights, self.connection)
        except InvalidTerms as error:
            raise invalid_open(error) from None
        try:
            limits = self._streams.limits
            frames = frame_area_bytes(stream.signature, limits, memory_bytes)
            message = opened(stream, limits.stream, frames).opened.SerializeToString()
            outcomes = outcome_area_bytes(stream.signature, len(message))
            memory.share(stream.use, frames + outcomes)
            self._shared_bytes = frames + outcomes
            try:
                self._frames, self._outcomes = _areas(stream.stream_id, frames, outcomes)
            except OSError:
                memory.unshare(stream.use, self._shared_bytes)
                raise no_room("the system has no room for the stream's shared memory") from None
        except BaseException:
            stream.close()
            stream.abandon()
            self._streams.closed(stream, stream.model)
            raise
        self._greeting = message
        return stream

    async def _first_message(self) -> bytes:
        place = self._opening.take(self.connection)
        if place is None:
            raise no_room("too many calls wait for their OPEN")
        there: asyncio.Future[None] = self._loop.create_future()
        self._packets.on_message(partial(tell, there))
        with place:
            await asyncio.wait([there, place.ended], timeout=OPEN_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
        self._packets.pause()
        if not there.done():
            if place.ended.done():
                raise no_room(f"no message came while {self._opening.places} calls waited for their OPEN")
            raise CallError("FIRST_MESSAGE_NOT_OPEN", f"no message came within {OPEN_SECONDS_MAX:g} s", "open")
        message = self._packets.receive()
        return b"" if message is None else bytes(message)

    async def _serve(self, stream: Stream) -> None:
        model = stream.model
        clock = self._streams.host.driver.clock
        incoming = Incoming(self._packets, stream, self._frames, clock)
        outgoing = Outgoing(self._packets, stream, self._frames, self._outcomes, self._greeting)
        writer: asyncio.Task[None] | None = None
        broken: Exception | None = None
        try:
            self._process.on_end(partial(self._dead, stream))
            self._caller.changed = lambda rights: self._streams.judge_anew(stream, rights)
            self._caller.ends_by(stream.end)
            self._judge_again(self._caller.rights)
            writer = asyncio.create_task(outgoing.write())
            incoming.begin()
            try:
                await stream.ended
            except (CallError, ModelError) as error:
                broken = error
            finally:
                incoming.stop()
                self._frames.memory.close()  # no worker is given it from now on
                stream.close()
            if broken is not None:
                stuck_s = stream.stuck_ns(clock()) / 1e9
                seconds = max(0.0, FLUSH_SECONDS - stuck_s)
                await asyncio.wait([writer, self._left_alone], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            await self._end(broken)
            await self._left(FLUSH_SECONDS if broken is not None else self._streams.slow_reader_s)
        finally:
            if writer is not None and not writer.done():
                writer.cancel()
                await asyncio.wait([writer])
            self._process.close()
            if not stream.closed:
                stream.close()
            stream.abandon()
            stream.log.debug("stream closed", reason=str(broken or ""), local=True)
            self._frames.close()
            self._outcomes.close()
            self._streams.host.memory.unshare(stream.use, self._shared_bytes)
            self._streams.closed(stream, model)

    def _dead(self, stream: Stream) -> None:
        """The client's process has ended, whoever has its socket now."""
        tell(self._left_alone)
        stream.end(None)

    def _judge_again(self, rights: Rights | None) -> None:
        """They may have changed since the call looked at them."""
        if rights is not None:
            try:
                self._caller.changed(rights)
            except CallError as error:
                self._caller.end(error)

    async def _end(self, error: Exception | None) -> None:
        """Sends the status with which the stream ends, if the client takes it."""
        message = ended_by(None)
        if isinstance(error, CallError | ModelError):
            self._caller.failed(error.reason, str(error))
            text = str(error)
            if isinstance(error, ModelError) and self._caller.rights is not None:
                text = error.told_to(self._caller.rights.may_use)
            message = ended_by(error, text)
        try:
            if self._left_alone.done():
                self._packets.send_at_once(message)  # a child of the process may read it
                return
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._packets.send(message)
        except (Gone, TimeoutError):
            pass

    async def _left(self, seconds: float) -> None:
        """Waits until the client has closed its end, as it does when it has read everything, for so long at most."""
        left = self._left_alone
        messages = 0

        def look() -> None:
            nonlocal messages
            messages += 1
            try:
                self._packets.receive()
                if messages > PASSED_OVER_MAX:
                    self._packets.pause()
            except Gone:
                self._packets.pause()
                tell(left)

        self._packets.on_message(look)
        await asyncio.wait([left], timeout=seconds)


def _areas(stream_id: int, frame_bytes: int, outcome_bytes: int) -> tuple[FrameArea, OutcomeArea]:
    frames = FrameArea(stream_id, frame_bytes)
    try:
        return frames, OutcomeArea(outcome_bytes)
    except BaseException:
        frames.close()
        raise
