"""Graphs computed in jax give what ONNX Runtime gives."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from duly_learn.optimize.interpreter import CannotTrain, Interpreter
from tests.learn.random_graphs import random_network


def _both(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    interpreter = Interpreter(model)
    weights = {name: jnp.asarray(value) for name, value in interpreter.weights.items()}
    got = interpreter(weights, {name: jnp.asarray(value) for name, value in feeds.items()})
    return session.run(None, feeds)[0], np.asarray(got[model.graph.output[0].name])


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_random_networks_agree_with_onnx_runtime(seed: int, batch: int) -> None:
    x = np.random.default_rng(seed + 1).standard_normal((batch, 3, 8, 8)).astype(np.float32)
    expected, got = _both(random_network(seed, exact=False), {"x": x})
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def _single(node: onnx.NodeProto, shape: Sequence[int], *constants: np.ndarray, opset: int = 17) -> onnx.ModelProto:
    """A graph of one node that reads "x" and constants "c0", "c1", and gives "y"."""
    graph = helper.make_graph(
        [node],
        "single",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(value, f"c{place}") for place, value in enumerate(constants)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


_X = (2, 3, 9, 7)
_CASES = {
    "conv-same-upper": (("Conv", ["x", "c0"], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}), [_floats(4, 3, 2, 2)]),
    "conv-same-lower": (("Conv", ["x", "c0"], {"auto_pad": "SAME_LOWER", "strides": [2, 3]}), [_floats(4, 3, 4, 2)]),
    "conv-valid": (("Conv", ["x", "c0"], {"auto_pad": "VALID"}), [_floats(4, 3, 3, 3)]),
    "conv-dilated": (
        ("Conv", ["x", "c0", "c1"], {"dilations": [2, 1], "pads": [1, 0, 2, 1]}),
        [_floats(4, 3, 3, 3), _floats(4)],
    ),
    "conv-grouped": (("Conv", ["x", "c0"], {"group": 3}), [_floats(6, 1, 3, 3)]),
    "maxpool-padded": (("MaxPool", ["x"], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}), []),
    "maxpool-same": (("MaxPool", ["x"], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}), []),
    "maxpool-beside": (("MaxPool", ["x"], {"kernel_shape": [3, 7], "strides": [3, 7]}), []),
    "average-padded": (("AveragePool", ["x"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}), []),
    "average-counted": (
        ("AveragePool", ["x"], {"kernel_shape": [3, 2], "pads": [1, 1, 0, 0], "count_include_pad": 1}),
        [],
    ),
    "global-average": (("GlobalAveragePool", ["x"], {}), []),
    "reshape-zero": (("Reshape", ["x", "c0"], {}), [np.array([0, -1, 7])]),
    "transpose": (("Transpose", ["x"], {"perm": [0, 2, 3, 1]}), []),
    "transpose-reversed": (("Transpose", ["x"], {}), []),
    "flatten": (("Flatten", ["x"], {"axis": 2}), []),
    "unsqueeze": (("Unsqueeze", ["x", "c0"], {}), [np.array([0, 3])]),
    "reduce-mean": (("ReduceMean", ["x"], {"axes": [2, 3], "keepdims": 0}), []),
    "reduce-sum": (("ReduceSum", ["x", "c0"], {"keepdims": 1}), [np.array([1])]),
    "softmax": (("Softmax", ["x"], {"axis": 1}), []),
    "pad": (("Pad", ["x", "c0", "c1"], {}), [np.array([0, 0, 1, 2, 0, 0, 0, 1]), np.array(3, np.float32)]),
    "pad-reflect": (("Pad", ["x", "c0"], {"mode": "reflect"}), [np.array([0, 0, 1, 2, 0, 0, 0, 1])]),
    "clip": (("Clip", ["x", "", "c0"], {}), [np.array(0.5, np.float32)]),
    "matmul": (("MatMul", ["x", "c0"], {}), [_floats(7, 5)]),
    "erf": (("Erf", ["x"], {}), []),
    "sub": (("Sub", ["c0", "x"], {}), [_floats(9, 7)]),
    "div": (("Div", ["x", "c0"], {}), [np.abs(_floats(3, 1, 1)) + 1]),
    "batch-norm": (
        ("BatchNormalization", ["x", "c0", "c1", "c2", "c3"], {}),
        [_floats(3), _floats(3), _floats(3), np.abs(_floats(3))],
    ),
}


@pytest.mark.parametrize("case", _CASES)
def test_operators_agree_with_onnx_runtime(case: str) -> None:
    (op, inputs, attributes), constants = _CASES[case]
    model = _single(helper.make_node(op, inputs, ["y"], **attributes), _X, *constants)
    expected, got = _both(model, {"x": _floats(*_X)})
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (helper.make_node("LSTM", ["x"], ["y"], name="memory", hidden_size=2), "LSTM 'memory' is not among"),
        (helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"), r"com.microsoft.Gelu 'y' is not among"),
        (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], ceil_mode=1), "MaxPool 'y' has ceil_mode"),
        (helper.make_node("MaxPool", ["x"], ["y", "places"], kernel_shape=[2, 2]), "MaxPool 'y' gives a second output"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(node: onnx.NodeProto, named: str) -> None:
    with pytest.raises(CannotTrain, match=named):
        Interpreter(_single(node, _X))


def test_softmax_of_old_graphs_is_refused_as_it_means_something_else() -> None:
    with pytest.raises(CannotTrain, match="opset 11"):
        Interpreter(_single(helper.make_node("Softmax", ["x"], ["y"]), _X, opset=11))
