"""Frames of a batch must not influence one another: graphs where they do are found when they are loaded."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from duly.worker.channel import OK
from duly.worker.errors import LoadError
from duly.worker.load_model import load
from tests import graphs
from tests.worker.client import Worker, version_of
from tests.worker.test_load_errors import body_of

node = helper.make_node
value = graphs.value


def mlp() -> onnx.ModelProto:
    """y[N,3] of x[N,16] through 24 hidden units."""
    random = np.random.default_rng(5)
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["y"])]
    weights = {
        "a": random.standard_normal((16, 24)).astype(np.float32),
        "b": random.standard_normal((24, 3)).astype(np.float32),
    }
    return graphs.model(nodes, [value("x", ["N", 16])], [value("y", ["N", 3])], weights)


def dynamic_int8(folder: Path) -> onnx.ModelProto:
    """As `quantize_dynamic` writes it: the scales of activations are taken over the whole batch."""
    onnx.save(mlp(), folder / "fp32.onnx")
    quantize_dynamic(folder / "fp32.onnx", folder / "int8.onnx", weight_type=QuantType.QInt8)
    return onnx.load(folder / "int8.onnx")


class _Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        random = np.random.default_rng(6)
        self._frames = iter([{"x": random.standard_normal((8, 16)).astype(np.float32) * 4} for _ in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._frames, None)


def static_int8(folder: Path) -> onnx.ModelProto:
    """As `quantize_static` writes it: scales are constants."""
    onnx.save(mlp(), folder / "fp32.onnx")
    quantize_static(folder / "fp32.onnx", folder / "qdq.onnx", _Calibration(), quant_format=QuantFormat.QDQ)
    return onnx.load(folder / "qdq.onnx")


def one_node(op_type: str, dims: graphs.Dims = ("N", 6), **attributes: object) -> onnx.ModelProto:
    return graphs.model([node(op_type, ["x"], ["y"], **attributes)], [value("x", dims)], [value("y", dims)])


def normalised(training: int) -> onnx.ModelProto:
    """Batch normalisation over 6 channels, in training or in evaluation mode."""
    nodes = [node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y", "m2", "v2"][: 3 if training else 1])]
    nodes[0].attribute.append(helper.make_attribute("training_mode", training))
    ones, zeros = np.ones(6, np.float32), np.zeros(6, np.float32)
    constants = {"g": ones, "b": zeros, "m": zeros, "v": ones}
    return graphs.model(nodes, [value("x", ["N", 6])], [value("y", ["N", 6])], constants)


def less_mean() -> onnx.ModelProto:
    """x less the mean of all frames."""
    nodes = [node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), node("Sub", ["x", "m"], ["y"])]
    return graphs.model(nodes, [value("x", ["N", 6])], [value("y", ["N", 6])])


def padded() -> onnx.ModelProto:
    """As many zeros as the largest number of the batch says: what tokenisers and detectors pad their rows to."""
    return graphs.zeros()


def ranked() -> onnx.ModelProto:
    """The place of each frame's number among all of the batch: whole numbers come out."""
    nodes = [node("ArgMax", ["x"], ["best"], axis=0, keepdims=1), node("Expand", ["best", "dims"], ["y"])]
    nodes.insert(0, node("Shape", ["x"], ["dims"]))
    return graphs.model(nodes, [value("x", ["N", 6])], [value("y", ["N", 6], graphs.INT64)])


def boxes_and_scores(axis: int) -> onnx.ModelProto:
    """Three boxes in pixels, and beside them in the same tensor three scores: a softmax along `axis`."""
    nodes = [
        node("Split", ["x"], ["b", "s"], axis=1),
        node("Sigmoid", ["b"], ["part"]),
        node("Mul", ["part", "pixels"], ["boxes"]),
        node("Softmax", ["s"], ["scores"], axis=axis),
        node("Concat", ["boxes", "scores"], ["y"], axis=1),
    ]
    return graphs.model(nodes, [value("x", ["N", 6])], [value("y", ["N", 6])], {"pixels": np.float32(1280)})


COUPLED = {
    "dynamic int8": dynamic_int8,
    "softmax over the batch": lambda _: one_node("Softmax", axis=0),
    "cumulative sum over the batch": lambda _: graphs.model(
        [node("CumSum", ["x", "axis"], ["y"])], [value("x", ["N", 6])], [value("y", ["N", 6])], {"axis": np.int64(0)}
    ),
    "less the mean of the batch": lambda _: less_mean(),
    "padded to the longest": lambda _: padded(),
    "ranked among the batch": lambda _: ranked(),
    "scores over the batch beside boxes in pixels": lambda _: boxes_and_scores(0),
}


@pytest.mark.holds_on("cpu", why="other providers leave some of its operators to the CPU")
@pytest.mark.parametrize("kind", COUPLED)
def test_frames_that_would_influence_one_another_are_run_apart(kind: str, tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", COUPLED[kind](tmp_path))
    with Worker(version_of(tmp_path, "m")) as worker:
        (note,) = worker.ready["notes"]
        assert note.endswith("the frames of a batch are run one after another")
        assert ("quantise statically" in note) == (kind == "dynamic int8")
        (spec,) = worker.signature.inputs
        random = np.random.default_rng(1)
        if spec.datatype == "INT64":
            frames = list(np.int64([[2], [5], [1], [3]]))
        else:
            frames = [(random.standard_normal(spec.shape) * loud).astype(np.float32) for loud in (1, 100, 0.1, 10)]
        alone = [worker.run([[frame]])[0].outputs["y"] for frame in frames]
        for slot in (0, 1):
            for outcome, wanted in zip(worker.run([[frame] for frame in frames], slot=slot), alone, strict=True):
                np.testing.assert_array_equal(outcome.outputs["y"], wanted)


def test_a_bad_frame_among_frames_that_run_apart_costs_only_itself(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", less_mean())
    with Worker(version_of(tmp_path, "m")) as worker:
        frames = [np.full(6, number, np.float32) for number in (1, np.nan, 3)]
        outcomes = worker.run([[frame] for frame in frames])
        assert [outcome.status == OK for outcome in outcomes] == [True, False, True]
        assert outcomes[2].outputs["y"].tolist() == [0] * 6


INDEPENDENT = {
    "fp32": lambda _: mlp(),
    "static int8": static_int8,
    "batch norm in evaluation mode": lambda _: normalised(0),
    "softmax over classes": lambda _: one_node("Softmax", axis=-1),
    "fp16": lambda _: graphs.doubling(["N", 6], graphs.FP16),
    "scores beside boxes in pixels": lambda _: boxes_and_scores(-1),
    "flags": lambda _: graphs.copying(["N", 6], graphs.BOOL),
    "words": lambda _: graphs.picking(),
    "open sides": lambda _: graphs.doubling(["N", "height", "width"]),
    "always 0": lambda _: graphs.model(
        [node("Sub", ["x", "x"], ["y"])], [value("x", ["N", 6])], [value("y", ["N", 6])]
    ),
    "square roots, which are no numbers below 0": lambda _: one_node("Sqrt"),
    "one class of a few": lambda _: graphs.model(
        [node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)], [value("x", ["N", 6])], [value("y", ["N"], graphs.INT64)]
    ),
}


@pytest.mark.holds_on("cpu", "openvino", why="WebGPU's provider leaves its operators to the CPU")
@pytest.mark.parametrize("kind", INDEPENDENT)
def test_graphs_in_order_share_runs(kind: str, tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", INDEPENDENT[kind](tmp_path))
    loaded = load(body_of(tmp_path, "m"))
    assert (loaded.ready["notes"], loaded.ready["signature"]["batch_sizes"]) == ([], [1, 2, 4, 8])


def test_state_that_is_shared_by_a_batch_is_found_too(tmp_path: Path) -> None:
    nodes = [
        node("ReduceSum", ["x", "axis"], ["all"], keepdims=1),
        node("Add", ["total", "all"], ["total_next"]),
        node("Identity", ["x"], ["y"]),
    ]
    inputs = [value("x", ["N", 2]), value("total", ["N", 2])]
    outputs = [value("y", ["N", 2]), value("total_next", ["N", 2])]
    graphs.save(tmp_path, "m", graphs.model(nodes, inputs, outputs, {"axis": np.int64([0])}), graphs.SUMMING)
    (note,) = load(body_of(tmp_path, "m")).ready["notes"]
    assert "output 'total_next' of a frame is" in note


def test_what_happens_is_as_model_toml_says(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", less_mean(), 'dependent_rows = "REFUSE"\n')
    with pytest.raises(LoadError, match=r"m/1/model\.onnx: in a batch of 2, output 'y' .*dependent_rows = \"REFUSE\""):
        load(body_of(tmp_path, "m"))
    graphs.save(tmp_path, "m", less_mean(), 'dependent_rows = "BATCH"\n')
    with Worker(version_of(tmp_path, "m")) as worker:
        assert 'as dependent_rows = "BATCH" in model.toml asks for' in worker.ready["notes"][0]
        outcomes = worker.run([[np.full(6, number, np.float32)] for number in (1, 3)])
        assert [outcome.outputs["y"].tolist() for outcome in outcomes] == [[-1] * 6, [1] * 6]


def test_rows_that_are_no_batch_at_all_are_one_frame(tmp_path: Path) -> None:
    proto = less_mean()
    for tensor in (*proto.graph.input, *proto.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 5
    graphs.save(tmp_path, "m", proto)
    with Worker(version_of(tmp_path, "m")) as worker:
        assert "the first dimension, 5, is not taken for the batch" in worker.ready["notes"][0]
        frame = np.arange(30, dtype=np.float32).reshape(5, 6)
        np.testing.assert_array_equal(worker.run([[frame]])[0].outputs["y"], frame - frame.mean(axis=0))
    graphs.save(tmp_path, "m", proto, "batched = true\n")
    with pytest.raises(LoadError, match="export the graph for batches of one, or of any size"):
        load(body_of(tmp_path, "m"))


def noisy() -> onnx.ModelProto:
    nodes = [node("RandomNormalLike", ["x"], ["noise"], seed=1.0), node("Add", ["x", "noise"], ["y"])]
    return graphs.model(nodes, [value("x", ["N", 6])], [value("y", ["N", 6])])


@pytest.mark.holds_on("cpu", why="other providers leave some of its operators to the CPU")
# ONNX Runtime lets each run of a batch normalisation in training mode change the statistics that the next one uses.
@pytest.mark.parametrize("proto", [noisy(), normalised(1)], ids=["noise", "batch norm in training mode"])
def test_graphs_that_answer_otherwise_each_time_are_named(tmp_path: Path, proto: onnx.ModelProto) -> None:
    graphs.save(tmp_path, "m", proto)
    (note,) = load(body_of(tmp_path, "m")).ready["notes"]
    assert note.startswith("m/1/model.onnx: output 'y' is another one each time that the same frame is run")
    assert "export the model in evaluation mode" in note
    graphs.save(tmp_path, "m", proto, 'dependent_rows = "REFUSE"\n')
    with pytest.raises(LoadError, match="is another one each time"):
        load(body_of(tmp_path, "m"))


@pytest.mark.holds_on("cpu", "openvino", why="WebGPU's provider leaves its operators to the CPU")
def test_variants_are_checked_one_by_one(tmp_path: Path) -> None:
    toml = '[[variant]]\nname = "fp32"\n[[variant]]\nname = "int8"\nfile = "int8.onnx"\n'
    graphs.save(tmp_path, "m", mlp(), toml)
    graphs.save(tmp_path, "m", dynamic_int8(tmp_path), toml, file="int8.onnx")
    (note,) = load(body_of(tmp_path, "m")).ready["notes"]
    assert note.startswith("m/1/int8.onnx: DynamicQuantize")
