"""How long runs of one kind take, by batch size: what was measured, and what is believed of sizes that do not run.

Theory. A size that runs is known by the window of its last runs. One that has not run for STALE_RUNS of its kind is
believed to have changed as those that do run have: each size has a `reference`, what it took when it was first known,
and a stale size takes its reference times the ratio of window over reference that the sizes beside it show, on a
straight line between them. Its own window counts only where it says less, since nothing else would ever let such a size
run again and show that it is better than remembered: optimism in the face of what is not known, as in bandit problems
(Auer, 2002). For the same reason it is never believed to take longer than its frames one by one, nor than a larger size
that does run. So whatever spoilt a window, the size is worth trying again soon after; the trial, which starts from the
last few of its old runs at the length that was believed, is over within TRIAL_RUNS. Where it shows that the size is as
bad as remembered, the next one comes after twice as many runs: trials cost a vanishing share of the lane.

All times here are at level 1: the host divides what it measures by the level of now (`lane_speed`). References stay
what they are once they rest on runs of the host's own, so that levels are always the ratio of what is measured now to
what was measured then, however often they change: corrections cannot add up to a drift.
"""

from bisect import bisect_left, insort
from collections import deque
from math import exp, inf, log

WINDOW = 128
"""Runs remembered for each batch size."""
LONG_PERCENT = 150
"""Runs longer than this share of the median count for the plan only where more than one in ten is."""
LONG_RUNS = 40
"""Whether they are is judged by the last so many runs of the size: what has passed is not planned for any more."""
STALE_RUNS = 32
"""A size that has not been among so many runs of its kind says nothing about now."""
TRUSTED_RUNS = 8
"""A size says something about the level from so many runs on; before, its median is mostly the straight line."""
REFERENCE_RUNS = 64
"""What a size is known by follows its window for its first so many runs, then stays."""
REFERENCE_PERCENT = 10
"""Where the first runs of the host's own differ by more from those of the warm-up, the warm-up was something else."""
MEDIAN_STEPS = 64
"""Usual times are fitted anew once a median has moved by this part of itself."""
TRIAL_RUNS = 4
"""Runs that a trial takes: one more than what is left of the old ones, so that the median is of the new ones."""
PATIENCE_MAX = 4096
"""The most runs between two trials of a size that does not pay."""
FEW_RUNS = 64
"""A window of fewer says little about how far its times scatter: there that of all sizes counts, too."""
FEW_DEVIATIONS = 1.3
"""Standard deviations from the median to what a full window would be planned for: the third longest of WINDOW."""
NOISE_RUNS = 256
"""How far they scatter is averaged over about so many runs."""
NOISE_CLIP = 0.4
"""A run that is longer by more counts as one that is longer by so much; of the logarithm."""
TUNE_RUNS = 16
"""What is planned for follows the noise every so many runs."""

_EIGHTHS = 2.3007
"""Standard deviations of a normal distribution between its first and its last eighth."""
_SD_OF_ABSOLUTE = 1.2533
"""Standard deviation over mean absolute value, of a normal distribution: sqrt(pi / 2)."""


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
        """Of the window, where it was last summarised."""
        self.high_ns = self.quantile(1.0)
        """What is planned for, before the margin; likewise."""
        self.reference_ns = reference_ns or self.median_ns
        """What the size takes at level 1."""
        self.settled = False
        """Its runs say something about the level."""
        self.runs = 0
        """That were observed, up to REFERENCE_RUNS, while the reference follows them."""
        self.ran = 0
        """Number of the last one among the runs of its kind; 0: none."""
        self.on_trial = False
        self.trial_runs = 0
        """Left of the trial."""
        self.patience = STALE_RUNS
        """Runs of other sizes before the next trial where the size does not pay."""

    def copy(self) -> "Window":
        """As if its runs were warm-up."""
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
        return self.high_ns != self.quantile(spread) or (
            abs(self.median() - self.median_ns) * MEDIAN_STEPS > self.median_ns
        )

    def begin_trial(self, believed_ns: float, high_ns: float) -> None:
        """The next runs are to say what the size takes, beside the last few at the lengths that are believed."""
        self.on_trial = True
        self.trial_runs = TRIAL_RUNS
        self._keep(TRIAL_RUNS - 1, believed_ns / self.median_ns, high_ns)

    def judge(self, pays: bool) -> None:
        """The trial is over."""
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
        """The runs observed so far, TRUSTED_RUNS or more, become what the size is known by. `ratio`: what sizes beside
        it take over what they are known by.
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
        """q99; where that is long against the median, at most what is frequent of late. `spread`: what is planned for
        over the median, for all that other sizes tell.
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


class RunTimes:
    """The windows of one kind of runs: those in a row, or those after idle."""

    __slots__ = ("_noise", "last", "look_again", "number", "runs", "settled", "sizes", "spread", "windows")

    def __init__(self, windows: dict[int, Window], number: int, noise: float) -> None:
        """`windows`: by batch size, at least one. `number`: by which the lane's speed knows these runs. `noise`: the
        standard deviation of the logarithm of such a time; 0: not known.
        """
        self.windows = windows
        self.number = number
        self._noise = noise
        self.spread = 1.0
        """What is planned for over the median, where a size has few runs."""
        self._tune()
        self.sizes = sorted(windows)
        self.runs = 0
        """Observed."""
        self.last = -STALE_RUNS
        """Number of the last one among the runs of both kinds; they count from 1."""
        self.settled = False
        """The reference of any size is."""
        self.look_again = 0
        """With this run another size becomes stale, or is due for a trial, unless it runs."""

    def copy(self, number: int) -> "RunTimes":
        return RunTimes({size: window.copy() for size, window in self.windows.items()}, number, self._noise)

    def add_size(self, size: int, lane_run: int, expected_ns: float) -> Window:
        """One that has not run before. What is expected counts as a run, so that the first real one can't be a hiccup
        that rules alone.
        """
        window = self.windows[size] = Window([(lane_run, expected_ns)])
        self.sizes = sorted(self.windows)
        return window

    def observe(self, window: Window, lane_run: int, sample_ns: float) -> bool:
        """One of these windows' sizes took so long. True where that says something about the level."""
        self.runs += 1
        window.ran = self.runs
        if self._noise:
            apart = min(abs(log(sample_ns / window.median_ns)), NOISE_CLIP)
            self._noise += (apart * _SD_OF_ABSOLUTE - self._noise) / NOISE_RUNS
            if not self.runs % TUNE_RUNS:
                self._tune()
        window.add(lane_run, sample_ns)
        if window.trial_runs:
            window.trial_runs -= 1
        if window.settled:
            trusted = True
        elif not self.settled:
            # The first size to run is known by the warm-up; where the next ones differ, that is their own.
            trusted = self.settled = window.settled = len(window.by_length) > TRUSTED_RUNS
            if trusted:
                window.reference_ns = window.median()
                window.runs = REFERENCE_RUNS
        else:
            trusted = False
        if window.runs < REFERENCE_RUNS:
            window.runs += 1
            if self.settled and window.runs in (8, 16, 32, 64):
                window.settle(self._ratio_beside(window))
        return trusted

    def _tune(self) -> None:
        self.spread = exp(FEW_DEVIATIONS * self._noise)
        for window in self.windows.values():
            window.summarise(self.spread)

    def is_stale(self, window: Window) -> bool:
        return self.runs - window.ran > STALE_RUNS

    def is_fresh(self, window: Window) -> bool:
        """Whether its window is believed as it is."""
        return self.runs - window.ran <= STALE_RUNS and not window.on_trial

    def shift(self, shift: float, after_run: int) -> None:
        """See Window.shift; those that are stale take part in what their references say."""
        for window in self.windows.values():
            if not self.is_stale(window):
                window.shift(shift, after_run)
                window.summarise(self.spread)

    def begin_trial(self, window: Window, believed_ns: float, high_ns: float) -> None:
        """How the size compares to others has proved wrong, so it is to be known by these runs, too; but for the last
        one that the level rests on, so that they can't all wander off together.
        """
        window.begin_trial(believed_ns, high_ns)
        if any([other.settled and other is not window and self.is_fresh(other) for other in self.windows.values()]):
            window.settled = False
            window.runs = 0

    def end_trials(self) -> list[int]:
        """Sizes whose trial has had its runs; they are believed again."""
        ended = [size for size in self.sizes if self.windows[size].on_trial and not self.windows[size].trial_runs]
        for size in ended:
            self.windows[size].on_trial = False
        return ended

    def _ratio_beside(self, window: Window) -> float:
        """What fresh sizes, without that one, take over what they are known by, at their median; 1 where none is."""
        ratios = sorted(
            [
                other.median_ns / other.reference_ns
                for other in self.windows.values()
                if other.settled and other is not window and not self.is_stale(other)
            ]
        )
        return ratios[len(ratios) // 2] if ratios else 1.0

    def believed(self) -> tuple[dict[int, float], dict[int, float]]:
        """By size, in order: what it usually takes, and what is planned for before the margin."""
        windows, sizes = self.windows, self.sizes
        usual_ns = {size: windows[size].median_ns for size in sizes}
        high_ns = {size: windows[size].high_ns for size in sizes}
        fresh = [size for size in sizes if self.is_fresh(windows[size])]
        if not fresh or len(fresh) == len(sizes):
            return usual_ns, high_ns
        first = sizes[0]
        for size in sizes:
            window = windows[size]
            at = bisect_left(fresh, size)
            if at < len(fresh) and fresh[at] == size:
                continue
            below, above = fresh[max(0, at - 1)], fresh[min(at, len(fresh) - 1)]
            share = (size - below) / (above - below) if below < above else 0.0
            lower, upper = windows[below], windows[above]
            for own_ns, low_ns, top_ns, told_ns in (
                (window.median_ns, lower.median_ns, upper.median_ns, usual_ns),
                (window.high_ns, lower.high_ns, upper.high_ns, high_ns),
            ):
                ratio = low_ns / lower.reference_ns
                ratio += (top_ns / upper.reference_ns - ratio) * share
                bound_ns = window.reference_ns * ratio
                if size > first:
                    bound_ns = min(own_ns, bound_ns, told_ns[first] * -(-size // first))
                else:
                    bound_ns = max([bound_ns, *(told_ns[other] / -(-other // first) for other in fresh)])
                if below < size:
                    bound_ns = min(bound_ns, low_ns * -(-size // below))
                if above > size:
                    bound_ns = min(bound_ns, top_ns)
                told_ns[size] = bound_ns
        return usual_ns, high_ns

    def note_changes(self) -> None:
        """When, without any other reason, something else will be believed."""
        again = self.runs + PATIENCE_MAX
        for window in self.windows.values():
            for run in (window.ran + STALE_RUNS + 1, window.ran + window.patience + 1):
                if self.runs < run < again:
                    again = run
        self.look_again = again
