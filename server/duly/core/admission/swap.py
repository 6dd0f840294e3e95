"""Whether streams that are open would still get what admission promised them, if a model's version were swapped.

Every stream was let in beside the others with the plans of the versions at that time. A version that takes longer makes
this untrue without anybody having asked. So the streams as they would be after the swap are judged one by one, as if
each came last, and the swap breaks the promise of a stream that would not be let in then, but would be as things are.
What does not hold today is no reason to refuse: the swap may be what mends it.

Streams that state no period are promised nothing, but a frame of theirs must at least fit its budget. BEST_EFFORT
streams are promised nothing at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from duly.core.admission.decide import ROLLOUT_STEPS
from duly.core.admission.formula import analyse, needs_rollout
from duly.core.admission.rollout import ON_TIME_RATIO_MIN, Rollout
from duly.core.types import ModelPlan, StreamClass, StreamDemand

KINDS_MAX = 64
"""Streams with equal terms are judged once. Of so many kinds each is judged, those with the least budgets first."""


@dataclass(frozen=True, slots=True)
class BrokenPromise:
    """Streams with equal terms that would no longer be served as they were promised."""

    demand: StreamDemand
    """One of them, as it would be after the swap."""
    streams: int
    """How many there are."""
    reason: str


def broken_promises(
    before: Sequence[StreamDemand], after: Sequence[StreamDemand], models: Mapping[str, ModelPlan], lanes: int
) -> list[BrokenPromise]:
    """Returns the promises that the swap would break, the most critical first.

    `before` and `after` are all open streams in the same order, as they are and as they would be. `models` has the
    plans of the versions of both.
    """
    kept_before, kept_after = (_judge(streams, models, lanes) for streams in (before, after))
    kinds: dict[tuple[object, ...], list[int]] = {}
    for nth, demand in enumerate(after):
        if demand.stream_class is not StreamClass.BEST_EFFORT:
            kinds.setdefault((before[nth].model, *_terms(demand)), []).append(nth)
    judged = sorted((int(after[nth].stream_class), after[nth].budget_ns, nth) for nth, *_ in kinds.values())
    equals = {members[0]: members for members in kinds.values()}
    broken: list[BrokenPromise] = []
    for _, _, first in judged[:KINDS_MAX]:
        members = equals[first]
        reason = kept_after(members[0])
        if reason and not kept_before(members[0]):
            broken.append(BrokenPromise(after[members[0]], len(members), reason))
    return broken


def _judge(streams: Sequence[StreamDemand], models: Mapping[str, ModelPlan], lanes: int) -> Callable[[int], str]:
    """Returns a function that says why the nth of the streams could not be let in beside the others, if so."""
    run: list[Rollout] = []

    def why_not(nth: int) -> str:
        demand = streams[nth]
        verdict = analyse(demand, [*streams[:nth], *streams[nth + 1 :]], models, lanes)
        if demand.stream_class is not StreamClass.STANDARD or not demand.period_ns or not needs_rollout(verdict):
            return "" if verdict.accepted else verdict.reason
        if not run:  # all streams go through the one rollout
            run.append(Rollout(streams, models))
            while not run[0].advance(ROLLOUT_STEPS):
                pass
        on_time, own = run[0].on_time_ratio(demand.stream_class), run[0].own_ratio(demand.stream_id)
        if min(on_time, own) >= ON_TIME_RATIO_MIN:
            return ""
        return f"{verdict.reason}; run ahead, {on_time:.1%} of all frames are on time and {own:.1%} of its own"

    return why_not


def _terms(demand: StreamDemand) -> tuple[object, ...]:
    return demand.model, demand.stream_class, demand.period_ns, demand.budget_ns, demand.variant_rank_max
