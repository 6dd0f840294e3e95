"""A real server in the test's own event loop; its workers are real processes."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from duly.app import App
from duly.config import ServerConfig


@contextlib.asynccontextmanager
async def serving(models: Path, **settings: Any) -> AsyncIterator[App]:
    app = App(ServerConfig(models=models, **({"listen": "127.0.0.1:0", "threads": 1} | settings)))
    try:
        await app.start()
        yield app
    finally:
        await app.close()
