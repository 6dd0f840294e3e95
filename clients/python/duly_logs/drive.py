"""Feeds a drive to an open stream at some speed, and gives each frame with its outcome.

The log has a clock of its own. At a speed of 2 it runs twice as fast as the machine's, so that a deadline of 100 ms in
the log is one of 50 ms on the machine. Without a speed it stands still as often as that keeps a frame from missing its
deadline in the log: a frame leaves when all frames whose deadlines lie before it are answered. Every frame gets its
result then, and two runs over one drive differ only in what the models gave.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from duly_client import Outcome, Stream
from duly_client.recordings.recording import RecordingError
from duly_client.wall_clock import WallClock
from duly_logs.feeds import Frame
from duly_logs.outcome_log import OutcomeLog
from duly_logs.schedule import Schedule

PATIENCE_MS = 60_000.0
"""Without a speed: how long a frame may take on the machine."""
STAMP_AGE_NS_MAX = 10_000_000_000
"""A message that says it was captured longer ago than this, or in the future, counts from when it was logged."""


class _Sent(NamedTuple):
    frame: Frame
    stamp_ns: int
    deadline_ns: int
    """In the log's own time."""


class Drive:
    """One run over a drive. `run` once; the counts are those of the run."""

    def __init__(
        self,
        stream: Stream,
        frames: Iterator[Frame],
        speed: float | None,
        *,
        budget_ns: int,
        pass_over: Callable[[RecordingError], None],
        tell: Callable[[str], None],
        log: OutcomeLog | None = None,
        seconds_max: float | None = None,
    ) -> None:
        """`speed`: how many times as fast as it was recorded; None: as fast as deadlines in log time allow.
        `budget_ns`: in log time. `seconds_max`: of the log, after which it ends.
        """
        self._stream = stream
        self._frames = frames
        self._speed = speed
        self._budget_ns = budget_ns
        self._pass_over = pass_over
        self._tell = tell
        self._log = log
        self._end_ns = None if seconds_max is None else round(seconds_max * 1e9)
        self._schedule = Schedule(tell)
        self._in_flight: dict[int, _Sent] = {}
        self._early: dict[int, Outcome] = {}
        self._answered = asyncio.Event()
        self._odd_stamps = 0
        self.sent = 0
        self.log_ns = 0
        """How much of the log was replayed, in its own time."""

    async def run(self, on_outcome: Callable[[Frame, Outcome], None]) -> None:
        """Returns when every frame has its outcome, which `on_outcome` got. Raises what sending, the stream or the
        writing of the log raises.
        """
        sending = asyncio.create_task(self._send())
        try:
            async for outcome in self._stream:
                sent = self._in_flight.pop(outcome.frame_id, None)
                self._answered.set()
                if sent is None:
                    self._early[outcome.frame_id] = outcome  # it came before `send` had said the frame's number
                else:
                    self._end(sent, outcome, on_outcome)
                for frame_id in [number for number in self._early if number in self._in_flight]:
                    self._end(self._in_flight.pop(frame_id), self._early.pop(frame_id), on_outcome)
        finally:
            sending.cancel()
            await asyncio.wait((sending,))
        if not sending.cancelled():
            sending.result()
        for frame_id, outcome in self._early.items():
            if frame_id in self._in_flight:
                self._end(self._in_flight.pop(frame_id), outcome, on_outcome)

    def stop(self) -> None:
        """Sends no more frames; `run` returns when those that were sent are answered."""
        self._end_ns = -1
        self._answered.set()

    def _end(self, sent: _Sent, outcome: Outcome, on_outcome: Callable[[Frame, Outcome], None]) -> None:
        frame = sent.frame
        if self._log is not None:
            alone_ns = self._budget_ns if self._speed is None else None
            self._log.outcome(frame.number, frame.time_ns, sent.stamp_ns, outcome, alone_ns)
        on_outcome(frame, outcome)

    async def _send(self) -> None:
        try:
            start_s, start_ns = 0.0, 0
            loop, wall = asyncio.get_running_loop(), WallClock()
            while (frame := await asyncio.to_thread(next, self._frames, None)) is not None:
                at_ns = self._schedule.at_ns(frame.time_ns, frame.number)
                if self._end_ns is not None and at_ns > self._end_ns:
                    return
                if not self.sent:
                    start_s, start_ns = loop.time(), wall.now_ns() - wall.moved_ns
                stamp_ns = self._stamp_ns(frame)
                captured_ns: int | None = None
                budget_ms, must_run = PATIENCE_MS, True
                if self._speed is None:
                    await self._deadlines_before(at_ns)
                else:
                    await asyncio.sleep(start_s + at_ns / self._speed / 1e9 - loop.time())
                    wall.now_ns()  # sees whether it was set meanwhile
                    passed_ns = (at_ns - (frame.time_ns - stamp_ns)) / self._speed
                    captured_ns = start_ns + wall.moved_ns + round(passed_ns)
                    budget_ms, must_run = self._budget_ns / self._speed / 1e6, False
                if self._end_ns is not None and at_ns > self._end_ns:  # it was stopped meanwhile
                    return
                await self._leave(_Sent(frame, stamp_ns, at_ns + self._budget_ns), captured_ns, budget_ms, must_run)
                self.log_ns = at_ns
        finally:
            await self._stream.finish()

    async def _leave(self, sent: _Sent, captured_ns: int | None, budget_ms: float, must_run: bool) -> None:
        frame = sent.frame
        try:
            number = await self._stream.send(
                frame.value,
                capture_time_ns=captured_ns,
                budget_ms=budget_ms,
                must_run=must_run,
                encoding=frame.encoding,
            )
        except (TypeError, ValueError) as error:  # it is not what the model takes
            self._pass_over(RecordingError(f"message {frame.number}: {error}"))
            return
        self.sent += 1
        self._in_flight[number] = sent
        if self._log is not None:
            self._log.seen(frame.number, frame.value)
            for logged in frame.logged:
                self._log.copy(logged)

    async def _deadlines_before(self, at_ns: int) -> None:
        """Waits until all frames are answered whose deadlines come before `at_ns` of the log, and there is room."""
        room = self._stream.opened.frames_in_flight_max
        while len(self._in_flight) >= room or any(sent.deadline_ns < at_ns for sent in self._in_flight.values()):
            self._answered.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_MS / 1e3):
                    await self._answered.wait()

    def _stamp_ns(self, frame: Frame) -> int:
        """When a frame was captured, by the clock of the recorder."""
        if not frame.stamp_ns or 0 <= frame.time_ns - frame.stamp_ns <= STAMP_AGE_NS_MAX:
            return frame.stamp_ns or frame.time_ns
        if not self._odd_stamps:
            off_s = (frame.time_ns - frame.stamp_ns) / 1e9
            self._tell(
                f"message {frame.number} says that it was captured {off_s:.3g} s before it was logged: ages of such "
                "messages count from when they were logged"
            )
        self._odd_stamps += 1
        return frame.time_ns
