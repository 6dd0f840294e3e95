"""Which dimension is the batch: as model.toml says, else as the graph's own signs have it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from duly.worker.channel import OK
from duly.worker.errors import LoadError
from duly.worker.load_model import load
from tests import graphs
from tests.worker.client import Worker, version_of
from tests.worker.test_load_errors import body_of, reason_of

node = helper.make_node
value = graphs.value


def pooled(dims: graphs.Dims, out: graphs.Dims, axes: list[int]) -> onnx.ModelProto:
    """The mean of x over `axes`."""
    reduce = node("ReduceMean", ["x"], ["y"], axes=axes, keepdims=0)
    return graphs.model([reduce], [value("x", dims)], [value("y", out)])


def centred(dims: graphs.Dims) -> onnx.ModelProto:
    """x less its mean over the first dimension: every row counts for every other."""
    nodes = [node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), node("Sub", ["x", "m"], ["y"])]
    return graphs.model(nodes, [value("x", dims)], [value("y", dims)])


def boxes(dims: graphs.Dims, out: graphs.Dims, picture_axes: list[int]) -> onnx.ModelProto:
    """As many boxes as the picture is bright: found[K,4], without a batch dimension, as detectors write them."""
    nodes = [
        node("ReduceMax", ["x"], ["most"], axes=picture_axes, keepdims=0),
        node("Cast", ["most"], ["count"], to=onnx.TensorProto.INT64),
        node("Reshape", ["count", "one"], ["k"]),
        node("Concat", ["k", "four"], ["shape"], axis=0),
        node("ConstantOfShape", ["shape"], ["found"]),
    ]
    constants = {"one": np.int64([1]), "four": np.int64([4])}
    return graphs.model(nodes, [value("x", dims)], [value("found", out)], constants)


ONE_FRAME = {
    "points": (centred(["points", 4]), "", (-1, 4), (70, 4)),
    "num_points": (centred(["num_points", 3]), "", (-1, 3), (5, 3)),
    "a sequence": (centred(["seq_len", 8]), "", (-1, 8), (3, 8)),
    "time major": (centred(["T", 8]), "", (-1, 8), (3, 8)),
    "nodes of a graph": (centred(["num_nodes", 2]), "", (-1, 2), (9, 2)),
    "a picture with open sides": (pooled([3, "h", "w"], [3], [1, 2]), "", (3, -1, -1), (3, 9, 7)),
    "a picture, height first": (centred(["height", "width", 3]), "", (-1, -1, 3), (4, 5, 3)),
    "a picture of fixed size": (centred([3, 32, 32]), "", (3, 32, 32), (3, 32, 32)),
    "a picture of fixed size, channels last": (centred([24, 32, 3]), "", (24, 32, 3), (24, 32, 3)),
    "a scan of more rays than any batch": (centred([720]), "", (720,), (720,)),
    "more rows in than out": (pooled([12, 6], [6], [0]), "", (12, 6), (12, 6)),
    "nothing that is one for each frame comes out": (pooled([None, None, 3], [3], [0, 1]), "", (-1, -1, 3), (9, 8, 3)),
    "as model.toml says": (centred(["N", 4]), "batched = false\n", (-1, 4), (6, 4)),
}


@pytest.mark.parametrize("kind", ONE_FRAME)
def test_a_graph_without_a_batch_dimension_takes_all_of_its_input_as_a_frame(kind: str, tmp_path: Path) -> None:
    proto, toml, shape, extents = ONE_FRAME[kind]
    graphs.save(tmp_path, "m", proto, toml)
    with Worker(version_of(tmp_path, "m")) as worker:
        assert worker.signature.inputs[0].shape == shape
        assert worker.signature.batch_sizes == (1,)
        assert bool(worker.ready["notes"]) == (not toml), worker.ready["notes"]
        frame = np.random.default_rng(2).standard_normal(extents).astype(np.float32)
        wanted = ReferenceEvaluator(proto).run(None, {"x": frame})[0]
        for slot in (0, 1):
            (outcome,) = worker.run([[frame]], slot=slot)
            np.testing.assert_allclose(outcome.outputs["y"], wanted, rtol=1e-5, atol=1e-5)


BATCHED = {
    "N": graphs.doubling(["N", 4]),
    "batch": graphs.doubling(["batch_size", 4]),
    "no name": graphs.doubling([None, 4]),
    "a name of an exporter": graphs.doubling(["unk__17", 4]),
    "a name of another exporter": graphs.doubling(["s31", 4]),
    "a picture": graphs.doubling(["n", 3, "h", "w"]),
    "samples of sound": graphs.doubling(["B", "samples"]),
}


@pytest.mark.parametrize("kind", BATCHED)
def test_a_graph_with_a_batch_dimension_is_batched(kind: str, tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", BATCHED[kind])
    ready = load(body_of(tmp_path, "m")).ready
    assert (ready["signature"]["batch_sizes"], ready["notes"]) == ([1, 2, 4, 8], [])


def test_what_model_toml_says_counts_more_than_a_name(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling(["points", 4]), "batched = true\n")
    ready = load(body_of(tmp_path, "m")).ready
    assert (ready["signature"]["batch_sizes"], ready["notes"]) == ([1, 2, 4, 8], [])
    graphs.save(tmp_path, "m", graphs.doubling([3, "width"]), "batched = true\n")
    assert load(body_of(tmp_path, "m")).ready["signature"]["batch_sizes"] == [3]


def test_batch_sizes_of_a_graph_without_a_batch_dimension_are_said_to_be_unused(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", centred(["points", 4]), "batch_sizes = [1, 2]\n")
    ready = load(body_of(tmp_path, "m")).ready
    assert ready["signature"]["batch_sizes"] == [1]
    assert ready["notes"][1] == "m/1/model.onnx: batch_sizes = [1, 2] is not used: frames run one at a time"


@pytest.mark.parametrize("out", [["found", 4], [None, 4], ["Concat_12_dim_0", 4]])
@pytest.mark.parametrize("batch", [1, "N"])
def test_boxes_without_a_batch_dimension_belong_to_the_one_frame(
    tmp_path: Path, batch: int | str, out: graphs.Dims
) -> None:
    graphs.save(tmp_path, "m", boxes([batch, 3, 8, 8], out, [0, 1, 2, 3]))
    with Worker(version_of(tmp_path, "m")) as worker:
        assert [(spec.name, spec.shape) for spec in worker.signature.outputs] == [("found", (-1, 4))]
        assert worker.signature.batch_sizes == (1,)
        for count in (1, 5):
            (outcome,) = worker.run([[np.full((3, 8, 8), count, np.float32)]])
            assert (outcome.status, outcome.outputs["found"].shape) == (OK, (count, 4))


@pytest.mark.holds_on("cpu", why="other providers leave its operators to the CPU, or compile no such graph")
def test_an_output_of_another_number_of_rows_is_taken_whole_where_model_toml_says_so(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Identity", ["c"], ["anchors"])]
    constant = {"c": np.arange(10, dtype=np.float32).reshape(5, 2)}
    proto = graphs.model(nodes, [value("x", ["N", 4])], [value("y", ["N", 4]), value("anchors", [5, 2])], constant)
    graphs.save(tmp_path, "m", proto)
    assert reason_of(tmp_path, "m") == (
        "m/model.toml: output: the graph's 'anchors' has 5 rows, not one for each frame of a batch of any of "
        "[1, 2, 4, 8]; say batched = false under its [[output]] for frames to run one at a time and get all of it; or "
        'leave it out, by naming the others ([[output]]) at the top of model.toml: output = [{ name = "y" }]'
    )
    graphs.save(tmp_path, "m", proto, '[[output]]\nname = "y"\n')
    assert load(body_of(tmp_path, "m")).ready["signature"]["batch_sizes"] == [1, 2, 4, 8]
    graphs.save(tmp_path, "m", proto, '[[output]]\nname = "y"\n[[output]]\nname = "anchors"\nbatched = false\n')
    with Worker(version_of(tmp_path, "m")) as worker:
        (outcome,) = worker.run([[np.ones(4, np.float32)]])
        np.testing.assert_array_equal(outcome.outputs["anchors"], constant["c"])
        assert outcome.outputs["y"].tolist() == [1, 1, 1, 1]


def recurrent() -> onnx.ModelProto:
    """y[T,B,2] = x[T,B,2] less its mean over time: the batch is the second dimension, as PyTorch's LSTM has it."""
    nodes = [node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), node("Sub", ["x", "m"], ["y"])]
    return graphs.model(nodes, [value("x", [6, "B", 2])], [value("y", [6, "B", 2])])


@pytest.mark.parametrize(
    "toml", ["batch_axis = 1\n", '[[input]]\nname = "x"\nbatch_axis = 1\n[[output]]\nname = "y"\nbatch_axis = 1\n']
)
@pytest.mark.parametrize("time", [6, "T"])
def test_the_batch_may_be_another_dimension(tmp_path: Path, toml: str, time: int | str) -> None:
    proto = recurrent()
    for tensor in (*proto.graph.input, *proto.graph.output):
        first = tensor.type.tensor_type.shape.dim[0]
        first.dim_param, first.dim_value = ("T", 0) if time == "T" else ("", 6)
        if time == "T":
            first.dim_param = "T"
    graphs.save(tmp_path, "m", proto, toml)
    with Worker(version_of(tmp_path, "m")) as worker:
        assert worker.signature.inputs[0].shape == (6 if time == 6 else -1, 2)
        assert (worker.signature.batch_sizes, worker.ready["notes"]) == ((1, 2, 4, 8), [])
        frames = list(np.random.default_rng(3).standard_normal((5, 6, 2)).astype(np.float32))
        for slot, count in ((0, 1), (1, 5), (0, 3), (0, 5)):
            outcomes = worker.run([[frame] for frame in frames[:count]], slot=slot)
            for outcome, frame in zip(outcomes, frames, strict=False):
                np.testing.assert_allclose(outcome.outputs["y"], frame - frame.mean(axis=0), atol=1e-6)


def test_a_dimension_that_is_called_the_batch_is_the_batch(tmp_path: Path) -> None:
    proto = recurrent()
    for tensor in (*proto.graph.input, *proto.graph.output):
        tensor.type.tensor_type.shape.dim[1].dim_param = "batch"
    graphs.save(tmp_path, "m", proto)
    with Worker(version_of(tmp_path, "m")) as worker:
        assert (worker.signature.inputs[0].shape, worker.signature.batch_sizes) == ((6, 2), (1, 2, 4, 8))
        assert worker.ready["notes"] == ["m/1/model.onnx: dimension 1 of input 'x' is the batch, by its name"]
        frames = list(np.random.default_rng(4).standard_normal((3, 6, 2)).astype(np.float32))
        for outcome, frame in zip(worker.run([[frame] for frame in frames]), frames, strict=True):
            np.testing.assert_allclose(outcome.outputs["y"], frame - frame.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        ([1, 1], (1,)),  # as LightGBM's converter writes labels, with the batch of one that it tried
        ([None, 7], (-1,)),
    ],
)
def test_what_comes_out_counts_more_than_what_is_declared(
    tmp_path: Path, declared: graphs.Dims, shape: tuple[int, ...]
) -> None:
    nodes = [
        node("Shape", ["x"], ["dims"]),
        node("Slice", ["dims", "zero", "one"], ["rows"]),
        node("Concat", ["rows", "one"], ["shape"], axis=0),
        node("ReduceSum", ["x", "one"], ["sum"], keepdims=1),
        node("Reshape", ["sum", "shape"], ["y"]),
    ]
    constants = {"zero": np.int64([0]), "one": np.int64([1])}
    graphs.save(tmp_path, "m", graphs.model(nodes, [value("x", ["N", 3])], [value("y", declared)], constants))
    with Worker(version_of(tmp_path, "m")) as worker:
        assert worker.signature.outputs[0].shape == shape
        assert worker.signature.batch_sizes == (1, 2, 4, 8)
        outcomes = worker.run([[np.full(3, number, np.float32)] for number in range(5)])
        assert [outcome.outputs["y"].ravel().tolist() for outcome in outcomes] == [[0], [3], [6], [9], [12]]


@pytest.mark.holds_on("cpu", why="other providers leave its operators to the CPU, or compile no such graph")
@pytest.mark.parametrize(
    ("node", "dims", "gives"),
    [
        (helper.make_node("Reshape", ["x", "halves"], ["y"]), ["batch", 2], [2, 2]),
        (helper.make_node("Squeeze", ["x"], ["y"]), ["batch", 4], [4]),
        (helper.make_node("ReduceSum", ["x", "one"], ["y"], keepdims=0), ["batch"], []),
    ],
)
def test_an_output_that_has_a_row_for_each_frame_only_by_its_name_is_taken_whole(
    tmp_path: Path, node: onnx.NodeProto, dims: graphs.Dims, gives: list[int]
) -> None:
    nodes = [node]
    if not gives:  # a squeeze that takes the batch off, too, where it is 1
        node.output[0] = "sums"
        nodes.append(helper.make_node("Squeeze", ["sums"], ["y"]))
    constants = {"halves": np.int64([-1, 2]), "one": np.int64([1])}
    proto = graphs.model(nodes, [graphs.value("x", ["batch", 4])], [graphs.value("y", dims)], constants)
    graphs.save(tmp_path, "m", proto)
    with Worker(version_of(tmp_path, "m")) as worker:
        (note,) = worker.ready["notes"]
        assert f"output 'y' has no batch dimension (one frame gives {gives}, as reshape or squeeze() make it)" in note
        frames = np.random.default_rng(4).standard_normal((2, 4)).astype(np.float32)
        for frame in frames:
            (outcome,) = worker.run([[frame]])
            wanted = ReferenceEvaluator(proto).run(None, {"x": frame[None]})[0]
            assert outcome.outputs["y"].shape == wanted.shape == tuple(gives)
            np.testing.assert_allclose(outcome.outputs["y"], wanted, rtol=1e-5)


@pytest.mark.holds_on("cpu", why="other providers leave its operators to the CPU, or compile no such graph")
def test_a_single_number_comes_out_of_a_graph_without_a_batch_dimension(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", pooled(["points", 4], [], [0, 1]))
    with Worker(version_of(tmp_path, "m")) as worker:
        assert worker.signature.outputs[0].shape == ()
        (outcome,) = worker.run([[np.full((7, 4), 2.5, np.float32)]])
        assert (outcome.outputs["y"].shape, float(outcome.outputs["y"])) == ((), 2.5)


def test_a_batch_axis_that_is_not_there_is_named(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling(["N", 4]), "batch_axis = 2\n")
    assert reason_of(tmp_path, "m") == (
        "m/model.toml: input 'x': batch_axis = 2 is no dimension of the graph's 'x', whose shape is [N, 4]; the first "
        "one is 0"
    )


def test_inputs_whose_first_dimensions_differ_are_whole_unless_model_toml_says_they_are_a_batch(tmp_path: Path) -> None:
    inputs = [value("a", [2, 3]), value("b", [1, 3])]
    proto = graphs.model([node("Add", ["a", "b"], ["y"])], inputs, [value("y", [2, 3])])
    graphs.save(tmp_path, "m", proto)
    with Worker(version_of(tmp_path, "m")) as worker:
        a, b = np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([[10, 20, 30]])
        np.testing.assert_array_equal(worker.run([[a, b]])[0].outputs["y"], a + b)
    graphs.save(tmp_path, "m", proto, "batched = true\n")
    assert reason_of(tmp_path, "m") == (
        "m/model.toml: input: the graph's batch dimensions differ: {'a': 2, 'b': 1}; export it with one size for all"
    )


def test_state_without_a_batch_dimension(tmp_path: Path) -> None:
    proto = graphs.summing()
    for tensor in (*proto.graph.input, *proto.graph.output):
        del tensor.type.tensor_type.shape.dim[0]
    graphs.save(tmp_path, "m", proto, "batched = false\n" + graphs.SUMMING)
    with Worker(version_of(tmp_path, "m")) as worker:
        for stream, total in ((1, [1, 2]), (2, [1, 2]), (1, [2, 4])):
            assert worker.run([[np.float32([1, 2])]], [stream])[0].outputs["y"].tolist() == total


def test_nothing_that_is_advised_is_refused_afterwards(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling([4, 3]), "batch_sizes = [1, 2]\n")
    with pytest.raises(LoadError, match=r"the graph takes batches of 4 alone, so that \[4\] it must be"):
        load(body_of(tmp_path, "m"))
    graphs.save(tmp_path, "m", graphs.doubling([4, 3]), "batch_sizes = [4]\n")
    assert load(body_of(tmp_path, "m")).ready["signature"]["batch_sizes"] == [4]
