"""Clients behind a proxy: which servers it is asked for, and what an error says."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from duly_client import Client, ServerUnavailable
from duly_client.proxy import channel_options, through_proxy
from tests.client.scripted_server import ScriptedServer, serving

NONE_ASKED = (("grpc.enable_http_proxy", 0),)
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in PROXIES:
        monkeypatch.delenv(variable, raising=False)


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that refuses everybody: where it is, and what it was asked for."""
    asked: list[str] = []

    class Refuses(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode().strip())
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
async def test_a_server_on_this_machine_is_reached_past_the_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with proxy() as (where, asked):
        monkeypatch.setenv(variable, f"http://{where}")
        async with serving(ScriptedServer()) as target, Client(target) as client, client.stream("echo") as stream:
            await stream.send(np.zeros(4, np.float32))
            assert (await anext(stream)).ok
    assert not asked


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
async def test_an_error_names_the_proxy_and_not_its_password(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with proxy() as (where, asked):
        monkeypatch.setenv(variable, f"http://pilot:secret@{where}")
        async with Client("robot.example:8500", reconnect=False) as client:
            with pytest.raises(ServerUnavailable) as caught:
                await client.server_info()
    assert asked == ["CONNECT robot.example:8500 HTTP/1.1"]
    text = str(caught.value)
    assert text.startswith("no answer from robot.example:8500: ")
    words = f", through the proxy http://{where} of the variable {variable}; to do without, set no_proxy=robot.example"
    assert text.endswith(words)
    assert "secret" not in text


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:8500",
        "127.8.8.8:8500",
        "localhost:8500",
        "LocalHost.:8500",
        "gate.localhost:8500",
        "[::1]:8500",
        "[::ffff:127.0.0.1]:8500",
        "0.0.0.0:8500",
        "[::]:8500",
        "dns:///localhost:8500",
        "dns:localhost:8500",
        "ipv4:127.0.0.1:8500",
        "ipv6:[::1]:8500",
        "unix:/run/duly.sock",
        "unix:relative.sock",
        "unix-abstract:duly",
    ],
)
def test_these_are_this_machine(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert channel_options(target) == NONE_ASKED
    assert through_proxy(target) == ""


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("192.168.1.5:8500", "192.168.1.5"),
        ("robot:8500", "robot"),
        ("localhost.example:8500", "localhost.example"),
        ("notlocalhost:8500", "notlocalhost"),
        ("[fd00::9]:8500", "fd00::9"),
        ("dns:///robot:8500", "robot"),
        ("dns://8.8.8.8/robot:8500", "robot"),
        ("ipv4:10.1.2.3:8500,10.1.2.4:8500", "10.1.2.3"),
    ],
)
def test_these_are_others(monkeypatch: pytest.MonkeyPatch, target: str, host: str) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert channel_options(target) == ()
    assert through_proxy(target).endswith(
        f"http://proxy:3128 of the variable http_proxy; to do without, set no_proxy={host}"
    )


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({}, ""),
        ({"HTTP_PROXY": "http://p:1"}, ""),
        ({"all_proxy": "http://p:1"}, ""),
        ({"http_proxy": "p:1"}, ""),
        ({"https_proxy": "https://p:1", "http_proxy": "http://q:1"}, ""),
        ({"https_proxy": "", "http_proxy": "http://q:1"}, ""),
        ({"https_proxy": "http://p:1", "http_proxy": "http://q:1"}, "http://p:1 of the variable https_proxy"),
        ({"grpc_proxy": "http://g", "https_proxy": "http://p:1"}, "http://g of the variable grpc_proxy"),
        ({"http_proxy": "http://[fd00::1]:3128"}, "http://[fd00::1]:3128 of the variable http_proxy"),
        ({"http_proxy": "http://p:1", "no_proxy": "other, 10.0.0.0/8"}, ""),
        ({"http_proxy": "http://p:1", "no_proxy": "10.1.2.3"}, ""),
        ({"http_proxy": "http://p:1", "no_proxy": ".3"}, ""),
        ({"http_proxy": "http://p:1", "no_proxy": "*"}, "http://p:1 of the variable http_proxy"),
        ({"http_proxy": "http://p:1", "no_proxy": "10.1.2.3:8500"}, "http://p:1 of the variable http_proxy"),
        ({"http_proxy": "http://p:1", "NO_PROXY": "10.1.2.3"}, "http://p:1 of the variable http_proxy"),
        (
            {"http_proxy": "http://p:1", "no_proxy": "10.1.2.3", "no_grpc_proxy": "x"},
            "http://p:1 of the variable http_proxy; to do without, set no_grpc_proxy=10.1.2.3",
        ),
    ],
)
def test_the_proxy_that_is_named_is_the_one_that_grpc_asks(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], asked: str
) -> None:
    """Each row was seen with gRPC 1.85."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    words = through_proxy("10.1.2.3:8500")
    assert asked in words
    assert bool(words) == bool(asked)
