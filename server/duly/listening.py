"""Says in words why an address cannot be listened on, and what would be right."""

import errno
import os
import socket

_HELP = {
    errno.EADDRINUSE: "stop what listens there, or choose another port (0: any free one)",
    errno.EADDRNOTAVAIL: "it is no address of this machine; use one of its own, or 0.0.0.0 for all of them",
    errno.EAFNOSUPPORT: "this machine has no IPv6; use an IPv4 address such as 127.0.0.1, or 0.0.0.0 for all",
    errno.EINVAL: "a link-local address needs its interface, such as [fe80::1%eth0]:8500",
    errno.EACCES: "this user may not listen on a port so low; choose one from 1024 on",
    errno.EPERM: "this user may not listen there; choose a port from 1024 on",
}
_HELP_UNIX = {
    errno.EADDRINUSE: "stop the server that listens there, or choose another path",
    errno.EEXIST: "it is no socket; remove it, or choose another path",
    errno.ENOENT: "make its folder first",
    errno.ENOTDIR: "choose a path in a folder",
    errno.EACCES: "choose a folder that this user may write to",
    errno.EPERM: "choose a folder that this user may write to",
    errno.EROFS: "choose a folder that can be written to",
}


def why_not(address: str, error: OSError | UnicodeError) -> str:
    """Returns why `address`, HOST:PORT or unix:PATH, cannot be listened on, by the error of a try, and what helps."""
    if isinstance(error, (socket.gaierror, UnicodeError)):
        host = address.rpartition(":")[0]
        return f"no address is known for the host {host}; use one of this machine, or 0.0.0.0 for all of them"
    number = error.errno or 0
    advice = (_HELP_UNIX if address.startswith("unix:") else _HELP).get(number)
    return os.strerror(number) + (f": {advice}" if advice else "")
