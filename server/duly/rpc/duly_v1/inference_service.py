"""InferenceService of duly.v1: streams, single frames and labels. It translates between the wire and `duly.streams`."""

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc

from duly.rpc.bugs import internal
from duly.rpc.duly_v1.codec import ParsedFrame, StreamCodec, frames_of
from duly.rpc.duly_v1.common_frames import FrameAt
from duly.rpc.duly_v1.feedback import labels_sent, results
from duly.rpc.duly_v1.notices import told
from duly.rpc.duly_v1.opening import clock_of, invalid_open, opened, single_request, stream_request
from duly.rpc.duly_v1.taking import take
from duly.rpc.errors import abort, guarded, reason_of
from duly.rpc.message_bounds import SHORT_BYTES, MessageBounds, check_frames, parse
from duly.rpc.places import Places
from duly.rpc.principal import lasts, rights_of
from duly.runtime.catalogue import ModelError
from duly.sampling.feedback import FeedbackDesk
from duly.streams.errors import CallError, InvalidTerms
from duly.streams.open_streams import OpenStreams
from duly.streams.outbox import Notice, Opened
from duly.streams.stream import Stream
from duly.v1 import inference_pb2

FRAMES_A_TURN = 64
"""How many frames of one message are taken before other streams have their turn."""
OPEN_SECONDS_MAX = 10.0
"""How long a call may be open before its OpenStream comes; then it ends: FIRST_MESSAGE_NOT_OPEN."""
OPENING_MAX = 128
"""So many more calls than streams may be open may wait for their OpenStream. When more come, the oldest of the
connection that has most ends."""
FLUSH_SECONDS = 1.0
"""How long the end of a broken stream waits for its last outcomes to be sent, since its client last took some."""

STREAM_REQUEST = MessageBounds(inference_pb2.StreamRequest)
INFER_REQUEST = MessageBounds(inference_pb2.InferRequest)

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService:
    def __init__(self, streams: OpenStreams, message_bytes_max: int, desk: FeedbackDesk | None = None) -> None:
        """`message_bytes_max`: the largest message that the transport reads. `desk`: what takes labels; None: the
        server keeps no frames.
        """
        self._streams = streams
        self._desk = desk
        self._message_bytes_max = message_bytes_max
        self._opening = Places(streams.limits.server.streams_max + OPENING_MAX, may_end=True)

    async def stream(self, _: object, context: Context) -> None:
        """Serves a call of InferenceService.Stream."""
        try:
            stream = await self._open(context)
        except (CallError, ModelError) as error:
            await abort(context, error)
        except Exception:
            await abort(context, internal("the opening of a stream"))
        lasts(lambda rights: self._streams.judge_anew(stream, rights), stream.end)
        model = stream.model
        codec = StreamCodec(stream.signature, stream.wanted)
        # Both tasks end with the call. They are never cancelled: a cancelled read or write leaks in gRPC (grpc#43360).
        reader = asyncio.create_task(self._read(stream, codec, context))
        writer = asyncio.create_task(self._write(stream, codec, context))
        broken: CallError | ModelError | None = None
        try:
            try:
                await stream.ended
            except (CallError, ModelError) as error:
                broken = error
            finally:
                stream.close()
                try:
                    if broken is not None and not writer.done():
                        stuck_s = stream.stuck_ns(self._streams.host.driver.clock()) / 1e9
                        await asyncio.wait([writer], timeout=max(0.0, FLUSH_SECONDS - stuck_s))
                finally:  # the client may go meanwhile
                    stream.abandon()
                    stream.log.debug("stream closed", reason=str(broken or ""), half_closed=reader.done())
            if broken is not None:
                # If the client does not read, this waits until it does or is gone; the stream counts as open meanwhile.
                await abort(context, broken)
        finally:
            self._streams.closed(stream, model)

    async def _open(self, context: Context) -> Stream:
        request = await self._first_message(context)
        try:
            return await self._streams.open(stream_request(request), rights_of(context), context.peer())
        except InvalidTerms as error:
            raise invalid_open(error) from None

    async def _first_message(self, context: Context) -> inference_pb2.OpenStream:
        # The time-out does not cancel the read: a cancelled read leaks inside gRPC. It ends with the call.
        place = self._opening.take(context.peer())
        if place is None:
            text = "too many calls wait for their OpenStream"
            raise CallError("STREAMS_EXHAUSTED", text)
        reading = asyncio.ensure_future(context.read())
        with place:
            await asyncio.wait([reading, place.ended], timeout=OPEN_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            reading.add_done_callback(lambda read: read.cancelled() or read.exception())
            if place.ended.done():
                text = f"no message came while {self._opening.places} calls waited for their OpenStream"
                raise CallError("STREAMS_EXHAUSTED", text)
            raise CallError("FIRST_MESSAGE_NOT_OPEN", f"no message came within {OPEN_SECONDS_MAX:g} s", "open")
        message = reading.result()
        if message is grpc.aio.EOF:
            raise CallError("FIRST_MESSAGE_NOT_OPEN", "the stream ended before its first message, an OpenStream")
        STREAM_REQUEST.check(message)
        request = parse(inference_pb2.StreamRequest, message)
        if request.WhichOneof("request") != "open":
            raise CallError("FIRST_MESSAGE_NOT_OPEN", "the first message should be an OpenStream", "open")
        return request.open

    # ---- what comes in ----

    async def _read(self, stream: Stream, codec: StreamCodec, context: Context) -> None:
        """Takes messages until the client half-closes or breaks the protocol, which ends the stream."""
        try:
            while not stream.closed:
                message = await context.read()
                if stream.closed:
                    return  # nobody would answer
                if message is grpc.aio.EOF:
                    stream.finish()
                    return
                size_bytes = len(message)
                frames: Iterable[FrameAt | ParsedFrame] | None = codec.common_frames(message)
                if frames is None:
                    request = self._request(message)
                    if request.WhichOneof("request") == "frames":
                        check_frames(len(request.frames.frames))
                        frames = frames_of(request.frames)
                    else:
                        await self._take_other(stream, request)
                    message = b""
                    del request
                if frames is not None:
                    received_unix_ns = stream.wall.now_ns()
                    for number, frame in enumerate(frames, start=1):
                        take(stream, codec, message, frame, received_unix_ns)
                        if number % FRAMES_A_TURN == 0:
                            stream.wait_with(size_bytes)
                            await stream.give_way()
                            stream.wait_with(0)
                            if stream.closed:
                                return
                    # What waits for the next message holds nothing of this one.
                    frames = frame = None  # type: ignore[assignment]
                del message
                if not stream.has_room:
                    await stream.room()
        except Exception as error:
            stream.end(_reason(error, "a message of a stream"))

    def _request(self, message: bytes) -> inference_pb2.StreamRequest:
        if len(message) > SHORT_BYTES:
            STREAM_REQUEST.check(message)
        return parse(inference_pb2.StreamRequest, message)

    async def _take_other(self, stream: Stream, request: inference_pb2.StreamRequest) -> None:
        """Takes a message that holds no frames."""
        match request.WhichOneof("request"):
            case "clock_ping":
                ping = request.clock_ping
                clock = clock_of(ping.clock, "clock_ping.clock") if ping.HasField("clock") else None
                stream.ping(ping.ping_id, ping.client_send_unix_nano, clock)
            case "cancel":
                await stream.cancel(request.cancel.frame_ids)
            case "open":
                text = "the stream is open already; frames are expected"
                raise CallError("STREAM_OPENED_TWICE", text, "open")
            case _:
                text = "a message has none of open, frames, clock_ping and cancel"
                raise CallError("MESSAGE_MALFORMED", text)

    # ---- what goes out ----

    async def _write(self, stream: Stream, codec: StreamCodec, context: Context) -> None:
        """Sends what there is to send until everything is sent and nothing more comes, which ends the stream."""
        changed = stream.outbox.changed
        try:
            while not stream.over:
                item = stream.next()
                if item is None:
                    if not stream.over:
                        await changed.wait()
                    continue
                if isinstance(item, tuple):
                    written = codec.outcomes(*item, stream.planned_delay_ns)
                else:
                    written = self._notice(stream, item).SerializeToString()
                del item  # while the client does not read, each result is there once
                await context.write(written)
                del written
                stream.written()
            stream.end(None)
        except Exception as error:
            stream.end(_reason(error, "the outcomes of a stream"))

    def _notice(self, stream: Stream, notice: Notice) -> inference_pb2.StreamResponse:
        if isinstance(notice, Opened):
            return opened(stream, self._streams.limits.stream, self._message_bytes_max)
        return told(stream, notice)

    # ---- single frames ----

    @guarded
    async def infer(self, message: bytes, context: Context) -> bytes:
        """Serves a call of InferenceService.Infer, which is a stream of one frame. Returns an InferResponse."""
        INFER_REQUEST.check(message)
        request = parse(inference_pb2.InferRequest, message)
        try:
            with self._streams.single(single_request(request), rights_of(context)) as stream:
                codec = StreamCodec(stream.signature, stream.wanted, learns=0)
                frame = request.frame
                remaining_s = context.time_remaining()
                # It is None where the call has no deadline, whatever its type says.
                if remaining_s is not None and frame.budget_nano >= 0:  # type: ignore[redundant-expr]
                    budget_ns = frame.budget_nano or stream.terms.budget_ns
                    frame.budget_nano = max(1, min(budget_ns, int(remaining_s * 1e9)))
                numbers = frame.frame_id, frame.capture_time_unix_nano, frame.budget_nano, frame.must_run
                take(stream, codec, b"", (*numbers, frame), stream.wall.now_ns())
                while not isinstance(sent := stream.next(), tuple):
                    if sent is None:  # else it is advice, for which a single frame has no use
                        await stream.outbox.changed.wait()
                now_ns, (outcome,) = sent
                response = codec.single(now_ns, outcome, stream.planned_delay_ns)
                if key := stream.label_key:
                    response += inference_pb2.InferResponse(stream_key=key).SerializeToString()  # which merges both
                return response
        except InvalidTerms as error:
            raise invalid_open(error) from None

    # ---- labels ----

    @guarded
    async def feedback(self, message: bytes, context: Context) -> bytes:
        """Serves a call of InferenceService.Feedback. Returns a FeedbackResponse."""
        if self._desk is None:
            text = "the server keeps no frames that labels could be for: duly serve --sample or --learn does"
            raise CallError("FEEDBACK_OFF", text)
        if self._streams.draining:
            raise CallError("DRAINING", "the server is draining; send the labels when it is back")
        return results(await self._desk.take(rights_of(context), labels_sent(message)))


def _reason(error: Exception, what: str) -> Exception | None:
    """Returns the error with which a stream ends whose reading or writing raised. None: its call is over."""
    return invalid_open(error) if isinstance(error, InvalidTerms) else reason_of(error, what)
