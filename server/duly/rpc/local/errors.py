"""What a local stream ends with."""

import json

from duly.rpc.bugs import internal
from duly.rpc.duly_v1.opening import invalid_open
from duly.rpc.local.layout import END
from duly.runtime.catalogue import ModelError
from duly.streams.errors import REASON_CHARS_MAX, CallError, InvalidTerms


def malformed(what: str) -> CallError:
    return CallError("MESSAGE_MALFORMED", f"a message of the local transport is wrong: {what}")


def reason_of(error: Exception) -> Exception:
    """Returns the error with which a stream ends whose reading or writing raised."""
    match error:
        case CallError() | ModelError():
            return error
        case InvalidTerms():
            return invalid_open(error)
        case _:
            return internal("a local stream")


def no_room(what: str) -> CallError:
    """Returns the error for a stream that the local transport has no room for, and gRPC may have."""
    return CallError("STREAMS_EXHAUSTED", what, metadata={"transport": "grpc"})


def ended_by(error: CallError | ModelError | None, text: str = "") -> bytes:
    """Returns the END of a stream that ends with that error; None: all is well. `text`: stands for the error's own."""
    status: dict[str, object] = {"reason": "", "text": ""}
    if error is not None:
        status = {"reason": error.reason, "text": (text or str(error))[:REASON_CHARS_MAX]}
    if isinstance(error, CallError):
        status |= {"field": error.field, "metadata": error.metadata}
    return bytes((END,)) + json.dumps(status).encode()
