"""A real server in the test's own event loop; its workers are real processes."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from duly.app import App
from duly.config import ServerConfig
from tests.lane import lane


@contextlib.asynccontextmanager
async def serving(models: Path, **settings: Any) -> AsyncIterator[App]:
    plain = {"listen": "127.0.0.1:0", "threads": 1, "lanes": (lane(),)}
    app = App(ServerConfig(models=models, **(plain | settings)))
    try:
        await app.start()
        yield app
    finally:
        await app.close()
