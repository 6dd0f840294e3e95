"""An address that cannot be listened on: one sentence that says why, and what would be right."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from duly.listening import why_not
from duly.metrics import Metrics
from duly.metrics_server import MetricsError, serve_metrics
from duly.rpc.server import ListenError, check_free


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


UNKNOWN = "no address is known for the host {}; use one of this machine, or 0.0.0.0 for all of them"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("host.invalid:8500", UNKNOWN.format("host.invalid")),
        ("..:8500", UNKNOWN.format("..")),
        ("h" * 70 + ".example:8500", UNKNOWN.format("h" * 70 + ".example")),
        ("[not-v6]:8500", UNKNOWN.format("[not-v6]")),
        (
            "192.0.2.1:8500",  # kept for documentation, RFC 5737
            "Cannot assign requested address: it is no address of this machine; "
            "use one of its own, or 0.0.0.0 for all of them",
        ),
    ],
)
def test_a_host_that_is_not_here(address: str, why: str) -> None:
    with pytest.raises(ListenError) as listening:
        check_free(address)
    assert str(listening.value) == f"cannot listen on {address}: {why}"
    with pytest.raises(MetricsError) as metrics:
        serve_metrics(address, Metrics())
    assert str(metrics.value) == f"metrics cannot be served at {address}: {why}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_that_is_taken(taken: int, host: str) -> None:
    with pytest.raises(ListenError, match=r"Address already in use: stop what listens there, or choose another port"):
        check_free(f"{host}:{taken}")


@pytest.mark.parametrize(
    ("address", "number", "why"),
    [
        ("10.0.0.1:80", errno.EACCES, "this user may not listen on a port so low; choose one from 1024 on"),
        ("[::1]:8500", errno.EAFNOSUPPORT, "this machine has no IPv6; use an IPv4 address"),
        ("[fe80::1]:8500", errno.EINVAL, "a link-local address needs its interface"),
        ("unix:/run/duly.sock", errno.EACCES, "choose a folder that this user may write to"),
        ("unix:/mnt/duly.sock", errno.EROFS, "choose a folder that can be written to"),
        ("unix:/dev/duly.sock", errno.ENOSPC, "No space left on device"),
    ],
)
def test_what_depends_on_the_user_and_the_kernel(address: str, number: int, why: str) -> None:
    assert why in why_not(address, OSError(number, ""))


def test_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "duly.sock"
    check_free(f"unix:{path}")
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    check_free(f"unix:{path}")  # nobody listens there
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ListenError, match="already in use: stop the server that listens there"):
            check_free(f"unix:{path}")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ListenError, match="File exists: it is no socket; remove it, or choose another path"):
        check_free(f"unix:{tmp_path / 'file'}")
    with pytest.raises(ListenError, match="Not a directory: choose a path in a folder"):
        check_free(f"unix:{tmp_path / 'file' / 'duly.sock'}")
    with pytest.raises(ListenError, match="No such file or directory: make its folder first"):
        check_free(f"unix:{tmp_path / 'none' / 'duly.sock'}")
    assert (tmp_path / "file").read_text() == "mine"


def test_scrapers_that_hang_do_not_keep_others_out_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from duly import metrics_server

    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.2)
    server = serve_metrics("127.0.0.1:0", Metrics())
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(metrics_server.SCRAPES_MAX + 4)]
    try:
        for connection in silent:
            connection.settimeout(10)
            assert connection.recv(1) == b"", "closed by the server, sooner or later"
        with socket.create_connection(("127.0.0.1", server.port), 10) as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert scraper.recv(12).startswith(b"HTTP/1.0 200")
    finally:
        for connection in silent:
            connection.close()
        server.stop()
