"""Clients that do not behave: what each kind does, in a process of its own.

- Slow readers send at their sensor's rate and take one outcome every `READ_S`. A server must not hold ever more for
  them: it sheds their frames, and ends them at last. They come back. They speak duly's own protocol.
- Vanishing clients open streams, send, and are killed at a moment that nobody chose: the server sees a connection
  that is reset with frames under way, or with half a message on it.
- Churners open and close at once, leave with frames unanswered, give up while a stream opens, and make calls on which
  they never say anything.

Their streams are BEST_EFFORT: what they cost the others should be their behaviour, not their load. They are part of the
target's load all the same.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from typing import NoReturn

import grpc
import uvloop

from duly.core.types import StreamClass
from duly_client import Client, Stream
from duly_client.errors import DulyError, StreamRefused
from duly_client.proxy import channel_options
from duly_load.payloads.prepared import Prepared, prepare
from duly_load.protocols.address import Address
from duly_load.protocols.by_address import target_of
from duly_load.protocols.connection import Connection, FrameAnswer, Refused, Target, TargetError
from duly_load.scenario.arrivals import Trace
from duly_load.scenario.schedule import lone_session
from duly_load.scenario.tables import Sensor

READ_S = 0.2
"""The time between two outcomes that a slow reader takes; longer for sensors that are slow themselves."""
TOO_SLOW = 4.0
"""Frames that a slow reader sends, at least, in the time in which it takes one outcome."""
PAUSE_S = 1.0
"""The pause before a stream that was refused or ended opens again."""
CHURN_S = 0.5
"""The mean time between two deeds of a churner."""
FRAMES_MAX = 20
"""The most frames that a churner sends before it leaves."""
HELD_S_MAX = 2.0
"""How long a call on which nothing is said is held."""
STREAMS = 3
"""The streams of a client that vanishes."""
VANISHING_RATE_HZ = 50.0
OPEN_S = 10.0
"""How long a stream may take to open."""

METHODS = {"duly": "/duly.v1.InferenceService/Stream", "kserve": "/inference.GRPCInferenceService/ModelStreamInfer"}


class CountIndex(IntEnum):
    """What is counted; places in a `Counts`."""

    OPENED = 0
    """Streams that were opened."""
    SENT = 1
    """Frames that were sent."""
    ANSWERED = 2
    ENDED = 3
    """Streams that the target ended."""
    REFUSED = 4
    """Streams that it did not let in."""
    GAVE_UP = 5
    """Streams that were given up while they opened."""
    SILENT = 6
    """Calls on which nothing was said."""
    KILLED = 7
    """Clients that were killed."""


class Counts:
    """The counts of one process: written by it alone, read by the one that started it, there when it is killed too."""

    def __init__(self, memory: Sequence[int]) -> None:
        """`memory`: shared, an int for each `CountIndex`."""
        self._memory = memory

    def add(self, deed: CountIndex, times: int = 1) -> None:
        self._memory[deed] += times  # type: ignore[index]

    def of(self, deed: CountIndex) -> int:
        return self._memory[deed]


@dataclass(frozen=True, slots=True)
class Aim:
    """The target that the misbehaving clients connect to, and what they send."""

    address: Address
    sensors: tuple[Sensor, ...]
    """The sensors whose frames are sent."""
    seed: int


def read_slowly(aim: Aim, streams: int, memory: Sequence[int]) -> None:
    """`streams` slow readers, until it is killed."""
    _live(lambda: _read_slowly(aim, streams, Counts(memory)))


def vanish(aim: Aim, memory: Sequence[int]) -> None:
    """Sends until it is killed."""
    _live(lambda: _vanish(aim, Counts(memory)))


def churn(aim: Aim, memory: Sequence[int]) -> None:
    """Comes and goes until it is killed."""
    _live(lambda: _churn(aim, Counts(memory)))


def _live(work: Callable[[], Awaitable[NoReturn]]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are for who started it, who then kills it
    parent = os.getppid()

    async def until_orphaned() -> None:
        working = asyncio.ensure_future(work())
        while os.getppid() == parent and not working.done():
            await asyncio.wait([working], timeout=PAUSE_S)
        if working.done():
            working.result()

    uvloop.run(until_orphaned())


# ---- slow readers ----


async def _read_slowly(aim: Aim, streams: int, counts: Counts) -> NoReturn:
    async with Client(aim.address.endpoint, reconnect=False) as client:
        await asyncio.gather(
            *(
                _slow_reader(client, aim, aim.sensors[index % len(aim.sensors)], index, counts)
                for index in range(streams)
            )
        )
    raise AssertionError("it is killed before")


async def _slow_reader(client: Client, aim: Aim, sensor: Sensor, index: int, counts: Counts) -> NoReturn:
    while True:
        with suppress(DulyError, RuntimeError):  # RuntimeError: it was ended while a frame was sent
            await _slow_stream(client, aim, sensor, index, counts)
        await asyncio.sleep(PAUSE_S)


async def _slow_stream(client: Client, aim: Aim, sensor: Sensor, index: int, counts: Counts) -> None:
    stream = client.stream(
        sensor.model, budget_ms=sensor.budget_ms, name=f"slow-reader-{index}", stream_class="BEST_EFFORT", check=False
    )
    rate_hz = _rate_hz(sensor)
    try:
        await stream.__aenter__()
    except StreamRefused:
        counts.add(CountIndex.REFUSED)
        raise
    reading = asyncio.create_task(_take(stream, max(READ_S, TOO_SLOW / rate_hz), counts))
    try:
        counts.add(CountIndex.OPENED)
        prepared = prepare(sensor.payloads, stream.opened.inputs, aim.seed, sensor.name)
        while not reading.done():
            payload = prepared.frames[counts.of(CountIndex.SENT) % len(prepared.frames)]
            await stream.send(payload, encoding=prepared.encoding)
            counts.add(CountIndex.SENT)
            await asyncio.wait([reading], timeout=1 / rate_hz)
    finally:
        counts.add(CountIndex.ENDED)
        reading.cancel()
        await asyncio.wait([reading])
        await stream.close()


async def _take(stream: Stream, every_s: float, counts: Counts) -> None:
    with suppress(DulyError):
        async for _ in stream:
            counts.add(CountIndex.ANSWERED)
            await asyncio.sleep(every_s)


def _rate_hz(sensor: Sensor) -> float:
    return 1.0 if isinstance(sensor.arrivals, Trace) else sensor.arrivals.rate_hz


# ---- vanishing clients and churners ----


class _Heard:
    """What comes back is counted and forgotten."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def answered(self, answer: FrameAnswer) -> None:
        self._counts.add(CountIndex.ANSWERED)

    def ended(self, reason: str) -> None:
        self._counts.add(CountIndex.ENDED)


class _Bothered:
    """A target, with a stream at a time for each of several sensors."""

    def __init__(self, target: Target, aim: Aim, counts: Counts) -> None:
        self._target = target
        self._aim = aim
        self._counts = counts
        self._prepared: dict[str, Prepared] = {}
        self._streams = 0

    async def connection(self, sensor: Sensor) -> tuple[Connection, Prepared]:
        """A connection for the sensor, not yet open, and its payloads."""
        prepared = self._prepared.get(sensor.name)
        if prepared is None:
            inputs = await self._target.inputs(sensor.model)
            prepared = prepare(sensor.payloads, inputs, self._aim.seed, sensor.name)
            self._prepared[sensor.name] = prepared
        self._streams += 1
        rude = sensor.model_copy(update={"stream_class": StreamClass.BEST_EFFORT})
        rude, session = lone_session(rude, _rate_hz(sensor), self._streams, f"rude-{sensor.name}")
        return self._target.connection(rude, session, prepared.encoding, _Heard(self._counts)), prepared

    async def opened(self, sensor: Sensor) -> tuple[Connection, Prepared]:
        """Raises TargetError, Refused, TimeoutError."""
        connection, prepared = await self.connection(sensor)
        try:
            async with asyncio.timeout(OPEN_S):
                await connection.open()
        except Refused:
            self._counts.add(CountIndex.REFUSED)
            raise
        self._counts.add(CountIndex.OPENED)
        return connection, prepared

    async def send(self, connection: Connection, index: int, prepared: Prepared) -> None:
        await connection.send(index, prepared.frames[index % len(prepared.frames)], time.time_ns())
        self._counts.add(CountIndex.SENT)


async def _vanish(aim: Aim, counts: Counts) -> NoReturn:
    chance = random.Random(aim.seed)
    async with target_of(aim.address) as target:
        bothered = _Bothered(target, aim, counts)
        with suppress(TargetError, Refused, TimeoutError):
            streams = [await bothered.opened(chance.choice(aim.sensors)) for _ in range(STREAMS)]
            for index in count():
                for connection, prepared in streams:
                    await bothered.send(connection, index, prepared)
                await asyncio.sleep(1 / VANISHING_RATE_HZ)
        await asyncio.Event().wait()  # one that was not let in vanishes too
    raise AssertionError("it is killed before")


async def _churn(aim: Aim, counts: Counts) -> NoReturn:
    chance = random.Random(aim.seed)
    deeds = (_open_and_close, _leave_unanswered, _give_up, _say_nothing)
    async with target_of(aim.address) as target:
        bothered = _Bothered(target, aim, counts)
        while True:
            await asyncio.sleep(chance.expovariate(1 / CHURN_S))
            # A target that is gone is for others to report; what is wanted here is to be there when it is back.
            with suppress(TargetError, Refused, TimeoutError):
                await chance.choice(deeds)(bothered, aim, chance, counts)


async def _open_and_close(bothered: _Bothered, aim: Aim, chance: random.Random, counts: Counts) -> None:
    connection, _ = await bothered.opened(chance.choice(aim.sensors))
    await connection.close()


async def _leave_unanswered(bothered: _Bothered, aim: Aim, chance: random.Random, counts: Counts) -> None:
    connection, prepared = await bothered.opened(chance.choice(aim.sensors))
    try:
        for index in range(chance.randint(1, FRAMES_MAX)):
            await bothered.send(connection, index, prepared)
    finally:
        await connection.close()


async def _give_up(bothered: _Bothered, aim: Aim, chance: random.Random, counts: Counts) -> None:
    connection, _ = await bothered.connection(chance.choice(aim.sensors))
    opening = asyncio.ensure_future(connection.open())
    await asyncio.wait([opening], timeout=chance.uniform(0, 0.005))
    opening.cancel()
    await asyncio.wait([opening])
    if opening.cancelled():
        counts.add(CountIndex.GAVE_UP)
    elif opening.exception() is None:
        await connection.close()


async def _say_nothing(bothered: _Bothered, aim: Aim, chance: random.Random, counts: Counts) -> None:
    async with grpc.aio.insecure_channel(aim.address.endpoint, channel_options(aim.address.endpoint)) as channel:
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(METHODS[aim.address.protocol])()
        counts.add(CountIndex.SILENT)
        await asyncio.sleep(chance.uniform(0, HELD_S_MAX))
        call.cancel()
