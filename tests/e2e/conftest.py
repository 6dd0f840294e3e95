"""A real server in the test's own event loop; its workers are real processes, its clients real gRPC over loopback."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from duly.app import App
from tests import graphs
from tests.e2e.serving import serving


def write_models(root: Path) -> None:
    graphs.save(root, "double", graphs.scaling())
    graphs.save(root, "sum", graphs.summing(), toml='default_backlog = "ALL"\n' + graphs.SUMMING)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with `double` (y = 2x, 4 wide) and `sum` (a stateful running sum, 2 wide)."""
    write_models(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def slow_model(tmp_path: Path) -> Path:
    """A repository with model `m`, which takes milliseconds for each frame and runs frames one by one."""
    root = tmp_path / "models"
    graphs.save(root, "m", graphs.slow(rounds=20), toml="batch_sizes = [1]\n")
    return root


@pytest.fixture
async def server(repository: Path) -> AsyncIterator[App]:
    async with serving(repository) as app:
        yield app


@pytest.fixture
async def channel(server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def wire_loop(repository: Path) -> Iterator[tuple[asyncio.Runner, App]]:
    """A server and the loop that it runs in, for tests that are not coroutines. It keeps samples, as the law is to hold
    whatever looks at frames.
    """
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory(prefix="duly-") as folder:
        manager = serving(repository, local=f"{folder}/local.sock", sample=folder, sample_streams_max=8)
        app = runner.run(manager.__aenter__())
        yield runner, app
        runner.run(manager.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def shared_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shared") / "models"
    write_models(root)
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_server(shared_repository: Path) -> AsyncIterator[App]:
    """One server for all tests of a module that leave it as it was."""
    async with serving(shared_repository) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def shared_channel(shared_server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(shared_server.address) as channel:
        yield channel
