"""`duly models optimize --guards` where a version has several variants, several inputs, or its preprocessing moves into
the graph.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from duly.models.repository import ModelVersion
from duly_learn.frames.frame import LearnFrame
from duly_learn.guards.fitting import SCORE
from duly_learn.optimize.run import Asked, Found, optimize
from duly_learn.optimize.steps import STEPS
from duly_learn.optimize.timing import Compared
from duly_learn.running.model import running
from tests import graphs
from tests.learn.test_guards import SIDE, pictures, seeing
from tests.worker.client import version_of

PIXELS = """
[[input]]
name = "x"
datatype = "UINT8"
shape = [32, 32, 3]
preprocess = [{ op = "normalise", scale = 0.00392156862745098 }, { op = "layout" }]
"""


def guarded(
    version: ModelVersion, frames: Path, monkeypatch: pytest.MonkeyPatch, *steps: str
) -> tuple[Found, list[str]]:
    """Makes a version with guards, where candidates of these steps are kept however fast they are."""
    times = Compared([2e6] * 5, [1e6] * 5)
    monkeypatch.setattr("duly_learn.optimize.judge.compare", lambda *given: times)
    wanted = [step for step in STEPS if step.name in steps]
    told: list[str] = []
    found = optimize(Asked(version, [frames], wanted, 0.9, by_mean=True, guards=True), told.append)
    return found, told


def frames_of(**inputs: Sequence[np.ndarray]) -> list[LearnFrame]:
    rows = zip(*inputs.values(), strict=True)
    return [LearnFrame(dict(zip(inputs, row, strict=True)), "s", nth) for nth, row in enumerate(rows)]


def bytes_of(values: np.ndarray) -> np.ndarray:
    """Pictures [N, 3, SIDE, SIDE] as cameras send them."""
    return np.uint8(np.clip(values * 180, 0, 255)).transpose(0, 2, 3, 1)


def noise(count: int, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1.2, (count, 3, SIDE, SIDE))


def test_each_of_several_variants_has_its_own_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = '[[variant]]\nname = "full"\naccuracy = 1.0\n[[variant]]\nname = "other"\nfile = "other.onnx"\n'
    graphs.save(tmp_path, "eye", seeing(), "batch_sizes = [1, 2]\n" + toml)
    other = seeing()
    (last,) = (each for each in other.graph.initializer if each.name == "w4")
    last.CopyFrom(numpy_helper.from_array(np.float32(1.03) * numpy_helper.to_array(last), "w4"))
    graphs.save(tmp_path, "eye", other, file="other.onnx")
    np.save(tmp_path / "clean.npy", pictures(300))
    found, told = guarded(version_of(tmp_path, "eye"), tmp_path / "clean.npy", monkeypatch)
    made = version_of(tmp_path, "eye")
    assert made.version == str(found.number) == "2"
    assert list(made.config.variant_names) == ["full", "other"]
    assert [guard.kind for guard in made.config.guards] == ["BLANK", "FROZEN", "DISTRIBUTION"]
    for name in made.config.variant_names:
        assert any(line.startswith(f"{name}: a detector of frames unlike others") for line in told)
        with running(made, variant=name) as model:
            assert model.found(frames_of(x=np.float32(pictures(20, 11)))).count(()) >= 19
            assert all("distribution" in names for names in model.found(frames_of(x=np.float32(noise(20)))))


def test_each_of_several_inputs_has_guards_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    weights = {name: np.float32(random.normal(0, 1, (6, 3))) for name in ("wl", "wr")}
    nodes = [
        helper.make_node("MatMul", ["left", "wl"], ["of_left"]),
        helper.make_node("MatMul", ["right", "wr"], ["of_right"]),
        helper.make_node("Add", ["of_left", "of_right"], ["y"]),
    ]
    inputs = [graphs.value(name, ["N", 6]) for name in ("left", "right")]
    graphs.save(tmp_path, "pair", graphs.model(nodes, inputs, [graphs.value("y", ["N", 3])], weights))

    def rows(count: int) -> np.ndarray:
        return np.float32(random.normal([1, 20, 300, 4, 5, 6], [0.1, 1, 20, 0.5, 0.5, 0.5], (count, 6)))

    np.savez(tmp_path / "clean.npz", left=rows(300), right=rows(300) / 10)
    guarded(version_of(tmp_path, "pair"), tmp_path / "clean.npz", monkeypatch)
    made = version_of(tmp_path, "pair")
    names = ("blank-left", "frozen-left", "blank-right", "frozen-right", "distribution")
    with running(made) as model:
        assert model.signature.guards == names
        assert [spec.name for spec in model.signature.outputs] == ["y"]
        assert model.found(frames_of(left=rows(20), right=rows(20) / 10)).count(()) >= 19
        swapped = model.found(frames_of(left=rows(20) / 10, right=rows(20)))
        assert all(found == ("distribution",) for found in swapped)
        flat = model.found(frames_of(left=rows(5), right=np.full((5, 6), 4, np.float32)))
        assert all("blank-right" in found and "blank-left" not in found for found in flat)
        still = model.found(frames_of(left=np.repeat(rows(1), 5, axis=0), right=rows(5) / 10))
        assert [found for found in still if "frozen-left" in found] == still[2:]
        assert not any("frozen-right" in found for found in still)


def test_a_detector_is_fitted_to_what_the_graph_is_given_once_preprocessing_is_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs.save(tmp_path, "eye", seeing(), "batch_sizes = [1, 2]\n" + PIXELS)
    np.save(tmp_path / "clean.npy", bytes_of(pictures(300)))
    found, _ = guarded(version_of(tmp_path, "eye"), tmp_path / "clean.npy", monkeypatch, "merged")
    made = version_of(tmp_path, "eye")
    assert made.version == str(found.number) == "2"
    assert not made.config.inputs[0].preprocess
    assert [guard.kind for guard in made.config.guards] == ["BLANK", "FROZEN", "DISTRIBUTION"]
    assert any(getattr(guard, "output", "") == SCORE for guard in made.config.guards)
    assert list(made.config.variant_names) == ["merged"]
    with running(made) as model:
        assert model.found(frames_of(x=bytes_of(pictures(20, 11)))).count(()) >= 19
        assert all("distribution" in names for names in model.found(frames_of(x=bytes_of(noise(20)))))
        grey = np.full((3, SIDE, SIDE, 3), 90, np.uint8)
        assert all("blank" in names for names in model.found(frames_of(x=grey)))
