"""Sensors that stream clips to a server by a fixed schedule, and take in the outcomes.

A frame is due when its sensor captures it: at the start plus the phase plus a number of periods. A frame that leaves
late was still captured when it was due, so a slow sender cannot make the server look quick.
"""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from math import ceil

from duly.demo.clips import Clip
from duly.demo.perception import Perception
from duly.demo.tally import Tally
from duly_client import Client, DulyError, Feedback, FeedbackStatus, Stream
from duly_client.types import BacklogPolicy, StreamClass

START_NS = 100_000_000
"""Time from the call until the first frame, so that no sensor starts late."""
SEND_LATE_NS_MAX = 1_000_000_000
"""A sensor whose frames leave later than this gives up the rest of them."""


LABELS_PERIOD_S = 0.2
"""Labels that have become known are sent together so often."""


@dataclass(slots=True)
class Labels:
    """What is right for each payload, which becomes known some time after its result, and is told to the server."""

    truth: Sequence[int]
    """The class of each payload of the clip."""
    delay_ns: int
    by_status: Counter[FeedbackStatus] = field(default_factory=Counter)
    refused: int = 0
    """How many could not be sent at all."""
    due: deque[tuple[int, int, int]] = field(default_factory=deque)
    """When it becomes known, the frame's id, and the label, of each result that has none yet."""

    async def send(self, client: Client, stream: Stream, ended: asyncio.Event) -> None:
        """Sends labels as they become known, until the stream has ended. Then nobody waits for those still due."""
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LABELS_PERIOD_S):
                    await ended.wait()
            now_ns, known = time.monotonic_ns(), []
            while self.due and self.due[0][0] <= now_ns:
                _, frame_id, label = self.due.popleft()
                known.append(Feedback(stream.key_of(frame_id), frame_id, label))
            try:
                results = await client.feedback(known) if known else []
            except DulyError:
                self.refused += len(known)
            else:
                self.by_status.update(result.status for result in results)


@dataclass(slots=True)
class Sensor:
    """One sensor, the terms of its stream, and how its frames ended."""

    name: str
    model: str
    clip: Clip
    period_ns: int
    phase_ns: int
    budget_ms: float
    stream_class: StreamClass
    backlog: BacklogPolicy
    perception: Perception | None = None
    """Puts the results into words; None: nobody looks at them."""
    labels: Labels | None = None
    """None: nobody tells the server what was right."""
    tally: Tally = field(default_factory=Tally)

    @property
    def rate_hz(self) -> float:
        return 1e9 / self.period_ns

    def open(self, client: Client) -> Stream:
        """The sensor's stream, to be entered with `async with`."""
        return client.stream(
            self.model,
            name=self.name,
            stream_class=self.stream_class,
            backlog=self.backlog,
            budget_ms=self.budget_ms,
            period_ms=self.period_ns / 1e6,
        )

    async def run(self, client: Client, stream: Stream, start_ns: int, duration_ns: int, stop: asyncio.Event) -> None:
        """Streams for `duration_ns` from `start_ns` on, by the monotonic clock, or until `stop` is set. Returns when
        every frame is answered.
        """
        captured: dict[int, tuple[int, int]] = {}  # frames in flight, by id: when captured, which payload
        ended = asyncio.Event()
        parts = [
            self._send(stream, start_ns, duration_ns, stop, captured),
            self._receive(stream, captured, ended),
        ]
        if self.labels is not None:
            parts.append(self.labels.send(client, stream, ended))
        await _together(*parts)

    async def _send(
        self,
        stream: Stream,
        start_ns: int,
        duration_ns: int,
        stop: asyncio.Event,
        captured: dict[int, tuple[int, int]],
    ) -> None:
        for number in range(ceil((duration_ns - self.phase_ns) / self.period_ns)):
            elapsed_ns = self.phase_ns + number * self.period_ns
            due_ns = start_ns + elapsed_ns
            wait_ns = due_ns - time.monotonic_ns()
            if wait_ns < -SEND_LATE_NS_MAX:
                break
            if wait_ns > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_ns / 1e9):
                        await stop.wait()
            if stop.is_set():
                break
            index, payload = self.clip.at(elapsed_ns)
            capture_time_ns = time.time_ns() - (time.monotonic_ns() - due_ns)
            frame_id = await stream.send(payload, capture_time_ns=capture_time_ns, encoding=self.clip.encoding)
            captured[frame_id] = (due_ns, index)
            self.tally.sent += 1
        await stream.finish()

    async def _receive(self, stream: Stream, captured: dict[int, tuple[int, int]], ended: asyncio.Event) -> None:
        async for outcome in stream:
            captured_ns, index = captured.pop(outcome.frame_id)
            self.tally.add(outcome, captured_ns)
            if outcome.ok and self.perception is not None:
                self.perception.take(index, outcome)
            if outcome.ok and self.labels is not None:
                known_ns = time.monotonic_ns() + self.labels.delay_ns
                self.labels.due.append((known_ns, outcome.frame_id, self.labels.truth[index]))
        ended.set()


async def run_sensors(
    client: Client, sensors: list[Sensor], seconds: float, on_start: Callable[[int], None], stop: asyncio.Event
) -> None:
    """Opens all streams, calls `on_start` with the time when the first frame is due, and streams for `seconds`.

    It ends early where `stop` is set.

    Raises:
        DulyError: a stream was refused or broke.
    """
    async with AsyncExitStack() as streams:
        opened = [await streams.enter_async_context(sensor.open(client)) for sensor in sensors]
        start_ns = time.monotonic_ns() + START_NS
        on_start(start_ns)
        duration_ns = round(seconds * 1e9)
        runs = [
            sensor.run(client, stream, start_ns, duration_ns, stop)
            for sensor, stream in zip(sensors, opened, strict=True)
        ]
        await _together(*runs)


async def _together(*parts: Coroutine[None, None, None]) -> None:
    """Runs all parts. The first error cancels the others and is raised as it is."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
