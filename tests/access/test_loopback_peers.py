"""Who is at the other end of a TCP connection over loopback, by the kernel's word."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from duly.access.evidence import LocalConnection
from duly.access.loopback_peers import LoopbackPeers


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET if request.param == "127.0.0.1" else socket.AF_INET6
    with socket.create_server((request.param, 0), family=family) as server:
        yield server


@pytest.fixture
def peers(server: socket.socket) -> Iterator[LoopbackPeers]:
    host, port = server.getsockname()[:2]
    with contextlib.closing(LoopbackPeers(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")) as peers:
        yield peers


def name_of(client: socket.socket) -> str:
    """What gRPC calls it."""
    host, port = client.getsockname()[:2]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"


def test_a_client_is_told_by_its_user_and_a_number_of_its_own(server: socket.socket, peers: LoopbackPeers) -> None:
    with (
        socket.create_connection(server.getsockname()[:2]) as one,
        socket.create_connection(server.getsockname()[:2]) as other,
    ):
        first, second = peers.connection(name_of(one)), peers.connection(name_of(other))
        assert first is not None
        assert second is not None
        assert (first.uid, second.uid) == (os.getuid(), os.getuid())
        assert first.number != second.number
        assert peers.connection(name_of(one)) == first


def test_who_has_gone_is_not_there_and_who_takes_its_place_is_another(
    server: socket.socket, peers: LoopbackPeers
) -> None:
    def connect(port: int = 0) -> socket.socket:
        client = socket.socket(server.family)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # no time to wait when it ends
        client.bind((server.getsockname()[0], port))
        client.connect(server.getsockname()[:2])
        return client

    with connect() as client:
        name, port = name_of(client), client.getsockname()[1]
        before = peers.connection(name)
    assert before is not None
    assert peers.connection(name) is None
    with connect(port):
        after = peers.connection(name)
        assert after is not None
        assert after.number != before.number


def test_who_listens_at_an_address_is_no_client_from_there(server: socket.socket, peers: LoopbackPeers) -> None:
    assert peers.connection(name_of(server)) is None
    with socket.create_server((*server.getsockname()[:1], 0), family=server.family) as other:
        assert peers.connection(name_of(other)) is None


@pytest.mark.parametrize(
    "name",
    ["", "unix:", "unix-abstract:duly", "ipv4:", "ipv4:127.0.0.1", "ipv4:x:1", "ipv6:[::1]:99999999", "ipv4:1:x"],
)
def test_other_names_are_nobodys(peers: LoopbackPeers, name: str) -> None:
    assert peers.connection(name) is None


def test_a_client_with_a_socket_of_ipv6_is_told_at_an_address_of_ipv4() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as client:
        port = server.getsockname()[1]
        client.connect(("::ffff:127.0.0.1", port))
        with contextlib.closing(LoopbackPeers(f"127.0.0.1:{port}")) as peers:
            found = peers.connection(f"ipv4:127.0.0.1:{client.getsockname()[1]}")
            assert isinstance(found, LocalConnection)
            assert found.uid == os.getuid()
