"""The asyncio client: one connection to a server, any number of streams over it."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar
from weakref import WeakSet

import grpc
from google.protobuf.message import Message

from duly.v1 import inference_pb2, model_pb2, server_pb2
from duly_client import errors, proxy, wire
from duly_client.channels import LAN_OPTIONS, OPTIONS, Channels
from duly_client.connection import Connection
from duly_client.credentials import Tls, Token, check_clear_text
from duly_client.feedback import Feedback, FeedbackResult, requests, result_of
from duly_client.forked import is_forked, using_grpc
from duly_client.local import LocalConnection, checked_spin_us
from duly_client.stream import Stream
from duly_client.target import check_target, local_path
from duly_client.types import (
    Advice,
    BacklogPolicy,
    Encoding,
    Fusion,
    GapPolicy,
    Ordering,
    Outcome,
    Payload,
    StreamClass,
    outcome_of,
)
from duly_client.wall_clock import WallClock

_CALL_TIMEOUT_S = 30.0
"""Timeout of calls that only ask. Loading and draining have none: they take as long as they take."""
_OFFER_TIMEOUT_S = 1.0
"""How long the client waits to hear whether the server shares memory with it."""
_INFER_GRACE_S = 10.0
"""Time beyond its budget after which a unary call is given up."""

_NANOSECONDS_END = 2.0**63
"""The first number of nanoseconds that the protocol cannot state."""

_Response = TypeVar("_Response", bound=Message)


class Client:
    """A client of the server at `target`: "HOST:PORT", "unix:PATH" or "local:NAME". It connects at its first call.

    Where a server on this machine shares memory with its clients (`duly serve --local`), frames and outcomes of streams
    go through that, unless `transport` is "grpc" or TLS is spoken; streams fall back to gRPC where it cannot be used.
    With "local:NAME", or "local:/PATH", they go no other way, and all calls but streams need another client.
    `local_memory_bytes`: how much memory each stream asks for its frames; 0: as the server finds right for the model.
    `spin_us`: who waits for outcomes of a local stream looks for them so long without sleeping (docs/local.md).

    `wan`: tunes the connection for long round trips instead of a local network. `credentials`: what
    `grpc.ssl_channel_credentials` and the like return; None: plain text. `open_timeout_s`: how long a stream may take
    to open. What may pass meanwhile (nobody listens, the server starts, drains or is busy, the model is loading) is
    tried again until then; what may not is raised at once. `reconnect`: streams also open again when the connection is
    lost, and give up after `reconnect_tries_max` failed tries in a row (None: never); False: nothing is tried
    again, at first either. Servers on this machine are reached past the proxies in the environment.

    `tls`: how to speak TLS, in place of `credentials`. `token`, `token_file`: the bearer token that each call shows.
    The files of both are read again when they change: for calls that begin later, and for streams that open again, as
    they do where the server ended them because the token before has expired. `token_in_clear_text`: a token may cross a
    network without TLS.

    It belongs to the event loop in which it is entered. Raises ValueError where `target` can be no server's, where a
    file of TLS or a token cannot be used, or where the token would leave this machine in clear text. Raises ForkedError
    in a process that was forked after gRPC had been used, where nothing would ever be answered.
    """

    def __init__(
        self,
        target: str,
        *,
        wan: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        tls: Tls | None = None,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        token_in_clear_text: bool = False,
        reconnect: bool = True,
        reconnect_tries_max: int | None = None,
        open_timeout_s: float = 10.0,
        transport: Literal["grpc"] | None = None,
        local_memory_bytes: int = 0,
        spin_us: float = 0,
    ) -> None:
        check_target(target)
        self._target = target
        self._local = local_path(target)
        self._local_terms = local_memory_bytes, checked_spin_us(spin_us)
        plain = tls is None and credentials is None
        self._asks_local = transport is None and plain and proxy.is_local(target)
        self._offer: str | None = None
        """What the server has said of its path for sharing memory; None: it has not been asked."""
        self._local_connections: WeakSet[LocalConnection] = WeakSet()
        if tls is not None and credentials is not None:
            raise ValueError("tls and credentials: state one of them")
        self._token = Token(token, token_file) if token is not None or token_file is not None else None
        if self._token is not None and tls is None and credentials is None:
            check_clear_text(target, token_in_clear_text)
        self._tls = tls
        if tls is not None:
            tls.read()
        self._options = OPTIONS + (() if wan else LAN_OPTIONS) + proxy.channel_options(target)
        self._credentials = credentials
        self._reconnect = reconnect
        self._reconnect_tries_max = reconnect_tries_max
        self._open_timeout_s = open_timeout_s
        self._channels: Channels | None = None
        self._shown = ""
        """The token that the newest stream began with."""
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        using_grpc()
        self._loop = asyncio.get_running_loop()
        if self._local is None:
            self._channels = Channels(self._target, self._options, self._tls, self._credentials)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and every stream over it."""
        self._loop = None
        if not is_forked():
            for connection in list(self._local_connections):
                connection.lose("the client is closed")
        if self._channels is not None:
            channels, self._channels = self._channels, None
            if not is_forked():  # else nobody is left who would end it
                await channels.close()

    # ---- frames ----

    def stream(
        self,
        model: str,
        *,
        budget_ms: float | None = None,
        name: str = "",
        version: str | int = "",
        stream_class: StreamClass | None = None,
        backlog: BacklogPolicy | None = None,
        backlog_frames: int = 0,
        ordering: Ordering | None = None,
        period_ms: float | None = None,
        outputs: Sequence[str] = (),
        gap: GapPolicy | None = None,
        variant_lowest: str = "",
        floor: tuple[int, int] | None = None,
        fusion: Fusion | None = None,
        check: bool = True,
        on_advice: Callable[[Advice], None] | None = None,
        follow_advice: bool = False,
    ) -> Stream:
        """Returns a stream of frames to `model`, to be entered with `async with`. None and "" mean the model's default.

        `budget_ms`: how long after capture a result is worth having. `name`: name for the server's logs.
        `stream_class`: criticality; frames of more critical streams run first and are shed last. `backlog`: what waits
        while the model is busy; with KEEP_LAST the newest `backlog_frames` wait. `period_ms`: time between frames; a
        stream that states it is let in only if it fits. `outputs`: names of the outputs wanted; empty: all. `gap`: what
        a stateful model does after frames that were not run. `variant_lowest`: the least accurate variant that will do.
        `floor`, (m, k): of any k consecutive frames m shall be on time, overload or not. `fusion`: the stream gives
        one input of the model, and its frames run together with those of the streams that give the others; each of them
        has the outcome. `check`: frames are compared
        with `Stream.opened` before they are sent. `on_advice`: called with each advice of the server. `follow_advice`:
        frames that come faster than the server advises are SUPERSEDED here and not sent, unless they must run.
        """
        request = inference_pb2.OpenStream(
            model=model,
            version=str(version),
            stream_name=name,
            stream_class=_number(inference_pb2.StreamClass, "STREAM_CLASS_", "stream_class", stream_class),
            backlog_policy=_number(inference_pb2.BacklogPolicy, "BACKLOG_POLICY_", "backlog", backlog),
            backlog_frames=backlog_frames,
            ordering=_number(inference_pb2.Ordering, "ORDERING_", "ordering", ordering),
            default_budget_nano=_nanoseconds("budget_ms", budget_ms),
            expected_period_nano=_nanoseconds("period_ms", period_ms),
            outputs=outputs,
            gap_policy=_number(inference_pb2.GapPolicy, "GAP_POLICY_", "gap", gap),
            variant_lowest=variant_lowest,
            floor=None if floor is None else inference_pb2.OnTimeFloor(frames=floor[0], window=floor[1]),
            fusion=None if fusion is None else _fusion(fusion),
        )
        return Stream(
            self._connect,
            None if self._local else self._over_grpc,
            request,
            self._target,
            check=check,
            on_advice=on_advice,
            follow_advice=follow_advice,
            reconnect=self._reconnect,
            reconnect_tries_max=self._reconnect_tries_max,
            error_of=self._error_of,
            open_timeout_s=self._open_timeout_s,
            send_labels=self.feedback,
        )

    async def infer(
        self,
        model: str,
        payload: Payload,
        *,
        budget_ms: float | None = None,
        version: str | int = "",
        stream_class: StreamClass | None = None,
        outputs: Sequence[str] = (),
        encoding: Encoding | None = None,
    ) -> Outcome:
        """Sends one frame, captured now, and returns its outcome. Its budget counts from receipt by the server.
        From the second frame on a stream is quicker.
        """
        budget_ns = _nanoseconds("budget_ms", budget_ms)
        captured_ns, began_ns = time.time_ns(), time.monotonic_ns()
        request = inference_pb2.InferRequest(
            model=model,
            version=str(version),
            stream_class=_number(inference_pb2.StreamClass, "STREAM_CLASS_", "stream_class", stream_class),
            outputs=outputs,
        )
        frame = inference_pb2.Frame(frame_id=1, capture_time_unix_nano=captured_ns, budget_nano=budget_ns)
        response = await self._call(
            "InferenceService/Infer",
            wire.infer_request(request, frame.SerializeToString(), wire.inputs_of(payload, encoding, None)),
            inference_pb2.InferResponse,
            budget_ns / 1e9 + _INFER_GRACE_S if budget_ns else _CALL_TIMEOUT_S,
        )
        outcome = outcome_of(response.outcome, time.monotonic_ns() - began_ns)
        outcome.stream_key = response.stream_key
        return outcome

    async def feedback(self, items: Iterable[Feedback]) -> list[FeedbackResult]:
        """Says what was right for frames that were answered, whenever that is known: the server joins it with what it
        keeps of them. Returns what became of each label, in their order. Many go in several messages; sending one again
        is safe, as the newest label of a frame counts.

        Raises TypeError and ValueError where a label can be none, NotAllowed where the caller may not send any, and
        InvalidRequest where the server keeps no frames at all (FEEDBACK_OFF).
        """
        results: list[FeedbackResult] = []
        for request in requests(list(items)):
            response = await self._call("InferenceService/Feedback", request, inference_pb2.FeedbackResponse)
            results += map(result_of, response.results)
        return results

    # ---- models and the server; results are messages of duly.v1 ----

    async def models(self) -> list[model_pb2.Model]:
        """All models of the server."""
        response = await self._call(
            "ModelService/ListModels", model_pb2.ListModelsRequest(), model_pb2.ListModelsResponse
        )
        return list(response.models)

    async def model(self, name: str) -> model_pb2.Model:
        """One model with its versions, tensors, variants and profiles. Raises ModelNotFound where there is none."""
        request = model_pb2.GetModelRequest(name=name)
        return (await self._call("ModelService/GetModel", request, model_pb2.GetModelResponse)).model

    async def load_model(self, name: str, version: str | int = "") -> model_pb2.Model:
        """Loads a version ("": the newest) beside those that serve; returns when it is warmed and profiled."""
        request = model_pb2.LoadModelRequest(name=name, version=str(version))
        return (await self._call("ModelService/LoadModel", request, model_pb2.LoadModelResponse, None)).model

    async def unload_model(self, name: str, version: str | int = "") -> None:
        """Stops serving a version ("": all); returns when its frames are answered."""
        request = model_pb2.UnloadModelRequest(name=name, version=str(version))
        await self._call("ModelService/UnloadModel", request, model_pb2.UnloadModelResponse, None)

    async def activate_version(self, name: str, version: str | int, *, force: bool = False) -> model_pb2.Model:
        """Makes a loaded version the one that streams without a stated version use. Raises ActivationRefused where open
        streams would no longer get what they were promised; `force` activates it all the same.
        """
        request = model_pb2.ActivateVersionRequest(name=name, version=str(version), force=force)
        return (await self._call("ModelService/ActivateVersion", request, model_pb2.ActivateVersionResponse)).model

    async def trials(self, name: str = "") -> list[model_pb2.Trial]:
        """The trials of new versions of a model ("": of all): those that are over first."""
        request = model_pb2.ListTrialsRequest(name=name)
        return list((await self._call("ModelService/ListTrials", request, model_pb2.ListTrialsResponse)).trials)

    async def learning(self, name: str = "") -> list[model_pb2.Learning]:
        """How a model ("": each that does) learns from labelled frames while the server runs."""
        request = model_pb2.ListLearningRequest(name=name)
        return list((await self._call("ModelService/ListLearning", request, model_pb2.ListLearningResponse)).models)

    async def start_trial(self, name: str, version: str | int) -> model_pb2.Trial:
        """Loads a version if it is not, and tries it on live frames; returns when that has begun. Raises TrialRefused
        where it cannot be tried.
        """
        request = model_pb2.StartTrialRequest(name=name, version=str(version))
        return (await self._call("ModelService/StartTrial", request, model_pb2.StartTrialResponse, None)).trial

    async def veto_version(self, name: str, version: str | int, reason: str = "") -> model_pb2.Trial | None:
        """Ends the trial of a version, and has it never tried by itself. Returns its trial; None: none was on."""
        request = model_pb2.VetoVersionRequest(name=name, version=str(version), reason=reason)
        response = await self._call("ModelService/VetoVersion", request, model_pb2.VetoVersionResponse)
        return response.trial if response.HasField("trial") else None

    async def server_info(self) -> server_pb2.GetServerInfoResponse:
        """Version, limits and lanes of the server."""
        return await self._call(
            "ServerService/GetServerInfo", server_pb2.GetServerInfoRequest(), server_pb2.GetServerInfoResponse
        )

    async def statistics(self) -> server_pb2.Statistics:
        """Counts since the server's start."""
        response = await self._call(
            "ServerService/GetStatistics", server_pb2.GetStatisticsRequest(), server_pb2.GetStatisticsResponse
        )
        return response.statistics

    async def drain(self, grace_ms: float | None = None) -> None:
        """Asks the server to answer every frame and stop; returns when all are answered. None: its own grace time."""
        request = server_pb2.DrainRequest(grace_nano=_nanoseconds("grace_ms", grace_ms))
        await self._call("ServerService/Drain", request, server_pb2.DrainResponse, None)

    # ---- calls ----

    async def _connect(self, on_room: Callable[[], None], wall: WallClock) -> Connection | LocalConnection:
        """Begins the connection of a stream."""
        self._check_open()
        path = self._local or await self._offered()
        if not path:
            return self._over_grpc(on_room, wall)
        shown = self._shown = self._shows()
        connection = LocalConnection(path, self._target, shown, *self._local_terms, on_room)
        self._local_connections.add(connection)
        return connection

    def _over_grpc(self, on_room: Callable[[], None], wall: WallClock) -> Connection:
        return Connection(self._start_stream(), on_room, wall)

    async def _offered(self) -> str:
        """Returns the path at which the server shares memory with clients on its machine; empty: it does not, or it is
        not to be asked.
        """
        if not self._asks_local:
            return ""
        if self._offer is None:
            try:
                async with asyncio.timeout(_OFFER_TIMEOUT_S):
                    self._offer = (await self.server_info()).local_path
            except (errors.DulyError, TimeoutError):
                return ""  # if the server is there at all, its streams say what is wrong
        return self._offer

    def _start_stream(self) -> "grpc.aio.StreamStreamCall[Any, Any]":
        channels = self._open_channels()
        start: grpc.aio.StreamStreamMultiCallable[Any, Any] = channels.channel().stream_stream(
            "/duly.v1.InferenceService/Stream",
            request_serializer=None,  # messages are bytes here
            response_deserializer=None,
        )
        shown = self._shows()
        call = start(None, metadata=_metadata(shown))  # frames are written, not taken from an iterator
        channels.began(call)
        self._shown = shown
        return call

    async def _call(
        self,
        method: str,
        request: Message | bytes,
        response_type: type[_Response],
        timeout_s: float | None = _CALL_TIMEOUT_S,
    ) -> _Response:
        channels = self._open_channels()
        start: grpc.aio.UnaryUnaryMultiCallable[Any, _Response] = channels.channel().unary_unary(
            f"/duly.v1.{method}", request_serializer=None, response_deserializer=response_type.FromString
        )
        message = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            call = start(message, timeout=timeout_s, metadata=_metadata(self._shows()))
            channels.began(call)
            response: _Response = await call
        except grpc.aio.AioRpcError as error:
            raise self._error_of(error) from error
        return response

    def _shows(self) -> str:
        """Returns the token that a call shows now; empty: none."""
        return self._token.now() if self._token is not None else ""

    def _error_of(self, error: grpc.aio.AioRpcError) -> errors.DulyError:
        """Returns the error of a call. It may be tried again where a token was refused and there is a newer one."""
        made = errors.from_rpc(error, self._target, self._tls is not None or self._credentials is not None)
        if made.reason == "UNAUTHENTICATED" and self._shows() != self._shown:
            made.recoverable = True
        return made

    def _open_channels(self) -> Channels:
        self._check_open()
        if self._channels is None:
            raise RuntimeError(f"{self._target} is for streams alone: calls like this one need a client of HOST:PORT")
        return self._channels

    def _check_open(self) -> None:
        using_grpc()
        if self._loop is None:
            raise RuntimeError("the client is not open: enter it with `async with`")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the client belongs to another event loop: make one in each loop, or use BlockingClient")


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


class _Enum(Protocol):
    def keys(self) -> Sequence[str]: ...
    def Value(self, name: str) -> int: ...


def _number(enum: _Enum, prefix: str, argument: str, name: str | None) -> Any:
    """The number on the wire for a name of an enumeration; None: unspecified, 0."""
    names = [key.removeprefix(prefix) for key in enum.keys()]  # noqa: SIM118 (an enumeration is no mapping)
    if name is None:
        return 0
    if name not in names[1:]:
        raise ValueError(f"{argument}={name!r}: expected one of {', '.join(names[1:])}")
    return enum.Value(prefix + name)


def _fusion(fusion: Fusion) -> inference_pb2.Fusion:
    return inference_pb2.Fusion(
        group=fusion.group,
        input=fusion.input,
        tolerance_nano=_nanoseconds("fusion.tolerance_ms", fusion.tolerance_ms or None),
        wait=_number(inference_pb2.FusionWait, "FUSION_WAIT_", "fusion.wait", fusion.wait),
    )


def _nanoseconds(argument: str, milliseconds: float | None) -> int:
    if milliseconds is None:
        return 0
    if not milliseconds > 0:
        raise ValueError(f"{argument}={milliseconds}: expected more than 0")
    if not 1 <= milliseconds * 1e6 < _NANOSECONDS_END:
        raise ValueError(f"{argument}={milliseconds}: expected milliseconds, 0.000001 at least and less than 9e12")
    return round(milliseconds * 1e6)
