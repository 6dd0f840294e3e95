"""Connections that only lie there are closed, and those with an open stream never are."""

from pathlib import Path

import grpc
import pytest

from tests.e2e.raw_http2 import ShutWindow
from tests.e2e.serving import serving
from tests.e2e.wire import ON_TIME, Wire, frame


async def test_idle_connections_are_closed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly.rpc.server.IDLE_MS_MAX", 200)
    async with (
        serving(repository) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double") as wire,
    ):
        for _ in range(2):
            idle = await ShutWindow.connect(app.address)
            await idle.ended()
            await idle.close()
        assert (await wire.ask(frame(1))).status == ON_TIME
