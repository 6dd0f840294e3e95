"""Who is no client of openpi gets an answer too, before anything is opened for him."""

import asyncio

import pytest

from duly_client import Client
from duly_gateways.openpi.server import Gateway
from duly_gateways.openpi.settings import Settings

UPGRADE = (
    b"Host: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
KEY = b"Authorization: Api-Key secret\r\n"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (b"/", b"", 401),
        (b"/", b"Authorization: Api-Key other\r\n", 401),
        (b"/", b"Authorization: Api-Key \xff\xfe\r\n", 401),
        (b"/", 2 * KEY, 401),
        (b"//[h", b"", 401),
        (b"//[h?budget_ms=never", KEY, 400),
        (b"/?budget_ms=nan", KEY, 400),
        (b"/?budget_ms=1&" + b"a=1&" * 9, KEY, 400),
    ],
)
async def test_a_bad_handshake_is_answered_with_what_is_wrong(path: bytes, headers: bytes, status: int) -> None:
    async with Client("127.0.0.1:1") as client:
        server = await Gateway(client, Settings("policy", api_key="secret")).serve("127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET " + path + b" HTTP/1.1\r\n" + UPGRADE + headers + b"\r\n")
            answer = await asyncio.wait_for(reader.readline(), 60)
            writer.close()
            await writer.wait_closed()
    assert answer.split()[1] == str(status).encode()
