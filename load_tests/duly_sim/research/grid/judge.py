"""What the grid asks for and what it found: findings, rows, and the jobs that they are measured by.

A row is a function of an `Effort` and a `Measure`. It says which runs it needs as jobs, so that these can run in other
processes and be kept, and judges what comes back: equal results give an equal row.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol

from duly_sim.report.curves import Points
from duly_sim.research.grid.cells import Cell, seconds_for


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is run. Fewer seeds, seconds or frames scatter more; the rows say what they were given."""

    name: str
    seeds: int
    seconds: float
    """The simulated time of a run."""
    frames_max: int
    """A run ends early when it has about so many frames; full effort has no such bound worth its name."""
    cells: tuple[Cell, ...]
    """The cells of row 1."""
    search_frames: int
    """The frames of a run in search of a capacity, before it is refined."""
    tuning_frames: int
    """The frames of the first run of every setting of a baseline."""
    critical_frames: int
    """The frames of CRITICAL streams in all."""
    hard_sets: int
    random_loads: int
    turns: int
    """The turns of loads that alternate."""

    def seconds_at(self, rate_hz: float) -> float:
        """How long a run at that rate lasts."""
        return seconds_for(self.frames_max, rate_hz, self.seconds)

    @property
    def extent(self) -> str:
        bound = "" if self.frames_max >= 10_000_000 else f" or {self.frames_max:,} frames a run, whichever is shorter"
        return f"{self.seeds} seed{'s' * (self.seeds > 1)} x {self.seconds:g} s{bound}"


@dataclass(frozen=True, slots=True)
class Job:
    """One call of a function of this package, by name so that its result can be kept: plain data, as JSON has it."""

    function: Callable[..., Any]
    args: tuple[Any, ...]

    @property
    def key(self) -> str:
        return f"{self.function.__module__.rpartition('.')[2]}.{self.function.__name__}{self.args!r}"

    def run(self) -> Any:
        return self.function(*self.args)


class Measure(Protocol):
    """Runs jobs, or knows from before what they give; results in the order of the jobs."""

    def __call__(self, jobs: Sequence[Job]) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was asked for, and what was measured."""

    asked: str
    limit: float
    at_least: bool
    """Whether `limit` is the least that will do, else the most."""
    values: tuple[float, ...]
    """One value of each seed, or of each run."""
    where: str = ""
    """The cell or the load that it is about."""
    every: bool = False
    """Whether every value has to hold; else the median."""

    @property
    def spread(self) -> tuple[float, float, float]:
        """Least, median and greatest."""
        return min(self.values), median(self.values), max(self.values)

    @property
    def judged(self) -> float:
        if not self.every:
            return median(self.values)
        return min(self.values) if self.at_least else max(self.values)

    def to_json(self) -> dict[str, Any]:
        least, middle, greatest = self.spread
        return asdict(self) | {"least": least, "median": middle, "greatest": greatest, "passes": self.passes}

    @property
    def passes(self) -> bool:
        return self.judged >= self.limit if self.at_least else self.judged <= self.limit

    @property
    def margin(self) -> float:
        """How far within the limit, the same for all findings of one limit; less than 0: it falls short."""
        return self.judged - self.limit if self.at_least else self.limit - self.judged


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the grid, judged."""

    number: int
    title: str
    how: str
    """How the figures were obtained."""
    findings: tuple[Finding, ...]
    details: tuple[Finding, ...] = ()
    """The findings of all cells where `findings` has the worst."""
    curves: tuple[tuple[str, tuple[tuple[str, Points], ...]], ...] = ()
    """The pictures, as (title, lines of goodput against load)."""
    notes: tuple[str, ...] = ()
    """Figures that were measured and have no limit."""

    @property
    def passes(self) -> bool:
        return all(finding.passes for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "passes": self.passes,
            "findings": [finding.to_json() for finding in self.findings],
            "details": [finding.to_json() for finding in self.details],
        }


def worst(findings: Iterable[Finding]) -> Finding:
    """The one with the least margin, which says how many fall short. They share what is asked. ValueError: none."""
    known = list(findings)
    found = min(known, key=lambda finding: finding.margin)
    short = sum(not finding.passes for finding in known)
    others = f"; {short} of {len(known)} fall short" if short > 1 else ""
    return Finding(found.asked, found.limit, found.at_least, found.values, f"{found.where}{others}", found.every)
