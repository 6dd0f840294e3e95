"""The head of a graph: found or refused by name, trained from its old weights, and put back."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from duly_learn.errors import LearnError
from duly_learn.learner.head import FEATURES, find_head, train, with_head, without_head
from tests.graphs import model, value


def classifier(kind: str, classes: int = 3, after: str = "Softmax") -> onnx.ModelProto:
    """x [N, 4] -> Relu(x W1) [N, 8] -> the head -> `after`."""
    rng = np.random.default_rng(5)
    weight, bias = rng.normal(size=(8, classes)).astype(np.float32), rng.normal(size=classes).astype(np.float32)
    constants = {"w1": rng.normal(size=(4, 8)).astype(np.float32), "b": bias}
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("Relu", ["h"], ["f"])]
    if kind == "matmul":
        constants["w"] = weight
        nodes += [helper.make_node("MatMul", ["f", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["s"])]
    else:
        constants["w"] = weight.T.copy() if kind == "gemm_transposed" else weight
        nodes.append(helper.make_node("Gemm", ["f", "w", "b"], ["s"], transB=int(kind == "gemm_transposed")))
    nodes.append(helper.make_node(after, ["s"], ["y"]))
    return model(nodes, [value("x", ["N", 4])], [value("y", ["N", classes])], constants)


def run(graph: onnx.ModelProto, numbers: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": numbers})[0])


@pytest.mark.parametrize("kind", ["gemm", "gemm_transposed", "matmul"])
def test_the_head_alone_changes_and_learns(kind: str) -> None:
    graph = classifier(kind)
    head = find_head(graph, "y")
    numbers = np.random.default_rng(1).normal(size=(400, 4)).astype(np.float32)
    labels = np.digitize(numbers[:, 0], [-0.5, 0.5]).astype(np.int64)
    features = run(without_head(graph, head), numbers)
    weight, bias = train(head, features.astype(np.float64), labels, np.ones(400))
    learnt = with_head(graph, head, weight, bias)
    before, after = ((run(each, numbers).argmax(axis=1) == labels).mean() for each in (graph, learnt))
    assert after > 0.8 > 0.6 > before
    other = [[tensor for tensor in each.graph.initializer if tensor.name == "w1"] for each in (graph, learnt)]
    assert other[0] == other[1]
    assert graph.graph.node == learnt.graph.node
    again = with_head(graph, head, *train(head, features.astype(np.float64), labels, np.ones(400)))
    assert again.SerializeToString() == learnt.SerializeToString()


def test_with_the_labels_that_it_gives_itself_a_head_hardly_changes() -> None:
    graph = classifier("gemm")
    head = find_head(graph, "y")
    numbers = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    labels = run(graph, numbers).argmax(axis=1)
    features = run(without_head(graph, head), numbers).astype(np.float64)
    learnt = with_head(graph, head, *train(head, features, labels, np.ones(50)))
    fresh = np.random.default_rng(2).normal(size=(500, 4)).astype(np.float32)
    assert (run(graph, fresh).argmax(axis=1) == run(learnt, fresh).argmax(axis=1)).mean() > 0.85


def test_one_score_after_a_sigmoid_is_trained_too() -> None:
    graph = classifier("gemm", 1, "Sigmoid")
    head = find_head(graph, "y")
    assert head.sigmoid
    numbers = np.random.default_rng(1).normal(size=(400, 4)).astype(np.float32)
    labels = (numbers[:, 1] > 0).astype(np.int64)
    features = run(without_head(graph, head), numbers)
    assert features.shape == (400, 8)
    assert without_head(graph, head).graph.output[0].name == FEATURES
    learnt = with_head(graph, head, *train(head, features.astype(np.float64), labels, np.ones(400)))
    assert ((run(learnt, numbers).ravel() > 0.5) == labels).mean() > 0.8


def test_what_is_no_head_is_named() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(LearnError, match="'Relu' stands between the output 'y' and the last Gemm or MatMul"):
        find_head(model(nodes, [value("x", ["N", 4])], [value("y", ["N", 4])]), "y")
    with pytest.raises(LearnError, match="labels are from 0 to 2, one is 7"):
        train(find_head(classifier("gemm"), "y"), np.zeros((1, 8)), np.array([7]), np.ones(1))


@pytest.mark.parametrize("kind", ["gemm", "matmul"])
def test_weights_that_others_read_too_stay_as_they_are_for_those(kind: str) -> None:
    graph = classifier(kind)
    graph.graph.node.append(helper.make_node("MatMul", ["f", "w"], ["tied"]))
    graph.graph.node.append(helper.make_node("Add", ["tied", "b"], ["again"]))
    graph.graph.output.append(value("again", ["N", 3]))
    head = find_head(graph, "y")
    weight, bias = np.full((8, 3), 0.5), np.array([1.0, 2.0, 3.0])
    learnt = with_head(graph, head, weight, bias)
    again = with_head(learnt, find_head(learnt, "y"), weight, bias)
    assert again.SerializeToString() == learnt.SerializeToString()
    numbers = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)

    def run_all(each: onnx.ModelProto) -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        return [np.asarray(array) for array in session.run(["y", "again"], {"x": numbers})]

    (old, tied), (new, still) = run_all(graph), run_all(learnt)
    assert (tied == still).all()
    assert not np.allclose(old, new)
