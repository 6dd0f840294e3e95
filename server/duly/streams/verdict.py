"""The final verdict on every frame, and the one place where outcomes are counted.

The scheduler's answer is not the last word on a result: on its way to the client it may come too late for its deadline,
be outrun by a newer one, or find nobody there. What the client gets is decided here, at the hand-over to the transport,
and what was answered ON_TIME and turned out otherwise is reported, so that fairness, floors and the choice of variants
rest on what clients really got.

A result that waited because its own client did not read is no hit, and no miss of the lanes either: a slow reader costs
only itself, and gains nothing by it.
"""

from collections.abc import Callable, Sequence

from duly.core import fates
from duly.core.events import FramesTurnedOut
from duly.core.fates import Fate
from duly.core.types import OutcomeStatus
from duly.metrics import Metrics
from duly.runtime.outcome import Outcome


class Verdicts:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._observe: Callable[[Outcome], None] | None = None

    def observed_by(self, observe: Callable[[Outcome], None] | None) -> None:
        """Has `observe` called with each outcome as its client gets it from now on; None: nobody. It must not raise."""
        self._observe = observe

    def sent(self, now_ns: int, outcomes: Sequence[Outcome], client_slow: bool) -> Sequence[FramesTurnedOut]:
        """Settles the status of outcomes of one stream that are handed to the transport now, and counts them. Returns
        the events for the scheduler. `client_slow`: whether they waited for the client to read what was sent before.
        """
        turned_out: list[Outcome] | None = None
        for outcome in outcomes:
            if outcome.status is OutcomeStatus.ON_TIME:
                if outcome.turned_out is None and now_ns > outcome.held.frame.deadline_ns:
                    outcome.turned_out = fates.READ_LATE if client_slow else fates.SENT_LATE
                    outcome.reason = outcome.turned_out.wording
                if outcome.turned_out is not None:
                    turned_out = turned_out or []
                    turned_out.append(outcome)
            if outcome.turned_out is not None:
                outcome.status = outcome.turned_out.status
            self._count(now_ns, outcome)
        return _events(turned_out) if turned_out is not None else ()

    def unread(self, now_ns: int, outcomes: Sequence[Outcome]) -> Sequence[FramesTurnedOut]:
        """Counts outcomes that nobody will read any more, as their client is gone. Returns events as `sent` does."""
        hits = [outcome for outcome in outcomes if outcome.status is OutcomeStatus.ON_TIME]
        for outcome in outcomes:
            outcome.turned_out, outcome.status = fates.UNREAD, fates.UNREAD.status
            self._count(now_ns, outcome)
        return _events(hits)

    def unheard(self, now_ns: int, outcome: Outcome) -> None:
        """Counts an outcome whose stream has closed before. The scheduler knows that already."""
        self._count(now_ns, outcome)

    def _count(self, now_ns: int, outcome: Outcome) -> None:
        held = outcome.held
        frame = held.frame
        latency_ns, slack_ns = now_ns - held.received_ns, frame.deadline_ns - now_ns
        age_ns = latency_ns + held.capture_to_receipt_ns if held.clock_uncertainty_ns else -1
        counts = self._metrics.of(frame.model, held.stream_class)
        counts.outcome(outcome.status, latency_ns, slack_ns, age_ns)
        run = outcome.run
        if run is not None:
            if run.guards is not None:
                self._metrics.flagged(frame.model, outcome.guards)
            if outcome.status <= OutcomeStatus.LATE:
                sent_ns, started_ns = run.dispatched_ns, run.started_ns
                counts.ran(now_ns, sent_ns - held.received_ns, started_ns - sent_ns, run.finished_ns - started_ns)
        if self._observe is not None:
            self._observe(outcome)


def _events(outcomes: Sequence[Outcome]) -> list[FramesTurnedOut]:
    """Returns one event for each model version and fate."""
    frames: dict[tuple[int, str, OutcomeStatus, bool], int] = {}
    for outcome in outcomes:
        fate, frame = outcome.turned_out, outcome.held.frame
        assert isinstance(fate, Fate)
        key = (frame.stream_id, frame.model, fate.status, fate.missed)
        frames[key] = frames.get(key, 0) + 1
    return [
        FramesTurnedOut(stream_id, model, count, status, missed)
        for (stream_id, model, status, missed), count in frames.items()
    ]
