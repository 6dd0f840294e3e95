"""A new version becomes active only if it is what it should be, and if what open streams were promised still holds."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import pytest_asyncio
from click.testing import CliRunner

from duly.app import App
from duly.cli_models import models
from duly.streams import open_streams
from duly.v1 import inference_pb2 as pb
from duly.v1 import model_pb2, model_pb2_grpc
from duly_client import ActivationRefused, Client
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import Wire, array, frame, reason

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUMBERS = itertools.count()
TOML = "batch_sizes = [1]\n"
MS = 10**6


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    root = tmp_path_factory.mktemp("new") / "models"
    graphs.save(root, "other", graphs.scaling(), TOML)
    graphs.save(root, "sum", graphs.summing(), TOML + graphs.SUMMING)
    async with serving(root, versions_max=3) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def channel(server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> model_pb2_grpc.ModelServiceStub:
    return model_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture
def root(server: App) -> Path:
    return server._config.models


@pytest.fixture
def name() -> str:
    """A model of the test's own."""
    return f"m{next(NUMBERS)}"


def put(root: Path, name: str, version: int, proto: onnx.ModelProto, toml: str = "") -> Path:
    graphs.save(root, name, proto, toml or TOML, version=version)
    return root / name / str(version)


async def load(stub: model_pb2_grpc.ModelServiceStub, name: str, version: int) -> model_pb2.Model:
    return (await stub.LoadModel(model_pb2.LoadModelRequest(name=name, version=str(version)))).model


async def refused(call: grpc.aio.UnaryUnaryCall[object, object]) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return reason(error.value), error.value.details() or ""


async def test_a_version_that_breaks_a_promise_is_refused_unless_it_is_forced(
    server: App, root: Path, name: str, channel: grpc.aio.Channel, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    put(root, name, 1, graphs.scaling_one(2.0))
    await load(stub, name, 1)
    put(root, name, 2, graphs.slow(rounds=60))
    await load(stub, name, 2)
    (slow_ns, *_) = server.driver.scheduler.planned_ns(f"{name}/2", "cpu:0")
    terms = {"model": name, "stream_class": pb.STREAM_CLASS_CRITICAL}
    tight = {"expected_period_nano": 20 * slow_ns, "default_budget_nano": slow_ns // 2}
    async with Wire(channel, **terms, **tight) as wire, Client(server.address) as client:
        assert (await wire.ask(frame(1, [[5]]))).version == "1"
        with pytest.raises(ActivationRefused, match="of 1 open streams were promised") as error:
            await client.activate_version(name, 2)
        assert error.value.metadata["streams"] == "1"
        assert int(error.value.metadata["planned_nano"]) > int(error.value.metadata["planned_before_nano"]) > 0
        assert "/" not in str(error.value).replace(f"{name}/1", "").replace(f"{name}/2", "")
        assert (await wire.ask(frame(2, [[5]]))).version == "1"
        forced = await client.activate_version(name, 2, force=True)
        assert (forced.active_version, forced.previous_version) == ("2", "1")
        back = await client.activate_version(name, 1)
        assert (back.active_version, back.previous_version) == ("1", "2")
        assert (await wire.ask(frame(3, [[5]]))).version == "1"


async def test_a_slower_version_that_breaks_no_promise_is_activated(
    server: App, root: Path, name: str, channel: grpc.aio.Channel, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    put(root, name, 1, graphs.scaling_one(2.0))
    await load(stub, name, 1)
    put(root, name, 2, graphs.slow(rounds=20))
    await load(stub, name, 2)
    (slow_ns, *_) = server.driver.scheduler.planned_ns(f"{name}/2", "cpu:0")
    tight = {"expected_period_nano": 10 * slow_ns, "default_budget_nano": slow_ns // 2}
    for terms in (
        tight | {"version": "1"},
        tight | {"stream_class": pb.STREAM_CLASS_BEST_EFFORT},
        tight | {"default_budget_nano": 100 * slow_ns},
        {"default_budget_nano": 100 * slow_ns},
    ):
        async with Wire(channel, model=name, **terms):
            for version in ("2", "1"):
                request = model_pb2.ActivateVersionRequest(name=name, version=version)
                assert (await stub.ActivateVersion(request)).model.active_version == version


async def test_the_promise_of_another_model_counts_too(
    server: App, root: Path, name: str, channel: grpc.aio.Channel, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """The slower version fits its own streams, and would block those of another model for too long."""
    put(root, name, 1, graphs.scaling_one(2.0))
    await load(stub, name, 1)
    put(root, name, 2, graphs.slow(rounds=60))
    await load(stub, name, 2)
    (slow_ns, *_) = server.driver.scheduler.planned_ns(f"{name}/2", "cpu:0")
    critical = {"stream_class": pb.STREAM_CLASS_CRITICAL, "expected_period_nano": 20 * slow_ns}
    async with (
        Wire(channel, model="other", **critical, default_budget_nano=slow_ns // 2),
        Wire(channel, model=name, expected_period_nano=20 * slow_ns, default_budget_nano=15 * slow_ns),
    ):
        error, text = await refused(stub.ActivateVersion(model_pb2.ActivateVersionRequest(name=name, version="2")))
    assert (error, "budget" in text) == ("ACTIVATION_REFUSED", True)


async def test_no_more_versions_than_allowed_are_loaded(
    root: Path, name: str, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    for version in range(1, 5):
        put(root, name, version, graphs.scaling(factor=version))
    for version in range(1, 4):
        await load(stub, name, version)
    error, text = await refused(stub.LoadModel(model_pb2.LoadModelRequest(name=name, version="4")))
    assert error == "VERSIONS_EXHAUSTED"
    assert text == f"3 versions of model '{name}' are loaded already (versions_max): 1, 2, 3; unload one first"
    await stub.UnloadModel(model_pb2.UnloadModelRequest(name=name, version="2"))
    assert [v.version for v in (await load(stub, name, 4)).versions] == ["4", "3", "1"]


async def test_a_version_that_disagrees_with_its_sample_is_never_active(
    root: Path, name: str, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    x = np.float32([1, 2, 3, 4])
    for version, factor in ((1, 2.0), (2, 2.1)):
        folder = put(root, name, version, graphs.scaling(factor=factor)) / "checks"
        folder.mkdir()
        np.savez(folder / "one.npz", **{"input.x": x, "output.y": x * 2})
    await load(stub, name, 1)
    error, text = await refused(stub.LoadModel(model_pb2.LoadModelRequest(name=name)))
    assert error == "LOAD_FAILED"
    assert text.startswith(f"{name}/2: {name}/2/checks/one.npz: output 'y' disagrees in 4 of 4 numbers: [0] is 2.1")
    model = (await stub.GetModel(model_pb2.GetModelRequest(name=name))).model
    assert model.active_version == "1"
    states = [(version.version, version.state) for version in model.versions]
    assert states == [("2", model_pb2.MODEL_STATE_FAILED), ("1", model_pb2.MODEL_STATE_READY)]
    error, _ = await refused(stub.ActivateVersion(model_pb2.ActivateVersionRequest(name=name, version="2")))
    assert error == "MODEL_NOT_READY"
    put(root, name, 3, graphs.slow(rounds=2), TOML + "[checks]\none_ms_max = 0.001\n")
    error, text = await refused(stub.LoadModel(model_pb2.LoadModelRequest(name=name)))
    assert error == "LOAD_FAILED"
    assert f"checks.one_ms_max of {name}/model.toml is 0.001" in text


async def command(*words: str) -> tuple[int, str]:
    """Runs `duly models` and returns its exit status with what it prints."""
    done = await asyncio.to_thread(CliRunner().invoke, models, words)
    said = str(done.exception) if done.exception and not isinstance(done.exception, SystemExit) else ""
    own = [line for line in done.output.splitlines(keepends=True) if "] " not in line]  # without the server's log
    return done.exit_code, "".join(own) + said


async def test_the_commands_change_what_a_server_serves(server: App, root: Path, name: str) -> None:
    for version in (1, 2):
        put(root, name, version, graphs.scaling(factor=version))
    at = ("--server", server.address)
    assert await command("load", name, "1", *at) == (0, f"{name}/1  READY  active\n")
    status, said = await command("rollback", name, *at)
    assert (status, f"no version of {name} was active before 1" in said) == (1, True)
    assert await command("load", name, *at) == (0, f"{name}/2  READY\n{name}/1  READY  active\n")
    assert await command("activate", name, "2", *at) == (0, f"{name}/2  READY  active\n{name}/1  READY\n")
    assert await command("rollback", name, *at) == (0, f"{name}/2  READY\n{name}/1  READY  active\n")
    assert await command("unload", name, *at) == (0, f"{name}  not loaded\n")
    status, said = await command("activate", name, "2", *at)
    assert (status, f"there is no model '{name}'" in said) == (1, True)


async def test_streams_of_a_model_with_state_are_told_when_it_starts_anew(
    root: Path, channel: grpc.aio.Channel, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    put(root, "sum", 2, graphs.summing(), TOML + graphs.SUMMING)
    await load(stub, "sum", 2)
    async with (
        Wire(channel, model="sum") as follows,
        Wire(channel, model="sum", gap_policy=pb.GAP_POLICY_SKIP) as strict,
        Wire(channel, model="sum", version="1", gap_policy=pb.GAP_POLICY_SKIP) as stays,
    ):
        for wire in (follows, strict, stays):
            assert array(await wire.ask(frame(1, [1, 1]))).tolist() == [1, 1]
        await stub.ActivateVersion(model_pb2.ActivateVersionRequest(name="sum", version="2"))
        anew, skipped, same = [await wire.ask(frame(2, [1, 1])) for wire in (follows, strict, stays)]
        assert (anew.version, array(anew).tolist()) == ("2", [1, 1])
        assert skipped.status == pb.OUTCOME_STATUS_SKIPPED
        assert (same.version, array(same).tolist()) == ("1", [2, 2])
        for wire in (follows, strict):
            (advice,) = wire.advice
            assert advice.kind == pb.StreamAdvice.KIND_VERSION_CHANGED
            assert advice.reason == "version 2 is active; the state of the stream starts anew with it"
        assert stays.advice == []


async def test_no_more_streams_with_state_open_than_workers_remember(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_streams, "STATES_MAX", 2)
    async with Wire(channel, model="sum"), Wire(channel, model="other"), Wire(channel, model="sum", version="1"):
        with pytest.raises(grpc.aio.AioRpcError, match="2 streams of model 'sum' are open already") as full:
            async with Wire(channel, model="sum"):
                pass
        assert reason(full.value) == "STREAMS_EXHAUSTED"
        async with Wire(channel, model="other"):
            pass


async def test_a_version_that_is_unloaded_finishes_what_has_come_for_it(
    root: Path, name: str, channel: grpc.aio.Channel, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    put(root, name, 1, graphs.slow(rounds=20))
    await load(stub, name, 1)
    put(root, name, 2, graphs.slow(rounds=20))
    await load(stub, name, 2)
    frames = range(1, 17)
    async with Wire(channel, model=name, default_budget_nano=60_000 * MS, backlog_policy=pb.BACKLOG_POLICY_ALL) as wire:
        await wire.send(*(frame(number, [[1.0]]) for number in frames))
        first = await wire.outcome(1)
        await stub.ActivateVersion(model_pb2.ActivateVersionRequest(name=name, version="2"))
        await stub.UnloadModel(model_pb2.UnloadModelRequest(name=name, version="1"))
        outcomes = [first] + [await wire.outcome(number) for number in frames[1:]]
        assert {outcome.status for outcome in outcomes} == {pb.OUTCOME_STATUS_ON_TIME}
        assert {outcome.version for outcome in outcomes} == {"1"}
        assert (await wire.ask(frame(17, [[1.0]]))).version == "2"


async def test_a_version_that_hangs_is_unloaded_all_the_same(
    server: App, root: Path, name: str, channel: grpc.aio.Channel, stub: model_pb2_grpc.ModelServiceStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("duly.runtime.model_host.FINISH_SECONDS_MAX", 0.2)
    put(root, name, 1, graphs.scaling())
    await load(stub, name, 1)
    async with Wire(channel, model=name, default_budget_nano=60_000 * MS) as wire:
        assert (await wire.ask(frame(1))).status == pb.OUTCOME_STATUS_ON_TIME
        (worker,) = server.catalogue.find(name, "1").workers.values()
        os.kill(worker.pid, signal.SIGSTOP)
        await wire.send(frame(2))
        while not server.driver.held:
            await asyncio.sleep(0.01)
        await stub.UnloadModel(model_pb2.UnloadModelRequest(name=name))
        outcome = await wire.outcome(2)
        assert outcome.status == pb.OUTCOME_STATUS_FAILED
        assert outcome.reason == f"model {name}/1 was unloaded"
