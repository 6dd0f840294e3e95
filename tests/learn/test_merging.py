"""Preprocessing in the graph gives what the worker's own gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from duly.agreement.measures import Closeness
from duly.models.repository import ModelVersion
from duly.models.version_settings import with_settings
from duly_learn.frames.frame import LearnFrame
from duly_learn.optimize.merging import Merging
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused
from duly_learn.running.model import running
from duly_learn.running.seen import GraphView
from tests import graphs
from tests.worker.client import version_of

HEIGHT, WIDTH = 6, 8


def _graph(planar: bool, channels: int = 3, conv: bool = False, elem: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Adds 1, or convolves, so that what the graph is given can be seen."""
    shape = ["N", channels, HEIGHT, WIDTH] if planar else ["N", HEIGHT, WIDTH, channels]
    if conv:
        weight = np.random.default_rng(0).standard_normal((4, channels, 3, 3)).astype(np.float32)
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
        constants = [numpy_helper.from_array(weight, "w")]
    else:
        one = np.ones(1, np.float16 if elem == TensorProto.FLOAT16 else np.float32)
        nodes, constants = [helper.make_node("Add", ["x", "w"], ["y"])], [numpy_helper.from_array(one, "w")]
    outputs = ["N", 4, HEIGHT, WIDTH] if conv else shape
    graph = helper.make_graph(
        nodes,
        "seen",
        [helper.make_tensor_value_info("x", elem, shape)],
        [helper.make_tensor_value_info("y", elem, outputs)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _source(version: ModelVersion, frames: list[LearnFrame]) -> OptimizeSource:
    view = GraphView(version)
    graph, measure = version.folder / "model.onnx", Closeness("y")
    return OptimizeSource(version, graph, view.signature, frames, _answers(version, frames), measure, 0.01, 0, 1)


def _answers(version: ModelVersion, frames: list[LearnFrame]) -> list[dict[str, np.ndarray]]:
    """What the worker's own code gives, here in this process."""
    return [dict(sight.outputs) for sight in GraphView(version).of(frames)]


def _picture(random: np.random.Generator, *shape: int) -> LearnFrame:
    return LearnFrame({"x": random.integers(0, 256, shape).astype(np.uint8)}, "s", 0)


def _merged(source: OptimizeSource, folder: Path) -> tuple[ModelVersion, Candidate]:
    folder.mkdir()
    candidate = Merging().make(source, folder)
    return replace(
        source.version, folder=folder, config=with_settings(source.version.config, candidate.settings)
    ), candidate


CASES = {
    "scale-planar": (_graph(True), '{ op = "normalise", scale = 0.0039 }, { op = "layout", axes = "CHW" }', 3),
    "scale-conv": (_graph(True, conv=True), '{ op = "normalise", scale = 0.0039 }, { op = "layout" }', 3),
    "mean-conv-bgr": (
        _graph(True, conv=True),
        '{ op = "normalise", scale = 0.01, mean = [0.4, 0.5, 0.6], std = [0.2, 0.3, 0.4] }, '
        '{ op = "layout", colours = "BGR" }',
        3,
    ),
    "std-conv-bgr": (
        _graph(True, conv=True),
        '{ op = "normalise", std = [0.2, 0.3, 0.4] }, { op = "layout", colours = "BGR" }',
        3,
    ),
    "layout-alone": (_graph(True), '{ op = "layout" }', 3),
    "not-turned": (_graph(False), '{ op = "normalise", mean = [1, 2, 3] }', 3),
    "half": (_graph(True, elem=TensorProto.FLOAT16), '{ op = "normalise", scale = 0.0039 }, { op = "layout" }', 3),
    "gray": (_graph(True, 1), '{ op = "gray" }, { op = "normalise", scale = 0.0039 }, { op = "layout" }', 3),
}


@pytest.mark.parametrize("case", CASES)
def test_random_pictures_get_the_workers_own_answers(case: str, tmp_path: Path) -> None:
    graph, steps, channels = CASES[case]
    toml = f'[[input]]\nname = "x"\ndatatype = "UINT8"\npreprocess = [{steps}]'
    graphs.save(tmp_path, "seen", graph, toml)
    random = np.random.default_rng(0)
    frames = [_picture(random, HEIGHT, WIDTH, channels) for _ in range(20)]
    source = _source(version_of(tmp_path, "seen"), frames)
    version, candidate = _merged(source, tmp_path / "merged")
    assert version.config.inputs[0].preprocess == ()
    assert "merged" in candidate.said
    after = GraphView(version).signature.inputs[0]
    assert (after.datatype, after.shape) == ("UINT8", source.signature.inputs[0].shape)
    tolerance = 1e-2 if case == "half" else 1e-4
    for got, wanted in zip(_answers(version, frames), source.answers, strict=True):
        np.testing.assert_allclose(got["y"], wanted["y"], rtol=tolerance, atol=tolerance)


def test_a_worker_runs_what_was_merged_in_batches(tmp_path: Path) -> None:
    graph, steps, channels = CASES["mean-conv-bgr"]
    toml = f'batch_sizes = [1, 3]\n[[input]]\nname = "x"\ndatatype = "UINT8"\npreprocess = [{steps}]'
    graphs.save(tmp_path, "seen", graph, toml)
    random = np.random.default_rng(1)
    source = _source(version_of(tmp_path, "seen"), [_picture(random, HEIGHT, WIDTH, channels) for _ in range(3)])
    version, _ = _merged(source, tmp_path / "merged")
    with running(version) as model:
        answers = model.answers(source.calibration, batch=3)
    for got, wanted in zip(answers, source.answers, strict=True):
        np.testing.assert_allclose(got["y"], wanted["y"][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
def test_a_fixed_size_is_resized_in_the_graph_within_a_level(tmp_path: Path, mode: str) -> None:
    toml = f"""
[[input]]
name = "x"
shape = [15, 12, 3]
preprocess = [{{ op = "resize", height = {HEIGHT}, width = {WIDTH}, mode = "{mode}" }}, {{ op = "layout" }}]"""
    graphs.save(tmp_path, "seen", _graph(True), toml)
    random = np.random.default_rng(0)
    source = _source(version_of(tmp_path, "seen"), [_picture(random, 15, 12, 3) for _ in range(4)])
    version, _ = _merged(source, tmp_path / "merged")
    assert version.config.inputs[0].preprocess == ()
    answers = _answers(version, list(source.calibration))
    for got, wanted in zip(answers, source.answers, strict=True):
        assert np.abs(got["y"] - wanted["y"]).max() <= 1
        assert np.mean(got["y"] == wanted["y"]) > 0.8


def test_pictures_of_any_size_are_resized_by_the_worker_as_before(tmp_path: Path) -> None:
    toml = f"""
[[input]]
name = "x"
encodings = ["JPEG"]
preprocess = [
    {{ op = "resize", height = {HEIGHT}, width = {WIDTH} }}, {{ op = "normalise", scale = 0.5 }}, {{ op = "layout" }}
]"""
    graphs.save(tmp_path, "seen", _graph(True), toml)
    random = np.random.default_rng(0)
    source = _source(version_of(tmp_path, "seen"), [_picture(random, 9, 11, 3), _picture(random, 20, 7, 3)])
    version, candidate = _merged(source, tmp_path / "merged")
    assert [step.op for step in version.config.inputs[0].preprocess] == ["resize"]
    assert "resize of 'x' stays with the worker." in candidate.notes
    answers = _answers(version, list(source.calibration))
    for got, wanted in zip(answers, source.answers, strict=True):
        np.testing.assert_allclose(got["y"], wanted["y"], rtol=1e-5)


@pytest.mark.parametrize(
    ("toml", "frame", "why"),
    [
        ("", np.zeros((3, HEIGHT, WIDTH), np.float32), "model.toml states no preprocessing"),
        (
            '[[input]]\nname = "x"\npreprocess = [{ op = "normalise", scale = 2 }, { op = "layout" }]',
            np.zeros((HEIGHT, WIDTH, 3), np.float32),
            "input 'x': clients send it as FP32",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_with_its_reason(
    tmp_path: Path, toml: str, frame: np.ndarray, why: str
) -> None:
    graphs.save(tmp_path, "seen", _graph(True), toml)
    source = _source(version_of(tmp_path, "seen"), [LearnFrame({"x": frame}, "s", 0)])
    with pytest.raises(Refused, match=why):
        Merging().make(source, tmp_path)
