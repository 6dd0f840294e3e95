"""Graphs that a line of model.toml makes load: the error gives the line, and with it they load."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from duly.models.repository import Repository
from duly.worker.errors import LoadError
from duly.worker.load_model import Loaded, load
from tests import graphs
from tests.graphs import BOOL, FP32, INT64, value
from tests.worker.loading import body_of, reason_of

pytestmark = pytest.mark.holds_on("cpu", why="its graphs cannot be served, and other providers refuse them first")

TRIES_MAX = 4
TEXT = TensorProto.STRING


def advised(reason: str) -> str:
    """The last line of model.toml in an error."""
    found = re.findall(r"(?:input|output) = \[\{ .* \}\]|constants = \{ .*? \}", reason)
    assert found, reason
    return str(found[-1])


def load_as_advised(root: Path, proto: onnx.ModelProto, toml: str = "") -> tuple[Loaded, list[str]]:
    """Does what the errors say until the model loads. Returns it and the lines that were put into model.toml."""
    lines: list[str] = []
    for _ in range(TRIES_MAX):
        graphs.save(root, "m", proto, "\n".join([*lines, toml]) + "\n")
        try:
            return load(body_of(root, "m")), lines
        except LoadError as error:
            lines.append(advised(str(error)))
    raise AssertionError(lines)


def values(kind: onnx.TypeProto, name: str) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, kind)


def tensor_type(kind: int = FP32) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(kind, [])


def with_output(output: onnx.ValueInfoProto, *nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """y = relu(x), and another output."""
    relu = helper.make_node("Relu", ["x"], ["y"])
    proto = graphs.model([relu, *nodes], [value("x", ["N", 3])], [output, value("y", ["N", 3])], constants)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return proto


def zip_map(labels: dict[str, list[int] | list[str]], key: int) -> onnx.ModelProto:
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(key, tensor_type()))
    node = helper.make_node("ZipMap", ["y"], ["probabilities"], domain="ai.onnx.ml", **labels)
    return with_output(values(kind, "probabilities"), node)


UNSENDABLE = {
    "ZipMap with numbers": (zip_map({"classlabels_int64s": [4, 5, 6]}, INT64), "options={'zipmap': False}"),
    "ZipMap with texts": (zip_map({"classlabels_strings": ["a", "b", "c"]}, TEXT), "options={'zipmap': False}"),
    "list of tensors": (
        with_output(
            values(helper.make_sequence_type_proto(tensor_type()), "parts"),
            helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0),
        ),
        "a list of tensors",
    ),
    "optional": (
        with_output(
            values(helper.make_optional_type_proto(helper.make_tensor_type_proto(FP32, ["N", 3])), "maybe"),
            helper.make_node("Optional", ["y"], ["maybe"]),
        ),
        "export it as a tensor that is always there",
    ),
    "constant": (
        with_output(
            value("anchors", [1, 9, 4]),
            helper.make_node("Identity", ["boxes"], ["anchors"]),
            boxes=np.zeros((1, 9, 4), np.float32),
        ),
        "not one for each frame",
    ),
}


@pytest.mark.parametrize("name", UNSENDABLE)
def test_an_output_that_cannot_be_sent_is_left_out_by_the_line_that_the_error_gives(tmp_path: Path, name: str) -> None:
    proto, words = UNSENDABLE[name]
    graphs.save(tmp_path, "m", proto)
    assert words in reason_of(tmp_path, "m")
    loaded, lines = load_as_advised(tmp_path, proto)
    assert lines == ['output = [{ name = "y" }]']
    assert [output["name"] for output in loaded.ready["signature"]["outputs"]] == ["y"]


def test_an_output_with_the_batch_of_the_example_is_not_left_out_with_another(tmp_path: Path) -> None:
    """LightGBM's classifiers declare a label [1], whatever the batch is."""
    proto = zip_map({"classlabels_int64s": [4, 5, 6]}, INT64)
    proto.graph.node.append(helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0))
    proto.graph.output.append(value("label", [1], INT64))
    loaded, lines = load_as_advised(tmp_path, proto)
    assert lines == ['output = [{ name = "y" }, { name = "label" }]']
    assert max(loaded.ready["signature"]["batch_sizes"]) > 1


def test_outputs_that_frames_would_share_are_left_out_together(tmp_path: Path) -> None:
    largest = helper.make_node("TopK", ["x", "one"], ["top", "index"], axis=0)
    proto = with_output(value("top", [1, 3]), largest, one=np.int64([1]))
    proto.graph.output.append(value("index", [1, 3], INT64))
    _, lines = load_as_advised(tmp_path, proto)
    assert lines == ['output = [{ name = "y" }]']


def test_several_such_outputs_take_one_line_and_states_and_tables_stay(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "s"], ["s_next"]),
        helper.make_node("Identity", ["s_next"], ["y"]),
        helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0),
        helper.make_node("ReduceSum", ["x"], ["loss"], keepdims=0),
        helper.make_node("Neg", ["x"], ['z"/z:0']),
    ]
    parts = values(helper.make_sequence_type_proto(tensor_type()), "parts")
    outputs = [parts, value("loss", []), value("y", ["N", 3]), value('z"/z:0', ["N", 3])]
    inputs = [value("x", ["N", 3]), value("s", ["N", 3])]
    proto = graphs.model(nodes, inputs, [*outputs, value("s_next", ["N", 3])])
    loaded, lines = load_as_advised(tmp_path, proto, '[[state]]\ninput = "s"\noutput = "s_next"\n')
    assert len(lines) == 1
    assert [output["name"] for output in loaded.ready["signature"]["outputs"]] == ["y", 'z"/z:0']


@pytest.mark.parametrize(("name", "kind"), [("rate", INT64), ("gain:0", FP32), ("training", BOOL)])
def test_an_input_that_is_one_number_is_made_a_constant_by_the_line_that_the_error_gives(
    tmp_path: Path, name: str, kind: int
) -> None:
    nodes = [helper.make_node("Cast", [name], ["number"], to=FP32), helper.make_node("Mul", ["x", "number"], ["y"])]
    proto = graphs.model(nodes, [value("x", ["N", 3]), value(name, [], kind)], [value("y", ["N", 3])])
    loaded, lines = load_as_advised(tmp_path, proto)
    assert len(lines) == 1
    assert lines[0].startswith("constants = ")
    assert [spec["name"] for spec in loaded.ready["signature"]["inputs"]] == ["x"]


WEIGHTS = np.ones((4, 5, 3, 3), np.float32)
CONVOLUTION = helper.make_node("Conv", ["image", "w"], ["y"], kernel_shape=[3, 3])
OPEN = {
    "channels": (
        graphs.model(
            [CONVOLUTION], [value("image", ["n", "c", "h", "w_"])], [value("y", ["n", 4, "a", "b"])], {"w": WEIGHTS}
        ),
        [5, -1, -1],
    ),
    "channels in groups": (
        graphs.model(
            [helper.make_node("Conv", ["image", "w"], ["y"], kernel_shape=[3, 3], group=2)],
            [value("image", ["n", "c", "h", "w_"])],
            [value("y", ["n", 4, "a", "b"])],
            {"w": WEIGHTS},
        ),
        [10, -1, -1],
    ),
    "channels last": (
        graphs.model(
            [
                helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]),
                helper.make_node("Conv", ["turned", "w"], ["y"], kernel_shape=[3, 3]),
            ],
            [value("image", ["n", "h", "w_", "c"])],
            [value("y", ["n", 4, "a", "b"])],
            {"w": WEIGHTS},
        ),
        [-1, -1, 5],
    ),
    "features": (
        graphs.model(
            [helper.make_node("Gemm", ["image", "w"], ["y"])],
            [value("image", ["n", "features"])],
            [value("y", ["n", 2])],
            {"w": np.ones((30, 2), np.float32)},
        ),
        [30],
    ),
    "the sides of a picture": (
        graphs.model(
            [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["y"])],
            [value("image", ["n", 2, "h", "w_"])],
            [value("y", ["n", 3])],
            {"w": np.ones((2 * 9 * 9, 3), np.float32)},
        ),
        [2, 9, 9],
    ),
}


@pytest.mark.parametrize("name", OPEN)
def test_extents_that_the_graph_leaves_open_are_said_by_the_line_that_the_error_gives(
    tmp_path: Path, name: str
) -> None:
    proto, shape = OPEN[name]
    loaded, lines = load_as_advised(tmp_path, proto)
    assert lines == [f'input = [{{ name = "image", shape = {shape} }}]']
    assert loaded.ready["signature"]["inputs"][0]["shape"] == shape


PICTURE = graphs.doubling(["N", 3, 6, 8])


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("shape = [-1, 3, 6, 8]", "shape = [3, 6, 8]"),
        ("shape = [6, 8, 3]", "shape = [3, 6, 8]"),
        ('datatype = "INT64"', 'datatype = "FP32"'),
        (
            'encodings = ["JPEG"]',
            'encodings = ["JPEG"]\n'
            'preprocess = [{ op = "resize", width = 8, height = 6 }, { op = "layout", axes = "CHW" }]',
        ),
    ],
)
def test_an_input_that_does_not_fit_the_graph_does_with_the_line_that_the_error_gives(
    tmp_path: Path, asked: str, line: str
) -> None:
    graphs.save(tmp_path, "m", PICTURE, f'[[input]]\nname = "x"\n{asked}\n')
    assert line.rpartition("\n")[2] in reason_of(tmp_path, "m")
    graphs.save(tmp_path, "m", PICTURE, f'[[input]]\nname = "x"\n{line}\n')
    load(body_of(tmp_path, "m"))


def test_an_extent_that_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = np.ones((50, 2), np.float32)
    graphs.save(tmp_path, "m", graphs.model([node], [value("x", ["N", "k"])], [value("y", ["N", 2])], {"w": weights}))
    assert reason_of(tmp_path, "m").endswith(
        "; the graph leaves [-1] of 'x' open, [64] was tried; say more under [[input]]: shape = [N0], with the extents "
        "that a frame has"
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            helper.make_tensor_type_proto(TensorProto.FLOAT8E4M3FN, ["N"]),
            "float8e4m3fn is not taken; export it as FP16",
        ),
        (helper.make_tensor_type_proto(TensorProto.INT4, ["N", 2]), "int4 is not taken; export it as INT8 or UINT8"),
        (helper.make_sequence_type_proto(tensor_type()), "a list of tensors; export them as one tensor"),
        (
            helper.make_optional_type_proto(helper.make_tensor_type_proto(FP32, ["N", 3])),
            "optional; export it as a tensor that is always there",
        ),
    ],
)
def test_an_input_that_cannot_be_sent_is_told_with_what_to_export(
    tmp_path: Path, kind: onnx.TypeProto, words: str
) -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"])]
    proto = graphs.model(nodes, [values(kind, "x"), value("a", ["N", 2])], [value("y", ["N", 2])], opset=21)
    proto.ir_version = 10
    graphs.save(tmp_path, "m", proto)
    reason = reason_of(tmp_path, "m")
    assert words in reason, reason


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        (
            '[[input]]\nname = "image"\n',
            "input[0].name: the graph has no input 'image'; it has: images, scale; did you mean 'images'?",
        ),
        (
            '[[input]]\nname = "picture"\n',
            "input[0].name: the graph has no input 'picture'; it has: images, scale; where clients call one of them "
            'so, say which: tensor = "images"',
        ),
        (
            '[[output]]\nname = "LOGITS"\n',
            "output[0].name: the graph has no output 'LOGITS'; it has: logits; did you mean 'logits'?",
        ),
        (
            "[constants]\nscal = 2\n",
            "constants.scal: the graph has no input 'scal'; it has: images, scale; did you mean 's",
        ),
        (
            '[[input]]\nname = "images"\n',
            "input: nothing feeds graph input 'scale'; add an input, a state or a constant for it: [[input]] with "
            'name = "scale", or constants = { scale = 0.5 }, with its value in place of 0.5',
        ),
    ],
)
def test_a_name_that_the_graph_does_not_have_is_told_with_the_likely_one(
    tmp_path: Path, toml: str, reason: str
) -> None:
    node = helper.make_node("Mul", ["images", "scale"], ["logits"])
    proto = graphs.model([node], [value("images", ["N", 3]), value("scale", [1])], [value("logits", ["N", 3])])
    graphs.save(tmp_path, "m", proto, toml)
    assert reason_of(tmp_path, "m").startswith(f"m/model.toml: {reason}")


def test_hundreds_of_names_are_counted(tmp_path: Path) -> None:
    inputs = [value(f"x{nth}", ["N", 1]) for nth in range(50)]
    node = helper.make_node("Sum", [each.name for each in inputs], ["y"])
    graphs.save(tmp_path, "m", graphs.model([node], inputs, [value("y", ["N", 1])]), '[[input]]\nname = "tally"\n')
    assert "x18, x19 and 30 more;" in reason_of(tmp_path, "m")


def test_what_exporters_leave_in_a_graph_does_no_harm(tmp_path: Path) -> None:
    """An input that nothing uses, weights that are inputs with a default, and a name with every sign in it."""
    nodes = [helper.make_node("Add", ["x:0/in", "w"], ["y"])]
    inputs = [value("x:0/in", ["N", 3]), value("unused", ["N", 2]), value("w", [3])]
    proto = graphs.model(nodes, inputs, [value("y", ["N", 3])], {"w": np.ones(3, np.float32)})
    graphs.save(tmp_path, "m", proto)
    loaded = load(body_of(tmp_path, "m"))
    assert [spec["name"] for spec in loaded.ready["signature"]["inputs"]] == ["x:0/in", "unused"]
    assert Repository(tmp_path).scan()[1] == []
