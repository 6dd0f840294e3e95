"""Large pictures beside a stream that was promised more than a lane could give while it decodes them: they are read by
a process of their own, and get the results that they would get otherwise.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import pytest_asyncio

from duly.app import App
from duly.runtime.read_apart import _Reader
from duly_client import Client, Outcome, Status, Stream
from tests import graphs
from tests.e2e.serving import serving

pytestmark = pytest.mark.timeout(120)

CAMERA = """default_budget_ms = 60000
batch_sizes = [1]
[[input]]
name = "x"
encodings = ["JPEG"]
preprocess = [{ op = "resize", width = 8, height = 8 }]
"""
SIDE = 2600


def photograph(seed: int) -> bytes:
    """Noise of several million pixels, which takes a lane many times as long as the period of `promised`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(pixels, (SIDE, SIDE)), [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()


@pytest_asyncio.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    graphs.save(tmp_path, "camera", graphs.copying(("N", 8, 8, 3), graphs.UINT8), CAMERA)
    graphs.save(tmp_path, "control", graphs.scaling(), "batch_sizes = [1]\n")
    async with serving(tmp_path, admission="advise") as app:  # whatever the machine is busy with
        yield app


@pytest_asyncio.fixture
async def client(app: App) -> AsyncIterator[Client]:
    async with Client(app.address) as client:
        yield client


def promised(client: Client) -> Stream:
    return client.stream("control", stream_class="CRITICAL", period_ms=20, budget_ms=20)


def pictures(client: Client) -> Stream:
    return client.stream("camera", stream_class="BEST_EFFORT", backlog="ALL", budget_ms=60_000)


async def in_order(stream: Stream, count: int) -> list[Outcome]:
    """Returns the next outcomes in the order of their frames, which need not be that in which they come."""
    return sorted([await anext(stream) for _ in range(count)], key=lambda outcome: outcome.frame_id)


async def reader_of(app: App) -> _Reader:
    """Waits until a picture is being read."""
    readers = app._supervisor.apart._readers
    while "camera/1" not in readers or readers["camera/1"]._worker is None:
        await asyncio.sleep(0.01)
    return readers["camera/1"]


def pid_of(reader: _Reader) -> int:
    assert reader._worker is not None
    return reader._worker.pid


async def test_they_are_served_as_they_would_be_without_it(app: App, client: Client) -> None:
    photographs = [photograph(seed) for seed in range(3)]
    expected = [(await client.infer("camera", each, encoding="JPEG")).outputs["y"] for each in photographs]
    assert not app._supervisor.apart._readers, "a lane has the time"
    async with promised(client), pictures(client) as stream:
        for each in photographs:
            await stream.send(each, encoding="JPEG")
        outcomes = await in_order(stream, 3)
        reader = await reader_of(app)
        assert os.sched_getscheduler(pid_of(reader)) == os.SCHED_IDLE
    assert [outcome.status for outcome in outcomes] == [Status.ON_TIME] * 3
    for outcome, wanted in zip(outcomes, expected, strict=True):
        assert (outcome.outputs["y"] == wanted).all()
    assert app._gauges().frames_read_apart == {"camera/1": 3}
    pid = pid_of(reader)
    await app.host.unload("camera", "")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_one_that_is_damaged_is_invalid_and_the_next_is_served(client: Client) -> None:
    whole = photograph(1)
    async with promised(client), pictures(client) as stream:
        await stream.send(whole[: len(whole) // 2], encoding="JPEG")
        await stream.send(whole, encoding="JPEG")
        damaged, served = await in_order(stream, 2)
    assert (damaged.status, served.status) == (Status.INVALID, Status.ON_TIME)
    assert "is damaged or cut off" in damaged.reason


async def test_where_its_process_dies_one_frame_fails_and_the_others_are_served(app: App, client: Client) -> None:
    async with promised(client), pictures(client) as stream:
        await stream.send(photograph(1), encoding="JPEG")
        assert (await anext(stream)).status is Status.ON_TIME
        reader = await reader_of(app)
        os.kill(pid_of(reader), signal.SIGSTOP)
        for seed in (2, 3):
            await stream.send(photograph(seed), encoding="JPEG")
        while reader._reading is None:
            await asyncio.sleep(0.01)
        os.kill(pid_of(reader), signal.SIGKILL)
        outcomes = sorted(
            [await anext(stream), await anext(stream)], key=lambda outcome: outcome.status is Status.ON_TIME
        )
    assert [outcome.status for outcome in outcomes] == [Status.FAILED, Status.ON_TIME]
    assert outcomes[0].reason == "its pictures could not be read: the process that reads them ended"


async def test_one_that_is_withdrawn_or_whose_stream_closes_meanwhile_has_its_outcome(app: App, client: Client) -> None:
    async with promised(client), pictures(client) as other:
        async with pictures(client) as stream:
            await stream.send(photograph(1), encoding="JPEG")
            assert (await anext(stream)).status is Status.ON_TIME
            reader = await reader_of(app)
            os.kill(pid_of(reader), signal.SIGSTOP)
            withdrawn = await stream.send(photograph(2), encoding="JPEG")
            while reader._reading is None:
                await asyncio.sleep(0.01)
            stream.cancel([withdrawn])
            assert (await anext(stream)).status is Status.CANCELLED
            await stream.send(photograph(3), encoding="JPEG")
            while not reader._waiting:
                await asyncio.sleep(0.01)
        while app.driver.held:
            await asyncio.sleep(0.01)
        os.kill(pid_of(reader), signal.SIGCONT)
        await other.send(photograph(4), encoding="JPEG")
        assert (await anext(other)).status is Status.ON_TIME


async def test_a_process_that_dies_again_and_again_is_started_no_more_for_a_while(
    app: App, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duly.runtime.read_apart.DEATHS_MAX", 1)
    async with promised(client) as control, pictures(client) as stream:
        await stream.send(photograph(1), encoding="JPEG")
        assert (await anext(stream)).status is Status.ON_TIME
        reader = await reader_of(app)
        reader._deaths = type(reader._deaths)(maxlen=1)
        os.kill(pid_of(reader), signal.SIGKILL)
        while reader._worker is not None:
            await asyncio.sleep(0.01)
        await stream.send(photograph(2), encoding="JPEG")
        while not app.driver.scheduler.frames_waiting_by_model()["camera/1"]:
            await asyncio.sleep(0.01)
        await control.finish()
        assert (await anext(stream)).status is Status.ON_TIME, "a lane has a gap for it again"
        assert reader._worker is None
