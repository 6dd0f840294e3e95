"""Sizes over the whole way: a server whose limits are small serves what fits, names what does not, and says the same
before it is started."""

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio

from duly.app import App, check_models
from duly.config import ServerConfig
from duly.runtime.catalogue import VersionState
from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc, model_pb2, model_pb2_grpc
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import FAILED, INVALID, ON_TIME, Wire, array, frame, tensor

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = {"bytes_in_flight_max": 2_000_000, "payload_bytes_max": 3_000_000}
ONE = "batch_sizes = [1]\n"


def summing(count: int) -> graphs.onnx.ModelProto:
    """y[N,1] is the sum of all elements of `count` inputs of open length."""
    names = [f"x{index}" for index in range(count)]
    nodes = [graphs.helper.make_node("ReduceSum", [name, "axis"], [f"{name}_sum"]) for name in names]
    nodes.append(graphs.helper.make_node("Sum", [f"{name}_sum" for name in names], ["y"]))
    inputs = [graphs.value(name, ["N", f"length{index}"]) for index, name in enumerate(names)]
    return graphs.model(nodes, inputs, [graphs.value("y", ["N", 1])], {"axis": np.int64([1])})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sizes") / "models"
    graphs.save(root, "double", graphs.scaling())
    graphs.save(root, "large", graphs.scaling(width=600_000), ONE)
    graphs.save(root, "stated", graphs.copying(["N", "K"]), ONE + '[[input]]\nname = "x"\nbytes_max = 9_000_000\n')
    graphs.save(root, "many", summing(200), ONE)
    graphs.save(root, "bound", graphs.zeros(), ONE + '[[output]]\nname = "y"\nbytes_max = 1000\n')
    graphs.save(root, "cloud", graphs.copying(["N", "P", 4]))
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(models: Path) -> App:
    async with serving(models, **LIMITS) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def channel(app: App) -> grpc.aio.Channel:
    async with grpc.aio.insecure_channel(app.address) as channel:
        yield channel


async def test_what_cannot_fit_is_named_and_stops_nobody(app: App, channel: grpc.aio.Channel) -> None:
    states = {loaded.key: loaded.state for loaded in app.catalogue.all_versions()}
    assert states.pop("large/1") is VersionState.FAILED
    assert set(states.values()) == {VersionState.READY}
    with pytest.raises(grpc.aio.AioRpcError, match=r"raise bytes_in_flight_max \(.*\) to at least 2400000"):
        async with Wire(channel, model="large"):
            pass
    async with Wire(channel, model="double") as wire:
        assert (await wire.ask(frame(1))).status == ON_TIME


async def test_a_check_under_the_same_settings_says_what_the_server_found(app: App, models: Path) -> None:
    config = ServerConfig(models=models, threads=1, **LIMITS)
    found = {checked.key: checked for checked in await asyncio.to_thread(check_models, config)}
    for loaded in app.catalogue.all_versions():
        assert (found[loaded.key].problem or "") == loaded.error
    assert "to at least 9000000" in " ".join(found["stated/1"].notes)
    assert "200 inputs of open size" in " ".join(found["many/1"].notes)
    assert not found["double/1"].notes


async def test_a_frame_beyond_the_room_is_invalid_and_the_largest_is_served(channel: grpc.aio.Channel) -> None:
    async with Wire(channel, model="stated") as wire:
        largest = await wire.ask(frame(1, np.ones(500_000)))
        assert (largest.status, array(largest).size) == (ON_TIME, 500_000)
        beyond = await wire.ask(frame(2, np.ones(500_001)))
        assert beyond.status == INVALID
        assert beyond.reason.startswith("input 'x': 2000004 bytes, at most 2000000 are taken")


async def test_a_single_frame_has_the_same_limits(channel: grpc.aio.Channel) -> None:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    for size, status in ((500_000, ON_TIME), (500_001, INVALID)):
        request = pb.InferRequest(model="stated", frame=frame(1, np.ones(size), budget_nano=5 * 10**9))
        assert (await stub.Infer(request)).outcome.status == status


async def test_many_inputs_of_open_size_are_served(channel: grpc.aio.Channel) -> None:
    async with Wire(channel, model="many") as wire:
        tensors = [tensor(np.ones(index), f"x{index}") for index in range(200)]
        outcome = await wire.ask(frame(1, tensors=tensors))
        assert (outcome.status, array(outcome).tolist()) == (ON_TIME, [199 * 100])


async def test_a_result_beyond_its_bound_names_the_setting(channel: grpc.aio.Channel) -> None:
    async with Wire(channel, model="bound") as wire:
        for count, status in ((250, ON_TIME), (251, FAILED)):
            length = pb.Frame(frame_id=count)
            length.tensors.add(name="x", shape=[1], data=np.int64([count]).tobytes())
            outcome = await wire.ask(length)
            assert outcome.status == status, outcome.reason
        assert "raise bytes_max of [[output]] in model.toml to at least 1004" in outcome.reason


async def test_an_empty_frame_is_served(channel: grpc.aio.Channel) -> None:
    async with Wire(channel, model="cloud") as wire:
        outcome = await wire.ask(frame(1, np.zeros((0, 4))))
        assert (outcome.status, array(outcome).shape) == (ON_TIME, (0, 4))


async def test_a_model_that_is_loaded_later_has_to_do_with_the_messages_that_are_read(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.scaling())
    async with serving(tmp_path) as app, grpc.aio.insecure_channel(app.address) as channel:
        graphs.save(tmp_path, "late", graphs.copying(["N", "K"]), ONE)
        graphs.save(tmp_path, "never", graphs.scaling(width=2_000_000), ONE)
        stub = model_pb2_grpc.ModelServiceStub(channel)
        await stub.LoadModel(model_pb2.LoadModelRequest(name="late"))
        async with Wire(channel, model="late") as wire:
            room = app.catalogue.find("late").signature.inputs[0].bytes_max
            assert 4_000_000 < room < wire.terms.message_bytes_max
            assert (await wire.ask(frame(1, np.ones(room // 4)))).status == ON_TIME
        with pytest.raises(grpc.aio.AioRpcError, match="restart the server"):
            await stub.LoadModel(model_pb2.LoadModelRequest(name="never"))
