"""What happens when the server goes away."""

import socket
from contextlib import AsyncExitStack

import grpc
import numpy as np
import pytest

from duly_client import Client, ModelNotFound, ServerFault, ServerUnavailable, Status
from tests.client.scripted_server import OpenedStream, ScriptedServer, echo, on_time, refuse, serving

X = np.zeros(4, np.float32)


async def drop(stream: OpenedStream) -> None:
    """Answers the first frame, then ends without a word, as a server that is killed does."""
    await stream.greet()
    frames = stream.frames()
    await stream.answer(on_time(await anext(frames)))
    await anext(frames)
    await stream.context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


async def test_frames_in_flight_are_cancelled_and_the_stream_goes_on() -> None:
    server = ScriptedServer(drop, echo)
    async with serving(server) as target, Client(target) as client, client.stream("echo", name="cam") as stream:
        first = await stream.send(X)
        assert (await anext(stream)).ok
        second = await stream.send(X)
        lost = await anext(stream)
        third = await stream.send(X, budget_ms=60_000)
        answered = await anext(stream)
    assert (lost.frame_id, lost.status, lost.ok) == (second, Status.CANCELLED, False)
    assert lost.reason == f"connection lost: no answer from {target}: Socket closed"
    assert lost.latency_ns > 0
    assert (answered.frame_id, answered.status) == (third, Status.ON_TIME)
    assert first < second < third
    assert server.opens[0] == server.opens[1], "on the same terms"
    assert [frame.frame_id for frame in server.frames] == [first, second, third], "none was sent twice"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_a_server_that_restarts_is_found_again() -> None:
    address = free_address()
    async with Client(address) as client, AsyncExitStack() as stack:
        async with serving(ScriptedServer(), address):
            stream = await stack.enter_async_context(client.stream("echo"))
            await stream.send(X)
            assert (await anext(stream)).ok
        async with serving(ScriptedServer(), address):
            await stream.send(X, budget_ms=60_000)
            outcome = await anext(stream)
            if not outcome.ok:  # it was sent before the loss was noticed
                assert outcome.reason.startswith("connection lost: ")
                await stream.send(X, budget_ms=60_000)
                outcome = await anext(stream)
            assert outcome.ok


async def test_a_stream_ended_by_the_server_with_status_ok_is_opened_again() -> None:
    async def brief(stream: OpenedStream) -> None:
        await stream.greet()

    server = ScriptedServer(brief, echo)
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        ids = [await stream.send(X, budget_ms=60_000), await stream.send(X, budget_ms=60_000)]
        outcomes = [await anext(stream), await anext(stream)]
    assert [outcome.frame_id for outcome in outcomes] == ids
    for outcome in outcomes:
        assert outcome.ok or outcome.reason == "connection lost: the server ended the stream"


async def test_a_frame_waits_for_the_connection_no_longer_than_its_budget() -> None:
    address = free_address()
    async with Client(address) as client, AsyncExitStack() as stack:
        async with serving(ScriptedServer(), address):
            stream = await stack.enter_async_context(client.stream("echo"))
        for _ in range(3):
            frame_id = await stream.send(X, budget_ms=1)
            outcome = await anext(stream)
            assert (outcome.frame_id, outcome.status) == (frame_id, Status.CANCELLED)
        assert outcome.reason.startswith(f"not sent, connection lost: no answer from {address}: ")


async def test_without_reconnecting_the_loss_is_raised() -> None:
    server = ScriptedServer(drop)
    async with serving(server) as target, Client(target, reconnect=False) as client, client.stream("echo") as stream:
        for _ in range(2):
            await stream.send(X)
        assert [(await anext(stream)).status for _ in range(2)] == [Status.ON_TIME, Status.CANCELLED]
        with pytest.raises(ServerUnavailable, match="Socket closed"):
            await anext(stream)
    assert len(server.opens) == 1


async def test_tries_are_bounded() -> None:
    async def down(stream: OpenedStream) -> None:
        await stream.context.abort(grpc.StatusCode.UNAVAILABLE, "down for repair")

    server = ScriptedServer(drop, down)
    async with serving(server) as target, Client(target, reconnect_tries_max=3) as client, client.stream("echo") as s:
        for _ in range(2):
            await s.send(X)
        assert [(await anext(s)).ok for _ in range(2)] == [True, False]
        with pytest.raises(ServerUnavailable, match="down for repair"):
            await anext(s)
    assert len(server.opens) == 1 + 3


async def test_reconnecting_ends_where_the_server_would_not_have_the_stream() -> None:
    async def gone(stream: OpenedStream) -> None:
        await refuse(stream.context, grpc.StatusCode.NOT_FOUND, "no model 'echo'", "MODEL_NOT_FOUND")

    server = ScriptedServer(drop, gone)
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        for _ in range(2):
            await stream.send(X)
        assert [(await anext(stream)).ok for _ in range(2)] == [True, False]
        with pytest.raises(ModelNotFound, match="no model 'echo'"):
            await anext(stream)


async def test_a_finished_stream_is_not_opened_again() -> None:
    async def careless(stream: OpenedStream) -> None:
        await stream.greet()
        async for _ in stream.frames():
            pass
        await stream.context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    server = ScriptedServer(careless)
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        await stream.send(X)
        await stream.finish()
        statuses = [outcome.status async for outcome in stream]
    assert statuses == [Status.CANCELLED]
    assert len(server.opens) == 1


async def test_leaving_while_reconnecting() -> None:
    async def silent(stream: OpenedStream) -> None:
        async for _ in stream.requests():
            pass

    server = ScriptedServer(drop, silent)
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        for _ in range(2):
            await stream.send(X)
        await server.until(lambda: len(server.opens) == 2)


async def test_nobody_listens() -> None:
    async with Client("127.0.0.1:1", open_timeout_s=0.3) as client:
        with pytest.raises(ServerUnavailable, match=r"^no answer from 127\.0\.0\.1:1: .*Connection refused"):
            async with client.stream("echo"):
                pytest.fail("opened")


async def test_a_server_that_does_not_answer() -> None:
    async def silent(stream: OpenedStream) -> None:
        async for _ in stream.requests():
            pass

    async with serving(ScriptedServer(silent)) as target, Client(target, open_timeout_s=0.05) as client:
        with pytest.raises(ServerUnavailable, match=r"no answer from 127\.0\.0\.1:\d+ in 0\.05 s"):
            async with client.stream("echo"):
                pytest.fail("opened")


async def test_a_server_that_breaks() -> None:
    async def broken(stream: OpenedStream) -> None:
        await refuse(stream.context, grpc.StatusCode.INTERNAL, "the server failed on opening", "INTERNAL")

    async with serving(ScriptedServer(broken)) as target, Client(target) as client:
        with pytest.raises(ServerFault, match="failed on opening"):
            async with client.stream("echo"):
                pytest.fail("opened")


async def test_something_else_listens() -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    async with Client(f"127.0.0.1:{port}") as client:
        with pytest.raises(Exception, match="is no duly server, or an older one"):
            async with client.stream("echo"):
                pytest.fail("opened")
    await other.stop(0)
