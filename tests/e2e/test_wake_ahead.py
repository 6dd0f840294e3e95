"""A server that stays awake for what is about to happen serves as any other, and one that may not says so."""

import os
import signal
from pathlib import Path

import grpc
import pytest

from duly.runtime.worker_process import ROUSED_MAX
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import ON_TIME, Wire, array, frame

PERIOD_NS = 3_000_000


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    graphs.save(tmp_path, "double", graphs.scaling())
    return tmp_path


async def test_periodic_frames_are_answered_by_a_worker_that_is_roused_for_each(repository: Path) -> None:
    async with (
        serving(repository, wake_ahead=True) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double", expected_period_nano=PERIOD_NS) as wire,
    ):
        for number in range(1, 101):
            outcome = await wire.ask(frame(number, [number] * 4))
            assert (outcome.status, array(outcome).tolist()) == (ON_TIME, [2.0 * number] * 4)


async def test_a_worker_that_is_stopped_is_roused_a_few_times_and_then_answers_what_waits(repository: Path) -> None:
    async with serving(repository, wake_ahead=True) as app, grpc.aio.insecure_channel(app.address) as channel:
        (loaded,) = app.catalogue.all_versions()
        (worker,) = loaded.workers.values()
        os.kill(worker.pid, signal.SIGSTOP)
        for _ in range(1000):
            app.driver.expect_frame("double/1", 0)
        assert worker._roused == ROUSED_MAX
        os.kill(worker.pid, signal.SIGCONT)
        async with Wire(channel, model="double") as wire:
            assert (await wire.ask(frame(1, [1, 2, 3, 4]))).status == ON_TIME
