"""The tables of a report on runs; their numbers are those of the results, nothing is computed here."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from duly_load.report.layout import OUTCOME_ORDER, shortened, words
from duly_load.report.page import Column, Table
from duly_load.report.view import RunView
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.tally import Tally

STREAMS_MAX = 20
"""The most streams that have a row, the worst first."""

ON_TIME_APART = 0.01
"""On-time ratios that lie further apart make latencies incomparable: who answers almost nothing answers that fast."""

_ALWAYS = (FrameOutcome.LATE, FrameOutcome.EXPIRED, FrameOutcome.SHED, FrameOutcome.SUPERSEDED)


def tables(views: Sequence[RunView]) -> list[Table]:
    """All tables of a run or more."""
    by_class = len({name for view in views for name in view.results.by_class}) > 1
    return [
        _outcomes(views),
        _latency(views),
        *([_classes(views)] if by_class else []),
        _streams(views),
        *_own(views),
    ]


def _outcomes(views: Sequence[RunView]) -> Table:
    """What became of the frames; rare outcomes have a column where they occurred."""
    outcomes = [
        outcome
        for outcome in OUTCOME_ORDER
        if outcome in _ALWAYS
        or (outcome != FrameOutcome.ON_TIME and any(view.results.counts[outcome.name] for view in views))
    ]
    columns = (
        Column("frames", "frames that were to be sent after the warm-up", ","),
        Column("offered/s", "the same per second", ",.1f"),
        Column("on time", "on-time frames of all", ".2%", best=1),
        Column("goodput/s", "on-time frames per second", ",.1f", best=1),
        *(Column(words(outcome), f"frames that ended {outcome.name}", ",") for outcome in outcomes),
        Column("worst stream", "on-time ratio of the stream that fared worst", ".2%", best=1),
        Column("fairness", "Jain's index of the streams' on-time ratios, 1 where all fare alike", ".4f", best=1),
        Column("batch", "mean batch size, where the target reports it", ".2f"),
    )
    rows = []
    for view in views:
        results = view.results
        cells = (
            results.frames,
            results.offered_per_s,
            results.on_time_ratio,
            results.goodput_per_s,
            *(results.counts[outcome.name] for outcome in outcomes),
            results.worst_on_time_ratio if results.worst_stream else None,
            results.fairness,
            view.batch_size_mean,
        )
        rows.append((view.name, cells))
    about = (
        "Outcomes are numbers of frames, all that were intended: those that could not be sent or were never answered "
        "count as not on time. Where runs differ, the best of a column stands out."
    )
    return Table("Outcomes", about, "run", columns, rows)


def best_latency(on_time_ratios: Sequence[float]) -> int:
    """`Column.best` of the latencies of runs with these on-time ratios."""
    return -1 if max(on_time_ratios) - min(on_time_ratios) <= ON_TIME_APART else 0


def _latency(views: Sequence[RunView]) -> Table:
    best = best_latency([view.results.on_time_ratio for view in views])
    columns = (
        *(
            Column(f"{title} ms", f"{meaning} of latency from capture, of frames that got a result", ",.2f", best=best)
            for title, meaning in (
                ("p50", "median"),
                ("p90", "90th percentile"),
                ("p99", "99th percentile"),
                ("p99.9", "99.9th percentile"),
                ("p99.99", "99.99th percentile"),
                ("max", "greatest"),
            )
        ),
        Column("age p99 ms", "age of the newest result a stream holds, 99th percentile over time", ",.1f", best=-1),
    )
    rows = []
    for view in views:
        of, age = view.results.latency_ms, view.results.age_ms
        times = (of.p50, of.p90, of.p99, of.p99_9, of.p99_99, of.max) if of else (None,) * 6
        rows.append((view.name, (*times, age.p99 if age else None)))
    about = (
        "From capture, the moment for which a frame was intended. Percentiles count results, on time or late; who "
        "refuses what it can't do has fewer of them, see the outcomes. Where on-time ratios lie more than "
        f"{ON_TIME_APART:.0%} apart, no latency is called the best."
    )
    return Table("Latency", about, "run", columns, rows)


def _classes(views: Sequence[RunView]) -> Table:
    classes = list(dict.fromkeys(name for view in views for name in view.results.by_class))
    columns = tuple(
        Column(name.lower().replace("_", " "), f"on-time ratio of the streams of class {name}", ".2%", best=1)
        for name in classes
    )
    rows = [(view.name, _ratios(view.results.by_class.get(name) for name in classes)) for view in views]
    return Table("On time by class", "On-time frames of all that were to be sent.", "run", columns, rows)


def _streams(views: Sequence[RunView]) -> Table:
    """The streams that fared worst: all about them where there is one run, else their on-time ratio in each."""
    tallies = [{name: tally for name, tally in view.results.by_stream.items() if tally.frames} for view in views]
    names = list(dict.fromkeys(name for of_run in tallies for name in of_run))
    names.sort(key=lambda name: min(of_run[name].on_time_ratio for of_run in tallies if name in of_run))
    about = "Each stream's on-time frames of all that were to be sent, the worst stream first."
    if not names:
        about = "No stream should have sent anything."
    elif len(names) > STREAMS_MAX:
        about += f" {len(names) - STREAMS_MAX:,} more streams fared at least as well as the last of these."
    if len(views) == 1:
        columns = _STREAM_COLUMNS
        rows = [(name, _stream_cells(tallies[0][name])) for name in names[:STREAMS_MAX]]
    else:
        columns = tuple(Column(shortened(view.name), f"on-time ratio in {view.name}", ".2%") for view in views)
        rows = [(name, _ratios(of_run.get(name) for of_run in tallies)) for name in names[:STREAMS_MAX]]
    return Table("Streams", about, "stream", columns, rows)


def _ratios(tallies: Iterable[Tally | None]) -> tuple[float | None, ...]:
    return tuple(tally.on_time_ratio if tally else None for tally in tallies)


_STREAM_COLUMNS: tuple[Column, ...] = (
    Column("frames", "frames that were to be sent after the warm-up", ","),
    Column("on time", "on-time frames of all", ".2%"),
    Column("late", "frames that ended LATE", ","),
    Column("no result", "frames that ended neither ON_TIME nor LATE", ","),
    Column("p50 ms", "median latency from capture, of frames that got a result", ",.2f"),
    Column("p99 ms", "99th percentile of the same", ",.2f"),
    Column("max ms", "greatest of the same", ",.2f"),
    Column("age p99 ms", "age of the newest result that the stream holds, 99th percentile over time", ",.1f"),
)


def _stream_cells(tally: Tally) -> tuple[float | None, ...]:
    late, latency = tally.counts[FrameOutcome.LATE.name], tally.latency_ms
    return (
        tally.frames,
        tally.on_time_ratio,
        late,
        tally.frames - late - tally.counts[FrameOutcome.ON_TIME.name],
        *((latency.p50, latency.p99, latency.max) if latency else (None,) * 3),
        tally.age_ms.p99 if tally.age_ms else None,
    )


def _own(views: Sequence[RunView]) -> list[Table]:
    """The tables of figures that only some kinds of runs have."""
    found: dict[str, Table] = {}
    for view in views:
        for own in view.tables:
            table = found.setdefault(own.heading, Table(own.heading, own.about, "run", own.columns, []))
            found[own.heading] = replace(table, rows=[*table.rows, (view.name, own.cells)])
    return list(found.values())
