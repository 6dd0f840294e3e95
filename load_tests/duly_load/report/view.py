"""One view of a run, live or simulated: all that the tables and pictures of a report know of it.

Frames are those that count, due to arrive from the end of the warm-up on. Times are int64 ns since the schedule's zero.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from duly_load.report.page import Column
from duly_load.results.ages import Age, Ages
from duly_load.results.measure import GOT_RESULT

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Statuses = NDArray[np.int8]
"""Numbers of `FrameOutcome`."""
Chosen = NDArray[np.bool_]


class Times(Protocol):
    """How times are distributed, ms."""

    @property
    def p50(self) -> float: ...
    @property
    def p90(self) -> float: ...
    @property
    def p99(self) -> float: ...
    @property
    def p99_9(self) -> float: ...
    @property
    def max(self) -> float: ...


class Tally(Protocol):
    """What became of some of the frames."""

    @property
    def frames(self) -> int: ...
    @property
    def counts(self) -> dict[str, int]: ...
    @property
    def on_time_ratio(self) -> float: ...
    @property
    def goodput_per_s(self) -> float: ...
    @property
    def latency_ms(self) -> Times | None: ...
    @property
    def age_ms(self) -> Age | None: ...


class Results(Tally, Protocol):
    """The tally of all frames, and those of classes and streams."""

    @property
    def by_class(self) -> Mapping[str, Tally]: ...
    @property
    def by_stream(self) -> Mapping[str, Tally]: ...
    @property
    def worst_stream(self) -> str: ...
    @property
    def worst_on_time_ratio(self) -> float: ...
    @property
    def batch_size_mean(self) -> float | None: ...


@dataclass(slots=True)
class Batch:
    """One run of a model on a lane."""

    lane: int
    """The row in which it is drawn, from 0."""
    model: str
    size: int
    """0: a run that warms the lane."""
    start_ns: int
    end_ns: int
    frames: int = 0
    """Frames that are known to have been in it; fewer than `size` where some were never answered."""
    late: int = 0
    """Frames in it that were late."""
    lost: bool = False
    """It never ended, because its lane or model went away."""
    about: str = ""
    """What else there is to say about it."""


@dataclass(frozen=True, slots=True)
class OwnTable:
    """A table of figures that only this kind of run has; runs of one kind share it."""

    heading: str
    about: str
    columns: tuple[Column, ...]
    cells: tuple[float | None, ...]


@dataclass(frozen=True)
class RunView:
    """Arrays have the same length, a value for each frame that counts."""

    name: str
    """Of the target or the policy."""
    facts: tuple[tuple[str, str], ...]
    """(name, value) of what was run."""
    results: Results
    start_ns: int
    end_ns: int
    arrival_ns: Ints
    captured_ns: Ints
    deadline_ns: Ints
    resolved_ns: Ints
    """When it was known what became of the frame; its capture where that never was."""
    outcome: Statuses
    given_up: Chosen
    """Frames of which somebody said that they will not run."""
    ages: Ages
    tables: tuple[OwnTable, ...]
    batches: Callable[[int, int], list[Batch]] | None
    """The batches that ran between two instants, by their start; None: the target does not tell."""
    lanes: tuple[str, ...] = ()
    """Names of the rows; empty: nobody knows on which lane a batch ran, and rows are batches side by side."""
    lag_ns: Ints | None = None
    """How late the generator sent; None: nothing was sent for real."""
    problems: tuple[str, ...] | None = None
    """Why the run is invalid; empty: it is valid; None: nothing can make such a run invalid."""
    notes: tuple[str, ...] = ()
    """What must be known to read the page, and makes no run invalid."""

    @cached_property
    def got_result(self) -> Chosen:
        return np.isin(self.outcome, GOT_RESULT)

    @property
    def latency_ns(self) -> Ints:
        """From capture to the result, of frames that got one."""
        return (self.resolved_ns - self.captured_ns)[self.got_result]

    @property
    def slack_ns(self) -> Ints:
        """From the result to the deadline, of frames that got one; below 0: it was late."""
        return (self.deadline_ns - self.resolved_ns)[self.got_result]

    @property
    def stream_ratios(self) -> Floats:
        """On-time ratio of each stream that has frames."""
        return np.array([each.on_time_ratio for each in self.results.by_stream.values() if each.frames])
