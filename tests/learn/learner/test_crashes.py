"""A learner that is killed at any step leaves the repository and the store as they were, and the next one goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from duly.models.repository import Repository
from duly.sampling.store import LABELLED, segment_numbers
from duly_learn.learner import main
from duly_learn.learner.main import Learner
from duly_learn.learner.telling import Teller
from tests.learn.learner.made import FOR_EVER, Driven, Told, versions_of
from tests.learn.learner.test_learner import Place

STEPS = ("read", "trust", "write job", "train", "validate", "publish", "rename", "published")


def run_dying(place: Place, step: str) -> int:
    command = [sys.executable, "-m", "tests.learn.learner.dying", step]
    command += ["--models", str(place.models), "--store", str(place.store)]
    return subprocess.run(command, stdout=subprocess.DEVNULL, timeout=600).returncode


@pytest.mark.timeout(300)
def test_a_crash_at_every_step_leaves_all_as_it_was_and_the_next_run_finishes(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.stream.send(400, 1)
    labels = segment_numbers(place.store / "fraud" / LABELLED)
    for step in STEPS:
        assert run_dying(place, step) == -9
        expected = [1, 2] if step == "published" else [1]
        assert versions_of(place.model) == expected, step
        versions, problems = Repository(place.models).scan()
        assert len(versions) == len(expected)
        assert not problems, step
        assert segment_numbers(place.store / "fraud" / LABELLED) == labels
    driven = Driven(place.models, place.store)
    driven.go_on()
    assert versions_of(place.model) == [1, 2]
    assert [path.name for path in place.model.iterdir() if path.name.startswith(".")] == []
    place.stream.send(200, 1)
    driven.go_on()
    assert [line["text"] for line in driven.told.of("problem")] == []


def test_a_version_of_a_learner_that_was_killed_before_it_wrote_that_down_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    place.stream.send(400, 1)
    assert run_dying(place, "published") == -9
    assert versions_of(place.model) == [1, 2]
    told = Told()
    learner = Learner(place.models, place.store, False, True, Teller(told.writing), FOR_EVER)
    for coming in ([], ["2"], []):  # not seen yet, on trial, and rolled back
        learner.serves({"fraud": {"active": "1", "coming": coming}})
        learner.turn(1.0)
        assert learner.waits_for_a_trial("fraud")
    monkeypatch.setattr(main, "SEEN_SECONDS", 0.0)
    learner.serves({"fraud": {"active": "1", "coming": []}})
    learner.turn(10.0)
    assert not learner.waits_for_a_trial("fraud")
    learner.join()
    assert told.of("step") == [], "the labels that it was made from were tried"
    assert told.of("state")[-1]["published"] == "2"
