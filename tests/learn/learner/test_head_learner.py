"""The head of a graph with preprocessing is trained further by the whole learner, behind real workers."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from tests.graphs import model, value
from tests.learn.concepts import INTRUSION
from tests.learn.learner.made import TOML, Driven, Stream, versions_of


def put_head_model(root: Path) -> Path:
    """Ranks of the numbers against fixed bounds, then the head: a body that no shift spoils, trained for concept 0."""
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(1)
    numbers, labels = INTRUSION.draw(random, 1500, 0)
    bounds = np.quantile(
        np.concatenate([INTRUSION.draw(random, 600, at)[0] for at in range(3)]), np.arange(1, 16) / 16, axis=0
    )

    def features(rows: np.ndarray) -> np.ndarray:
        return (rows[:, :, None] > bounds.T[None]).astype(np.float32).reshape(len(rows), -1)

    fitted = LogisticRegression(max_iter=500).fit(features(numbers), labels)
    constants = {
        "axes": np.array([2], np.int64),
        "bounds": bounds.T[None].astype(np.float32),
        "shape": np.array([-1, features(numbers).shape[1]], np.int64),
        "w": fitted.coef_.astype(np.float32),
        "b": fitted.intercept_.astype(np.float32),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["wide"]),
        helper.make_node("Greater", ["wide", "bounds"], ["above"]),
        helper.make_node("Cast", ["above"], ["number"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Reshape", ["number", "shape"], ["features"]),
        helper.make_node("Gemm", ["features", "w", "b"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    graph = model(nodes, [value("x", ["N", 7])], [value("scores", ["N", 3])], constants)
    folder = root / "intrusion" / "1"
    folder.mkdir(parents=True)
    onnx.save(graph, str(folder / "model.onnx"))
    toml = TOML.replace("[learning]", '[learning]\nkind = "head"', 1)
    (folder.parent / "model.toml").write_text(toml)
    return folder.parent


def test_a_head_learns_a_shift_and_all_else_of_the_graph_stays(tmp_path: Path) -> None:
    models, store = tmp_path / "models", tmp_path / "store"
    store.mkdir()
    folder = put_head_model(models)
    stream = Stream(store, folder, INTRUSION)
    driven = Driven(models, store)
    before = stream.send(100, 0)
    shifted = stream.send(400, 1)
    driven.go_on()
    after = stream.send(200, 1)
    assert versions_of(folder) == [1, 2], driven.told.of("attempt")
    assert before > 0.9
    assert (after - shifted) / (before - shifted) >= 0.9, (before, shifted, after)
    first, second = (onnx.load(str(folder / number / "model.onnx")) for number in ("1", "2"))
    assert first.graph.node == second.graph.node
    changed = [a.name for a, b in zip(first.graph.initializer, second.graph.initializer, strict=True) if a != b]
    assert changed == ["w", "b"]
