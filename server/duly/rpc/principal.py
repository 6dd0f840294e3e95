"""Whose streams come over a connection: what limits and fairness count together."""

from urllib.parse import unquote


def principal_of(peer: str) -> str:
    """Whose streams come from that peer, as gRPC names it: its address without the port.

    All clients over a UNIX socket are one principal.
    """
    kind, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind
