"""Tells who is at the other end of a TCP connection over loopback, as the kernel knows it (sock_diag).

Both ends of such a connection are sockets of this machine, and the kernel says of each which user made it, and a number
that no other socket gets. It is asked for exactly one connection, by both of its addresses. This takes some 20 us and
never waits.
"""

import errno
import itertools
import os
import socket
import struct
from urllib.parse import unquote

from duly.access.evidence import LocalConnection

_SOCK_DIAG = 4  # linux/netlink.h: NETLINK_SOCK_DIAG
_BY_FAMILY, _ERROR = 20, 2  # linux/sock_diag.h: SOCK_DIAG_BY_FAMILY; linux/netlink.h: NLMSG_ERROR
_ESTABLISHED = 1
_HEAD = struct.Struct("=IHHII")  # length, type, flags, sequence number, port id
_REQUEST = struct.Struct("=BBxxI")  # inet_diag_req_v2: family, protocol, states
_PORTS = struct.Struct("!HH")
_REST = struct.Struct("=III")  # of inet_diag_sockid: interface, cookie; all ones: any
_ANSWER = struct.Struct("=BBxx36xIQ12xI")  # inet_diag_msg: family, state, interface, cookie, user
_ANSWER_BYTES = 4096
_CODE = struct.Struct("=i")


class LoopbackPeers:
    def __init__(self, address: str) -> None:
        """`address`: where the server listens, HOST:PORT. Raises OSError where the kernel does not tell."""
        host, _, port = address.rpartition(":")
        self._port = int(port)
        self._servers: dict[int, set[bytes]] = {}
        """The server's addresses by their family. Where it has several of a family, one name of a client could be that
        of several connections."""
        for family, _, _, _, place in socket.getaddrinfo(host.strip("[]"), self._port, type=socket.SOCK_STREAM):
            self._servers.setdefault(family, set()).add(socket.inet_pton(family, str(place[0])))
        self._numbers = itertools.count(1)
        self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _SOCK_DIAG)
        try:
            self._ask(socket.AF_INET, socket.inet_aton("127.0.0.1"), 0, socket.inet_aton("127.0.0.1"), 0)
        except OSError:
            self._kernel.close()
            raise

    def connection(self, name: str) -> LocalConnection | None:
        """Returns the connection of a client that gRPC names; None: there is none over loopback."""
        kind, _, address = unquote(name).partition(":")
        host, _, port = address.rpartition(":")
        family = socket.AF_INET if kind == "ipv4" else socket.AF_INET6
        servers = self._servers.get(family, set())
        if len(servers) != 1:
            return None
        (server,) = servers
        try:
            return self._ask(family, socket.inet_pton(family, host.strip("[]")), int(port), server, self._port)
        except (OSError, ValueError, struct.error):
            return None

    def _ask(self, family: int, client: bytes, port: int, server: bytes, server_port: int) -> LocalConnection | None:
        """Returns the connection from `client` to `server`; None: there is none. Raises OSError."""
        number = next(self._numbers) & 0xFFFF_FFFF
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0xFFFF_FFFF) + _PORTS.pack(port, server_port)
        body += client.ljust(16, b"\0") + server.ljust(16, b"\0") + _REST.pack(0, 0xFFFF_FFFF, 0xFFFF_FFFF)
        self._kernel.send(_HEAD.pack(_HEAD.size + len(body), _BY_FAMILY, 1, number, 0) + body)
        while True:
            answer = self._kernel.recv(_ANSWER_BYTES)
            _, kind, _, answered, _ = _HEAD.unpack_from(answer)
            if answered == number:
                break
        if kind == _ERROR:
            (code,) = _CODE.unpack_from(answer, _HEAD.size)
            if code in (0, -errno.ENOENT):
                return None
            raise OSError(-code, os.strerror(-code))
        _, state, _, cookie, uid = _ANSWER.unpack_from(answer, _HEAD.size)
        ports = _PORTS.unpack_from(answer, _HEAD.size + 4)
        if state != _ESTABLISHED or ports != (port, server_port):
            return None  # such as somebody who listens at the port
        return LocalConnection(uid, cookie)

    def close(self) -> None:
        self._kernel.close()
