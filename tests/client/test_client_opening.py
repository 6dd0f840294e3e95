"""The first opening of a stream: what may pass is tried again for as long as it may take, what may not is raised at
once."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
import pytest

from duly_client import (
    Client,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    ServerFault,
    ServerUnavailable,
    StreamRefused,
)
from duly_client.errors import DulyError
from tests.client.scripted_server import OpenedStream, ScriptedServer, echo, refuse, serving
from tests.client.test_client_reconnect import free_address

Code = grpc.StatusCode
X = np.zeros(4, np.float32)


def refusing(code: grpc.StatusCode, reason: str) -> Callable[[OpenedStream], Awaitable[None]]:
    async def refused(stream: OpenedStream) -> None:
        await refuse(stream.context, code, f"it is {reason}", reason)

    return refused


PASSES = [
    (Code.UNAVAILABLE, "ADMISSION_BUSY", ServerUnavailable),
    (Code.UNAVAILABLE, "DRAINING", ServerUnavailable),
    (Code.UNAVAILABLE, "", ServerUnavailable),
    (Code.RESOURCE_EXHAUSTED, "STREAMS_EXHAUSTED", StreamRefused),
    (Code.RESOURCE_EXHAUSTED, "", StreamRefused),  # gRPC's own limit of calls
    (Code.FAILED_PRECONDITION, "MODEL_NOT_READY", ModelNotReady),
    (Code.CANCELLED, "", ServerUnavailable),
]


@pytest.mark.parametrize(("code", "reason", "kind"), PASSES)
async def test_what_may_pass_is_tried_again(code: grpc.StatusCode, reason: str, kind: type[DulyError]) -> None:
    refused = refusing(code, reason)
    server = ScriptedServer(refused, refused, echo)
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        await stream.send(X)
        assert (await anext(stream)).ok
    assert len(server.opens) == 3
    assert server.opens[0] == server.opens[2], "on the same terms"


@pytest.mark.parametrize(("code", "reason", "kind"), PASSES)
async def test_what_does_not_pass_in_time_is_raised(code: grpc.StatusCode, reason: str, kind: type[DulyError]) -> None:
    server = ScriptedServer(refusing(code, reason))
    async with serving(server) as target, Client(target, open_timeout_s=2.0) as client:
        with pytest.raises(kind, match=f"it is {reason}") as caught:
            async with client.stream("echo"):
                pytest.fail("opened")
    assert caught.value.reason == reason
    assert len(server.opens) > 1


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (Code.NOT_FOUND, "MODEL_NOT_FOUND", ModelNotFound),
        (Code.INVALID_ARGUMENT, "INVALID_OPEN", InvalidRequest),
        (Code.RESOURCE_EXHAUSTED, "ADMISSION_REFUSED", StreamRefused),  # it says what would fit
        (Code.INTERNAL, "INTERNAL", ServerFault),
    ],
)
async def test_what_does_not_pass_is_raised_at_once(code: grpc.StatusCode, reason: str, kind: type[DulyError]) -> None:
    server = ScriptedServer(refusing(code, reason))
    async with serving(server) as target, Client(target, open_timeout_s=3600) as client:
        with pytest.raises(kind):
            async with client.stream("echo"):
                pytest.fail("opened")
    assert len(server.opens) == 1


async def test_a_server_that_starts_meanwhile_is_found() -> None:
    address = free_address()
    async with Client(address, open_timeout_s=60) as client:
        opening = asyncio.create_task(client.stream("echo").__aenter__())
        await asyncio.sleep(0)
        async with serving(ScriptedServer(), address):
            stream = await opening
            await stream.send(X, budget_ms=60_000)
            assert (await anext(stream)).ok
            await stream.close()


@pytest.mark.parametrize(("settings", "tries"), [({"reconnect": False}, 1), ({"reconnect_tries_max": 2}, 3)])
async def test_tries_are_bounded_as_those_to_reconnect_are(settings: dict[str, int], tries: int) -> None:
    server = ScriptedServer(refusing(Code.UNAVAILABLE, "ADMISSION_BUSY"))
    async with serving(server) as target, Client(target, open_timeout_s=3600, **settings) as client:  # type: ignore[arg-type]
        with pytest.raises(ServerUnavailable):
            async with client.stream("echo"):
                pytest.fail("opened")
    assert len(server.opens) == tries


async def test_a_crowd_that_opens_at_once_gets_in() -> None:
    """A server that takes two at a time, and 24 clients."""
    opening = 0

    async def busy(stream: OpenedStream) -> None:
        nonlocal opening
        if opening >= 2:
            await refuse(stream.context, Code.UNAVAILABLE, "too many wait", "ADMISSION_BUSY")
        opening += 1
        await asyncio.sleep(0.01)
        opening -= 1
        await echo(stream)

    async def one(target: str) -> bool:
        async with Client(target, open_timeout_s=60) as client, client.stream("echo") as stream:
            await stream.send(X, budget_ms=60_000)
            return (await anext(stream)).ok

    async with serving(ScriptedServer(busy)) as target:
        assert all(await asyncio.gather(*(one(target) for _ in range(24))))
