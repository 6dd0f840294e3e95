"""A sender process, and how the process that started it talks with it.

sender                          whoever started it
Opened, when all is ready   ->
                            <-  the instant at which to begin, ns of the monotonic clock, which all processes share
Sent, twice a second        ->
SenderReport, when it is over        ->
Failed, in place of any of these, and nothing after it
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection

import numpy as np
import uvloop
from numpy.typing import NDArray

from duly_load.generator.die_with_parent import die_with_parent
from duly_load.generator.sender import Sender, shares
from duly_load.payloads.prepared import PayloadError
from duly_load.protocols.address import Address
from duly_load.protocols.by_address import target_of
from duly_load.protocols.connection import TargetError
from duly_load.results.record import Ending, Record
from duly_load.scenario.scenario import Scenario
from duly_load.scenario.schedule import schedule_of

REPORT_S = 0.5
"""The time between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one of several sender processes is to do. It makes the schedule itself: that is quicker than to send it."""

    scenario: Scenario
    seed: int
    address: Address
    index: int
    processes: int
    answers_wait_s: float
    realtime: bool
    difference_ns: int
    """The result of `unix_minus_monotonic_ns`, one for the whole run."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The streams that are there from the start are open, or were refused."""

    refused: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What this process has sent and received so far."""

    sent: int
    answered: int
    on_time: int


@dataclass(frozen=True, slots=True)
class SenderReport:
    """All that this process saw."""

    frames: NDArray[np.int64]
    """The places of its frames in the schedule."""
    record: Record
    """The record of those frames alone, in their order."""
    endings: Sequence[Ending]
    busy: float
    """See `Sender.busy`."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The process could not do its work."""

    why: str
    wrong_input: bool
    """The fault lies in what was asked for."""


def main(share: Share, way: "Connection[object, object]") -> None:
    """The process's whole life."""
    # The process that started this one reports it, or is gone.
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError, EOFError):
        parent = parent_process()
        assert parent is not None
        assert parent.pid is not None
        die_with_parent(parent.pid, signal.SIGKILL)
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
    mine = shares(planned, share.processes)[share.index]
    sender = Sender(share.scenario, share.seed, planned, mine, share.difference_ns)
    async with target_of(share.address, share.difference_ns) as target:
        await sender.open(target)
        way.send(Opened(sum(ending.refused for ending in sender.endings)))
        begin_ns = await asyncio.to_thread(way.recv)
        assert isinstance(begin_ns, int)
        try:
            async with asyncio.TaskGroup() as both:  # where nobody hears the report, the run ends, too
                reporting = both.create_task(_report(sender, way))
                await sender.run(begin_ns, share.answers_wait_s)
                reporting.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
    way.send(SenderReport(sender.frames, sender.record.of(sender.frames), tuple(sender.endings), sender.busy))


async def _report(sender: Sender, way: "Connection[object, object]") -> None:
    while True:
        await asyncio.sleep(REPORT_S)
        way.send(Sent(sender.sent, sender.answered, sender.on_time))
