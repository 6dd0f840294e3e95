"""A server that is asked for more than it can do tells its streams, and they get as much for fewer frames."""

import asyncio
from pathlib import Path

import numpy as np

from duly_client import Advice, Client, Status
from duly_sim.simulator.replay import replay
from tests.e2e.serving import serving


async def flood(client: Client, told: list[Advice], enough: asyncio.Event) -> list[Status]:
    """Sends more than the lane can do until the stream was told to slow down and has kept a frame back."""
    statuses: list[Status] = []
    stream = client.stream("m", backlog="ALL", budget_ms=200, on_advice=told.append, follow_advice=True)
    async with stream:
        payload = np.zeros(stream.opened.inputs[0].shape, stream.opened.inputs[0].dtype)
        pause_s = stream.opened.planned_latency_ns / 4e9

        async def read() -> None:
            async for outcome in stream:
                statuses.append(outcome.status)
                if outcome.status is Status.SUPERSEDED:
                    enough.set()

        reading = asyncio.create_task(read())
        while not enough.is_set():
            await stream.send(payload)
            await asyncio.sleep(pause_s)
        await stream.finish()
        await reading
    return statuses


async def test_an_overloaded_server_slows_its_streams_down_and_what_it_said_replays(
    slow_model: Path, tmp_path: Path
) -> None:
    log, told = tmp_path / "duly.log", list[Advice]()
    async with serving(slow_model, record=log) as app, Client(app.address, reconnect=False) as client:
        statuses = await flood(client, told, asyncio.Event())
    assert told[0].kind == "SLOW_DOWN"
    assert told[0].period_ns > 0
    assert told[0].reason.startswith("overload: of ")
    assert Status.ON_TIME in statuses
    assert b'"advise"' in log.read_bytes()
    assert replay(log).difference is None


async def test_a_server_that_is_not_to_advise_does_not_even_begin_to(slow_model: Path, tmp_path: Path) -> None:
    log = tmp_path / "duly.log"
    async with (
        serving(slow_model, record=log, advice=False) as app,
        Client(app.address, reconnect=False) as client,
        client.stream("m"),
    ):
        pass
    assert b'"StreamOpened"' in log.read_bytes()
    assert b"advise" not in log.read_bytes()
