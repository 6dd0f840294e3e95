"""The principal of a connection. Limits and fairness count all streams of one principal together."""

from urllib.parse import unquote


def principal_of(peer: str) -> str:
    """Returns the principal of a peer, which gRPC names: its address without the port.

    All clients over a UNIX socket are one principal.
    """
    kind, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind
