"""Sessions on the device of an accelerator: what runs there, what is copied there and when, and what is refused."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from duly.accelerators import CPU, of_lane
from duly.models.spec import ModelConfig
from duly.worker.channel import FRAME_FAILED
from duly.worker.open_session import MachineShare
from duly.worker.ort_session import OrtSession
from duly.worker.providers import warm_after_ns
from duly.worker.version_files import VersionFiles
from tests import graphs
from tests.worker.client import Worker, version_of
from tests.worker.loading import reason_of

WEIGHTS = np.float32([[1, 2], [3, 4]])


def shaping() -> onnx.ModelProto:
    """A product of matrices, put into a shape which is computed: shapes stay on the CPU, the product does not."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("Shape", ["x"], ["dims"], "shape", start=0, end=1),
        helper.make_node("Concat", ["dims", "rest"], ["to"], "concat", axis=0),
        helper.make_node("Reshape", ["h", "to"], ["y"], "reshape"),
    ]
    constants = {"w": WEIGHTS, "rest": np.int64([2, 1])}
    return graphs.model(nodes, [graphs.value("x", ["N", 2])], [graphs.value("y", ["N", 2, 1])], constants)


def session(root: Path, proto: onnx.ModelProto, lane: str) -> OrtSession:
    graphs.save(root, "m", proto)
    file = VersionFiles("m/1", root / "m/1", lambda digests: None).graph("model.onnx")
    return OrtSession(file, "m/1/model.onnx", ModelConfig(), lane, root / "m", MachineShare(1))


def test_what_is_bound_is_read_anew_in_every_run(tmp_path: Path, lane: str) -> None:
    made = session(tmp_path, graphs.summing(), lane)
    inputs = {name: np.zeros((2, 2), np.float32) for name in ("x", "total")}
    outputs = {name: np.zeros((2, 2), np.float32) for name in ("y", "total_next")}
    binding = made.bind(2, inputs, dict(outputs))
    for step in range(3):
        inputs["x"][:] = [[step, 1], [2, 3]]
        inputs["total"][:] = outputs["total_next"]
        assert binding.run() == {}
    assert outputs["y"].tolist() == [[3, 3], [6, 9]]
    assert outputs["total_next"].tolist() == outputs["y"].tolist()


def test_what_a_kernel_takes_from_the_host_is_read_anew_in_every_run(tmp_path: Path, lane: str) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Slice", ["h", "starts", "ends"], ["y"])]
    bounds = [graphs.value(name, [2], graphs.INT64) for name in ("starts", "ends")]
    made = session(
        tmp_path, graphs.model(nodes, [graphs.value("x", [2, 4]), *bounds], [graphs.value("y", ["a", "b"])]), lane
    )
    assert made.host_inputs == {"starts", "ends"} | ({"x"} if of_lane(lane).kind == "openvino" else set())
    inputs = {"x": np.zeros((2, 4), np.float32), "starts": np.zeros(2, np.int64), "ends": np.ones(2, np.int64)}
    binding = made.bind(1, inputs, {"y": None})
    for step in range(3):
        inputs["x"][:] = np.arange(8).reshape(2, 4) + step
        inputs["starts"][:] = [0, step]
        inputs["ends"][:] = [1 + step % 2, 4]
        assert binding.run()["y"].tolist() == inputs["x"][: 1 + step % 2, step:].tolist()


def test_inputs_that_a_kernel_takes_from_the_host_follow_their_frames(tmp_path: Path, lane: str) -> None:
    names = ["x", "low", "high"]
    inputs = [graphs.value("x", [4]), graphs.value("low", []), graphs.value("high", [])]
    proto = graphs.model([helper.make_node("Clip", names, ["y"])], inputs, [graphs.value("y", [4])])
    graphs.save(tmp_path, "m", proto, "batched = false\nconstants.high = 3.5\n")
    with Worker(version_of(tmp_path, "m")) as worker:
        for turn in range(4):
            x, low = np.float32([1, 2, 3, 4]) - turn, np.array(turn / 2, np.float32)
            (outcome,) = worker.run([[x, low]], slot=turn % 2)
            assert outcome.outputs["y"].tolist() == np.clip(x, low, 3.5).tolist()


def test_batches_lie_in_the_memory_of_the_device_if_it_has_any(tmp_path: Path, lane: str) -> None:
    made = session(tmp_path, graphs.summing(), lane)
    infos = [*made._session.get_input_memory_infos(), *made._session.get_output_memory_infos()]
    expected = {"cuda": "Cuda", "webgpu": "WebGPU_Buf", "openvino": "Cpu"}[of_lane(lane).kind]
    assert {info.name for info in infos} == {expected}


def test_shapes_stay_on_the_cpu_and_the_rest_is_on_the_device_whether_it_is_named_or_not(
    tmp_path: Path, lane: str
) -> None:
    made = session(tmp_path, shaping(), lane)
    assert made.providers[0] == of_lane(lane).provider
    assert set(made.providers) <= {of_lane(lane).provider, CPU}
    x = np.float32([[1, 0], [0, 1], [1, 1]])
    assert made.run({"x": x}, ["y"])["y"][:, :, 0].tolist() == (x @ WEIGHTS).tolist()


def test_a_node_that_the_device_leaves_to_the_cpu_is_an_error_that_names_it(tmp_path: Path, lane: str) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("Hardmax", ["h"], ["m"], "hardest"),
        helper.make_node("MatMul", ["m", "w"], ["y"], "again"),
    ]
    proto = graphs.model(nodes, [graphs.value("x", ["N", 2])], [graphs.value("y", ["N", 2])], {"w": WEIGHTS})
    graphs.save(tmp_path, "m", proto)
    reason = reason_of(tmp_path, "m")
    assert reason.startswith(f"m/1/model.onnx: lane {lane}: {of_lane(lane).provider} can't run all of the graph: ")
    assert reason.endswith(f"Hardmax 'hardest' fell to the CPU; add {CPU} to providers to allow that")
    beside = f'providers = [{{ name = "{of_lane(lane).provider}" }}, {{ name = "{CPU}" }}]\n'
    with Worker(version_of(graphs.save(tmp_path / "both", "m", proto, beside), "m")) as worker:
        assert worker.ready["variants"][0]["providers"] == [of_lane(lane).provider, CPU]
        (outcome,) = worker.run([[np.float32([1, 1])]])
        assert outcome.outputs["y"].tolist() == WEIGHTS[1].tolist()


def test_every_batch_size_is_warmed_and_measured_and_the_lane_can_be_warmed_again(tmp_path: Path, lane: str) -> None:
    with Worker(version_of(graphs.save(tmp_path, "m", shaping(), "batch_sizes = [1, 3]\n"), "m")) as worker:
        (variant,) = worker.ready["variants"]
        assert {size: len(times) for size, times in variant["samples_ns"].items()} == {"1": 3, "3": 3}
        assert all(time > 0 for times in variant["samples_ns"].values() for time in times)
        assert variant["warm_after_ns"] == warm_after_ns([of_lane(lane).provider])
        worker.warm()
        outcomes = worker.run([[np.float32([1, 0])], [np.float32([0, 1])], [np.float32([1, 1])]])
        assert [outcome.outputs["y"].ravel().tolist() for outcome in outcomes] == [[1, 2], [3, 4], [4, 6]]


@pytest.mark.holds_on("cuda", why="graphs of runs are CUDA's")
def test_runs_that_were_captured_as_graphs_read_and_write_both_slots_at_every_size(tmp_path: Path, lane: str) -> None:
    toml = "cuda_graph = true\nbatch_sizes = [1, 3]\n"
    with Worker(version_of(graphs.save(tmp_path, "m", graphs.doubling(), toml), "m")) as worker:
        assert worker.ready["variants"][0]["providers"] == [of_lane(lane).provider]
        for turn in range(4):
            for slot in (0, 1):
                for size in (1, 2, 3):
                    values = [np.float32([turn, slot, size, nth]) for nth in range(size)]
                    outcomes = worker.run([[value] for value in values], slot=slot)
                    given = [outcome.outputs["y"].tolist() for outcome in outcomes]
                    assert given == [(2 * value).tolist() for value in values]


def test_what_comes_back_from_the_device_is_checked(tmp_path: Path, lane: str) -> None:
    toml = '[[output]]\nname = "y"\nfinite = true\n'
    with Worker(version_of(graphs.save(tmp_path, "m", graphs.doubling(), toml), "m")) as worker:
        overflows, fits = worker.run([[np.float32([1, 2, 3, 3e38])], [np.float32([1, 2, 3, 4])]])
        assert (overflows.status, overflows.outputs) == (FRAME_FAILED, {})
        assert fits.outputs["y"].tolist() == [2, 4, 6, 8]


@pytest.mark.holds_on("openvino", why="threads of the processor are OpenVINO's business")
def test_a_processor_gives_as_many_threads_as_the_lane_has(tmp_path: Path, lane: str) -> None:
    version = version_of(graphs.save(tmp_path, "m", shaping()), "m")
    with Worker(version, threads=1) as one, Worker(version, threads=2) as two:
        running = [len(os.listdir(f"/proc/{worker.process.pid}/task")) for worker in (one, two)]
    assert running[1] > running[0], "OpenVINO would take as many as there are processors, whatever the lane has"
