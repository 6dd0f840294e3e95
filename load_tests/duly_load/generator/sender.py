"""A sender process's work: its share of the streams, open loop.

Theory of operation. All instants are known beforehand. One alarm rings at the next of them; the pacer then hands every
frame that is due to its stream's feed and sets the alarm anew. Nothing that a target does can hold the pacer up: where
a target takes frames slowly they wait in the feed of that stream, and how long they do is its doing and measured apart
(`Record.blocked_ns`) from how late the pacer was (`Record.lag_ns`). wrk2 and MLPerf's LoadGen count latency from the
intended send in the same way.

What waits in feeds is bounded by the schedule: numbers of frames, while payloads are few and shared.

A feed can't distinguish a target that takes frames slowly from an event loop that has no time for it. So the process's
own CPU time is reported as well (`Sender.busy`): one that had no time to spare may have blocked itself.
"""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from duly_client.types import Payload
from duly_load.generator.alarm import Alarm
from duly_load.payloads.prepared import Prepared, check_held, prepare
from duly_load.payloads.served_inputs import inputs_of
from duly_load.protocols.clock import unix_minus_monotonic_ns
from duly_load.protocols.connection import Connection, FrameAnswer, Refused, Target, TargetError
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import Ending, Ints, Record
from duly_load.scenario.scenario import Scenario
from duly_load.scenario.schedule import Schedule, Session

OPENINGS_MAX = 16
"""The most streams that open at the same time before the start."""
OPEN_AHEAD_NS = 500_000_000
"""The time by which a stream that opens later does so before its session begins."""
BUSY_S_MIN = 1.0
"""A shorter time says nothing of how busy a process is: to begin takes a moment itself."""


class Sender:
    """Sends the frames of some sessions of a schedule to a target. Everything it learns is in `record`, whose other
    frames stay as they are, and in `endings`.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        planned: Schedule,
        mine: Sequence[Session],
        difference_ns: int | None = None,
    ) -> None:
        """`difference_ns`: `unix_minus_monotonic_ns`; None: as it is now."""
        self._scenario = scenario
        self._seed = seed
        self._sessions = mine
        self.record = Record.empty(len(planned.frames))
        self.endings: list[Ending] = []
        self.sent = self.answered = self.on_time = 0
        self.begin_ns = 0
        self.busy = 0.0
        """CPU time of this process, all its threads together, as a share of the time until its last frame was due."""
        self._unix_minus_monotonic_ns = unix_minus_monotonic_ns() if difference_ns is None else difference_ns
        ids = np.array([session.stream_id for session in mine], np.int32)
        self.frames = np.flatnonzero(np.isin(planned.frames.stream_id, ids))
        self._due_ns: Ints = planned.frames.arrival_ns
        self._captures_ns = planned.captures_ns
        self._stream_id = planned.frames.stream_id
        self._feeds: dict[int, _Feed] = {}
        self._budgets_ns = planned.budgets_ns

    async def open(self, target: Target) -> None:
        """Opens the streams that are there from the start. Raises TargetError, where the target is not what it should
        be, and PayloadError.
        """
        prepared: dict[int, Prepared] = {}
        for position in dict.fromkeys(session.sensor for session in self._sessions):
            sensor = self._scenario.stream[position]
            inputs = await target.inputs(sensor.model) or inputs_of(self._scenario, sensor.model)
            source = f"stream[{position}].payloads"
            prepared[position] = await asyncio.to_thread(prepare, sensor.payloads, inputs, self._seed, source)
            check_held(prepared.values())
        counts = np.bincount(self._stream_id, minlength=max(each.stream_id for each in self._sessions) + 1)
        for session in self._sessions:
            sensor, payloads = self._scenario.stream[session.sensor], prepared[session.sensor]
            frames = int(counts[session.stream_id])
            self._feeds[session.stream_id] = feed = _Feed(self, session, frames, payloads.frames)
            feed.connection = target.connection(sensor, session, payloads.encoding, feed)
        turn = asyncio.Semaphore(OPENINGS_MAX)

        async def in_turn(feed: "_Feed") -> None:
            async with turn:
                await feed.open()

        try:
            async with asyncio.TaskGroup() as opening:
                for feed in self._feeds.values():
                    if feed.session.opened_ns == 0:
                        opening.create_task(in_turn(feed))
        except ExceptionGroup as failed:
            raise next((error for error in failed.exceptions if isinstance(error, TargetError)), failed) from None
        feeds = [self._feeds[each] for each in self._stream_id[self.frames].tolist()]
        self._due = _Due(self.frames.tolist(), self._due_ns[self.frames].tolist(), feeds)
        # A collection in the middle of a run is lag; what a run makes has no cycles to speak of.
        gc.collect()
        gc.freeze()

    async def run(self, begin_ns: int, answers_wait_s: float) -> None:
        """Sends from `begin_ns` of the monotonic clock on; returns when every frame is answered, or
        `answers_wait_s` after the scenario's end. A session that closes before ends when its last frame is answered.
        """
        self.begin_ns = begin_ns
        gc.disable()
        paced = asyncio.get_running_loop().create_future()
        pacer = _Pacer(self._due, begin_ns, paced)
        feeds = [asyncio.create_task(feed.run()) for feed in self._feeds.values()]
        end_s = (begin_ns - time.monotonic_ns()) / 1e9 + self._scenario.duration_s + answers_wait_s
        cpu_s = time.process_time()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(end_s):
                    try:
                        await paced
                    finally:
                        sending_s = (time.monotonic_ns() - begin_ns) / 1e9
                        self.busy = (time.process_time() - cpu_s) / max(sending_s, BUSY_S_MIN)
                    await asyncio.gather(*feeds)
        finally:
            pacer.close()
            for task in feeds:
                task.cancel()
            await asyncio.gather(*feeds, return_exceptions=True)
            await asyncio.gather(*(feed.close() for feed in self._feeds.values()), return_exceptions=True)
            gc.enable()
            gc.unfreeze()
        self._settle_accounts()

    def _settle_accounts(self) -> None:
        """Frames without an answer: sent or not?"""
        outcome = self.record.outcome
        for place in self.frames[outcome[self.frames] == 0].tolist():
            feed = self._feeds[int(self._stream_id[place])]
            if feed.refused:
                outcome[place] = FrameOutcome.REFUSED
            else:
                outcome[place] = FrameOutcome.UNANSWERED if place in feed.unanswered else FrameOutcome.UNSENT

    # ---- what feeds and the pacer need ----

    def capture_unix_ns(self, place: int) -> int:
        return int(self._captures_ns[place]) + self.begin_ns + self._unix_minus_monotonic_ns

    def due_ns(self, place: int) -> int:
        return int(self._due_ns[place]) + self.begin_ns

    def ended(self, session: Session, refused: bool, reason: str) -> None:
        at_ns = time.monotonic_ns() - self.begin_ns if self.begin_ns else 0
        self.endings.append(Ending(at_ns, session.name, refused, reason))

    def keep(self, answer: FrameAnswer) -> None:
        """An answer. Whether a result is in time is for the sender's own clock to say, alike for every target."""
        record = self.record
        place, outcome, at_ns, batch_size, dispatched_unix_ns, occupied_ns, claimed = answer
        latency_ns = at_ns - self.begin_ns - int(self._captures_ns[place])
        if outcome in (FrameOutcome.ON_TIME, FrameOutcome.LATE):
            in_time = latency_ns <= int(self._budgets_ns[self._stream_id[place]])
            outcome = FrameOutcome.ON_TIME if in_time else FrameOutcome.LATE
            self.on_time += int(in_time)
        record.outcome[place] = outcome
        record.latency_ns[place] = latency_ns
        record.claimed[place] = claimed
        record.batch_size[place] = batch_size
        if dispatched_unix_ns:
            record.dispatched_ns[place] = dispatched_unix_ns - self._unix_minus_monotonic_ns - self.begin_ns
            record.occupied_ns[place] = occupied_ns
        self.answered += 1


@dataclass(frozen=True, slots=True)
class _Due:
    """What is to be sent, in order of time."""

    places: list[int]
    """Places of the frames in the schedule."""
    instants_ns: list[int]
    """When the frames are due, since the schedule's zero."""
    feeds: list["_Feed"]


class _Pacer:
    """Hands over what is due."""

    def __init__(self, due: _Due, begin_ns: int, done: "asyncio.Future[None]") -> None:
        self._due = due
        self._begin_ns = begin_ns
        self._next = 0
        self._done = done
        self._alarm = Alarm(self._ring)
        self._ring()

    def close(self) -> None:
        self._alarm.close()

    def _ring(self) -> None:
        index, begin_ns, due = self._next, self._begin_ns, self._due
        places, instants_ns, feeds = due.places, due.instants_ns, due.feeds
        count = len(places)
        now_ns = time.monotonic_ns()
        while index < count and instants_ns[index] + begin_ns <= now_ns:
            feeds[index].hand(places[index], now_ns)
            index += 1
            if index < count and instants_ns[index] + begin_ns > now_ns:
                now_ns = time.monotonic_ns()
        self._next = index
        if index < count:
            self._alarm.set(instants_ns[index] + begin_ns)
        elif not self._done.done():
            self._done.set_result(None)


class _Feed:
    """One session: its frames from the pacer to its connection, and their answers back."""

    connection: Connection

    def __init__(self, sender: Sender, session: Session, frames: int, payloads: list[Payload]) -> None:
        self.session = session
        self.refused = False
        self.unanswered: set[int] = set()
        """Places of the frames that were sent and not answered yet."""
        self._sender = sender
        self._left = frames
        # Streams alike do not send the same picture at the same time.
        first = session.stream_id % len(payloads)
        self._payloads = cycle(payloads[first:] + payloads[:first])
        self._due: deque[tuple[int, int]] = deque()
        self._idle: asyncio.Future[None] | None = None
        self._opened = self._over = False

    async def open(self) -> None:
        """Raises TargetError."""
        try:
            await self.connection.open()
            self._opened = True
        except Refused as error:
            self.refused = True
            self.ended(str(error))

    async def run(self) -> None:
        """Runs until the session's last frame is answered or the target is gone; opens the session if need be."""
        if not self._opened and not self._over:
            opening_ns = self._sender.begin_ns + self.session.opened_ns - OPEN_AHEAD_NS
            await asyncio.sleep((opening_ns - time.monotonic_ns()) / 1e9)
            try:
                await self.open()
            except TargetError as error:
                self.ended(str(error))
        await self._send()
        if not self._over:
            await self.connection.finish()

    async def close(self) -> None:
        if self._opened:
            await self.connection.close()

    def hand(self, place: int, now_ns: int) -> None:
        """A frame is due."""
        self._due.append((place, now_ns))
        self._wake()

    # ---- as the connection sees it ----

    def answered(self, answer: FrameAnswer) -> None:
        if answer.place in self.unanswered:
            self.unanswered.remove(answer.place)
            self._sender.keep(answer)

    def ended(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._sender.ended(self.session, self.refused, reason)
            self._wake()

    # ---- sending ----

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _send(self) -> None:
        sender, record, loop = self._sender, self._sender.record, asyncio.get_running_loop()
        idle = False
        while self._left and not self._over:
            if not self._due:
                self._idle = loop.create_future()
                await self._idle
                self._idle, idle = None, True
                continue
            place, handed_ns = self._due.popleft()
            now_ns = time.monotonic_ns()
            # Until an idle stream has its turn in the event loop it is the generator that is late.
            late_until_ns = now_ns if idle else handed_ns
            record.lag_ns[place] = late_until_ns - sender.due_ns(place)
            record.blocked_ns[place] = now_ns - late_until_ns
            idle = False
            self._left -= 1
            self.unanswered.add(place)
            sender.sent += 1
            await self.connection.send(place, next(self._payloads), sender.capture_unix_ns(place))


def shares(planned: Schedule, processes: int) -> list[list[Session]]:
    """The sessions for each of so many processes: about equally many frames, all sessions of a stream together."""
    frames = np.bincount(planned.frames.stream_id, minlength=len(planned.sessions) + 1)
    by_name: dict[str, list[Session]] = {}
    for session in planned.sessions:
        by_name.setdefault(session.name, []).append(session)
    parts: list[list[Session]] = [[] for _ in range(processes)]
    filled = [0] * processes
    loads = {name: int(frames[[each.stream_id for each in sessions]].sum()) for name, sessions in by_name.items()}
    for name in sorted(by_name, key=lambda each: loads[each], reverse=True):
        least = filled.index(min(filled))
        parts[least] += by_name[name]
        filled[least] += loads[name]
    return [part for part in parts if part]
