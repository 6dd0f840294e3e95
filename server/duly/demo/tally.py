"""What became of the frames of one stream, counted and timed as their outcomes come. Reads no clock."""

from collections import Counter, deque

import numpy as np

from duly_client import Outcome, Status

LATENCIES_MAX = 16_384
"""Newest results whose latency is remembered: nine minutes of a microphone."""


class Tally:
    """Times are wall clock, ns since 1970."""

    def __init__(self) -> None:
        self.sent = 0
        self.by_status: Counter[Status] = Counter()
        self.version = ""
        """That gave the newest result; empty: none yet."""
        self.batch_size = 0
        """In which the newest result was made."""
        self.told_early = 0
        """Frames without a result whose client knew it before their deadline."""
        self.fault = ""
        """Why the newest frame ended as none should: neither with a result nor EXPIRED, SUPERSEDED or SHED."""
        self._latencies_ns: deque[int] = deque(maxlen=LATENCIES_MAX)
        self._run_ns = 0  # all results together
        self._captured_ns = 0  # of the newest result; 0: none yet
        self._first_ns = self._held_ns = 0  # when the first and the newest result came
        self._age_area = 0  # ns * ns: the age summed over the time from the first result to the newest

    def add(self, outcome: Outcome, captured_ns: int) -> None:
        """The outcome of a frame that was captured then."""
        self.by_status[outcome.status] += 1
        if outcome.ok:
            self.version, self.batch_size = outcome.version, outcome.batch_size
            self._latencies_ns.append(outcome.latency_ns)
            timing = outcome.timing
            self._run_ns += timing.finished_ns - timing.started_ns
            self._hold(captured_ns, captured_ns + outcome.latency_ns)
        elif outcome.status not in (Status.EXPIRED, Status.SUPERSEDED, Status.SHED):
            self.fault = f"{outcome.status.name}: {outcome.reason}"
        elif outcome.slack_ns > 0:
            self.told_early += 1

    def _hold(self, captured_ns: int, now_ns: int) -> None:
        if not self._captured_ns:
            self._first_ns = now_ns
        elif captured_ns > self._captured_ns:
            # Between two results the age grows as the time does.
            grown_ns = now_ns - self._held_ns
            self._age_area += (2 * (self._held_ns - self._captured_ns) + grown_ns) * grown_ns // 2
        if captured_ns > self._captured_ns:
            self._captured_ns, self._held_ns = captured_ns, now_ns

    @property
    def answered(self) -> int:
        return self.by_status.total()

    @property
    def results(self) -> int:
        return self.by_status[Status.ON_TIME] + self.by_status[Status.LATE]

    @property
    def on_time(self) -> int:
        return self.by_status[Status.ON_TIME]

    @property
    def on_time_ratio(self) -> float | None:
        """On-time results per answered frame; None: none is answered yet."""
        return self.on_time / self.answered if self.answered else None

    @property
    def run_mean_ns(self) -> int | None:
        """Mean time in the worker of the results' batches; None: no result came."""
        return self._run_ns // self.results if self.results else None

    def latency_ns(self, percentile: float) -> float | None:
        """From capture to the outcome's arrival, of the newest LATENCIES_MAX results."""
        return float(np.percentile(self._latencies_ns, percentile)) if self._latencies_ns else None

    def age_ns(self, now_ns: int) -> int | None:
        """Age of information: since the capture of the newest result held."""
        return now_ns - self._captured_ns if self._captured_ns else None

    @property
    def age_mean_ns(self) -> int | None:
        """Mean age of information over the time from the first result to the newest."""
        span_ns = self._held_ns - self._first_ns
        return self._age_area // span_ns if span_ns > 0 else None
