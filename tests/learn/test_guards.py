"""The detector of frames unlike others: what it is fitted to, what it writes into a graph, and what it finds."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import helper
from sklearn.datasets import load_digits

from duly.cli_models import models
from duly.models.spec import ModelConfig
from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame
from duly_learn.guards.branches import without_constant_branches
from duly_learn.guards.detector import FRAMES_MIN, MARGIN, TooFew, fit
from duly_learn.guards.fitting import SCORE, Fitted, NoFeatures, fit_detector
from duly_learn.guards.graph import without_detector
from duly_learn.guards.layers import chosen, taps_of
from duly_learn.guards.measure import Row
from duly_learn.guards.verdict import finds_less, verdict
from duly_learn.optimize.guarded import without_detectors
from duly_learn.optimize.run import Asked, optimize
from duly_learn.optimize.steps import STEPS
from duly_learn.optimize.timing import Compared
from duly_learn.running.model import running
from tests import graphs
from tests.worker.client import version_of

SIDE = 32
COUNT = 160
STREAMS = ["one"] * (COUNT // 2) + ["other"] * (COUNT // 2)


def pictures(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Soft shapes over a slope, with a little noise: pictures of a kind, [count, 3, SIDE, SIDE]."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    found = []
    for _ in range(count):
        at, size = random.uniform(0.3, 0.7, 2), random.uniform(0.15, 0.25)
        shape = np.exp(-((down - at[0]) ** 2 + (across - at[1]) ** 2) / size**2)
        colours = np.array([0.9, 0.6, 0.3]) + random.normal(0, 0.05, 3)
        found.append(colours[:, None, None] * shape + 0.3 * across + random.normal(0, 0.01, (3, SIDE, SIDE)))
    return np.float32(found)


def seeing(batch: int | str = "N", classes: int = 4) -> onnx.ModelProto:
    """Three convolutions with random weights, and a linear layer over their means: scores[N,classes] of x."""
    random = np.random.default_rng(5)
    constants = {
        "w1": np.float32(random.normal(0, 0.3, (8, 3, 3, 3))),
        "w2": np.float32(random.normal(0, 0.2, (16, 8, 3, 3))),
        "w3": np.float32(random.normal(0, 0.2, (16, 16, 3, 3))),
        "w4": np.float32(random.normal(0, 0.2, (16, classes))),
    }
    conv = {"pads": [1, 1, 1, 1], "strides": [1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], **conv),
        helper.make_node("Relu", ["c1"], ["a1"]),
        helper.make_node("MaxPool", ["a1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], **conv),
        helper.make_node("Relu", ["c2"], ["a2"]),
        helper.make_node("Conv", ["a2", "w3"], ["c3"], **conv),
        helper.make_node("Relu", ["c3"], ["a3"]),
        helper.make_node("GlobalAveragePool", ["a3"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w4"], ["scores"]),
    ]
    x = graphs.value("x", [batch, 3, SIDE, SIDE])
    return graphs.model(nodes, [x], [graphs.value("scores", [batch, classes])], constants)


def fitted_to(model: onnx.ModelProto, clean: np.ndarray, config: ModelConfig | None = None, **more: object) -> Fitted:
    inputs = ({"x": picture[None]} for picture in clean)
    return fit_detector(model, config or ModelConfig(), inputs, STREAMS[: len(clean)], 0, **more)  # type: ignore[arg-type]


def scores(model: onnx.ModelProto, frames: np.ndarray, batch: int = 1) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    parts = [session.run([SCORE], {"x": frames[low : low + batch]})[0] for low in range(0, len(frames), batch)]
    return np.concatenate(parts)[:, 0]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fitted_to(seeing(), pictures())


def spoilt(kind: str) -> np.ndarray:
    random = np.random.default_rng(9)
    clean = pictures(40, 7)
    if kind == "blank":
        return np.broadcast_to(random.uniform(0, 1, (40, 3, 1, 1)), clean.shape).astype(np.float32)
    if kind == "uniform noise":
        return random.uniform(0, 1.2, clean.shape).astype(np.float32)
    if kind == "gaussian noise":
        return random.normal(clean.mean(), clean.std(), clean.shape).astype(np.float32)
    pixels = clean.reshape(40, 3, -1)
    return np.stack([each[:, random.permutation(SIDE * SIDE)] for each in pixels]).reshape(clean.shape)


def test_clean_frames_pass_that_it_was_not_fitted_to(fitted: Fitted) -> None:
    assert (scores(fitted.model, pictures(400, 1)) > 1).mean() <= 0.01


@pytest.mark.parametrize("kind", ["blank", "uniform noise", "gaussian noise", "shuffled pixels"])
def test_frames_unlike_those_that_it_was_fitted_to_are_found(fitted: Fitted, kind: str) -> None:
    assert (scores(fitted.model, spoilt(kind)) > 1).mean() >= 0.95


def test_the_graph_says_what_the_detector_says_whatever_the_size_of_the_batch(fitted: Fitted) -> None:
    frames = np.concatenate([pictures(12, 3), spoilt("uniform noise")[:5]])
    alone = scores(fitted.model, frames)
    for batch in (2, 5, 17):
        np.testing.assert_allclose(scores(fitted.model, frames, batch), alone, rtol=1e-4)
    again = fitted_to(seeing(), pictures())
    np.testing.assert_array_equal(scores(again.model, frames), alone)  # a seed says all of it
    assert fitted.layers == ["p1", "flat"]


def test_the_outputs_of_the_graph_stay_as_they_were(fitted: Fitted) -> None:
    frames = pictures(4, 2)
    before, after = (onnxruntime.InferenceSession(each.SerializeToString()) for each in (seeing(), fitted.model))
    np.testing.assert_array_equal(after.run(["scores"], {"x": frames})[0], before.run(["scores"], {"x": frames})[0])
    assert without_detector(fitted.model, SCORE) == seeing()


def test_a_detector_gives_way_to_a_new_one(fitted: Fitted) -> None:
    again = fitted_to(fitted.model, pictures())
    assert [each.name for each in again.model.graph.output] == ["scores", SCORE]
    assert len(again.model.graph.node) == len(fitted.model.graph.node)


def test_layers_may_be_named_and_one_that_is_not_there_is_named(fitted: Fitted) -> None:
    named = fitted_to(seeing(), pictures(), layers=["a2"])
    assert named.layers == ["a2"]
    assert (scores(named.model, spoilt("uniform noise")) > 1).all()
    with pytest.raises(NoFeatures, match=r"the graph has no tensor 'b7'; layers with weights read: x, p1, a2, flat"):
        fitted_to(seeing(), pictures(), layers=["b7"])


def test_too_few_frames_and_graphs_without_layers_are_named() -> None:
    with pytest.raises(TooFew, match=f"{FRAMES_MIN - 1} frames: a detector .* needs at least {FRAMES_MIN} clean ones"):
        fitted_to(seeing(), pictures(FRAMES_MIN - 1))
    with pytest.raises(NoFeatures, match=r"no layer with weights .* that reads what clients send"):
        fitted_to(graphs.doubling(("N", 3, SIDE, SIDE)), pictures())


def test_a_model_of_rows_is_judged_by_its_rows() -> None:
    random = np.random.default_rng(0)
    weights = np.float32(random.normal(0, 1, (6, 2)))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    linear = graphs.model([node], [graphs.value("x", ["N", 6])], [graphs.value("y", ["N", 2])], {"w": weights})
    mixing = random.normal(0, 1, (2, 6))
    rows = np.float32(random.normal(0, 1, (COUNT, 2)) @ mixing + 0.05 * random.normal(0, 1, (COUNT, 6)) + 5)
    found = fitted_to(linear, rows)
    assert found.layers == ["x"]
    assert (scores(found.model, rows) > 1).mean() <= 0.01
    assert (scores(found.model, np.float32(random.normal(5, 2, (50, 6)))) > 1).mean() >= 0.95  # of no such mixture


def perceptron(columns: int = 64) -> onnx.ModelProto:
    """Two layers with random weights: scores[N,10] of the columns of x."""
    random = np.random.default_rng(3)
    constants = {
        "w1": np.float32(random.normal(0, 0.1, (columns, 32))),
        "w2": np.float32(random.normal(0, 0.2, (32, 10))),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["made"]),
        helper.make_node("Relu", ["made"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["scores"]),
    ]
    return graphs.model(nodes, [graphs.value("x", ["N", columns])], [graphs.value("scores", ["N", 10])], constants)


@pytest.mark.parametrize("scaled", [False, True], ids=["as they are", "in other units"])
def test_of_tables_the_columns_are_looked_at_whatever_their_units(scaled: bool) -> None:
    """64 columns, some of which are nearly always 0, and held-out rows of other hands."""
    random = np.random.default_rng(0)
    units = 10 ** random.uniform(-3, 3, 64) if scaled else np.ones(64)
    rows = np.float32(load_digits().data * units)
    fitted_rows, held_out = rows[:1200], rows[1200:]
    inputs = ({"x": row[None]} for row in fitted_rows)
    found = fit_detector(perceptron(), ModelConfig(), inputs, ["a"] * 1200, 0)
    assert (found.layers, found.tables) == (["hidden", "x"], ["x"])
    assert "on the columns of x and 1 of the model's layers (hidden)" in found.said
    assert (scores(found.model, held_out) > 1).mean() <= 0.01
    low, high = np.quantile(rows, [0.001, 0.999])
    spoilt_rows = {
        "uniform": random.uniform(low, high, held_out.shape),
        "gaussian": np.clip(random.normal(rows.mean(), rows.std(), held_out.shape), low, high),
        "shuffled": random.permuted(held_out, axis=1),
    }
    for kind, each in spoilt_rows.items():
        assert (scores(found.model, np.float32(each)) > 1).mean() >= 0.95, kind


def test_a_table_needs_no_layers_with_weights_and_a_column_that_never_changes_is_no_trap() -> None:
    random = np.random.default_rng(0)
    rows = np.float32(random.normal(5, 1, (COUNT, 4)))
    rows[:, 3] = 7
    found = fitted_to(graphs.doubling(("N", 4)), rows)
    assert found.layers == found.tables == ["x"]
    fresh = np.float32(random.normal(5, 1, (300, 4)))
    fresh[:, 3] = 7
    assert (scores(found.model, fresh) > 1).mean() <= 0.01
    fresh[:, 3] = 0
    assert (scores(found.model, fresh) > 1).all()


def test_states_are_not_looked_at_and_constant_branches_are_opened() -> None:
    then, other = (
        helper.make_graph(
            [
                helper.make_node("Conv", ["x", "w1"], [f"{name}_c"], pads=[1, 1, 1, 1]),
                helper.make_node("Relu", [f"{name}_c"], [f"{name}_y"]),
            ],
            name,
            [],
            [graphs.value(f"{name}_y", None)],  # type: ignore[arg-type]
        )
        for name in ("then", "other")
    )
    nodes = [
        helper.make_node("Equal", ["rate", "wanted"], ["is_wanted"]),
        helper.make_node("If", ["is_wanted"], ["made"], then_branch=then, else_branch=other),
        helper.make_node("Conv", ["made", "w2"], ["late"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["late"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Add", ["flat", "state"], ["next"]),
        helper.make_node("MatMul", ["next", "w3"], ["y"]),
    ]
    random = np.random.default_rng(1)
    constants = {
        "w1": np.float32(random.normal(0, 0.3, (8, 3, 3, 3))),
        "w2": np.float32(random.normal(0, 0.3, (8, 8, 3, 3))),
        "w3": np.float32(random.normal(0, 0.3, (8, 2))),
        "wanted": np.int64(16),
    }
    inputs = [
        graphs.value("x", ["N", 3, SIDE, SIDE]),
        graphs.value("state", ["N", 8]),
        graphs.value("rate", [], graphs.INT64),
    ]
    outputs = [graphs.value("y", ["N", 2]), graphs.value("next", ["N", 8])]
    model = graphs.model(nodes, inputs, outputs, constants)
    config = ModelConfig.model_validate({"state": [{"output": "next", "input": "state"}], "constants": {"rate": 16}})
    flat = without_constant_branches(model, {"rate": 16})
    assert "If" not in [node.op_type for node in flat.graph.node]
    assert "other_c" not in [
        name for node in without_constant_branches(model, {"rate": 16}).graph.node for name in node.output
    ]
    assert "other_c" in [
        name for node in without_constant_branches(model, {"rate": 8}).graph.node for name in node.output
    ]
    assert without_constant_branches(model, {}) == model  # it depends on what clients send
    assert [tap.tensor for tap in taps_of(flat, ["x"], ["state"])] == ["x", "made"]
    feeds = ({"x": each[None], "state": np.zeros((1, 8), np.float32), "rate": np.array(16)} for each in pictures())
    found = fit_detector(model, config, feeds, STREAMS, 0)
    assert found.layers == ["made"]
    session = onnxruntime.InferenceSession(found.model.SerializeToString())
    noise = {"x": spoilt("uniform noise"), "state": np.zeros((40, 8), np.float32), "rate": np.array(16)}
    assert (session.run([SCORE], noise)[0] > 1).all()


def test_an_early_layer_that_is_large_is_passed_over() -> None:
    taps = taps_of(seeing(), ["x"], [])
    elements = {"x": 3072, "p1": 2048, "a2": 4096, "flat": 16}
    assert [tap.tensor for tap in chosen(taps, elements, 5000)] == ["p1", "flat"]
    assert [tap.tensor for tap in chosen(taps, elements, 100)] == ["flat"]
    assert chosen([], {}, 100) == []


def test_the_threshold_is_what_frames_exceed_that_were_not_fitted_to() -> None:
    """Blocks that differ make it higher: neighbours that are alike say little of the next day."""
    random = np.random.default_rng(2)
    alike = {"a": random.normal(5, 1, (200, 4))}
    days = {"a": alike["a"] + np.repeat(random.normal(0, 3, (10, 4)), 20, axis=0)}
    narrow, wide = (fit(features, ["one"] * 200, 0) for features in (alike, days))
    assert wide.thresholds["a"][0] > 2 * narrow.thresholds["a"][0]
    assert (narrow.scores({"a": random.normal(5, 1, (2000, 4))}) > 1).mean() < 0.01
    assert MARGIN > 1


# ---- as a user runs it ----


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    toml = "batch_sizes = [1, 2]\n" + '[[guard]]\nkind = "FROZEN"\n[[guard]]\nkind = "BLANK"\nspread_max = 0.02\n'
    graphs.save(root, "eye", seeing(), toml)
    np.save(root / "clean.npy", pictures(500))
    return root


def ran(*arguments: object) -> str:
    result = CliRunner().invoke(models, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def guarded(repository: Path) -> Path:
    said = ran(
        "optimize",
        repository,
        "eye",
        "--frames",
        repository / "clean.npy",
        "--guards",
        "--report",
        repository / "r.html",
    )
    assert "original: a detector of frames unlike others, fitted to 310 clean ones on 2 of the model's layers" in said
    assert "guards have false alarms on 0." in said
    assert "found blank 100.0%, frozen 100.0%, uniform noise 100.0%, gaussian noise 100.0%, shuffled elements" in said
    assert "WARNING" not in said
    return repository


def test_optimize_writes_a_version_with_a_detector_and_its_guard(guarded: Path) -> None:
    version = version_of(guarded, "eye")
    assert version.key == "eye/2"
    assert [(guard.kind, guard.action) for guard in version.config.guards] == [
        *[("FROZEN", "FLAG"), ("BLANK", "FLAG"), ("DISTRIBUTION", "FLAG")],
    ]
    with running(version) as model:
        assert [spec.name for spec in model.signature.outputs] == ["scores"]
        frames = [LearnFrame({"x": each}, "s", 0) for each in (*pictures(3, 11), *spoilt("gaussian noise")[:3])]
        assert model.found(frames) == [(), (), ()] + [("distribution",)] * 3


def test_guards_are_measured(guarded: Path) -> None:
    rows = json.loads(ran("guards", guarded, "eye", "--frames", guarded / "clean.npy", "--json"))
    assert [row["kind"] for row in rows] == [
        *["clean", "blank", "frozen", "uniform noise", "gaussian noise", "shuffled elements"],
    ]
    clean, blank, frozen, *others = rows
    assert clean["frames"] == 150
    assert clean["any"] <= 0.01 * clean["frames"]
    assert blank["found"]["blank"] == blank["frames"]
    assert frozen["found"]["frozen"] == frozen["frames"] == 148  # less those that may repeat
    assert all(row["found"]["distribution"] >= 0.95 * row["frames"] for row in others)
    table = ran("guards", guarded, "eye", "--frames", guarded / "clean.npy", "--frames-max", 60)
    assert table.splitlines()[0].split() == ["frames", "number", "frozen", "blank", "distribution", "any", "guard"]
    assert table.splitlines()[1].split()[-1] == "0.0%"


def test_guards_that_need_no_fitting_come_along_where_clean_frames_allow_them(tmp_path: Path) -> None:
    """The rows of this table repeat, as transactions may: FROZEN would flag clean ones."""
    graphs.save(tmp_path, "table", perceptron(8), "")
    rows = np.float32(np.random.default_rng(0).normal([0, 1, 2, 3, 4, 5, 6, 7], 0.1, (200, 8)))
    for low in range(0, 200, 20):
        rows[low : low + 4] = rows[low]
    np.save(tmp_path / "clean.npy", rows)
    arguments = "--frames", tmp_path / "clean.npy", "--guards", "--report", tmp_path / "r.html"
    said = ran("optimize", tmp_path, "table", *arguments)
    assert "a BLANK guard of input 'x', which flags none of" in said
    assert "no FROZEN guard of input 'x': 10 of 120 clean frames repeat the ones before them" in said
    assert "WARNING: only 0.0% of frozen found, less than 95%: a FROZEN guard finds them" in said
    version = version_of(tmp_path, "table")
    assert [guard.kind for guard in version.config.guards] == ["BLANK", "DISTRIBUTION"]
    made = json.loads((version.folder / "optimize.json").read_text())
    assert [row["kind"] for row in made["guards"]["original"]][-1] == "shuffled columns"


def test_a_detector_that_finds_hardly_anything_is_not_written(tmp_path: Path) -> None:
    """Where clean frames are noise, noise is clean."""
    graphs.save(tmp_path, "noise", perceptron(4), "")
    np.save(tmp_path / "clean.npy", np.float32(np.random.default_rng(0).uniform(0, 1, (300, 4))))
    arguments = "--frames", tmp_path / "clean.npy", "--guards", "--report", tmp_path / "r.html"
    said = ran("optimize", tmp_path, "noise", *arguments)
    assert "original: guards: WARNING: only " in said
    assert "original: the detector is not written, as it finds hardly anything: " in said
    version = version_of(tmp_path, "noise")
    assert [guard.kind for guard in version.config.guards] == ["BLANK", "FROZEN"]
    assert SCORE not in [each.name for each in onnx.load(str(version.folder / "original.onnx")).graph.output]
    result = CliRunner().invoke(models, ["optimize", str(tmp_path), "noise", *map(str, arguments)])
    assert result.exit_code == 1  # it has BLANK and FROZEN by now
    assert "no guard is worth having, and no version is written; the lines above say why" in result.output


def test_too_many_false_alarms_are_said_with_what_would_help() -> None:
    def row(kind: str, found: int) -> Row:
        return Row(kind, 100, {"blank": 0, "distribution": found}, found)

    fine = verdict([row("clean", 1), row("uniform noise", 95)], "distribution")
    assert (fine.short, fine.useless) == ([], "")
    loud = verdict([row("clean", 3), row("uniform noise", 94)], "distribution")
    assert [line.split(":")[0] for line in loud.short] == [
        "false alarms on 3.0% of 100 held-out frames, more than 1%, most by 'distribution'",
        "only 94.0% of uniform noise found, less than 95%",
    ]
    assert loud.useless == ""
    assert verdict([row("clean", 11), row("uniform noise", 100)], "distribution").useless.startswith("it flags 11.0%")
    assert finds_less([row("clean", 1), row("uniform noise", 90)], [row("clean", 0), row("uniform noise", 100)]) == ""
    less = finds_less([row("clean", 1), row("uniform noise", 80)], [row("clean", 0), row("uniform noise", 95)])
    assert less == "80.0% of uniform noise found, there 95.0%"


@pytest.mark.usefixtures("guarded")
def test_variants_that_are_made_later_have_detectors_of_their_own(repository: Path) -> None:
    """Quantised with the rest, a detector clips what is far off and finds nothing."""
    config = repository / "eye/2/model.toml"
    said = config.read_text()
    try:
        config.write_text(said.replace(f'output = "{SCORE}"', f'output = "{SCORE}"\naction = "INVALID"'))
        version = version_of(repository, "eye")
        step = next(step for step in STEPS if step.name == "int8-static")
        patience = ([repository / "clean.npy"], [step], 0.9)
        with pytest.MonkeyPatch.context() as patch:
            times = Compared([2e6] * 5, [1e6] * 5)  # however fast it is
            patch.setattr("duly_learn.optimize.judge.compare", lambda *given: times)
            found = optimize(Asked(version, *patience, by_mean=True), lambda line: None)
    finally:
        config.write_text(said)
    try:
        made = version_of(repository, "eye")
        assert made.version == str(found.number) == "3"
        (guard,) = (each for each in made.config.guards if each.kind == "DISTRIBUTION")
        assert guard.action == "INVALID", "what its author has said stays"
        with running(made, variant="int8-static") as model:
            clean = [LearnFrame({"x": each}, "s", nth) for nth, each in enumerate(pictures(20, 11))]
            noise = [LearnFrame({"x": each}, "s", nth) for nth, each in enumerate(spoilt("gaussian noise"))]
            assert model.found(clean).count(()) >= 19
            assert model.found(noise).count(()) <= 2
        assert list(found.guards) == ["original", "int8-static"]
        assert (made.folder / "optimize.json").read_text().count('"shuffled elements"') == 2, "measured for each"
    finally:
        shutil.rmtree(repository / "eye/3", ignore_errors=True)


def test_a_detector_that_cannot_be_fitted_anew_is_refused(tmp_path: Path) -> None:
    table = f'[[guard]]\nkind = "DISTRIBUTION"\noutput = "{SCORE}s"\n'
    graphs.save(tmp_path, "eye", seeing(), table)
    with pytest.raises(LearnError, match=f"the guard 'distribution' reads the graph's output '{SCORE}s'"):
        without_detectors(version_of(tmp_path, "eye"), tmp_path)


def test_a_model_without_guards_has_nothing_to_measure(tmp_path: Path) -> None:
    graphs.save(tmp_path, "plain", graphs.doubling())
    np.save(tmp_path / "clean.npy", np.zeros((9, 4), np.float32))
    result = CliRunner().invoke(models, ["guards", str(tmp_path), "plain", "--frames", str(tmp_path / "clean.npy")])
    assert result.exit_code == 1
    assert "plain/1 has no guards; say [[guard]] in its model.toml" in result.output


def test_text_cannot_be_spoilt(tmp_path: Path) -> None:
    graphs.save(tmp_path, "words", graphs.joining_texts(), '[[guard]]\nkind = "FROZEN"\n')
    np.savez(tmp_path / "clean.npz", x=np.array(["a", "b", "c"]))
    frames = str(tmp_path / "clean.npz")
    result = CliRunner().invoke(models, ["guards", str(tmp_path), "words", "--frames", frames, "--held-out", "1"])
    assert "input 'x' is text, and there is no noise or blank of text" in str(result.exception or result.output)
