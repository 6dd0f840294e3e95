"""What a simulated run amounts to: what became of the frames (see `duly_load.results.tally`), and what the lanes did.

Of the lanes' time the same counts as of frames: from the scenario's `warm_s` to `duration_s`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duly.core.types import OutcomeStatus
from duly_load.results.tally import Results, RunOutcomes, fields_of, results_of
from duly_load.scenario.schedule import Schedule
from duly_sim.simulator.engine import Run
from duly_sim.simulator.world import World

Ints = NDArray[np.int64]
Chosen = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SimulatedResults(Results):
    """What became of the frames, and what the lanes did."""

    utilisation: dict[str, float]
    """The share of the time that each lane was busy."""
    wasted: float
    """Share of all lanes' busy time that went into frames that ended LATE; a batch's time is split evenly over its
    frames."""
    batch_sizes: dict[int, int]
    """The number of batches by size, without those that warm a lane."""
    batch_variant_switches: dict[str, int]
    """For each model, the batches of another variant than the model's batch before. Where streams of one model are due
    different variants, batches take turns and this says little; `variant_switches` is what a stream sees."""
    variant_shares: dict[str, dict[str, float]]
    """For each model and variant, the share of the model's frames that ran."""

    @property
    def utilisation_mean(self) -> float:
        return sum(self.utilisation.values()) / len(self.utilisation)

    @property
    def batch_size_mean(self) -> float:
        """The mean over batches; 0 where nothing ran."""
        batches = sum(self.batch_sizes.values())
        return sum(size * count for size, count in self.batch_sizes.items()) / batches if batches else 0.0


def measure(world: World, run: Run) -> SimulatedResults:
    """The results of a run of `world`."""
    outcomes = outcomes_of(world, run)
    start_ns, end_ns = outcomes.start_ns, outcomes.end_ns
    utilisation, wasted = _lanes(world, run, start_ns, end_ns)
    shown = [
        index
        for index, size in enumerate(run.batches.size)
        if size and start_ns <= run.batches.started_ns[index] < end_ns
    ]
    variant_switches, variant_shares = _variants(world, run, shown)
    return SimulatedResults(
        **fields_of(results_of(outcomes)),
        utilisation=utilisation,
        wasted=wasted,
        batch_sizes=_histogram([run.batches.size[index] for index in shown]),
        batch_variant_switches=variant_switches,
        variant_shares=variant_shares,
    )


def outcomes_of(world: World, run: Run) -> RunOutcomes:
    start_ns, end_ns = round(world.scenario.warm_s * 1e9), round(world.scenario.duration_s * 1e9)
    planned = Schedule(run.frames, world.sessions)
    latency_ns = run.resolved_ns - planned.captures_ns
    started_ns = np.array([*run.batches.started_ns, 0], np.int64)[run.batch]  # -1, never ran, takes the last
    queueing_ns = np.where(run.batch >= 0, started_ns - run.frames.arrival_ns, -1)
    return RunOutcomes(
        planned, start_ns, end_ns, run.status, latency_ns, queueing_ns=queueing_ns, switched=_switched(run)
    )


def lane_left_ns(run: Run) -> Ints:
    """When each batch left its lane; one that never ended held it until its frames were given up."""
    left_ns = np.array(run.batches.ended_ns, np.int64)
    never = np.append(left_ns < 0, False)  # -1 takes the last
    lost = never[run.batch]
    np.maximum.at(left_ns, run.batch[lost], run.resolved_ns[lost])
    return left_ns


def _switched(run: Run) -> Chosen:
    """For each frame of the whole run, whether it ran on another variant than its stream's frame before."""
    ran = np.flatnonzero(run.batch >= 0)
    ran = ran[np.argsort(run.frames.stream_id[ran], kind="stable")]
    stream_id, variant = run.frames.stream_id[ran], np.array(run.batches.variant, np.str_)[run.batch[ran]]
    switched = np.zeros(len(run.status), np.bool_)
    switched[ran[1:]] = (variant[1:] != variant[:-1]) & (stream_id[1:] == stream_id[:-1])
    return switched


def _lanes(world: World, run: Run, start_ns: int, end_ns: int) -> tuple[dict[str, float], float]:
    """Utilisation by lane, and the share of the busy time that was wasted."""
    batches = run.batches
    busy_ns = np.minimum(lane_left_ns(run), end_ns) - np.maximum(np.array(batches.started_ns, np.int64), start_ns)
    busy_ns = np.maximum(busy_ns, 0)
    late = np.bincount(run.batch[run.status == OutcomeStatus.LATE], minlength=len(busy_ns))
    wasted_ns = busy_ns * late / np.maximum(np.array(batches.size, np.int64), 1)
    number = {lane: index for index, lane in enumerate(world.scenario.to_simulate().lanes)}
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
    for index in shown:
        model, variant = batches.model[index], batches.variant[index]
        switches[model] += last.setdefault(model, variant) != variant
        last[model] = variant
        frames[model][variant] += batches.size[index]
    return switches, {
        model: {variant: count / max(1, sum(of_variant.values())) for variant, count in of_variant.items()}
        for model, of_variant in frames.items()
    }


def _histogram(sizes: list[int]) -> dict[int, int]:
    values, counts = np.unique(np.array(sizes, np.int64), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
