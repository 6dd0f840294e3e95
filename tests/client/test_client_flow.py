"""Flow: who waits for whom, what is bounded, and that nothing is lost on the way."""

import asyncio

import grpc
import numpy as np
import pytest

from duly.v1 import inference_pb2
from duly_client import Client, ClientTooSlow, InvalidRequest, Outcome, Status, frames, sending
from tests.client.scripted_server import OpenedStream, ScriptedServer, echo_frames, on_time, serving

X = np.arange(4, dtype=np.float32)


async def test_cancel_withdraws_only_what_is_in_flight() -> None:
    async def withdraw(stream: OpenedStream) -> None:
        await stream.greet()
        frames = stream.frames()
        await stream.answer(on_time(await anext(frames)))
        await anext(frames)
        reading = asyncio.ensure_future(anext(frames, None))
        await stream.server.until(lambda: bool(stream.server.cancelled))
        status = inference_pb2.OUTCOME_STATUS_CANCELLED
        await stream.answer(inference_pb2.Outcome(frame_id=2, status=status, reason="withdrawn"))
        await reading

    server = ScriptedServer(withdraw)
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        await stream.send(X)
        assert (await anext(stream)).ok
        await stream.send(X)
        stream.cancel([1, 2, 77])
        assert (await anext(stream)).status is Status.CANCELLED
    assert server.cancelled == [2]


async def test_nothing_is_lost_when_the_server_ends_a_stream_that_is_being_sent_to() -> None:
    async def strict(stream: OpenedStream) -> None:
        await stream.greet()
        frames = stream.frames()
        for _ in range(20):
            await stream.answer(on_time(await anext(frames)))
        await stream.fail(grpc.StatusCode.INVALID_ARGUMENT, "no more than 20", "INVALID_REQUEST")

    async with serving(ScriptedServer(strict)) as target, Client(target) as client, client.stream("echo") as stream:

        async def flood() -> None:
            while True:
                await stream.send(X)

        flooding = asyncio.create_task(flood())
        outcomes: list[Outcome] = []

        async def read() -> None:
            async for outcome in stream:
                outcomes.append(outcome)

        with pytest.raises(InvalidRequest, match="no more than 20"):
            await read()
        with pytest.raises(InvalidRequest, match="no more than 20"):
            await flooding
    assert [outcome.frame_id for outcome in outcomes] == list(range(1, len(outcomes) + 1))
    assert [outcome.ok for outcome in outcomes] == [True] * 20 + [False] * (len(outcomes) - 20)
    assert {outcome.reason for outcome in outcomes[20:]} <= {"stream ended: no more than 20"}


async def test_unread_outcomes_are_bounded_by_the_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not read gets no more than the credit from the wire, and `send` says so in the end."""
    monkeypatch.setattr(frames, "HELD_MAX", 200)
    monkeypatch.setattr(sending, "UNREAD_WAIT_S", 0.01)

    async def narrow(stream: OpenedStream) -> None:
        await stream.greet()
        await echo_frames(stream)

    async with serving(ScriptedServer(narrow)) as target, Client(target) as client, client.stream("echo") as stream:

        async def flood() -> None:
            while True:
                await stream.send(X)

        with pytest.raises(ClientTooSlow, match="64 outcomes are unread and 136 frames unanswered: iterate"):
            await flood()
        await stream.finish()
        outcomes = [outcome.frame_id async for outcome in stream]
    assert outcomes == list(range(1, 201)), "reading goes on where it stopped"


async def test_send_waits_for_the_transport_and_may_be_cancelled() -> None:
    go_on = asyncio.Event()

    async def deaf(stream: OpenedStream) -> None:
        await stream.greet()
        await go_on.wait()
        await echo_frames(stream)

    picture = np.zeros(1 << 20, np.uint8)
    ids = []
    async with (
        serving(ScriptedServer(deaf)) as target,
        Client(target, reconnect=False) as client,
        client.stream("echo", check=False) as stream,
    ):

        async def flood() -> None:
            while True:
                ids.append(await stream.send(picture))

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flood(), timeout=0.5)
        assert len(ids) < 64, "64 MiB fit in no flow-control window"
        go_on.set()
        await stream.finish()
        outcomes = [outcome async for outcome in stream]
    assert all(outcome.ok for outcome in outcomes)
    assert [outcome.frame_id for outcome in outcomes] == ids


async def test_several_tasks_may_send() -> None:
    server = ScriptedServer()
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        ids = await asyncio.gather(*(stream.send(X) for _ in range(300)))
        await stream.finish()
        answered = [outcome.frame_id async for outcome in stream]
    assert sorted(ids) == answered == [frame.frame_id for frame in server.frames] == list(range(1, 301))


async def test_two_tasks_cannot_share_the_outcomes() -> None:
    async with serving(ScriptedServer()) as target, Client(target) as client, client.stream("echo") as stream:
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task is already waiting"):
            await anext(stream)
        await stream.send(X)
        assert (await first).ok
