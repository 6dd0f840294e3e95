"""Gives every model's variant control the demand on its lanes, and lets it decide.

Theory. A control (`ladder`) compares the lanes that its model would need at each rank. Models share lanes, so each
control also gets what the others need at the ranks that they have now. They decide one after another, and a later one
sees what an earlier one has just saved. Demand is that of `arrival_rate.lanes_needed` at the rate at which frames of
all classes came since the last tick, as classes share batches; it is split by the number of frames of each class. A
stream that may not be moved as far as the others of its class counts at the rank that it accepts.
"""

from collections.abc import Iterable, Mapping

from duly.core.state import StreamState
from duly.core.timing.arrival_rate import lanes_needed
from duly.core.types import StreamClass
from duly.core.variants.model_state import ModelState

Demands = dict[StreamClass, list[float]]
"""For each class with streams, the share of the lanes that it needs at each rank."""


def switch_variants(
    now_ns: int, elapsed_ns: int, models: Mapping[str, ModelState], streams: Iterable[StreamState], lanes: int
) -> None:
    """Ticks every control; has to be called every `ladder.TICK_NS`. `elapsed_ns` is the time since the last call.
    Resets the counts of `models`.
    """
    of_model: dict[str, list[StreamState]] = {name: [] for name in models}
    for stream in streams:
        if stream.model in of_model:
            of_model[stream.model].append(stream)
    demands = {
        name: _demands(model, of_model[name], elapsed_ns / max(1, sum(model.arrived.values())), max(1, lanes))
        for name, model in models.items()
    }
    needed = {name: _needed(model, demands[name]) for name, model in models.items()}
    for name, model in models.items():
        if model.only is None:
            others = sum(share for other, share in needed.items() if other != name)
            model.control.tick(now_ns, model.on_time, model.missed, demands[name], others)
            needed[name] = _needed(model, demands[name])
        model.on_time = model.missed = 0
        model.arrived = dict.fromkeys(StreamClass, 0)


def _demands(model: ModelState, streams: list[StreamState], gap_ns: float, lanes: int) -> Demands:
    arrived = sum(model.arrived.values())
    demands: Demands = {}
    for stream_class in StreamClass:
        own = [stream for stream in streams if stream.terms.stream_class is stream_class]
        if own and model.arrived[stream_class]:
            budget_ns = min(stream.terms.budget_ns for stream in own)
            part = model.arrived[stream_class] / arrived / lanes
            at_rank = [_lanes_needed(model, rank, gap_ns, budget_ns) * part for rank in range(max(model.variants) + 1)]
            accepted = [min(stream.terms.variant_rank_max, len(at_rank) - 1) for stream in own]
            demands[stream_class] = [
                sum(at_rank[min(rank, rank_max)] for rank_max in accepted) / len(own) for rank in range(len(at_rank))
            ]
    return demands


def _lanes_needed(model: ModelState, rank: int, gap_ns: float, budget_ns: int) -> float:
    variant = model.variants.get(rank) or next(iter(model.variants.values()))
    profile = next(iter(variant.profiles.values()), None)
    return lanes_needed(profile, gap_ns, budget_ns) if profile is not None else 0.0


def _needed(model: ModelState, demands: Demands) -> float:
    """The share of the lanes that the model needs at its present ranks."""
    return sum(
        by_rank[model.control.rank_for(stream_class, len(by_rank) - 1)] for stream_class, by_rank in demands.items()
    )
