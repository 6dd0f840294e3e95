"""Frames in, outcomes out: the promises of the protocol, over real streams."""

import asyncio
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from duly.app import App
from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc, server_pb2, server_pb2_grpc
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import CANCELLED, EXPIRED, ON_TIME, SUPERSEDED, Wire, array, frame
from tests.lane import lane

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_frame_comes_back_with_its_result_and_its_times(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double", stream_name="camera") as wire:
        assert wire.terms.version == "1"
        assert [(i.name, list(i.shape)) for i in wire.terms.inputs] == [("x", [4])]
        assert [(o.name, list(o.shape)) for o in wire.terms.outputs] == [("y", [4])]
        assert wire.terms.planned_latency_nano > 0
        outcome = await wire.ask(frame(7, [1, -2, 3.5, 0]))
        assert outcome.status == ON_TIME
        assert array(outcome).tolist() == [2, -4, 7, 0]
        assert (outcome.version, outcome.variant, outcome.batch_size) == ("1", "default", 1)
        timing = outcome.timing
        assert 0 <= timing.dispatched_nano <= timing.started_nano <= timing.finished_nano <= timing.sent_nano
        assert 0 < outcome.slack_nano <= 5 * 10**9 - timing.sent_nano
        assert abs(timing.received_unix_nano - time.time_ns()) < 60 * 10**9


async def test_a_small_sensor_may_leave_out_what_is_plain(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double") as wire:
        bare = pb.Frame(frame_id=1)
        bare.tensors.add(data=array_bytes(1, 2, 3, 4))
        assert array(await wire.ask(bare)).tolist() == [2, 4, 6, 8]


def array_bytes(*values: float) -> bytes:
    import struct

    return struct.pack(f"<{len(values)}f", *values)


async def test_many_frames_in_one_message_leave_in_few(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double") as wire:
        await wire.send(*(frame(i, [i] * 4) for i in range(1, 101)))
        await wire.finish()
        assert {i: array(o).tolist() for i, o in wire.outcomes.items()} == {i: [2.0 * i] * 4 for i in range(1, 101)}
        assert max(o.batch_size for o in wire.outcomes.values()) > 1


async def test_large_arrays_come_through_alone_and_many_in_a_message(tmp_path: Path) -> None:
    """Alone in its message an array is not copied, so that its frame holds the message until it has run."""
    width = 4096
    graphs.save(tmp_path / "models", "wide", graphs.scaling(width), toml='default_backlog = "ALL"\n')
    async with serving(tmp_path / "models") as app, grpc.aio.insecure_channel(app.address) as channel:
        async with Wire(channel, model="wide") as wire:
            rows = {i: [float(i)] * width for i in range(1, 20)}
            for i in (1, 2, 3):
                await wire.send(frame(i, rows[i]))
            await wire.send(*(frame(i, rows[i]) for i in range(4, 12)))
            for i in range(12, 20):
                await wire.send(frame(i, rows[i]))
            await wire.finish()
            assert {i: o.status for i, o in wire.outcomes.items()} == dict.fromkeys(rows, ON_TIME)
            assert all(array(o).tolist() == [2.0 * i] * width for i, o in wire.outcomes.items())
        assert app.driver.held.bytes == 0


async def test_half_close_serves_what_waits(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double") as wire:
        await wire.send(frame(1), frame(2), frame(3))
        await wire.finish()
        assert [o.status for o in wire.outcomes.values()] == [ON_TIME] * 3


async def test_unary(shared_channel: grpc.aio.Channel) -> None:
    stub = inference_pb2_grpc.InferenceServiceStub(shared_channel)
    response = await stub.Infer(pb.InferRequest(model="double", frame=frame(3)))
    assert response.outcome.frame_id == 3
    assert array(response.outcome).tolist() == [2, 4, 6, 8]


async def test_state_is_kept_for_each_stream(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="sum") as one, Wire(shared_channel, model="sum") as two:
        for n in range(1, 6):
            await one.send(frame(n, [1, 10]))
            await two.send(frame(n, [100, 0]))
        await one.finish()
        await two.finish()
    assert [array(one.outcomes[n]).tolist() for n in range(1, 6)] == [[n, 10 * n] for n in range(1, 6)]
    assert [array(two.outcomes[n]).tolist() for n in range(1, 6)] == [[100 * n, 0] for n in range(1, 6)]


async def test_a_gap_resets_the_state_where_asked(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="sum", gap_policy=pb.GAP_POLICY_RESET) as wire:
        await wire.ask(frame(1, [1, 1]))
        assert array(await wire.ask(frame(2, [1, 1]))).tolist() == [2, 2]
        await wire.ask(frame(3, [float("nan"), 1]))
        assert array(await wire.ask(frame(4, [1, 1]))).tolist() == [1, 1]


FAST_ENOUGH = pytest.mark.holds_on(
    "cpu", "openvino", why="what takes a processor long takes a device in software ten seconds a frame"
)


@pytest.fixture
def slow_repository(tmp_path: Path) -> Path:
    root = tmp_path / "slow"
    graphs.save(root, "slow", graphs.slow(), toml="batch_sizes = [1]\n")
    return root


@FAST_ENOUGH
async def test_newest_wins(slow_repository: Path) -> None:
    async with (
        serving(slow_repository) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="slow", backlog_policy=pb.BACKLOG_POLICY_LATEST) as wire,
    ):
        await wire.send(*(frame(i, [[i]]) for i in range(1, 21)))
        await wire.finish()
        assert [i for i, o in wire.outcomes.items() if o.status == ON_TIME] == [20]
        assert all(wire.outcomes[i].status == SUPERSEDED for i in range(1, 20))
        assert wire.outcomes[2].reason == "frame 3 took its place"


@FAST_ENOUGH
async def test_what_cannot_be_in_time_is_told_at_once(slow_repository: Path) -> None:
    async with (
        serving(slow_repository) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="slow") as wire,
    ):
        await wire.send(frame(1, [[1]]), frame(2, [[2]], budget_nano=1))
        outcome = await wire.outcome(2)
        assert outcome.status == EXPIRED
        assert wire.order == [2], "it is told before the frame that runs is done"


@FAST_ENOUGH
async def test_cancelled_frames_do_not_run(slow_repository: Path) -> None:
    async with (
        serving(slow_repository) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="slow") as wire,
    ):
        await wire.send(*(frame(i, [[i]]) for i in range(1, 6)))
        await wire.write(pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=[3, 4, 99])))
        await wire.finish()
        assert [wire.outcomes[i].status for i in range(1, 6)] == [ON_TIME, ON_TIME, CANCELLED, CANCELLED, ON_TIME]


@FAST_ENOUGH
async def test_outcomes_in_arrival_order(slow_repository: Path) -> None:
    async with (
        serving(slow_repository) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="slow", ordering=pb.ORDERING_ARRIVAL) as wire,
    ):
        await wire.send(frame(1, [[1]]), frame(2, [[2, 2]]), frame(3, [[3]], budget_nano=1), frame(4, [[4]]))
        await wire.finish()
        assert wire.order == [1, 2, 3, 4]


async def test_clock_ping(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double") as wire:
        sent = time.time_ns()
        await wire.write(pb.StreamRequest(clock_ping=pb.ClockPing(ping_id=3, client_send_unix_nano=sent)))
        while not wire.pongs:
            await wire.read()
        (pong,) = wire.pongs
        assert (pong.ping_id, pong.client_send_unix_nano) == (3, sent)
        assert sent <= pong.server_receive_unix_nano <= pong.server_send_unix_nano <= time.time_ns()


async def test_health_reflection_and_info(shared_server: App, shared_channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(shared_channel)
    for service in ("", "duly.v1.InferenceService", "double", "sum"):
        while (await health.Check(health_pb2.HealthCheckRequest(service=service))).status != 1:
            await asyncio.sleep(0)
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND

    reflection = reflection_pb2_grpc.ServerReflectionStub(shared_channel)
    call = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {service.name async for reply in call for service in reply.list_services_response.service}
    assert {"duly.v1.InferenceService", "duly.v1.ModelService", "duly.v1.ServerService"} <= names

    info = await server_pb2_grpc.ServerServiceStub(shared_channel).GetServerInfo(server_pb2.GetServerInfoRequest())
    assert [each.name for each in info.lanes] == [lane()]
    assert not info.draining


async def test_statistics_count_every_outcome_once(shared_repository: Path) -> None:
    async with (
        serving(shared_repository) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double") as wire,
    ):
        await wire.send(*(frame(i) for i in range(1, 11)), frame(11, [1]))
        await wire.finish()
        await check_statistics(channel)


async def check_statistics(channel: grpc.aio.Channel) -> None:
    stub = server_pb2_grpc.ServerServiceStub(channel)
    watch = stub.WatchStatistics(server_pb2.WatchStatisticsRequest(period_nano=10**8))
    statistics = (await watch.read()).statistics
    watch.cancel()
    (double,) = (m for m in statistics.models if m.model == "double/1")
    assert {o.status: o.frames for o in double.outcomes if o.frames} == {ON_TIME: 10, pb.OUTCOME_STATUS_INVALID: 1}
    assert double.batched_frames == 10
    assert 1 <= double.batches <= 10
    assert (statistics.frames_in_flight, statistics.bytes_in_flight) == (0, 0)
