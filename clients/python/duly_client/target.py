"""Which targets can be a server's, so that what is none is said at once and in words.

gRPC itself looks up "http://host" as the name of a host until its time is over, takes port 443 where none is given, and
of a port beyond 65535 what is left of it in 16 bits.
"""

import os
import re

_GRPC_SCHEMES = ("unix", "unix-abstract", "vsock", "dns", "ipv4", "ipv6", "xds")
_EXPECTED = "expected HOST:PORT, such as 127.0.0.1:8500 or [::1]:8500, or unix:PATH, or local:NAME"
_PORT_MAX = 65535


_LOCAL = "local:"
_LOCAL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def local_path(target: str) -> str | None:
    """Returns the path of the UNIX socket for a target local:NAME or local:/PATH, by the rule that servers follow;
    None: it is none.
    """
    if not target.startswith(_LOCAL):
        return None
    name = target.removeprefix(_LOCAL)
    if name.startswith("/"):
        return name
    folder = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.getuid() == 0 else f"/tmp/duly-{os.getuid()}")
    return f"{folder}/duly-{name}.sock"


def check_target(target: object) -> None:
    """Raises TypeError and ValueError where `target` is no server's; targets with a scheme of gRPC's are left to it."""
    if not isinstance(target, str):
        raise TypeError(f"target: got {type(target).__name__}, {_EXPECTED}")
    if target.startswith(_LOCAL):
        name = target.removeprefix(_LOCAL)
        if not name.startswith("/") and not _LOCAL_NAME.fullmatch(name):
            raise ValueError(f"target {target!r}: expected local:NAME or local:/PATH")
        return
    scheme, colon, rest = target.partition(":")
    if colon and rest and scheme in _GRPC_SCHEMES:
        return
    if url := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", target):
        raise ValueError(f"target {target!r}: {_EXPECTED}, without {url.group()}")
    host, _, port = target.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    number = int(port) if port.isascii() and port.isdigit() else 0
    if not host or (":" in host and not bracketed) or not 0 < number <= _PORT_MAX:
        raise ValueError(f"target {target!r}: {_EXPECTED}")
