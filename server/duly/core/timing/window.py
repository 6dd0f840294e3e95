"""The last runs of one batch size: what they usually take, and what nearly all of them take.

Theory. The median is hardly touched by hiccups. A plan needs a high quantile, but a few hiccups of several times the
usual length would carry that with them. So beyond LONG_PERCENT of the median it follows only what is frequent. A small
window says little about its own quantiles, so there the scatter of all sizes counts as well.
"""

from bisect import bisect_left, insort
from collections import deque
from math import inf, log

STALE_RUNS = 32
"""A size that has not been among this many last runs of its kind says nothing about now."""
WINDOW = 128
"""Number of runs that are remembered for each batch size."""
LONG_PERCENT = 150
"""Runs beyond this share of the median count for the plan only where more than one run in ten is that long."""
LONG_RUNS = 40
"""Number of last runs of the size that show how frequent long runs are; older ones are not planned for any more."""
FEW_RUNS = 64
"""A window of fewer runs says little about its own scatter; there the scatter of all sizes counts as well."""
FIT_STEPS = 256
"""Plans are fitted anew once their quantile has moved by one part in this many, which is less than their margin."""
FIT_STEPS_FEW = 64
"""The same for windows of few runs, and for usual times, where a percent or two makes no difference."""
REFERENCE_PERCENT = 10
"""If the median of the first real runs differs from that of the window by more, the warm-up is forgotten."""
TRIAL_RUNS = 4
"""Number of runs in a trial: one more than the old runs that are kept, so that the median is among the new ones."""
PATIENCE_MAX = 4096
"""The largest number of runs between two trials of a size that does not pay."""

_EIGHTHS = 2.3007
"""Distance between the first and the last eighth of a normal distribution, in standard deviations."""


class Window:
    """The last WINDOW run times of one batch size, ordered by age and by length."""

    __slots__ = (
        "by_age",
        "by_length",
        "high_ns",
        "median_ns",
        "on_trial",
        "patience",
        "ran",
        "reference_ns",
        "runs",
        "settled",
        "trial_runs",
    )

    def __init__(self, samples_ns: list[tuple[int, float]], reference_ns: float = 0.0) -> None:
        """`samples_ns` has at least one time, each with the number of the lane's run that it comes from. A
        `reference_ns` of 0 stands for their median.
        """
        self.by_age = deque(samples_ns[-WINDOW:])
        self.by_length = sorted([sample_ns for _, sample_ns in self.by_age])
        self.median_ns = self.median()
        """The median of the window when it was last summarised."""
        self.high_ns = self.quantile(1.0)
        """The quantile that plans rest on, before their margin, when the window was last summarised."""
        self.reference_ns = reference_ns or self.median_ns
        """What the size takes at level 1. Levels are the ratio of measured times to this."""
        self.settled = False
        """Whether runs of the size are evidence of the level."""
        self.runs = 0
        """Number of runs observed so far. It stops counting once the reference stays for good."""
        self.ran = 0
        """Number of the size's last run among the runs of its kind; 0: it has not run."""
        self.on_trial = False
        self.trial_runs = 0
        """Number of runs that the trial still takes."""
        self.patience = STALE_RUNS
        """Number of runs of other sizes after which the size is tried again if it does not pay."""

    def copy(self) -> "Window":
        """A window with the same runs, which count as warm-up."""
        return Window(list(self.by_age), self.reference_ns)

    def add(self, lane_run: int, sample_ns: float) -> None:
        by_length = self.by_length
        if len(by_length) == WINDOW:
            del by_length[bisect_left(by_length, self.by_age.popleft()[1])]
        self.by_age.append((lane_run, sample_ns))
        insort(by_length, sample_ns)

    def forget_longest(self) -> None:
        if len(self.by_length) > 1:
            longest = self.by_length.pop()
            self.by_age.remove(next(aged for aged in self.by_age if aged[1] == longest))

    def has_moved(self, spread: float) -> bool:
        """Whether the window has moved away from its summary by enough to fit plans anew."""
        by_length = self.by_length
        runs = len(by_length)
        if abs(by_length[(runs - 1) // 2] - self.median_ns) * FIT_STEPS_FEW > self.median_ns:
            return True
        steps = FIT_STEPS if runs >= FEW_RUNS else FIT_STEPS_FEW
        return abs(self.quantile(spread) - self.high_ns) * steps > self.high_ns

    def begin_trial(self, believed_ns: float, high_ns: float) -> None:
        """Starts a trial: the next runs decide what the size takes, together with a few old ones scaled to what is
        believed.
        """
        self.on_trial = True
        self.trial_runs = TRIAL_RUNS
        self._keep(TRIAL_RUNS - 1, believed_ns / self.median_ns, high_ns)

    def judge(self, pays: bool) -> None:
        """Sets when the next trial comes, after one that has shown whether the size pays."""
        self.patience = STALE_RUNS if pays else min(2 * self.patience, PATIENCE_MAX)

    def _keep(self, kept: int, factor: float = 1.0, longest_ns: float = inf) -> None:
        """Forgets all but the last `kept` runs. These are multiplied by `factor` and cut at `longest_ns`."""
        last = list(self.by_age)[-kept:]
        self.by_age = deque((run, min(sample_ns * factor, longest_ns)) for run, sample_ns in last)
        self.by_length = sorted([sample_ns for _, sample_ns in self.by_age])

    def shift(self, shift: float, after_run: int) -> None:
        """Divides the times by a change of the level, which became `shift` times as high. Runs of the lane after number
        `after_run` are divided in full. Older ones are divided by as much of the shift as the median already shows
        against the reference.
        """
        new = 1 / shift
        old = min(max(self.reference_ns / self.median(), min(1.0, new)), max(1.0, new))
        self.by_age = deque((run, sample_ns * (old if run <= after_run else new)) for run, sample_ns in self.by_age)
        self.by_length = sorted([sample_ns for _, sample_ns in self.by_age])

    def settle(self, ratio: float) -> None:
        """Takes the runs observed so far as the new reference. `ratio` is what other sizes take now over their own
        references.
        """
        self.settled = True
        last = sorted([sample_ns for _, sample_ns in list(self.by_age)[-self.runs :]])
        median_ns = last[(len(last) - 1) // 2]
        self.reference_ns = median_ns / ratio
        if abs(self.median() - median_ns) * 100 > REFERENCE_PERCENT * median_ns:
            self._keep(self.runs)

    def deviation(self) -> float:
        """The standard deviation of the logarithm, from the middle three quarters, which few hiccups reach."""
        by_length = self.by_length
        eighth = len(by_length) // 8
        return log(by_length[-1 - eighth] / by_length[eighth]) / _EIGHTHS if eighth else 0.0

    def median(self) -> float:
        return self.by_length[(len(self.by_length) - 1) // 2]

    def quantile(self, spread: float) -> float:
        """The q99 of the window or, where that is long against the median, what was frequent in the last runs. `spread`
        is the ratio of quantile to median that the scatter of all sizes suggests; it counts in small windows.
        """
        by_length = self.by_length
        q99 = by_length[(len(by_length) - 1) * 99 // 100]
        median = by_length[(len(by_length) - 1) // 2]
        bound = median * LONG_PERCENT / 100
        if len(by_length) < FEW_RUNS:
            q99 = max(q99, min(bound, median * spread))
        if q99 <= bound:
            return q99
        late = by_length
        if len(late) > LONG_RUNS:
            late = sorted([self.by_age[nth][1] for nth in range(len(late) - LONG_RUNS, len(late))])
        return max(bound, late[(len(late) - 1) * 90 // 100])

    def summarise(self, spread: float) -> None:
        self.median_ns = self.median()
        self.high_ns = self.quantile(spread)
