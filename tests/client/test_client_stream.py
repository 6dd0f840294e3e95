"""Streams over a real connection: what is sent, what comes back, and how it ends."""

import asyncio
import re
import time

import grpc
import numpy as np
import pytest

from duly.v1 import inference_pb2
from duly_client import Advice, Client, InvalidRequest, ProtocolError, Status, StreamRefused
from tests.client.scripted_server import OpenedStream, ScriptedServer, echo, echo_frames, on_time, refuse, serving

X = np.arange(4, dtype=np.float32)


@pytest.mark.usefixtures("either_way")
async def test_a_frame_comes_back_as_one_outcome() -> None:
    server = ScriptedServer()
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        before_ns = time.time_ns()
        frame_id = await stream.send(X)
        outcome = await anext(stream)
    assert outcome.frame_id == frame_id == 1
    assert outcome.status is Status.ON_TIME
    assert outcome.ok
    np.testing.assert_array_equal(outcome.outputs["y"], X)
    assert outcome.outputs["y"] is outcome.outputs["y"], "made once"
    assert str(outcome).endswith("outputs={y: FP32[4]})")
    assert (outcome.version, outcome.variant, outcome.batch_size, outcome.slack_ns) == ("3", "fp32", 2, 5)
    assert (outcome.timing.received_unix_ns, outcome.timing.sent_ns) == (7, 4)
    assert 0 < outcome.latency_ns <= time.time_ns() - before_ns
    assert before_ns <= server.frames[0].capture_time_unix_nano <= time.time_ns()


async def test_over_a_unix_socket(tmp_path: object) -> None:
    address = f"unix:{tmp_path}/duly.sock"
    async with serving(ScriptedServer(), address), Client(address, wan=True) as client, client.stream("echo") as stream:
        await stream.send(X)
        assert (await anext(stream)).ok


async def test_the_terms_asked_for_and_agreed() -> None:
    server = ScriptedServer()
    async with serving(server) as target, Client(target) as client:
        opening = client.stream(
            "echo",
            budget_ms=12.5,
            name="front camera",
            version=3,
            stream_class="CRITICAL",
            backlog="KEEP_LAST",
            backlog_frames=2,
            ordering="MONOTONIC",
            period_ms=33.3,
            outputs=["y"],
            gap="RESET",
            variant_lowest="int8",
            floor=(8, 10),
        )
        async with opening as stream:
            terms = stream.opened
    assert server.opens == [
        inference_pb2.OpenStream(
            model="echo",
            version="3",
            stream_name="front camera",
            stream_class=inference_pb2.STREAM_CLASS_CRITICAL,
            backlog_policy=inference_pb2.BACKLOG_POLICY_KEEP_LAST,
            backlog_frames=2,
            ordering=inference_pb2.ORDERING_MONOTONIC,
            default_budget_nano=12_500_000,
            expected_period_nano=33_300_000,
            outputs=["y"],
            gap_policy=inference_pb2.GAP_POLICY_RESET,
            variant_lowest="int8",
            floor=inference_pb2.OnTimeFloor(frames=8, window=10),
        )
    ]
    assert terms.version == "3"
    assert (terms.inputs[0].name, terms.inputs[0].dtype, terms.inputs[0].shape) == ("x", np.float32, (4,))
    assert (terms.default_budget_ns, terms.frames_in_flight_max) == (12_500_000, 64)


@pytest.mark.parametrize(
    ("argument", "value"), [("stream_class", "critical"), ("backlog", "NEWEST"), ("ordering", ""), ("gap", "STOP")]
)
async def test_a_misspelt_option_names_the_right_ones(argument: str, value: str) -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=f"{argument}=.*expected one of [A-Z_]+, [A-Z_]+"):
            client.stream("echo", **{argument: value})


@pytest.mark.usefixtures("either_way")
async def test_what_a_frame_carries() -> None:
    server = ScriptedServer()
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        await stream.send({"x": X}, capture_time_ns=1_700_000_000_000_000_000, budget_ms=7, must_run=True)
        await server.until(lambda: len(server.frames) == 1)
    (frame,) = server.frames
    assert (frame.capture_time_unix_nano, frame.budget_nano, frame.must_run) == (
        1_700_000_000_000_000_000,
        7_000_000,
        1,
    )
    assert (frame.tensors[0].name, list(frame.tensors[0].shape), frame.tensors[0].data) == ("x", [4], X.tobytes())


async def test_a_sent_array_may_change_at_once() -> None:
    """Camera drivers reuse their buffers."""
    server = ScriptedServer()
    picture = X.copy()
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        for nth in range(50):
            picture[:] = nth
            await stream.send(picture)
        picture[:] = -1
        await stream.finish()
        values = [outcome.outputs["y"][0] async for outcome in stream]
    assert values == list(range(50))


@pytest.mark.usefixtures("either_way")
async def test_finish_ends_the_iteration_after_the_last_outcome() -> None:
    async def late(stream: OpenedStream) -> None:
        await stream.greet()
        frames = [frame async for frame in stream.frames()]  # until the half-close
        for frame in frames:
            outcome = on_time(frame)
            outcome.status = inference_pb2.OUTCOME_STATUS_LATE
            outcome.reason = "25 ms past its deadline"
            await stream.answer(outcome)

    async with serving(ScriptedServer(late)) as target, Client(target) as client, client.stream("echo") as stream:
        sent = [await stream.send(X) for _ in range(10)]
        await stream.finish()
        outcomes = [outcome async for outcome in stream]
        with pytest.raises(RuntimeError, match="finished or closed"):
            await stream.send(X)
    assert [outcome.frame_id for outcome in outcomes] == sent
    assert {outcome.status for outcome in outcomes} == {Status.LATE}
    assert all(outcome.ok for outcome in outcomes)
    assert outcomes[0].reason == "25 ms past its deadline"


async def test_a_frame_without_a_result() -> None:
    async def shed(stream: OpenedStream) -> None:
        await stream.greet()
        async for frame in stream.frames():
            status = inference_pb2.OUTCOME_STATUS_SHED
            await stream.answer(inference_pb2.Outcome(frame_id=frame.frame_id, status=status, reason="overload"))

    async with serving(ScriptedServer(shed)) as target, Client(target) as client, client.stream("echo") as stream:
        await stream.send(X)
        outcome = await anext(stream)
    assert (outcome.status, outcome.ok, outcome.outputs, outcome.reason) == (Status.SHED, False, {}, "overload")
    assert re.fullmatch(
        r"Outcome\(frame_id=1, status=SHED, latency_ns=\d+, version='', variant='', batch_size=0, slack_ns=0, "
        r"reason='overload', outputs=\{\}\)",
        str(outcome),
    )


async def test_frames_are_checked_before_they_are_sent() -> None:
    server = ScriptedServer()
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        with pytest.raises(ValueError, match=r"input 'x': got FP64\[4\], expected FP32\[4\]"):
            await stream.send(X.astype(np.float64))
        with pytest.raises(ValueError, match="budget_ms"):
            await stream.send(X, budget_ms=-1)
        await stream.send(X)
        assert (await anext(stream)).frame_id == 1, "a refused frame takes no id"


async def test_unchecked_frames_are_the_servers_business() -> None:
    server = ScriptedServer()
    async with serving(server) as target, Client(target) as client, client.stream("echo", check=False) as stream:
        await stream.send(X.astype(np.float64))
        assert (await anext(stream)).outputs["y"].dtype == np.float64


async def test_a_frame_larger_than_a_message_is_refused() -> None:
    async def small(stream: OpenedStream) -> None:
        await stream.greet(message_bytes_max=40)
        await anext(stream.frames(), None)

    async with serving(ScriptedServer(small)) as target, Client(target) as client, client.stream("echo") as stream:
        with pytest.raises(ValueError, match="the server reads up to 40"):
            await stream.send(X)


@pytest.mark.usefixtures("either_way")
async def test_advice_is_passed_on() -> None:
    async def advising(stream: OpenedStream) -> None:
        await stream.greet()
        await stream.advise(kind=inference_pb2.StreamAdvice.KIND_SLOW_DOWN, period_nano=50_000_000, reason="busy")
        await stream.advise(kind=inference_pb2.StreamAdvice.KIND_VERSION_CHANGED, version="4")
        await echo_frames(stream)

    got: list[Advice] = []
    async with (
        serving(ScriptedServer(advising)) as target,
        Client(target) as client,
        client.stream("echo", on_advice=got.append) as stream,
    ):
        await stream.send(X)
        await anext(stream)
        await stream.send(np.zeros((2, 2), np.uint8))  # the new version may take something else
        assert (await anext(stream)).outputs["y"].shape == (2, 2)
    assert got == [Advice("SLOW_DOWN", 50_000_000, "", "busy"), Advice("VERSION_CHANGED", 0, "4", "")]


@pytest.mark.usefixtures("either_way")
async def test_a_refused_stream_says_why_and_what_would_fit() -> None:
    async def full(stream: OpenedStream) -> None:
        metadata = {"period_ms_min": "50"}
        message = "the lanes are full: 50 ms between frames would fit"
        await refuse(stream.context, grpc.StatusCode.RESOURCE_EXHAUSTED, message, "ADMISSION_REFUSED", metadata)

    async with serving(ScriptedServer(full)) as target, Client(target) as client:
        with pytest.raises(StreamRefused, match=r"^the lanes are full: 50 ms between frames would fit$") as caught:
            async with client.stream("echo"):
                pytest.fail("opened")
    assert (caught.value.reason, caught.value.metadata) == ("ADMISSION_REFUSED", {"period_ms_min": "50"})


async def test_a_stream_that_the_server_ends_answers_its_frames_and_raises() -> None:
    async def strict(stream: OpenedStream) -> None:
        await stream.greet()
        await anext(stream.frames())
        await stream.fail(grpc.StatusCode.INVALID_ARGUMENT, "ids must increase", "FRAME_ID_NOT_INCREASING")

    async with serving(ScriptedServer(strict)) as target, Client(target) as client, client.stream("echo") as stream:
        await stream.send(X)
        outcome = await anext(stream)
        assert (outcome.status, outcome.reason) == (Status.CANCELLED, "stream ended: ids must increase")
        with pytest.raises(InvalidRequest, match="ids must increase") as caught:
            await anext(stream)
        with pytest.raises(InvalidRequest):
            await stream.send(X)
    assert caught.value.reason == "FRAME_ID_NOT_INCREASING"


async def test_a_second_outcome_for_a_frame_is_the_servers_fault() -> None:
    async def twice(stream: OpenedStream) -> None:
        await stream.greet()
        async for frame in stream.frames():
            await stream.answer(on_time(frame), on_time(frame))

    async with serving(ScriptedServer(twice)) as target, Client(target) as client, client.stream("echo") as stream:
        await stream.send(X)
        assert (await anext(stream)).ok
        with pytest.raises(ProtocolError, match="frame 1, which is not in flight"):
            await anext(stream)


async def test_outputs_that_do_not_fill_their_shape_are_the_servers_fault() -> None:
    async def short(stream: OpenedStream) -> None:
        await stream.greet()
        async for frame in stream.frames():
            outcome = on_time(frame)
            outcome.outputs[0].data = b"123"
            await stream.answer(outcome)

    async with serving(ScriptedServer(short)) as target, Client(target) as client, client.stream("echo") as stream:
        await stream.send(X)
        outcome = await anext(stream)
        with pytest.raises(ProtocolError, match=r"tensor 'y': 3 bytes do not fill FP32\[4\]"):
            _ = outcome.outputs


@pytest.mark.usefixtures("either_way")
async def test_leaving_the_block_ends_everything() -> None:
    server = ScriptedServer(echo)
    async with serving(server) as target, Client(target) as client:
        async with client.stream("echo") as stream:
            waiting = asyncio.create_task(anext(stream, None))
            await server.until(lambda: len(server.pings) > 1)
        assert await waiting is None
        with pytest.raises(RuntimeError, match="finished or closed"):
            await stream.send(X)
        with pytest.raises(RuntimeError, match="opens once"):
            await stream.__aenter__()
    assert [task for task in asyncio.all_tasks() if "duly_client" in repr(task.get_coro())] == []
