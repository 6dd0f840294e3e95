"""A server of the KServe v2 protocol under load: Triton, MLServer, KServe and others.

A connection is one bidirectional ModelStreamInfer call, or, for servers that have none, a ModelInfer call for each
frame. All connections of one sender process share one channel, as users have it.

The protocol knows no deadlines and no outcomes: an answer with outputs counts as ON_TIME, for the sender's clock to
judge, and an error by what its code and text mean (`kserve_messages`). A server of duly's says in a parameter what
became of a frame (`?terms=duly`). A frame is found by its request's id, which is its place in the schedule.
"""

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from duly_client.proxy import channel_options
from duly_client.types import Encoding, Payload, TensorSpec
from duly_load.payloads.prepared import bytes_of
from duly_load.protocols import kserve_proto
from duly_load.protocols.address import Address
from duly_load.protocols.byte_budget import ByteBudget
from duly_load.protocols.connection import AnswerSink, Connection, FrameAnswer, TargetError
from duly_load.protocols.kserve_messages import KserveModel, ModelError, outcome_of_error, terms_of
from duly_load.results.outcomes import FrameOutcome
from duly_load.scenario.schedule import Session
from duly_load.scenario.tables import Sensor

ANSWER_TIMEOUT_S = 5.0
"""The timeout of questions before frames are sent, and of a stream's opening."""
REQUESTS_BYTES_MAX = 64 * 2**20
"""The most payload bytes of all ModelInfer calls of one process under way; a larger one goes alone."""
CALLS_MAX = 4096
"""ModelInfer calls of one connection that are under way; further ones wait until one of these is answered."""
NOT_TRITONS = "its streams do not answer as Triton's do"

_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # a frame is never sent twice
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
)
_CONNECTION_LOST = (
    "failed to connect",
    "Stream removed",
    "Socket closed",
    "GOAWAY",
    "Cancelling all calls",
    "keepalive",
)
"""Parts of what gRPC's core says itself when it has no connection, or loses it."""
_ID_IN_TEXT = re.compile(r"\[request id: (\d+)\]")
"""The request id as Triton writes it into most of its errors."""


class KserveTarget:
    """Connects at the first question or connection."""

    def __init__(self, address: Address) -> None:
        self.address = address
        unix = address.endpoint.startswith("unix:")
        self.name = f"kserve+{address.endpoint}" if unix else f"kserve://{address.endpoint}"
        """The target as a user types it, for messages."""
        self.instead = f"{self.name}?calls=unary sends a call for each frame"
        """What to do about a server without Triton's streams."""
        self.byte_budget = ByteBudget(REQUESTS_BYTES_MAX)
        """The bound on the payloads of calls under way."""
        self._models: dict[str, KserveModel] = {}
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> "KserveTarget":
        self._channel = grpc.aio.insecure_channel(
            self.address.endpoint, [*_CHANNEL_OPTIONS, *channel_options(self.address.endpoint)]
        )
        self.infer = self._method("ModelInfer")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def inputs(self, model: str) -> Sequence[TensorSpec]:
        """See `Target.inputs`."""
        return (await self.model(model)).inputs

    def connection(self, sensor: Sensor, session: Session, encoding: Encoding | None, sink: AnswerSink) -> Connection:
        """See `Target.connection`."""
        kind = _Calls if self.address.unary else _Stream
        return kind(self, sensor, session, encoding, sink)

    async def model(self, name: str) -> KserveModel:
        """Asked for once. Raises TargetError."""
        async with self._asking:
            if name not in self._models:
                self._models[name] = await self._ask_for_model(name)
            return self._models[name]

    def start_stream(self, timeout_s: float | None = None) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
        """A ModelStreamInfer call; messages are bytes both ways."""
        start: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        start = self._channel.stream_stream(_path("ModelStreamInfer"))
        return start(timeout=timeout_s)

    def is_lost(self, error: grpc.aio.AioRpcError) -> bool:
        """True where a call failed because the connection did, not because the server answered so.

        A lost connection is CANCELLED for calls that a server took down with itself, or UNAVAILABLE, which servers also
        say when a queue is full. A server that answers has a connection that is ready; where that is ready again by
        now, the words of gRPC's core decide.
        """
        if error.code() is grpc.StatusCode.CANCELLED:
            return True
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            return False
        ready = self._channel.get_state() is grpc.ChannelConnectivity.READY
        return not ready or any(part in (error.details() or "") for part in _CONNECTION_LOST)

    async def _ask_for_model(self, name: str) -> KserveModel:
        try:
            live = await self._ask("ServerLive", kserve_proto.ServerLiveRequest())
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise TargetError(f"{self.name}: it does not speak the KServe v2 protocol ({_words(error)})") from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TargetError(f"{self.name}: no answer within {ANSWER_TIMEOUT_S:g} s") from error
            raise TargetError(f"{self.name}: can't be reached: {_words(error)}") from error
        if not kserve_proto.ServerLiveResponse.FromString(live).live:
            raise TargetError(f"{self.name}: the server says that it is not live")
        try:
            ready = await self._ask("ModelReady", kserve_proto.ModelReadyRequest(name=name))
            if not kserve_proto.ModelReadyResponse.FromString(ready).ready:
                raise TargetError(f"{self.name}: model {name!r} is not there, or not ready")
            model = KserveModel(await self._ask("ModelMetadata", kserve_proto.ModelMetadataRequest(name=name)), name)
        except grpc.aio.AioRpcError as error:
            raise TargetError(f"{self.name}: model {name!r} can't be used: {_words(error)}") from error
        except ModelError as error:
            raise TargetError(f"{self.name}: {error}") from error
        if not self.address.unary:
            await self._try_stream()
        return model

    async def _ask(self, method: str, request: Any) -> bytes:
        return await self._method(method)(request.SerializeToString(), timeout=ANSWER_TIMEOUT_S)

    def _method(self, name: str) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]":
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_path(name))
        return method

    async def _try_stream(self) -> None:
        """Finds out by an empty stream whether the server has streams at all; how else it ends does not matter."""
        call = self.start_stream(ANSWER_TIMEOUT_S)
        try:
            await call.done_writing()
            await call.read()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise TargetError(f"{self.name}: it has no streams; {self.instead}") from error
        finally:
            call.cancel()


class _Session:
    """What both kinds of connection have in common: a frame's request, and that the end is reported once."""

    def __init__(
        self, target: KserveTarget, sensor: Sensor, session: Session, encoding: Encoding | None, sink: AnswerSink
    ) -> None:
        self._target = target
        self._session = session
        self._encoding = encoding
        self._sink = sink
        self._terms = terms_of(sensor, session) if target.address.duly_terms else b""
        self._over = False
        """The target ended it, or it was closed."""
        self._finishing = False

    async def _find_model(self) -> KserveModel:
        if self._encoding is not None:
            raise TargetError(
                f"{self._target.name}: the KServe v2 protocol takes tensors only, stream {self._session.name!r} has "
                f"payloads in {self._encoding}; they should be arrays"
            )
        return await self._target.model(self._session.model)

    def _request(self, model: KserveModel, place: int, payload: Payload, capture_unix_ns: int) -> bytes:
        numbers = {}
        if self._target.address.timeout:
            numbers["timeout"] = max(1, (capture_unix_ns + self._session.budget_ns - time.time_ns()) // 1000)
        if self._terms:
            numbers["capture_time_us"] = capture_unix_ns // 1000
        return model.request(place, payload, numbers, self._terms)

    def _end(self, reason: str, owing: bool) -> None:
        """`owing`: frames are not answered."""
        if not self._over and (owing or not self._finishing):
            self._sink.ended(f"{self._target.name}: {reason}")
        self._over = True


class _Stream(_Session):
    """One ModelStreamInfer call: one reader task, and whoever sends is the writer."""

    _reader: asyncio.Task[None] | None = None
    """The task that reads answers; None: the stream is not open."""

    async def open(self) -> None:
        self._model = await self._find_model()
        self._unanswered: set[int] = set()
        self._settled = asyncio.Event()
        """Nothing that was sent waits for an answer any more, and nothing follows."""
        self._call = self._target.start_stream()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._call.wait_for_connection()
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            self._call.cancel()
            why = _words(error) if isinstance(error, grpc.aio.AioRpcError) else f"no answer in {ANSWER_TIMEOUT_S:g} s"
            raise TargetError(f"{self._target.name}: stream {self._session.name!r} did not open: {why}") from error
        self._reader = asyncio.create_task(self._read())

    async def send(self, place: int, payload: Payload, capture_unix_ns: int) -> None:
        if self._over:
            return
        request = self._request(self._model, place, payload, capture_unix_ns)
        self._unanswered.add(place)
        # Not the call's `write`: that one, where the server ends the call meanwhile, puts its own INTERNAL in the place
        # of the server's status, and what the server answered before is lost.
        call: Any = self._call
        try:
            await call._cython_call.send_serialized_message(request)
        except (grpc.aio.InternalError, grpc.aio.AioRpcError):
            pass  # it is over; the reader reports why
        except asyncio.CancelledError:
            self._over = True  # a write that is cancelled takes the whole call with it
            call.cancel()
            raise

    async def finish(self) -> None:
        self._finishing = True
        if not self._over:
            await self._call.done_writing()
            if self._unanswered:
                await self._settled.wait()

    async def close(self) -> None:
        self._over = True
        if self._reader is not None:
            self._call.cancel()
            await asyncio.wait((self._reader,))

    async def _read(self) -> None:
        reason = ""
        try:
            while not reason:
                message = await self._call.read()
                reason = self._take(message) if isinstance(message, bytes) else "it closed the stream"
        except grpc.aio.AioRpcError as error:
            reason = f"the stream broke off: {_words(error)}"
        except asyncio.CancelledError:
            if not self._call.cancelled():
                raise
        self._end(reason, bool(self._unanswered))
        self._settled.set()
        self._call.cancel()

    def _take(self, message: bytes) -> str:
        """Returns why the stream can't go on; empty: it can."""
        at_ns = time.monotonic_ns()
        try:
            answer = kserve_proto.ModelStreamInferResponse.FromString(message)
        except DecodeError:
            return f"{NOT_TRITONS}; {self._target.instead}"
        result, error = answer.infer_response, answer.error_message
        told = result.parameters["duly_outcome"].string_param
        if not error and not told and not result.outputs and result.parameters["triton_final_response"].bool_param:
            return ""  # nothing but the end of what a decoupled model had to say
        found = _ID_IN_TEXT.search(error)
        frame = result.id or (found[1] if found else "")
        if not frame.isdecimal() or int(frame) not in self._unanswered:
            if error == self._session.model:  # where Triton has an error, others have the model's name
                return f"{NOT_TRITONS}; {self._target.instead}"
            if error and not frame:
                return f"an error that belongs to no frame: {error}"
            return f"it answered a request {frame!r} that was not under way"
        self._unanswered.remove(int(frame))
        outcome = outcome_of_error(error) if error else _outcome_of(told)
        self._sink.answered(FrameAnswer(int(frame), outcome, at_ns, claimed=told == "ON_TIME"))
        if self._finishing and not self._unanswered:
            self._settled.set()
        return ""


class _Calls(_Session):
    """A ModelInfer call for each frame, and a task that waits for its answer."""

    def __init__(
        self, target: KserveTarget, sensor: Sensor, session: Session, encoding: Encoding | None, sink: AnswerSink
    ) -> None:
        super().__init__(target, sensor, session, encoding, sink)
        self._room = asyncio.Semaphore(CALLS_MAX)
        self._under_way: dict[asyncio.Task[None], grpc.aio.UnaryUnaryCall[bytes, bytes]] = {}

    async def open(self) -> None:
        self._model = await self._find_model()

    async def send(self, place: int, payload: Payload, capture_unix_ns: int) -> None:
        async with contextlib.AsyncExitStack() as places:
            await self._room.acquire()
            places.callback(self._room.release)
            size_bytes = bytes_of(payload)
            await self._target.byte_budget.enter(size_bytes)
            places.callback(self._target.byte_budget.leave, size_bytes)
            if self._over:
                return
            call = self._target.infer(self._request(self._model, place, payload, capture_unix_ns))
            task = asyncio.create_task(self._wait(place, call))
            self._under_way[task] = call
            task.add_done_callback(functools.partial(self._leave, size_bytes))
            places.pop_all()  # `_leave` gives them back

    async def finish(self) -> None:
        self._finishing = True
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def close(self) -> None:
        self._over = True
        self._cancel_calls()
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def _wait(self, place: int, call: "grpc.aio.UnaryUnaryCall[bytes, bytes]") -> None:
        told = ""
        try:
            message = await call
        except grpc.aio.AioRpcError as error:
            at_ns = time.monotonic_ns()
            if not self._over and self._target.is_lost(error):
                # The frames under way are not answered; each as a FAILED of its own would count as the server's word.
                self._end(f"the connection broke off: {_words(error)}", owing=True)
                self._cancel_calls()
            outcome = outcome_of_error(error.details() or "", error.code())
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            return
        else:
            at_ns = time.monotonic_ns()
            told = _told_by(message)
            outcome = _outcome_of(told)
        if not self._over:
            self._sink.answered(FrameAnswer(place, outcome, at_ns, claimed=told == "ON_TIME"))

    def _leave(self, size_bytes: int, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._room.release()
        self._target.byte_budget.leave(size_bytes)

    def _cancel_calls(self) -> None:
        for call in self._under_way.values():
            call.cancel()


def _told_by(message: bytes) -> str:
    """What an answer to a call says became of its frame, in duly's word for it; empty: nothing."""
    try:
        return str(kserve_proto.ModelInferResponse.FromString(message).parameters["duly_outcome"].string_param)
    except DecodeError:
        return ""


def _outcome_of(told: str) -> FrameOutcome:
    """What became of a frame that was answered without an error; `told`: what duly calls it, empty: nothing."""
    known = FrameOutcome.__members__.get(told, FrameOutcome.FAILED)
    return known if told else FrameOutcome.ON_TIME


def _path(name: str) -> str:
    return f"/{kserve_proto.SERVICE}/{name}"


def _words(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}" if error.details() else error.code().name
