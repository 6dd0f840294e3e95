"""What can be said of an address at which the server listens."""

import ipaddress
import socket


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
