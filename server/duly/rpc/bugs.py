"""What a call ends with where the server itself is wrong."""

import structlog

from duly.streams.errors import CallError

_log = structlog.get_logger("duly.rpc")


def internal(what: str) -> CallError:
    """Returns the error for a bug of the server. The log gets the stack trace, the client one sentence."""
    _log.exception("bug", what=what)
    return CallError("INTERNAL", f"the server failed on {what}; its log says more")
