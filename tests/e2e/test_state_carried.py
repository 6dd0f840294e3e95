"""State of streams goes from one version to the next where the model says so, and starts anew where it does not."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import onnx
import pytest
import pytest_asyncio
from onnx import helper

from duly.app import App
from duly.v1 import inference_pb2 as pb
from duly.v1 import model_pb2, model_pb2_grpc
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import Wire, array, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUMBERS = itertools.count()
RESET = "batch_sizes = [1, 2]\n" + graphs.SUMMING
CARRY = 'version_change = "CARRY"\n' + RESET
CARRIED = "version 2 is active; the state of the stream is carried over"
ANEW = "version 2 is active; the state of the stream starts anew with it"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    root = tmp_path_factory.mktemp("carried") / "models"
    graphs.save(root, "other", graphs.scaling(), "batch_sizes = [1]\n")
    async with serving(root) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def channel(server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


class Versions:
    """A model of the test's own."""

    def __init__(self, root: Path, channel: grpc.aio.Channel) -> None:
        self.name = f"sum{next(NUMBERS)}"
        self._root = root
        self._stub = model_pb2_grpc.ModelServiceStub(channel)

    async def load(self, version: int, toml: str, graph: onnx.ModelProto | None = None) -> None:
        graphs.save(self._root, self.name, graph or graphs.summing(), toml, version=version)
        await self._stub.LoadModel(model_pb2.LoadModelRequest(name=self.name, version=str(version)))

    async def activate(self, version: int) -> None:
        await self._stub.ActivateVersion(model_pb2.ActivateVersionRequest(name=self.name, version=str(version)))

    async def unload(self, version: int) -> None:
        await self._stub.UnloadModel(model_pb2.UnloadModelRequest(name=self.name, version=str(version)))


@pytest.fixture
def versions(server: App, channel: grpc.aio.Channel) -> Versions:
    return Versions(server._config.models, channel)


def summing_twice() -> onnx.ModelProto:
    """As `graphs.summing`, with a state of another shape."""
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["both"], axis=1),
        helper.make_node("Add", ["both", "total"], ["total_next"]),
        helper.make_node("Identity", ["total_next"], ["y"]),
    ]
    inputs = [graphs.value("x", ["N", 2]), graphs.value("total", ["N", 4])]
    return graphs.model(nodes, inputs, [graphs.value("y", ["N", 4]), graphs.value("total_next", ["N", 4])])


async def test_sums_go_on_across_versions_and_back(versions: Versions, channel: grpc.aio.Channel) -> None:
    await versions.load(1, CARRY)
    await versions.load(2, CARRY)
    async with (
        Wire(channel, model=versions.name) as one,
        Wire(channel, model=versions.name, gap_policy=pb.GAP_POLICY_RESET) as two,
        Wire(channel, model=versions.name, gap_policy=pb.GAP_POLICY_SKIP) as strict,
        Wire(channel, model=versions.name, gap_policy=pb.GAP_POLICY_SKIP) as late,
    ):
        for wire, first in ((one, 1), (two, 5), (strict, 7)):
            assert array(await wire.ask(frame(1, [first, 10 * first]))).tolist() == [first, 10 * first]
        await versions.activate(2)
        for wire, before in ((one, 1), (two, 5), (strict, 7), (late, 0)):
            for frame_id in (2, 3):
                result = await wire.ask(frame(frame_id, [1, 10]))
                assert (result.version, result.status) == ("2", pb.OUTCOME_STATUS_ON_TIME)
                assert array(result).tolist() == [before + frame_id - 1, 10 * (before + frame_id - 1)]
            assert [advice.reason for advice in wire.advice] == [CARRIED]
        await versions.activate(1)
        for wire, before in ((one, 3), (strict, 9)):
            result = await wire.ask(frame(4, [1, 10]))
            assert (result.version, array(result).tolist()) == ("1", [before + 1, 10 * before + 10])
        await versions.unload(2)
        assert array(await strict.ask(frame(5, [1, 10]))).tolist() == [11, 110]
        # What the version still had when it was unloaded is lost with it.
        assert array(await two.ask(frame(4, [1, 10]))).tolist() == [1, 10]
        assert "starts anew" in two.advice[-1].reason
        assert (await late.ask(frame(4, [1, 10]))).status == pb.OUTCOME_STATUS_SKIPPED


async def test_streams_start_anew_where_the_model_says_so_or_the_state_differs(
    versions: Versions, channel: grpc.aio.Channel
) -> None:
    await versions.load(1, CARRY)
    for version, toml, graph, total in ((2, RESET, None, [1, 2]), (3, CARRY, summing_twice(), [1, 2, 1, 2])):
        await versions.load(version, toml, graph)
        await versions.activate(1)
        async with (
            Wire(channel, model=versions.name) as follows,
            Wire(channel, model=versions.name, gap_policy=pb.GAP_POLICY_SKIP) as strict,
        ):
            for wire in (follows, strict):
                assert array(await wire.ask(frame(1, [1, 2]))).tolist() == [1, 2]
            await versions.activate(version)
            assert array(await follows.ask(frame(2, [1, 2]))).tolist() == total
            assert (await strict.ask(frame(2, [1, 2]))).status == pb.OUTCOME_STATUS_SKIPPED
            for wire in (follows, strict):
                assert [advice.reason for advice in wire.advice] == [ANEW.replace("2", str(version))]
