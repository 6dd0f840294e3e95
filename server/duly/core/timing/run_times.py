"""How long runs of one kind take, by batch size: what was measured, and what is believed of sizes that do not run.

Theory. A size that runs is known by the window of its last runs. One that has not run for STALE_RUNS of its kind is
believed to have changed as those that do run have: each size has a `reference`, what it took when it was first known,
and a stale size takes its reference times the ratio of window over reference that the sizes beside it show, on a
straight line between them. Its own window counts only where it says less, since nothing else would ever let such a size
run again and show that it is better than remembered: optimism in the face of what is not known, as in bandit problems
(Auer, 2002). For the same reason it is never believed to take longer than its frames one by one, than as many batches
of a smaller size that runs as hold them, or than a larger size that runs. So whatever spoilt a window, the size is
worth trying again soon after; the trial, which starts from the last few of its old runs at the length that was
believed, is over within TRIAL_RUNS. Where it shows that the size is as bad as remembered, the next one comes after
twice as many runs: trials cost a vanishing share of the lane.

All times here are at level 1: what is measured is divided by the level of now (`lane_speed`). References stay what they
are once they rest on enough runs, so that levels are always the ratio of what is measured now to what was measured
then, however often they change: corrections cannot add up to a drift.
"""

from bisect import bisect_left
from math import exp, log

from duly.core.timing.lane_speed import NOISE_RUNS, SD_OF_ABSOLUTE, TUNE_RUNS
from duly.core.timing.window import PATIENCE_MAX, STALE_RUNS, Window

DOUBT = 1.2
"""A stale size is believed by its own window as long as that says no more than this many times what others do: closer,
it is the noise that differs.
"""
TRUSTED_RUNS = 8
"""A size says something about the level from so many runs on; before, its median is mostly the straight line."""
REFERENCE_RUNS = (8, 16, 32, 64)
"""After so many runs of its own a size is known by all of these, and from the last number on for good."""
FEW_DEVIATIONS = 1.3
"""Planned for over the median, in standard deviations. A full window is planned for its third longest, 2.07 of them. So
much for small ones too costs 0.4 % of the capacity at 5 % noise; nothing wastes 1.4 % of the lanes, this 0.5 %.
"""
NOISE_CLIP = 0.4
"""A run that is longer by more counts as one that is longer by so much; of the logarithm."""
OTHER_SIZES_MAX = 8
"""Sizes beside those of the warm-up that are known by runs of their own; the line says of the others."""


class RunTimes:
    """The windows of one kind of runs: those in a row, or those after idle."""

    __slots__ = ("_noise", "_others", "last", "look_again", "number", "runs", "settled", "sizes", "spread", "windows")

    def __init__(self, windows: dict[int, Window], number: int, noise: float) -> None:
        """`windows`: by batch size, at least one. `number`: by which the lane's speed knows these runs. `noise`: the
        standard deviation of the logarithm of such a time; 0: not known.
        """
        self.windows = windows
        self.number = number
        self._noise = noise
        self.spread = 1.0
        """Ratio of the planned quantile to the median, for sizes with few runs."""
        self._tune()
        self.sizes = sorted(windows)
        self._others: list[int] = []
        """Sizes that the warm-up left out."""
        self.runs = 0
        """Number of runs observed."""
        self.last = -STALE_RUNS
        """Which run of both kinds together the last run of this kind was; they count from 1."""
        self.settled = False
        """Whether runs of any size are evidence of the level."""
        self.look_again = 0
        """Number of the run at which the next size becomes stale or is due for a trial, unless it runs before."""

    def copy(self, number: int) -> "RunTimes":
        return RunTimes({size: window.copy() for size, window in self.windows.items()}, number, self._noise)

    def add_size(self, size: int, lane_run: int, expected_ns: float) -> Window:
        """One that is not known, in place of the one that has not run for longest where there would be too many. What
        is expected counts as a run, so that the first real one can't be a hiccup that rules alone.
        """
        if len(self._others) == OTHER_SIZES_MAX:
            oldest = min(self._others, key=self._ran)
            self._others.remove(oldest)
            del self.windows[oldest]
        self._others.append(size)
        window = self.windows[size] = Window([(lane_run, expected_ns)])
        self.sizes = sorted(self.windows)
        return window

    def observe(self, window: Window, lane_run: int, sample_ns: float) -> bool:
        """One of these windows' sizes took so long. True where that says something about the level."""
        self.runs += 1
        window.ran = self.runs
        if self._noise:
            apart = min(abs(log(sample_ns / window.median_ns)), NOISE_CLIP)
            self._noise += (apart * SD_OF_ABSOLUTE - self._noise) / NOISE_RUNS
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
                window.runs = REFERENCE_RUNS[-1]
        else:
            trusted = False
        if window.runs < REFERENCE_RUNS[-1]:
            window.runs += 1
            if self.settled and window.runs in REFERENCE_RUNS:
                window.settle(self._ratio_beside(window))
        return trusted

    def _ran(self, size: int) -> int:
        return self.windows[size].ran

    def _tune(self) -> None:
        self.spread = exp(FEW_DEVIATIONS * self._noise)
        for window in self.windows.values():
            window.summarise(self.spread)

    def is_stale(self, window: Window) -> bool:
        return self.runs - window.ran > STALE_RUNS

    def has_run_lately(self, size: int) -> bool:
        window = self.windows.get(size)
        return window is not None and window.ran > 0 and not self.is_stale(window)

    def is_fresh(self, window: Window) -> bool:
        """Whether its window is believed as it is."""
        return not self.is_stale(window) and not window.on_trial

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
                if own_ns <= bound_ns * DOUBT and (size > first or own_ns * DOUBT >= bound_ns):
                    bound_ns = own_ns
                if size > first:
                    bound_ns = min(bound_ns, told_ns[first] * -(-size // first))
                elif told_ns is usual_ns:
                    # Else a first size that is thought too short would make all others look as if they did not pay.
                    bound_ns = max([bound_ns, *(told_ns[other] / -(-other // first) for other in fresh)])
                if below < size:
                    bound_ns = min(bound_ns, low_ns * -(-size // below))
                if above > size:
                    bound_ns = min(bound_ns, top_ns)
                told_ns[size] = bound_ns
        return usual_ns, high_ns

    def note_changes(self) -> None:
        """Notes when the next size becomes stale or is due for a trial."""
        again = self.runs + PATIENCE_MAX
        for window in self.windows.values():
            for run in (window.ran + STALE_RUNS + 1, window.ran + window.patience + 1):
                if self.runs < run < again:
                    again = run
        self.look_again = again
