"""A bridge without Zenoh: samples are handed over as its threads do, and the server is a real one."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from duly.app import App
from duly.streams.errors import CallError
from duly_client import Client, Stream
from duly_gateways.settings_file import Table
from duly_gateways.zenoh.bridge import ARRIVING_MAX, HELD_BYTES_MAX, Bridging, Sample
from duly_gateways.zenoh.settings import read_settings
from tests import graphs
from tests.e2e.serving import serving

JOINTS = np.float32([1, 2, 3, 4]).tobytes()


class Heard:
    """What is published."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._came = asyncio.Event()

    def publish(self, key: str, payload: bytes, encoding: str, attachment: bytes) -> None:
        self.told.append((key, json.loads(payload)))
        self._came.set()

    async def until(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        while len(self.told) < count:
            self._came.clear()
            await asyncio.wait_for(self._came.wait(), 60)
        return self.told


class Keeping(Client):
    """Knows the streams that it has opened."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.streams: list[Stream] = []

    def stream(self, *args: Any, **more: Any) -> Stream:
        self.streams.append(super().stream(*args, **more))
        return self.streams[-1]


def sample(data: bytes = JOINTS, size_bytes: int | None = None, key: str = "a") -> Sample:
    return Sample(key, "zenoh/bytes", data, len(data) if size_bytes is None else size_bytes, 0, b"", False)


def bridging(client: Client, heard: Heard) -> Bridging:
    bridge = {"subscribe": "*", "model": "double", "budget_ms": 20_000, "backlog": "ALL", "sample_bytes_max": 64 << 20}
    return Bridging(read_settings(Table("", {"bridge": [bridge]})).bridges[0], client, heard.publish)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[App]:
    graphs.save(tmp_path / "models", "double", graphs.scaling())
    async with serving(tmp_path / "models") as app:
        yield app


@pytest.mark.asyncio
async def test_a_sample_that_comes_when_its_stream_has_ended_is_told(server: App) -> None:
    heard = Heard()
    async with Keeping(server.address) as client:
        bridge = bridging(client, heard)
        bridge.arrived(sample())
        assert (await heard.until(1))[0][1]["status"] == "ON_TIME"
        (served,) = server.streams._open
        served.end(CallError("STREAM_OPENED_TWICE", "for the test"))
        (stream,) = client.streams
        while not stream._sender._stopped:  # noqa: ASYNC110  # nothing else tells so
            await asyncio.sleep(0)
        bridge.arrived(sample())
        key, told = (await heard.until(2))[1]
        assert (key, told["status"]) == ("a/outcome/error", "CANCELLED")
        assert "for the test" in told["reason"]
        await bridge.close()


@pytest.mark.asyncio
async def test_samples_that_wait_have_so_many_bytes_at_most(server: App) -> None:
    async with Client(server.address) as client:
        bridge = bridging(client, Heard())
        for _ in range(ARRIVING_MAX):
            bridge.arrived(sample(bytes(32 << 20)))
        assert bridge.counts["dropped"] == ARRIVING_MAX - HELD_BYTES_MAX // (32 << 20)
        await bridge.close()


@pytest.mark.asyncio
async def test_what_has_gone_makes_room(server: App) -> None:
    heard = Heard()
    async with Client(server.address) as client:
        bridge = bridging(client, heard)
        big = bytes(48 << 20)
        for nth in range(8):  # in all more than may wait at once; each is INVALID, as the model takes four numbers
            bridge.arrived(sample(big))
            assert "the sample has" in (await heard.until(nth + 1))[nth][1]["reason"]
        bridge.arrived(sample(b"", size_bytes=1 << 40))
        assert "(sample_bytes_max)" in (await heard.until(9))[8][1]["reason"]
        assert bridge.counts["dropped"] == 0
        await bridge.close()
