"""The head of a graph with preprocessing is trained further by the whole learner, behind real workers."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from duly.models.repository import Repository
from duly_learn.learner.judging import worse_than_allowed
from tests.graphs import model, value
from tests.learn.concepts import INTRUSION
from tests.learn.learner.made import TOML, Driven, Stream, versions_of


def put_head_model(root: Path, variants: str = "") -> Path:
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
    if variants:
        onnx.save(of_eight_bits(graph), str(folder / "eight.onnx"))
        onnx.save(without_ranks_of_ports(graph), str(folder / "narrow.onnx"))
    toml = TOML.replace("[learning]", '[learning]\nkind = "head"', 1) + variants
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


VARIANTS = """
[task]
tolerance = 0.5
[[variant]]
name = "full"
accuracy = 0.99
[[variant]]
name = "narrow"
file = "narrow.onnx"
accuracy = 0.98
[[variant]]
name = "eight"
file = "eight.onnx"
accuracy = 0.97
"""


def of_eight_bits(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The head's weights as they are after quantisation: numbers of 8 bits that become floats as the graph runs."""
    quantised = onnx.ModelProto()
    quantised.CopyFrom(graph)
    weight = next(each for each in quantised.graph.initializer if each.name == "w")
    numbers = numpy_helper.to_array(weight)
    scale = np.float32(np.abs(numbers).max() / 127)
    quantised.graph.initializer.remove(weight)
    quantised.graph.initializer.extend(
        [
            numpy_helper.from_array(np.round(numbers / scale).astype(np.int8), "w8"),
            numpy_helper.from_array(np.array(scale), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
        ]
    )
    quantised.graph.node.insert(0, helper.make_node("DequantizeLinear", ["w8", "scale", "zero"], ["w"]))
    return quantised


def without_ranks_of_ports(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A graph that has no use for one of the inputs, as after pruning."""
    narrow = onnx.ModelProto()
    narrow.CopyFrom(graph)
    for tensor in narrow.graph.initializer:
        if tensor.name == "bounds":
            bounds = numpy_helper.to_array(tensor).copy()
            bounds[:, -1] = np.inf
            tensor.CopyFrom(numpy_helper.from_array(bounds, "bounds"))
    return narrow


def test_each_variant_is_trained_and_judged_and_one_that_cannot_be_is_left_out_by_name(tmp_path: Path) -> None:
    models, store = tmp_path / "models", tmp_path / "store"
    store.mkdir()
    folder = put_head_model(models, VARIANTS)
    (folder / "1" / "optimize.json").write_text("{}")
    stream = Stream(store, folder, INTRUSION)
    driven = Driven(models, store)
    stream.send(500, 1)
    driven.go_on()
    assert versions_of(folder) == [1, 2], driven.told.of("attempt")
    (ended,) = driven.told.of("attempt")
    assert "left out: variant eight: the Gemm before 'scores' has weights that are computed" in str(ended["text"])
    assert "duly models optimize makes it anew" in str(ended["text"])
    learned = json.loads((folder / "2" / "learned.json").read_text())
    assert learned["left_out"].keys() == {"eight"}
    assert sorted(path.name for path in (folder / "2").iterdir()) == [
        "learned.json", "model.onnx", "model.toml", "narrow.onnx",
    ]  # fmt: skip
    (second,) = [each for each in Repository(models).scan()[0] if each.version == "2"]
    full, narrow = second.config.variants
    assert (full.name, narrow.name) == ("full", "narrow")
    assert full.accuracy == pytest.approx(learned["figures"]["after"], abs=1e-3)
    assert full.accuracy >= narrow.accuracy == pytest.approx(learned["variants"]["narrow"], abs=1e-3)
    assert (full.accuracy, narrow.accuracy) != (0.99, 0.98)
    (first,) = [each for each in Repository(models).scan()[0] if each.version == "1"]
    assert [each.accuracy for each in first.config.variants] == [0.99, 0.98, 0.97]
    assert second.config.model_copy(update={"variants": ()}) == first.config.model_copy(update={"variants": ()})


@pytest.mark.parametrize(("accuracies", "kept"), [((0.9, 0.885), True), ((0.9, 0.7), False)])
def test_a_variant_that_is_worse_by_more_than_before_is_left_out(accuracies: tuple[float, float], kept: bool) -> None:
    assert bool(worse_than_allowed("full", accuracies[0], accuracies[1], 0.02)) is not kept
