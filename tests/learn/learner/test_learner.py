"""The whole learner on a store: a shift is seen, learnt and recovered from; wrong labels and faults change nothing."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from duly.models.repository import Repository
from duly.sampling.files import read_file
from duly.sampling.store import LABELLED, segment_name, segment_numbers
from duly_learn.alone import alone
from duly_learn.learner.job import read_job
from duly_learn.learner.limits import Limits
from duly_learn.learner.main import InUse
from duly_learn.learner.old import OldFrames
from duly_learn.learner.validation import RENEWED_MAX
from tests.learn.concepts import FRAUD, INTRUSION, Concepts
from tests.learn.learner.made import FOR_EVER, TOML, Driven, Lie, Stream, put_model, versions_of


class Place:
    """A repository and a store with one model."""

    def __init__(self, folder: Path, concepts: Concepts = FRAUD, toml: str = TOML) -> None:
        self.models, self.store = folder / "models", folder / "store"
        self.store.mkdir(parents=True)
        self.model = put_model(self.models, concepts, toml)
        self.stream = Stream(self.store, self.model, concepts)
        self.work = self.store / ".learner" / concepts.name


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("concepts", [FRAUD, INTRUSION])
def test_a_shift_is_seen_learnt_and_recovered_from(tmp_path: Path, concepts: Concepts) -> None:
    place = Place(tmp_path, concepts)
    driven = Driven(place.models, place.store)
    before = place.stream.send(400, 0)
    driven.go_on()
    assert versions_of(place.model) == [1]
    shifted = place.stream.send(150, 1)
    driven.go_on()
    (drift,) = [line for line in driven.told.of("drift") if line["signal"] == "errors"]
    assert 400 < int(str(drift["at"])) <= 550
    for _ in range(4):
        place.stream.send(200, 1)
        driven.go_on()
    after = place.stream.send(300, 1)
    assert shifted < before - 0.2
    assert (after - shifted) / (before - shifted) >= 0.9
    learned = json.loads((place.model / str(versions_of(place.model)[-1]) / "learned.json").read_text())
    assert learned["figures"]["held_out"] >= 40
    versions, problems = Repository(place.models).scan()
    assert len(versions) == len(versions_of(place.model)) >= 2
    assert not problems


@pytest.mark.parametrize("restarted", [False, True])
def test_it_goes_on_where_numbers_of_segments_begin_again(place: Place, restarted: bool) -> None:
    driven = Driven(place.models, place.store)
    place.stream.send(400, 0)
    driven.go_on()
    for kind in ("frames", "labelled"):
        shutil.rmtree(place.stream.folder / kind)
        (place.stream.folder / kind).mkdir()
    driven.go_on()
    if restarted:
        os.close(driven.learner._lock)
        driven = Driven(place.models, place.store)
    place.stream.send(150, 0)
    driven.go_on()
    place.stream.send(200, 1)
    driven.go_on()
    assert driven.told.of("drift"), "what came since was read"


class Random(Lie):
    def __call__(
        self, random: np.random.Generator, numbers: np.ndarray, labels: np.ndarray, sources: Sequence[str]
    ) -> np.ndarray:
        return random.integers(0, 2, len(labels))


class Flipped(Lie):
    def __call__(
        self, random: np.random.Generator, numbers: np.ndarray, labels: np.ndarray, sources: Sequence[str]
    ) -> np.ndarray:
        return 1 - labels


class OneClientsFlips(Lie):
    """One of four clients says that its frauds are none."""

    def __call__(
        self, random: np.random.Generator, numbers: np.ndarray, labels: np.ndarray, sources: Sequence[str]
    ) -> np.ndarray:
        own = np.array([source == "bank-1" for source in sources])
        return np.where(own & (labels == 1), 0, labels)


@pytest.mark.parametrize(
    ("lie", "count"),
    [
        (Random(), 100),
        (Flipped(), 100),
        (OneClientsFlips(), 400),
        pytest.param(Random(), 400, marks=pytest.mark.thorough),
        pytest.param(Flipped(), 400, marks=pytest.mark.thorough),
        pytest.param(OneClientsFlips(), 800, marks=pytest.mark.thorough),
    ],
)
def test_poisoned_labels_are_not_promoted(place: Place, lie: Lie, count: int) -> None:
    """Of a window of 800 labels 10 to 50 % are wrong, or one client's frauds all along."""
    driven = Driven(place.models, place.store)
    place.stream.send(400, 0)
    driven.go_on()
    for _ in range(count // 100):
        place.stream.send(100, 0, lie)
        driven.go_on()
    for _ in range(2):
        place.stream.send(200, 0)
        driven.go_on()
    assert versions_of(place.model) == [1]
    assert place.stream.send(200, 0) > 0.95


def test_the_same_store_and_seed_make_the_same_bytes(tmp_path: Path) -> None:
    place = Place(tmp_path / "a")
    place.stream.send(400, 1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for name in ("a", "b"):
        driven = Driven(tmp_path / name / "models", tmp_path / name / "store")
        driven.go_on()
        assert [line["result"] for line in driven.told.of("attempt")] == ["published"], driven.told.lines
    first, second = ((tmp_path / name / "models" / "fraud" / "2" / "model.onnx").read_bytes() for name in ("a", "b"))
    assert first == second


def test_two_learners_on_one_store_are_told_so(place: Place) -> None:
    driven = Driven(place.models, place.store)
    with pytest.raises(InUse, match="another learner works on this store"):
        Driven(place.models, place.store)
    driven.go_on()


def test_labels_that_name_no_class_are_counted_and_no_more(place: Place) -> None:
    class Odd(Lie):
        def __call__(
            self, random: np.random.Generator, numbers: np.ndarray, labels: np.ndarray, sources: Sequence[str]
        ) -> np.ndarray:
            return labels + 7

    driven = Driven(place.models, place.store)
    place.stream.send(350, 0, Odd())
    driven.go_on()
    state = driven.told.of("state")[-1]
    assert (state["labels"], state["unusable_labels"]) == (0, 350)
    assert driven.told.of("attempt") == []


COMMAND = """
import json, shutil, sys
from pathlib import Path
job = Path(sys.argv[-1])
told = json.loads((job / "frames.json").read_text())
assert len(told) > 200 and {"label", "weight", "old"} == told[0].keys()
assert json.loads((job / "job.json").read_text())["version"] == "1"
shutil.copy(job / "better.onnx" if (job / "better.onnx").exists() else job / "from" / "model.onnx", job / "out")
"""


def with_command(*words: str, more: str = "") -> str:
    return TOML.replace("[learning]", f"[learning]\ncommand = {json.dumps([sys.executable, '-c', *words])}\n{more}", 1)


@pytest.mark.parametrize(
    ("program", "more", "result", "told"),
    [
        (COMMAND, "", "refused", "a gain of 0.0%"),
        ("import sys; sys.exit('no GPU today')", "", "failed", "exit status 1; its last lines: no GPU"),
        ("import os; os.kill(os.getpid(), 9)", "", "failed", "the trainer failed: killed by SIGKILL"),
        ("while True: pass", "train_s_max = 0.5", "failed", "the trainer was not done after 0.5 s"),
        ("x = bytearray(1 << 30)", "train_bytes_max = 200000000", "failed", "MemoryError"),
        ("print('done')", "", "failed", "has not made out/model.onnx"),
        ("import sys; open(sys.argv[-1] + '/out/model.onnx', 'w').write('x')", "", "failed", "fraud/2"),
    ],
)  # fmt: skip
def test_the_users_command_is_held_to_its_bounds(
    tmp_path: Path, program: str, more: str, result: str, told: str
) -> None:
    place = Place(tmp_path, toml=with_command(program, more=more))
    place.stream.send(400, 1)
    driven = Driven(place.models, place.store, commands=True)
    driven.go_on()
    (ended,) = driven.told.of("attempt")
    assert ended["result"] == result, ended
    assert told in str(ended["text"]), ended
    assert versions_of(place.model) == [1]


def test_a_command_that_the_server_does_not_allow_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    place = Place(tmp_path, toml=with_command(f"open({str(marker)!r}, 'w')"))
    place.stream.send(400, 1)
    driven = Driven(place.models, place.store)
    driven.go_on()
    (ended,) = driven.told.of("attempt")
    assert "set learn_commands" in str(ended["text"])
    assert not marker.exists()


def copied_to(folder: Path) -> str:
    """A trainer that copies its job away, and makes nothing."""
    return with_command(f"import shutil, sys; shutil.copytree(sys.argv[-1], {str(folder)!r}); sys.exit(1)")


def test_an_old_frame_whose_label_is_doubted_now_is_not_trained_on(tmp_path: Path) -> None:
    place = Place(tmp_path, toml=copied_to(tmp_path / "job"))
    place.stream.send(400, 0, OneClientsFlips())
    labelled = place.stream.folder / LABELLED
    rows = [row for number in segment_numbers(labelled) for row in read_file(labelled / segment_name(number))]
    OldFrames(place.work / "old", 1000, 0, 1 << 30).add(0, rows)  # believed at an earlier attempt
    driven = Driven(place.models, place.store, commands=True)
    driven.go_on()
    assert [line["result"] for line in driven.told.of("attempt")] == ["failed"]
    _, lessons = read_job(tmp_path / "job")
    assert len(lessons) > 100
    senders = {lesson.sample.labelled.principal for lesson in lessons if lesson.sample.labelled is not None}
    assert senders == {"bank-0", "bank-2", "bank-3"}
    assert not any(lesson.old for lesson in lessons)


def test_the_frames_of_an_attempt_are_bounded_by_bytes_and_the_newest_are_taken(tmp_path: Path) -> None:
    place = Place(tmp_path, toml=copied_to(tmp_path / "job"))
    place.stream.send(400, 1)
    a_frame = len(FRAUD.features) * 4 + 2 * 4 + 8  # input, scores, label
    limits = replace(FOR_EVER, memory_bytes_max=8 * 300 * a_frame)
    Driven(place.models, place.store, commands=True, limits=limits).go_on()
    _, lessons = read_job(tmp_path / "job")
    assert min(lesson.sample.frame_id for lesson in lessons) > 100

    place = Place(tmp_path / "told")
    place.stream.send(400, 1)
    driven = Driven(place.models, place.store, limits=limits)
    driven.go_on()
    (ended,) = driven.told.of("attempt")
    assert "left out: the oldest 100 of 400 labels" in str(ended["text"]), ended
    assert "learn_memory_bytes_max and train_bytes_max" in str(ended["text"])


def test_what_the_learner_copies_of_frames_is_let_go_by_age(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.stream.send(400, 1)
    first = Driven(place.models, place.store)
    first.go_on()
    os.close(first.learner._lock)  # as when it ends
    assert list((place.work / "old").glob("*.npz"))
    assert not (place.work / "job").exists()
    (place.work / "job" / "frames").mkdir(parents=True)  # of a learner that was killed
    shutil.copytree(place.work, place.work.with_name("another"))  # of a model that learns no more
    Driven(place.models, place.store, limits=Limits()).go_on()
    for work in (place.work, place.work.with_name("another")):
        assert not list((work / "old").glob("*.npz"))
        assert not (work / "job").exists()


def test_what_a_version_says_of_itself_names_no_sender(place: Place) -> None:
    place.stream.send(400, 0)
    driven = Driven(place.models, place.store)
    driven.go_on()
    place.stream.send(600, 1, OneClientsFlips())
    driven.go_on()
    told = [(place.model / str(number) / "learned.json").read_text() for number in versions_of(place.model)[1:]]
    assert told
    assert any(json.loads(each)["not_believed"] > 0 for each in told)
    assert not any("bank" in each for each in told)


def test_nothing_is_made_while_somebody_else_makes_a_version(place: Place) -> None:
    place.stream.send(400, 1)
    half = place.model / ".learning-12"
    half.mkdir()
    driven = Driven(place.models, place.store)
    half.mkdir(exist_ok=True)
    with alone(place.model):
        driven.go_on()
        driven.go_on()  # it hears how the attempt ended when it looks again
        (problem,) = driven.told.of("problem")
        assert "a version is being made already" in str(problem["text"])
        assert half.exists(), "it may be in use"
        assert driven.told.of("attempt") == []
    for _ in range(4):
        driven.go_on()
    assert versions_of(place.model) == [1, 2]
    assert not half.exists()


@pytest.mark.parametrize(("renewed", "judged"), [(0, 0), (RENEWED_MAX - 1, 0), (RENEWED_MAX, 5)])
def test_the_risk_begins_anew_with_a_drift_and_only_so_often(place: Place, renewed: int, judged: int) -> None:
    place.stream.send(200, 0)
    place.stream.send(150, 1)
    place.work.mkdir(parents=True)
    state = place.work / "state.json"
    state.write_text(json.dumps({"judged": 5, "judged_from": "1", "renewed": renewed}))
    driven = Driven(place.models, place.store)
    driven.learner.turn(1.0)
    assert [line["signal"] for line in driven.told.of("drift")] == ["errors"]
    found = json.loads(state.read_text())
    assert (found["judged"], found["renewed"]) == (judged, min(renewed + 1, RENEWED_MAX))
