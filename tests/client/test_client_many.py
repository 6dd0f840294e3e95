"""Many frames in one message: as `send` would have sent them one by one, and never more than may be unanswered."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
import pytest

from duly.v1 import inference_pb2
from duly_client import BlockingClient, Client, ClientTooSlow, InvalidRequest, Outcome, Status, Stream
from duly_client import sending as sending_module
from tests.client.scripted_server import OpenedStream, ScriptedServer, echo, on_time, serving

X = np.arange(4, dtype=np.float32)
XS = [X + nth for nth in range(10)]
HOUR_NS = 3600 * 10**9


def echo_messages(messages: list[int], **terms: object) -> Callable[[OpenedStream], Awaitable[None]]:
    """Answers each message with one, and notes how many frames it had."""

    async def script(stream: OpenedStream) -> None:
        await stream.greet(**terms)
        async for request in stream.requests():
            frames = request.frames.frames
            messages.append(len(frames))
            stream.server.frames.extend(frames)
            stream.server.changed()
            await stream.answer(*map(on_time, frames))

    return script


async def read_all(stream: Stream) -> list[Outcome]:
    return [outcome async for outcome in stream]


async def test_frames_of_a_list_are_one_message() -> None:
    messages: list[int] = []
    server = ScriptedServer(echo_messages(messages))
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        first = await stream.send(X)
        assert (await anext(stream)).ok
        ids = await stream.send_many(XS)
        outcomes = [await anext(stream) for _ in XS]
    assert messages == [1, 10]
    assert ids == [outcome.frame_id for outcome in outcomes] == list(range(first + 1, first + 11))
    assert [outcome.outputs["y"][0] for outcome in outcomes] == list(range(10))
    assert len({frame.capture_time_unix_nano for frame in server.frames[1:]}) == 1, "captured when it was called"


async def test_no_frames_are_no_message() -> None:
    messages: list[int] = []
    server = ScriptedServer(echo_messages(messages))
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        assert await stream.send_many([]) == []
        assert await stream.send_many(iter(XS[:1])) == [1]
        assert (await anext(stream)).ok
    assert messages == [1]


async def test_what_is_asked_holds_for_each_frame() -> None:
    server = ScriptedServer()
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        times_ns = [1_700_000_000_000_000_000 + nth for nth in range(3)]
        await stream.send_many(XS[:3], capture_times_ns=times_ns, budget_ms=7, must_run=True)
        assert all([(await anext(stream)).ok for _ in range(3)])
        with pytest.raises(ValueError, match="got 3 capture_times_ns for 2 frames"):
            await stream.send_many(XS[:2], capture_times_ns=times_ns)
        with pytest.raises(ValueError, match="budget_ms"):
            await stream.send_many(XS[:2], budget_ms=-1)
        for wrong, kind in ((0, ValueError), (1 << 63, ValueError), (1.5, TypeError)):
            with pytest.raises(kind, match="frame 1 of 2"):
                await stream.send_many(XS[:2], capture_times_ns=[times_ns[0], wrong])  # type: ignore[list-item]
    assert [frame.capture_time_unix_nano for frame in server.frames] == times_ns
    assert all(frame.budget_nano == 7_000_000 and frame.must_run for frame in server.frames)


async def test_where_one_frame_does_not_fit_none_is_sent() -> None:
    server = ScriptedServer()
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        for wrong, kind, message in (
            (X.astype(np.float64), ValueError, r"^frame 2 of 4: input 'x': got FP64\[4\], expected FP32\[4\]$"),
            ("a.jpg", TypeError, r"^frame 2 of 4: input 'x': got str, expected FP32\[4\]$"),
        ):
            with pytest.raises(kind, match=message):
                await stream.send_many([X, X, wrong, X])  # type: ignore[list-item]
        assert await stream.send_many([X]) == [1]
        assert (await anext(stream)).ok
    assert [frame.frame_id for frame in server.frames] == [1]


async def test_frames_that_the_server_refuses_are_no_others() -> None:
    async def picky(stream: OpenedStream) -> None:
        await stream.greet()
        async for request in stream.requests():
            invalid, shed = inference_pb2.OUTCOME_STATUS_INVALID, inference_pb2.OUTCOME_STATUS_SHED
            refused = {3: (invalid, "NaN"), 4: (shed, "overload"), 7: (invalid, "NaN")}
            await stream.answer(
                *(
                    inference_pb2.Outcome(frame_id=f.frame_id, status=status, reason=reason)
                    for f in request.frames.frames
                    for status, reason in [refused.get(f.frame_id, (inference_pb2.OUTCOME_STATUS_ON_TIME, ""))]
                )
            )

    async with serving(ScriptedServer(picky)) as target, Client(target) as client, client.stream("echo") as stream:
        ids = await stream.send_many(XS)
        await stream.finish()
        outcomes = await read_all(stream)
    assert [outcome.frame_id for outcome in outcomes] == ids
    assert {outcome.frame_id: outcome.reason for outcome in outcomes if not outcome.ok} == {
        3: "NaN",
        4: "overload",
        7: "NaN",
    }


async def test_no_more_than_the_credit_are_unanswered() -> None:
    unanswered: list[int] = []

    async def grudging(stream: OpenedStream) -> None:
        """Answers the oldest frame whenever as many as may be are there."""
        await stream.greet(frames_in_flight_max=4)
        waiting: list[inference_pb2.Frame] = []
        async for frame in stream.frames():
            waiting.append(frame)
            unanswered.append(len(waiting))
            if len(waiting) == 4 or frame.frame_id == 10:
                await stream.answer(on_time(waiting.pop(0)))
        await stream.answer(*map(on_time, waiting))

    async with serving(ScriptedServer(grudging)) as target, Client(target) as client, client.stream("echo") as stream:
        reading = asyncio.create_task(read_all(stream))
        ids = await stream.send_many(XS)
        await stream.finish()
        outcomes = await reading
    assert max(unanswered) == 4
    assert [outcome.frame_id for outcome in outcomes] == ids == list(range(1, 11))
    assert all(outcome.ok for outcome in outcomes)


async def test_a_message_is_no_larger_than_the_server_reads() -> None:
    sizes: list[int] = []

    async def narrow(stream: OpenedStream) -> None:
        await stream.greet(message_bytes_max=300)
        async for request in stream.requests():
            sizes.append(request.ByteSize())
            await stream.answer(*map(on_time, request.frames.frames))

    async with serving(ScriptedServer(narrow)) as target, Client(target) as client, client.stream("echo") as stream:
        reading = asyncio.create_task(read_all(stream))
        ids = await stream.send_many(XS * 3)
        await stream.finish()
        assert [outcome.frame_id for outcome in await reading] == ids
    assert max(sizes) <= 300
    assert len(sizes) < len(ids)


async def test_large_frames_go_in_messages_of_bounded_size() -> None:
    messages: list[int] = []
    picture = np.zeros(1 << 20, np.uint8)
    server = ScriptedServer(echo_messages(messages, message_bytes_max=1 << 30))
    async with serving(server) as target, Client(target) as client, client.stream("echo", check=False) as stream:
        reading = asyncio.create_task(read_all(stream))
        ids = await stream.send_many([picture] * 10)
        await stream.finish()
        assert [outcome.frame_id for outcome in await reading] == ids
    assert (sum(messages), max(messages)) == (10, 3), "below 4 MiB"


async def test_no_more_bytes_than_the_credit_are_unanswered() -> None:
    """The frames have 3 MiB, and the server holds answers back until as many are there as may be."""
    unanswered: list[int] = []
    picture = np.zeros(3 << 20, np.uint8)

    async def grudging(stream: OpenedStream) -> None:
        await stream.greet(bytes_in_flight_max=10 << 20)
        waiting: list[inference_pb2.Frame] = []
        async for frame in stream.frames():
            waiting.append(frame)
            unanswered.append(len(waiting))
            if len(waiting) == 3 or frame.frame_id == 8:
                await stream.answer(*(inference_pb2.Outcome(frame_id=each.frame_id, status=1) for each in waiting))
                waiting.clear()

    async with (
        serving(ScriptedServer(grudging)) as target,
        Client(target) as client,
        client.stream("echo", check=False) as stream,
    ):
        reading = asyncio.create_task(read_all(stream))
        ids = await stream.send_many([picture] * 8)
        await stream.finish()
        assert [outcome.frame_id for outcome in await reading] == ids
    assert max(unanswered) == 3


async def drop_at_the_second_message(stream: OpenedStream) -> None:
    """Answers two frames of the first message, and ends without a word with the second one."""
    await stream.greet(frames_in_flight_max=4)
    requests = stream.requests()
    frames = list((await anext(requests)).frames.frames)
    stream.server.frames.extend(frames)
    await stream.answer(*map(on_time, frames[:2]))
    stream.server.frames.extend((await anext(requests)).frames.frames)
    await stream.context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


async def test_a_connection_that_is_lost_in_the_middle() -> None:
    server = ScriptedServer(drop_at_the_second_message, echo)
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        reading = asyncio.create_task(read_all(stream))
        ids = await stream.send_many(XS, budget_ms=60_000)
        await stream.finish()
        outcomes = await reading
    assert [outcome.frame_id for outcome in outcomes] == ids == list(range(1, 11))
    assert [outcome.ok for outcome in outcomes] == [True] * 2 + [False] * 4 + [True] * 4
    assert {outcome.reason for outcome in outcomes[2:6]} == {f"connection lost: no answer from {target}: Socket closed"}
    assert [frame.frame_id for frame in server.frames] == ids, "none was sent twice"
    assert len(server.opens) == 2


async def test_a_connection_that_does_not_come_back_within_the_budget() -> None:
    async def down(stream: OpenedStream) -> None:
        await stream.context.abort(grpc.StatusCode.UNAVAILABLE, "down for repair")

    server = ScriptedServer(drop_at_the_second_message, down)
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        ids = await stream.send_many(XS, budget_ms=1)
        outcomes = [await anext(stream) for _ in XS]
        assert [outcome.frame_id for outcome in outcomes] == ids
        assert [outcome.ok for outcome in outcomes] == [True] * 2 + [False] * 8
        assert all(outcome.reason.startswith("connection lost: ") for outcome in outcomes[2:6])
        assert all(outcome.reason.startswith("not sent, connection lost: ") for outcome in outcomes[6:])


async def test_a_stream_that_the_server_ends_in_the_middle() -> None:
    async def strict(stream: OpenedStream) -> None:
        await stream.greet(frames_in_flight_max=4)
        await anext(stream.requests())
        await stream.fail(grpc.StatusCode.INVALID_ARGUMENT, "no more than one message", "INVALID_REQUEST")

    async with serving(ScriptedServer(strict)) as target, Client(target) as client, client.stream("echo") as stream:
        with pytest.raises(InvalidRequest, match="no more than one message"):
            await stream.send_many(XS)
        outcomes = [await anext(stream) for _ in range(4)]
        with pytest.raises(InvalidRequest, match="no more than one message"):
            await anext(stream)
    assert [outcome.frame_id for outcome in outcomes] == [1, 2, 3, 4], "those that were sent"
    assert {outcome.reason for outcome in outcomes} == {"stream ended: no more than one message"}


async def test_who_is_cancelled_in_the_middle_has_sent_what_was_sent() -> None:
    go_on = asyncio.Event()

    async def waiting(stream: OpenedStream) -> None:
        await stream.greet(frames_in_flight_max=4)
        async for frame in stream.frames():
            if frame.frame_id == 4:
                await go_on.wait()
                await stream.answer(*map(on_time, stream.server.frames))
            elif frame.frame_id > 4:
                await stream.answer(on_time(frame))

    server = ScriptedServer(waiting)
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        sending = asyncio.create_task(stream.send_many(XS))
        await server.until(lambda: len(server.frames) == 4)
        sending.cancel()
        await asyncio.wait((sending,))
        assert sending.cancelled()
        go_on.set()
        assert [(await anext(stream)).frame_id for _ in range(4)] == [1, 2, 3, 4]
        assert await stream.send_many(XS[:2]) == [5, 6], "nothing of the rest has an id"
        await stream.finish()
        assert [outcome.frame_id for outcome in await read_all(stream)] == [5, 6]


async def test_withdrawing_frames_of_a_list() -> None:
    async def withdraw(stream: OpenedStream) -> None:
        await stream.greet()
        async for request in stream.requests():
            if request.WhichOneof("request") == "cancel":
                ids = request.cancel.frame_ids
                cancelled = inference_pb2.OUTCOME_STATUS_CANCELLED
                await stream.answer(*(inference_pb2.Outcome(frame_id=each, status=cancelled) for each in ids))
            await stream.answer(*map(on_time, request.frames.frames[5:]))

    async with serving(ScriptedServer(withdraw)) as target, Client(target) as client, client.stream("echo") as stream:
        ids = await stream.send_many(XS)
        answered = [(await anext(stream)).frame_id for _ in range(5)]
        stream.cancel(ids)
        outcomes = [await anext(stream) for _ in range(5)]
    assert answered == ids[5:]
    assert [(each.frame_id, each.status) for each in outcomes] == [(each, Status.CANCELLED) for each in ids[:5]]


async def test_nobody_reads_while_many_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending_module, "UNREAD_WAIT_S", 0.01)
    server = ScriptedServer(echo_messages([], frames_in_flight_max=4))
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        with pytest.raises(ClientTooSlow, match=r"4 outcomes are unread and 4 frames unanswered: iterate"):
            await stream.send_many(XS)
        await stream.finish()
        assert [outcome.frame_id for outcome in await read_all(stream)] == list(range(1, 9)), "those that were sent"


async def test_many_tasks_send_many() -> None:
    server = ScriptedServer(echo_messages([], frames_in_flight_max=16))
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        reading = asyncio.create_task(read_all(stream))
        lists = await asyncio.gather(*(stream.send_many(XS) for _ in range(20)), *(stream.send(X) for _ in range(20)))
        await stream.finish()
        outcomes = await reading
    ids = sorted(frame_id for each in lists for frame_id in (each if isinstance(each, list) else [each]))
    assert ids == list(range(1, 221))
    assert [frame.frame_id for frame in server.frames] == ids, "they increase on the wire"
    assert sorted(outcome.frame_id for outcome in outcomes) == ids


async def test_a_stream_that_follows_advice_keeps_back_what_is_not_due() -> None:
    async def slowing(stream: OpenedStream) -> None:
        await stream.greet()
        await stream.advise(kind=inference_pb2.StreamAdvice.KIND_SLOW_DOWN, period_nano=HOUR_NS)
        async for frame in stream.frames():
            await stream.answer(on_time(frame))

    server = ScriptedServer(slowing)
    async with (
        serving(server) as target,
        Client(target) as client,
        client.stream("echo", follow_advice=True) as stream,
    ):
        await stream.send(X, must_run=True)
        assert (await anext(stream)).ok
        ids = await stream.send_many(XS[:3])
        kept_back = [await anext(stream) for _ in range(3)]
        vital = await stream.send_many(XS[:2], must_run=True)
        outcomes = [await anext(stream) for _ in range(2)]
    assert [(each.frame_id, each.status) for each in kept_back] == [(each, Status.SUPERSEDED) for each in ids]
    assert [(each.frame_id, each.status) for each in outcomes] == [(each, Status.ON_TIME) for each in vital]
    assert [frame.frame_id for frame in server.frames] == [1, *vital]


async def test_the_blocking_client_sends_many() -> None:
    messages: list[int] = []

    def run(target: str) -> tuple[list[int], list[list[int]]]:
        with BlockingClient(target) as client, client.stream("echo") as stream:
            ids = stream.send_many(XS)
            stream.finish()
            return ids, [[outcome.frame_id for outcome in batch] for batch in stream.batches()]

    async with serving(ScriptedServer(echo_messages(messages))) as target:
        ids, batches = await asyncio.to_thread(run, target)
    assert messages == [10]
    assert [frame_id for batch in batches for frame_id in batch] == ids == list(range(1, 11))
