"""What a call shows of its caller. Whether that proves anything, `judge` decides."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Certificate:
    """The names in a client's certificate, which the transport has verified."""

    common_name: str = ""
    names: tuple[str, ...] = ()
    """Subject alternative names: DNS names, URIs, addresses."""
    expires_unix_s: float = 0
    """When it expires; 0: that is not known."""

    @property
    def spiffe_id(self) -> str:
        """The SPIFFE id; empty where there is none, more than one URI, which a SPIFFE certificate never has, or an
        empty part in it, which no pattern should mean.
        """
        uris = [name for name in self.names if "://" in name]
        if len(uris) != 1 or not uris[0].startswith("spiffe://"):
            return ""
        return uris[0] if all(uris[0].removeprefix("spiffe://").split("/")) else ""

    @property
    def name(self) -> str:
        """What to call its bearer."""
        return self.spiffe_id or next(iter(self.names), "") or self.common_name


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """The process at the other end of a UNIX socket, as the kernel names it."""

    uid: int
    gid: int
    pid: int


UNKNOWN_UID = 65_534
"""What the kernel says in place of users that this process's user namespace does not have: it could be any of them."""


@dataclass(frozen=True, slots=True)
class LocalConnection:
    """A connection from this machine."""

    uid: int
    """The user whose it is, as the kernel vouches."""
    number: int
    """That of no other connection, also when this one is over."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one call shows of its caller."""

    address: str
    """The address that it comes from, without the port; "unix" for all UNIX sockets."""
    token: str = ""
    """The bearer token; empty: none was sent."""
    certificate: Certificate | None = None
    unix: UnixPeer | None = None

    def __repr__(self) -> str:
        """Tokens are secrets, which must not get into logs by accident."""
        return f"Evidence({self.address!r}, token={'...' if self.token else None}, {self.certificate}, {self.unix})"
