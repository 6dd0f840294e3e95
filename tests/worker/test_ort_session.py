"""Sessions bound to buffers. The GPU's way of doing it is driven here with the CPU as the device: the same copies,
addresses and graph ids, except for what a GPU makes of them."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from duly.models.spec import ModelConfig
from duly.worker.binding import Binding, Device
from duly.worker.errors import RunError
from duly.worker.open_session import MachineShare
from duly.worker.ort_session import OrtSession
from duly.worker.version_files import VersionFiles
from tests import graphs
from tests.lane import lane


def session(tmp_path: Path, proto: object = None) -> OrtSession:
    graphs.save(tmp_path, "m", proto or graphs.summing())
    file = VersionFiles("m/1", tmp_path / "m/1", lambda digests: None).graph("model.onnx")
    return OrtSession(file, "m/1/model.onnx", ModelConfig(), lane(), tmp_path / "m", MachineShare(1))


def arrays(size: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray | None]]:
    inputs = {name: np.zeros((size, 2), np.float32) for name in ("x", "total")}
    return inputs, {name: np.zeros((size, 2), np.float32) for name in ("y", "total_next")}


def test_graph_is_told_as_plain_data(tmp_path: Path) -> None:
    graph = session(tmp_path).graph
    assert {name: (tensor.datatype, tensor.shape) for name, tensor in graph.inputs.items()} == {
        "x": ("FP32", ("N", 2)),
        "total": ("FP32", ("N", 2)),
    }
    assert list(graph.outputs) == ["y", "total_next"]


def test_bound_arrays_are_read_and_written_in_place(tmp_path: Path) -> None:
    made = session(tmp_path)
    bound = []
    for size in (1, 3):
        inputs, outputs = arrays(size)
        bound.append((made.bind(size, inputs, outputs), inputs, outputs))
    for step in range(3):
        for binding, inputs, outputs in bound:
            inputs["x"][:] = step
            inputs["total"][:] = 10
            assert binding.run() == {}
            assert outputs["y"] is not None
            np.testing.assert_array_equal(outputs["y"], np.full_like(inputs["x"], 10 + step))


@pytest.mark.holds_on("cpu", "openvino", why="WebGPU's provider leaves its operators to the CPU")
def test_output_of_any_shape_may_change_from_run_to_run(tmp_path: Path) -> None:
    made = session(tmp_path, graphs.zeros())
    values = np.zeros((2, 1), np.int64)
    binding = made.bind(2, {"x": values}, {"y": None})
    for longest in (3, 7, 1, 0, 5):
        values[1] = longest
        assert binding.run()["y"].shape == (2, longest)


@pytest.mark.holds_on("cpu", why="an index out of bounds is an error of the CPU's provider alone")
def test_failed_run_leaves_the_binding_of_use(tmp_path: Path) -> None:
    made = session(tmp_path, graphs.picking())
    index, picked = np.zeros(1, np.int64), np.zeros(1, np.float32)
    binding = made.bind(1, {"x": index}, {"y": picked})
    index[0] = 9
    with pytest.raises(RunError, match="out of data bounds"):
        binding.run()
    with pytest.raises(RunError, match="out of data bounds"):
        made.run({"x": index}, ["y"])
    index[0] = 2
    binding.run()
    assert picked[0] == 30
    assert made.run({"x": index}, ["y"])["y"][0] == 30


class TestDevice:
    @pytest.mark.parametrize("with_graphs", [False, True])
    def test_both_slots_run_through_the_same_addresses(self, tmp_path: Path, with_graphs: bool) -> None:
        graphs.save(tmp_path, "m", graphs.summing())
        made = onnxruntime.InferenceSession(tmp_path / "m/1/model.onnx", providers=["CPUExecutionProvider"])
        device = Device("cpu", 0, with_graphs)
        slots = [(*arrays(2),) for _ in range(2)]
        bindings = [Binding(made, 2, inputs, outputs, device) for inputs, outputs in slots]
        on_device = ["x", "total", *(["y", "total_next"] if with_graphs else [])]
        addresses = {name: device.value(2, name, np.zeros((2, 2), np.float32)).data_ptr() for name in on_device}
        for step, slot in enumerate([0, 1, 1, 0]):
            inputs, outputs = slots[slot]
            inputs["x"][:] = [[step, 1], [2, 3]]
            inputs["total"][:] = 100 * slot
            bindings[slot].run()
            assert outputs["y"] is not None
            np.testing.assert_array_equal(outputs["y"], inputs["x"] + inputs["total"])
        assert addresses == {name: device.value(2, name, inputs["x"]).data_ptr() for name in on_device}
        host = {array.ctypes.data for inputs, outputs in slots for array in (*inputs.values(), *outputs.values())}
        assert not host.intersection(addresses.values())

    def test_each_batch_size_has_its_own_addresses_and_graph(self, tmp_path: Path) -> None:
        graphs.save(tmp_path, "m", graphs.summing())
        made = onnxruntime.InferenceSession(tmp_path / "m/1/model.onnx", providers=["CPUExecutionProvider"])
        device = Device("cpu", 0, graphs=True)
        ids = []
        for size in (1, 4):
            inputs, outputs = arrays(size)
            binding = Binding(made, size, inputs, outputs, device)
            inputs["x"][:] = size
            binding.run()
            assert outputs["y"] is not None
            assert (outputs["y"] == size).all()
            ids.append(binding.graph_id)
        assert ids == [2, 8]
        one, four = (device.value(size, "x", np.zeros((size, 2), np.float32)) for size in (1, 4))
        assert (one.shape(), four.shape()) == ([1, 2], [4, 2])
        assert one.data_ptr() != four.data_ptr()

    def test_scalars_and_outputs_of_any_shape_go_the_same_way(self, tmp_path: Path) -> None:
        proto = graphs.model(
            [helper.make_node("Mul", ["x", "factor"], ["scaled"]), helper.make_node("NonZero", ["scaled"], ["y"])],
            [graphs.value("x", ["N", 3]), graphs.value("factor", [])],
            [graphs.value("y", [2, "K"], graphs.INT64)],
        )
        graphs.save(tmp_path, "m", proto)
        made = onnxruntime.InferenceSession(tmp_path / "m/1/model.onnx", providers=["CPUExecutionProvider"])
        values, factor = np.float32([[0, 1, 2]]), np.array(3, np.float32)
        binding = Binding(made, 1, {"x": values, "factor": factor}, {"y": None}, Device("cpu", 0, graphs=False))
        assert binding.run()["y"].tolist() == [[0, 0], [1, 2]]
        values[0, 2] = 0
        assert binding.run()["y"].tolist() == [[0], [1]]


class Waits:
    """A stream of the worker's own, which counts how often it was waited for."""

    def __init__(self) -> None:
        self.waited = 0

    def wait(self) -> None:
        self.waited += 1


def test_a_stream_of_the_workers_own_is_waited_for_before_results_are_read(tmp_path: Path) -> None:
    made = session(tmp_path)
    waits = Waits()
    made._stream = waits  # type: ignore[assignment]
    inputs, outputs = arrays(1)
    made.bind(1, inputs, outputs).run()
    assert waits.waited == 1
    made.run(inputs, ["y"])
    assert waits.waited == 2
