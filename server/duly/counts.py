"""The counts of frames, which are kept in plain ints and lists, as every frame passes here."""

from bisect import bisect_left
from collections.abc import Sequence

from duly.core.types import OutcomeStatus

_MS = 1_000_000

TIME_BOUNDS_NS = tuple(
    int(ms * _MS)
    for ms in (0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 33, 50, 75, 100, 150, 250, 500, 1000, 2500, 10_000)
)
"""Upper bounds of the buckets of latency and age. They are dense from 1 ms to 100 ms, where sensors' budgets lie."""
SLACK_BOUNDS_NS = tuple(
    int(ms * _MS) for ms in (-1000, -250, -100, -50, -25, -10, -5, -2, -1, 0, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)
)
"""Upper bounds of the buckets of slack at the hand-over of an outcome; a slack below 0 means too late."""

_STATUSES = int(max(OutcomeStatus)) + 1
_LATE = int(OutcomeStatus.LATE)
"""The last status that is a result."""


class Histogram:
    """Counts of observations by bucket, and their sum. The sum of slack stays 0: Prometheus has no negative sums."""

    def __init__(self, bounds: Sequence[int]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def add(self, value: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self, unit: int) -> list[tuple[str, float]]:
        """Pairs (upper bound divided by `unit`, number of observations up to it), as Prometheus wants them."""
        seen = 0
        buckets = []
        edges = [repr(bound / unit) for bound in self.bounds] + ["+Inf"]
        for edge, count in zip(edges, self.counts.copy(), strict=True):
            seen += count
            buckets.append((edge, float(seen)))
        return buckets


class ClassCounts:
    """Counts of one model's streams of one class."""

    def __init__(self) -> None:
        self.outcomes = [0] * _STATUSES
        """Frames that ended, indexed by the number of their status."""
        self.latency = Histogram(TIME_BOUNDS_NS)
        self.slack = Histogram(SLACK_BOUNDS_NS)
        self.age = Histogram(TIME_BOUNDS_NS)
        self.failed_ns = 0
        """How long frames without results were here, in all."""
        self.queue_ns = 0
        """How long results had waited for a lane, in all; `input_ns` until they ran, and `run_ns` while they did."""
        self.input_ns = 0
        self.run_ns = 0
        self.last_ns = 0
        """When the last result was handed over, on the server's monotonic clock; 0: there was none."""

    def outcome(self, status: int, latency_ns: int, slack_ns: int, age_ns: int) -> None:
        """Counts one frame that is answered.

        `latency_ns`: from receipt to the hand-over to the transport. `age_ns`: from capture to the hand-over; -1 where
        the clocks are not related. Both count only for results, ON_TIME and LATE. `slack_ns`: deadline minus hand-over,
        negative where it is too late; it counts for every outcome.
        """
        self.outcomes[status] += 1
        self.slack.counts[bisect_left(SLACK_BOUNDS_NS, slack_ns)] += 1
        if status <= _LATE:
            self.latency.add(latency_ns)
            if age_ns >= 0:
                self.age.add(age_ns)
        else:
            self.failed_ns += latency_ns

    def ran(self, now_ns: int, queue_ns: int, input_ns: int, run_ns: int) -> None:
        """Counts where the time of one result went, which is handed over now: until its batch was sent to a lane, until
        that began to run, and until it was done.
        """
        self.queue_ns += queue_ns
        self.input_ns += input_ns
        self.run_ns += run_ns
        self.last_ns = now_ns


class BatchTimes:
    """How many batches of one size ran, and how long they took in all: until they ran, while they did, and until their
    results were here.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.input_ns = 0
        self.run_ns = 0
        self.output_ns = 0

    def add(self, input_ns: int, run_ns: int, output_ns: int) -> None:
        self.batches += 1
        self.input_ns += input_ns
        self.run_ns += run_ns
        self.output_ns += output_ns
