"""From frames to a new version: what is kept, what is not and why, and that nothing is left half-written.

Where it matters that a candidate is faster it does a hundredth of the original's work.
"""

import asyncio
import fcntl
import json
import os
import re
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from duly.agreement.interval import Interval, interval, scores_needed
from duly.cli_models import models
from duly.models.repository import Repository
from duly.models.sizes import SizeLimits
from duly.runtime.worker_launch import check_version
from duly_learn.frames.frame import LearnFrame
from duly_learn.frames.places import NoFrames
from duly_learn.optimize.judged import Frame, Judged
from duly_learn.optimize.page import report
from duly_learn.optimize.rule import RISK, Rule, refusals
from duly_learn.optimize.run import Asked, Found, optimize
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused, Step
from duly_learn.optimize.timing import Compared, compare
from duly_learn.optimize.write import NewVariant, NoRoom, Taken, Unfit, alone, write_version
from tests import graphs
from tests.worker.client import version_of

WIDTH = 512
SLOW = graphs.turning(WIDTH, 24)
"""It turns by 24 places, and takes some milliseconds for it."""


@dataclass(frozen=True)
class Makes:
    """A step that makes this graph, whatever it is given."""

    name: str
    graph: onnx.ModelProto
    settings: dict[str, object] = field(default_factory=dict)

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        onnx.save(self.graph, str(folder / "model.onnx"))
        return Candidate("model.onnx", "another graph", settings=self.settings)


class Cannot:
    name = "cannot"

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        raise Refused("it has no channels that could be left out")


def turned(places: int, scale: float = 1.0) -> onnx.ModelProto:
    """y = x turned by so many places at once."""
    turn = scale * np.roll(np.eye(WIDTH, dtype=np.float32), places, axis=1)
    node = onnx.helper.make_node("MatMul", ["x", "turn"], ["y"])
    shapes = [graphs.value("x", ["N", WIDTH])], [graphs.value("y", ["N", WIDTH])]
    return graphs.model([node], *shapes, {"turn": turn.astype(np.float32)})


SAME = Makes("same", turned(24))
NEARLY = Makes("nearly", turned(24, 1.01))  # correlates wholly, and its numbers are other ones
WRONG = Makes("wrong", turned(23))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    graphs.save(tmp_path / "models", "turn", SLOW, "batch_sizes = [1, 2]")
    np.save(tmp_path / "frames.npy", np.random.default_rng(0).normal(size=(40, WIDTH)).astype(np.float32))
    return tmp_path


def asked(root: Path, *steps: Step, **more: object) -> Asked:
    given = Asked(version_of(root / "models", "turn"), [root / "frames.npy"], steps, 0.01, by_mean=True)
    return replace(given, **more)  # type: ignore[arg-type]


def optimized(root: Path, *steps: Step, **more: object) -> Found:
    return optimize(asked(root, *steps, **more), lambda line: None)


def inside(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "models/turn").iterdir())


# ---- what is kept ----


def test_what_is_faster_and_within_the_tolerance_becomes_a_variant(root: Path) -> None:
    found = optimized(root, NEARLY, WRONG, Cannot())
    assert found.number == 2
    assert [each.name for each in found.variants] == ["original", "nearly"]
    wrong, cannot = found.candidates[1:]
    assert "its agreement is" in wrong.refusals[0]
    assert "0.99 is asked for (tolerance 0.01)" in wrong.refusals[0]
    assert cannot.refusals == ["it has no channels that could be left out"]
    version = version_of(root / "models", "turn")
    assert (version.version, version.config.variant_names) == ("2", ["original", "nearly"])
    assert [variant.accuracy for variant in version.config.variants] == [1.0, pytest.approx(1.0, abs=1e-5)]
    assert version.config.batch_sizes == (1, 2), "what the model says holds for the new version"
    one = next(each for each in Repository(root / "models").scan()[0] if each.version == "1")
    assert one.config.variant_names == ["default"], "the version before goes on as it was"


async def test_the_new_version_is_ready_to_serve(root: Path) -> None:
    # The command runs workers in event loops of its own, so not in this one.
    await asyncio.to_thread(optimized, root, NEARLY)
    checked = await check_version(version_of(root / "models", "turn"), ("cpu:0",), 1, SizeLimits(), 60.0)
    assert checked.problem is None


def test_how_it_was_made_lies_beside_it(root: Path) -> None:
    optimized(root, NEARLY, WRONG, seed=7)
    made = json.loads((root / "models/turn/2/optimize.json").read_text())
    assert (made["from"], made["seed"], made["measure"]) == ("turn/1", 7, "correlation")
    assert {each["name"]: each["kept"] for each in made["candidates"]} == {
        "original": True,
        "nearly": True,
        "wrong": False,
    }


def test_what_answers_the_same_and_is_faster_takes_the_originals_place(root: Path) -> None:
    found = optimized(root, SAME)
    assert [each.name for each in found.variants] == ["same"]
    assert found.candidates[0].same


def test_a_variant_that_agrees_less_and_is_no_faster_is_of_no_use(root: Path) -> None:
    found = optimized(root, SAME, Makes("longer", graphs.turning(WIDTH, 24)))
    assert [each.name for each in found.variants] == ["same"]
    assert found.candidates[1].refusals


def test_variants_that_are_there_already_are_judged_as_well(root: Path) -> None:
    onnx.save(NEARLY.graph, str(root / "models/turn/1/old.onnx"))
    toml = root / "models/turn/model.toml"
    tables = "".join(
        f'[[variant]]\nname = "{name}"\nfile = "{file}"\n'
        for name, file in (("best", "model.onnx"), ("old", "old.onnx"))
    )
    toml.write_text(toml.read_text() + "\n" + tables)
    found = optimized(root)
    assert [each.name for each in found.variants] == ["best", "old"]
    assert found.candidates[0].said == "is a variant of turn/1 already"


def test_a_model_that_keeps_state_gets_one_variant(root: Path) -> None:
    graphs.save(root / "models", "turn", stateful(24), STATE)
    found = optimized(root, Makes("short", stateful(1, places=24)))
    assert [each.name for each in found.variants] == ["short"]
    assert version_of(root / "models", "turn").config.variant_names == ["short"]


STATE = """
batch_sizes = [1, 2]
[[state]]
output = "total_next"
input = "total"
"""


def stateful(depth: int, places: int = 1) -> onnx.ModelProto:
    """y = total_next = total + x turned by depth * places."""
    names = ["x", *(f"t{nth}" for nth in range(1, depth)), "moved"]
    turn = np.roll(np.eye(WIDTH, dtype=np.float32), places, axis=1)
    make = onnx.helper.make_node
    nodes = [make("MatMul", [a, "turn"], [b]) for a, b in pairwise(names)]
    nodes += [make("Add", ["moved", "total"], ["total_next"]), make("Identity", ["total_next"], ["y"])]
    value = graphs.value
    inputs = [value("x", ["N", WIDTH]), value("total", ["N", WIDTH])]
    return graphs.model(nodes, inputs, [value("y", ["N", WIDTH]), value("total_next", ["N", WIDTH])], {"turn": turn})


def test_settings_that_a_candidate_needs_are_those_of_the_version_and_of_all_made_after_it(root: Path) -> None:
    toml = 'batch_sizes = [1, 2]\n[[input]]\nname = "x"\npreprocess = [{ op = "normalise", scale = 2.0 }]\n'
    graphs.save(root / "models", "turn", SLOW, toml)
    merged = Makes("merged", turned(24, 2.0), {"input": [{"name": "x"}]})
    found = optimized(root, merged, Makes("further", turned(24, 2.02)))
    assert found.variants[0].name == "merged"
    version = version_of(root / "models", "turn")
    assert version.own == {"variant", "input"}
    assert version.config.inputs[0].preprocess == ()
    assert found.candidates[1].agreement is not None
    assert found.candidates[1].agreement.mean > 0.99


def test_what_a_version_says_for_itself_the_new_one_says_too(root: Path) -> None:
    (root / "models/turn/1/model.toml").write_text("default_budget_ms = 7.0\n")
    optimized(root, NEARLY)
    version = version_of(root / "models", "turn")
    assert (version.version, version.config.default_budget_ms) == ("2", 7.0)
    assert version.own == {"variant", "default_budget_ms"}


def test_external_data_and_check_samples_come_along(root: Path) -> None:
    folder = root / "models/turn/1"
    graph = onnx.ModelProto()
    graph.CopyFrom(SLOW)  # as saving so changes it
    onnx.save(graph, str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "checks").mkdir()
    x = np.arange(WIDTH, dtype=np.float32)
    np.savez(folder / "checks/a.npz", **{"input.x": x, "output.y": np.roll(x, 24)})
    optimized(root, NEARLY)
    new = root / "models/turn/2"
    files = sorted(str(path.relative_to(new)) for path in new.rglob("*") if path.is_file())
    assert files == [
        "checks/a.npz",
        "model.toml",
        "nearly.onnx",
        "optimize.json",
        "original/model.onnx",
        "original/weights.bin",
    ]


# ---- the rule ----


def judged(scores: Interval, ratio: float = 2.0, same: bool = False) -> Judged:
    times = {size: Compared([ratio * 1e6] * 5, [1e6] * 5) for size in (1, 4)}
    frames = [Frame(nth, scores.mean) for nth in range(scores.count)]
    return Judged("x", agreement=scores, frames=frames, times=times, same=same)


@pytest.mark.parametrize(
    ("given", "by_mean", "said"),
    [
        (judged(Interval(0.995, 0.992, 0.998, 500)), False, ""),
        (judged(Interval(0.985, 0.98, 0.99, 500)), False, "its agreement is 0.9850 (0.9800 to 0.9900, 500 frames)"),
        (judged(Interval(1.0, 0.94, 1.0, 60)), False, "its agreement may be as low as 0.9400"),
        (judged(Interval(1.0, 0.94, 1.0, 60)), True, ""),
        (judged(Interval(1.0, 0.94, 1.0, 60), same=True), False, ""),
        (judged(Interval(0.985, 0.98, 0.99, 500)), True, "its agreement is 0.9850"),
        (
            judged(Interval(1.0, 1.0, 1.0, 500), ratio=1.0),
            False,
            "it is not faster: 1.00 times as fast in batches of 1",
        ),
        (
            judged(Interval(1.0, 1.0, 1.0, 500), ratio=0.5),
            False,
            "it is not faster: 0.50 times as fast in batches of 1",
        ),
    ],
)
def test_the_low_end_must_be_within_the_tolerance_and_every_batch_faster(
    given: Judged, by_mean: bool, said: str
) -> None:
    found = refusals(given, Rule(0.01, by_mean))
    assert bool(found) == bool(said)
    assert not found or found[0].startswith(said)


def with_scores(scores: list[float], alike: float = 1.0) -> Judged:
    given = judged(interval(scores, 0.9, alike))
    given.frames = [Frame(nth, score) for nth, score in enumerate(scores)]
    return given


def test_too_few_frames_are_told_with_how_many_would_do() -> None:
    rule = Rule(0.01, fitted=140)
    needed = scores_needed([1.0], 0.99, 0.9)
    (said,) = refusals(with_scores([1.0] * 60), rule)
    assert f"{needed} held-out frames that come out like these 60 would do: {ceil(needed / 0.3):,} frames" in said
    assert not refusals(with_scores([1.0] * needed), rule)
    (said,) = refusals(with_scores([1.0] * 600, 10.0), rule)
    assert f"{10 * needed:,} held-out frames that come out like these 600 would do" in said
    assert "frames that lie further apart, of a longer recording or of more of them, count for more" in said
    some = [0.0, *[1.0] * 399]
    (said,) = refusals(with_scores(some), rule)
    more = int(re.search(r"; ([\d,]+) held-out", said)[1].replace(",", ""))  # type: ignore[index]
    assert not refusals(with_scores(some * ceil(more / 400)), rule)
    (said,) = refusals(with_scores([0.99] * 400), Rule(0.01))
    assert "no number of frames like these would do" in said


def test_each_of_several_candidates_has_its_share_of_the_risk() -> None:
    """Of 20 candidates that lose more than is asked for, some looks good by chance."""
    random = np.random.default_rng(1)
    rule = Rule(0.02, candidates=20)
    kept = 0
    for _ in range(60):
        scores = (random.random((20, 600)) < 0.979).astype(float)
        best = max(scores, key=lambda each: each.mean())
        kept += not refusals(judged(interval(list(best), rule.confidence)), rule)
    assert kept <= 60 * RISK
    assert rule.confidence == 1 - 2 * RISK / 20


def test_what_the_original_has_lost_already_counts() -> None:
    given = judged(Interval(0.995, 0.992, 0.998, 500))
    assert not refusals(given, Rule(0.01))
    (said,) = refusals(given, Rule(0.01, lost=0.006))
    assert "and 0.996 is asked for (tolerance 0.01, of which 0.006 are lost already)" in said


def test_few_frames_that_nearly_agree_are_not_enough(root: Path) -> None:
    """Student's interval of 12 scores of 0.9999 ends at 0.9999."""
    found = optimized(root, NEARLY, by_mean=False)
    agreement = found.candidates[0].agreement
    assert found.number == 0
    assert agreement is not None
    assert agreement.mean > 0.999
    assert agreement.low < 0.5
    assert agreement.worth < agreement.count == 12


def test_a_batch_size_at_which_it_is_slower_is_named() -> None:
    given = judged(Interval(1.0, 1.0, 1.0, 500))
    given.times = {1: Compared([2e6] * 5, [1e6] * 5), 8: Compared([1e6] * 5, [3e6] * 5)}
    (said,) = refusals(given, Rule(0.01))
    assert said.startswith("it is not faster: 0.33 times as fast in batches of 8")


def test_they_run_by_turns_and_neighbours_are_compared() -> None:
    order: list[str] = []

    class Fake:
        def __init__(self, name: str, factor: int) -> None:
            self.name, self.factor = name, factor

        def time_ns(self, frames: object) -> int:
            order.append(self.name)
            return self.factor * (1 + len(order) // 16) * 10_000_000  # the machine becomes slower and slower

    frame = LearnFrame({}, "s", 0)
    found = compare(Fake("a", 2), Fake("b", 1), [frame], 2)
    assert found.ratio == pytest.approx(2.0, rel=0.01)
    assert "".join(order[:16]) == "aaaabbbbbbbbaaaa"


# ---- the report ----


def test_the_report_holds_everything_in_one_file(root: Path) -> None:
    found = optimized(root, NEARLY, WRONG, Cannot())
    page = report(found)
    for text in (
        "turn/2 is written, with original, nearly",
        "Accuracy against latency",
        "Worst frames of wrong",
        "0.99",
    ):
        assert text in page
    assert "it has no channels that could be left out" in page
    assert page.count('<div class="plot">') >= 1 + 2
    assert 'src="http' not in page
    assert "href=" not in page.partition("<script>")[0]


# ---- what goes wrong ----


def command(root: Path, *arguments: str) -> Result:
    page = root / "report.html"
    return CliRunner().invoke(
        models, ["optimize", str(root / "models"), "turn", "--report", str(page), *arguments], catch_exceptions=True
    )


def test_no_frames(root: Path) -> None:
    done = command(root, "--all")
    assert isinstance(done.exception, NoFrames)
    assert "say --frames PATH" in str(done.exception)
    assert inside(root) == ["1", "model.toml"]


def test_frames_that_do_not_fit(root: Path) -> None:
    np.save(root / "wide.npy", np.zeros((5, 7), np.float32))
    done = command(root, "--all", "--frames", str(root / "wide.npy"))
    assert isinstance(done.exception, NoFrames)
    assert "wide.npy fits the model" in str(done.exception)
    assert f"[{WIDTH}]" in str(done.exception)


def test_a_place_that_is_not_there(root: Path) -> None:
    done = command(root, "--all", "--frames", str(root / "gone.npy"))
    assert isinstance(done.exception, FileNotFoundError)
    assert done.exception.filename == str(root / "gone.npy")


def test_frames_that_the_model_refuses(root: Path) -> None:
    np.save(root / "nan.npy", np.full((6, WIDTH), np.nan, np.float32))
    with pytest.raises(NoFrames, match=r"turn/1 has no answer to 6 of 6 frames: input 'x': an element is NaN"):
        optimized(root, NEARLY, places=[root / "nan.npy"])


def test_a_tolerance_that_nobody_meets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly_learn.commands.optimize.STEPS", [WRONG])
    done = command(root, "--all", "--frames", str(root / "frames.npy"), "--tolerance", "0.001")
    assert done.exit_code == 1
    assert "nothing is faster within the tolerance of 0.001, and no version is written" in done.stderr
    assert "wrong: its agreement is" in done.stdout
    assert "Nothing is faster within the tolerance of 0.001" in (root / "report.html").read_text()
    assert inside(root) == ["1", "model.toml"]


def test_two_at_once(root: Path) -> None:
    with alone(root / "models/turn"), pytest.raises(Taken, match="turn is being optimised already"):
        optimized(root, NEARLY)
    assert optimized(root, NEARLY).number == 2


def test_what_one_that_was_killed_has_left_is_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    left, lives, young = (root / f"duly-optimizing-{name}" for name in ("left", "lives", "young"))
    for folder in (left, lives, young):
        folder.mkdir()
        (folder / "model.onnx").touch()
    for folder in (left, lives):
        os.utime(folder, (0, 0))
    (root / "models/turn/.2.340.partial").mkdir()
    descriptor = os.open(lives, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        optimized(root, NEARLY)
    finally:
        os.close(descriptor)
    assert inside(root) == ["1", "2", "model.toml"]
    assert sorted(path.name for path in root.glob("duly-optimizing-*")) == [lives.name, young.name]


def test_a_version_that_was_made_here_has_lost_something_already(root: Path) -> None:
    optimized(root, NEARLY)
    toml = root / "models/turn/2/model.toml"
    toml.write_text(toml.read_text().replace("accuracy = 1.0", "accuracy = 0.996"))
    said: list[str] = []
    found = optimize(asked(root, SAME), said.append)
    assert any("turn/2 agrees with turn/1, of which it was made, by 0.996" in line for line in said)
    assert found.rule.lost == pytest.approx(0.004)
    assert [variant.accuracy for variant in found.variants] == [pytest.approx(0.996)] * len(found.variants)
    assert json.loads((root / "models/turn/3/optimize.json").read_text())["lost_before"] == pytest.approx(0.004)


def test_what_an_inferred_measure_does_not_see_is_said(root: Path) -> None:
    said: list[str] = []
    optimize(asked(root, NEARLY), said.append)
    assert any("correlation of 'y' does not see a small change that turns one class" in line for line in said)
    config = root / "models/turn/model.toml"
    config.write_text(config.read_text() + '\n[task]\nmeasure = "correlation"\n')
    said.clear()
    optimize(asked(root, NEARLY), said.append)
    assert not any("does not see" in line for line in said)


def test_a_number_that_is_taken(root: Path) -> None:
    with pytest.raises(Taken, match="turn has a version 1 already; a version never changes"):
        optimized(root, NEARLY, number=1)
    assert optimized(root, NEARLY, number=9).number == 9


def test_a_number_that_is_taken_meanwhile(root: Path) -> None:
    class Meanwhile(Makes):
        def make(self, source: OptimizeSource, folder: Path) -> Candidate:
            (root / "models/turn/5").mkdir()
            (root / "models/turn/5/model.onnx").write_bytes(b"")
            return super().make(source, folder)

    with pytest.raises(Taken, match="turn has a version 5 already, which somebody made meanwhile"):
        optimized(root, Meanwhile("nearly", NEARLY.graph), number=5)
    assert inside(root) == ["1", "5", "model.toml"]


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """The kernel lets no file grow beyond this, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more(root: Path) -> None:
    version = version_of(root / "models", "turn")
    variants = [NewVariant("original", version.folder, "model.onnx", 1.0)]
    with files_no_larger_than(1000), pytest.raises(NoRoom, match="turn/2 cannot be written: File too large; it takes"):
        write_version(version, 2, variants, {}, {}, 1)
    assert inside(root) == ["1", "model.toml"]
    assert write_version(version, 2, variants, {}, {}, 1).name == "2"


def test_a_version_that_could_not_be_served_is_not_written(root: Path) -> None:
    (root / "models/turn/1/checks").mkdir()
    x = np.zeros(WIDTH, np.float32)
    np.savez(root / "models/turn/1/checks/a.npz", **{"input.x": x, "output.y": x + 1})
    with pytest.raises(Unfit, match=r"turn/2 is not written, as it cannot be served: turn/2/checks/a.npz: .*disagrees"):
        optimized(root, NEARLY)
    assert inside(root) == ["1", "model.toml"]


def test_an_end_in_the_middle_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("duly_learn.optimize.write._check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimized(root, NEARLY)
    assert inside(root) == ["1", "model.toml"]
    monkeypatch.undo()
    assert optimized(root, NEARLY).number == 2, "nor does it keep others out"


def test_a_candidate_whose_worker_dies_or_refuses_it_is_refused(root: Path) -> None:
    other = graphs.copying(("N", 3))
    found = optimized(root, Makes("other", other), NEARLY)
    assert found.candidates[0].refusals[0].startswith("its worker does not run it: ")
    assert "FP32[3]" in found.candidates[0].refusals[0]
    assert found.candidates[1].kept


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say --all, or some of --steps "),
        (["--all", "--steps", "fp16"], "say --all, or some of --steps"),
        (["--steps", "int8-statics"], "there is no step int8-statics; did you mean int8-static?"),
        (["--all", "--tolerance", "1"], "1"),
        (["--all", "--held-out", "0"], "0"),
    ],
)
def test_what_is_asked_for_and_makes_no_sense(root: Path, arguments: list[str], said: str) -> None:
    done = command(root, "--frames", str(root / "frames.npy"), *arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_model_that_is_not_there(root: Path) -> None:
    done = CliRunner().invoke(models, ["optimize", str(root / "models"), "tern", "--all"])
    assert done.exit_code == 1
    assert f"no model tern in {root / 'models'}; did you mean turn?" in done.stderr
    assert os.listdir(root / "models") == ["turn"]


def test_the_command_writes_version_and_report(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly_learn.commands.optimize.STEPS", [NEARLY])
    done = command(root, "--steps", "nearly", "--judge", "mean", "--frames", str(root / "frames.npy"))
    assert done.exit_code == 0, done.output
    assert "turn/2 is written" in done.stdout
    assert "turn/2 nearly: agreement" in done.stdout
    assert (root / "report.html").stat().st_size > 1_000_000, "the drawing library is in it"
