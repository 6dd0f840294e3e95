"""The errors of calls, as exceptions that a person understands.

A call that the server ends becomes a `DulyError` subclass with the server's own message, its stable `reason` and
`metadata` (such as a counter-offer). A frame that gets no result is no error: it is an outcome. Misuse by the caller is
a ValueError, TypeError or RuntimeError.
"""

import importlib
from typing import Any

import grpc

from duly_client.credentials import tls_words
from duly_client.proxy import through_proxy


class DulyError(Exception):
    """Base of all errors of a call. `reason` is the server's stable name for it, "" where it gave none."""

    recoverable = False
    """True where opening the same stream again a little later may succeed."""

    def __init__(self, message: str, reason: str = "", metadata: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = metadata or {}


class ServerUnavailable(DulyError):
    """No server answers, the connection was lost, or the server is draining."""

    recoverable = True


class LocalUnavailable(ServerUnavailable):
    """The server cannot be reached through shared memory; over gRPC it may be."""


class ModelNotFound(DulyError):
    """The repository has no such model or version."""


class ModelNotReady(DulyError):
    """The model is known but not loaded, or is loading."""

    recoverable = True


class StreamRefused(DulyError):
    """The server has no capacity for the stream. `metadata` may say what would fit, each alone: "period_nano" is the
    shortest period, "budget_nano" the smallest budget, "variant" the most accurate variant as `variant_lowest`.
    """

    recoverable = True


class ClientTooSlow(DulyError):
    """The application did not read its outcomes in time."""


class InvalidRequest(DulyError):
    """The server understood the request and found it wrong."""


class LoadFailed(DulyError):
    """A model could not be loaded, or its repository is wrong."""


class ActivationRefused(DulyError):
    """The version would break what open streams were promised. `metadata` says how many ("streams") and how long one
    frame is planned ("planned_nano", and "planned_before_nano" with the version that serves now).
    """


class TrialRefused(DulyError):
    """The version cannot be tried, or not be vetoed; the text says why."""


class NotAllowed(DulyError):
    """The credentials are missing or do not permit the call."""


class ServerFault(DulyError):
    """The server failed by a fault of its own."""


class ProtocolError(DulyError):
    """The server sent what the protocol does not allow."""


_BY_REASON: dict[str, type[DulyError]] = {
    "MODEL_NOT_FOUND": ModelNotFound,
    "VERSION_NOT_FOUND": ModelNotFound,
    "SERVICE_NOT_FOUND": ModelNotFound,
    "MODEL_NOT_READY": ModelNotReady,
    "FIRST_MESSAGE_NOT_OPEN": InvalidRequest,
    "STREAM_OPENED_TWICE": InvalidRequest,
    "FRAME_ID_NOT_INCREASING": InvalidRequest,
    "INVALID_OPEN": InvalidRequest,
    "INVALID_REQUEST": InvalidRequest,
    "MESSAGE_MALFORMED": InvalidRequest,
    "MESSAGE_OVERFULL": InvalidRequest,
    "ADMISSION_REFUSED": StreamRefused,
    "ADMISSION_BUSY": ServerUnavailable,
    "STREAMS_EXHAUSTED": StreamRefused,
    "CALLS_EXHAUSTED": StreamRefused,
    "DRAINING": ServerUnavailable,
    "DUMP_FAILED": ServerUnavailable,
    "FEEDBACK_OFF": InvalidRequest,
    "FEEDBACK_UNAVAILABLE": ServerUnavailable,
    "CLIENT_TOO_SLOW": ClientTooSlow,
    "UNAUTHENTICATED": NotAllowed,
    "NOT_PERMITTED": NotAllowed,
    "INTERNAL": ServerFault,
    "REPOSITORY_INVALID": LoadFailed,
    "LOAD_FAILED": LoadFailed,
    "VERSION_CHANGED": LoadFailed,
    "VERSIONS_EXHAUSTED": LoadFailed,
    "ACTIVATION_REFUSED": ActivationRefused,
    "TRIAL_REFUSED": TrialRefused,
}

_BY_CODE: dict[grpc.StatusCode, type[DulyError]] = {
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
    # A server that stops without grace cancels its calls; those that the client cancels never get here.
    grpc.StatusCode.CANCELLED: ServerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: ServerUnavailable,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.FAILED_PRECONDITION: ModelNotReady,
    grpc.StatusCode.RESOURCE_EXHAUSTED: StreamRefused,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.INTERNAL: ServerFault,
    grpc.StatusCode.UNKNOWN: ServerFault,
    grpc.StatusCode.DATA_LOSS: ServerFault,
}


def error_of(reason: str, text: str, metadata: dict[str, str]) -> DulyError:
    """Makes an error of what a server said beside gRPC."""
    return _BY_REASON.get(reason, DulyError)(text, reason, metadata)


def from_rpc(error: grpc.aio.AioRpcError, target: str, encrypted: bool = False) -> DulyError:
    """Makes an error of the status that ended a call to `target`: by its reason where it has one, else by its code.
    `encrypted`: whether the client speaks TLS.
    """
    reason, metadata = _error_info(error)
    details = error.details() or error.code().name
    kind = _BY_REASON.get(reason) or _BY_CODE.get(error.code(), DulyError)
    if kind is ServerUnavailable and not reason:
        words = tls_words(details, encrypted)
        details = f"no answer from {target}: {words}; {details}" if words else f"no answer from {target}: {details}"
    elif error.code() is grpc.StatusCode.UNIMPLEMENTED:
        details = f"{target} is no duly server, or an older one: {details}"
    if not reason:
        details += through_proxy(target)
    return kind(details, reason, metadata)


def _error_info(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    """Reason and metadata of the google.rpc.ErrorInfo in the status; ("", {}) where there is none.

    This needs googleapis-common-protos. Without that package errors have the server's message alone.
    """
    trailing: Any = error.trailing_metadata()
    packed = next((value for key, value in trailing or () if key == "grpc-status-details-bin"), None)
    if packed is None:
        return "", {}
    try:
        status_pb2 = importlib.import_module("google.rpc.status_pb2")
        error_details_pb2 = importlib.import_module("google.rpc.error_details_pb2")
    except ImportError:
        return "", {}
    for detail in status_pb2.Status.FromString(packed).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return "", {}
