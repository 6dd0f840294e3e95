"""What a simulated run amounts to: outcomes, times, ages and what the lanes did, of all frames, classes and streams.

Counted is what happens after the scenario's `warm_s`: frames that arrive from then on, and the lanes' time from then to
`duration_s`. Frames are told apart by the stream's name, so that the sessions of a stream that comes and goes count as
one stream.

Age of information, see `duly_load.results.ages`, counts from the arrival of frames.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duly.core.types import OutcomeStatus, StreamClass
from duly_load.results.ages import Age, Ages, age_over, ages_between
from duly_load.scenario.schedule import Session
from duly_sim.simulator.engine import Run
from duly_sim.simulator.world import World

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Chosen = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Spread:
    """How times are distributed, ms; percentiles lie on straight lines between the nearest two values."""

    count: int
    mean: float
    min: float
    p1: float
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of some of the frames. A spread is None where it would be one of nothing."""

    frames: int
    counts: dict[str, int]
    """Frames by the name of their `OutcomeStatus`, all of them."""
    on_time_ratio: float
    """ON_TIME over frames that were not CANCELLED, since nobody wanted these any more; 1 if there are none."""
    goodput_per_s: float
    latency_ms: Spread | None
    """From arrival to result."""
    queueing_ms: Spread | None
    """From arrival to dispatch of the frames that ran."""
    slack_ms: Spread | None
    """Deadline minus result."""
    age_ms: Age | None
    variant_switches: int
    """Frames that ran on another variant than the frame of their stream that ran before."""


@dataclass(frozen=True, slots=True)
class Results(Tally):
    """The tally of all frames, those of classes and streams, and what the lanes did."""

    by_class: dict[str, Tally]
    """Of the classes that have streams."""
    by_stream: dict[str, Tally]
    worst_stream: str
    """The stream that has frames and the least on-time ratio, the first of equals; empty: no frames."""
    utilisation: dict[str, float]
    """Share of the time that each lane was busy."""
    wasted: float
    """Share of all lanes' busy time that went into frames that ended LATE; a batch's time is split evenly over its
    frames."""
    batch_sizes: dict[int, int]
    """Batches by size, without those that warm a lane."""
    batch_variant_switches: dict[str, int]
    """By model: batches of another variant than the model's batch before. Where streams of one model are due different
    variants, batches take turns and this says little; `variant_switches` is what a stream sees."""
    variant_shares: dict[str, dict[str, float]]
    """By model and variant: share of the model's frames that ran."""

    @property
    def worst_on_time_ratio(self) -> float:
        """Of `worst_stream`; 1 where no stream has frames."""
        return self.by_stream[self.worst_stream].on_time_ratio if self.worst_stream else 1.0

    @property
    def utilisation_mean(self) -> float:
        return sum(self.utilisation.values()) / len(self.utilisation)

    @property
    def batch_size_mean(self) -> float:
        """0 where nothing ran."""
        batches = sum(self.batch_sizes.values())
        return sum(size * count for size, count in self.batch_sizes.items()) / batches if batches else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain data for `json`; equal runs give equal data."""
        return asdict(self)


def measure(world: World, run: Run) -> Results:
    """The results of a run of `world`."""
    start_ns, end_ns = round(world.scenario.warm_s * 1e9), round(world.scenario.duration_s * 1e9)
    counted = _counted(run, start_ns, (end_ns - start_ns) / 1e9)
    ages = ages_of(world.sessions, run, start_ns, end_ns)

    names = list(dict.fromkeys(session.name for session in world.sessions))
    position = {name: nth for nth, name in enumerate(names)}
    name_of = np.array([0, *(position[session.name] for session in world.sessions)])
    class_of = np.array([0, *(int(session.stream_class) for session in world.sessions)])
    by_stream = dict(zip(names, _tallies(counted, ages, name_of, range(len(names))), strict=True))
    classes = [stream_class for stream_class in StreamClass if stream_class in class_of]
    by_class = dict(zip([each.name for each in classes], _tallies(counted, ages, class_of, classes), strict=True))

    with_frames = [name for name, tally in by_stream.items() if tally.frames]
    total = _tally(counted, slice(None), ages, slice(None))
    utilisation, wasted = _lanes(world, run, start_ns, end_ns)
    shown = [
        nth for nth, size in enumerate(run.batches.size) if size and start_ns <= run.batches.started_ns[nth] < end_ns
    ]
    return Results(
        total.frames,
        total.counts,
        total.on_time_ratio,
        total.goodput_per_s,
        total.latency_ms,
        total.queueing_ms,
        total.slack_ms,
        total.age_ms,
        total.variant_switches,
        by_class,
        by_stream,
        min(with_frames, key=lambda name: by_stream[name].on_time_ratio, default=""),
        utilisation,
        wasted,
        _histogram([run.batches.size[nth] for nth in shown]),
        *_variants(world, run, shown),
    )


def served(status: NDArray[np.int8]) -> Chosen:
    """The frames that got a result, in time or late."""
    return np.isin(status, (OutcomeStatus.ON_TIME, OutcomeStatus.LATE))


def ages_of(sessions: Sequence[Session], run: Run, start_ns: int, end_ns: int) -> Ages:
    """Of a run, counted from the arrival of frames; see `ages_between`."""
    answered = served(run.status)
    frames = run.frames
    return ages_between(
        sessions,
        frames.stream_id[answered],
        frames.arrival_ns[answered],
        run.resolved_ns[answered],
        start_ns,
        end_ns,
    )


def lane_left_ns(run: Run) -> Ints:
    """When each batch left its lane; one that never ended held it until its frames were given up."""
    left_ns = np.array(run.batches.ended_ns, np.int64)
    never = np.append(left_ns < 0, False)  # -1 takes the last
    lost = never[run.batch]
    np.maximum.at(left_ns, run.batch[lost], run.resolved_ns[lost])
    return left_ns


@dataclass(frozen=True, slots=True)
class _Counted:
    """The frames that count; arrays of the same length."""

    status: NDArray[np.int8]
    latency_ns: Ints
    slack_ns: Ints
    queueing_ns: Ints
    """-1: it never ran."""
    switched: Chosen
    """It ran on another variant than the frame of its stream that ran before."""
    stream_id: NDArray[np.int32]
    seconds: float


def _counted(run: Run, start_ns: int, seconds: float) -> _Counted:
    frames = run.frames
    keep = frames.arrival_ns >= start_ns
    batch = run.batch[keep]
    arrival_ns, resolved_ns = frames.arrival_ns[keep], run.resolved_ns[keep]
    started_ns = np.array([*run.batches.started_ns, 0], np.int64)[batch]  # -1 takes the last
    return _Counted(
        run.status[keep],
        resolved_ns - arrival_ns,
        frames.deadline_ns[keep] - resolved_ns,
        np.where(batch >= 0, started_ns - arrival_ns, -1),
        _switched(run)[keep],
        frames.stream_id[keep],
        seconds,
    )


def _switched(run: Run) -> Chosen:
    """By frame of the whole run."""
    ran = np.flatnonzero(run.batch >= 0)
    ran = ran[np.argsort(run.frames.stream_id[ran], kind="stable")]
    stream_id, variant = run.frames.stream_id[ran], np.array(run.batches.variant, np.str_)[run.batch[ran]]
    switched = np.zeros(len(run.status), np.bool_)
    switched[ran[1:]] = (variant[1:] != variant[:-1]) & (stream_id[1:] == stream_id[:-1])
    return switched


def _tallies(counted: _Counted, ages: Ages, group_of: Ints, groups: Any) -> list[Tally]:
    """One for each of `groups`; `group_of` by stream id."""
    frame_group, age_group = group_of[counted.stream_id], group_of[ages.stream_id]
    frame_order, age_order = np.argsort(frame_group, kind="stable"), np.argsort(age_group, kind="stable")
    frame_group, age_group = frame_group[frame_order], age_group[age_order]
    tallies = []
    for group in groups:
        frames = slice(*np.searchsorted(frame_group, [group, group + 1]))
        stretches = slice(*np.searchsorted(age_group, [group, group + 1]))
        tallies.append(_tally(counted, frame_order[frames], ages, age_order[stretches]))
    return tallies


def _tally(counted: _Counted, frames: Ints | slice, ages: Ages, stretches: Ints | slice) -> Tally:
    status = counted.status[frames]
    answered = served(status)
    by_number = np.bincount(status, minlength=max(OutcomeStatus) + 1).tolist()
    counts = {outcome.name: by_number[outcome] for outcome in OutcomeStatus}
    wanted = len(status) - counts["CANCELLED"]
    queueing_ns = counted.queueing_ns[frames]
    return Tally(
        len(status),
        counts,
        counts["ON_TIME"] / wanted if wanted else 1.0,
        counts["ON_TIME"] / counted.seconds,
        _spread(counted.latency_ns[frames][answered]),
        _spread(queueing_ns[queueing_ns >= 0]),
        _spread(counted.slack_ns[frames][answered]),
        age_over(ages.from_ns[stretches], ages.to_ns[stretches]),
        int(counted.switched[frames].sum()),
    )


def _spread(times_ns: Ints) -> Spread | None:
    if not len(times_ns):
        return None
    times_ms = times_ns / 1e6
    p1, p50, p90, p99, p99_9 = np.percentile(times_ms, [1, 50, 90, 99, 99.9]).tolist()
    return Spread(
        len(times_ms), float(times_ms.mean()), float(times_ms.min()), p1, p50, p90, p99, p99_9, float(times_ms.max())
    )


def _lanes(world: World, run: Run, start_ns: int, end_ns: int) -> tuple[dict[str, float], float]:
    """Utilisation by lane, and the share of the busy time that was wasted."""
    batches = run.batches
    busy_ns = np.minimum(lane_left_ns(run), end_ns) - np.maximum(np.array(batches.started_ns, np.int64), start_ns)
    busy_ns = np.maximum(busy_ns, 0)
    late = np.bincount(run.batch[run.status == OutcomeStatus.LATE], minlength=len(busy_ns))
    wasted_ns = busy_ns * late / np.maximum(np.array(batches.size, np.int64), 1)
    number = {lane: nth for nth, lane in enumerate(world.scenario.to_simulate().lanes)}
    of_lane = np.bincount(
        np.array([number[lane] for lane in batches.lane], np.int64), weights=busy_ns, minlength=len(number)
    )
    total_ns = int(busy_ns.sum())
    utilisation = dict(zip(number, (of_lane / (end_ns - start_ns)).tolist(), strict=True))
    return utilisation, float(wasted_ns.sum() / total_ns) if total_ns else 0.0


def _variants(world: World, run: Run, shown: list[int]) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    batches = run.batches
    switches = {model.name: 0 for model in world.scenario.to_simulate().model}
    frames = {
        model.name: {variant.name: 0 for variant in model.variants} for model in world.scenario.to_simulate().model
    }
    last: dict[str, str] = {}
    for nth in shown:
        model, variant = batches.model[nth], batches.variant[nth]
        switches[model] += last.setdefault(model, variant) != variant
        last[model] = variant
        frames[model][variant] += batches.size[nth]
    return switches, {
        model: {variant: count / max(1, sum(of_variant.values())) for variant, count in of_variant.items()}
        for model, of_variant in frames.items()
    }


def _histogram(sizes: list[int]) -> dict[int, int]:
    values, counts = np.unique(np.array(sizes, np.int64), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
