"""The principal of a call and its rights. Limits and fairness count all streams of one principal together."""

from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote

import grpc

from duly.streams.rights import Rights

CALLER: ContextVar[Rights] = ContextVar("caller")
"""The rights of the call that the task serves, once they were judged."""


def rights_of(context: "grpc.aio.ServicerContext[Any, Any]") -> Rights:
    """Returns what the caller may do: as the policy says, or without one whatever its address says."""
    rights = CALLER.get(None)
    return rights if rights is not None else Rights(principal_of(context.peer()))


def principal_of(peer: str) -> str:
    """Returns the principal of a peer, which gRPC names: its address without the port.

    All clients over a UNIX socket are one principal.
    """
    kind, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind
