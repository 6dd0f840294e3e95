"""Planned execution time of a model by batch size, as the published systems estimate it.

Clockwork plans on the 99th percentile of the last 10 runs of a size, Nexus and Symphony on the mean of a profile.
Theirs are measured offline for each size (Nexus, Symphony) or learnt for a few sizes (Clockwork); this one starts from
the warm-up, goes on learning from every batch, and fills sizes that never ran from their neighbours on a straight line,
since batch times are nearly affine in the size (Nexus, SOSP'19). It never plans a larger batch shorter than a smaller
one, as Symphony's `ForceMonotonicity`.

One profile serves all lanes of a model: lanes are of one kind here, and pooled runs make every estimate better.
"""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

REFIT_PER_MILLE = 1
"""A plan is laid anew when what one size takes has moved by more than this: far below the scatter of any device."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """How a plan comes from the runs that were seen."""

    runs: int
    """The number of last runs of each batch size that it looks at."""
    percentile: int | None
    """The percentile of those runs; None: their mean."""
    margin_percent: int = 0
    """The margin that is added."""


MEAN = Estimate(runs=100, percentile=None)
P99 = Estimate(runs=100, percentile=99)


class _Runs:
    """The last runs of one batch size."""

    __slots__ = ("by_age", "by_length", "total_ns")

    def __init__(self, samples_ns: tuple[int, ...]) -> None:
        self.by_age = deque(samples_ns)
        self.by_length = sorted(samples_ns)
        self.total_ns = sum(samples_ns)

    def add(self, sample_ns: int, runs_max: int) -> None:
        if len(self.by_age) == runs_max:
            oldest_ns = self.by_age.popleft()
            del self.by_length[bisect_left(self.by_length, oldest_ns)]
            self.total_ns -= oldest_ns
        self.by_age.append(sample_ns)
        insort(self.by_length, sample_ns)
        self.total_ns += sample_ns

    def estimated_ns(self, percentile: int | None) -> int:
        count = len(self.by_age)
        if percentile is None:
            return self.total_ns // count
        return self.by_length[-(-count * percentile // 100) - 1]


class Profile:
    """`plan_ns[b]` for 0 <= b <= `batch_max`, rising; `plan_ns[0]` is 0."""

    __slots__ = ("_any_size", "_estimate", "_estimated_ns", "_runs", "batch_max", "plan_ns")

    def __init__(self, samples_ns: dict[int, tuple[int, ...]], any_size: bool, estimate: Estimate) -> None:
        """`samples_ns`: of the warm-up by batch size, each with at least one sample.

        Raises ValueError where there are none.
        """
        if not samples_ns or not all(samples_ns.values()) or min(samples_ns) < 1:
            raise ValueError(f"a profile needs samples for batch sizes of 1 or more, got {samples_ns}")
        self._any_size = any_size
        self._estimate = estimate
        self._runs = {size: _Runs(samples_ns[size][-estimate.runs :]) for size in sorted(samples_ns)}
        self._estimated_ns = {size: runs.estimated_ns(estimate.percentile) for size, runs in self._runs.items()}
        self.batch_max = max(self._runs)
        self.plan_ns: list[int] = []
        self._fit()

    def observe(self, batch_size: int, actual_ns: int) -> None:
        """A batch of that size took so long."""
        if not self._any_size:
            batch_size = min(size for size in self._runs if size >= batch_size)
        runs = self._runs.get(batch_size)
        if runs is None:
            self._runs[batch_size] = runs = _Runs((actual_ns,))
        else:
            runs.add(actual_ns, self._estimate.runs)
        estimated_ns = runs.estimated_ns(self._estimate.percentile)
        before_ns = self._estimated_ns.get(batch_size, 0)
        if abs(estimated_ns - before_ns) * 1000 > before_ns * REFIT_PER_MILLE:
            self._estimated_ns[batch_size] = estimated_ns
            self._fit()

    def _fit(self) -> None:
        plan_ns = [0]
        longest_ns = lower = lower_ns = 0
        for upper in sorted(self._estimated_ns):
            upper_ns = self._estimated_ns[upper]
            for size in range(lower + 1, upper + 1):
                # Below the smallest measured size nothing is known, and a fixed engine pads up to the next of its own.
                known = lower and self._any_size
                size_ns = lower_ns + (upper_ns - lower_ns) * (size - lower) // (upper - lower) if known else upper_ns
                longest_ns = max(longest_ns, size_ns + size_ns * self._estimate.margin_percent // 100)
                plan_ns.append(longest_ns)
            lower, lower_ns = upper, upper_ns
        self.plan_ns = plan_ns
