"""What errors of this protocol say: as Triton's do, they begin with the id of their request."""

from duly.core.types import OutcomeStatus
from duly.rpc.kserve.replies import Answer
from duly.runtime.catalogue import ModelError
from duly.streams.errors import REASON_CHARS_MAX, CallError, InvalidTerms
from duly.streams.rights import Rights

_ID_CHARS_MAX = 128
_FIELDS = {
    "model": "model_name",
    "version": "model_version",
    "default_budget_ns": "timeout",
    "expected_period_ns": "parameter 'period_us'",
    "stream_class": "parameter 'priority'",
    "backlog_frames": "parameter 'backlog'",
}
"""What the fields of a StreamRequest are called on this wire."""


def of_request(request_id: str, text: str) -> str:
    """Returns the text, as far as REASON_CHARS_MAX goes, with the request's id before it."""
    shown = request_id if len(request_id) <= _ID_CHARS_MAX else f"{request_id[:_ID_CHARS_MAX]}..."
    return f"[request id: {shown or '<id_unknown>'}] {text[:REASON_CHARS_MAX]}"


def dropped(answer: Answer) -> str:
    """Returns what is said of a request without results."""
    return of_request(answer.request_id, f"{answer.status}: {answer.reason}")


def invalid_terms(error: InvalidTerms) -> CallError:
    """Returns the error of a request that asks for terms which can't be, in the words of this wire."""
    return CallError("INVALID_REQUEST", error.said_of(_FIELDS.get(error.field, error.field)), error.field)


def told(error: CallError | ModelError, rights: Rights) -> str:
    """Returns the text of an error for a caller with these rights."""
    return error.told_to(rights.may_use) if isinstance(error, ModelError) else str(error)


def error_of(answer: Answer, of_call: bool) -> CallError:
    """Returns the error with which a call ends whose request has no results. `of_call`: whether the budget was what was
    left of the call. What can't be in time then is late for the call's deadline, and is told with gRPC's words for it.
    """
    if of_call and answer.status == OutcomeStatus.EXPIRED.name:
        text = of_request(answer.request_id, f"Deadline Exceeded: {answer.status}: {answer.reason}")
        return CallError("FRAME_EXPIRED_WITH_CALL", text)
    return CallError(f"FRAME_{OutcomeStatus[answer.status].name}", dropped(answer))
