"""Small graphs for tests, written as a user's model repository."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save(
    root: Path, name: str, graph: onnx.GraphProto, *, version: int = 1, toml: str = "", file: str = "model.onnx"
) -> None:
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / file)
    if toml:
        (root / name / "model.toml").write_text(toml)


def _value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def scale(width: int = 4, factor: float = 2.0) -> onnx.GraphProto:
    """y[N,width] = factor * x[N,width]."""
    constant = numpy_helper.from_array(np.float32(factor), "factor")
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    return helper.make_graph([node], "scale", [_value("x", ["N", width])], [_value("y", ["N", width])], [constant])


def scale_one(factor: float = 2.0) -> onnx.GraphProto:
    """y[N,1] = factor * x[N,1,1]: takes and gives what `slow` does."""
    constants = [
        numpy_helper.from_array(np.float32(factor), "factor"),
        numpy_helper.from_array(np.array([-1, 1], dtype=np.int64), "column"),
    ]
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "column"], ["y"]),
    ]
    return helper.make_graph(nodes, "scale_one", [_value("x", ["N", 1, 1])], [_value("y", ["N", 1])], constants)


def two_outputs(width: int = 4) -> onnx.GraphProto:
    """z = -x, y = x."""
    nodes = [helper.make_node("Neg", ["x"], ["z"]), helper.make_node("Identity", ["x"], ["y"])]
    outputs = [_value("z", ["N", width]), _value("y", ["N", width])]
    return helper.make_graph(nodes, "two_outputs", [_value("x", ["N", width])], outputs)


def running_sum(width: int = 2) -> onnx.GraphProto:
    """Stateful: total' = total + x, y = total'."""
    node = helper.make_node("Add", ["x", "total"], ["total_next"])
    copy = helper.make_node("Identity", ["total_next"], ["y"])
    return helper.make_graph(
        [node, copy],
        "running_sum",
        [_value("x", ["N", width]), _value("total", ["N", width])],
        [_value("y", ["N", width]), _value("total_next", ["N", width])],
    )


RUNNING_SUM_TOML = """
default_backlog = "ALL"

[[input]]
name = "x"

[[output]]
name = "y"

[[state]]
input = "total"
output = "total_next"
"""


def slow(rounds: int = 60, width: int = 256) -> onnx.GraphProto:
    """y[N,1] after `rounds` matrix products: milliseconds of honest work a frame, none saved by batching."""
    weights = numpy_helper.from_array(np.eye(width, dtype=np.float32), "weights")
    nodes = [helper.make_node("Expand", ["x", "wide"], ["a0"])]
    wide = numpy_helper.from_array(np.array([1, width, width], dtype=np.int64), "wide")
    nodes += [helper.make_node("MatMul", [f"a{i}", "weights"], [f"a{i + 1}"]) for i in range(rounds)]
    nodes.append(helper.make_node("ReduceMax", [f"a{rounds}"], ["m"], axes=[1, 2], keepdims=0))
    nodes.append(helper.make_node("Reshape", ["m", "column"], ["y"]))
    column = numpy_helper.from_array(np.array([-1, 1], dtype=np.int64), "column")
    return helper.make_graph(
        nodes, "slow", [_value("x", ["N", 1, 1])], [_value("y", ["N", 1])], [weights, wide, column]
    )
