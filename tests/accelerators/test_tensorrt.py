"""A model that asks for TensorRT on a GPU's lane is served by it, or is refused: never by CUDA or the CPU in its place.
It has not run on a GPU yet.
"""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from duly.accelerators import TENSORRT
from duly.app import App
from tests import graphs
from tests.accelerators.test_served import TOML, asked, loaded, seeing
from tests.e2e.serving import serving
from tests.e2e.test_hostile_workers import replaced

ASKS = f'providers = [{{ name = "{TENSORRT}" }}]\n'


@pytest.fixture
async def server(tmp_path: Path, lane: str) -> AsyncIterator[App]:
    if not lane.startswith("cuda:"):
        pytest.skip("TensorRT runs on lanes of CUDA")
    models = graphs.save(tmp_path / "models", "eye", seeing(), ASKS + TOML)
    async with serving(models, lanes=(lane,)) as app:
        yield app


async def test_tensorrt_runs_the_graph_in_batches_and_again_after_its_worker_was_killed(server: App) -> None:
    assert loaded(server).providers == [(TENSORRT,)]
    async with grpc.aio.insecure_channel(server.address) as channel:
        await asked(channel, 1)
        await asked(channel, 11)
        (worker,) = loaded(server).workers.values()
        os.kill(worker.pid, signal.SIGKILL)
        await replaced(loaded(server), worker)
        assert loaded(server).providers == [(TENSORRT,)]
        await asked(channel, 5)
