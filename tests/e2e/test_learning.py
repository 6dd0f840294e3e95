"""A server that learns: real frames, labels, workers and learner; nobody does anything by hand."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from duly.app import App
from duly.metric_families import Families
from duly.runtime import learning
from duly.start_error import StartError
from duly_client import Client
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.waiting import until
from tests.learn.concepts import FRAUD, INTRUSION, Concepts
from tests.learn.learner.made import TOML, put_model
from tests.learn.shifting import run, told

pytestmark = pytest.mark.learn


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def learner_pid(app: App) -> int:
    """The process that learns; 0: there is none."""
    process = app.learning._process
    return process.pid if process is not None and process.poll() is None else 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("concepts", "shifts"),
    [
        (FRAUD, 1),
        pytest.param(FRAUD, 2, marks=pytest.mark.thorough),
        pytest.param(INTRUSION, 2, marks=pytest.mark.thorough),
    ],
)
async def test_shifts_are_seen_and_recovered_from_while_all_frames_are_answered(
    tmp_path: Path, store: Path, concepts: Concepts, shifts: int
) -> None:
    models = tmp_path / "models"
    put_model(models, concepts)
    frames = 1300 if shifts == 1 else 1800
    async with serving(models, learn=store, watch="activate", watch_settle_s=0.1, metrics="127.0.0.1:0") as app:
        report = await run(app, concepts, frames, 0.0, shifts, wait_every=100)
        assert len(report.shifts) == shifts
        for shift in report.shifts:
            assert shift.before - shift.after > 0.15, told(concepts, report)
            assert shift.seen_after is not None
            assert shift.seen_after <= 300, told(concepts, report)
            # A learner that gets little of the machine has less of a short stream left to show what it learnt.
            assert shift.share >= (0.9 if shifts > 1 else 0.5), told(concepts, report)
        assert report.versions[0] == "1"
        assert len(report.versions) > shifts
        learned = app.learning.models[concepts.name]
        assert learned.attempts["published"] >= shifts
        samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for metric in Families(app.metrics).collect()
            for sample in metric.samples
        }
        assert samples["duly_drift_total", ("model", concepts.name), ("signal", "errors")] >= shifts
        published = "duly_learning_attempts_total", ("model", concepts.name), ("result", "published")
        assert samples[published] == learned.attempts["published"]


async def test_a_learner_that_is_killed_is_started_again_and_frames_go_on(tmp_path: Path, store: Path) -> None:
    models = tmp_path / "models"
    put_model(models, FRAUD)
    async with serving(models, learn=store) as app, Client(app.address) as client:
        await until(lambda: app.learning.models.get("fraud"), "the learner has told of the model")
        for life in range(2):
            pid = learner_pid(app)
            assert pid
            await until(lambda pid=pid: os.sched_getscheduler(pid) == os.SCHED_IDLE, "it has stepped back")
            os.kill(pid, signal.SIGKILL)
            async with client.stream("fraud", budget_ms=30_000) as stream:
                for _ in range(5):
                    await stream.send(np.zeros(7, np.float32))
                    assert (await anext(stream)).ok
            await until(lambda life=life: app.learning.restarts > life, "its end is seen")
            await until(lambda pid=pid: learner_pid(app) not in (0, pid), "another one runs")
        last = learner_pid(app)
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


async def test_no_learner_runs_where_no_model_learns(tmp_path: Path, store: Path) -> None:
    models = graphs.save(tmp_path / "models", "double", graphs.doubling())
    async with serving(models, learn=store) as app, Client(app.address) as client:
        assert (await client.infer("double", np.zeros(4, np.float32), budget_ms=30_000)).ok
        assert not app.learning.wanted
        assert learner_pid(app) == 0


async def test_without_what_it_needs_the_server_does_not_start(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = graphs.save(tmp_path / "models", "double", graphs.doubling())
    monkeypatch.setattr(learning, "_NEEDED", ("river", "no_such_package_of_anybody"))
    with pytest.raises(
        StartError, match=r"learn: the package no_such_package_of_anybody .*pip install 'duly\[learn\]'"
    ):
        async with serving(models, learn=store):
            pass


@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_a_version_that_was_learnt_is_tried_on_live_frames_before_it_serves(tmp_path: Path, store: Path) -> None:
    models = tmp_path / "models"
    trial = "[trial]\nagreement_min = 0\nframes_min = 20\nrisk = 0.2\non_time_worse_max = 0.5\nshadow_share = 1.0\n"
    trial += "canary_share = 0.5\nshadow_s_max = 2\ncanary_s_max = 4\nat_limit = 'GO_ON'\n"
    put_model(models, FRAUD, TOML + trial)
    # On a machine that has no time to spare the shadow and the canary prove nothing, and go on all the same.
    async with serving(models, learn=store, watch="activate", watch_settle_s=0.1) as app:
        # Frames come by the clock, and two versions share them for as long as a trial takes: there is time for several.
        report = await run(app, FRAUD, 1300, 50.0, 1, wait_every=100, streams=4)
        (shift,) = report.shifts
        assert shift.share >= 0.9, told(FRAUD, report)
        assert "2" in report.versions
        stages = [line.stage.name for line in app.trials.reports() if line.name == "fraud"]
        assert "ACTIVE" in stages
        assert "ROLLED_BACK" not in stages
