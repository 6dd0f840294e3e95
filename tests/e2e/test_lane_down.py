"""Lanes whose GPU fails while frames run: no GPU is here, so that lanes of the CPU are told to be on made-up ones, of
which a stand-in for NVML tells. The server, its workers and its clients are real.
"""

import asyncio
import os
import signal
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from duly.app import App
from duly.nvml import health, library, recovery
from duly.runtime import lane_health, samplers
from duly.runtime.catalogue import LoadedVersion, ModelError, VersionState
from duly.v1 import model_pb2, model_pb2_grpc, server_pb2, server_pb2_grpc
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.waiting import until
from tests.e2e.wire import EXPIRED, FAILED, ON_TIME, Wire, frame
from tests.nvml import stand_in as nvml

A, B = (f"00000000-0000-0000-0000-{number:012}" for number in (1, 2))
XID_79 = "Xid 79: GPU has fallen off the bus"
TOML = 'default_budget_ms = 60000\nbatch_sizes = [1, 2]\ndefault_backlog = "ALL"\n'


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return graphs.save(tmp_path / "models", "double", graphs.doubling(), TOML)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nvml.Gpu:
    """The one that the lane cpu:0 is told to be on."""
    made = nvml.Gpu(A)
    nvml.fresh(nvml.Gpu(B), made)
    monkeypatch.setattr(library.Library.__init__, "__defaults__", (nvml.__name__, tmp_path, library.time.monotonic_ns))
    monkeypatch.setattr(lane_health, "gpus_of", lambda lanes: {"cpu:0": A})
    monkeypatch.setattr(recovery, "PAUSE_NS_MIN", 1_000_000)
    monkeypatch.setattr(health, "REST_NS", 100_000_000)
    return made


@pytest.fixture
async def server(models: Path, gpu: nvml.Gpu) -> AsyncIterator[App]:
    async with serving(models, lanes=("cpu:0", "cpu:1"), metrics="127.0.0.1:0") as app:
        await until(lambda: nvml.STATE["sets"] and nvml.STATE["sets"][0].registered, "the GPU is looked after")
        yield app


@pytest.fixture
async def channel(server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


def double(app: App) -> LoadedVersion:
    (loaded,) = app.catalogue.versions("double")
    return loaded


async def asked(channel: grpc.aio.Channel, first: int, count: int) -> None:
    async with Wire(channel, model="double") as wire:
        await wire.send(*(frame(nth) for nth in range(first, first + count)))
        for nth in range(first, first + count):
            outcome = await wire.outcome(nth)
            assert outcome.status == ON_TIME, outcome.reason


async def told(channel: grpc.aio.Channel) -> tuple[dict[str, str], model_pb2.ModelVersion]:
    info = await server_pb2_grpc.ServerServiceStub(channel).GetServerInfo(server_pb2.GetServerInfoRequest())
    listed = await model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest())
    return {lane.name: lane.down for lane in info.lanes}, listed.models[0].versions[0]


async def scraped(app: App) -> str:
    with await asyncio.to_thread(urllib.request.urlopen, f"http://{app.metrics_address}/metrics") as answer:
        return answer.read().decode()


async def test_a_gpu_that_fails_takes_its_lane_down_while_the_other_serves_and_comes_back(
    server: App, channel: grpc.aio.Channel, gpu: nvml.Gpu
) -> None:
    before = dict(double(server).workers)
    await asked(channel, 1, 4)
    gpu.error = nvml.NVML_ERROR_GPU_IS_LOST
    gpu.xid(79)
    await until(lambda: "cpu:0" in server.catalogue.lanes_down, "the lane is down")
    assert before["cpu:0"].ended
    await asked(channel, 5, 8)
    lanes, version = await told(channel)
    assert (lanes["cpu:0"], lanes["cpu:1"]) in ((XID_79, ""), ("GPU is lost", ""))
    assert (version.state, version.error) == (model_pb2.MODEL_STATE_RECOVERING, f"cpu:0 is down: {lanes['cpu:0']}")
    assert set(double(server).workers) == {"cpu:1"}
    text = await scraped(server)
    assert 'duly_lane_up{lane="cpu:0"} 0.0' in text
    assert 'duly_lane_up{lane="cpu:1"} 1.0' in text
    gpu.error = 0
    await until(lambda: double(server).state is VersionState.READY, "the lane is back", 300)
    assert double(server).workers["cpu:0"] is not before["cpu:0"]
    assert double(server).workers["cpu:1"] is before["cpu:1"], "the other lane was left alone"
    assert (await told(channel))[0] == {"cpu:0": "", "cpu:1": ""}
    await asked(channel, 13, 8)
    text = await scraped(server)
    assert 'duly_lane_up{lane="cpu:0"} 1.0' in text
    assert 'duly_gpu_memory_size_bytes{device="gpu-1",lane="cpu:0"}' in text


async def test_a_frame_that_runs_on_a_gpu_that_fails_is_run_by_the_other_lane(
    models: Path, gpu: nvml.Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers.Samplers, "kill_hung_workers", lambda self: None)  # it would be as soon
    async with (
        serving(models, lanes=("cpu:0", "cpu:1")) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double") as wire,
    ):
        await until(lambda: nvml.STATE["sets"] and nvml.STATE["sets"][0].registered, "the GPU is looked after")
        worker = double(app).workers["cpu:0"]
        os.kill(worker.pid, signal.SIGSTOP)  # it hangs, as one does whose GPU has gone
        await wire.send(frame(1))
        await until(lambda: worker.busy, "the frame runs there")
        gpu.xid(79)
        outcome = await wire.outcome(1)
        assert outcome.status == ON_TIME, outcome.reason
        assert app.driver.blame.peaceful


async def test_an_error_of_a_program_leaves_the_lane_alone(
    server: App, channel: grpc.aio.Channel, gpu: nvml.Gpu
) -> None:
    before = dict(double(server).workers)
    gpu.xid(13)
    await until(lambda: server._lane_health.xids == {("cpu:0", "other"): 1}, "the Xid was heard")
    await asked(channel, 1, 4)
    assert double(server).workers == before
    assert 'duly_gpu_errors_total{kind="other",lane="cpu:0"} 1.0' in await scraped(server)


async def test_a_version_that_is_loaded_while_a_lane_is_down_serves_there_once_it_is_up(
    server: App, channel: grpc.aio.Channel, gpu: nvml.Gpu, models: Path
) -> None:
    gpu.recovery = 1
    gpu.xid(62)
    await until(lambda: "cpu:0" in server.catalogue.lanes_down, "the lane is down")
    graphs.save(models, "late", graphs.doubling(), TOML)
    await server.host.load("late", "")
    (late,) = server.catalogue.versions("late")
    assert (late.state, set(late.workers)) == (VersionState.RECOVERING, {"cpu:1"})
    async with Wire(channel, model="late") as wire:
        assert (await wire.ask(frame(1))).status == ON_TIME
    gpu.recovery = 0
    await until(lambda: late.state is VersionState.READY, "it serves on both lanes", 300)


async def test_a_lane_that_goes_down_or_comes_back_during_a_load_leaves_the_version_to_the_other(
    server: App, gpu: nvml.Gpu, models: Path
) -> None:
    supervisor, down = server._supervisor, server.catalogue.lanes_down

    async def loading(name: str, lane: str) -> tuple[LoadedVersion, "asyncio.Task[object]"]:
        """Begins to load a version, and returns once its worker for the lane is being started."""
        graphs.save(models, name, graphs.doubling(), TOML)
        load = asyncio.create_task(server.host.load(name, ""))
        await until(
            lambda: any(worker.lane == lane for each in server.catalogue.versions(name) for worker in each.starting),
            f"{name} is loaded on {lane}",
        )
        return server.catalogue.versions(name)[0], load

    first, load = await loading("first", "cpu:1")
    supervisor.lane_down("cpu:1", "for the test")
    await load
    assert (first.state, set(first.workers)) == (VersionState.RECOVERING, {"cpu:0"})
    assert first.error == "cpu:1 is down: for the test"
    second, load = await loading("second", "cpu:0")
    supervisor.lane_up("cpu:1")
    supervisor.lane_down("cpu:0", "for the test")
    await load
    assert second.state is VersionState.RECOVERING
    supervisor.lane_up("cpu:0")
    assert not down
    for version in (first, second):
        await until(lambda version=version: version.state is VersionState.READY, "it serves on both lanes", 300)
        assert set(version.workers) == {"cpu:0", "cpu:1"}
    supervisor.lane_down("cpu:0", "for the test")
    third, load = await loading("third", "cpu:1")
    supervisor.lane_up("cpu:0")
    await load
    await until(lambda: third.state is VersionState.READY, "it serves on both lanes", 300)


async def test_without_another_lane_each_frame_is_answered_and_none_is_blamed(models: Path, gpu: nvml.Gpu) -> None:
    async with (
        serving(models, lanes=("cpu:0",)) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double") as wire,
    ):
        await until(lambda: nvml.STATE["sets"] and nvml.STATE["sets"][0].registered, "the GPU is looked after")
        assert (await wire.ask(frame(1))).status == ON_TIME
        gpu.error = nvml.NVML_ERROR_GPU_IS_LOST
        gpu.xid(79)
        await until(lambda: "cpu:0" in app.catalogue.lanes_down, "the lane is down")
        await wire.send(*(frame(nth, budget_nano=200_000_000) for nth in range(2, 6)))
        for nth in range(2, 6):
            assert (await wire.outcome(nth)).status in (EXPIRED, FAILED)
        assert app.driver.blame.peaceful
        graphs.save(models, "late", graphs.doubling(), TOML)
        with pytest.raises(ModelError, match="late/1: cpu:0 is down: "):
            await app.host.load("late", "")
        gpu.error = 0
        await until(lambda: double(app).state is VersionState.READY, "the lane is back", 300)
        assert (await wire.ask(frame(6))).status == ON_TIME
