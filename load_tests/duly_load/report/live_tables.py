"""The tables of a report on live runs; their numbers are those of the results, nothing is computed here."""

from collections.abc import Sequence

from duly_load.report.layout import OUTCOME_ORDER, shortened, words
from duly_load.report.page import Column, Table
from duly_load.results.measure import LiveResults
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import LiveRun
from duly_load.results.tally import Tally

LiveEntry = tuple[str, LiveRun, LiveResults]
"""Name of the run, what happened, what that amounts to."""

STREAMS_MAX = 20
"""Streams that have a row, the worst first; streams.csv has all."""

ON_TIME_APART = 0.01
"""On-time ratios that lie further apart make latencies incomparable: who answers almost nothing answers that fast."""

_ALWAYS = (FrameOutcome.LATE, FrameOutcome.EXPIRED, FrameOutcome.SHED, FrameOutcome.SUPERSEDED)


def tables(entries: list[LiveEntry]) -> list[Table]:
    """Of a run or more."""
    by_class = len({name for _, _, results in entries for name in results.by_class}) > 1
    return [
        _outcomes(entries),
        _latency(entries),
        *([_classes(entries)] if by_class else []),
        _streams(entries),
        _harness(entries),
    ]


def _outcomes(entries: list[LiveEntry]) -> Table:
    """What became of the frames; rare outcomes have a column where they occurred."""
    outcomes = [
        outcome
        for outcome in OUTCOME_ORDER
        if outcome in _ALWAYS
        or (outcome != FrameOutcome.ON_TIME and any(results.counts[outcome.name] for *_, results in entries))
    ]
    columns = (
        Column("frames", "frames that were to be sent after the warm-up", ","),
        Column("offered/s", "the same per second", ",.1f"),
        Column("on time", "on-time frames of all", ".2%", best=1),
        Column("goodput/s", "on-time frames per second", ",.1f", best=1),
        *(Column(words(outcome), f"frames that ended {outcome.name}", ",") for outcome in outcomes),
        Column("worst stream", "on-time ratio of the stream that fared worst", ".2%", best=1),
        Column("fairness", "Jain's index of the streams' on-time ratios, 1 where all fare alike", ".4f", best=1),
        Column("batch", "mean batch size, where the target tells", ".2f"),
    )
    rows = []
    for name, _, results in entries:
        cells = (
            results.frames,
            results.offered_per_s,
            results.on_time_ratio,
            results.goodput_per_s,
            *(results.counts[outcome.name] for outcome in outcomes),
            results.worst_on_time_ratio if results.worst_stream else None,
            results.fairness,
            results.batch_size_mean,
        )
        rows.append((name, cells))
    about = (
        "Outcomes are numbers of frames, all that were intended: those that could not be sent or were never answered "
        "count as not on time. Where runs differ, the best of a column stands out."
    )
    return Table("Outcomes", about, "run", columns, rows)


def best_latency(on_time_ratios: Sequence[float]) -> int:
    """`Column.best` of the latencies of runs with these on-time ratios."""
    return -1 if max(on_time_ratios) - min(on_time_ratios) <= ON_TIME_APART else 0


def _latency(entries: list[LiveEntry]) -> Table:
    best = best_latency([results.on_time_ratio for *_, results in entries])
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
        Column("reason p50 ms", "median time from capture until the answer why there is no result", ",.2f", best=best),
        Column("reason p99 ms", "99th percentile of the same", ",.2f", best=best),
        Column(
            "budget left", "share of the budget that was left then, the median; below 0: too late", ".0%", best=-best
        ),
    )
    rows = []
    for name, _, results in entries:
        latency, reason, left = results.latency_ms, results.reason_ms, results.reason_left
        cells = (
            *_percentiles(results),
            latency.max if latency else None,
            results.age_ms.p99 if results.age_ms else None,
            reason.p50 if reason else None,
            reason.p99 if reason else None,
            left.p50 if left else None,
        )
        rows.append((name, cells))
    about = (
        "From capture, the moment for which a frame was intended, on the sender's clock. Percentiles count results, on "
        "time or late; a target that refuses what it can't do has fewer of them, see the outcomes. Where on-time "
        f"ratios lie more than {ON_TIME_APART:.0%} apart, no latency is called the best."
    )
    return Table("Latency", about, "run", columns, rows)


def _percentiles(tally: Tally) -> tuple[float | None, ...]:
    spread = tally.latency_ms
    return (spread.p50, spread.p90, spread.p99, spread.p99_9, spread.p99_99) if spread else (None,) * 5


def _classes(entries: list[LiveEntry]) -> Table:
    classes = list(dict.fromkeys(name for _, _, results in entries for name in results.by_class))
    columns = tuple(
        Column(name.lower().replace("_", " "), f"on-time ratio of the streams of class {name}", ".2%", best=1)
        for name in classes
    )
    rows = [
        (
            run,
            tuple(results.by_class[name].on_time_ratio if name in results.by_class else None for name in classes),
        )
        for run, _, results in entries
    ]
    return Table("On time by class", "On-time frames of all that were to be sent.", "run", columns, rows)


def _streams(entries: list[LiveEntry]) -> Table:
    """The streams that fared worst: all about them where there is one run, else their on-time ratio in each."""
    tallies = [{name: tally for name, tally in results.by_stream.items() if tally.frames} for _, _, results in entries]
    names = list(dict.fromkeys(name for of_run in tallies for name in of_run))
    names.sort(key=lambda name: min(of_run[name].on_time_ratio for of_run in tallies if name in of_run))
    about = "Each stream's on-time frames of all that were to be sent, the worst stream first."
    if not names:
        about = "No stream should have sent anything."
    elif len(names) > STREAMS_MAX:
        about += f" {len(names) - STREAMS_MAX:,} more streams fared at least as well as the last of these."
    if len(entries) == 1:
        columns = _STREAM_COLUMNS
        rows = [(name, _stream_cells(tallies[0][name])) for name in names[:STREAMS_MAX]]
    else:
        columns = tuple(Column(shortened(name), f"on-time ratio in {name}", ".2%") for name, _, _ in entries)
        rows = [
            (name, tuple(of_run[name].on_time_ratio if name in of_run else None for of_run in tallies))
            for name in names[:STREAMS_MAX]
        ]
    return Table("Streams", about, "stream", columns, rows)


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


def _harness(entries: list[LiveEntry]) -> Table:
    """What the harness itself did, and what the machine did to it."""
    columns = (
        Column("lag p50 ms", "how late the generator sent, the median", ",.3f"),
        Column("lag p99 ms", "99th percentile of the same", ",.3f"),
        Column("lag p99.9 ms", "99.9th percentile of the same", ",.3f"),
        Column("lag max ms", "greatest of the same", ",.3f"),
        Column("blocked p99 ms", "how long the target did not take a frame, 99th percentile", ",.3f"),
        Column("stood still", "share of the time in which the machine stood still", ".2%"),
        Column("processes", "sender processes", ","),
        Column("claimed", "late frames that the target itself called on time, where it calls any so", ","),
        Column("CPU µs/frame", "CPU time of the target's processes for each frame that was sent", ",.0f"),
        Column("problems", "why the run is invalid, how many reasons", ","),
    )
    rows = []
    for name, run, results in entries:
        lag, blocked = results.lag_ms, results.blocked_ms
        cells = (
            *((lag.p50, lag.p99, lag.p99_9, lag.max) if lag else (None,) * 4),
            blocked.p99 if blocked else None,
            run.stalled,
            run.processes,
            results.claimed_late,
            results.server_cpu_us_per_frame,
            len(results.problems),
        )
        rows.append((name, cells))
    about = (
        "How far the figures above can be trusted: lag is the generator's own fault, a frame is blocked while the "
        "target takes no more, and a machine that stands still stops target and generator alike."
    )
    return Table("The harness itself", about, "run", columns, rows)
