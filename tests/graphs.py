"""Small graphs with arithmetic that a test can check by hand, saved as a user's model repository."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int | str | None]

FP32, FP16, INT64, UINT8, BOOL = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.BOOL,
)


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


SUMMING = '[[state]]\noutput = "total_next"\ninput = "total"\n'
"""The settings that make it so."""


def scaling(width: int = 4, factor: float = 2.0) -> onnx.ModelProto:
    """y[N,width] = factor * x[N,width]."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    dims: Dims = ["N", width]
    return model([node], [value("x", dims)], [value("y", dims)], {"factor": np.float32(factor)})


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
