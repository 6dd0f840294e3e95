"""Trees as a graph: the same answers as scikit-learn's, in the shape of the graph that they replace, the same bytes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from duly_learn.errors import LearnError
from duly_learn.learner.trees import as_graph, fit


def like(outputs: list[onnx.ValueInfoProto], inputs: list[onnx.ValueInfoProto] | None = None) -> onnx.ModelProto:
    """What trees take the place of: only its inputs and outputs count."""
    inputs = inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])]
    return helper.make_model(helper.make_graph([], "old", inputs, outputs))


def data(classes: int, rows: int = 600) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    numbers = rng.normal(size=(rows, 6)).astype(np.float32)
    labels = np.digitize(
        numbers[:, 0] + numbers[:, 1] * numbers[:, 2], np.linspace(-1, 1, classes - 1) if classes > 2 else [0]
    )
    return numbers, labels.astype(np.int64)


def run(graph: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_graph_answers_as_the_trees(classes: int) -> None:
    numbers, labels = data(classes)
    trees = fit(numbers, labels, np.ones(len(labels)), 1)
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N", 1]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", classes]),
    ]
    graph = as_graph(trees, like(outputs), classes, False, "scores")
    label, scores = run(graph, x=numbers)
    np.testing.assert_allclose(scores, trees.predict_proba(numbers), atol=1e-5)
    assert (label.ravel() == trees.predict(numbers)).mean() == 1.0
    alone = run(graph, x=numbers[:1])[1]
    np.testing.assert_allclose(alone, scores[:1], atol=1e-6)


def test_one_score_is_that_of_class_1() -> None:
    numbers, labels = data(2)
    trees = fit(numbers, labels, np.ones(len(labels)), 1)
    wanted = trees.predict_proba(numbers)[:, 1]
    for logits, of in ((False, lambda p: p), (True, lambda p: np.log(p / (1 - p)))):
        one = like([helper.make_tensor_value_info("fraud", TensorProto.FLOAT, ["N", 1])])
        graph = as_graph(trees, one, 2, logits, "fraud")
        np.testing.assert_allclose(run(graph, x=numbers)[0].ravel(), of(wanted), atol=1e-3)


def test_several_inputs_are_one_row_and_whole_numbers_are_taken() -> None:
    numbers, labels = data(2)
    amount = np.round(numbers[:, :1] * 100)
    inputs = [
        helper.make_tensor_value_info("amount", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("rest", TensorProto.FLOAT, ["N", 5]),
    ]
    rows = np.concatenate([amount, numbers[:, 1:]], axis=1).astype(np.float32)
    trees = fit(rows, labels, np.ones(len(labels)), 1)
    two = like([helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])], inputs)
    graph = as_graph(trees, two, 2, False, "y")
    (scores,) = run(graph, amount=amount.ravel().astype(np.int64), rest=numbers[:, 1:])
    np.testing.assert_allclose(scores, trees.predict_proba(rows), atol=1e-5)


def test_a_class_without_labels_has_a_score_that_never_wins() -> None:
    numbers, labels = data(2)
    trees = fit(numbers, np.where(labels == 1, 3, 1), np.ones(len(labels)), 1)
    four = like([helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])])
    graph = as_graph(trees, four, 4, False, "y")
    (scores,) = run(graph, x=numbers)
    assert set(np.unique(scores.argmax(axis=1))) == {1, 3}
    np.testing.assert_allclose(scores[:, [1, 3]], trees.predict_proba(numbers), atol=1e-5)


def test_the_same_labels_and_seed_make_the_same_bytes() -> None:
    numbers, labels = data(3)
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])]
    first, second = (
        as_graph(fit(numbers, labels, np.ones(len(labels)), 7), like(outputs), 3, False, "y").SerializeToString()
        for _ in range(2)
    )
    assert first == second


def test_what_trees_cannot_do_is_named() -> None:
    numbers, labels = data(2)
    with pytest.raises(LearnError, match="all 600 labels are of one class, 1"):
        fit(numbers, np.ones_like(labels), np.ones(len(labels)), 1)
    trees = fit(numbers, labels, np.ones(len(labels)), 1)
    odd = like([helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 7])])
    with pytest.raises(LearnError, match=r"the output 'mask' has 7 elements a frame; trees give .* 2 scores"):
        as_graph(trees, odd, 2, False, "mask")
    text = [helper.make_tensor_value_info("line", TensorProto.STRING, ["N", 1])]
    with pytest.raises(LearnError, match="the input 'line' is text"):
        as_graph(trees, like([helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])], text), 2, False, "y")


@pytest.mark.parametrize("size", [1, 2])
def test_a_second_output_of_numbers_is_not_made_into_a_probability(size: int) -> None:
    numbers, labels = data(2)
    trees = fit(numbers, labels, np.ones(len(labels)), 1)
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2]),
        helper.make_tensor_value_info("age", TensorProto.FLOAT, ["N", size]),
    ]
    with pytest.raises(LearnError, match="the output 'age' is neither 'scores'"):
        as_graph(trees, like(outputs), 2, False, "scores")
