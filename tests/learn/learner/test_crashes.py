"""A learner that is killed at any step leaves the repository and the store as they were, and the next one goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from duly.models.repository import Repository
from duly.sampling.store import LABELLED, segment_numbers
from tests.learn.learner.made import Driven, versions_of
from tests.learn.learner.test_learner import Place

STEPS = ("read", "trust", "write job", "train", "validate", "publish", "rename", "published")


def run_dying(place: Place, step: str) -> int:
    command = [sys.executable, "-m", "tests.learn.learner.dying", step]
    command += ["--models", str(place.models), "--store", str(place.store)]
    return subprocess.run(command, stdout=subprocess.DEVNULL, timeout=100).returncode


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
