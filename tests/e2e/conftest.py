"""A real server in the test's own event loop, its workers real processes, its clients real gRPC over loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import graphs
import grpc
import pytest

from duly.app import App
from duly.config import ServerConfig



@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """`double` (y = 2x, 4 wide), `sum` (stateful running sum, 2 wide)."""
    root = tmp_path / "models"
    graphs.save(root, "double", graphs.scale(), toml="warmup_runs = 3\n")
    graphs.save(root, "sum", graphs.running_sum(), toml="warmup_runs = 3\n" + graphs.RUNNING_SUM_TOML)
    return root


@contextlib.asynccontextmanager
async def serving(models: Path, **settings: Any) -> AsyncIterator[App]:
    app = App(ServerConfig(models=models, **({"listen": "127.0.0.1:0", "threads": 1} | settings)))
    try:
        await app.start()
        yield app
    finally:
        await app.close()


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
    """A server and the loop that it runs in, for tests that are no coroutines."""
    with asyncio.Runner() as runner:
        manager = serving(repository)
        app = runner.run(manager.__aenter__())
        yield runner, app
        runner.run(manager.__aexit__(None, None, None))
