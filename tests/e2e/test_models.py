"""Models come, go, change and die under running streams."""

import asyncio
import os
import signal
from pathlib import Path

import grpc
import pytest

from duly.app import App, check_models
from duly.config import ServerConfig
from duly.start_error import StartError
from duly.v1 import inference_pb2 as pb
from duly.v1 import model_pb2, model_pb2_grpc
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import FAILED, ON_TIME, Wire, array, frame, reason


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> model_pb2_grpc.ModelServiceStub:
    return model_pb2_grpc.ModelServiceStub(channel)


def worker_pid(app: App, key: str) -> int:
    (served,) = (s for s in app.catalogue.all_versions() if s.key == key)
    return next(iter(served.workers.values())).pid


async def test_models_are_described(stub: model_pb2_grpc.ModelServiceStub) -> None:
    models = (await stub.ListModels(model_pb2.ListModelsRequest())).models
    assert [m.name for m in models] == ["double", "sum"]
    model = (await stub.GetModel(model_pb2.GetModelRequest(name="sum"))).model
    assert model.active_version == "1"
    (version,) = model.versions
    assert version.state == model_pb2.MODEL_STATE_READY
    assert version.stateful
    (variant,) = version.variants
    assert list(variant.providers) == ["CPUExecutionProvider"]
    planned = [(p.batch_size, p.planned_nano) for p in variant.profile]
    assert [size for size, _ in planned] == list(range(1, 9))
    assert [ns for _, ns in planned] == sorted(ns for _, ns in planned)
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await stub.GetModel(model_pb2.GetModelRequest(name="nothing"))
    assert reason(unknown.value) == "MODEL_NOT_FOUND"


async def test_a_new_version_takes_over_between_two_frames(
    repository: Path, channel: grpc.aio.Channel, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    async with Wire(channel, model="double") as follows, Wire(channel, model="double", version="1") as pinned:
        assert array(await follows.ask(frame(1))).tolist() == [2, 4, 6, 8]
        graphs.save(repository, "double", graphs.scaling(factor=3.0), version=2)
        loaded = (await stub.LoadModel(model_pb2.LoadModelRequest(name="double"))).model
        assert loaded.active_version == "1", "loading does not activate"
        assert array(await follows.ask(frame(2))).tolist() == [2, 4, 6, 8]
        await stub.ActivateVersion(model_pb2.ActivateVersionRequest(name="double", version="2"))
        outcome = await follows.ask(frame(3))
        assert (outcome.version, array(outcome).tolist()) == ("2", [3, 6, 9, 12])
        assert [(a.kind, a.version) for a in follows.advice] == [(pb.StreamAdvice.KIND_VERSION_CHANGED, "2")]
        assert (await pinned.ask(frame(3))).version == "1"
        await stub.UnloadModel(model_pb2.UnloadModelRequest(name="double", version="1"))
        gone = await pinned.ask(frame(4))
        assert gone.status == FAILED
        assert "double/1" in gone.reason
        assert (await follows.ask(frame(4))).status == ON_TIME


async def test_watching_models(
    repository: Path, channel: grpc.aio.Channel, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    watch = stub.WatchModels(model_pb2.WatchModelsRequest())
    assert {(await watch.read()).model.name for _ in range(2)} == {"double", "sum"}
    graphs.save(repository, "triple", graphs.scaling(factor=3.0))
    await stub.LoadModel(model_pb2.LoadModelRequest(name="triple"))
    states = []
    while model_pb2.MODEL_STATE_READY not in states:
        change = await watch.read()
        assert change.model.name == "triple"
        states += [version.state for version in change.model.versions]
    await stub.UnloadModel(model_pb2.UnloadModelRequest(name="triple"))
    while not (change := await watch.read()).removed:
        pass
    assert change.model.name == "triple"
    watch.cancel()


async def test_loading_what_is_not_there_or_broken(repository: Path, stub: model_pb2_grpc.ModelServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await stub.LoadModel(model_pb2.LoadModelRequest(name="nothing"))
    assert reason(missing.value) == "MODEL_NOT_FOUND"
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no graph at all")
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await stub.LoadModel(model_pb2.LoadModelRequest(name="broken"))
    assert reason(broken.value) == "LOAD_FAILED"
    assert "model.onnx" in broken.value.details()
    assert str(repository) not in broken.value.details(), "a path of the server must not reach a client"


async def test_a_broken_model_leaves_the_others_serving(repository: Path) -> None:
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no graph at all")
    (repository / "typo" / "1").mkdir(parents=True)
    (repository / "typo" / "model.toml").write_text("default_bugdet_ms = 3\n")
    async with serving(repository) as app, grpc.aio.insecure_channel(app.address) as channel:
        async with Wire(channel, model="double") as wire:
            assert (await wire.ask(frame(1))).status == ON_TIME
        stub = model_pb2_grpc.ModelServiceStub(channel)
        models = {m.name: m for m in (await stub.ListModels(model_pb2.ListModelsRequest())).models}
        assert models["broken"].versions[0].state == model_pb2.MODEL_STATE_FAILED
        assert "model.onnx" in models["broken"].versions[0].error
        assert "default_bugdet_ms" in models["typo"].versions[0].error
        with pytest.raises(grpc.aio.AioRpcError, match="not ready"):
            async with Wire(channel, model="broken"):
                pass


async def test_nothing_to_serve_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"expected NAME/VERSION/model\.onnx"):
        async with serving(tmp_path):
            pass


def test_check_names_each_problem(repository: Path) -> None:
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no graph at all")
    checked = {found.key: found.problem for found in check_models(ServerConfig(models=repository, threads=1))}
    assert checked["double/1"] is None
    assert checked["sum/1"] is None
    assert checked["broken/1"] is not None
    assert "model.onnx" in checked["broken/1"]


async def test_a_worker_that_dies_fails_its_batch_alone_and_is_replaced(server: App, channel: grpc.aio.Channel) -> None:
    async with Wire(channel, model="double") as wire, Wire(channel, model="sum") as neighbour:
        assert (await wire.ask(frame(1))).status == ON_TIME
        pid = worker_pid(server, "double/1")
        os.kill(pid, signal.SIGSTOP)  # so that the batch is surely running when it dies
        await wire.send(frame(2))
        while not server.driver.held:
            await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        failed = await wire.outcome(2)
        assert failed.status == FAILED
        assert "worker process ended" in failed.reason
        assert (await neighbour.ask(frame(1, [1, 1]))).status == ON_TIME
        assert (await wire.ask(frame(3, budget_nano=60 * 10**9))).status == ON_TIME, "it waits for the new worker"
        assert worker_pid(server, "double/1") != pid


async def test_a_worker_that_hangs_is_killed_and_replaced(repository: Path) -> None:
    async with (
        serving(repository, batch_timeout_ms=200) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double") as wire,
    ):
        assert (await wire.ask(frame(1))).status == ON_TIME
        os.kill(worker_pid(app, "double/1"), signal.SIGSTOP)
        assert (await wire.ask(frame(2))).status == FAILED
        assert (await wire.ask(frame(3, budget_nano=60 * 10**9))).status == ON_TIME


async def test_frames_in_flight_across_a_change_of_version_keep_their_own_outputs(tmp_path: Path) -> None:
    """Version 1 gives y and z, version 2 gives y alone. Results of one version never have the output names of the
    other.
    """
    root = tmp_path / "models"
    graphs.save(root, "m", graphs.two_outputs())
    async with (
        serving(root) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="m") as all_outputs,
        Wire(channel, model="m", outputs=["z"]) as one_output,
    ):
        stub = model_pb2_grpc.ModelServiceStub(channel)
        graphs.save(root, "m", graphs.scaling(factor=3.0), version=2)
        await stub.LoadModel(model_pb2.LoadModelRequest(name="m", version="2"))
        os.kill(worker_pid(app, "m/1"), signal.SIGSTOP)
        await all_outputs.send(frame(1))
        while not app.driver.held:
            await asyncio.sleep(0)
        await stub.ActivateVersion(model_pb2.ActivateVersionRequest(name="m", version="2"))
        await all_outputs.send(frame(2))
        os.kill(worker_pid(app, "m/1"), signal.SIGCONT)
        old, new = await all_outputs.outcome(1), await all_outputs.outcome(2)
        assert (old.version, {o.name for o in old.outputs}) == ("1", {"y", "z"})
        assert (new.version, {o.name for o in new.outputs}) == ("2", {"y"})
        await one_output.send(frame(1))
        error = await one_output.error()
        assert reason(error) == "INVALID_OPEN"
        assert "no output 'z'" in error.details()


async def test_comings_and_goings_of_one_model_do_not_cross(
    server: App, channel: grpc.aio.Channel, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    unload = model_pb2.UnloadModelRequest(name="double")
    ends = await asyncio.gather(*(stub.UnloadModel(unload) for _ in range(3)), return_exceptions=True)
    errors = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
    assert len(errors) == 2
    assert {reason(error) for error in errors} <= {"MODEL_NOT_READY", "MODEL_NOT_FOUND"}
    await stub.LoadModel(model_pb2.LoadModelRequest(name="double"))
    async with Wire(channel, model="double") as wire:
        assert (await wire.ask(frame(1))).status == ON_TIME


async def test_a_refused_frame_is_a_gap(channel: grpc.aio.Channel) -> None:
    for policy, expected in (
        (pb.GAP_POLICY_RESET, [1, 1]),
        (pb.GAP_POLICY_CONTINUE, [2, 2]),
        (pb.GAP_POLICY_SKIP, None),
    ):
        async with Wire(channel, model="sum", gap_policy=policy) as wire:
            await wire.ask(frame(1, [1, 1]))
            assert (await wire.ask(frame(2, [1, 1, 1]))).status == pb.OUTCOME_STATUS_INVALID
            after = await wire.ask(frame(3, [1, 1]))
            if expected is None:
                assert after.status == pb.OUTCOME_STATUS_SKIPPED
            else:
                assert array(after).tolist() == expected
