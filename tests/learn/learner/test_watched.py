"""What a learner makes of a store that is odd, and of versions that are on their way."""

from pathlib import Path

import numpy as np
import pytest

from duly.sampling.files import write
from duly.sampling.sample import Form, Labelled, Sample
from duly.sampling.store import FRAMES, LABELLED, segment_name
from duly_learn.learner.main import Learner
from duly_learn.learner.telling import Teller
from tests.learn.concepts import FRAUD
from tests.learn.learner.made import FOR_EVER, TOML, Driven, Stream, Told, put_model

NAMED = TOML.replace("[learning]", '[learning]\noutput = "scores"', 1)


def odd(scores: np.ndarray, data_type: str) -> Sample:
    """A labelled frame whose scores are none."""
    form = Form(FRAUD.name, "1", {"input.x": "FP32", "output.scores": data_type}, {"scores": scores.shape})
    inputs = np.zeros(len(FRAUD.features), np.float32)
    sample = Sample(
        form, "default", "s-1", 1, 1_000_000, 0, "ON_TIME", "client", {"input.x": inputs, "output.scores": scores}
    )
    return sample.with_labels({"label": np.array([1], np.int64)}, {"label": "INT64"}, Labelled(2_000_000, "bank"))


@pytest.mark.parametrize(
    ("scores", "data_type"), [(np.array(["yes", "no"]), "STRING"), (np.empty(0, np.float32), "FP32")]
)
def test_scores_that_are_none_are_counted_and_stop_nobody(tmp_path: Path, scores: np.ndarray, data_type: str) -> None:
    models, store = tmp_path / "models", tmp_path / "store"
    store.mkdir()
    stream = Stream(store, put_model(models, FRAUD, NAMED, rows=200), FRAUD)
    for kind in (FRAMES, LABELLED):
        write(store / FRAUD.name / kind / segment_name(1), [odd(scores, data_type)], segment=True)
    stream.send(50, 0)
    driven = Driven(models, store)
    driven.go_on()
    state = driven.told.of("state")[-1]
    assert (state["frames"], state["labels"], state["unusable_labels"]) == (51, 50, 1)


def test_a_row_that_cannot_be_taken_is_told_and_passed_over(tmp_path: Path) -> None:
    models, store = tmp_path / "models", tmp_path / "store"
    store.mkdir()
    stream = Stream(store, put_model(models, FRAUD, rows=200), FRAUD)
    form = Form(FRAUD.name, "1", {"input.x": "FP32", "output.scores": "FP32"}, {"scores": (2,)})
    arrays = {"input.x": np.zeros(3, np.float32), "output.scores": np.array([0.5, 0.5], np.float32)}
    stream.send(50, 0)
    other = Sample(form, "default", "s-1", 1, 1_000_000, 0, "ON_TIME", "client", arrays)
    write(store / FRAUD.name / FRAMES / segment_name(2), [other], segment=True)
    stream.send(50, 0)
    driven = Driven(models, store)
    driven.go_on()
    assert int(str(driven.told.of("state")[-1]["labels"])) == 100


@pytest.mark.parametrize(("coming", "on_trial"), [(["2"], True), (["7"], True), (["1"], False), ([], False)])
def test_a_learner_that_was_started_again_waits_for_what_is_on_trial(
    tmp_path: Path, coming: list[str], on_trial: bool
) -> None:
    models, store = tmp_path / "models", tmp_path / "store"
    store.mkdir()
    put_model(models, FRAUD, rows=200)
    learner = Learner(models, store, False, True, Teller(Told().writing), FOR_EVER)
    learner.serves({FRAUD.name: {"active": "1", "coming": coming}})
    assert learner.waits_for_a_trial(FRAUD.name) is on_trial
