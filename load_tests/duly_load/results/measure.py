"""What a live run amounts to: outcomes, times from capture, ages, fairness, and what the harness itself did.

Counted are frames that were due to arrive from the scenario's `warm_s` on. Every one that was intended counts, whether
it could be sent or not: frames that were refused, unsent or unanswered were not on time. The generator withdraws none,
so that CANCELLED is the target's doing and not on time either. Sessions of one stream count together, under its name.

Latency is from capture, the intended moment, to the answer: a generator or a target that holds frames up does not make
it any better. Gil Tene, "How NOT to measure latency", 2013, on coordinated omission.

Fairness is Jain's index of the streams' on-time ratios: 1 where all fare alike, 1/n where one of n has everything.
Jain, Chiu and Hawe, "A quantitative measure of fairness and discrimination", 1984.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duly.core.types import StreamClass
from duly_load.results.ages import Age, Ages, age_over, ages_between
from duly_load.results.histogram import Percentiles, encoded, percentiles_of
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import LiveRun

Ints = NDArray[np.int64]
Chosen = NDArray[np.bool_]

GOT_RESULT = (FrameOutcome.ON_TIME, FrameOutcome.LATE)
NEVER_SENT = (FrameOutcome.REFUSED, FrameOutcome.UNSENT)
_NO_REASON = (*GOT_RESULT, *NEVER_SENT, FrameOutcome.UNANSWERED)
"""Outcomes that are no reason from the target why there is no result."""


@dataclass(frozen=True, slots=True)
class LiveTally:
    """What became of some of the frames. Times are None where there are none of them."""

    frames: int
    counts: dict[str, int]
    """Frames by the name of their `FrameOutcome`, all of them."""
    on_time_ratio: float
    """ON_TIME over all frames; 1 if there are none."""
    goodput_per_s: float
    claimed_late: int | None
    """Frames that the target itself called on time, and that came late; None: it called none of the run so."""
    latency_ms: Percentiles | None
    """From capture to result, on time or late."""
    age_ms: Age | None
    """Age of information: now minus the capture of the newest result that a stream holds."""


@dataclass(frozen=True, slots=True)
class BudgetLeft:
    """Shares of their budgets that frames had left when something came: the median, and what 99 of 100 had at least.
    Less than 0: it came after the deadline.
    """

    p50: float
    p1: float


@dataclass(frozen=True, slots=True)
class LiveResults(LiveTally):
    """The tally of all frames, those of classes and streams, and what the harness did."""

    seconds: float
    """That were counted."""
    offered_per_s: float
    """Frames that were intended."""
    reason_ms: Percentiles | None
    """From capture to an answer that was no result but the reason why there is none: how early the sensor could act."""
    reason_left: BudgetLeft | None
    """What was left of the budget then."""
    lag_ms: Percentiles | None
    """How late the generator sent."""
    blocked_ms: Percentiles | None
    """How long the target then did not take the frame."""
    batch_frames: dict[int, int]
    """Frames by the size of the batch in which they ran, as far as the target tells."""
    server_cpu_us_per_frame: float | None
    """CPU time of the target's processes for each frame that was sent, warm-up and all; None: it is not known."""
    by_class: dict[str, LiveTally]
    """Of the classes that have streams."""
    by_stream: dict[str, LiveTally]
    worst_stream: str
    """The stream that has frames and the least on-time ratio, the first of equals; empty: no frames."""
    fairness: float | None
    """Jain's index of the on-time ratios of streams that have frames; None: nothing was on time."""
    problems: tuple[str, ...]
    """Why the run is invalid; empty: it is valid."""
    latency_hdr: str
    lag_hdr: str
    """Encoded histograms, see `duly_load.results.histogram`."""

    @property
    def worst_on_time_ratio(self) -> float:
        """Of `worst_stream`; 1 where no stream has frames."""
        return self.by_stream[self.worst_stream].on_time_ratio if self.worst_stream else 1.0

    @property
    def batch_size_mean(self) -> float | None:
        """Over batches; None where the target does not tell."""
        batches = sum(frames / size for size, frames in self.batch_frames.items())
        return sum(self.batch_frames.values()) / batches if batches else None

    def to_json(self) -> dict[str, Any]:
        """As plain data for `json`; equal runs give equal data."""
        return asdict(self)


def measure(run: LiveRun) -> LiveResults:
    """The results of a run; of an invalid one too, for who wants to know why it is."""
    start_ns, end_ns = round(run.scenario.warm_s * 1e9), round(run.scenario.duration_s * 1e9)
    seconds = (end_ns - start_ns) / 1e9
    counted, ages = _counted(run, start_ns), ages_of(run)

    sessions = run.schedule.sessions
    names = list(dict.fromkeys(session.name for session in sessions))
    position = {name: nth for nth, name in enumerate(names)}
    name_of = np.array([0, *(position[session.name] for session in sessions)])
    class_of = np.array([0, *(int(session.stream_class) for session in sessions)])
    by_stream = dict(zip(names, _tallies(counted, ages, name_of, range(len(names)), seconds), strict=True))
    classes = [stream_class for stream_class in StreamClass if stream_class in class_of[1:]]
    by_class = dict(
        zip([each.name for each in classes], _tallies(counted, ages, class_of, classes, seconds), strict=True)
    )

    with_frames = [name for name, tally in by_stream.items() if tally.frames]
    total = _tally(counted, slice(None), ages, slice(None), seconds)
    got_result, gave_reason = np.isin(counted.outcome, GOT_RESULT), _gave_reason(counted)
    was_sent = ~np.isin(counted.outcome, NEVER_SENT)
    lag_ns = counted.lag_ns[was_sent]
    return LiveResults(
        frames=total.frames,
        counts=total.counts,
        on_time_ratio=total.on_time_ratio,
        goodput_per_s=total.goodput_per_s,
        claimed_late=total.claimed_late,
        latency_ms=total.latency_ms,
        age_ms=total.age_ms,
        seconds=seconds,
        offered_per_s=total.frames / seconds,
        reason_ms=percentiles_of(counted.latency_ns[gave_reason]),
        reason_left=_left(counted, gave_reason),
        lag_ms=percentiles_of(lag_ns),
        blocked_ms=percentiles_of(counted.blocked_ns[was_sent]),
        batch_frames=_by_number(counted.batch_size[counted.batch_size > 0]),
        server_cpu_us_per_frame=_cpu_us_per_frame(run),
        by_class=by_class,
        by_stream=by_stream,
        worst_stream=min(with_frames, key=lambda name: by_stream[name].on_time_ratio, default=""),
        fairness=jain(np.array([by_stream[name].on_time_ratio for name in with_frames])),
        problems=run.problems,
        latency_hdr=encoded(counted.latency_ns[got_result]),
        lag_hdr=encoded(lag_ns),
    )


def ages_of(run: LiveRun) -> Ages:
    """Age of information of all streams from the end of the warm-up on, counted from capture."""
    held = np.isin(run.record.outcome, GOT_RESULT)
    captures_ns = run.schedule.captures_ns[held]
    return ages_between(
        run.schedule.sessions,
        run.schedule.frames.stream_id[held],
        captures_ns,
        captures_ns + run.record.latency_ns[held],
        round(run.scenario.warm_s * 1e9),
        round(run.scenario.duration_s * 1e9),
    )


@dataclass(frozen=True, slots=True)
class _Counted:
    """The frames that count; the arrays have the same length, and are as in `Record`."""

    outcome: NDArray[np.int8]
    latency_ns: Ints
    lag_ns: Ints
    blocked_ns: Ints
    claimed: Chosen
    claims: bool
    """The target called a frame of the run on time."""
    batch_size: NDArray[np.int32]
    stream_id: NDArray[np.int32]
    budget_ns: Ints


def _counted(run: LiveRun, start_ns: int) -> _Counted:
    frames, record = run.schedule.frames, run.record
    keep = frames.arrival_ns >= start_ns
    stream_id = frames.stream_id[keep]
    return _Counted(
        record.outcome[keep],
        record.latency_ns[keep],
        record.lag_ns[keep],
        record.blocked_ns[keep],
        record.claimed[keep],
        bool(np.any(record.claimed)),
        record.batch_size[keep],
        stream_id,
        run.schedule.budgets_ns[stream_id],
    )


def _tallies(counted: _Counted, ages: Ages, group_of: Ints, groups: Any, seconds: float) -> list[LiveTally]:
    """One for each of `groups`; `group_of` by stream id."""
    frame_group, age_group = group_of[counted.stream_id], group_of[ages.stream_id]
    frame_order, age_order = np.argsort(frame_group, kind="stable"), np.argsort(age_group, kind="stable")
    frame_group, age_group = frame_group[frame_order], age_group[age_order]
    tallies = []
    for group in groups:
        frames = slice(*np.searchsorted(frame_group, [group, group + 1]))
        stretches = slice(*np.searchsorted(age_group, [group, group + 1]))
        tallies.append(_tally(counted, frame_order[frames], ages, age_order[stretches], seconds))
    return tallies


def _tally(counted: _Counted, frames: Ints | slice, ages: Ages, stretches: Ints | slice, seconds: float) -> LiveTally:
    outcome = counted.outcome[frames]
    by_number = np.bincount(outcome, minlength=max(FrameOutcome) + 1).tolist()
    counts = {each.name: by_number[each] for each in FrameOutcome}
    return LiveTally(
        len(outcome),
        counts,
        counts["ON_TIME"] / len(outcome) if len(outcome) else 1.0,
        counts["ON_TIME"] / seconds,
        int(np.sum(counted.claimed[frames] & (outcome == FrameOutcome.LATE))) if counted.claims else None,
        percentiles_of(counted.latency_ns[frames][np.isin(outcome, GOT_RESULT)]),
        age_over(ages.from_ns[stretches], ages.to_ns[stretches]),
    )


def _gave_reason(counted: _Counted) -> Chosen:
    return ~np.isin(counted.outcome, _NO_REASON) & (counted.latency_ns > 0)


def _left(counted: _Counted, gave_reason: Chosen) -> BudgetLeft | None:
    if not np.any(gave_reason):
        return None
    left = 1 - counted.latency_ns[gave_reason] / counted.budget_ns[gave_reason]
    p50, p1 = np.percentile(left, [50, 1]).tolist()
    return BudgetLeft(p50, p1)


def _by_number(values: NDArray[np.int32]) -> dict[int, int]:
    numbers, counts = np.unique(values, return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def _cpu_us_per_frame(run: LiveRun) -> float | None:
    sent = int(np.sum(~np.isin(run.record.outcome, NEVER_SENT)))
    return run.server_cpu_s / sent * 1e6 if run.server_cpu_s is not None and sent else None


def jain(ratios: NDArray[np.float64]) -> float | None:
    squares = float((ratios**2).sum())
    return float(ratios.sum()) ** 2 / (len(ratios) * squares) if squares else None
