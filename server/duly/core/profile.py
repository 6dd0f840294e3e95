"""Planned execution time of one model variant on one lane, by batch size, learnt from measurement.

Theory. A plan has to hold nearly always, since a frame that starts late wastes lane time and misses; yet a plan on the
maximum would be ruined for long by one hiccup. So the plan is a high quantile (q99) of the last WINDOW runs of that
size, plus a margin (planning on the mean wastes 3.5 % of the lane, a 4 % margin 0.8 %). Larger batches never plan
shorter than smaller ones; sizes never run are filled in from their measured neighbours on a straight line, as batch
times are nearly affine in the size (Clipper, NSDI'17; Nexus, SOSP'19).
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque

WINDOW = 128
"""Runs remembered for each batch size."""
MARGIN_PERCENT = 4
GAIN_PERCENT = 10
"""A batch is efficient where it saves at least this share of lane time over single runs."""


class _Sizes:
    """The last WINDOW times of one batch size, in order of time and in order of size."""

    __slots__ = ("by_age", "by_length")

    def __init__(self, samples_ns: tuple[int, ...]) -> None:
        self.by_age: deque[int] = deque(samples_ns[-WINDOW:])
        self.by_length: list[int] = sorted(self.by_age)

    def add(self, sample_ns: int) -> None:
        if len(self.by_age) == WINDOW:
            self._remove(self.by_age.popleft())
        self.by_age.append(sample_ns)
        insort(self.by_length, sample_ns)

    def forget_longest(self) -> None:
        if len(self.by_length) > 1:
            longest = self.by_length.pop()
            self.by_age.remove(longest)

    def q99(self) -> int:
        return self.by_length[(len(self.by_length) - 1) * 99 // 100]

    def _remove(self, sample_ns: int) -> None:
        del self.by_length[bisect_left(self.by_length, sample_ns)]


class Profile:
    """`planned_ns(b)` for 1 <= b <= `batch_max`."""

    __slots__ = ("_any_size", "_efficient", "_plan", "_quantiles", "_windows", "batch_max")

    def __init__(self, samples_ns: dict[int, tuple[int, ...]], any_size: bool) -> None:
        """Samples of the warm-up by batch size, at least one size with at least one sample each.

        Raises ValueError where there are none.
        """
        if not samples_ns or not all(samples_ns.values()) or min(samples_ns) < 1:
            raise ValueError(f"a profile needs samples for batch sizes of 1 or more, got {samples_ns}")
        self._any_size = any_size
        self._windows = {size: _Sizes(samples_ns[size]) for size in sorted(samples_ns)}
        self._quantiles = {size: window.q99() for size, window in self._windows.items()}
        self.batch_max = max(self._windows)
        self._plan: list[int] = []
        self._efficient: list[int] = []
        self._fit()

    def planned_ns(self, batch_size: int) -> int:
        return self._plan[batch_size]

    def efficient_size(self, limit_ns: int, frames: int) -> int:
        """Largest efficient batch of at most so many frames that is planned within `limit_ns`; at least 1."""
        largest = bisect_right(self._plan, limit_ns) - 1
        return self._efficient[max(1, min(largest, frames, self.batch_max))]

    def observe(self, batch_size: int, actual_ns: int, *, after_idle: bool = False) -> None:
        """A batch of that size took so long. `after_idle`: the run was a probe of a plan that let nothing run any more;
        each probe also forgets the longest run, so that a plan spoilt by a passing disturbance recovers in few probes.
        """
        size = self._engine_size(batch_size)
        window = self._windows.get(size)
        if window is None:
            # What was planned counts as a run, so that the first real one can't be a hiccup that rules alone.
            window = self._windows[size] = _Sizes((self._filled(size),))
        if after_idle:
            window.forget_longest()
        window.add(actual_ns)
        quantile = window.q99()
        if self._quantiles.get(size) != quantile:
            self._quantiles[size] = quantile
            self._fit()

    def _engine_size(self, batch_size: int) -> int:
        if self._any_size or batch_size in self._windows:
            return batch_size
        return min(size for size in self._windows if size >= batch_size)

    def _filled(self, batch_size: int) -> int:
        """The quantile of that size, or where it would be for all that the other sizes tell."""
        sizes = sorted(self._quantiles)
        upper = bisect_left(sizes, batch_size)
        return self._between(sizes[upper - 1] if upper and self._any_size else None, sizes[upper], batch_size)

    def _between(self, lower: int | None, upper: int, batch_size: int) -> int:
        high = self._quantiles[upper]
        if lower is None or upper == batch_size:
            return high
        low = self._quantiles[lower]
        return low + (high - low) * (batch_size - lower) // (upper - lower)

    def _fit(self) -> None:
        plan, efficient = [0], [0]
        lower: int | None = None
        longest = 0
        for upper in sorted(self._quantiles):
            for batch_size in range(len(plan), upper + 1):
                quantile = self._between(lower, upper, batch_size)
                longest = max(longest, quantile + quantile * MARGIN_PERCENT // 100)
                plan.append(longest)
                pays = batch_size == 1 or longest * 100 <= batch_size * plan[1] * (100 - GAIN_PERCENT)
                efficient.append(batch_size if pays else efficient[-1])
            lower = upper if self._any_size else None
        self._plan, self._efficient = plan, efficient
