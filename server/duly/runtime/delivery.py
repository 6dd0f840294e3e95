"""Hands outcomes to streams: each frame's once, and whatever one stream, or counting, does about it, the others' too.

A frame leaves the payload table with its outcome and not before: until then it is owed one.
"""

from collections.abc import Callable

import structlog

from duly.core.events import AdviseStream, DispatchBatch, ResolveFrame
from duly.core.types import Frame, OutcomeStatus
from duly.metrics import Metrics
from duly.runtime.outcome import BatchRun, Outcome, Sink
from duly.runtime.payloads import Payloads
from duly.runtime.worker_port import BatchResult

_log = structlog.get_logger("duly.driver")

_RESULTS = (OutcomeStatus.ON_TIME, OutcomeStatus.LATE)


class Delivery:
    def __init__(self, metrics: Metrics, payloads: Payloads, close_soon: Callable[[int], None]) -> None:
        """`close_soon(stream_id)`: the stream is broken, the scheduler is to be told on a later turn of the loop."""
        self.sinks: dict[int, Sink] = {}
        """By stream, of those that are open."""
        self._metrics = metrics
        self._payloads = payloads
        self._close_soon = close_soon

    def resolve(
        self,
        now_ns: int,
        resolved: list[ResolveFrame],
        runs: dict[int, tuple[DispatchBatch, BatchRun]],
        result: BatchResult | None,
    ) -> None:
        """The outcomes of one step; `runs` loses the batches that have ended, `result` is that of one of them.

        Raises where the scheduler ends a frame or a batch that is not there.
        """
        batch_id = 0
        run: BatchRun | None = None
        index_of: dict[int, int] = {}
        sink: Sink | None = None
        stream_id = 0
        left = iter(resolved)
        # One try for all of them: where a sink raised, it goes on with the next.
        while True:
            try:
                for action in left:
                    sink = None
                    frame = action.frame
                    stream_id = frame.stream_id
                    outcome = Outcome(frame, action.status, action.reason, 0)
                    if action.batch_id:
                        if action.batch_id != batch_id:
                            batch_id = action.batch_id
                            batch, run = runs.pop(batch_id)
                            index_of = {f.seq: i for i, f in enumerate(batch.frames)}
                            late = sum(a.status is OutcomeStatus.LATE and a.batch_id == batch_id for a in resolved)
                            self._count_batch(batch, run, now_ns - run.dispatched_ns, late)
                        outcome.run = run
                        if result is not None and action.status in _RESULTS:
                            outcome.outputs = result.outputs(index_of[frame.seq])
                    outcome.size_bytes = self._payloads.drop(frame.seq)
                    sink = self.sinks.get(stream_id)
                    if sink is not None:
                        sink.deliver(outcome)
                    else:
                        self._count_unheard(now_ns, outcome)
                return
            except Exception:
                if sink is None:
                    raise
                self._break(stream_id)

    def fail(self, now_ns: int, frame: Frame, run: BatchRun | None, reason: str) -> None:
        """Answers a frame past the scheduler."""
        outcome = Outcome(frame, OutcomeStatus.FAILED, reason, self._payloads.drop(frame.seq), run)
        sink = self.sinks.get(frame.stream_id)
        if sink is None:
            self._count_unheard(now_ns, outcome)
            return
        try:
            sink.deliver(outcome)
        except Exception:
            self._break(frame.stream_id)

    def advise(self, action: AdviseStream) -> None:
        sink = self.sinks.get(action.stream_id)
        if sink is not None:
            try:
                sink.advise(action.advice, action.reason, action.period_ns)
            except Exception:
                self._break(action.stream_id)

    def _break(self, stream_id: int) -> None:
        """The stream is as good as closed, and told to end."""
        _log.exception("stream is broken, it is ended", stream=stream_id)
        sink = self.sinks.pop(stream_id)
        self._close_soon(stream_id)
        try:
            sink.fail()
        except Exception:
            _log.exception("stream cannot be ended", stream=stream_id)

    def _count_batch(self, batch: DispatchBatch, run: BatchRun, busy_ns: int, late: int) -> None:
        try:
            self._metrics.batch(batch.model, batch.lane, run.size, busy_ns, busy_ns * late // run.size)
        except Exception:
            _log.exception("counting failed", model=batch.model)

    def _count_unheard(self, now_ns: int, outcome: Outcome) -> None:
        """An outcome whose stream has closed."""
        frame = outcome.frame
        latency_ns, slack_ns = now_ns - frame.received_ns, frame.deadline_ns - now_ns
        try:
            self._metrics.outcome(frame.model, frame.stream_class, outcome.status, latency_ns, slack_ns, -1)
        except Exception:
            _log.exception("counting failed", model=frame.model)
