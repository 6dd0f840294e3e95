"""Errors that end a call: a gRPC status with google.rpc.ErrorInfo and, where a field is at fault, BadRequest.

`reason` is stable and meant for programs, the text for people. Neither ever holds a path or a stack trace.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar, cast

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from duly.rpc.bugs import internal
from duly.rpc.principal import CALLER
from duly.runtime.catalogue import ModelError
from duly.streams.errors import REASON_CHARS_MAX, CallError

_Handler = TypeVar("_Handler", bound=Callable[..., Awaitable[Any]])

DOMAIN = "duly"
STATUSES_KEPT = 64
_CODES = {
    "MODEL_NOT_FOUND": code_pb2.NOT_FOUND,
    "VERSION_NOT_FOUND": code_pb2.NOT_FOUND,
    "SERVICE_NOT_FOUND": code_pb2.NOT_FOUND,
    "MODEL_NOT_READY": code_pb2.UNAVAILABLE,
    "REPOSITORY_INVALID": code_pb2.FAILED_PRECONDITION,
    "VERSION_CHANGED": code_pb2.FAILED_PRECONDITION,
    "LOAD_FAILED": code_pb2.FAILED_PRECONDITION,
    "ACTIVATION_REFUSED": code_pb2.FAILED_PRECONDITION,
    "TRIAL_REFUSED": code_pb2.FAILED_PRECONDITION,
    "VERSIONS_EXHAUSTED": code_pb2.RESOURCE_EXHAUSTED,
    "FIRST_MESSAGE_NOT_OPEN": code_pb2.INVALID_ARGUMENT,
    "STREAM_OPENED_TWICE": code_pb2.INVALID_ARGUMENT,
    "FRAME_ID_NOT_INCREASING": code_pb2.INVALID_ARGUMENT,
    "INVALID_OPEN": code_pb2.INVALID_ARGUMENT,
    "INVALID_REQUEST": code_pb2.INVALID_ARGUMENT,
    "MESSAGE_MALFORMED": code_pb2.INVALID_ARGUMENT,
    "MESSAGE_OVERFULL": code_pb2.INVALID_ARGUMENT,
    "CALLS_EXHAUSTED": code_pb2.RESOURCE_EXHAUSTED,
    "ADMISSION_REFUSED": code_pb2.RESOURCE_EXHAUSTED,
    "ADMISSION_BUSY": code_pb2.UNAVAILABLE,
    "STREAMS_EXHAUSTED": code_pb2.RESOURCE_EXHAUSTED,
    "CLIENT_TOO_SLOW": code_pb2.RESOURCE_EXHAUSTED,
    "DRAINING": code_pb2.UNAVAILABLE,
    "DUMP_FAILED": code_pb2.UNAVAILABLE,
    "FEEDBACK_OFF": code_pb2.FAILED_PRECONDITION,
    "FEEDBACK_UNAVAILABLE": code_pb2.UNAVAILABLE,
    "UNAUTHENTICATED": code_pb2.UNAUTHENTICATED,
    "NOT_PERMITTED": code_pb2.PERMISSION_DENIED,
    "INTERNAL": code_pb2.INTERNAL,
}
_CODES_OF_KSERVE = {
    "NOT_SUPPORTED": code_pb2.UNIMPLEMENTED,
    "REGION_NOT_FOUND": code_pb2.NOT_FOUND,
    "REGION_EXISTS": code_pb2.ALREADY_EXISTS,
    "REGIONS_EXHAUSTED": code_pb2.RESOURCE_EXHAUSTED,
    "SHARED_MEMORY_OFF": code_pb2.UNIMPLEMENTED,
    # Outcomes of a request alone.
    "FRAME_EXPIRED": code_pb2.UNAVAILABLE,
    "FRAME_EXPIRED_WITH_CALL": code_pb2.DEADLINE_EXCEEDED,
    "FRAME_SUPERSEDED": code_pb2.UNAVAILABLE,
    "FRAME_SHED": code_pb2.UNAVAILABLE,
    "FRAME_SKIPPED": code_pb2.UNAVAILABLE,
    "FRAME_INVALID": code_pb2.INVALID_ARGUMENT,
    "FRAME_CANCELLED": code_pb2.CANCELLED,
    "FRAME_FAILED": code_pb2.INTERNAL,
}
_ALL_CODES = _CODES | _CODES_OF_KSERVE


async def abort(context: "grpc.aio.ServicerContext[object, object]", error: CallError | ModelError) -> NoReturn:
    """Ends the call with the error."""
    caller = CALLER.get(None)
    if caller is not None:
        caller.failed(error.reason, str(error))
    text = str(error)
    if isinstance(error, ModelError) and caller is not None and caller.rights is not None:
        text = error.told_to(caller.rights.may_use)
    if not (text.isascii() and text.isprintable()):
        text = ascii(text)[1:-1]
    field = error.field if isinstance(error, CallError) else ""
    status = _status(error.reason, text[:REASON_CHARS_MAX], tuple(error.metadata.items()), field)
    try:
        await context.abort(status.code, status.details, status.trailing_metadata)
    except grpc.aio.InternalError:
        # What was written before still waits for the client, so no status can be sent: the call ends without one.
        raise asyncio.CancelledError from None
    raise AssertionError("abort returned")


@functools.lru_cache(STATUSES_KEPT)
def _status(reason: str, text: str, metadata: tuple[tuple[str, str], ...], field: str) -> grpc.Status:
    """Makes the status of an error. Those that many calls end with at once are kept."""
    details = [any_pb2.Any()]
    details[0].Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=dict(metadata)))
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
        details.append(any_pb2.Any())
        details[1].Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    status: grpc.Status = rpc_status.to_status(
        status_pb2.Status(code=_ALL_CODES[reason], message=text, details=details)
    )
    return status


def reason_of(error: Exception, what: str) -> CallError | ModelError | None:
    """Returns the error with which a call ends whose reading or writing raised. None: the call is over. `what`: what
    was being done, for the log, where the error is a bug.
    """
    if isinstance(error, (CallError, ModelError)):
        return error
    if isinstance(error, (grpc.aio.UsageError, grpc.aio.BaseError)):
        return None
    return internal(what)


def guarded(handler: _Handler) -> _Handler:
    """Wraps a unary handler, so that its errors end the call as they should and its bugs show the client nothing
    internal.
    """

    @functools.wraps(handler)
    async def guard(self: Any, request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        try:
            return await handler(self, request, context)
        except (CallError, ModelError) as error:
            await abort(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:
            await abort(context, internal(f"a call of {handler.__name__}"))

    return cast(_Handler, guard)
