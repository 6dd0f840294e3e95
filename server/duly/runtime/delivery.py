"""Hands outcomes to streams, each frame's exactly once. A stream that fails on its outcomes, or a count that fails,
does not keep other streams from theirs.

A frame leaves the held frames with its outcome and not before, because until then it is owed one.
"""

from collections.abc import Callable

import structlog

from duly.core.events import AdviseStream, ResolveFrame
from duly.core.fates import CLOSED_RUNNING, RESULTS
from duly.core.types import Frame, JointFrame, OutcomeStatus
from duly.metrics import Metrics
from duly.runtime.held_frames import HeldFrame, HeldFrames
from duly.runtime.outcome import BatchRun, FusedOutcome, Outcome, Output, Partner, Sink, Tap
from duly.runtime.worker_port import BatchResult

_log = structlog.get_logger("duly.driver")

TAP_FAILURES_MAX = 16
"""What looks at frames and fails on so many in a row sees no more. One odd frame is passed over."""


class Delivery:
    def __init__(
        self,
        metrics: Metrics,
        held: HeldFrames,
        close_soon: Callable[[int], None],
        unheard: Callable[[int, Outcome], None],
    ) -> None:
        """`close_soon(stream_id)` is called for a broken stream and must close it on a later turn of the loop.
        `unheard(now_ns, outcome)` is called where the stream of the frame has closed.
        """
        self.sinks: dict[int, Sink] = {}
        """The sinks of the open streams, and of fusion groups, by stream id."""
        self.taps: list[Tap] | None = None
        """What looks at each frame that has a result; None: nothing does, as nearly always. One that raises for
        TAP_FAILURES_MAX frames in a row is let go.
        """
        self._tap_failures: dict[Tap, list[int]] = {}
        """Of those that have failed: on how many frames in a row, and on how many at all."""
        self._metrics = metrics
        self._held = held
        self._close_soon = close_soon
        self._unheard = unheard

    def resolve(
        self,
        now_ns: int,
        resolved: list[ResolveFrame],
        runs: dict[int, BatchRun],
        result: BatchResult | None,
    ) -> None:
        """Delivers the outcomes of one step. It removes the batches that have ended from `runs`; `result` is that of
        one of them.

        Raises where the scheduler ends a frame or a batch that is not there.
        """
        batch_id = 0
        run: BatchRun | None = None
        index = 0
        sink: Sink | None = None
        stream_id = 0
        left = iter(resolved)
        # One `try` serves many frames: where a sink has raised, the loop goes on with the next frame.
        while True:
            try:
                for action in left:
                    sink = None
                    frame = action.frame
                    stream_id = frame.stream_id
                    ran: BatchRun | None = None
                    outputs: list[Output] | None = None
                    if action.batch_id:
                        if action.batch_id != batch_id:
                            batch_id = action.batch_id
                            run = runs.pop(batch_id)
                            index = 0
                            self._count_batch(run, now_ns, resolved)
                        ran = run
                        if result is not None and action.status in RESULTS:
                            assert run is not None
                            while run.batch.frames[index] is not frame:  # frames end in the order of their batch
                                index += 1
                            outputs = result.outputs(index)
                            if self.taps is not None:
                                self._show(self.taps, frame, action.status, outputs, run)
                    if isinstance(frame, JointFrame):
                        self._resolve_joint(now_ns, action, frame, ran, outputs)
                        continue
                    # Only now: whatever raised before this, the frame is still owed an outcome.
                    outcome = Outcome(self._held.drop(frame), action.status, action.reason, ran, outputs)
                    if ran is not None and outcome.held.ran is not None:
                        outcome.held.ran(ran.finished_ns, (ran.finished_ns - ran.started_ns) / len(ran.batch.frames))
                    sink = self.sinks.get(stream_id)
                    if sink is not None:
                        sink.deliver(outcome)
                    else:
                        self._drop_unheard(now_ns, outcome)
                return
            except Exception:
                if sink is None:
                    raise
                self._break(stream_id)

    def _show(self, taps: list[Tap], frame: Frame, status: OutcomeStatus, outputs: list[Output], run: BatchRun) -> None:
        """Shows a frame to all taps, while its payload is still there. Raises KeyError where it is not held."""
        (payload,) = self._held.payloads((frame,))
        pieces = self._held.of((frame,))
        if pieces[0].spare:
            return
        for tap in tuple(taps):
            try:
                tap(pieces, payload, status, outputs, run)
                if self._tap_failures and tap in self._tap_failures:
                    self._tap_failures[tap][0] = 0
            except Exception:
                self._tap_failed(taps, tap, frame.model)

    def _tap_failed(self, taps: list[Tap], tap: Tap, model: str) -> None:
        """Lets go of what looks at frames if it fails again and again. It must be called while the error is handled."""
        counts = self._tap_failures.setdefault(tap, [0, 0])
        counts[0] += 1
        counts[1] += 1
        if counts[0] >= TAP_FAILURES_MAX:
            _log.exception(
                "what looks at frames failed again and again, it sees no more", model=model, frames=counts[1]
            )
            taps.remove(tap)
            del self._tap_failures[tap]
        elif counts[1].bit_count() == 1:  # 1, 2, 4 ...: an error that comes often fills no log
            _log.exception("what looks at frames failed on one", model=model, frames=counts[1])

    def _resolve_joint(
        self, now_ns: int, action: ResolveFrame, joint: JointFrame, ran: BatchRun | None, outputs: list[Output] | None
    ) -> None:
        """Delivers the outcome of a joint frame to the streams of all its pieces. Its lane time is taken once."""
        helds = [self._held.drop(piece) for piece in joint.pieces]
        names = [held.signature.inputs[0].name for held in helds]
        if ran is not None and helds[0].ran is not None:
            helds[0].ran(ran.finished_ns, (ran.finished_ns - ran.started_ns) / len(ran.batch.frames))
        for held in helds:
            own = held.frame
            partners = tuple(
                [
                    Partner(name, piece.frame_id, piece.captured_ns - own.captured_ns)
                    for name, piece in zip(names, joint.pieces, strict=True)
                    if piece is not own
                ]
            )
            sink = self.sinks.get(own.stream_id)
            if sink is None:
                fate = CLOSED_RUNNING
                self._drop_unheard(now_ns, FusedOutcome(held, fate.status, fate.wording, ran, None, partners))
                continue
            try:
                sink.deliver(FusedOutcome(held, action.status, action.reason, ran, outputs, partners))
            except Exception:
                self._break(own.stream_id)

    def fail(self, now_ns: int, held: HeldFrame, run: BatchRun | None, reason: str) -> None:
        """Answers a held frame FAILED without the scheduler."""
        outcome = Outcome(self._held.drop(held.frame), OutcomeStatus.FAILED, reason, run)
        stream_id = held.frame.stream_id
        sink = self.sinks.get(stream_id)
        if sink is None:
            self._drop_unheard(now_ns, outcome)
            return
        try:
            sink.deliver(outcome)
        except Exception:
            self._break(stream_id)

    def advise(self, action: AdviseStream) -> None:
        sink = self.sinks.get(action.stream_id)
        if sink is not None:
            try:
                sink.advise(action.advice, action.reason, action.period_ns)
            except Exception:
                self._break(action.stream_id)

    def _break(self, stream_id: int) -> None:
        """Ends a stream that raised. It gets nothing more."""
        _log.exception("stream is broken, it is ended", stream=stream_id)
        sink = self.sinks.pop(stream_id)
        self._close_soon(stream_id)
        try:
            sink.fail()
        except Exception:
            _log.exception("stream cannot be ended", stream=stream_id)

    def _count_batch(self, run: BatchRun, now_ns: int, resolved: list[ResolveFrame]) -> None:
        """Counts the batch, whose lane time counts as wasted as far as its frames are late."""
        batch = run.batch
        busy_ns = now_ns - run.dispatched_ns
        size = len(batch.frames)
        late = 0
        for action in resolved:
            if action.status is OutcomeStatus.LATE and action.batch_id == batch.batch_id:
                late += 1
        try:
            self._metrics.batch(batch.model, batch.lane, size, busy_ns, busy_ns * late // size)
            if run.finished_ns:
                sent_ns, started_ns, finished_ns = run.dispatched_ns, run.started_ns, run.finished_ns
                self._metrics.batch_times(
                    batch.model, size, started_ns - sent_ns, finished_ns - started_ns, now_ns - finished_ns
                )
        except Exception:
            _log.exception("counting failed", model=batch.model)

    def _drop_unheard(self, now_ns: int, outcome: Outcome) -> None:
        try:
            self._unheard(now_ns, outcome)
        except Exception:
            _log.exception("counting failed", model=outcome.held.frame.model)
