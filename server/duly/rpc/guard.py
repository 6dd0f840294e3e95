"""Stands before every handler: nobody reaches one who has no right to it.

`NEEDS` says which right each method needs. A method that is not in it is refused to everybody, so that one which is
added later cannot be open by mistake.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from duly.access.errors import AccessError
from duly.access.evidence import Certificate, Evidence
from duly.access.gate import Caller, Gate
from duly.access.listeners import Listener
from duly.access.tls_files import TlsFiles, certificate_of
from duly.access.unix_peers import UnixPeers
from duly.rpc.bugs import internal
from duly.rpc.errors import abort
from duly.rpc.health import SERVICES
from duly.rpc.principal import CALLER, principal_of
from duly.streams.errors import CallError
from duly.streams.rights import Right

NEEDS: dict[str, Right] = {
    "/duly.v1.InferenceService/Stream": Right.INFER,
    "/duly.v1.InferenceService/Infer": Right.INFER,
    "/duly.v1.InferenceService/Feedback": Right.FEEDBACK,
    "/duly.v1.ModelService/ListModels": Right.READ,
    "/duly.v1.ModelService/GetModel": Right.READ,
    "/duly.v1.ModelService/WatchModels": Right.READ,
    "/duly.v1.ModelService/LoadModel": Right.LOAD,
    "/duly.v1.ModelService/UnloadModel": Right.UNLOAD,
    "/duly.v1.ModelService/ActivateVersion": Right.ACTIVATE,
    "/duly.v1.ModelService/ListTrials": Right.READ,
    "/duly.v1.ModelService/ListLearning": Right.READ,
    "/duly.v1.ModelService/StartTrial": Right.ACTIVATE,
    "/duly.v1.ModelService/VetoVersion": Right.ACTIVATE,
    "/duly.v1.ServerService/GetServerInfo": Right.READ,
    "/duly.v1.ServerService/GetStatistics": Right.READ,
    "/duly.v1.ServerService/WatchStatistics": Right.READ,
    "/duly.v1.ServerService/Drain": Right.DRAIN,
    "/duly.v1.ServerService/DumpRecording": Right.DUMP,
    "/inference.GRPCInferenceService/ServerLive": Right.READ,
    "/inference.GRPCInferenceService/ServerReady": Right.READ,
    "/inference.GRPCInferenceService/ServerMetadata": Right.READ,
    "/inference.GRPCInferenceService/ModelReady": Right.READ,
    "/inference.GRPCInferenceService/ModelMetadata": Right.READ,
    "/inference.GRPCInferenceService/ModelConfig": Right.READ,
    "/inference.GRPCInferenceService/ModelStatistics": Right.READ,
    "/inference.GRPCInferenceService/ModelInfer": Right.INFER,
    "/inference.GRPCInferenceService/ModelStreamInfer": Right.INFER,
    "/inference.GRPCInferenceService/RepositoryIndex": Right.READ,
    "/inference.GRPCInferenceService/RepositoryModelLoad": Right.LOAD,
    "/inference.GRPCInferenceService/RepositoryModelUnload": Right.UNLOAD,
    "/inference.GRPCInferenceService/SystemSharedMemoryStatus": Right.INFER,
    "/inference.GRPCInferenceService/SystemSharedMemoryRegister": Right.INFER,
    "/inference.GRPCInferenceService/SystemSharedMemoryUnregister": Right.INFER,
    "/inference.GRPCInferenceService/CudaSharedMemoryStatus": Right.INFER,
    "/inference.GRPCInferenceService/CudaSharedMemoryRegister": Right.INFER,
    "/inference.GRPCInferenceService/CudaSharedMemoryUnregister": Right.INFER,
    "/inference.GRPCInferenceService/TraceSetting": Right.READ,
    "/inference.GRPCInferenceService/LogSettings": Right.READ,
    "/grpc.health.v1.Health/Check": Right.READ,
    "/grpc.health.v1.Health/Watch": Right.READ,
    "/grpc.health.v1.Health/List": Right.READ,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Right.READ,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Right.READ,
}
"""The right that each method needs."""
_LOG_SETTINGS = "/inference.GRPCInferenceService/LogSettings"
HEALTH = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch")
"""Whether the server and its services serve, anybody may ask, as load balancers and probes have no credential. Of a
model it needs the right: whether there is one is nobody's business."""
OPEN = ("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady")
"""The same in the protocol of KServe: anybody may ask."""
_MODEL_FIELDS = {
    **dict.fromkeys(HEALTH, "service"),
    "/inference.GRPCInferenceService/RepositoryModelLoad": "model_name",
    "/inference.GRPCInferenceService/RepositoryModelUnload": "model_name",
    "/inference.GRPCInferenceService/TraceSetting": "model_name",
    **{
        f"/inference.GRPCInferenceService/{kind}SharedMemory{act}": ""
        for kind in ("System", "Cuda")
        for act in ("Status", "Register", "Unregister")
    },
}
"""The field that holds the name of the model, where that is not `name`; empty: there is none."""
_AUTHORIZATION = "authorization"

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Serve: TypeAlias = Callable[[Any, Context], Awaitable[Any]]


class Guard(grpc.aio.ServerInterceptor):
    """Guards all calls that come in at one listener."""

    def __init__(self, gate: Gate, listener: Listener, tls: TlsFiles | None, peers: UnixPeers | None) -> None:
        """`tls`: the files of TLS where it is spoken. `peers`: what tells users of a UNIX socket apart."""
        self._gate = gate
        self._listener = listener
        self._tls = tls
        self._peers = peers
        self._guarded: dict[str, tuple[_Handler, _Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_MaybeHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _MaybeHandler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler  # there is no such method, and grpc says so
        method = handler_call_details.method
        known = self._guarded.get(method)
        if known is None or known[0] is not handler:
            known = self._guarded[method] = (handler, self._guard(handler, method))
        return known[1]

    def _guard(self, handler: _Handler, method: str) -> _Handler:
        if handler.request_streaming:
            inner, make = handler.stream_stream, grpc.stream_stream_rpc_method_handler
            assert handler.response_streaming, "there is no method that streams requests alone"
            serve = self._lasting(inner, method)
        elif handler.response_streaming:
            inner, make = handler.unary_stream, grpc.unary_stream_rpc_method_handler
            serve = self._lasting(inner, method)
        else:
            inner, make = handler.unary_unary, grpc.unary_unary_rpc_method_handler
            serve = self._single(inner, method)
        return make(serve, handler.request_deserializer, handler.response_serializer)

    def _single(self, inner: Any, method: str) -> _Serve:
        async def serve(request: Any, context: Context) -> Any:
            caller = await self._let_in(request, context, method)
            try:
                response = await inner(request, context)
            except BaseException as error:
                caller.acted(_target(request, method), context.details() or type(error).__name__)
                raise
            caller.acted(_target(request, method), "ok")
            return response

        return serve

    def _lasting(self, inner: Any, method: str) -> _Serve:
        """Serves a call that may last: it ends when its caller's right to go on does."""
        generates = inspect.isasyncgenfunction(inner)

        async def serve(request: Any, context: Context) -> None:
            caller = await self._let_in(request, context, method)
            self._gate.begins(caller)
            try:
                if generates:
                    await _send(inner(request, context), context, caller)
                else:
                    await _served(inner, request, context, caller)
            finally:
                self._gate.over(caller)

        return serve

    async def _let_in(self, request: Any, context: Context, method: str) -> Caller:
        """Judges who makes the call. Ends the call where the caller has no right to it."""
        where = context.peer()
        if self._peers is not None and (unix := self._peers.peer(where)) is not None:
            where = f"unix:uid={unix.uid},gid={unix.gid},pid={unix.pid}"
        act = method.removeprefix("/duly.v1.").removeprefix("/inference.")
        caller = Caller(self._gate, self._listener, act, _needed(method, request), where)
        CALLER.set(caller)
        try:
            if method in OPEN or (method in HEALTH and _is_of_server(request.service)):
                caller.open_to_all()
                return caller
            rights = await caller.judge(self._evidence(context))
            if name := _model_of(request, method):
                rights.check_model(name)
                caller.changed = lambda rights: rights.check_model(name)
        except CallError as error:
            await abort(context, error)
        except Exception:
            await abort(context, internal("finding out who calls"))
        return caller

    def _evidence(self, context: Context) -> Evidence:
        """Returns what the call shows of its caller. Raises CallError where it contradicts itself."""
        peer = context.peer()
        if self._gate.policy is None and self._tls is None:
            return Evidence(principal_of(peer))
        headers = [value for key, value in context.invocation_metadata() or () if key == _AUTHORIZATION]
        if len(headers) > 1:
            raise CallError("UNAUTHENTICATED", "there are several authorization headers; send one")
        certificate = _certificate(context, self._tls) if self._tls is not None else None
        unix = self._peers.peer(peer) if self._peers is not None else None
        return Evidence(principal_of(peer), _bearer(headers[0]) if headers else "", certificate, unix)


async def _served(inner: _Serve, request: Any, context: Context, caller: Caller) -> None:
    """Runs a handler that reads and writes by itself. It is cancelled when its caller's right to go on ends, unless it
    has said how it ends then.
    """
    task = asyncio.current_task()
    assert task is not None

    def end(_: CallError) -> None:
        task.cancel()

    caller.ends_by(end)
    try:
        await inner(request, context)
    except asyncio.CancelledError:
        if caller.ended is None:
            raise
        task.uncancel()
        await abort(context, caller.ended)


async def _send(messages: AsyncIterator[Any], context: Context, caller: Caller) -> None:
    """Sends what a handler generates, until it is over or the caller's right to go on ends.

    What it waits for is given up then. A write never is: one that is cancelled leaks in gRPC (grpc#43360).
    """
    waiting: asyncio.Future[Any] | None = None

    def end(_: CallError) -> None:
        if waiting is not None:
            waiting.cancel()

    caller.ends_by(end)
    try:
        while caller.ended is None:
            waiting = asyncio.ensure_future(anext(messages))
            try:
                message = await waiting
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                if caller.ended is None:
                    raise
                break
            finally:
                if not waiting.done():
                    waiting.cancel()
                waiting = None
            await context.write(message)
    finally:
        await messages.aclose()  # type: ignore[attr-defined]  # a generator has it
    await abort(context, caller.ended)


def _is_of_server(service: str) -> bool:
    return not service or service in SERVICES


def _needed(method: str, request: Any) -> Right | None:
    """Returns the right that a call needs; None: nobody may make it."""
    if method == _LOG_SETTINGS and request.settings:
        return Right.LOG
    return NEEDS.get(method)


def _model_of(request: Any, method: str) -> str:
    """Returns the name of the model that the request is about; empty: of none, or of what the handler checks itself."""
    name = getattr(request, _MODEL_FIELDS.get(method, "name"), "")
    return name if isinstance(name, str) else ""


def _target(request: Any, method: str) -> str:
    """Returns what an admin act is done to."""
    name, version = _model_of(request, method), getattr(request, "version", "")
    return f"{name}/{version}" if version else name or "server"


def _bearer(header: str | bytes) -> str:
    """Returns the token of an authorization header. Raises CallError. The header itself is in no error."""
    if isinstance(header, bytes):
        header = header.decode("ascii", "replace")
    scheme, _, token = header.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token or not token.isascii() or " " in token:
        raise CallError("UNAUTHENTICATED", "the authorization header should be: Bearer TOKEN")
    return token


def _certificate(context: Context, tls: TlsFiles) -> Certificate | None:
    shown = context.auth_context() or {}
    pem = b"".join(shown.get("x509_pem_cert", ()))
    if not pem:
        return None
    if tls.is_withdrawn(pem):
        raise CallError("UNAUTHENTICATED", "the certificate is of a CA that the server does not trust any more")
    try:
        return certificate_of(pem)
    except AccessError as error:
        raise CallError("UNAUTHENTICATED", str(error)) from None
