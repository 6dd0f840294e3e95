"""The caller of a call, its principal and its rights. Limits and fairness count all streams of one principal together."""

from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote

import grpc

from duly.access.gate import Caller
from duly.streams.rights import Rights

CALLER: ContextVar[Caller] = ContextVar("caller")
"""Who makes the call that the task serves. `rpc/guard` sets it before any handler runs."""


def rights_of(context: "grpc.aio.ServicerContext[Any, Any]") -> Rights:
    """Returns what the caller may do, by the policy."""
    caller = CALLER.get(None)
    if caller is None:  # a handler on its own, with nothing in front of it
        return Rights(principal_of(context.peer()))
    assert caller.rights is not None, "it was judged before the handler ran"
    return caller.rights


def principal_of(peer: str) -> str:
    """Returns the principal of a peer, which gRPC names: its address without the port.

    All clients over a UNIX socket are one principal.
    """
    kind, _, address = unquote(peer).partition(":")
    if kind.startswith("unix"):
        return "unix"
    return address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind
