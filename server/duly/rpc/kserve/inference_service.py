"""ModelInfer and ModelStreamInfer: requests come in, and each is answered."""

import asyncio
from typing import Any

import grpc
import structlog

from duly.rpc.errors import guarded, reason_of
from duly.rpc.kserve import wording
from duly.rpc.kserve.front_end import FrontEnd, budget_ns, ends_with_call
from duly.rpc.kserve.messages import ModelInferRequest
from duly.rpc.kserve.parameters import asked_for
from duly.rpc.kserve.regions import CallRegions
from duly.rpc.kserve.replies import Answer
from duly.rpc.kserve.request_stream import RequestStream
from duly.rpc.kserve.sequences import Sequences
from duly.rpc.kserve.stream_call import StreamCall
from duly.rpc.message_bounds import MessageBounds, parse
from duly.rpc.places import Places
from duly.rpc.principal import lasts, rights_of
from duly.runtime.catalogue import ModelError
from duly.streams.errors import CallError, InvalidFrame, InvalidTerms

CALLS_BESIDE_STREAMS_MAX = 128
"""So many more calls of ModelStreamInfer than streams may be open. When more come, the oldest without a stream ends, of
the client that has most of them: CALLS_EXHAUSTED."""
FLUSH_SECONDS = 1.0
"""How long the end of a call waits for its last replies to be sent."""
_BOUNDS = MessageBounds(ModelInferRequest)

_log = structlog.get_logger("duly.kserve")

Context = grpc.aio.ServicerContext[Any, Any]


class KServeInference:
    def __init__(self, front: FrontEnd) -> None:
        self._front = front
        streams_max = front.streams.limits.server.streams_max
        self._places = Places(streams_max + CALLS_BESIDE_STREAMS_MAX, may_end=False)
        self._calls: dict[StreamCall, None] = {}
        """The calls of ModelStreamInfer under way."""
        self._sequences = Sequences(front)
        """Those over calls of ModelInfer."""

    @property
    def sequences(self) -> int:
        """How many sequences over calls of ModelInfer are open."""
        return len(self._sequences)

    # ---- one request ----

    @guarded
    async def infer(self, message: bytes, context: Context) -> bytes:
        """Serves a call of ModelInfer, whose one request is a stream of its own. Returns a ModelInferResponse."""
        request = _parse(message)
        del message
        try:
            return await self._infer(request, context)
        except InvalidTerms as error:
            error_ = wording.invalid_terms(error)
            raise CallError(error_.reason, wording.of_request(request.id, str(error_)), error_.field) from None
        except CallError as error:
            if error.reason.startswith("FRAME_"):
                raise
            raise CallError(error.reason, wording.of_request(request.id, str(error)), error.field) from None
        except ModelError as error:
            text = wording.of_request(request.id, wording.told(error, rights_of(context)))
            raise ModelError(error.reason, text, error.metadata) from None

    async def _infer(self, request: ModelInferRequest, context: Context) -> bytes:
        front, rights, connection = self._front, rights_of(context), context.peer()
        regions = front.regions.of(connection, rights.principal)
        asked = asked_for(request.parameters)
        # It is None where the call has no deadline, whatever its type says.
        remaining_s: float | None = context.time_remaining()
        if asked.sequence and front.keeps_state(request, rights):
            taking, answer = await self._sequences.infer(request, asked, rights, connection, regions, remaining_s)
            of_call = ends_with_call(taking.stream.terms.budget_ns, asked, remaining_s)
            return _response(taking, answer, regions, of_call)
        with front.streams.single(front.single_request(request, asked, rights), rights) as stream:
            taking = RequestStream(stream, regions)
            taking.take(request, asked, budget_ns(stream.terms.budget_ns, asked, remaining_s))
            del request
            while True:
                item = stream.next()
                if item is None:
                    await stream.outbox.changed.wait()
                elif isinstance(item, tuple):
                    now_ns, outcomes = item
                    for outcome in outcomes:
                        whole = taking.answer(outcome, now_ns)
                        if whole is not None:
                            of_call = ends_with_call(stream.terms.budget_ns, asked, remaining_s)
                            return _response(taking, whole, regions, of_call)
                    stream.written()

    # ---- any number of requests ----

    @guarded
    async def stream(self, _: object, context: Context) -> None:
        """Serves a call of ModelStreamInfer."""
        connection = context.peer()
        place = self._places.take(connection)
        if place is None:
            text = f"this client has too many calls of the kind under way; {self._places.places} are shared by all"
            raise CallError("CALLS_EXHAUSTED", text)
        with place:
            remaining_s = context.time_remaining()
            # It is None where the call has no deadline, whatever its type says.
            until_s = None
            if remaining_s is not None:
                until_s = asyncio.get_running_loop().time() + remaining_s
            call = StreamCall(self._front, rights_of(context), connection, until_s, place)
            lasts(call.judge_anew, call.end)
            self._calls[call] = None
            try:
                await self._serve(call, context)
            finally:
                del self._calls[call]

    async def _serve(self, call: StreamCall, context: Context) -> None:
        # Both tasks end with the call. They are never cancelled: a cancelled read or write leaks in gRPC (grpc#43360).
        reader = asyncio.create_task(self._read(call, context))
        writer = asyncio.create_task(self._write(call, context))
        try:
            await call.ended
        except (CallError, ModelError):
            call.stop()
            await asyncio.wait([writer], timeout=FLUSH_SECONDS)
            raise
        finally:
            call.close()
            _log.debug("call of ModelStreamInfer over", half_closed=reader.done())

    async def _read(self, call: StreamCall, context: Context) -> None:
        try:
            while not call.ended.done():
                message = await context.read()
                if call.ended.done():
                    return  # nobody would answer
                if message is grpc.aio.EOF:
                    call.finish()
                    return
                stream = call.take_common(message)
                if stream is None:
                    await call.take(message, _parse(message))
                elif not stream.has_room:
                    del message
                    await stream.room()
        except Exception as error:
            call.end(reason_of(error, "a request of a stream"))

    async def _write(self, call: StreamCall, context: Context) -> None:
        try:
            await call.write(context.write)
        except Exception as error:
            call.end(reason_of(error, "the replies of a stream"))

    # ---- the end ----

    def watch(self) -> None:
        """Ends sequences that are idle for long. It must be called periodically."""
        now_ns = self._front.streams.host.driver.clock()
        self._sequences.watch(now_ns)
        for call in self._calls:
            call.watch(now_ns)

    def end_all(self) -> None:
        """Ends all calls of ModelStreamInfer and all sequences once the replies that there are have been sent. Call it
        when every frame is answered.
        """
        self._sequences.end_all()
        for call in self._calls:
            call.end(CallError("DRAINING", "the server has stopped"))


def _response(taking: RequestStream, answer: Answer, regions: CallRegions, of_call: bool) -> bytes:
    """Returns the ModelInferResponse. Raises CallError where there are no results, or they go nowhere. `of_call`: as
    for `wording.error_of`.
    """
    if not answer.outcomes and not answer.tells:
        raise wording.error_of(answer, of_call)
    writer = taking.writer(answer.outcomes)
    try:
        if answer.wanted is not None:
            for place, parts in writer.places(answer):
                regions.write(place, parts)
        return b"".join(writer.response(answer))
    except InvalidFrame as error:
        raise CallError("INVALID_REQUEST", str(error)) from None


def _parse(message: bytes) -> ModelInferRequest:
    """Parses a request. Raises CallError."""
    _BOUNDS.check(message)
    return parse(ModelInferRequest, message)
