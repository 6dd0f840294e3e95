"""The tables of a report on simulated runs; their numbers are those of the results, nothing is computed here."""

from duly_load.report.layout import OUTCOME_ORDER, words
from duly_load.report.page import Column, Table
from duly_load.results.outcomes import FrameOutcome
from duly_sim.simulator.engine import Run
from duly_sim.simulator.results import SimulatedResults
from duly_sim.simulator.world import World

Entry = tuple[str, World, Run, SimulatedResults]
"""Policy, what it was run in, what happened, what that amounts to."""

_ALWAYS = (FrameOutcome.LATE, FrameOutcome.EXPIRED, FrameOutcome.SHED, FrameOutcome.SUPERSEDED)


def tables(entries: list[Entry]) -> list[Table]:
    return [_policies(entries)] + ([_classes(entries)] if len(entries[0][3].by_class) > 1 else [])


def _policies(entries: list[Entry]) -> Table:
    """What each policy made of the frames; rare outcomes have a column where they occurred."""
    outcomes = [
        outcome
        for outcome in OUTCOME_ORDER
        if outcome in _ALWAYS
        or (outcome != FrameOutcome.ON_TIME and any(results.counts.get(outcome.name) for *_, results in entries))
    ]
    columns = (
        Column("on time", "on-time frames of all that were not cancelled", ".2%", best=1),
        Column("goodput/s", "on-time frames per second", ",.1f", best=1),
        *(Column(words(outcome), f"frames that ended {outcome.name}", ",") for outcome in outcomes),
        Column("p50 ms", "median latency, from arrival to result, of the frames that got one", ",.2f", best=-1),
        Column("p99 ms", "99th percentile of the same", ",.2f", best=-1),
        Column(
            "age p99 ms", "age of the newest result that a stream holds, 99th percentile over time", ",.1f", best=-1
        ),
        Column("worst stream", "on-time ratio of the stream that fared worst", ".2%", best=1),
        Column("wasted", "share of the lanes' busy time that went into frames that ended LATE", ".2%", best=-1),
        Column("utilisation", "share of the time that lanes ran batches, mean over the lanes", ".1%"),
        Column("batch", "mean batch size", ".2f"),
    )
    rows = []
    for policy, _, _, results in entries:
        latency_ms, age_ms = results.latency_ms, results.age_ms
        cells = (
            results.on_time_ratio,
            results.goodput_per_s,
            *(results.counts[outcome.name] for outcome in outcomes),
            latency_ms.p50 if latency_ms else None,
            latency_ms.p99 if latency_ms else None,
            age_ms.p99 if age_ms else None,
            results.worst_on_time_ratio,
            results.wasted,
            results.utilisation_mean,
            results.batch_size_mean,
        )
        rows.append((policy, cells))
    about = "Outcomes are numbers of frames. Where policies differ, the best of a column stands out."
    return Table("Policies", about, "policy", columns, rows)


def _classes(entries: list[Entry]) -> Table:
    classes = list(entries[0][3].by_class)
    columns = tuple(
        Column(name.lower().replace("_", " "), f"on-time ratio of the streams of class {name}", ".2%", best=1)
        for name in classes
    )
    rows = [
        (policy, tuple(results.by_class[name].on_time_ratio for name in classes)) for policy, _, _, results in entries
    ]
    return Table("On time by class", "On-time frames of all that were not cancelled.", "policy", columns, rows)
