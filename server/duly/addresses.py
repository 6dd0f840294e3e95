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


def split_host_port(address: str) -> tuple[str, int]:
    """Splits `HOST:PORT` or `[IPV6]:PORT` and takes the brackets off. Raises ValueError where it is neither."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or host == "[]" or (":" in host and not bracketed) or not port.isascii():
        raise ValueError("should be HOST:PORT, such as 127.0.0.1:8500 or [::1]:8500")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError("should end in a port from 0 (any free one) to 65535")
    return (host[1:-1] if bracketed else host), int(port)
