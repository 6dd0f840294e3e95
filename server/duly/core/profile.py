"""Planned execution time of one model variant on one lane, by batch size, learnt from measurement.

Theory. A plan has to hold nearly always, since a frame that starts late wastes lane time and misses; yet a plan on the
maximum would be ruined for long by one hiccup. So the plan is a high quantile (q99) of the last WINDOW runs of that
size, plus a small margin (planning on the mean wastes 3.5 % of the lane, on the q99 0.8 % at 5 % noise). But a few
hiccups of several times the usual length, within a window, would carry the q99 with them, and a plan that long dooms
every frame, where planning on the usual length only misses those few. So beyond LONG_PERCENT of the median the plan
follows only what is frequent: q99, but at most the longer of that bound and the q90.

Which size is worth running is another question, of rates and not of risks: there the medians speak (`usual_ns`), which
hiccups hardly touch. Else a few of them in the window of one size would make another one look cheaper, and the size
that is then not run could not show any more that they have passed: after 20 stalls of 30 ms, 0.3 s apart, an overloaded
lane once went on with batches of two where four were as quick. For the same reason a size that has not run for
STALE_RUNS of its lane forgets the longest of its long runs with each run of another size.

Larger batches never plan shorter than smaller ones; sizes never run are filled in from their measured neighbours on a
straight line, as batch times are nearly affine in the size (Clipper, NSDI'17; Nexus, SOSP'19).

Windows hold times at the speed that the lane had at first: actual times divided by the lane's factor (`lane_speed`),
which multiplies the plan again. So when the lane's speed shifts, all sizes of all models are right at once, even those
that have not run since. The few runs that revealed the shift came in with the old factor; they are divided once more.
"""

from bisect import bisect_left, insort
from collections import deque
from itertools import accumulate
from math import log

from duly.core.lane_speed import Change, LaneSpeed

WINDOW = 128
"""Runs remembered for each batch size."""
MARGIN_PERCENT = 1
"""In simulation at 2 % noise 4 costs 1-2 % of the capacity, and wastes as little lane time."""
LONG_PERCENT = 150
"""Runs longer than this share of the median count for the plan only where more than one in ten is."""
STALE_RUNS = 32
"""Runs of its lane after which a size that has not been among them says nothing about the hiccups of now."""
MEDIAN_STEPS = 64
"""Usual times are fitted anew once a median has moved by this part of itself."""
TRUSTED_RUNS = 8
"""A size says something about the lane's speed from so many runs on; before, its median is mostly the straight line."""
GAIN_PERCENT = 5
"""A batch is efficient where it saves at least this share of lane time over single runs."""

_EIGHTHS = 2.3007
"""Standard deviations of a normal distribution between its first and its last eighth."""


class _Sizes:
    """The last WINDOW times of one batch size, in order of time and in order of size."""

    __slots__ = ("by_age", "by_length")

    def __init__(self, samples_ns: tuple[int, ...], run: int) -> None:
        self.by_age = deque((run, sample_ns) for sample_ns in samples_ns[-WINDOW:])
        """With the number of the lane's run that each is from, those of the warm-up with that of the last before it."""
        self.by_length = sorted(samples_ns[-WINDOW:])

    def add(self, run: int, sample_ns: int) -> None:
        by_length = self.by_length
        if len(by_length) == WINDOW:
            del by_length[bisect_left(by_length, self.by_age.popleft()[1])]
        self.by_age.append((run, sample_ns))
        insort(by_length, sample_ns)

    def forget_longest(self) -> None:
        if len(self.by_length) > 1:
            longest = self.by_length.pop()
            self.by_age.remove(next(aged for aged in self.by_age if aged[1] == longest))

    def multiply(self, factor: float, first_run: int, last_run: int) -> None:
        """Multiplies the times of these runs, both ends included."""
        if self.by_age[-1][0] < first_run or self.by_age[0][0] > last_run:
            return
        self.by_age = deque(
            (run, max(1, round(sample_ns * factor)) if first_run <= run <= last_run else sample_ns)
            for run, sample_ns in self.by_age
        )
        self.by_length = sorted(sample_ns for _, sample_ns in self.by_age)

    def median(self) -> int:
        return self.by_length[(len(self.by_length) - 1) // 2]

    def deviation(self) -> float:
        """Standard deviation of the logarithm, judged by the middle three quarters, which few hiccups reach."""
        by_length = self.by_length
        eighth = len(by_length) // 8
        return log(by_length[-1 - eighth] / by_length[eighth]) / _EIGHTHS if eighth else 0.0

    def has_long(self) -> bool:
        return self.by_length[-1] * 100 > self.median() * LONG_PERCENT

    def quantile(self) -> int:
        """What is planned for, before the margin."""
        by_length = self.by_length
        last = len(by_length) - 1
        q99 = by_length[last * 99 // 100]
        bound = self.median() * LONG_PERCENT // 100
        return q99 if q99 <= bound else max(bound, by_length[last * 90 // 100])


class Profile:
    """`plan_ns[b]` for 1 <= b <= `batch_max`."""

    __slots__ = (
        "_any_size",
        "_changes",
        "_medians",
        "_number",
        "_quantiles",
        "_speed",
        "_spoilt",
        "_windows",
        "batch_max",
        "efficient",
        "plan_ns",
        "usual_ns",
    )

    def __init__(self, samples_ns: dict[int, tuple[int, ...]], any_size: bool, speed: LaneSpeed) -> None:
        """Samples of the warm-up by batch size, at least one size with at least one sample each; `speed` of the lane
        that they come from. `any_size`: True where any size up to the largest may run, False where smaller batches are
        padded to the next of those sizes. Raises ValueError where there are no samples.
        """
        if not samples_ns or not all(samples_ns.values()) or min(samples_ns) < 1:
            raise ValueError(f"a profile needs samples for batch sizes of 1 or more, got {samples_ns}")
        self._any_size = any_size
        self._speed = speed
        self._changes = speed.changes
        self._windows = {
            size: _Sizes(tuple(max(1, round(time_ns / speed.factor)) for time_ns in samples_ns[size]), speed.runs)
            for size in sorted(samples_ns)
        }
        deviations = sorted(window.deviation() for window in self._windows.values())
        self._number = speed.join(deviations[len(deviations) // 2])
        self._quantiles: dict[int, int] = {}
        self._medians: dict[int, int] = {}
        self._spoilt: list[int] = []
        """Sizes with long runs in their windows."""
        for size in self._windows:
            self._summarise(size)
        self.batch_max = max(self._windows)
        self.plan_ns: list[int] = []
        """By batch size, 0 for none; replaced as a whole, never changed."""
        self.usual_ns: list[int] = []
        """Like `plan_ns`, of the medians: what a batch takes, where not whether it holds but what it costs is asked."""
        self.efficient: list[int] = []
        """By number of frames, the largest batch of at most so many that pays; at least 1. Replaced like `plan_ns`."""
        self._fit()

    def observe(self, batch_size: int, actual_ns: int, *, after_idle: bool = False) -> bool:
        """A batch of that size took so long. True where that showed that the speed of the lane has changed, so that its
        other profiles should be `refit` (this one is). `after_idle`: the run was a probe of a plan that let nothing run
        any more; each probe also forgets the longest run, so that a plan spoilt by a passing disturbance recovers in
        few probes.
        """
        speed = self._speed
        if self._changes != speed.changes:
            self.refit()
        size = self._engine_size(batch_size)
        window = self._windows.get(size)
        if window is None:
            # What was planned counts as a run, so that the first real one can't be a hiccup that rules alone.
            window = self._windows[size] = _Sizes((self._line(self._quantiles, 1.0)[size - 1],), speed.runs)
        sample_ns = int(actual_ns / speed.factor + 0.5) or 1
        median_ns = window.median()
        if after_idle:
            window.forget_longest()
        window.add(speed.runs + 1, sample_ns)
        if len(window.by_length) > TRUSTED_RUNS:
            change = speed.observe(self._number, sample_ns / median_ns, probe=after_idle)
            if change is not Change.NONE:
                if change is Change.OWN:
                    self._multiply(speed.shift, 0, speed.shift_run)
                self.refit()
                return change is Change.LANE
        moved = self._moved(size)
        for spoilt in self._spoilt:
            if spoilt != size and self._windows[spoilt].by_age[-1][0] < speed.runs - STALE_RUNS:
                self._windows[spoilt].forget_longest()
                moved = True
        if moved:
            for spoilt in self._spoilt:
                self._summarise(spoilt)
            self._summarise(size)
            self._fit()
        return False

    def refit(self) -> None:
        """Plans anew with the speed that the lane has now."""
        speed = self._speed
        if self._changes != speed.changes:
            self._changes = speed.changes
            self._multiply(1 / speed.shift, speed.shift_run + 1, speed.runs)
        self._fit()

    def _multiply(self, factor: float, first_run: int, last_run: int) -> None:
        for size, window in self._windows.items():
            window.multiply(factor, first_run, last_run)
            self._summarise(size)

    def _moved(self, size: int) -> bool:
        """Whether a plan or usual time rests on other values of that size than its window has now."""
        window = self._windows[size]
        if self._quantiles.get(size) != window.quantile() or window.has_long() != (size in self._spoilt):
            return True
        return abs(window.median() - self._medians[size]) * MEDIAN_STEPS > self._medians[size]

    def _summarise(self, size: int) -> None:
        window = self._windows[size]
        self._quantiles[size] = window.quantile()
        self._medians[size] = window.median()
        spoilt = [other for other in self._spoilt if other != size]
        self._spoilt = [*spoilt, size] if window.has_long() else spoilt

    def _engine_size(self, batch_size: int) -> int:
        if self._any_size or batch_size in self._windows:
            return batch_size
        return min(size for size in self._windows if size >= batch_size)

    def _line(self, known: dict[int, int], scale: float) -> list[int]:
        """The `known` time of every size from 1 on, or where it would be for all that the other sizes tell, times
        `scale`.

        In floating point, which is exact enough and faster than products of integers beyond 2**30.
        """
        line: list[int] = []
        for upper in sorted(known):
            high = int(known[upper] * scale + 0.5)
            width = upper - len(line)
            if width > 1 and line and self._any_size:
                low = line[-1]
                slope = (high - low) / width
                line += [int(low + slope * nth) for nth in range(1, width)]
                line.append(high)
            else:
                line += [high] * width
        return line

    def _fit(self) -> None:
        factor = self._speed.factor
        self.plan_ns = _rising([0, *self._line(self._quantiles, factor * (1 + MARGIN_PERCENT / 100))])
        usual = [0, *self._line(self._medians, factor)]
        limit_ns = usual[1] * (1 - GAIN_PERCENT / 100)
        self.usual_ns = usual = _rising(usual)
        plan, one_ns = self.plan_ns, self.plan_ns[1]
        # Nor is one planned longer than its frames one by one: `hard` counts on that.
        pays = [
            size if time_ns <= size * limit_ns and plan[size] <= size * one_ns else 1
            for size, time_ns in enumerate(usual)
        ]
        pays[0] = 0
        self.efficient = _rising(pays)


def _rising(values: list[int]) -> list[int]:
    """Each value at least as large as those before it. Most lists are so already, which is cheap to see."""
    return values if values == sorted(values) else list(accumulate(values, max))
