"""How long runs of one kind take, by batch size: what was measured, and what is believed of sizes that do not run.

Theory. A size that runs is known by the window of its last runs. One that has not run for STALE_RUNS of its kind is
believed to have changed as the running sizes have. Each size has a `reference`, what it took when it was first known.
A stale size is believed to take its reference times a ratio, window over reference, which is interpolated on a straight
line between the sizes beside it that do run. Its own window counts only where it says less: nothing else would ever let
such a size run again and show that it is better than remembered. This is optimism in the face of what is not known, as
in bandit problems (Auer, 2002). For the same reason a stale size is never believed to take longer than its frames one
by one, than the batches of a smaller running size that hold the same frames, or than a larger running size.

So whatever spoilt a window, the size is worth trying again soon after. A trial starts from the last few of its old
runs, at the length that was believed, and is over within TRIAL_RUNS. Where it shows that the size is as bad as
remembered, the next trial comes after twice as many runs, so trials cost a vanishing share of the lane.

All times here are at level 1: what is measured is divided by the level of now (`lane_speed`). References stay as they
are once they rest on enough runs. Levels are therefore always the ratio of what is measured now to what was measured
then, however often they change, and corrections cannot add up to a drift.
"""

from bisect import bisect_left
from math import exp, log

from duly.core.timing.lane_speed import NOISE_RUNS, SD_OF_ABSOLUTE, TUNE_RUNS
from duly.core.timing.window import PATIENCE_MAX, STALE_RUNS, Window

DOUBT = 1.2
"""A stale size is believed by its own window while that says at most this many times what the other sizes suggest; a
smaller difference is noise.
"""
TRUSTED_RUNS = 8
"""Number of runs from which on a size is evidence of the level; before, its median is mostly the straight line."""
REFERENCE_RUNS = (8, 16, 32, 64)
"""Numbers of own runs after which a size gets a new reference from all of them; the last reference stays for good."""
FEW_DEVIATIONS = 1.3
"""How far the plan of a size with few runs lies above the median, in standard deviations. A full window is planned for
its third longest run, which is 2.07 standard deviations. The same for small windows would cost 0.4 % of the capacity at
5 % noise; no allowance wastes 1.4 % of the lanes, this one 0.5 %.
"""
NOISE_CLIP = 0.4
"""The largest deviation from the median, in its logarithm, that a single run counts for in the noise."""
OTHER_SIZES_MAX = 8
"""Number of sizes beside those of the warm-up that are known by their own runs; the straight line gives the others."""


class RunTimes:
    """The windows of one kind of runs: runs in a row, or runs after idle."""

    __slots__ = ("_noise", "_others", "last", "look_again", "number", "runs", "settled", "sizes", "spread", "windows")

    def __init__(self, windows: dict[int, Window], number: int, noise: float) -> None:
        """`windows` has at least one batch size. `number` is the one under which the lane's speed knows these runs.
        `noise` is the standard deviation of the logarithm of such a time, 0 where it is not known.
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
        """Number of the last run of this kind, when the runs of both kinds are counted together from 1 on."""
        self.settled = False
        """Whether runs of any size are evidence of the level."""
        self.look_again = 0
        """Number of the run at which the next size becomes stale or is due for a trial, unless it runs before."""

    def copy(self, number: int) -> "RunTimes":
        return RunTimes({size: window.copy() for size, window in self.windows.items()}, number, self._noise)

    def add_size(self, size: int, lane_run: int, expected_ns: float) -> Window:
        """Adds a size that is not known yet. Where there would be too many, it replaces the one that has not run for
        the longest time. The expected time counts as a run, so that the window never rests on a single hiccup.
        """
        if len(self._others) == OTHER_SIZES_MAX:
            oldest = min(self._others, key=self._ran)
            self._others.remove(oldest)
            del self.windows[oldest]
        self._others.append(size)
        window = self.windows[size] = Window([(lane_run, expected_ns)])
        self.sizes = sorted(self.windows)
        return window

    def cut(self, size_max: int) -> None:
        """Forgets all larger sizes. At least one size must be left."""
        for size in [size for size in self.sizes if size > size_max]:
            del self.windows[size]
        self._others = [size for size in self._others if size <= size_max]
        self.sizes = sorted(self.windows)

    @property
    def warmed(self) -> list[int]:
        """The sizes of the warm-up, in order."""
        return [size for size in self.sizes if size not in self._others]

    def observe(self, window: Window, lane_run: int, sample_ns: float) -> bool:
        """Learns from a run of that window's size. Returns True where the run is evidence of the level."""
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
            # The warm-up is the reference of the first size to run; the next sizes get references of their own.
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
        """Whether the window is believed as it is."""
        return not self.is_stale(window) and not window.on_trial

    def shift(self, shift: float, after_run: int) -> None:
        """Shifts the windows as `Window.shift` says; stale ones follow through their references."""
        for window in self.windows.values():
            if not self.is_stale(window):
                window.shift(shift, after_run)
                window.summarise(self.spread)

    def begin_trial(self, window: Window, believed_ns: float, high_ns: float) -> None:
        """The size no longer compares to the others as was believed, so the runs of the trial give it a new reference.
        The last size that the level rests on keeps its reference, so that they can't all wander off together.
        """
        window.begin_trial(believed_ns, high_ns)
        if any([other.settled and other is not window and self.is_fresh(other) for other in self.windows.values()]):
            window.settled = False
            window.runs = 0

    def end_trials(self) -> list[int]:
        """Ends the trials that have had all their runs, and returns their sizes."""
        ended = [size for size in self.sizes if self.windows[size].on_trial and not self.windows[size].trial_runs]
        for size in ended:
            self.windows[size].on_trial = False
        return ended

    def _ratio_beside(self, window: Window) -> float:
        """The median ratio of window to reference over the other settled sizes that run; 1 where there are none."""
        ratios = sorted(
            [
                other.median_ns / other.reference_ns
                for other in self.windows.values()
                if other.settled and other is not window and not self.is_stale(other)
            ]
        )
        return ratios[len(ratios) // 2] if ratios else 1.0

    def believed(self) -> tuple[dict[int, float], dict[int, float]]:
        """For each size, in order: what it usually takes, and what is planned for it before the margin."""
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
                    # If the first size is believed too short, all others look as if they did not pay.
                    bound_ns = max([bound_ns, *(told_ns[other] / -(-other // first) for other in fresh)])
                if below < size:
                    bound_ns = min(bound_ns, low_ns * -(-size // below))
                if above > size:
                    bound_ns = min(bound_ns, top_ns)
                told_ns[size] = bound_ns
        return usual_ns, high_ns

    def note_changes(self) -> None:
        """Sets `look_again` to the run at which the next size becomes stale or is due for a trial."""
        again = self.runs + PATIENCE_MAX
        for window in self.windows.values():
            for run in (window.ran + STALE_RUNS + 1, window.ran + window.patience + 1):
                if self.runs < run < again:
                    again = run
        self.look_again = again
