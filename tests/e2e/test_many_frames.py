"""The Python client's lists of frames and outcomes, against a real server."""

import asyncio
from pathlib import Path

import numpy as np

from duly_client import Client, Outcome, Status, Stream
from tests.e2e.serving import serving


async def read_all(stream: Stream) -> dict[int, Outcome]:
    outcomes: dict[int, Outcome] = {}
    async for batch in stream.batches():
        for outcome in batch:
            assert outcomes.setdefault(outcome.frame_id, outcome) is outcome, "each once"
    return outcomes


async def test_a_list_longer_than_the_credit_is_served_whole(repository: Path) -> None:
    """Frame by frame, most of them would be SHED."""
    frames = [np.full(4, nth, np.float32) for nth in range(500)]
    async with (
        serving(repository, frames_in_flight_max=8) as app,
        Client(app.address) as client,
        client.stream("double", backlog="ALL", ordering="ARRIVAL", budget_ms=60_000) as stream,
    ):
        reading = asyncio.create_task(read_all(stream))
        ids = await stream.send_many(frames)
        await stream.finish()
        outcomes = await reading
    assert list(outcomes) == ids == list(range(1, 501))
    assert {outcome.status for outcome in outcomes.values()} == {Status.ON_TIME}
    results = np.stack([outcomes[frame_id].outputs["y"] for frame_id in ids])
    np.testing.assert_array_equal(results, 2 * np.stack(frames))


async def test_a_frame_of_a_list_that_does_not_fit_is_invalid_alone(repository: Path) -> None:
    frames = [np.full(5 if nth in (3, 7) else 4, nth, np.float32) for nth in range(10)]
    async with (
        serving(repository) as app,
        Client(app.address) as client,
        client.stream("double", backlog="ALL", budget_ms=60_000, check=False) as stream,
    ):
        ids = await stream.send_many(frames)
        await stream.finish()
        outcomes = await read_all(stream)
    assert sorted(outcomes) == ids
    statuses = [outcomes[frame_id].status for frame_id in ids]
    assert [nth for nth, status in enumerate(statuses) if status is Status.INVALID] == [3, 7]
    assert statuses.count(Status.ON_TIME) == 8


async def test_the_newest_of_a_list_wins_where_the_backlog_says_so(repository: Path) -> None:
    async with (
        serving(repository) as app,
        Client(app.address) as client,
        client.stream("double", backlog="LATEST", budget_ms=60_000) as stream,
    ):
        ids = await stream.send_many([np.full(4, nth, np.float32) for nth in range(50)])
        await stream.finish()
        outcomes = await read_all(stream)
    assert sorted(outcomes) == ids
    assert outcomes[50].status is Status.ON_TIME
    assert {outcome.status for outcome in outcomes.values()} == {Status.ON_TIME, Status.SUPERSEDED}
