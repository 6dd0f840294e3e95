"""Where the system has no memory, a stream is refused or a frame fails, and nobody's process ends."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from duly_client import Client, Status, StreamRefused
from duly_client.errors import LocalUnavailable
from tests import graphs
from tests.chaos.rig import Rig
from tests.no_room import without_room

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 32 << 10
"""Nothing of so many bytes is to be had for the server below; the memory for outcomes has more."""
SMALL, LARGE = np.ones(1, np.float32), np.ones(SIZE, np.float32)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="duly-") as name:
        yield Path(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(folder: Path) -> AsyncIterator[Rig]:
    graphs.save(
        folder / "models", "any", graphs.copying(("N", "W")), toml='[[input]]\nname = "x"\nbytes_max = 1_000_000\n'
    )
    entry = ("-m", "tests.no_room", str(SIZE), "duly.cli")
    async with Rig(folder / "models", folder / "server", "--local", str(folder / "local.sock"), entry=entry) as rig:
        yield rig


async def test_a_stream_without_memory_for_outcomes_goes_over_grpc(rig: Rig, folder: Path) -> None:
    with pytest.raises(StreamRefused, match="the system has no room for the stream's shared memory") as refused:
        async with Client(f"local:{folder}/local.sock", reconnect=False) as client, client.stream("any"):
            pass
    assert (refused.value.reason, refused.value.metadata) == ("STREAMS_EXHAUSTED", {"transport": "grpc"})
    async with Client(rig.address) as client, client.stream("any", budget_ms=60_000) as stream:
        await stream.send(SMALL)
        assert (await anext(stream)).status is Status.ON_TIME


async def test_a_frame_that_there_is_no_memory_for_fails_alone(rig: Rig) -> None:
    async with Client(rig.address) as client, client.stream("any", backlog="ALL", budget_ms=60_000) as stream:
        for _ in range(3):
            await stream.send(LARGE)
            outcome = await anext(stream)
            assert outcome.status is Status.FAILED
            assert outcome.reason == "the batch could not be handed to its worker"
            await stream.send(SMALL)
            assert (await anext(stream)).status is Status.ON_TIME
    assert rig.alive


async def test_a_client_without_memory_for_frames_goes_over_grpc(folder: Path) -> None:
    graphs.save(folder / "double", "double", graphs.scaling())
    path = str(folder / "double.sock")

    async def stream_a_frame() -> Status:
        with pytest.raises(
            LocalUnavailable, match=r"there is no memory to share with local:.* No space left on device"
        ):
            async with Client(f"local:{path}", reconnect=False) as client, client.stream("double"):
                pass
        async with Client(rig.address) as client, client.stream("double", budget_ms=60_000) as stream:
            await stream.send(np.float32([1, 2, 3, 4]))
            return (await anext(stream)).status

    async with Rig(folder / "double", folder / "double_server", "--local", path) as rig:
        status = await asyncio.to_thread(without_room, lambda: asyncio.run(stream_a_frame()), size_bytes=1)
        assert status is Status.ON_TIME
