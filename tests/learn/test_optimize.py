"""From frames to a new version: what is kept, what is not and why, and that nothing is left half-written.

Where it matters that a candidate is faster it does a hundredth of the original's work.
"""

import asyncio
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from duly.agreement.interval import Interval
from duly.cli_models import models
from duly.models.repository import Repository
from duly.models.sizes import SizeLimits
from duly.runtime.worker_launch import check_version
from duly_learn.alone import Taken, alone
from duly_learn.frames.frame import LearnFrame
from duly_learn.frames.places import NoFrames
from duly_learn.optimize.judge import refusals
from duly_learn.optimize.judged import Judged
from duly_learn.optimize.page import report
from duly_learn.optimize.run import Asked, Found, optimize
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused, Step
from duly_learn.optimize.timing import Compared, compare
from duly_learn.optimize.write import NewVariant, NoRoom, Unfit, write_version
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
    given = Asked(version_of(root / "models", "turn"), [root / "frames.npy"], steps, 0.01)
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
    return Judged("x", agreement=scores, times=times, same=same)


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
    found = refusals(given, 0.01, by_mean)
    assert bool(found) == bool(said)
    assert not found or found[0].startswith(said)


def test_too_few_frames_are_told_with_how_many_would_do() -> None:
    (said,) = refusals(judged(Interval(1.0, 0.94, 1.0, 60)), 0.01, False)
    assert "381 frames that all agree would do" in said


def test_a_batch_size_at_which_it_is_slower_is_named() -> None:
    given = judged(Interval(1.0, 1.0, 1.0, 500))
    given.times = {1: Compared([2e6] * 5, [1e6] * 5), 8: Compared([1e6] * 5, [3e6] * 5)}
    (said,) = refusals(given, 0.01, False)
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
    with alone(root / "models/turn"), pytest.raises(Taken, match="turn: a version is being made already"):
        optimized(root, NEARLY)
    assert optimized(root, NEARLY).number == 2


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
    done = command(root, "--steps", "nearly", "--frames", str(root / "frames.npy"))
    assert done.exit_code == 0, done.output
    assert "turn/2 is written" in done.stdout
    assert "turn/2 nearly: agreement" in done.stdout
    assert (root / "report.html").stat().st_size > 1_000_000, "the drawing library is in it"
