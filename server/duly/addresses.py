"""What can be said of an address at which the server listens."""

import ipaddress
import os
import re
import socket

_LOCAL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def local_path(name: str) -> str:
    """Returns the path of the UNIX socket at which clients on this machine find a server of that name, which may be a
    path itself; empty where it is neither. Clients follow the same rule.
    """
    if name.startswith("/"):
        return name
    if not _LOCAL_NAME.fullmatch(name):
        return ""
    folder = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.getuid() == 0 else f"/tmp/duly-{os.getuid()}")
    return f"{folder}/duly-{name}.sock"


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address, HOST:PORT or unix:PATH."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(str(place[0])).is_loopback for *_, place in found)
