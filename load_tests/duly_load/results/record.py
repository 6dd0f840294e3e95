"""What the generator saw of every frame of one run, and what else must be known of a run before it is believed."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from duly.energy.meter import Energy
from duly_load.scenario.scenario import Scenario
from duly_load.scenario.schedule import Schedule

Ints = NDArray[np.int64]
NOT_MEASURED = Energy({}, None, 0.0, "the target is on another machine, as far as its address says")


@dataclass(frozen=True, slots=True)
class Record:
    """Arrays in the order of `Schedule.frames`. Times are ns; instants count from the schedule's zero."""

    outcome: NDArray[np.int8]
    """The frame's `FrameOutcome`; 0 while the run is on."""
    latency_ns: Ints
    """The time from capture to the answer, whatever it was, on the sender's clock; 0: none came."""
    lag_ns: Ints
    """The generator's lag: from the intended send until it gave the frame to its stream. 0 where it was not
    sent."""
    blocked_ns: Ints
    """How long the frame then waited for the target to take what was sent before it."""
    claimed: NDArray[np.bool_]
    """The target itself called it on time, where it knows of deadlines at all; it may have come late all the same."""
    batch_size: NDArray[np.int32]
    """The frames of its batch; 0: it never ran, or the target does not report it."""
    dispatched_ns: Ints
    """When the target gave it to a lane; 0: it never ran, or the target does not report it."""
    occupied_ns: Ints
    """The time from dispatch until the answer was sent."""

    @classmethod
    def empty(cls, frames: int) -> "Record":
        """The record before anything was sent: zeros."""
        return cls(*(np.zeros(frames, dtype) for dtype in ("i1", "i8", "i8", "i8", "?", "i4", "i8", "i8")))

    def of(self, places: Ints) -> "Record":
        """The record of the frames at these places."""
        return Record(*(getattr(self, each.name)[places] for each in fields(self)))

    def put(self, places: Ints, part: "Record") -> None:
        """Sets what is recorded of the frames at these places."""
        for each in fields(self):
            getattr(self, each.name)[places] = getattr(part, each.name)


@dataclass(frozen=True, slots=True)
class Ending:
    """A stream that did not end as it should: it was not let in, or broke off."""

    at_ns: int
    """The time since the schedule's zero."""
    stream: str
    refused: bool
    """The target was too busy to let it in: an answer, and no fault of the run."""
    reason: str


@dataclass(frozen=True, slots=True)
class LiveRun:
    """One run against one target."""

    scenario: Scenario
    """The scenario at the load that was offered."""
    seed: int
    target: str
    """The target as the user named it."""
    schedule: Schedule
    record: Record
    endings: tuple[Ending, ...]
    begin_unix_ns: int
    """The schedule's zero on the wall clock."""
    processes: int
    """The number of sender processes."""
    stalled: float
    """Share of the time in which the machine stood still, see `duly_load.generator.stalls`."""
    busiest: float = 0.0
    """The `Sender.busy` of the busiest sender process. More than 1 where several threads of it were at work at once."""
    server_cpu_s: float | None = None
    """CPU time that the target's processes took, where the harness started them."""
    energy: Energy = NOT_MEASURED
    """Energy that this machine took meanwhile, where the target is on it."""
    problems: tuple[str, ...] = ()
    """The reasons why the run is invalid; empty: it is valid."""
