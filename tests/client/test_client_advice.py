"""Streams that follow advice: what they keep back is answered here, in order and once."""

import asyncio

import grpc
import numpy as np
import pytest

from duly.v1 import inference_pb2
from duly_client import BlockingClient, Client, ClientTooSlow, Status, Stream
from tests.client.scripted_server import OpenedStream, ScriptedServer, echo, on_time, serving

X = np.zeros(4, np.float32)
HOUR_NS = 3600 * 10**9
SLOW_DOWN = inference_pb2.StreamAdvice.KIND_SLOW_DOWN
SPEED_UP = inference_pb2.StreamAdvice.KIND_SPEED_UP


async def slowing(stream: OpenedStream) -> None:
    """Tells the stream to send a frame an hour, then echoes its frames."""
    await stream.greet()
    await stream.advise(kind=SLOW_DOWN, period_nano=HOUR_NS, reason="overload")
    async for frame in stream.frames():
        await stream.answer(on_time(frame))


async def slowed(stream: Stream) -> None:
    """Returns when the advice has come: an outcome comes after it."""
    await stream.send(X, must_run=True)
    assert (await anext(stream)).ok


async def test_frames_that_are_not_due_are_superseded_here() -> None:
    server = ScriptedServer(slowing)
    async with (
        serving(server) as target,
        Client(target) as client,
        client.stream("echo", follow_advice=True) as stream,
    ):
        await slowed(stream)
        ids = [await stream.send(X) for _ in range(3)]
        outcomes = [await anext(stream) for _ in range(3)]
        vital = await stream.send(X, must_run=True)
        assert (await anext(stream)).frame_id == vital
        await stream.finish()
        assert [outcome async for outcome in stream] == []
    assert [outcome.frame_id for outcome in outcomes] == ids == [2, 3, 4]
    assert {outcome.status for outcome in outcomes} == {Status.SUPERSEDED}
    assert outcomes[0].reason == "not sent, the server advised a period of 3.6e+06 ms"
    assert not outcomes[0].ok
    assert outcomes[0].timing.received_unix_ns == 0
    assert [frame.frame_id for frame in server.frames] == [1, vital]


async def test_who_does_not_follow_sends_all() -> None:
    server = ScriptedServer(slowing)
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        await slowed(stream)
        await stream.send(X)
        assert (await anext(stream)).ok


async def test_the_next_frame_is_sent_when_the_server_has_room_again() -> None:
    async def relenting(stream: OpenedStream) -> None:
        await stream.greet()
        await stream.advise(kind=SLOW_DOWN, period_nano=HOUR_NS)
        async for frame in stream.frames():
            if frame.frame_id == 3:
                await stream.advise(kind=SPEED_UP)
            await stream.answer(on_time(frame))

    async with (
        serving(ScriptedServer(relenting)) as target,
        Client(target) as client,
        client.stream("echo", follow_advice=True) as stream,
    ):
        await slowed(stream)
        await stream.send(X)
        await stream.send(X, must_run=True)
        await anext(stream)
        assert (await anext(stream)).frame_id == 3
        await stream.send(X)
        assert (await anext(stream)).status is Status.ON_TIME


async def test_outcomes_keep_the_order_that_was_agreed() -> None:
    """With ARRIVAL, what is kept back waits for earlier frames that the server still has."""

    async def late(stream: OpenedStream) -> None:
        await stream.greet(ordering=inference_pb2.ORDERING_ARRIVAL)
        await stream.advise(kind=SLOW_DOWN, period_nano=HOUR_NS)
        frames = stream.frames()
        await stream.answer(on_time(await anext(frames)))
        second, fourth = await anext(frames), await anext(frames)
        await stream.answer(on_time(second))
        await stream.answer(on_time(fourth))
        await anext(frames, None)

    async with (
        serving(ScriptedServer(late)) as target,
        Client(target) as client,
        client.stream("echo", ordering="ARRIVAL", follow_advice=True) as stream,
    ):
        await slowed(stream)
        for vital in (True, False, True, False):
            await stream.send(X, must_run=vital)
        outcomes = [await anext(stream) for _ in range(4)]
        await stream.finish()
        assert [outcome async for outcome in stream] == []
    assert [(outcome.frame_id, outcome.ok) for outcome in outcomes] == [(2, True), (3, False), (4, True), (5, False)]


async def test_another_connection_begins_without_advice() -> None:
    async def dropping(stream: OpenedStream) -> None:
        await stream.greet(ordering=inference_pb2.ORDERING_ARRIVAL)
        await stream.advise(kind=SLOW_DOWN, period_nano=HOUR_NS)
        frames = stream.frames()
        await stream.answer(on_time(await anext(frames)))
        await anext(frames)
        await anext(frames)
        await stream.context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    server = ScriptedServer(dropping, echo)
    async with (
        serving(server) as target,
        Client(target) as client,
        client.stream("echo", ordering="ARRIVAL", follow_advice=True) as stream,
    ):
        await slowed(stream)
        for vital in (True, False, True):
            await stream.send(X, must_run=vital)
        lost = [await anext(stream) for _ in range(3)]
        await stream.send(X, budget_ms=60_000)
        assert (await anext(stream)).status is Status.ON_TIME
    assert [(outcome.frame_id, outcome.status) for outcome in lost] == [
        (2, Status.CANCELLED),
        (3, Status.SUPERSEDED),
        (4, Status.CANCELLED),
    ]


async def test_what_is_kept_back_counts_among_the_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly_client.frames.HELD_MAX", 8)
    monkeypatch.setattr("duly_client.sending.UNREAD_WAIT_S", 0.01)
    async with (
        serving(ScriptedServer(slowing)) as target,
        Client(target) as client,
        client.stream("echo", follow_advice=True) as stream,
    ):
        await slowed(stream)
        ids = [await stream.send(X) for _ in range(8)]
        with pytest.raises(ClientTooSlow):
            await stream.send(X)
        assert [(await anext(stream)).frame_id for _ in range(8)] == ids


async def test_the_blocking_client_follows_too() -> None:
    def send_two(target: str) -> list[Status]:
        with BlockingClient(target) as client, client.stream("echo", follow_advice=True) as stream:
            stream.send(X, must_run=True)
            first = next(stream)
            stream.send(X)
            return [first.status, next(stream).status]

    async with serving(ScriptedServer(slowing)) as target:
        assert await asyncio.to_thread(send_two, target) == [Status.ON_TIME, Status.SUPERSEDED]
