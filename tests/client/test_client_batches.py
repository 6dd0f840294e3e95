"""Outcomes in lists: the same outcomes as by iteration, each of them once."""

import asyncio

import grpc
import numpy as np
import pytest

from duly_client import Client, InvalidRequest, Status
from tests.client.scripted_server import OpenedStream, ScriptedServer, echo, echo_frames, on_time, serving

X = np.arange(4, dtype=np.float32)


async def together(stream: OpenedStream) -> None:
    """Answers all frames in one message once the client has half-closed its side."""
    await stream.greet()
    await stream.answer(*[on_time(frame) async for frame in stream.frames()])


async def test_outcomes_that_came_together_are_one_list() -> None:
    async with serving(ScriptedServer(together)) as target, Client(target) as client, client.stream("echo") as stream:
        ids = [await stream.send(X) for _ in range(5)]
        await stream.finish()
        batches = [batch async for batch in stream.batches()]
        assert [[outcome.frame_id for outcome in batch] for batch in batches] == [ids]
        assert [batch async for batch in stream.batches()] == [], "it stays ended"


async def test_nothing_is_lost_or_doubled_whichever_way_it_is_read() -> None:
    """By lists, left after each, by one at a time, and by who is cancelled while waiting."""
    read: list[int] = []
    async with serving(ScriptedServer(echo)) as target, Client(target) as client, client.stream("echo") as stream:

        async def read_some(nth: int) -> None:
            if nth % 3 == 0:
                read.append((await anext(stream)).frame_id)
            elif nth % 3 == 1:
                async for batch in stream.batches():
                    read.extend(outcome.frame_id for outcome in batch)
                    break
            else:
                waiting = asyncio.ensure_future(anext(stream.batches()))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait((waiting,))
                if not waiting.cancelled():
                    read.extend(outcome.frame_id for outcome in waiting.result())

        ids = []
        nth = 0
        for _ in range(50):
            ids += await stream.send_many([X] * 4)
            while len(read) < len(ids):
                await read_some(nth)
                nth += 1
        await stream.finish()
        assert [batch async for batch in stream.batches()] == []
    assert read == ids


async def test_lists_go_on_over_a_lost_connection() -> None:
    async def drop(stream: OpenedStream) -> None:
        await stream.greet()
        frames = stream.frames()
        await stream.answer(on_time(await anext(frames)), on_time(await anext(frames)))
        await anext(frames)
        await stream.context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    server = ScriptedServer(drop, echo)
    seen = []
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        first = await stream.send_many([X] * 4)
        async for batch in stream.batches():
            seen += [(outcome.frame_id, outcome.status) for outcome in batch]
            if len(seen) == 4:
                second = await stream.send_many([X] * 3, budget_ms=60_000)
            if len(seen) == 7:
                await stream.finish()
    assert [frame_id for frame_id, _ in seen] == first + second
    assert [status for _, status in seen] == [Status.ON_TIME] * 2 + [Status.CANCELLED] * 2 + [Status.ON_TIME] * 3
    assert [frame.frame_id for frame in server.frames if frame.frame_id > 4] == second


async def test_what_ended_the_stream_is_raised_after_the_last_list() -> None:
    async def strict(stream: OpenedStream) -> None:
        await stream.greet()
        frames = stream.frames()
        await stream.answer(on_time(await anext(frames)))
        await stream.fail(grpc.StatusCode.INVALID_ARGUMENT, "one is enough", "INVALID_REQUEST")

    outcomes = []
    async with serving(ScriptedServer(strict)) as target, Client(target) as client, client.stream("echo") as stream:

        async def read() -> None:
            async for batch in stream.batches():
                outcomes.extend(batch)

        await stream.send_many([X] * 3)
        with pytest.raises(InvalidRequest, match="one is enough"):
            await read()
    assert [(outcome.frame_id, outcome.ok) for outcome in outcomes] == [(1, True), (2, False), (3, False)]


async def test_lists_are_bounded_by_what_waits() -> None:
    """Who does not read gets no more than the credit from the wire, and reading goes on where it stopped."""

    async def narrow(stream: OpenedStream) -> None:
        await stream.greet(frames_in_flight_max=8)
        await echo_frames(stream)

    sizes = []
    async with serving(ScriptedServer(narrow)) as target, Client(target) as client, client.stream("echo") as stream:
        ids = [await stream.send(X) for _ in range(100)]
        await stream.finish()
        async for batch in stream.batches():
            sizes.append(len(batch))
    assert sum(sizes) == len(ids)
    assert 1 <= min(sizes) <= max(sizes) <= 8


async def test_one_waits_for_outcomes_whichever_way() -> None:
    async with serving(ScriptedServer()) as target, Client(target) as client, client.stream("echo") as stream:
        first = asyncio.ensure_future(anext(stream.batches()))
        await asyncio.sleep(0)
        for other in (stream, stream.batches()):
            with pytest.raises(RuntimeError, match="another task is already waiting"):
                await anext(other)
        await stream.send(X)
        assert [outcome.ok for outcome in await first] == [True]


async def test_lists_of_a_stream_that_was_not_entered() -> None:
    stream = Client("127.0.0.1:1").stream("echo")
    for use in (stream.batches().__anext__, lambda: stream.send_many([X])):
        with pytest.raises(RuntimeError, match="the stream is not open"):
            await use()
