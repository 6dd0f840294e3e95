"""What became of the frames of a run, live or simulated: of all of them, of each class and of each stream.

Counted are frames that were due to arrive from the scenario's `warm_s` on. Every one that was intended counts, whatever
became of it: frames that were cancelled, refused, unsent or unanswered were not on time either. Sessions of one stream
count together, under its name.

Latency is from capture, the intended moment, to the answer: a generator, a network or a server that holds frames up
does not make it any better. Gil Tene, "How NOT to measure latency", 2013, on coordinated omission.

Fairness is Jain's index of the streams' on-time ratios: 1 where all fare alike, 1/n where one of n has everything.
Jain, Chiu and Hawe, "A quantitative measure of fairness and discrimination", 1984.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duly.core.types import StreamClass
from duly_load.results.ages import Age, Ages, age_over, ages_between
from duly_load.results.histogram import Percentiles, percentiles_of
from duly_load.results.outcomes import FrameOutcome
from duly_load.scenario.schedule import Schedule

Ints = NDArray[np.int64]
Chosen = NDArray[np.bool_]

GOT_RESULT = (FrameOutcome.ON_TIME, FrameOutcome.LATE)


@dataclass(frozen=True, slots=True)
class RunOutcomes:
    """What became of every frame of a run. Arrays are in the order of the schedule's frames; None: it is not known."""

    schedule: Schedule
    start_ns: int
    end_ns: int
    """The time that counts: from the end of the warm-up to the end of the scenario."""
    outcome: NDArray[np.int8]
    """`FrameOutcome`, whose numbers are those of `OutcomeStatus` where that has them."""
    latency_ns: Ints
    """The time from capture to the answer, whatever it was."""
    claimed: Chosen | None = None
    """The target itself called the frame on time."""
    queueing_ns: Ints | None = None
    """The time from arrival to dispatch; -1: it never ran."""
    switched: Chosen | None = None
    """The frame ran on another variant than the frame of its stream that ran before."""

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def counted(self) -> Ints:
        """The places of the frames that count."""
        return np.flatnonzero(self.schedule.frames.arrival_ns >= self.start_ns)

    @property
    def ages(self) -> Ages:
        """Age of information of all streams in the time that counts, from capture."""
        held = np.isin(self.outcome, GOT_RESULT)
        captures_ns, stream_id = self.schedule.captures_ns[held], self.schedule.frames.stream_id[held]
        resolved_ns = captures_ns + self.latency_ns[held]
        return ages_between(self.schedule.sessions, stream_id, captures_ns, resolved_ns, self.start_ns, self.end_ns)


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of some of the frames. Times are None where there are none of them."""

    frames: int
    counts: dict[str, int]
    """The number of frames of every `FrameOutcome`, by its name."""
    on_time_ratio: float
    """The share of frames that are ON_TIME; 1 if there are no frames."""
    goodput_per_s: float
    claimed_late: int | None
    """Frames that the target itself called on time, and that came late; None: it called none of the run so."""
    latency_ms: Percentiles | None
    """The time from capture to result, on time or late."""
    queueing_ms: Percentiles | None
    """The time from arrival to dispatch of the frames that ran; known of simulated runs alone."""
    age_ms: Age | None
    """Age of information: now minus the capture of the newest result that a stream holds."""
    variant_switches: int | None
    """Frames that ran on another variant than the frame of their stream that ran before; known of simulated runs
    alone.
    """


@dataclass(frozen=True, slots=True)
class Results(Tally):
    """The tally of all frames, and those of classes and streams."""

    seconds: float
    """The time that was counted."""
    offered_per_s: float
    """The frames per second that were intended."""
    by_class: dict[str, Tally]
    """A tally for each class that has streams."""
    by_stream: dict[str, Tally]
    worst_stream: str
    """The stream that has frames and the least on-time ratio, the first of equals; empty: no frames."""
    fairness: float | None
    """Jain's index of the on-time ratios of streams that have frames; None: nothing was on time."""

    @property
    def worst_on_time_ratio(self) -> float:
        """The on-time ratio of `worst_stream`; 1 where no stream has frames."""
        return self.by_stream[self.worst_stream].on_time_ratio if self.worst_stream else 1.0

    def to_json(self) -> dict[str, Any]:
        """The results as plain data for `json`; equal runs give equal data."""
        return asdict(self)


def results_of(run: RunOutcomes) -> Results:
    sessions, counted, ages = run.schedule.sessions, run.counted, run.ages
    names = list(dict.fromkeys(session.name for session in sessions))
    position = {name: index for index, name in enumerate(names)}
    name_of = np.array([0, *(position[session.name] for session in sessions)])
    class_of = np.array([0, *(int(session.stream_class) for session in sessions)])
    classes = [stream_class for stream_class in StreamClass if stream_class in class_of[1:]]
    by_stream = dict(zip(names, _tallies(run, counted, ages, name_of, range(len(names))), strict=True))
    by_class = dict(zip([each.name for each in classes], _tallies(run, counted, ages, class_of, classes), strict=True))
    with_frames = [name for name, tally in by_stream.items() if tally.frames]
    total = _tally(run, counted, ages, slice(None))
    return Results(
        **fields_of(total),
        seconds=run.seconds,
        offered_per_s=total.frames / run.seconds,
        by_class=by_class,
        by_stream=by_stream,
        worst_stream=min(with_frames, key=lambda name: by_stream[name].on_time_ratio, default=""),
        fairness=jain(np.array([by_stream[name].on_time_ratio for name in with_frames])),
    )


def fields_of(tally: Tally) -> dict[str, Any]:
    """The fields by name, for a class that has these and more."""
    return {name: getattr(tally, name) for name in tally.__dataclass_fields__}


def _tallies(run: RunOutcomes, counted: Ints, ages: Ages, group_of: Ints, groups: Sequence[int]) -> list[Tally]:
    """One for each of `groups`; `group_of` by stream id."""
    frame_group, age_group = group_of[run.schedule.frames.stream_id[counted]], group_of[ages.stream_id]
    frame_order, age_order = np.argsort(frame_group, kind="stable"), np.argsort(age_group, kind="stable")
    frame_group, age_group = frame_group[frame_order], age_group[age_order]
    tallies = []
    for group in groups:
        frames = slice(*np.searchsorted(frame_group, [group, group + 1]))
        stretches = slice(*np.searchsorted(age_group, [group, group + 1]))
        tallies.append(_tally(run, counted[frame_order[frames]], ages, age_order[stretches]))
    return tallies


def _tally(run: RunOutcomes, frames: Ints, ages: Ages, stretches: Ints | slice) -> Tally:
    outcome = run.outcome[frames]
    by_number = np.bincount(outcome, minlength=max(FrameOutcome) + 1).tolist()
    counts = {each.name: by_number[each] for each in FrameOutcome}
    queueing_ns = None if run.queueing_ns is None else run.queueing_ns[frames]
    return Tally(
        frames=len(outcome),
        counts=counts,
        on_time_ratio=counts["ON_TIME"] / len(outcome) if len(outcome) else 1.0,
        goodput_per_s=counts["ON_TIME"] / run.seconds,
        claimed_late=None if run.claimed is None else int(np.sum(run.claimed[frames] & (outcome == FrameOutcome.LATE))),
        latency_ms=percentiles_of(run.latency_ns[frames][np.isin(outcome, GOT_RESULT)]),
        queueing_ms=None if queueing_ns is None else percentiles_of(queueing_ns[queueing_ns >= 0]),
        age_ms=age_over(ages.from_ns[stretches], ages.to_ns[stretches]),
        variant_switches=None if run.switched is None else int(run.switched[frames].sum()),
    )


def jain(ratios: NDArray[np.float64]) -> float | None:
    squares = float((ratios**2).sum())
    return float(ratios.sum()) ** 2 / (len(ratios) * squares) if squares else None
