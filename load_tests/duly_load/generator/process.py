"""A sender process, and how the process that started it talks with it.

sender                          whoever started it
Opened, when all is ready   ->
                            <-  the instant at which to begin, ns of the monotonic clock, which all processes share
Sent, twice a second        ->
Saw, when it is over        ->
Failed, in place of any of these, and nothing after it
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import uvloop
from numpy.typing import NDArray

from duly_load.generator.address import Address
from duly_load.generator.connection import TargetError
from duly_load.generator.payloads import PayloadError
from duly_load.generator.record import Ending, Record
from duly_load.generator.sender import Sender, shares
from duly_load.generator.targets import target_of
from duly_load.load_scenario import LoadScenario
from duly_load.schedule import Schedule, schedule, steps_of

REPORT_S = 0.5
"""Between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one of several sender processes is to do. It makes the schedule itself: that is quicker than to tell it."""

    scenario: LoadScenario
    seed: int
    address: Address
    nth: int
    processes: int
    answers_wait_s: float
    realtime: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """The streams that are there from the start are open, or were refused."""

    refused: int


@dataclass(frozen=True, slots=True)
class Sent:
    """Of this process, so far."""

    sent: int
    answered: int
    on_time: int


@dataclass(frozen=True, slots=True)
class Saw:
    """All that this process saw."""

    frames: NDArray[np.int64]
    """Places in the schedule, of its frames."""
    record: Record
    """Of those alone, in their order."""
    endings: Sequence[Ending]


@dataclass(frozen=True, slots=True)
class Failed:
    """It could not do its work."""

    why: str
    wrong_input: bool
    """What was asked for is at fault."""


def schedule_of(scenario: LoadScenario, seed: int) -> Schedule:
    """Equal arguments give equal schedules, bit for bit."""
    return schedule(scenario.stream, round(scenario.duration_s * 1e9), steps_of(scenario.load_step), seed)


def main(share: Share, way: "Connection[object, object]") -> None:
    """The process's whole life."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):  # whoever started it tells, or is gone
        try:
            if share.realtime:
                os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            uvloop.run(_send(share, way))
        except PermissionError:
            way.send(Failed("the scheduling class SCHED_RR is not permitted: needs root or CAP_SYS_NICE", True))
        except TargetError as error:
            way.send(Failed(str(error), wrong_input=False))
        except PayloadError as error:
            way.send(Failed(str(error), wrong_input=True))


async def _send(share: Share, way: "Connection[object, object]") -> None:
    planned = schedule_of(share.scenario, share.seed)
    sender = Sender(share.scenario, share.seed, planned, shares(planned, share.processes)[share.nth])
    async with target_of(share.address) as target:
        await sender.open(target)
        way.send(Opened(sum(ending.refused for ending in sender.endings)))
        begin_ns = await asyncio.to_thread(way.recv)
        assert isinstance(begin_ns, int)
        reporting = asyncio.create_task(_report(sender, way))
        try:
            await sender.run(begin_ns, share.answers_wait_s)
        finally:
            reporting.cancel()
    way.send(Saw(sender.frames, sender.record.of(sender.frames), tuple(sender.endings)))


async def _report(sender: Sender, way: "Connection[object, object]") -> None:
    while True:
        await asyncio.sleep(REPORT_S)
        way.send(Sent(sender.sent, sender.answered, sender.on_time))
