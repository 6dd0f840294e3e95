"""Students of versions: smaller networks, and other kinds for what takes a vector."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import skl2onnx
from onnx import helper
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from duly.agreement.measures import Closeness, Measure, TopOne
from duly.models.repository import ModelVersion
from duly_learn.frames.frame import LearnFrame
from duly_learn.graphs.channels import follow
from duly_learn.graphs.constants import with_initializers
from duly_learn.graphs.work import work_of
from duly_learn.optimize.distillation import Distillation
from duly_learn.optimize.pruning import Pruning
from duly_learn.optimize.step import OptimizeSource, Refused
from duly_learn.running.seen import GraphView
from tests import graphs
from tests.learn.test_training import network
from tests.worker.client import version_of


def _source(version: ModelVersion, rows: np.ndarray, measure: Measure) -> OptimizeSource:
    name = GraphView(version).signature.inputs[0].name
    frames = [LearnFrame({name: row}, "s", index) for index, row in enumerate(rows)]
    view = GraphView(version)
    answers = [{tensor: value[0] for tensor, value in sight.outputs.items()} for sight in GraphView(version).of(frames)]
    file = version.folder / version.config.variants[0].file
    return OptimizeSource(version, file, view.signature, frames, answers, measure, 0.01, seed=0, threads=1)


def _agreement(source: OptimizeSource, folder: Path, file: str) -> float:
    (variant,) = source.version.config.variants
    config = source.version.config.model_copy(update={"variants": (variant.model_copy(update={"file": file}),)})
    version = replace(source.version, folder=folder, config=config)
    sights = GraphView(version).of(source.calibration)
    return float(
        np.mean(
            [
                source.measure.of(wanted, {name: value[0] for name, value in sight.outputs.items()})
                for wanted, sight in zip(source.answers, sights, strict=True)
            ]
        )
    )


def _save(place: Path, model: onnx.ModelProto) -> ModelVersion:
    graphs.save(place, "m", model)
    return version_of(place, "m")


def test_a_forest_of_classes_gets_a_student_that_agrees(tmp_path: Path) -> None:
    x, y = load_iris(return_X_y=True)
    forest = RandomForestClassifier(30, random_state=0).fit(x, y + 3)
    model = skl2onnx.convert_sklearn(
        forest,
        initial_types=[("x", FloatTensorType([None, 4]))],
        options={id(forest): {"zipmap": False}},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    source = _source(_save(tmp_path, model), x.astype(np.float32), TopOne("label"))
    out = tmp_path / "student"
    out.mkdir()
    candidate = Distillation().make(source, out)
    assert "fitted to the original's answers on 150 frames" in candidate.said
    assert _agreement(source, out, candidate.file) > 0.97
    assert (out / candidate.file).stat().st_size < source.graph.stat().st_size
    student = onnx.load(out / candidate.file)
    assert [each.name for each in student.graph.output] == ["label", "probabilities"]


def test_a_forest_of_numbers_gets_a_student(tmp_path: Path) -> None:
    x, y = load_digits(return_X_y=True)
    x = x[:300].astype(np.float32)
    forest = RandomForestRegressor(20, random_state=0).fit(x, y[:300])
    model = skl2onnx.convert_sklearn(
        forest, initial_types=[("x", FloatTensorType([None, 64]))], target_opset={"": 17, "ai.onnx.ml": 3}
    )
    source = _source(_save(tmp_path, model), x, Closeness("variable", scale=9.0))
    out = tmp_path / "student"
    out.mkdir()
    candidate = Distillation().make(source, out)
    assert _agreement(source, out, candidate.file) > 0.9


def test_a_network_becomes_smaller_and_learns(tmp_path: Path) -> None:
    model = network(16, 1)
    random = np.random.default_rng(0)
    rows = random.standard_normal((40, 2, 6, 6)).astype(np.float32)
    source = _source(_save(tmp_path, model), rows, Closeness("y", scale=1.0))
    pruned, trained = tmp_path / "pruned", tmp_path / "trained"
    pruned.mkdir()
    trained.mkdir()
    first = Pruning(share=0.5).make(source, pruned)
    second = Distillation(share=0.5, steps=60, seconds=600).make(source, trained)
    assert "channels taken out (Conv 'a' 16 → " in first.said
    assert "trained to give the original's answers on 40 frames" in second.said
    whole = with_initializers(model)
    for folder, candidate in ((pruned, first), (trained, second)):
        smaller = with_initializers(onnx.load(folder / candidate.file))
        assert work_of(smaller, follow(smaller)) <= 0.5 * work_of(whole, follow(whole))
    assert _agreement(source, trained, second.file) > 0.8


def test_what_is_neither_is_refused_by_the_names_of_its_nodes(tmp_path: Path) -> None:
    model = network(4, 1)
    model.graph.node[0].attribute.append(helper.make_attribute("group", 1))
    for node in (model.graph.node[1], model.graph.node[3]):
        node.op_type, node.name = "Softmax", f"odd-{node.output[0]}"
        node.attribute.append(helper.make_attribute("axis", 1))
    source = _source(_save(tmp_path, model), np.zeros((4, 2, 6, 6), np.float32), Closeness("y"))
    with pytest.raises(Refused, match=r"they go into Softmax 'odd-ar', which is not followed"):
        Pruning().make(source, tmp_path)
    with pytest.raises(Refused, match=r"Softmax 'odd-ar'.*; and a student of another kind takes one vector"):
        Distillation().make(source, tmp_path)


def test_no_frames_are_refused(tmp_path: Path) -> None:
    version = _save(tmp_path, network(4, 1))
    source = replace(_source(version, np.zeros((1, 2, 6, 6), np.float32), Closeness("y")), calibration=[], answers=[])
    with pytest.raises(Refused, match="there is no frame over which layers"):
        Pruning().make(source, tmp_path)
