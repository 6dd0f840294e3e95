"""Counts and times the outcomes of one stream as they come. Nothing here reads a clock."""

from collections import Counter, deque

import numpy as np

from duly_client import Outcome, Status

RESULTS_MAX = 16_384
"""Number of newest results whose times are remembered, nine minutes of a microphone."""


class Tally:
    """The outcomes of one stream. Times are by the monotonic clock, in nanoseconds."""

    def __init__(self) -> None:
        self.sent = 0
        self.by_status: Counter[Status] = Counter()
        self.version = ""
        """Version that gave the newest result; empty: there is none yet."""
        self.batch_size = 0
        """Size of the batch that the newest result comes from."""
        self.refused_early = 0
        """Number of frames without a result whose outcome came before their deadline."""
        self.fault = ""
        """The newest outcome that should not occur: no result, and none of EXPIRED, SUPERSEDED and SHED."""
        self._latencies_ns: deque[int] = deque(maxlen=RESULTS_MAX)
        self._run_ns = 0  # time in the worker, summed over all results
        self._news: deque[tuple[int, int]] = deque(maxlen=RESULTS_MAX)
        """When each result was captured and when it came. Results older than one that came before are left out."""

    def add(self, outcome: Outcome, captured_ns: int) -> None:
        """Counts the outcome of a frame that was captured at `captured_ns`."""
        self.by_status[outcome.status] += 1
        if outcome.ok:
            self.version, self.batch_size = outcome.version, outcome.batch_size
            self._latencies_ns.append(outcome.latency_ns)
            timing = outcome.timing
            self._run_ns += timing.finished_ns - timing.started_ns
            if not self._news or captured_ns > self._news[-1][0]:
                self._news.append((captured_ns, captured_ns + outcome.latency_ns))
        elif outcome.status not in (Status.EXPIRED, Status.SUPERSEDED, Status.SHED):
            self.fault = f"{outcome.status.name}: {outcome.reason}"
        elif outcome.slack_ns > 0:
            self.refused_early += 1

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
        """Mean time that the worker took for a result's batch; None: no result came."""
        return self._run_ns // self.results if self.results else None

    def latency_ns(self, percentile: float) -> float | None:
        """Percentile of the time from capture to arrival, over the newest RESULTS_MAX results; None: none came."""
        return float(np.percentile(self._latencies_ns, percentile)) if self._latencies_ns else None

    def age_ns(self, now_ns: int) -> int | None:
        """Age of information: the time since the capture of the newest result; None: none came."""
        return now_ns - self._news[-1][0] if self._news else None

    @property
    def age_mean_ns(self) -> float | None:
        """Mean age of information from the first remembered result to the newest; None: there are not two."""
        captured_ns, came_ns = np.array(self._news, np.int64).reshape(-1, 2).T
        gaps_ns = np.diff(came_ns)
        if not gaps_ns.any():
            return None
        # Between two results the age grows as the time does.
        return float(np.average((came_ns - captured_ns)[:-1] + gaps_ns / 2, weights=gaps_ns))
