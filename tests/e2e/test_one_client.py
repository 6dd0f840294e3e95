"""What one client does that would take from others: everybody else is served as if it were not there, and it is told in
words what was too much."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from duly.app import App
from duly.rpc import call_limits
from duly.rpc.call_limits import (
    ASKED_BURST,
    ASKED_BURST_ALL,
    ASKED_PER_S,
    ASKED_PER_S_ALL,
    REQUEST_BYTES_MAX,
    WATCHERS_BESIDE_STREAMS,
)
from duly.rpc.duly_v1.inference_service import OPENING_MAX
from duly.rpc.server import KEEPALIVE_MS
from duly.streams import open_streams
from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc, model_pb2, model_pb2_grpc, server_pb2, server_pb2_grpc
from tests import graphs
from tests.e2e.raw_http2 import ShutWindow
from tests.e2e.serving import serving
from tests.e2e.wire import EXPIRED, INVALID, ON_TIME, Wire, frame, reason, tensor

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
STREAMS_MAX = 64


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(shared_repository: Path) -> AsyncIterator[App]:
    async with serving(shared_repository, streams_max=STREAMS_MAX, critical_streams_max=1) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def greedy(server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address, options=OWN_CONNECTION) as channel:
        yield channel


@pytest_asyncio.fixture(loop_scope="module")
async def modest(server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address, options=OWN_CONNECTION) as channel:
        yield channel


async def serves(channel: grpc.aio.Channel) -> None:
    """Everything that a modest client needs is there for it."""
    async with Wire(channel, model="double") as wire:
        assert (await wire.ask(frame(1))).status == ON_TIME
    single = await inference_pb2_grpc.InferenceServiceStub(channel).Infer(
        pb.InferRequest(model="double", frame=frame(1))
    )
    assert single.outcome.status == ON_TIME
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert await watch.read() != grpc.aio.EOF
    watch.cancel()
    await server_pb2_grpc.ServerServiceStub(channel).GetServerInfo(server_pb2.GetServerInfoRequest())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


# ---- messages ----


@pytest.mark.parametrize(
    "request_",
    [
        b"\x12" + b"\xf0\x93\x09" + b"\x0a\x00" * 75_256,
        pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=range(500_000))).SerializeToString(),
        b"\x78\x01" * 100_000,
    ],
    ids=["frames", "withdrawals", "unknown fields"],
)
async def test_a_message_that_holds_too_much_ends_its_own_call(
    greedy: grpc.aio.Channel, modest: grpc.aio.Channel, request_: bytes
) -> None:
    call = greedy.stream_stream("/duly.v1.InferenceService/Stream", pb.StreamRequest.SerializeToString)()
    await call.write(pb.StreamRequest(open=pb.OpenStream(model="double")))
    await call.read()
    raw = greedy.stream_stream("/duly.v1.InferenceService/Stream")()
    await raw.write(pb.StreamRequest(open=pb.OpenStream(model="double")).SerializeToString())
    await raw.read()
    await raw.write(request_)
    error = await refused(raw.read())
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_OVERFULL")
    await serves(modest)
    call.cancel()


async def test_requests_of_other_calls_are_small_or_refused(greedy: grpc.aio.Channel) -> None:
    models = model_pb2_grpc.ModelServiceStub(greedy)
    error = await refused(models.LoadModel(model_pb2.LoadModelRequest(name="m" * (REQUEST_BYTES_MAX + 1))))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    for method in ("ModelService/GetModel", "ServerService/GetStatistics", "ModelService/UnloadModel"):
        error = await refused(greedy.unary_unary(f"/duly.v1.{method}")(b"\xff"))
        assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_MALFORMED")
    watch = greedy.unary_stream("/duly.v1.ServerService/WatchStatistics")(b"\x08\x01" * REQUEST_BYTES_MAX)
    assert reason(await refused(watch.read())) == "INVALID_REQUEST"


# ---- calls ----


async def test_watchers_leave_places_for_others(
    server: App, greedy: grpc.aio.Channel, modest: grpc.aio.Channel
) -> None:
    """More watchers than there are places: the oldest of the connection that has most are ended, with the reason."""
    over: list[str] = []

    async def watch(channel: grpc.aio.Channel = greedy) -> None:
        try:
            async for _ in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                pass
        except grpc.aio.AioRpcError as error:
            over.append(reason(error) or str(error.details()))

    watchers = [asyncio.create_task(watch()) for _ in range(STREAMS_MAX + WATCHERS_BESIDE_STREAMS - 5)]
    await asyncio.sleep(0)
    await serves(modest)
    async with grpc.aio.insecure_channel(server.address, options=OWN_CONNECTION) as further:
        watchers += [asyncio.create_task(watch(further)) for _ in range(20)]
        await until(lambda: len(over) >= 15)
        assert set(over) == {"CALLS_EXHAUSTED"}
        await serves(modest)
        for watcher in watchers:
            watcher.cancel()


async def test_calls_that_say_nothing_keep_nobody_from_opening(
    greedy: grpc.aio.Channel, modest: grpc.aio.Channel
) -> None:
    silent = [inference_pb2_grpc.InferenceServiceStub(greedy).Stream() for _ in range(STREAMS_MAX + OPENING_MAX)]
    for _ in range(10):
        silent.append(inference_pb2_grpc.InferenceServiceStub(greedy).Stream())
        await serves(modest)
    await until(lambda: sum(call.done() for call in silent) >= 10)
    for call in silent:
        if call.done():
            error = await refused(call.read())
            assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STREAMS_EXHAUSTED")
        call.cancel()


async def test_who_asks_too_often_is_slowed_down(greedy: grpc.aio.Channel, modest: grpc.aio.Channel) -> None:
    """A flood of questions gets answers at the pace of the budget; a modest client does not notice."""
    server = server_pb2_grpc.ServerServiceStub(greedy)

    async def ask() -> str:
        try:
            await server.GetStatistics(server_pb2.GetStatisticsRequest())
        except grpc.aio.AioRpcError as error:
            return reason(error) or str(error.details())
        return ""

    began_s = time.monotonic()
    asked = [asyncio.create_task(ask()) for _ in range(8 * ASKED_BURST)]
    await serves(modest)
    answers = await asyncio.gather(*asked)
    waited = answers.count("") - ASKED_BURST - ASKED_BURST_ALL
    assert set(answers) <= {"", "CALLS_EXHAUSTED"}
    assert time.monotonic() - began_s > waited / (ASKED_PER_S + ASKED_PER_S_ALL) - 0.01
    assert "" in answers
    await serves(modest)


async def test_a_call_whose_request_does_not_come_is_over_soon(
    server: App, greedy: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is one whose request is cut off, whose first bytes would lie in memory for as long as the call lasts."""
    monkeypatch.setattr(call_limits, "REQUEST_SECONDS_MAX", 0.2)
    for method in ("InferenceService/Infer", "ServerService/Drain", "ServerService/WatchStatistics"):
        call = greedy.stream_stream(f"/duly.v1.{method}")()
        error = await refused(call.read())
        assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_many_connections_that_leave_their_calls_undone_keep_nobody_from_theirs(
    server: App, modest: grpc.aio.Channel
) -> None:
    """Some send no request, some take no answer. There are more of each than there are places."""
    check = "/grpc.health.v1.Health/Check"
    methods = (check, "/duly.v1.ServerService/GetServerInfo", "/duly.v1.ServerService/Drain")
    async with AsyncExitStack() as held:
        for _ in range(12):
            channel = await held.enter_async_context(grpc.aio.insecure_channel(server.address, options=OWN_CONNECTION))
            calls = [channel.stream_stream(method)() for method in methods for _ in range(24)]
            await asyncio.gather(*(call.wait_for_connection() for call in calls))
        await serves(modest)
        for _ in range(6):
            shut = await ShutWindow.connect(server.address)
            held.push_async_callback(shut.close)
            for _ in range(48):
                await shut.call(server.address, check, b"")
        await serves(modest)
        error = await refused(server_pb2_grpc.ServerServiceStub(modest).Drain(server_pb2.DrainRequest(grace_nano=-1)))
        assert reason(error) == "INVALID_REQUEST"


async def test_streams_whose_clients_read_nothing_make_room(
    server: App, modest: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_streams, "PRESSED_NS", 10_000_000)
    opening = pb.StreamRequest(open=pb.OpenStream(model="double")).SerializeToString()
    shut = await ShutWindow.connect(server.address)
    try:
        for _ in range(STREAMS_MAX):
            await shut.call(server.address, "/duly.v1.InferenceService/Stream", opening, end=False)
        await until(lambda: len(server.streams) == STREAMS_MAX)
        now_ns = server.driver.clock
        await until(lambda: min(stream.stuck_ns(now_ns()) for stream in server.streams._open) > 10_000_000)
        async with Wire(modest, model="double") as wire:
            assert (await wire.ask(frame(1))).status == ON_TIME
    finally:
        await shut.close()
    await until(lambda: not len(server.streams))


async def test_a_flood_of_frames_that_do_not_fit_waits_for_its_turn(
    greedy: grpc.aio.Channel, modest: grpc.aio.Channel
) -> None:
    async with Wire(greedy, model="double") as wire:
        for start in range(1, 5000, 500):
            await wire.send(*(pb.Frame(frame_id=n) for n in range(start, start + 500)))
        await serves(modest)
        await wire.finish()
        assert {outcome.status for outcome in wire.outcomes.values()} == {INVALID}
        assert len(wire.outcomes) == 5000


# ---- links that break ----


class Link:
    """A connection that can go silent, as a cable that is pulled: nothing comes, and nothing says so."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Link":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.break_()
        for writer in self._writers:
            writer.close()
        self._server.close()

    def break_(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, int(self._port))
        self._writers += [writer, back]
        for task in (self._pass(reader, back), self._pass(there, writer)):
            self._tasks.add(asyncio.create_task(task))

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)


async def refused_for(wire: Wire) -> str:
    """Opens the stream. Returns the reason for which it is refused; empty: it is open."""
    try:
        await wire.__aenter__()
    except grpc.aio.AioRpcError as error:
        return reason(error)
    return ""


CRITICAL = {"model": "double", "stream_class": pb.STREAM_CLASS_CRITICAL, "default_budget_nano": 10**9}


async def test_a_dead_link_gives_back_what_its_streams_were_promised(server: App) -> None:
    open_before = len(server.streams)
    async with Link(server.address) as link, grpc.aio.insecure_channel(link.address) as channel:
        wire = Wire(channel, expected_period_nano=20_000_000, **CRITICAL)
        async with wire:
            assert (await wire.ask(frame(1))).status == ON_TIME
            assert len(server.streams) == open_before + 1
            link.break_()
            async with asyncio.timeout(sum(KEEPALIVE_MS["lan"]) / 1e3 + 2):
                while len(server.streams) > open_before:
                    await asyncio.sleep(0.05)


async def test_a_stream_takes_the_place_of_its_own_ghost(server: App, modest: grpc.aio.Channel) -> None:
    """What a broken link still holds is given to the stream of the same name at once, and to no other."""

    def wire(channel: grpc.aio.Channel, name: str) -> Wire:
        return Wire(channel, stream_name=name, expected_period_nano=50_000_000, **CRITICAL)

    async with (
        Link(server.address) as link,
        grpc.aio.insecure_channel(link.address) as channel,
        wire(channel, "front") as ghost,
    ):
        assert (await ghost.ask(frame(1))).status == ON_TIME
        link.break_()
        assert await refused_for(wire(modest, "rear")) == "STREAMS_EXHAUSTED"
        again = wire(modest, "front")
        async with asyncio.timeout(4):
            while await refused_for(again) == "STREAMS_EXHAUSTED":
                again = wire(modest, "front")
        assert (await again.ask(frame(1))).status == ON_TIME
        again.cancel()


async def test_a_stream_takes_its_ghosts_place_in_a_fusion_group(tmp_path: Path) -> None:
    """The input that a broken link still gives is given to the stream of the same name, and to no other."""
    graphs.save(tmp_path, "stereo", graphs.stereo())
    fusion = pb.Fusion(group="rig", input="left", tolerance_nano=1_000_000)

    def wire(channel: grpc.aio.Channel, name: str) -> Wire:
        return Wire(channel, stream_name=name, model="stereo", expected_period_nano=50_000_000, fusion=fusion)

    async with (
        serving(tmp_path) as app,
        Link(app.address) as link,
        grpc.aio.insecure_channel(link.address) as channel,
        grpc.aio.insecure_channel(app.address, options=OWN_CONNECTION) as other,
        wire(channel, "front") as ghost,
    ):
        left = frame(1, tensors=[tensor([1, 2, 3, 4], "left")])
        assert (await ghost.ask(left)).status == EXPIRED
        link.break_()
        assert await refused_for(wire(other, "rear")) == "INVALID_OPEN"
        again = wire(other, "front")
        async with asyncio.timeout(4):
            while await refused_for(again) == "INVALID_OPEN":
                again = wire(other, "front")
        assert (await again.ask(left)).status == EXPIRED
        again.cancel()
