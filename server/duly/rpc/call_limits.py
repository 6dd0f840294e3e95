"""Keeps one client's calls from taking what the calls of others need.

Calls are of several kinds, each with places of its own (`places`): single frames, labels, calls that watch something,
questions about health, other questions, and acts of an operator. So neither watchers nor questions can keep anybody
from opening a stream, from asking for health or from draining the server. Streams have limits of their own
(`streams/open_streams`).

What only asks is also counted over time: each connection may ask a little for nothing, and all connections share a
budget for what is more (`streams/cheap_work`). A call beyond it waits its turn, and is refused where that would take
long. So much asking slows down who asks.

The requests of these calls are small. One that is larger than any can be is refused before it is parsed.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from inspect import isasyncgenfunction
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from duly.rpc.bugs import internal
from duly.rpc.errors import abort
from duly.rpc.guard import NEEDS, OPEN
from duly.rpc.places import Place, Places
from duly.runtime.catalogue import ModelError
from duly.streams.cheap_work import Budget, CheapWork, SharedBudget
from duly.streams.errors import CallError
from duly.streams.rights import ADMIN

WATCHERS_BESIDE_STREAMS = 256
"""There are as many places for watchers as for streams, so that whoever streams can watch, too, and so many more."""
SINGLES_TIMES_STREAMS = 2
HEALTH_CALLS_MAX = 256
"""So many questions about health may be under way; further ones are refused: CALLS_EXHAUSTED."""
QUESTION_CALLS_MAX = 256
"""So many other questions may be under way; further ones are refused: CALLS_EXHAUSTED."""
FEEDBACK_CALLS_MAX = 128
"""So many messages with labels may be under way; further ones are refused: CALLS_EXHAUSTED."""
ADMIN_CALLS_MAX = 32
"""So many acts of operators may be under way; further ones are refused: CALLS_EXHAUSTED."""
REQUEST_SECONDS_MAX = 10.0
"""How long the request of a call, or the single frame, may take to come in whole; then it is INVALID_REQUEST."""
REQUEST_BYTES_MAX = 65_536
"""The largest request that holds no frame; a larger one is INVALID_REQUEST. Names take a few dozen bytes."""
ASKED_PER_S, ASKED_BURST = 10, 64
"""How often one connection may ask for nothing."""
ASKED_PER_S_ALL, ASKED_BURST_ALL = 500, 250
"""How often all connections together may ask beyond that."""
ONE_NS = 500_000
TOOK_MAX = 20
"""For each ONE_NS that an answer took, it counts as one question more, up to TOOK_MAX."""
WAIT_NS_MAX = 1_000_000_000
"""A call waits no longer for its turn, then it is refused: CALLS_EXHAUSTED."""
CONNECTIONS_KEPT = 4096
"""Of so many connections it is known how often they asked."""

_STREAMS = ("/duly.v1.InferenceService/Stream", "/inference.GRPCInferenceService/ModelStreamInfer")
_SINGLES = ("/duly.v1.InferenceService/Infer", "/inference.GRPCInferenceService/ModelInfer")
_FEEDBACK = "/duly.v1.InferenceService/Feedback"
_WHERE_TO = {
    "/inference.GRPCInferenceService/RepositoryModelLoad": (
        ": files of models come into the repository by whoever runs the server, not by requests"
    )
}
"""What to do in place of a request that is too large."""
_ADMIN = frozenset(method for method, right in NEEDS.items() if right in ADMIN)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Behaviour = Callable[[Any, Context], Awaitable[Any]]
_Placed = Callable[[Any, Context, Place], Awaitable[Any]]
"""What serves a call in its place."""


class CallLimits(grpc.aio.ServerInterceptor):
    def __init__(self, streams_max: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._singles = Places(SINGLES_TIMES_STREAMS * streams_max + QUESTION_CALLS_MAX, may_end=False)
        self._watchers = Places(streams_max + WATCHERS_BESIDE_STREAMS, may_end=True)
        self._health = Places(HEALTH_CALLS_MAX, may_end=False)
        self._questions = Places(QUESTION_CALLS_MAX, may_end=False)
        self._admin = Places(ADMIN_CALLS_MAX, may_end=False)
        self._feedback = Places(FEEDBACK_CALLS_MAX, may_end=False)
        self._asked_by_all = SharedBudget(clock, ASKED_PER_S_ALL, ASKED_BURST_ALL)
        self._asked: OrderedDict[str, CheapWork] = OrderedDict()
        self._limited: dict[str, tuple[Handler, Handler]] = {}
        """The handlers by method, as they are and with limits."""

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or method in _STREAMS:
            return handler
        known = self._limited.get(method)
        if known is None or known[0] is not handler:
            # Generated code makes its handlers once; those that are made anew for each call are not kept.
            known = self._limited[method] = (handler, self._limit(method, handler))
        return known[1]

    def _limit(self, method: str, handler: Handler) -> Handler:
        serializer = _bytes_as_they_are(handler.response_serializer)
        if handler.request_streaming:
            # Reflection is the only such service: it answers an empty request with an error of its own.
            return grpc.stream_stream_rpc_method_handler(
                self._within(self._watchers, self._in_turn(_anyhow(_written_out(handler.stream_stream)))),
                _empty_where_large(handler.request_deserializer),
                serializer,
            )
        places = self._questions
        if method in _SINGLES:
            places, behaviour = self._singles, _only(handler.unary_unary)
        elif method == _FEEDBACK:
            places, behaviour = self._feedback, _only(handler.unary_unary)
        elif handler.response_streaming:
            places = self._watchers
            behaviour = _parsed(_written_out(handler.unary_stream), handler.request_deserializer, method)
        else:
            behaviour = _parsed(_only(handler.unary_unary), handler.request_deserializer, method)
            if method in _ADMIN:
                places = self._admin
            elif method in OPEN or method.startswith("/grpc.health."):
                places = self._health
        if places in (self._questions, self._health):
            behaviour = self._counted(behaviour)  # a call that lasts only waits
        # All read their request themselves: only so do they have a place, and a time-out, while it comes.
        placed = _reading(behaviour)
        if places not in (self._singles, self._feedback):  # whose handlers say how much is too much
            placed = self._in_turn(placed)
        return grpc.stream_stream_rpc_method_handler(self._within(places, placed), None, serializer)

    def _within(self, places: Places, behaviour: _Placed) -> _Behaviour:
        """Runs the call in a place of its own, and ends it where that is needed for another."""

        async def call(request: Any, context: Context) -> Any:
            try:
                place = places.take(context.peer())
                if place is None:
                    text = f"this client has too many calls of the kind under way; {places.places} are shared by all"
                    raise CallError("CALLS_EXHAUSTED", text)
                with place:
                    if places is self._watchers:
                        return await _until_ended(behaviour(request, context, place), place)
                    return await behaviour(request, context, place)
            except (CallError, ModelError) as error:
                await abort(context, error)
            except (grpc.aio.AbortError, grpc.aio.UsageError, grpc.aio.BaseError):
                raise
            except Exception:
                await abort(context, internal("a call"))

        return call

    def _in_turn(self, behaviour: _Placed) -> _Placed:
        """Lets the call wait for its turn where too much is asked, before its request is read: what is refused costs
        the less.
        """

        async def call(request: Any, context: Context, place: Place) -> Any:
            wait_ns = self._asked_by(context.peer()).done(1, WAIT_NS_MAX)
            if wait_ns:
                if wait_ns <= WAIT_NS_MAX:
                    place.waits(True)
                    await asyncio.wait([place.ended], timeout=wait_ns / 1e9)
                    place.waits(False)
                if wait_ns > WAIT_NS_MAX or place.ended.done():
                    raise CallError("CALLS_EXHAUSTED", "clients ask too often; ask less often")
            return await behaviour(request, context, place)

        return call

    def _counted(self, behaviour: _Behaviour) -> _Behaviour:
        """Counts a call whose answer takes long, such as a list of many models, as several."""

        async def call(request: Any, context: Context) -> Any:
            began_ns = self._clock()
            response = await behaviour(request, context)
            took = min(TOOK_MAX, (self._clock() - began_ns) // ONE_NS)
            if took:
                self._asked_by(context.peer()).done(took, WAIT_NS_MAX)
            return response

        return call

    def _asked_by(self, connection: str) -> CheapWork:
        asked = self._asked.get(connection)
        if asked is None:
            if len(self._asked) >= CONNECTIONS_KEPT:
                self._asked.popitem(last=False)
            own = Budget(self._clock, ASKED_PER_S, ASKED_BURST)
            asked = self._asked[connection] = CheapWork(own, self._asked_by_all)
        else:
            self._asked.move_to_end(connection)
        return asked


async def _until_ended(behaviour: Awaitable[Any], place: Place) -> Any:
    """Raises CallError where the place is needed for another call before this one is over."""
    running = asyncio.ensure_future(behaviour)
    try:
        await asyncio.wait([running, place.ended], return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not running.done():
            running.cancel()
    if running.done():
        return running.result()
    raise CallError("CALLS_EXHAUSTED", "this client had the most calls of the kind, and another needed a place")


def _anyhow(behaviour: _Behaviour) -> _Placed:
    return lambda request, context, place: behaviour(request, context)


def _only(behaviour: Any) -> _Behaviour:
    return behaviour  # type: ignore[no-any-return]  # gRPC's stubs do not say what a handler is


def _written_out(behaviour: Any) -> _Behaviour:
    """Returns a handler that writes its responses itself, whichever way it was written."""
    if not isasyncgenfunction(behaviour):
        return _only(behaviour)

    async def call(request: Any, context: Context) -> None:
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return call


def _reading(behaviour: _Behaviour) -> _Placed:
    """Reads the one request, and writes the response where there is one: `behaviour` may also write several itself."""

    async def call(_: Any, context: Context, place: Place) -> None:
        place.waits(True)
        reading = await _unless_ended(context.read(), place, REQUEST_SECONDS_MAX)
        if not reading.done():
            raise CallError("INVALID_REQUEST", f"no request came within {REQUEST_SECONDS_MAX:g} s")
        message = reading.result()
        if message is grpc.aio.EOF:
            raise CallError("INVALID_REQUEST", "the call ended before its request came")
        place.waits(False)
        response = await behaviour(message, context)
        if response is not None:
            place.waits(True)
            (await _unless_ended(context.write(response), place, None)).result()

    return call


async def _unless_ended(work: Awaitable[Any], place: Place, seconds: float | None) -> "asyncio.Future[Any]":
    """Waits for a read or write, for so long at most. It is not cancelled after that, as a cancelled one leaks inside
    gRPC: it ends with the call. Raises CallError where the call's place was needed for another.
    """
    working = asyncio.ensure_future(work)
    working.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait([working, place.ended], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if not working.done() and place.ended.done():
        raise CallError("CALLS_EXHAUSTED", "the call waited for its client, and another needed its place")
    return working


def _parsed(behaviour: _Behaviour, deserializer: Any, method: str) -> _Behaviour:
    """Parses the request, if it is no larger than any may be."""
    advice = _WHERE_TO.get(method, "")

    async def call(message: bytes, context: Context) -> Any:
        if len(message) > REQUEST_BYTES_MAX:
            text = f"the request has {len(message)} bytes, at most {REQUEST_BYTES_MAX} are taken{advice}"
            raise CallError("INVALID_REQUEST", text)
        try:
            request = deserializer(message)
        except DecodeError:
            raise CallError("MESSAGE_MALFORMED", "the request is no message of this method") from None
        return await behaviour(request, context)

    return call


def _empty_where_large(deserializer: Any) -> Callable[[bytes], Any]:
    return lambda message: deserializer(message if len(message) <= REQUEST_BYTES_MAX else b"")


def _bytes_as_they_are(serializer: Any) -> Callable[[Any], bytes]:
    """Lets handlers answer with bytes that they serialised themselves, once for many calls."""
    return lambda message: message if isinstance(message, bytes) else serializer(message)
