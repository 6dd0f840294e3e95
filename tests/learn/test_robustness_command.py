"""`duly models robustness` as a user meets it: real workers, a model whose answers can be worked out, and what is wrong
with what was asked for.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from onnx import helper

from duly.cli_models import models
from duly.sampling.files import write
from duly.sampling.runs import State
from duly.sampling.sample import Form, Labelled, Sample
from duly_learn.frames.runs import WARM_UP_FRAMES
from tests import graphs

WIDTH, CLASSES, FRAMES = 12, 3, 60
TASK = '[task]\nmeasure = "top1"\n'


def classifier(noise: float = 0.0) -> Any:
    """Scores are products with the centres of classes, of which frames lie close by; `noise` spoils the centres."""
    spoilt = centres() + np.random.default_rng(9).normal(0, noise, (CLASSES, WIDTH))
    return graphs.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", ("N", WIDTH))],
        [graphs.value("y", ("N", CLASSES))],
        {"w": spoilt.T.astype(np.float32)},
    )


def centres() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (CLASSES, WIDTH))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model with two versions, the second one worse, and the frames x.npy with their labels y.txt."""
    root = graphs.save(tmp_path / "models", "flowers", classifier(), TASK)
    graphs.save(root, "flowers", classifier(4.0), version=2)
    chance = np.random.default_rng(1)
    labels = chance.integers(0, CLASSES, FRAMES)
    frames = centres()[labels] + chance.normal(0, 0.6, (FRAMES, WIDTH))
    np.save(tmp_path / "x.npy", frames.astype(np.float32))
    (tmp_path / "y.txt").write_text("\n".join(map(str, labels)))
    return root


def run(root: Path, model: str, *options: object, frames: str = "x.npy") -> Result:
    place = root.parent / frames
    arguments = ["robustness", str(root), model, "--frames", str(place), *map(str, options)]
    return CliRunner().invoke(models, arguments)


def read(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root.parent / "out" / "robustness.json").read_text())
    return found


def row(found: dict[str, Any], name: str, which: str = "tested") -> dict[str, Any]:
    return next(each for each in found[which]["rows"] if each["name"] == name)


def test_accuracy_falls_with_severity_and_with_epsilon(root: Path) -> None:
    labels, out = root.parent / "y.txt", root.parent / "out"
    options = ["--labels", labels, "--out", out, "--queries", 60, "--attack-frames", 20]
    told = run(root, "flowers/1", *options, "--epsilon", 0, "--epsilon", 0.3, "--epsilon", "3/2")
    assert told.exit_code == 0, told.output
    found = read(root)
    assert (found["frames"], found["expected"], found["measure"]) == (FRAMES, "labels", "top1")
    clean = found["tested"]["clean"]["mean"]
    assert clean > 0.9
    noise = [level["mean"] for level in row(found, "noise")["levels"]]
    assert noise[0] >= noise[4] < clean
    square = row(found, "square")
    assert [level["amount"] for level in square["levels"]] == [0, 0.3, 1.5]
    assert square["levels"][0]["queries"] == 0
    attacked = [level["mean"] for level in square["levels"]]
    assert attacked == sorted(attacked, reverse=True)
    assert attacked[2] < 0.3
    assert all(level["low"] <= level["mean"] <= level["high"] for level in square["levels"])
    assert "for inputs of other kinds than table, and left out: gaussian_noise" in found["notes"][0]
    assert "noise" in told.stdout
    assert "Square Attack" in told.stdout
    page, picture = ((out / f"robustness.{suffix}").read_text() for suffix in ("html", "svg"))
    assert "default-src 'none'" in page
    assert picture in page
    assert picture.count('class="title"') == 4


def test_the_same_seed_gives_the_same_and_scores_are_of_each_frame(root: Path) -> None:
    options = ["--out", root.parent / "out", "--corruption", "noise", "--attack", "spsa", "--attack-frames", 5]
    assert run(root, "flowers/1", *options, "--seed", 3).exit_code == 0
    first = read(root)
    assert run(root, "flowers/1", *options, "--seed", 3).exit_code == 0
    assert read(root) == first
    assert first["repeatable"]
    assert first["expected"] == "each version's own answers to the clean frames"
    assert first["tested"]["clean"]["mean"] == 1
    assert len(row(first, "noise")["levels"][2]["scores"]) == FRAMES
    assert run(root, "flowers/1", *options, "--seed", 4).exit_code == 0
    assert row(read(root), "noise") != row(first, "noise")


def test_two_versions_are_compared_on_the_same_frames(root: Path) -> None:
    options = ["--labels", root.parent / "y.txt", "--out", root.parent / "out", "--attack", "none"]
    told = run(root, "flowers/1", *options, "--against", "2")
    assert told.exit_code == 0, told.output
    found = read(root)
    assert found["against"]["model"] == "flowers/2 (default)"
    clean = found["compared"][0]
    assert clean["condition"] == "clean"
    assert clean["difference"] == pytest.approx(found["against"]["clean"]["mean"] - found["tested"]["clean"]["mean"])
    assert clean["significant"], "the second version is much worse"
    assert clean["high"] < 0
    assert found["agreement_of_both"]["mean"] < 0.9
    assert "flowers/2 (default) less flowers/1 (default)" in told.stdout
    assert "*" in told.stdout
    assert "significantly better in 0 and worse in" in (root.parent / "out/robustness.html").read_text()


def test_variants_of_one_version_are_compared(root: Path) -> None:
    variants = '[[variant]]\nname = "fp32"\nfile = "model.onnx"\n[[variant]]\nname = "fast"\nfile = "fast.onnx"\n'
    graphs.save(root, "two", classifier(), TASK + variants)
    graphs.save(root, "two", classifier(0.01), TASK + variants, file="fast.onnx")
    told = run(root, "two", "--against", "@fast", "--attack", "none", "--out", root.parent / "out")
    assert told.exit_code == 0, told.output
    found = read(root)
    assert (found["tested"]["model"], found["against"]["model"]) == ("two/1 (fp32)", "two/1 (fast)")
    assert not any(each["significant"] for each in found["compared"])


def test_pictures_are_shown_and_only_the_input_that_is_asked_for_is_harmed(root: Path) -> None:
    graphs.save(root, "copy", graphs.copying(("N", 16, 16, 3)), '[task]\nmeasure = "closeness"\nscale = 1.0\n')
    pictures = np.random.default_rng(0).random((12, 16, 16, 3)).astype(np.float32)
    np.save(root.parent / "pictures.npy", pictures)
    options = ["--attack", "none", "--corruption", "brightness", "--out", root.parent / "out", "--input", "x"]
    told = run(root, "copy", *options, frames="pictures.npy")
    assert told.exit_code == 0, told.output
    levels = row(read(root), "brightness")["levels"]
    assert [level["mean"] for level in levels] == sorted((level["mean"] for level in levels), reverse=True)
    assert levels[0]["mean"] == pytest.approx(0.9, abs=0.01), "0.1 is added"
    assert "data:image/jpeg;base64," in (root.parent / "out/robustness.html").read_text()


def test_a_model_with_state_is_given_its_frames_in_order(root: Path) -> None:
    state = '[[state]]\noutput = "sum"\ninput = "before"\n[task]\noutput = "y"\nmeasure = "closeness"\n'
    nodes = [helper.make_node("Add", ["x", "before"], ["sum"]), helper.make_node("Identity", ["sum"], ["y"])]
    inputs = [graphs.value("x", ("N", WIDTH)), graphs.value("before", ("N", WIDTH))]
    graph = graphs.model(nodes, inputs, [graphs.value("sum", ("N", WIDTH)), graphs.value("y", ("N", WIDTH))])
    graphs.save(root, "sum", graph, state)
    told = run(
        root, "sum", "--corruption", "dropped", "--queries", 3, "--attack-frames", 4, "--out", root.parent / "out"
    )
    assert told.exit_code == 0, told.output
    found = read(root)
    assert found["tested"]["clean"]["mean"] == 1
    assert row(found, "square")["levels"][0]["queries"] == 4 * 3


def test_frames_before_the_state_is_known_are_run_and_not_judged(root: Path) -> None:
    settings = (
        '[[state]]\noutput = "kept_next"\ninput = "kept"\n[task]\noutput = "y"\nmeasure = "closeness"\n'
        '[[guard]]\nkind = "RANGE"\ninput = "x"\nmin = -100.0\nmax = 100.0\n'
    )
    nodes = [
        helper.make_node("Mul", ["kept", "half"], ["faded"]),
        helper.make_node("Add", ["faded", "x"], ["kept_next"]),
        helper.make_node("Identity", ["kept_next"], ["y"]),
    ]
    inputs = [graphs.value(name, ("N", WIDTH)) for name in ("x", "kept")]
    outputs = [graphs.value(name, ("N", WIDTH)) for name in ("y", "kept_next")]
    graph = graphs.model(nodes, inputs, outputs, {"half": np.float32([0.5])})
    for version in (1, 2):
        graphs.save(root, "fading", graph, settings, version=version)
    keep_a_run(root.parent / "samples", first_judged=WARM_UP_FRAMES)
    options = ["--corruption", "dropped", "--queries", 3, "--attack-frames", 2, "--out", root.parent / "out"]
    told = run(root, "fading/1", "--against", "2", *options, frames="samples")
    assert told.exit_code == 0, told.output
    found = read(root)
    assert (found["frames"], found["streams"], found["expected"]) == (3, 1, "labels")
    assert f"{WARM_UP_FRAMES} frames more are run before them" in found["notes"][0]
    for tested in (found["tested"], found["against"]):
        clean = tested["clean"]
        assert clean["scores"] == pytest.approx([1, 1, 1], abs=1e-4), "their state is as it was"
        assert clean["flagged"] == 0, "what a guard has found before them"
        dropped, square = tested["rows"]
        assert all(len(level["scores"]) == 3 for level in dropped["levels"])
        assert all(len(level["scores"]) == 2 for level in square["levels"])
        assert 0 < square["levels"][0]["queries"] <= 2 * 3, "two frames are attacked"
    assert found["agreement_of_both"]["mean"] == 1
    words = f"all of the {WARM_UP_FRAMES} frames come before the model's state is known, and none is left to judge"
    assert words in _flat(run(root, "fading/1", "--frames-max", WARM_UP_FRAMES, *options, frames="samples"))


def keep_a_run(folder: Path, first_judged: int) -> None:
    """Writes a run as a server keeps it, from the middle of a stream: its last three frames have labels, which are
    right by the state that there was. The first frame is none that a guard lets pass.
    """
    chance, kept = np.random.default_rng(0), np.full(WIDTH, 1e4)
    form = Form("fading", "1", {"input.x": "FP32", "output.y": "FP32"}, {"y": (WIDTH,)})
    for nth in range(first_judged + 3):
        x = np.full(WIDTH, 1e3) if nth == 0 else chance.normal(size=WIDTH)
        kept = 0.5 * kept + x
        arrays = {"input.x": x.astype(np.float32), "output.y": kept.astype(np.float32)}
        sample = Sample(form, "default", "sensor-1", 101 + nth, 1 + nth, 0, "ON_TIME", "", arrays, {})
        sample = replace(sample, state=State(1, 100 + nth))
        if nth >= first_judged:
            label = {"y": arrays["output.y"]}
            sample = sample.with_labels(label, {"y": "FP32"}, Labelled(1000, "somebody"))
        path = folder / f"fading/samples/g/{nth:06}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, [sample], segment=False)


def test_labels_that_frames_carry_are_used(root: Path) -> None:
    folder = root.parent / "samples"
    folder.mkdir()
    labels = (root.parent / "y.txt").read_text().split()
    for nth, frame in enumerate(np.load(root.parent / "x.npy")[:20]):
        np.savez(folder / f"{nth:02}.npz", **{"input.x": frame, "label.y": np.int64([int(labels[nth])])})
    options = ["--attack", "none", "--corruption", "noise", "--out", root.parent / "out"]
    assert run(root, "flowers/1", *options, frames="samples").exit_code == 0
    assert read(root)["expected"] == "labels"
    np.savez(folder / "99.npz", **{"input.x": np.load(root.parent / "x.npy")[20]})
    assert run(root, "flowers/1", *options, frames="samples").exit_code == 0
    assert read(root)["notes"][0] == "20 of 21 frames carry a label: labels are left out of account"


def test_what_guards_have_seen_is_told(root: Path) -> None:
    guards = TASK + '[[guard]]\nkind = "RANGE"\nmin = -4.0\nmax = 4.0\n'
    graphs.save(root, "guarded", classifier(), guards)
    options = ["--attack", "none", "--corruption", "noise", "--out", root.parent / "out"]
    told = run(root, "guarded", *options)
    assert told.exit_code == 0, told.output
    found = read(root)
    frames = np.load(root.parent / "x.npy")
    assert found["tested"]["clean"]["flagged"] == (np.abs(frames).max(axis=1) > 4).sum()
    flagged = [level["flagged"] for level in row(found, "noise")["levels"]]
    assert flagged == sorted(flagged)
    assert flagged[4] > found["tested"]["clean"]["flagged"]
    assert "flagged by guards" in told.stdout
    assert "% flagged" in (root.parent / "out/robustness.html").read_text()


def test_frames_are_left_out_where_time_is_short(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly_learn.robustness.run.PROBED", 2)
    monkeypatch.setattr("duly_learn.robustness.run.FRAMES_MIN", 7)
    monkeypatch.setattr("duly_learn.robustness.run._corruption_seconds", lambda plan: 1e-9)
    told = run(root, "flowers/1", "--attack", "none", "--labels", root.parent / "y.txt", "--out", root.parent / "out")
    assert told.exit_code == 0, told.output
    found = read(root)
    assert found["frames"] == 7
    assert found["tested"]["clean"]["mean"] > 0.8, "labels are those of the frames that are left"
    assert "7 of 60 frames are tested" in found["notes"][0]
    assert "--frames-max" in found["notes"][0]
    assert not found["repeatable"]


# ---- what is wrong ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--corruption", "fog"], "corruption 'fog': is none; there are gaussian_noise"),
        (["--corruption", "jpeg_compression"], "jpeg_compression: not for inputs of this kind (table)"),
        (["--input", "z"], "input 'z': there is none; the model takes x"),
        (["--kind", "x=sausage"], "--kind: should be INPUT=KIND with picture, signal, table, got 'x=sausage'"),
        (["--kind", "x=picture"], "input 'x': is no picture: float32[12]"),
        (["--epsilon", "big"], "--epsilon: should be a number such as 0.03 or 8/255, got 'big'"),
        (["--epsilon", "1/0"], "--epsilon: should be a number"),
        (["--epsilon", "-1"], "--epsilon: should be 0 to 100, got -1"),
        (["--attack", "spsa", "--queries", "5"], "--queries: spsa needs 33 for a single step, got 5"),
        (["--against", "1"], "--against 1: is the same as what is tested"),
        (["--against", "7"], "no model flowers/7"),
        (["--against", "@int8"], "has no variant int8; it has default"),
        (["--variant", "int8"], "has no variant int8; it has default"),
    ],
)
def test_what_cannot_be_done_is_named(root: Path, options: list[str], words: str) -> None:
    told = run(root, "flowers/1", *options)
    assert told.exit_code in (1, 2)
    assert words in " ".join(told.stderr.split())
    assert "Traceback" not in told.stderr


def test_frames_and_labels_that_are_not_there_or_do_not_fit(root: Path) -> None:
    folder = root.parent
    np.save(folder / "none.npy", np.zeros((0, WIDTH), np.float32))
    np.save(folder / "narrow.npy", np.zeros((5, 3), np.float32))
    np.save(folder / "lost.npy", np.full((5, WIDTH), np.nan, np.float32))
    assert "no frame of" in run(root, "flowers/1", frames="none.npy").stderr
    assert "fits the model" in run(root, "flowers/1", frames="narrow.npy").stderr
    (folder / "few.txt").write_text("1\n2\n")
    told = run(root, "flowers/1", "--labels", folder / "few.txt")
    assert "few.txt: has 2 labels, but there are more than 2 frames; should be one for each" in _flat(told)
    (folder / "many.txt").write_text("1\n" * 61)
    told = run(root, "flowers/1", "--labels", folder / "many.txt")
    assert "many.txt: has 61 labels, but there are 60 frames; should be one for each" in _flat(told)
    (folder / "bad.txt").write_text("1\n" * 59 + "nan\n")
    assert "label of frame 59: is NaN" in _flat(run(root, "flowers/1", "--labels", folder / "bad.txt"))
    (folder / "bad.txt").write_text("1\n" * 58 + "9\n0\n")
    told = run(root, "flowers/1", "--labels", folder / "bad.txt")
    assert "label of frame 58: there is no class '9'; they are 0 to 2" in _flat(told)


def _flat(told: Result) -> str:
    assert told.exit_code == 1
    return " ".join(told.stderr.split())


def test_text_is_left_as_it_is_and_said_so(root: Path) -> None:
    graphs.save(root, "texts", graphs.joining_texts())
    np.savez(root.parent / "texts.npz", x=np.array(["a", "b"]))
    told = run(root, "texts", frames="texts.npz")
    assert "nothing of this model's frames can be harmed: input 'x' is left as it is: it is text" in _flat(told)


def test_another_version_that_takes_something_else_cannot_be_compared(root: Path) -> None:
    graphs.save(root, "flowers", graphs.doubling(("N", 5)), version=3)
    told = run(root, "flowers/1", "--against", "3", "--attack", "none")
    assert "flowers/3 (default): takes something else, so that they cannot be compared: x" in _flat(told)


def test_frames_that_the_model_refuses_are_left_out_and_said_so(root: Path) -> None:
    toml = TASK + '[[input]]\nname = "x"\nfinite = true\n'
    graphs.save(root, "strict", classifier(), toml)
    frames = np.load(root.parent / "x.npy")
    frames[::10] = np.nan
    np.save(root.parent / "holes.npy", frames)
    options = ["--attack", "none", "--corruption", "noise", "--out", root.parent / "out"]
    assert run(root, "strict", *options, frames="holes.npy").exit_code == 0
    found = read(root)
    assert found["frames"] == 54
    assert "6 of 60 frames are refused by the model as they are" in found["notes"][0]
    np.save(root.parent / "holes.npy", np.full_like(frames, np.nan))
    assert "refuses all of the" in _flat(run(root, "strict", *options, frames="holes.npy"))
