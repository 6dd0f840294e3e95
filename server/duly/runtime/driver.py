"""The only caller of the scheduler: reads the clock, calls `step`, carries out what comes back, keeps the one timer.

Everything here runs on the event loop. Frames that come within one turn of the loop are told to the scheduler together,
so that they share a batch rather than the first one running alone. Dispatches of a step are carried out before its
resolutions, so that a lane never waits for outcomes to be handed over; the worker's second slot keeps the outputs of
the batch that ended valid.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, assert_never

from duly.core.events import (
    Action,
    AdviseStream,
    BatchFailed,
    BatchFinished,
    DispatchBatch,
    Event,
    FramesArrived,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
    TimerFired,
    WarmLane,
)
from duly.core.scheduler import Scheduler
from duly.core.types import Frame, OutcomeStatus, StreamTerms
from duly.metrics import Metrics
from duly.runtime.lane import BatchResult, LaneWorker
from duly.runtime.outcome import BatchRun, Outcome, Sink
from duly.runtime.payloads import Payload, Payloads

TIMER_NS_MIN = 1_000_000
"""libuv's timers count in milliseconds."""


class Recorder(Protocol):
    """Is told everything that goes into the scheduler and comes out of it; what it is told is not its to keep."""

    def event(self, now_ns: int, event: Event) -> None:
        """Before it is carried out."""

    def actions(self, actions: list[Action]) -> None:
        """What came of that event."""


class Driver:
    def __init__(
        self,
        metrics: Metrics,
        payload_bytes_max: int,
        clock: Callable[[], int] = time.monotonic_ns,
        record: Recorder | None = None,
    ) -> None:
        """`clock`: nanoseconds that never go back."""
        self.scheduler = Scheduler()
        self.payloads = Payloads(payload_bytes_max)
        self.clock = clock
        self._record = record
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._workers: dict[tuple[str, str], LaneWorker] = {}
        self._sinks: dict[int, Sink] = {}
        self._runs: dict[int, tuple[DispatchBatch, BatchRun]] = {}
        self._warming: dict[str, int] = {}
        """By lane: the batch that last warmed it."""
        self._arrivals: list[Frame] = []
        """Of this turn of the loop."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._seq = 0
        self._stream_id = 0
        self._idle: asyncio.Future[None] | None = None

    # ---- for streams ----

    def open_stream(self, sink: Sink, terms: StreamTerms) -> int:
        self._stream_id += 1
        self._sinks[self._stream_id] = sink
        self.submit(StreamOpened(self._stream_id, terms))
        return self._stream_id

    def close_stream(self, stream_id: int) -> None:
        """Waiting frames are answered CANCELLED before this returns; those that run when their batch ends."""
        self.submit(StreamClosed(stream_id))
        del self._sinks[stream_id]
        for worker in self._workers.values():
            worker.forget(stream_id)

    def take_frame(self, frame: Frame, payload: Payload, size_bytes: int) -> None:
        """Numbers the frame; its outcome goes to its stream's sink, on a later turn of the loop."""
        self._seq += 1
        frame.seq = self._seq
        self.payloads.put(self._seq, payload, size_bytes)
        self._arrivals.append(frame)
        if len(self._arrivals) == 1:
            self._loop.call_soon(self._admit)

    # ---- for workers ----

    def add_worker(self, worker: LaneWorker) -> None:
        self._workers[worker.model, worker.lane] = worker

    def remove_worker(self, worker: LaneWorker) -> None:
        if self._workers.get((worker.model, worker.lane)) is worker:
            del self._workers[worker.model, worker.lane]

    def batch_ended(self, batch_id: int, result: BatchResult | str) -> None:
        """A worker reports a batch: its result, or why it failed."""
        running = self._runs.get(batch_id)
        if running is None and batch_id not in self._warming.values():
            return
        if isinstance(result, str):
            self._step(BatchFailed(batch_id, result), None)
            return
        event = BatchFinished(batch_id, finished_ns=result.finished_ns)
        if running is None:
            self._step(event, None)
            return
        action, run = running
        run.started_ns, run.finished_ns = result.started_ns, result.finished_ns
        if result.invalid or result.failed:
            event.invalid = {action.frames[i].seq: reason for i, reason in result.invalid.items()}
            event.failed = {action.frames[i].seq: reason for i, reason in result.failed.items()}
        self._step(event, result)

    # ---- the loop ----

    def submit(self, event: Event) -> None:
        self._step(event, None)

    async def drained(self) -> None:
        """Returns when no frame is unanswered."""
        while self.payloads:
            self._idle = self._loop.create_future()
            await self._idle

    def _admit(self) -> None:
        if self._arrivals:
            frames, self._arrivals = self._arrivals, []
            self._step(FramesArrived(frames), None)

    def _step(self, event: Event, result: BatchResult | None) -> None:
        self._admit()
        now_ns = self.clock()
        if self._record is not None:
            self._record.event(now_ns, event)
        actions = self.scheduler.step(now_ns, event)
        if self._record is not None:
            self._record.actions(actions)
        resolved: list[ResolveFrame] = []
        for action in actions:
            match action:
                case ResolveFrame():
                    resolved.append(action)
                case DispatchBatch():
                    self._dispatch(now_ns, action)
                case WarmLane():
                    self._warm(action)
                case AdviseStream():
                    sink = self._sinks.get(action.stream_id)
                    if sink is not None:
                        sink.advise(action.advice, action.reason, action.period_ns)
                case _:
                    assert_never(action)
        if resolved:
            self._resolve(now_ns, resolved, result)
        wake_ns = self.scheduler.next_wake_ns()
        if wake_ns is not None and (self._timer is None or wake_ns < self._timer_ns):
            self._arm(now_ns, wake_ns)

    def _dispatch(self, now_ns: int, action: DispatchBatch) -> None:
        self._runs[action.batch_id] = (action, BatchRun(action.model, action.variant, len(action.frames), now_ns))
        worker = self._workers.get((action.model, action.lane))
        payloads = [self.payloads.get(frame.seq) for frame in action.frames]
        if worker is None or not worker.run(action, payloads):
            # A step must not be entered from within a step.
            self._loop.call_soon(self.batch_ended, action.batch_id, "the worker is gone")

    def _warm(self, action: WarmLane) -> None:
        self._warming[action.lane] = action.batch_id
        worker = self._workers.get((action.model, action.lane))
        if worker is None or not worker.warm(action):
            self._loop.call_soon(self.batch_ended, action.batch_id, "the worker is gone")

    def _resolve(self, now_ns: int, resolved: list[ResolveFrame], result: BatchResult | None) -> None:
        batch_id = 0
        run: BatchRun | None = None
        index_of: dict[int, int] = {}
        for action in resolved:
            frame = action.frame
            outcome = Outcome(frame, action.status, action.reason, self.payloads.drop(frame.seq))
            if action.batch_id:
                if action.batch_id != batch_id:
                    batch_id = action.batch_id
                    batch, run = self._runs.pop(batch_id)
                    index_of = {f.seq: i for i, f in enumerate(batch.frames)}
                    late = sum(a.status is OutcomeStatus.LATE and a.batch_id == batch_id for a in resolved)
                    busy_ns = now_ns - run.dispatched_ns
                    self._metrics.batch(batch.model, batch.lane, run.size, busy_ns, busy_ns * late // run.size)
                outcome.run = run
                if result is not None and action.status in (OutcomeStatus.ON_TIME, OutcomeStatus.LATE):
                    outcome.outputs = result.outputs(index_of[frame.seq])
            sink = self._sinks.get(frame.stream_id)
            if sink is not None:
                sink.deliver(outcome)
            else:
                latency_ns, slack_ns = now_ns - frame.received_ns, frame.deadline_ns - now_ns
                self._metrics.outcome(frame.model, frame.stream_class, action.status, latency_ns, slack_ns, -1)
        if self._idle is not None and not self.payloads and not self._idle.done():
            self._idle.set_result(None)

    def _arm(self, now_ns: int, wake_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = wake_ns
        self._timer = self._loop.call_later(max(wake_ns - now_ns, TIMER_NS_MIN) / 1e9, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self.submit(TimerFired())
