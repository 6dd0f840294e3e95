"""Who makes a call, and its rights. Limits and fairness count all streams of one principal together."""

import ipaddress
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote

import grpc

from duly.access.gate import Caller
from duly.streams.errors import CallError
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


def lasts(changed: Callable[[Rights], None], end: Callable[[CallError], None]) -> None:
    """Says what happens to the call that this task serves: `changed` when its caller's rights change, which raises
    CallError where they do not do for it, and `end` when it may not go on.
    """
    caller = CALLER.get(None)
    if caller is not None:
        caller.changed = changed
        caller.ends_by(end)
        if caller.rights is not None:  # they may have changed since the call looked at them
            try:
                changed(caller.rights)
            except CallError as error:
                caller.end(error)


def is_on_this_machine(peer: str) -> bool:
    """Whether a peer, which gRPC names, has connected from this machine, as far as its address tells."""
    address = principal_of(peer)
    try:
        return address == "unix" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def principal_of(peer: str) -> str:
    """Returns the principal of a peer, which gRPC names: its address without the port.

    All clients over a UNIX socket are one principal.
    """
    kind, _, address = unquote(peer).partition(":")
    if kind.startswith("unix"):
        return "unix"
    return address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind
