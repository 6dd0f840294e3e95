"""One view of a run, live or simulated: all that the tables and pictures of a report know of it.

Frames are those that count, see `duly_load.results.tally`. Times are int64 ns since the schedule's zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from duly_load.report.page import Column
from duly_load.results.tally import GOT_RESULT, Results, RunOutcomes

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Statuses = NDArray[np.int8]
Chosen = NDArray[np.bool_]


@dataclass(slots=True)
class Batch:
    """One run of a model on a lane."""

    lane: int
    """The row in which it is drawn, from 0."""
    model: str
    size: int
    """The number of its frames; 0: a run that warms the lane."""
    start_ns: int
    end_ns: int
    frames: int = 0
    """Frames that are known to have been in it; fewer than `size` where some were never answered."""
    late: int = 0
    """The number of its frames that were late."""
    lost: bool = False
    """The batch never ended, because its lane or model went away."""
    about: str = ""
    """What else there is to say about the batch, in words."""


@dataclass(frozen=True, slots=True)
class OwnTable:
    """A table of figures that only this kind of run has; runs of one kind share it."""

    heading: str
    about: str
    columns: tuple[Column, ...]
    cells: tuple[float | None, ...]


@dataclass(frozen=True)
class RunView:
    """Arrays have a value for each frame that counts."""

    name: str
    """The target or the policy, which distinguishes the run from others on the page."""
    facts: tuple[tuple[str, str], ...]
    """The facts about what was run, as (name, value)."""
    outcomes: RunOutcomes
    results: Results
    batch_size_mean: float | None
    tables: tuple[OwnTable, ...]
    ran: Chosen
    """The frame is known to have been in a batch."""
    batches: Callable[[int, int], list[Batch]] | None
    """The batches that ran between two instants, by their start; None: the target does not report them."""
    lanes: tuple[str, ...] = ()
    """Names of the rows; empty: nobody knows on which lane a batch ran, and rows are batches side by side."""
    lag_ns: Ints | None = None
    """The generator's lag; None: nothing was sent for real."""
    problems: tuple[str, ...] | None = None
    """Why the run is invalid; empty: it is valid; None: nothing can make such a run invalid."""
    notes: tuple[str, ...] = ()
    """What must be known to read the page, and makes no run invalid."""

    @property
    def start_ns(self) -> int:
        return self.outcomes.start_ns

    @property
    def end_ns(self) -> int:
        return self.outcomes.end_ns

    @cached_property
    def outcome(self) -> Statuses:
        """Numbers of `FrameOutcome`."""
        return self.outcomes.outcome[self.outcomes.counted]

    @cached_property
    def arrival_ns(self) -> Ints:
        return self.outcomes.schedule.frames.arrival_ns[self.outcomes.counted]

    @cached_property
    def resolved_ns(self) -> Ints:
        """When it was known what became of the frame; its capture where that never was."""
        return (self.outcomes.schedule.captures_ns + self.outcomes.latency_ns)[self.outcomes.counted]

    @cached_property
    def got_result(self) -> Chosen:
        return np.isin(self.outcome, GOT_RESULT)

    @property
    def latency_ns(self) -> Ints:
        """The time from capture to the result, of frames that got one."""
        return self.outcomes.latency_ns[self.outcomes.counted][self.got_result]

    @property
    def slack_ns(self) -> Ints:
        """The time from the result to the deadline, of frames that got one; below 0: it was late."""
        return (self.outcomes.schedule.frames.deadline_ns[self.outcomes.counted] - self.resolved_ns)[self.got_result]

    @property
    def given_up(self) -> Chosen:
        """Somebody said that the frame will not run."""
        return ~self.ran & (self.outcomes.latency_ns[self.outcomes.counted] > 0)

    @property
    def stream_ratios(self) -> Floats:
        """On-time ratio of each stream that has frames."""
        return np.array([each.on_time_ratio for each in self.results.by_stream.values() if each.frames])
