"""Sends a world's frames to a live server at the times that the schedule says, whatever comes back (open loop).

A frame's capture time is the one intended, so that a generator that is late takes from the frame's budget and not from
the figures; how late it was is measured. wrk2 and MLPerf's LoadGen do so.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duly.core.types import BacklogPolicy, StreamClass
from duly_client import Client, Stream, types
from duly_client.convert import Array
from duly_client.errors import DulyError
from duly_load import tables
from duly_load.arrivals import Periodic
from duly_load.simulator.world import World

LEAD_NS = 200_000_000
"""From the opening of the last stream to the schedule's time zero."""
ANSWERS_S = 30.0
"""How long after the last frame was due the last outcome may come."""

TIMER_S = 0.0005
"""uvloop rounds to milliseconds; half of one makes that up."""

_CLASSES: dict[StreamClass, types.StreamClass] = {
    StreamClass.CRITICAL: "CRITICAL",
    StreamClass.STANDARD: "STANDARD",
    StreamClass.BEST_EFFORT: "BEST_EFFORT",
}
_BACKLOGS: dict[BacklogPolicy, types.BacklogPolicy] = {
    BacklogPolicy.LATEST: "LATEST",
    BacklogPolicy.KEEP_LAST: "KEEP_LAST",
    BacklogPolicy.ALL: "ALL",
}

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Counts = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Live:
    """What the client saw of every frame; arrays in the order of `World.frames`, times since the schedule's zero."""

    begin_ns: int
    """The schedule's zero on the monotonic clock."""
    status: NDArray[np.int8]
    """`OutcomeStatus`."""
    latency_ns: Ints
    """From the intended capture to the outcome, on the client's clock."""
    batch_size: Counts
    """0: it never ran."""
    dispatched_ns: Ints
    """When the server gave it to a lane; 0: it never ran."""
    occupied_ns: Ints
    """From dispatch until the server took the lane for free again, as near as it tells; 0: it never ran."""
    lag_ns: Ints
    """How late the generator was when it sent it."""


async def offer(target: str, world: World, frame: Array) -> Live:
    """Sends `frame` for every frame of the world, each stream over one of its own.

    Raises DulyError where the server does not take or keep a stream, TimeoutError where answers are missing.
    """
    count = len(world.frames)
    stream_of = {name: stream for stream in world.scenario.stream for name in stream.names}
    async with contextlib.AsyncExitStack() as opened:
        client = await opened.enter_async_context(Client(target, reconnect=False))
        streams = [
            await opened.enter_async_context(_stream(client, session.name, stream_of[session.name]))
            for session in world.sessions
        ]
        begin_ns, begin_unix_ns = time.monotonic_ns() + LEAD_NS, time.time_ns() + LEAD_NS
        live = Live(
            begin_ns,
            np.zeros(count, np.int8),
            np.zeros(count, np.int64),
            np.zeros(count, np.int32),
            np.zeros(count, np.int64),
            np.zeros(count, np.int64),
            np.zeros(count, np.int64),
        )
        try:
            async with (
                asyncio.timeout(LEAD_NS / 1e9 + world.scenario.duration_s + ANSWERS_S),
                asyncio.TaskGroup() as on,
            ):
                for session, stream in zip(world.sessions, streams, strict=True):
                    mine = np.flatnonzero(world.frames.stream_id == session.stream_id)
                    on.create_task(_send(stream, world, mine, begin_unix_ns, frame, live))
                    on.create_task(_receive(stream, mine, begin_unix_ns, live))
        except ExceptionGroup as failed:
            raise next((error for error in failed.exceptions if isinstance(error, DulyError)), failed) from None
        except TimeoutError:
            missing = int((live.status == 0).sum())
            raise TimeoutError(f"{missing} of {count} frames had no outcome {ANSWERS_S:g} s after the last") from None
    return live


def _stream(client: Client, name: str, stream: tables.Stream) -> Stream:
    return client.stream(
        stream.model,
        budget_ms=stream.budget_ms,
        name=name,
        stream_class=_CLASSES[stream.stream_class],
        backlog=_BACKLOGS[stream.backlog_policy],
        backlog_frames=stream.backlog_frames if stream.backlog_policy is BacklogPolicy.KEEP_LAST else 0,
        period_ms=1e3 / stream.arrivals.rate_hz if isinstance(stream.arrivals, Periodic) else None,
        floor=stream.floor,
    )


async def _send(stream: Stream, world: World, mine: Ints, begin_unix_ns: int, frame: Array, live: Live) -> None:
    for nth, due_ns in zip(mine.tolist(), world.frames.arrival_ns[mine].tolist(), strict=True):
        wait_ns = live.begin_ns + due_ns - time.monotonic_ns()
        if wait_ns > 0:
            # Timers count in milliseconds; a frame must not come before its own capture.
            await asyncio.sleep(wait_ns / 1e9 + TIMER_S)
        live.lag_ns[nth] = time.monotonic_ns() - live.begin_ns - due_ns
        await stream.send(frame, capture_time_ns=begin_unix_ns + due_ns)
    await stream.finish()


async def _receive(stream: Stream, mine: Ints, begin_unix_ns: int, live: Live) -> None:
    async for outcome in stream:
        nth = int(mine[outcome.frame_id - 1])
        live.status[nth] = outcome.status
        live.latency_ns[nth] = outcome.latency_ns
        live.batch_size[nth] = outcome.batch_size
        if outcome.batch_size:
            timing = outcome.timing
            live.dispatched_ns[nth] = timing.received_unix_ns + timing.dispatched_ns - begin_unix_ns
            live.occupied_ns[nth] = timing.sent_ns - timing.dispatched_ns
