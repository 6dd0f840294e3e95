"""Each step on small graphs: what it makes runs in a worker and answers much as the original, and what it cannot treat
it refuses with the reason.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from duly.agreement.choose import measure_of
from duly.models.spec import Variant
from duly_learn.frames.frame import LearnFrame
from duly_learn.graphs.describe import operators
from duly_learn.optimize.cleanup import Cleanup
from duly_learn.optimize.dynamic_int8 import DynamicInt8
from duly_learn.optimize.half import Half
from duly_learn.optimize.quantising import adds_products_of_8_bits
from duly_learn.optimize.ranges import histograms
from duly_learn.optimize.static_int8 import StaticInt8
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused, Step
from duly_learn.running.model import running
from tests import graphs
from tests.worker.client import version_of


def pictures(count: int, seed: int = 0) -> list[LearnFrame]:
    rng = np.random.default_rng(seed)
    return [LearnFrame({"x": rng.random((3, 16, 16), np.float32)}, "s", nth) for nth in range(count)]


def rows(count: int, width: int, seed: int = 0) -> list[LearnFrame]:
    rng = np.random.default_rng(seed)
    return [LearnFrame({"x": rng.normal(size=width).astype(np.float32)}, "s", nth) for nth in range(count)]


def made(root: Path, name: str, step: Step, frames: list[LearnFrame]) -> tuple[OptimizeSource, Candidate, Path, float]:
    """Returns what the step was given and made, and the mean agreement of its answers with the original's."""
    version = version_of(root, name)
    folder = root / ".made"
    folder.mkdir(exist_ok=True)
    half = len(frames) // 2
    with running(version) as original:
        measure = measure_of(version.config.task, original.signature)
        answers = original.answers(frames)
        source = OptimizeSource(
            version,
            version.folder / version.config.variants[0].file,
            original.signature,
            frames[:half],
            answers[:half],
            measure,
            0.01,
            0,
            1,
        )
        candidate = step.make(source, folder)
        assert sorted(path.name for path in folder.iterdir()) == [candidate.file], "nothing else is left there"
        variant = Variant(name="made", file=candidate.file)
        other = replace(version, folder=folder, config=version.config.model_copy(update={"variants": (variant,)}))
        with running(other, expected=original.signature) as model:
            got = model.answers(frames[half:])
    scores = [measure.of(expected, answer) for expected, answer in zip(answers[half:], got, strict=True)]
    return source, candidate, folder, float(np.mean(scores))


def refusal(root: Path, name: str, step: Step, frames: list[LearnFrame]) -> str:
    with pytest.raises(Refused) as refused:
        made(root, name, step, frames)
    return str(refused.value)


CLASSES = '[task]\nmeasure = "top1"\n'
CLOSE = '[task]\nmeasure = "correlation"\n'


def test_static_int8_of_convolutions_sees_what_they_see(tmp_path: Path) -> None:
    graphs.save(tmp_path, "see", graphs.seeing(), CLOSE)
    _, candidate, folder, agreement = made(tmp_path, "see", StaticInt8(), pictures(24))
    found = operators(onnx.load(str(folder / candidate.file)))
    assert found["QuantizeLinear"] > 0
    assert agreement > 0.95
    weights = [each for each in onnx.load(str(folder / candidate.file)).graph.initializer if each.data_type == 3]
    assert any(len(each.dims) == 4 for each in weights), "weights of convolutions are of 8 bits"


def test_static_int8_is_calibrated_on_what_comes_out_of_preprocessing(tmp_path: Path) -> None:
    """Pixels go up to 255, what the graph sees up to 1: ranges of the former would leave the latter two bits."""
    toml = (
        CLOSE
        + """
        [[input]]
        name = "image"
        tensor = "x"
        preprocess = [
            { op = "resize", width = 16, height = 16 },
            { op = "normalise", scale = 0.00392156862745098 },
            { op = "layout" },
        ]
    """
    )
    graphs.save(tmp_path, "see", graphs.seeing(), toml)
    rng = np.random.default_rng(1)
    frames = [LearnFrame({"image": rng.integers(0, 256, (20, 20, 3), np.uint8)}, "s", nth) for nth in range(24)]
    source, _, _, agreement = made(tmp_path, "see", StaticInt8(), frames)
    seen = histograms(source.load(), (sight.inputs for sight in source.sights()), 1)
    assert seen["x"].high == pytest.approx(1.0, abs=0.05)
    assert agreement > 0.95


def test_static_int8_of_a_perceptron_as_scikit_learn_writes_it(tmp_path: Path) -> None:
    """Its biases have two dimensions."""
    rng = np.random.default_rng(0)
    weights = {f"w{nth}": rng.normal(0, 0.3, (16, 16)).astype(np.float32) for nth in range(2)}
    weights |= {f"b{nth}": rng.normal(0, 0.1, (1, 16)).astype(np.float32) for nth in range(2)}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Add", ["h", "b0"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["seen"]),
        helper.make_node("MatMul", ["seen", "w1"], ["g"]),
        helper.make_node("Add", ["g", "b1"], ["y"]),
    ]
    graph = graphs.model(nodes, [graphs.value("x", ("N", 16))], [graphs.value("y", ("N", 16))], weights)
    graphs.save(tmp_path, "mlp", graph, CLOSE)
    _, candidate, folder, agreement = made(tmp_path, "mlp", StaticInt8(), rows(60, 16))
    assert operators(onnx.load(str(folder / candidate.file)))["QuantizeLinear"] > 0
    assert agreement > 0.95


def test_dynamic_int8_runs_frames_of_a_batch_one_by_one_and_says_so(tmp_path: Path) -> None:
    graphs.save(tmp_path, "turn", graphs.turning(32, 2), CLOSE)
    source, candidate, folder, agreement = made(tmp_path, "turn", DynamicInt8(), rows(24, 32))
    assert "MatMul" in candidate.said
    assert agreement > 0.99
    variant = Variant(name="made", file=candidate.file)
    config = source.version.config.model_copy(update={"variants": (variant,)})
    with running(replace(source.version, folder=folder, config=config)) as model:
        assert any("the frames of a batch are run one after another" in note for note in model.notes)


def test_halves_take_and_give_what_the_original_does(tmp_path: Path) -> None:
    graphs.save(tmp_path, "see", graphs.seeing(), CLASSES)
    _, candidate, folder, agreement = made(tmp_path, "see", Half(), pictures(24))
    assert (folder / candidate.file).stat().st_size < 0.8 * (tmp_path / "see/1/model.onnx").stat().st_size
    assert agreement == 1.0


def test_cleaning_up_takes_out_what_computes_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Add", ["two", "two"], ["four"]),
        helper.make_node("Mul", ["a", "four"], ["b"]),
        helper.make_node("Identity", ["b"], ["y"]),
    ]
    shapes = [graphs.value("x", ["N", 4])], [graphs.value("y", ["N", 4])]
    graphs.save(tmp_path, "odd", graphs.model(nodes, *shapes, {"two": np.float32(2)}), CLOSE)
    _, candidate, folder, agreement = made(tmp_path, "odd", Cleanup(), rows(8, 4))
    assert operators(onnx.load(str(folder / candidate.file))) == {"Mul": 1}
    assert "1 nodes in place of 4" in candidate.said
    assert agreement == 1.0


def test_what_a_step_cannot_treat_it_says(tmp_path: Path) -> None:
    graphs.save(tmp_path, "see", graphs.seeing(), CLASSES)
    graphs.save(tmp_path, "double", graphs.doubling(("N", 4)), CLOSE)
    for step, name, frames, said in (
        (DynamicInt8(), "double", rows(4, 4), "there are no matrix products to quantise: the graph has 1 Add"),
        (StaticInt8(), "double", rows(4, 4), "there is nothing to quantise: the graph has neither convolutions nor"),
        (Half(), "double", rows(4, 4), "the graph has no weights of 32 bits"),
        (Cleanup(), "see", pictures(4), "there is nothing to clean up: the graph has 7 nodes before and 7 after"),
    ):
        assert refusal(tmp_path, name, step, frames).startswith(said)


def test_convolutions_are_never_quantised_with_the_ranges_of_each_run(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    shapes = [graphs.value("x", ["N", 3, 16, 16])], [graphs.value("y", ["N", 2, 14, 14])]
    graphs.save(tmp_path, "conv", graphs.model(nodes, *shapes, {"w": np.ones((2, 3, 3, 3), np.float32)}), CLOSE)
    said = refusal(tmp_path, "conv", DynamicInt8(), pictures(4))
    assert said.startswith("the graph has 1 convolutions and no matrix products")
    assert "int8-static" in said
    graphs.save(tmp_path, "see", graphs.seeing(), CLASSES)
    _, candidate, folder, _ = made(tmp_path, "see", DynamicInt8(), pictures(8))
    found = operators(onnx.load(str(folder / candidate.file)))
    assert found["Conv"] == 2
    assert "ConvInteger" not in found
    assert candidate.notes == ["Its 2 convolutions are as they were."]


def test_layers_in_branches_cannot_be_quantised_statically(tmp_path: Path) -> None:
    make, value = helper.make_node, graphs.value
    weights = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    product = helper.make_graph([make("MatMul", ["x", "w"], ["a"])], "then", [], [value("a", ["N", 4])], [weights])
    same = helper.make_graph([make("Identity", ["x"], ["b"])], "else", [], [value("b", ["N", 4])])
    nodes = [
        make("ReduceSum", ["x"], ["sum"], keepdims=0),
        make("Greater", ["sum", "zero"], ["is"]),
        make("If", ["is"], ["y"], then_branch=product, else_branch=same),
    ]
    graph = graphs.model(nodes, [value("x", ["N", 4])], [value("y", ["N", 4])], {"zero": np.float32(0)})
    graphs.save(tmp_path, "if", graph, "batch_sizes = [1]\n" + CLOSE)
    assert "no layer could be quantised" in refusal(tmp_path, "if", StaticInt8(), rows(8, 4))


def test_a_graph_of_8_bits_is_not_quantised_again(tmp_path: Path) -> None:
    graphs.save(tmp_path, "see", graphs.seeing(), CLASSES)
    _, candidate, folder, _ = made(tmp_path, "see", StaticInt8(), pictures(8))
    graphs.save(tmp_path, "again", onnx.load(str(folder / candidate.file)), CLASSES)
    for step in (StaticInt8(), DynamicInt8()):
        for path in folder.iterdir():
            path.unlink()
        assert "the graph is quantised already: it has" in refusal(tmp_path, "again", step, pictures(8))


def test_processors_without_dot_products_get_weights_of_7_bits(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    for flags, wanted in (("fpu avx2", False), ("fpu avx512_vnni", True), ("avx_vnni", True)):
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
        assert adds_products_of_8_bits(cpuinfo) is wanted
    assert adds_products_of_8_bits(tmp_path / "none") is False
