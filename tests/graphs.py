"""Small graphs with arithmetic that a test can check by hand, saved as a user's model repository."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int | str | None]

FP32, FP16, INT64, UINT8, BOOL, TEXT, BF16 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.BOOL,
    TensorProto.STRING,
    TensorProto.BFLOAT16,
)
INT32 = TensorProto.INT32


def value(name: str, dims: Dims, kind: int = FP32) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(
    root: Path, name: str, proto: onnx.ModelProto, toml: str = "", *, version: int = 1, file: str = "model.onnx"
) -> Path:
    """Puts the model into the repository `root`; three runs are warm-up enough for a test. A `toml` that stands there
    stays unless another is given.
    """
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, folder / file)
    settings = root / name / "model.toml"
    if toml or not settings.exists():
        settings.write_text("warmup_runs = 3\n" + toml)
    return root


def doubling(dims: Dims = ("N", 4), kind: int = FP32) -> onnx.ModelProto:
    """y = x + x."""
    return model([helper.make_node("Add", ["x", "x"], ["y"])], [value("x", dims, kind)], [value("y", dims, kind)])


def copying(dims: Dims, kind: int = FP32) -> onnx.ModelProto:
    """y = x: shows what the graph was given."""
    return model([helper.make_node("Identity", ["x"], ["y"])], [value("x", dims, kind)], [value("y", dims, kind)])


def picking() -> onnx.ModelProto:
    """y[N] = (10, 20, 30, 40)[x[N]]: fails on an index of 4 or more."""
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    table = np.float32([10, 20, 30, 40])
    return model([node], [value("x", ["N"], INT64)], [value("y", ["N"])], {"table": table})


def zeros() -> onnx.ModelProto:
    """y[N,K] where K is the largest element of x[N,1]: an output as long as the client says."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["k"], axes=[0], keepdims=0),
        helper.make_node("Shape", ["x"], ["dims"]),
        helper.make_node("Slice", ["dims", "zero", "one"], ["n"]),
        helper.make_node("Concat", ["n", "k"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["y"]),
    ]
    constants = {"zero": np.int64([0]), "one": np.int64([1])}
    return model(nodes, [value("x", ["N", 1], INT64)], [value("y", ["N", "K"])], constants)


def summing(axis: int = 0) -> onnx.ModelProto:
    """Stateful: total' = total + x and y = total'. Of the state, `axis` is the batch."""
    dims: Dims = ["N", 2] if axis == 0 else [2, "N"]
    x = "x" if axis == 0 else "turned"
    nodes = [
        *([] if axis == 0 else [helper.make_node("Transpose", ["x"], ["turned"])]),
        helper.make_node("Add", [x, "total"], ["total_next"]),
        helper.make_node("Identity" if axis == 0 else "Transpose", ["total_next"], ["y"]),
    ]
    inputs = [value("x", ["N", 2]), value("total", dims)]
    return model(nodes, inputs, [value("y", ["N", 2]), value("total_next", dims)])


def standing() -> onnx.ModelProto:
    """y[N,5] = x, start, ready, end and id of each frame, where the server fills all but x; id is INT32[N]."""
    nodes = [
        helper.make_node("Cast", ["id"], ["number"], to=FP32),
        helper.make_node("Reshape", ["number", "column"], ["numbers"]),
        helper.make_node("Concat", ["x", "start", "ready", "end", "numbers"], ["y"], axis=1),
    ]
    inputs = [*(value(name, ["N", 1]) for name in ("x", "start", "ready", "end")), value("id", ["N"], INT32)]
    return model(nodes, inputs, [value("y", ["N", 5])], {"column": np.int64([-1, 1])})


STANDING = """
[[control]]
input = "start"
kind = "START"
[[control]]
input = "ready"
kind = "READY"
false_true = [-1, 1]
[[control]]
input = "end"
kind = "END"
[[control]]
input = "id"
kind = "STREAM"
"""
"""The settings that make it so."""


SUMMING = '[[state]]\noutput = "total_next"\ninput = "total"\n'
"""The settings that make it so."""


def scaling(width: int = 4, factor: float = 2.0) -> onnx.ModelProto:
    """y[N,width] = factor * x[N,width]."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    dims: Dims = ["N", width]
    return model([node], [value("x", dims)], [value("y", dims)], {"factor": np.float32(factor)})


def scored(width: int = 4) -> onnx.ModelProto:
    """y[N,width] = 2 * x, and score[N,1] = the largest magnitude of x: as a detector gives one."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("Abs", ["x"], ["magnitudes"]),
        helper.make_node("ReduceMax", ["magnitudes"], ["score"], axes=[1]),
    ]
    return model(nodes, [value("x", ["N", width])], [value("y", ["N", width]), value("score", ["N", 1])])


def scaling_one(factor: float = 2.0) -> onnx.ModelProto:
    """y[N,1] = factor * x[N,1,1]: takes and gives what `slow` does."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "column"], ["y"]),
    ]
    constants = {"factor": np.float32(factor), "column": np.int64([-1, 1])}
    return model(nodes, [value("x", ["N", 1, 1])], [value("y", ["N", 1])], constants)


def two_outputs(width: int = 4) -> onnx.ModelProto:
    """z = -x, y = x."""
    nodes = [helper.make_node("Neg", ["x"], ["z"]), helper.make_node("Identity", ["x"], ["y"])]
    return model(nodes, [value("x", ["N", width])], [value("z", ["N", width]), value("y", ["N", width])])


def stereo(width: int = 4) -> onnx.ModelProto:
    """y = left + 10 * right: two inputs, of which the result shows which frames they came from."""
    nodes = [helper.make_node("Mul", ["right", "ten"], ["tens"]), helper.make_node("Add", ["left", "tens"], ["y"])]
    inputs = [value("left", ["N", width]), value("right", ["N", width])]
    return model(nodes, inputs, [value("y", ["N", width])], {"ten": np.float32(10)})


def stereo_summing() -> onnx.ModelProto:
    """Stateful: total' = total + left + 10 * right and y = total'."""
    nodes = [
        helper.make_node("Mul", ["right", "ten"], ["tens"]),
        helper.make_node("Sum", ["left", "tens", "total"], ["total_next"]),
        helper.make_node("Identity", ["total_next"], ["y"]),
    ]
    inputs = [value(name, ["N", 2]) for name in ("left", "right", "total")]
    outputs = [value("y", ["N", 2]), value("total_next", ["N", 2])]
    return model(nodes, inputs, outputs, {"ten": np.float32(10)})


def copies(count: int, width: int) -> onnx.ModelProto:
    """y0 = x, y1 = x, ..."""
    names = [f"y{n}" for n in range(count)]
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in names]
    return model(nodes, [value("x", ["N", width])], [value(name, ["N", width]) for name in names])


def slow(rounds: int = 60, width: int = 256) -> onnx.ModelProto:
    """y[N,1] after `rounds` matrix products: milliseconds of honest work a frame, none saved by batching."""
    nodes = [helper.make_node("Expand", ["x", "wide"], ["a0"])]
    nodes += [helper.make_node("MatMul", [f"a{i}", "weights"], [f"a{i + 1}"]) for i in range(rounds)]
    nodes.append(helper.make_node("ReduceMax", [f"a{rounds}"], ["m"], axes=[1, 2], keepdims=0))
    nodes.append(helper.make_node("Reshape", ["m", "column"], ["y"]))
    constants = {
        "weights": np.eye(width, dtype=np.float32),
        "wide": np.int64([1, width, width]),
        "column": np.int64([-1, 1]),
    }
    return model(nodes, [value("x", ["N", 1, 1])], [value("y", ["N", 1])], constants)


def acting(horizon: int = 50, rounds: int = 0, width: int = 256) -> onnx.ModelProto:
    """A policy: actions[N,horizon,1] = x[N,1,1] + 0, 1, 2, … and value = -x, after products that change nothing."""
    nodes = [
        helper.make_node("Expand", ["x", "wide"], ["a0"]),
        *(helper.make_node("MatMul", [f"a{i}", "weights"], [f"a{i + 1}"]) for i in range(rounds)),
        helper.make_node("ReduceMax", [f"a{rounds}"], ["most"], axes=[1, 2], keepdims=1),
        helper.make_node("Add", ["most", "steps"], ["actions"]),
        helper.make_node("Neg", ["most"], ["value"]),
    ]
    constants = {
        "wide": np.int64([1, width, width]),
        "weights": np.eye(width, dtype=np.float32),
        "steps": np.arange(horizon, dtype=np.float32).reshape(1, horizon, 1),
    }
    outputs = [value("actions", ["N", horizon, 1]), value("value", ["N", 1, 1])]
    return model(nodes, [value("x", ["N", 1, 1])], outputs, constants)


def external(
    name: str, array: np.ndarray, location: str, *, offset: int | None = None, length: bool = True
) -> onnx.TensorProto:
    """A tensor whose numbers lie in the file `location` beside the graph, which the caller writes."""
    tensor = numpy_helper.from_array(array, name)
    entries = {"location": location, "offset": offset, "length": len(tensor.raw_data) if length else None}
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in entries.items():
        if entry is not None:
            tensor.external_data.add(key=key, value=str(entry))
    return tensor


def with_tensor(kind: str, tensor: onnx.TensorProto, dims: Dims = ("N", 4)) -> onnx.ModelProto:
    """y = x + w, where `tensor` is w: an initializer of the graph ("main"), of both branches of an If ("branch"), of
    the body of a Loop within a branch ("body"), the value of a Constant ("attribute"), the same within a function
    ("function"), or all values of a sparse initializer ("sparse").
    """
    x, y = value("x", dims), value("y", dims)
    add = helper.make_node("Add", ["x", "w"], ["y"])
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    made = model([add], [x], [y])
    graph = made.graph
    match kind:
        case "main":
            graph.initializer.append(tensor)
        case "attribute":
            graph.node.insert(0, constant)
        case "sparse":
            indices = numpy_helper.from_array(np.arange(tensor.dims[0], dtype=np.int64), "indices")
            graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [1, tensor.dims[0]]))
        case "function":
            inside = helper.make_function("own", "AddW", ["x"], ["y"], [constant, add], [helper.make_opsetid("", 17)])
            made.functions.append(inside)
            made.opset_import.append(helper.make_opsetid("own", 1))
            del graph.node[:]
            graph.node.append(helper.make_node("AddW", ["x"], ["y"], domain="own"))
        case "branch" | "body":
            del graph.node[:]
            graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
            branches = {name: _branch(name, kind, tensor) for name in ("then_branch", "else_branch")}
            graph.node.extend(
                [
                    helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
                    helper.make_node("Greater", ["sum", "zero"], ["positive"]),
                    helper.make_node("If", ["positive"], ["y"], **branches),
                ]
            )
    return made


def _branch(name: str, kind: str, tensor: onnx.TensorProto) -> onnx.GraphProto:
    w = onnx.TensorProto()
    w.CopyFrom(tensor)
    w.name = f"{name}_w"
    y = value(f"{name}_y", None)  # type: ignore[arg-type]
    if kind == "branch":
        return helper.make_graph([helper.make_node("Add", ["x", w.name], [y.name])], name, [], [y], [w])
    inputs = [value(f"{name}_i", [], INT64), value(f"{name}_c", [], BOOL), value(f"{name}_in", None)]  # type: ignore[arg-type]
    nodes = [
        helper.make_node("Identity", [f"{name}_c"], [f"{name}_go"]),
        helper.make_node("Add", [f"{name}_in", w.name], [f"{name}_out"]),
    ]
    outputs = [value(f"{name}_go", [], BOOL), value(f"{name}_out", None)]  # type: ignore[arg-type]
    body = helper.make_graph(nodes, f"{name}_body", inputs, outputs, [w])
    once = numpy_helper.from_array(np.int64(1), f"{name}_once")
    loop = helper.make_node("Loop", [once.name, "", "x"], [y.name], body=body)
    return helper.make_graph([loop], name, [], [y], [once])


def joining_texts(dims: Dims = ("N",)) -> onnx.ModelProto:
    """y = x followed by x: text as long as the client says."""
    node = helper.make_node("StringConcat", ["x", "x"], ["y"])
    return model([node], [value("x", dims, TEXT)], [value("y", dims, TEXT)], opset=20)


def splitting_texts() -> onnx.ModelProto:
    """y[N,most words] = the words of x[N]: filled up to the longest of the batch."""
    node = helper.make_node("StringSplit", ["x"], ["y", "words"])
    return model([node], [value("x", ["N"], TEXT)], [value("y", ["N", None], TEXT)], opset=20)


def naming() -> onnx.ModelProto:
    """y[N] = the names of x[N] among (left, right), else other: text out of numbers."""
    node = helper.make_node(
        "LabelEncoder",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        keys_int64s=[0, 1],
        values_strings=["left", "right"],
        default_string="other",
    )
    named = model([node], [value("x", ["N"], INT64)], [value("y", ["N"], TEXT)])
    named.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    return named


def doubling_halves(dims: Dims = ("N", 4)) -> onnx.ModelProto:
    """y = x + x in BF16, which is computed in FP32."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=FP32),
        helper.make_node("Add", ["wide", "wide"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=BF16),
    ]
    return model(nodes, [value("x", dims, BF16)], [value("y", dims, BF16)])


def sum_in_halves() -> onnx.ModelProto:
    """y = the sum of all x [N, 2] so far, which the state s_next -> s keeps as BF16."""
    nodes = [
        helper.make_node("Cast", ["s"], ["wide"], to=FP32),
        helper.make_node("Add", ["x", "wide"], ["y"]),
        helper.make_node("Cast", ["y"], ["s_next"], to=BF16),
    ]
    inputs = [value("x", ["N", 2]), value("s", ["N", 2], BF16)]
    return model(nodes, inputs, [value("y", ["N", 2]), value("s_next", ["N", 2], BF16)])


def sorting_reviews() -> onnx.ModelProto:
    """label[N] and scores[N,2] of text[N]: lower case, words, their counts, and a linear classifier of them.

    "good" and "great" make a text "positive", "bad" and "dull" "negative", and one with as many of both is "negative".
    """
    words = ["good", "great", "bad", "dull"]
    nodes = [
        helper.make_node("StringNormalizer", ["text"], ["lower"], case_change_action="LOWER", locale="C.UTF-8"),
        helper.make_node("StringSplit", ["lower"], ["words", "counts"], delimiter=" "),
        helper.make_node(
            "TfIdfVectorizer",
            ["words"],
            ["found"],
            mode="TF",
            min_gram_length=1,
            max_gram_length=1,
            max_skip_count=0,
            ngram_counts=[0],
            ngram_indexes=[0, 1, 2, 3],
            pool_strings=words,
        ),
        helper.make_node(
            "LinearClassifier",
            ["found"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            classlabels_strings=["negative", "positive"],
            coefficients=[-1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0],
            intercepts=[0.0, 0.0],
        ),
    ]
    sorting = model(
        nodes,
        [value("text", ["N"], TEXT)],
        [value("label", ["N"], TEXT), value("scores", ["N", 2])],
        opset=20,
    )
    sorting.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    return sorting


def turning(width: int, depth: int) -> onnx.ModelProto:
    """y[N,width] = x turned by `depth` matrix products, each of which moves every element by one place: as much work as
    is wanted, with a result that is known.
    """
    turned = np.roll(np.eye(width, dtype=np.float32), 1, axis=1)
    names = ["x", *(f"t{nth}" for nth in range(1, depth)), "y"]
    nodes = [helper.make_node("MatMul", [before, "turn"], [after]) for before, after in pairwise(names)]
    return model(nodes, [value("x", ["N", width])], [value("y", ["N", width])], {"turn": turned})


def seeing(classes: int = 4, channels: int = 8, seed: int = 0) -> onnx.ModelProto:
    """y[N,classes] = a small convolutional network with fixed random weights over x[N,3,16,16]."""
    rng = np.random.default_rng(seed)
    constants = {
        "w0": rng.normal(0, 0.3, (channels, 3, 3, 3)).astype(np.float32),
        "b0": rng.normal(0, 0.1, channels).astype(np.float32),
        "w1": rng.normal(0, 0.2, (channels, channels, 3, 3)).astype(np.float32),
        "w2": rng.normal(0, 1, (channels, classes)).astype(np.float32),
        "b2": rng.normal(0, 0.1, classes).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["y"]),
    ]
    return model(nodes, [value("x", ["N", 3, 16, 16])], [value("y", ["N", classes])], constants)
