"""The last runs of one batch size: what they usually take, and what nearly all of them take.

Theory. The median is hardly touched by hiccups; a high quantile is what a plan needs, but a few hiccups of several
times the usual length would carry it with them. So beyond LONG_PERCENT of the median it follows only what is frequent.
A window that is small says little about its own quantiles: there the scatter of all sizes counts, too.
"""

from bisect import bisect_left, insort
from collections import deque
from math import inf, log

STALE_RUNS = 32
"""A size that has not been among so many runs of its kind says nothing about now."""
WINDOW = 128
"""Runs remembered for each batch size."""
LONG_PERCENT = 150
"""Runs longer than this share of the median count for the plan only where more than one in ten is."""
LONG_RUNS = 40
"""Whether they are is judged by the last so many runs of the size: what has passed is not planned for any more."""
FEW_RUNS = 64
"""A window of fewer says little about how far its times scatter: there that of all sizes counts, too."""
FIT_STEPS = 256
"""Plans are fitted anew once what they rest on has moved by this part of itself, which is less than their margin ..."""
FIT_STEPS_FEW = 64
"""... or by this one where that is of few runs; so are usual times, for which a percent or two makes no difference."""
REFERENCE_PERCENT = 10
"""Where the first runs of the host's own differ by more from those of the warm-up, the warm-up was something else."""
TRIAL_RUNS = 4
"""Runs that a trial takes: one more than what is left of the old ones, so that the median is of the new ones."""
PATIENCE_MAX = 4096
"""The most runs between two trials of a size that does not pay."""

_EIGHTHS = 2.3007
"""Standard deviations of a normal distribution between its first and its last eighth."""


class Window:
    """The last WINDOW times of one batch size, in order of time and in order of length."""

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
        """`samples_ns`: at least one, with the number of the lane's run that each is from; `reference_ns`: 0 for the
        median of these.
        """
        self.by_age = deque(samples_ns[-WINDOW:])
        self.by_length = sorted([sample_ns for _, sample_ns in self.by_age])
        self.median_ns = self.median()
        """The median of the window when it was last summarised."""
        self.high_ns = self.quantile(1.0)
        """The quantile that plans rest on, before their margin, when the window was last summarised."""
        self.reference_ns = reference_ns or self.median_ns
        """What the size takes at level 1. Levels are measured against it."""
        self.settled = False
        """Whether runs of the size are evidence of the level."""
        self.runs = 0
        """Number of runs observed so far; it stops counting when the reference stays for good."""
        self.ran = 0
        """Which run of its kind the last run of the size was; 0: it has not run."""
        self.on_trial = False
        self.trial_runs = 0
        """Number of runs that the trial still takes."""
        self.patience = STALE_RUNS
        """Number of runs of other sizes after which the size is tried again, where it does not pay."""

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
        """Whether the summary is another one than what the window says now."""
        by_length = self.by_length
        runs = len(by_length)
        if abs(by_length[(runs - 1) // 2] - self.median_ns) * FIT_STEPS_FEW > self.median_ns:
            return True
        steps = FIT_STEPS if runs >= FEW_RUNS else FIT_STEPS_FEW
        return abs(self.quantile(spread) - self.high_ns) * steps > self.high_ns

    def begin_trial(self, believed_ns: float, high_ns: float) -> None:
        """The next runs are to say what the size takes, beside the last few at the lengths that are believed."""
        self.on_trial = True
        self.trial_runs = TRIAL_RUNS
        self._keep(TRIAL_RUNS - 1, believed_ns / self.median_ns, high_ns)

    def judge(self, pays: bool) -> None:
        """The trial has shown whether the size pays, which sets when the next one comes."""
        self.patience = STALE_RUNS if pays else min(2 * self.patience, PATIENCE_MAX)

    def _keep(self, kept: int, factor: float = 1.0, longest_ns: float = inf) -> None:
        """Forgets all but the last so many runs, which are multiplied and then cut."""
        last = list(self.by_age)[-kept:]
        self.by_age = deque((run, min(sample_ns * factor, longest_ns)) for run, sample_ns in last)
        self.by_length = sorted([sample_ns for _, sample_ns in self.by_age])

    def shift(self, shift: float, after_run: int) -> None:
        """The level became `shift` times as high; runs after that one of the lane had already taken as long. So had
        some of those before, as far as the median has left the reference for where it is now to be.
        """
        new = 1 / shift
        old = min(max(self.reference_ns / self.median(), min(1.0, new)), max(1.0, new))
        self.by_age = deque((run, sample_ns * (old if run <= after_run else new)) for run, sample_ns in self.by_age)
        self.by_length = sorted([sample_ns for _, sample_ns in self.by_age])

    def settle(self, ratio: float) -> None:
        """The runs observed so far become what the size is known by. `ratio`: what other sizes take over what they are
        known by.
        """
        self.settled = True
        last = sorted([sample_ns for _, sample_ns in list(self.by_age)[-self.runs :]])
        median_ns = last[(len(last) - 1) // 2]
        self.reference_ns = median_ns / ratio
        if abs(self.median() - median_ns) * 100 > REFERENCE_PERCENT * median_ns:
            self._keep(self.runs)

    def deviation(self) -> float:
        """Standard deviation of the logarithm, judged by the middle three quarters, which few hiccups reach."""
        by_length = self.by_length
        eighth = len(by_length) // 8
        return log(by_length[-1 - eighth] / by_length[eighth]) / _EIGHTHS if eighth else 0.0

    def median(self) -> float:
        return self.by_length[(len(self.by_length) - 1) // 2]

    def quantile(self, spread: float) -> float:
        """The q99 of the window, or what was frequent in the last runs where the q99 is long against the median.
        `spread`: the ratio of this quantile to the median that the scatter of all sizes suggests.
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
