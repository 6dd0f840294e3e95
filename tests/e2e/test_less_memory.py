"""A real server whose worker is left with less memory than its batches take: it goes on with smaller ones."""

import resource
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper
from prometheus_client import CollectorRegistry, generate_latest

from duly.app import App
from duly.metric_families import Families
from duly.v1 import inference_pb2 as pb
from duly.v1 import model_pb2, model_pb2_grpc, tensor_pb2
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import FAILED, ON_TIME, Wire, array, tensor

SIDE = 2440
ROUNDS = 40
ROW_BYTES = SIDE * SIDE * 3
"""A frame as the graph takes it."""
LEFT_BYTES = 8 * ROW_BYTES
"""Each frame is decoded into fresh memory, and put together with the others in more: two take about four rows, eight
take sixteen.
"""
TOML = """
batch_sizes = [1, 2, 8]
[[input]]
name = "x"
encodings = ["PNG"]
[[input]]
name = "more"
"""


def seeing() -> graphs.onnx.ModelProto:
    """y = max(x) + sum(more). A run takes long beside what its frames take, so that batches pay."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMax", ["most"], ["one"], axes=[1], keepdims=1),
        helper.make_node("Cast", ["one"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["more", "last"], ["s"], keepdims=1),
        helper.make_node("Shape", ["more"], ["extents"]),
        helper.make_node("Cast", ["extents"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["floats"], ["long"], axes=[0], keepdims=1),
        helper.make_node("Expand", ["long", "wide"], ["a0"]),
        *[helper.make_node("MatMul", [f"a{i}", "weights"], [f"a{i + 1}"]) for i in range(ROUNDS)],
        helper.make_node("ReduceMax", [f"a{ROUNDS}"], ["busy"], axes=[0, 1], keepdims=0),
        helper.make_node("Mul", ["busy", "nothing"], ["zero"]),
        helper.make_node("Sum", ["m", "s", "zero"], ["y"]),
    ]
    inputs = [graphs.value("x", ["N", SIDE, SIDE, 3], graphs.UINT8), graphs.value("more", ["N", "K"])]
    constants = {
        "last": np.int64([1]),
        "wide": np.int64([384, 384]),
        "weights": np.eye(384, dtype=np.float32),
        "nothing": np.float32(0),
    }
    return graphs.model(nodes, inputs, [graphs.value("y", ["N", 1])], constants, opset=13)


PICTURE = cv2.imencode(".png", np.full((SIDE, SIDE, 3), 7, np.uint8))[1].tobytes()


def frame(frame_id: int) -> pb.Frame:
    encoded = tensor_pb2.Encoded(name="x", format=tensor_pb2.ENCODED_FORMAT_PNG, data=PICTURE)
    return pb.Frame(frame_id=frame_id, tensors=[tensor(np.ones(2), "more")], encoded=[encoded])


def leave(app: App, more_bytes: int) -> None:
    """Leaves the worker only so much memory beyond what it has."""
    pid = app.catalogue.find("seeing", "1").workers["cpu:0"].pid
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    data_bytes = next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
    _, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
    resource.prlimit(pid, resource.RLIMIT_DATA, (data_bytes + more_bytes, hard))


@pytest.mark.asyncio
async def test_smaller_batches_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(ROW_BYTES // 2))  # the worker gives back what rows were in
    graphs.save(tmp_path, "seeing", seeing(), TOML)
    async with (
        serving(tmp_path, metrics="127.0.0.1:0") as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="seeing", default_budget_nano=60 * 10**9) as wire,
    ):
        await wire.send(*map(frame, range(1, 10)))
        before = [(await wire.outcome(frame_id)) for frame_id in range(1, 10)]
        assert {outcome.status for outcome in before} == {ON_TIME}
        leave(app, LEFT_BYTES)
        outcomes: list[pb.Outcome] = []
        while not any(outcome.status == FAILED for outcome in outcomes):  # until a batch of so many comes about again
            first = 10 + len(outcomes)
            await wire.send(*map(frame, range(first, first + 10)))
            outcomes += [await wire.outcome(frame_id) for frame_id in range(first, first + 10)]
        failed = [outcome for outcome in outcomes if outcome.status == FAILED]
        assert {outcome.reason for outcome in failed} == {"the worker may not have the memory that this batch takes"}
        assert 2 < len(failed) <= 8, "one batch"
        assert {outcome.status for outcome in outcomes if outcome not in failed} == {ON_TIME}
        await wire.send(*map(frame, range(1000, 1010)))
        after = [await wire.outcome(frame_id) for frame_id in range(1000, 1010)]
        assert max(outcome.batch_size for outcome in after) <= 2
        assert [array(outcome).item() for outcome in after] == [9.0] * 10
        models = model_pb2_grpc.ModelServiceStub(channel)
        version = (await models.GetModel(model_pb2.GetModelRequest(name="seeing"))).model.versions[0]
        assert version.error == "for want of memory batches have at most as many frames: 2 on cpu:0 (default)"
        assert [planned.batch_size for planned in version.variants[0].profile] == [1, 2]
        registry = CollectorRegistry()
        registry.register(Families(app.metrics))
        gauge = b'duly_batch_size_max{lane="cpu:0",model="seeing/1",variant="default"} 2.0'
        assert gauge in generate_latest(registry)
