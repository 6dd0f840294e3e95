"""What the Python client proves itself with, and what it says where TLS or a token is at fault."""

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from duly.access.dev_certificates import Pair
from duly.v1 import server_pb2
from duly_client import BlockingClient, Client, ServerUnavailable, Tls
from duly_client.credentials import Token, check_clear_text
from tests.access.credentials import ca, issue, write_pair


class Info(grpc.GenericRpcHandler):
    """Answers GetServerInfo and keeps what the calls showed."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        metadata = dict(handler_call_details.invocation_metadata or ())
        self.shown.append(str(metadata.get("authorization", "")))

        async def answer(request: bytes, context: object) -> bytes:
            return server_pb2.GetServerInfoResponse(server_version="1").SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def answering(pair: Pair | None, client_ca: bytes | None = None) -> AsyncIterator[tuple[str, Info]]:
    server, info = grpc.aio.server(), Info()
    server.add_generic_rpc_handlers((info,))
    if pair is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        asks = client_ca is not None
        files = [(pair.key, pair.certificate)]
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(files, client_ca, asks))
    await server.start()
    try:
        yield f"127.0.0.1:{port}", info
    finally:
        await server.stop(0)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "ca.pem").write_bytes(ca("ca").certificate)
    (tmp_path / "other.pem").write_bytes(ca("other ca").certificate)
    write_pair(tmp_path, issue("ca", "cam.test"), "cam")
    write_pair(tmp_path, issue("ca", "cam.test", expired=True), "old")
    return tmp_path


@pytest.mark.parametrize(
    ("server", "client_ca", "tls", "words"),
    [
        (issue("ca", "127.0.0.1", expired=True), None, {"ca": "ca.pem"}, "the server's certificate has expired"),
        (issue("ca", "else.test"), None, {"ca": "ca.pem"}, "the server's certificate is for another name"),
        (issue("ca", "127.0.0.1"), None, {"ca": "other.pem"}, "of a CA that this client does not trust"),
        (issue("ca", "127.0.0.1"), None, {}, "of a CA that this client does not trust"),
        (issue("ca", "127.0.0.1"), "ca", {"ca": "ca.pem"}, "the server may ask for a client certificate"),
        (
            issue("ca", "127.0.0.1"),
            "ca",
            {"ca": "ca.pem", "cert": "old.pem", "key": "old.key"},
            "the server may ask for a client certificate, of its CA and not expired",
        ),
        (issue("ca", "127.0.0.1"), None, None, "the server may speak TLS there"),
        (None, None, {"ca": "ca.pem"}, "the server does not speak TLS there"),
    ],
    ids=["expired", "other host", "other CA", "system's CAs", "no certificate", "old certificate", "plain", "TLS"],
)
async def test_what_is_wrong_with_tls_is_said_in_words(
    files: Path, server: Pair | None, client_ca: str | None, tls: dict[str, str] | None, words: str
) -> None:
    asked = ca(client_ca).certificate if client_ca else None
    how = None if tls is None else Tls(**{name: files / file for name, file in tls.items()})
    async with answering(server, asked) as (address, _), Client(address, tls=how) as client:
        with pytest.raises(ServerUnavailable, match=words):
            await client.server_info()


async def test_a_server_is_known_by_another_name_where_that_is_stated(files: Path) -> None:
    tls = Tls(files / "ca.pem", server_name="else.test")
    async with answering(issue("ca", "else.test")) as (address, _), Client(address, tls=tls) as client:
        assert (await client.server_info()).server_version == "1"


async def test_the_token_of_a_file_is_shown_as_it_is_at_each_call(files: Path) -> None:
    file = files / "token"
    file.write_text("first\n", "ascii")
    async with answering(None) as (address, info), Client(address, token_file=file) as client:
        await client.server_info()
        fresh = files / "fresh"
        fresh.write_text("second", "ascii")
        fresh.rename(file)
        await client.server_info()
        file.unlink()
        await client.server_info()  # it is being replaced
        file.write_text("two words", "ascii")
        await client.server_info()
    assert info.shown == ["Bearer first", "Bearer second", "Bearer second", "Bearer second"]


def test_a_token_does_not_leave_the_machine_in_clear_text() -> None:
    for target in ("10.0.0.1:8500", "robot.test:8500", "dns:///robot.test:8500", "[2001:db8::1]:8500"):
        with pytest.raises(ValueError, match=r"would cross the network .* in clear text"):
            Client(target, token="secret")
        with pytest.raises(ValueError, match="in clear text"):
            BlockingClient(target, token="secret")
        Client(target, token="secret", token_in_clear_text=True)
        Client(target, token="secret", tls=Tls())
    for target in ("127.0.0.1:8500", "localhost:8500", "[::1]:8500", "unix:/run/duly.sock"):
        check_clear_text(target, False)


def test_what_proves_nothing_is_refused_when_the_client_is_made(files: Path) -> None:
    def problem(**settings: Any) -> str:
        with pytest.raises(ValueError, match=r".") as refused:
            Client("127.0.0.1:1", **settings)
        return str(refused.value)

    with pytest.raises(ValueError, match="cert and key go together"):
        Tls(cert=files / "cam.pem")
    assert "are no certificate and its private key" in problem(tls=Tls(None, files / "cam.pem", files / "old.key"))
    assert "away.pem: can't be read: No such file" in problem(tls=Tls(files / "away.pem"))
    assert "cam.key: holds no certificates in PEM" in problem(tls=Tls(files / "cam.key"))
    assert problem(tls=Tls(), credentials=grpc.ssl_channel_credentials()) == "tls and credentials: state one of them"
    assert problem(token="a b") == "token: should be one token, without spaces and other signs than ASCII has"
    for text in ("", "a\nb", "é", "x" * 20_000):
        (files / "token").write_text(text, "utf-8")
        assert "should be one token" in problem(token_file=files / "token")
    with pytest.raises(ValueError, match="state one of them"):
        Token("a", files / "token")


async def test_no_version_of_tls_before_1_2_is_spoken(files: Path) -> None:
    async with answering(issue("ca", "127.0.0.1")) as (address, _):
        host, _, port = address.rpartition(":")
        context = ssl.create_default_context(cafile=files / "ca.pem")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        assert writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        writer.close()
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, OSError)):
            await asyncio.open_connection(host, int(port), ssl=context)
