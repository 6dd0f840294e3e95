"""What the batches of a live run took, and a simulator's lanes that take the same.

How long a batch takes on a real machine has the machine in it: the model, what it costs to reach the worker, whoever
else is on the core, minutes in which everything is slower. None of it is the scheduler's doing, and no formula has it
all. So the simulated lanes get the live times: a batch takes the usual time of its size, times the factor by which the
live batch that ran at the same moment was off its own.

Usual times start from the plan that the server reports, or from the scenario's table. Sizes that ran often have the
median of what was measured; the others what they started from, corrected by how far that was off on the whole.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from duly_load.results.record import Ints, Record
from duly_load.scenario.scenario import Scenario
from duly_load.scenario.simulate import Noise, Variant
from duly_sim.simulator.world import World

BATCHES_MIN = 20
"""Batches of one size from which their median says more than what it starts from."""
SAME_BATCH_NS = 200_000
"""Frames of one batch report its dispatch, each by its own clock reading, at most so far apart."""


class NothingRanError(Exception):
    """Says of which model."""


@dataclass(frozen=True, slots=True)
class _Took:
    usual_ns: list[int]
    """The usual time by batch size; 0: none."""
    at_ns: list[int]
    """The starts of the batches, in order."""
    factor: list[float]
    """The time that each batch took over the usual time."""


class LiveBatchTimes:
    """Batch times as they were live."""

    def __init__(self, took: dict[str, _Took]) -> None:
        """`took`: by model."""
        self._took = took

    def duration_ns(self, now_ns: int, lane: str, model: str, variant: str, batch_size: int) -> int | None:
        took = self._took[model]
        latest = max(0, bisect_right(took.at_ns, now_ns) - 1)
        return max(1, round(took.usual_ns[batch_size] * took.factor[latest]))


@dataclass(frozen=True, slots=True)
class BatchTimes:
    scenario: Scenario
    """The scenario with the usual times as its tables and the scatter round them as its noise."""
    service: LiveBatchTimes


def batch_times(world: World, seen: Record, base_ns: dict[str, dict[int, int]]) -> BatchTimes:
    """What the lanes took in `seen`. `base_ns`: by model and batch size, where too few ran.

    Raises NothingRanError.
    """
    given = world.scenario.to_simulate()
    number = {model.name: index for index, model in enumerate(given.model)}
    model_of = np.array([0, *(number[session.model] for session in world.sessions)])[world.frames.stream_id]
    occupied_ns = _occupied_ns(seen, len(given.lanes))
    models, took, scatter = [], {}, []
    for index, model in enumerate(given.model):
        ran = np.flatnonzero((model_of == index) & (seen.batch_size > 0))
        if not len(ran):
            raise NothingRanError(f"model {model.name}: no frame of it ran, so that its times are not known")
        ran = ran[np.argsort(seen.dispatched_ns[ran], kind="stable")]
        sizes, lasted_ns = seen.batch_size[ran], occupied_ns[ran]
        usual_ns = np.array([0, *(base_ns[model.name][size] for size in range(1, model.batch_max + 1))], np.float64)
        usual_ns *= np.median(lasted_ns / usual_ns[sizes])
        for size in range(1, model.batch_max + 1):
            of_size = lasted_ns[sizes == size]
            if len(of_size) >= BATCHES_MIN * size:
                usual_ns[size] = np.median(of_size)
        factor = lasted_ns / usual_ns[sizes]
        scatter.append(factor)
        took[model.name] = _Took(
            usual_ns.round().astype(int).tolist(), seen.dispatched_ns[ran].tolist(), factor.tolist()
        )
        times_ms = {size: float(usual_ns[size]) / 1e6 for size in range(1, model.batch_max + 1)}
        variant = Variant(name=model.variants[0].name, times_ms=times_ms)
        models.append(model.model_copy(update={"variants": (variant,)}))
    factors = np.concatenate(scatter)
    noise = Noise(cv=float(factors.std() / factors.mean()))
    given = given.model_copy(update={"model": tuple(models), "noise": noise})
    return BatchTimes(world.scenario.model_copy(update={"simulate": given}), LiveBatchTimes(took))


def _occupied_ns(seen: Record, lanes: int) -> Ints:
    """How long the batch of each frame held its lane. What the server reports has the sending of its answers in it;
    where there is one lane, the batch was over at the latest when the next began.
    """
    if lanes > 1:
        return seen.occupied_ns
    began_ns = np.sort(seen.dispatched_ns[seen.batch_size > 0])
    after = np.searchsorted(began_ns, seen.dispatched_ns + SAME_BATCH_NS, "right")
    next_ns = np.append(began_ns, np.iinfo(np.int64).max)[after]
    occupied_ns: Ints = np.minimum(seen.occupied_ns, next_ns - seen.dispatched_ns)
    return occupied_ns
