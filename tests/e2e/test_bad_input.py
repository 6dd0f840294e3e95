"""What a client can get wrong: each mistake gets a clear status or outcome, and the streams beside it are unharmed."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil
import pytest
import pytest_asyncio

from duly.app import App
from duly.core.types import OutcomeStatus
from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc, tensor_pb2
from tests.e2e.serving import serving
from tests.e2e.wire import EXPIRED, INVALID, ON_TIME, SHED, Wire, array, frame, reason, tensor

pytestmark = pytest.mark.asyncio(loop_scope="module")

YEAR_NS = 365 * 86_400 * 10**9


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def bystander(shared_channel: grpc.aio.Channel) -> AsyncIterator[Wire]:
    """A well-behaved stream, which must be served as well after each test as before it."""
    async with Wire(shared_channel, model="double") as wire:
        assert (await wire.ask(frame(1))).status == ON_TIME
        yield wire
        assert (await wire.ask(frame(1_000))).status == ON_TIME
        await wire.finish()


async def refused(shared_channel: grpc.aio.Channel, **open_: object) -> grpc.aio.AioRpcError:
    wire = Wire(shared_channel, opened=False, **open_)
    async with wire:
        await wire.write(pb.StreamRequest(open=wire._open))
        return await wire.error()


async def test_unknown_model(shared_channel: grpc.aio.Channel) -> None:
    error = await refused(shared_channel, model="dobule")
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason(error) == "MODEL_NOT_FOUND"
    assert "'dobule'" in error.details()
    assert "double, sum" in error.details()


async def test_a_compressed_message_is_refused_before_it_is_unpacked(shared_server: App) -> None:
    async with grpc.aio.insecure_channel(shared_server.address, compression=grpc.Compression.Gzip) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="'gzip' is disabled") as caught:
            await stub.Infer(pb.InferRequest(model="double", frame=frame(1)))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_unknown_version(shared_channel: grpc.aio.Channel) -> None:
    error = await refused(shared_channel, model="double", version="7")
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")


@pytest.mark.parametrize(
    ("open_", "field"),
    [
        ({"default_budget_nano": -1}, "default_budget_nano"),
        ({"default_budget_nano": YEAR_NS}, "default_budget_nano"),
        ({"stream_class": 9}, "stream_class"),
        ({"backlog_policy": pb.BACKLOG_POLICY_KEEP_LAST}, "backlog_frames"),
        ({"backlog_policy": pb.BACKLOG_POLICY_LATEST, "backlog_frames": 3}, "backlog_frames"),
        ({"outputs": ["z"]}, "outputs"),
        ({"gap_policy": pb.GAP_POLICY_RESET}, "gap_policy"),
        ({"ordering": 77}, "ordering"),
        ({"variant_lowest": "int2"}, "variant_lowest"),
        ({"expected_period_nano": -5}, "expected_period_nano"),
        ({"floor": pb.OnTimeFloor(frames=1, window=1)}, "floor.window"),
        ({"floor": pb.OnTimeFloor(frames=1, window=1025)}, "floor.window"),
        ({"floor": pb.OnTimeFloor(window=10)}, "floor.frames"),
        ({"floor": pb.OnTimeFloor(frames=10, window=10)}, "floor.frames"),
        ({"stream_name": "x" * 1000}, "stream_name"),
        ({"clock": pb.ClockEstimate(offset_nano=5)}, "clock.uncertainty_nano"),
    ],
)
async def test_wrong_open_is_refused_by_field(
    shared_channel: grpc.aio.Channel, open_: dict[str, object], field: str
) -> None:
    error = await refused(shared_channel, model="double", **open_)
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_OPEN")
    assert error.details().startswith(field)


async def test_first_message_is_no_open(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, opened=False) as wire:
        await wire.send(frame(1))
        assert reason(await wire.error()) == "FIRST_MESSAGE_NOT_OPEN"


async def test_opened_twice(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double") as wire:
        await wire.write(pb.StreamRequest(open=pb.OpenStream(model="double")))
        assert reason(await wire.error()) == "STREAM_OPENED_TWICE"


async def test_empty_message(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double") as wire:
        await wire.write(pb.StreamRequest())
        assert reason(await wire.error()) == "MESSAGE_MALFORMED"


async def test_bytes_that_are_no_message(shared_channel: grpc.aio.Channel) -> None:
    call = shared_channel.stream_stream("/duly.v1.InferenceService/Stream")()
    await call.write(b"\xff\xff\xff\xffno protobuf")
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no duly.v1.StreamRequest" in await call.details()
    unary = shared_channel.unary_unary("/duly.v1.InferenceService/Infer")
    with pytest.raises(grpc.aio.AioRpcError, match=r"no duly\.v1\.InferRequest"):
        await unary(b"\xff\xff\xff\xff")


@pytest.mark.parametrize("second", [5, 4, 0])
async def test_frame_ids_must_increase(shared_channel: grpc.aio.Channel, second: int) -> None:
    async with Wire(shared_channel, model="double") as wire:
        assert (await wire.ask(frame(5))).status == ON_TIME
        await wire.send(frame(second))
        error = await wire.error()
        assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "FRAME_ID_NOT_INCREASING")
        assert f"{second} came after 5" in error.details()


FP32 = tensor_pb2.DATA_TYPE_FP32
WRONG_FRAMES = {
    "shape": (frame(1, [1, 2, 3]), "shape [3], the model takes [4]"),
    "rank": (frame(1, [[1, 2], [3, 4]]), "shape [2, 2], the model takes [4]"),
    "negative extent": (
        frame(1, tensors=[tensor_pb2.Tensor(name="x", datatype=FP32, shape=[-4], data=b"")]),
        "shape [-4], the model takes [4]",
    ),
    "datatype": (
        frame(1, tensors=[tensor_pb2.Tensor(name="x", datatype=tensor_pb2.DATA_TYPE_INT64, shape=[4], data=bytes(32))]),
        "datatype INT64, the model takes FP32",
    ),
    "no such datatype": (
        frame(1, tensors=[tensor_pb2.Tensor(name="x", datatype=99, shape=[4], data=bytes(16))]),
        "datatype 99, the model takes FP32",
    ),
    "size": (
        frame(1, tensors=[tensor_pb2.Tensor(name="x", datatype=FP32, shape=[4], data=bytes(15))]),
        "15 bytes, FP32[4] takes 16",
    ),
    "no bytes": (frame(1, tensors=[tensor_pb2.Tensor(name="x")]), "0 bytes, FP32[4] takes 16"),
    "no input": (frame(1, tensors=[]), "input 'x' is missing"),
    "unknown input": (frame(1, tensors=[tensor([1, 2, 3, 4], "pixels")]), "there is no input 'pixels'"),
    "input twice": (frame(1, tensors=[tensor([1, 2, 3, 4])] * 2), "input 'x' is there twice"),
    "encoded": (
        frame(1, tensors=[], encoded=[tensor_pb2.Encoded(format=tensor_pb2.ENCODED_FORMAT_JPEG, data=b"abc")]),
        "JPEG is not taken, the model takes only tensors",
    ),
    "NaN": (frame(1, [1, float("nan"), 3, 4]), "x"),
    "infinity": (frame(1, [1, float("-inf"), 3, 4]), "x"),
    "negative budget": (frame(1, budget_nano=-1), "budget_nano should be"),
    "absurd budget": (frame(1, budget_nano=YEAR_NS), "budget_nano should be"),
}


@pytest.mark.parametrize("kind", WRONG_FRAMES)
async def test_wrong_frame_is_invalid_and_its_stream_goes_on(shared_channel: grpc.aio.Channel, kind: str) -> None:
    wrong, expected = WRONG_FRAMES[kind]
    async with Wire(shared_channel, model="double") as wire:
        outcome = await wire.ask(wrong)
        assert outcome.status == INVALID
        assert expected in outcome.reason
        assert not outcome.outputs
        assert (await wire.ask(frame(2))).status == ON_TIME
        await wire.finish()
        assert sorted(wire.outcomes) == [1, 2]


async def test_one_invalid_frame_of_a_batch_leaves_the_others(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double") as wire:
        values = [[i, i, i, float("nan") if i % 3 == 0 else i] for i in range(1, 41)]
        await wire.send(*(frame(i, v) for i, v in enumerate(values, start=1)))
        await wire.finish()
        for frame_id, outcome in wire.outcomes.items():
            if frame_id % 3 == 0:
                assert outcome.status == INVALID
            else:
                assert outcome.status == ON_TIME
                assert array(outcome).tolist() == [2 * frame_id] * 4
        assert len(wire.outcomes) == 40


async def test_message_over_the_limit_ends_only_its_stream(
    shared_server: App, shared_channel: grpc.aio.Channel
) -> None:
    async with Wire(shared_channel, model="double") as wire:
        huge = tensor_pb2.Tensor(name="x", data=bytes(wire.terms.message_bytes_max + 1))
        await wire.send(frame(1, tensors=[huge]))
        assert (await wire.error()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_frame_larger_than_the_model_takes(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double") as wire:
        outcome = await wire.ask(frame(1, [0.0] * 100_000))
        assert outcome.status == INVALID
        assert "[100000]" in outcome.reason


async def test_unrelated_clocks_a_year_off_do_not_matter(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double") as wire:
        for frame_id, off_ns in enumerate((-YEAR_NS, YEAR_NS), start=1):
            outcome = await wire.ask(frame(frame_id, capture_time_unix_nano=time.time_ns() + off_ns))
            assert outcome.status == ON_TIME
            assert outcome.timing.clock_uncertainty_nano == 0


async def test_related_clocks_count_from_capture_even_a_year(shared_channel: grpc.aio.Channel) -> None:
    same = pb.ClockEstimate(offset_nano=0, uncertainty_nano=10**6)
    async with Wire(shared_channel, model="double", clock=same) as wire:
        old = await wire.ask(frame(1, capture_time_unix_nano=time.time_ns() - YEAR_NS))
        assert old.status == EXPIRED
        assert "before it came" in old.reason
        future = await wire.ask(frame(2, capture_time_unix_nano=time.time_ns() + YEAR_NS))
        assert future.status == ON_TIME
        assert future.slack_nano <= 5 * 10**9, "a clock that runs ahead must not buy time"
        # The estimate says that the client's clock is a year behind, so all is well.
        await wire.write(
            pb.StreamRequest(
                clock_ping=pb.ClockPing(ping_id=1, clock=pb.ClockEstimate(offset_nano=YEAR_NS, uncertainty_nano=1))
            )
        )
        behind = await wire.ask(frame(3, capture_time_unix_nano=time.time_ns() - YEAR_NS))
        assert behind.status == ON_TIME
        assert 0 <= behind.timing.capture_to_receipt_nano < 5 * 10**9


async def test_more_frames_than_the_credit_are_shed(repository: Path) -> None:
    async with (
        serving(repository, frames_in_flight_max=4) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double") as wire,
    ):
        assert wire.terms.frames_in_flight_max == 4
        await wire.send(*(frame(i) for i in range(1, 51)))
        await wire.finish()
        statuses = [wire.outcomes[i].status for i in range(1, 51)]
        assert len(wire.outcomes) == 50
        assert statuses[:4] == [ON_TIME] * 4
        shed = [o for o in wire.outcomes.values() if o.status == SHED]
        assert shed
        assert all("more than 4 frames" in o.reason for o in shed)


async def test_more_bytes_than_the_credit_are_shed(repository: Path) -> None:
    async with (
        serving(repository, bytes_in_flight_max=40) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double") as wire,
    ):
        await wire.send(*(frame(i) for i in range(1, 11)))
        await wire.finish()
        assert len(wire.outcomes) == 10
        assert any(o.status == SHED and "more than 40 bytes" in o.reason for o in wire.outcomes.values())


async def test_too_many_streams(repository: Path) -> None:
    async with (
        serving(repository, streams_max=2) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double"),
        Wire(channel, model="double"),
    ):
        error = await refused(channel, model="double")
        assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STREAMS_EXHAUSTED")


async def all_gone(app: App) -> None:
    """Waits until no stream is open and no frame is held."""
    while len(app.streams) > 1 or len(app.driver.held):
        await asyncio.sleep(0)


async def test_client_that_vanishes(shared_server: App, shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double") as wire:
        await wire.send(*(frame(i) for i in range(1, 101)))
        wire.cancel()
    await all_gone(shared_server)
    assert shared_server.driver.held.bytes == 0


async def test_connection_that_breaks(shared_server: App) -> None:
    async with grpc.aio.insecure_channel(shared_server.address) as own:
        wire = await Wire(own, model="double").__aenter__()
        await wire.send(*(frame(i) for i in range(1, 101)))
        await own.close(None)
    await all_gone(shared_server)


async def test_a_thousand_streams_opened_and_dropped(shared_server: App, shared_channel: grpc.aio.Channel) -> None:
    process = psutil.Process()
    descriptors = 0
    for round_ in range(20):
        wires = [Wire(shared_channel, model=("double", "sum")[n % 2]) for n in range(50)]
        await asyncio.gather(*(wire.__aenter__() for wire in wires))
        for nth, wire in enumerate(wires):
            await wire.send(frame(1, [1, 2] if nth % 2 else [1, 2, 3, 4]))
            wire.cancel()
        await all_gone(shared_server)
        if round_ == 0:
            descriptors = process.num_fds()
    assert len(shared_server.streams) == 1
    assert shared_server.driver.held.bytes == 0
    assert not any(shared_server.driver.scheduler.frames_waiting_by_model().values())
    assert process.num_fds() <= descriptors + 2


async def test_client_that_never_reads(repository: Path) -> None:
    """A client sends for ever and reads nothing: the server stops reading from it, and then ends the stream."""
    async with (
        serving(repository, slow_reader_timeout_s=0.5, frames_in_flight_max=64) as app,
        grpc.aio.insecure_channel(app.address, options=[("grpc.http2.lookahead_bytes", 1024)]) as own,
        grpc.aio.insecure_channel(app.address) as other,
        Wire(other, model="double") as neighbour,
    ):
        call = inference_pb2_grpc.InferenceServiceStub(own).Stream()
        await call.write(pb.StreamRequest(open=pb.OpenStream(model="double", backlog_policy=pb.BACKLOG_POLICY_ALL)))

        async def pour() -> None:
            frame_id = 0
            while True:
                batch = [frame(frame_id + n) for n in range(1, 65)]
                frame_id += 64
                await call.write(pb.StreamRequest(frames=pb.FrameBatch(frames=batch)))

        pouring = asyncio.create_task(pour())
        asked = 0
        while not any(status is OutcomeStatus.CANCELLED for _, status, _, _ in app.metrics.counts()):
            asked += 1
            assert (await neighbour.ask(frame(asked))).status == ON_TIME
        assert app.driver.held.bytes == 0
        # What it was sent is still there for it to take, and behind that the reason; its own write, still pending, may
        # fail first, which gRPC tells as INTERNAL.
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
        assert await call.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
            await pouring


async def test_unary_errors(shared_channel: grpc.aio.Channel) -> None:
    stub = inference_pb2_grpc.InferenceServiceStub(shared_channel)
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await stub.Infer(pb.InferRequest(model="nothing", frame=frame(1)))
    assert reason(unknown.value) == "MODEL_NOT_FOUND"
    invalid = await stub.Infer(pb.InferRequest(model="double", frame=frame(1, [1.0])))
    assert invalid.outcome.status == INVALID


async def test_extreme_numbers_fit_the_answer(shared_channel: grpc.aio.Channel) -> None:
    least, most = -(2**63), 2**63 - 1
    for offset, capture in ((least, least), (most, most), (least, most), (most, least)):
        clock = pb.ClockEstimate(offset_nano=offset, uncertainty_nano=1)
        async with Wire(shared_channel, model="double", clock=clock) as wire:
            outcome = await wire.ask(frame(2**64 - 1, capture_time_unix_nano=capture))
            assert outcome.status in (ON_TIME, EXPIRED)
            await wire.finish()


async def test_impossible_budgets_fit_the_answer(shared_channel: grpc.aio.Channel) -> None:
    async with Wire(shared_channel, model="double") as wire:
        for frame_id, budget_ns in enumerate((-(2**63), -1, 2**63 - 1)):
            outcome = await wire.ask(frame(frame_id, budget_nano=budget_ns))
            assert outcome.status == INVALID
            assert outcome.reason.endswith(f"got {budget_ns}")
            assert outcome.slack_nano <= 0, "there is no budget, so there is no slack"
        await wire.finish()


async def test_what_is_quoted_is_cut_short(shared_channel: grpc.aio.Channel) -> None:
    error = await refused(shared_channel, model="x" * 100_000)
    assert (error.code(), len(error.details())) == (grpc.StatusCode.NOT_FOUND, 1000)
    error = await refused(shared_channel, model="double", stream_name="a\nb\x1b[2J")
    assert error.details().startswith("stream_name")
    async with Wire(shared_channel, model="double") as wire:
        many = tensor_pb2.Tensor(name="x", datatype=FP32, shape=[1] * 100_000, data=bytes(4))
        assert "100000 dimensions, at most 8" in (await wire.ask(frame(1, tensors=[many]))).reason
        named = await wire.ask(frame(2, tensors=[tensor([1, 2, 3, 4], "y" * 100_000)]))
        assert len(named.reason) == 1000


async def test_a_long_message_lets_other_streams_run(shared_channel: grpc.aio.Channel, bystander: Wire) -> None:
    """One message has thousands of frames beyond the credit, another one hundreds of thousands of withdrawals."""
    async with Wire(shared_channel, model="double") as wire:
        await wire.send(*(pb.Frame(frame_id=i) for i in range(1, 20_001)))
        await wire.write(pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=range(300_000))))
        served = await bystander.ask(frame(100))
        assert served.status == ON_TIME
        await wire.finish()
        assert len(wire.outcomes) == 20_000
        assert {o.status for o in wire.outcomes.values()} == {INVALID}
