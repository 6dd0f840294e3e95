"""The view of a live run, and its batches, put together from what frames report of theirs: when it was dispatched,
how long until the answer was sent, how many it held.

Frames of one model whose batches have one size and were dispatched at one moment ran together. Targets don't say on
which lane: batches that ran side by side lie in rows, each in the first that is free. What is reported as a batch's end
has the sending of its answers in it, while the lane runs the next one already; where that overlap is small, the batch
ends where the next begins.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from duly_load.report.page import Column
from duly_load.report.view import Batch, OwnTable, RunView
from duly_load.results.measure import LiveResults, outcomes_of
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import Ending, LiveRun

SAME_BATCH_NS = 200_000
"""Frames of one batch report its dispatch, each by its own clock reading, at most so far apart."""
OVERLAP = 0.25
"""Share of a batch's time that may be the sending of its answers."""
LONGEST_NS = 2_000_000_000
"""Batches that began longer before the window are not looked for."""
ENDINGS_MAX = 5
"""The most reasons why streams ended badly that are shown for each run."""


def view_of(name: str, run: LiveRun, results: LiveResults) -> RunView:
    """The run as a report shows it; `name` distinguishes it from others on the page."""
    outcomes, record = outcomes_of(run), run.record
    return RunView(
        name,
        (("Scenario", run.scenario.name), ("Target", run.target), ("Seed", str(run.seed))),
        outcomes,
        results,
        results.batch_size_mean,
        (*((_reasons(results),) if results.reason_ms else ()), _harness(run, results)),
        record.batch_size[outcomes.counted] > 0,
        partial(batches_of, run) if np.any((record.dispatched_ns > 0) & (record.occupied_ns > 0)) else None,
        lag_ns=record.lag_ns[outcomes.counted],
        problems=results.problems,
        notes=tuple(_endings(run.endings)),
    )


def _reasons(results: LiveResults) -> OwnTable:
    reason, left = results.reason_ms, results.reason_left
    return OwnTable(
        "The reason why not",
        "How long a sensor waited to hear from the target that there will be no result, from capture.",
        (
            Column("p50 ms", "median time from capture until the answer", ",.2f"),
            Column("p99 ms", "99th percentile of the same", ",.2f"),
            Column("budget left", "share of the budget that was left then, the median; below 0: too late", ".0%"),
        ),
        (reason.p50 if reason else None, reason.p99 if reason else None, left.p50 if left else None),
    )


def _harness(run: LiveRun, results: LiveResults) -> OwnTable:
    """What the harness itself did, and what the machine did to it."""
    lag, blocked = results.lag_ms, results.blocked_ms
    return OwnTable(
        "The harness itself",
        "How far the figures above can be trusted: lag is the generator's own fault, a frame is blocked while the "
        "target takes no more, and a machine that stands still stops target and generator alike.",
        (
            Column("lag p50 ms", "how late the generator sent, the median", ",.3f"),
            Column("lag p99 ms", "99th percentile of the same", ",.3f"),
            Column("lag p99.9 ms", "99.9th percentile of the same", ",.3f"),
            Column("lag max ms", "greatest of the same", ",.3f"),
            Column("blocked p99 ms", "how long the target did not take a frame, 99th percentile", ",.3f"),
            Column("stood still", "share of the time in which the machine stood still", ".2%"),
            Column("processes", "sender processes", ","),
            Column("claimed", "late frames that the target itself called on time, where it calls any so", ","),
            Column("CPU µs/frame", "CPU time of the target's processes for each frame that was sent", ",.0f"),
            Column("J/frame", "energy that the machine took for each frame that was sent, where it tells", ",.3g"),
            Column("problems", "why the run is invalid, how many reasons", ","),
        ),
        (
            *((lag.p50, lag.p99, lag.p99_9, lag.max) if lag else (None,) * 4),
            blocked.p99 if blocked else None,
            run.stalled,
            run.processes,
            results.claimed_late,
            results.server_cpu_us_per_frame,
            results.joules_per_frame,
            len(results.problems),
        ),
    )


def _endings(endings: Sequence[Ending]) -> list[str]:
    """Streams that were refused or broke off, those that ended alike together."""
    alike: dict[tuple[bool, str], list[Ending]] = {}
    for ending in endings:
        alike.setdefault((ending.refused, ending.reason), []).append(ending)
    lines = []
    for (refused, reason), of in list(alike.items())[:ENDINGS_MAX]:
        names = list(dict.fromkeys(ending.stream for ending in of))
        who = f"stream {names[0]}" if len(names) == 1 else f"{len(names):,} streams, {names[0]} first,"
        what = "not let in" if refused else "broken off"
        lines.append(f"{who} {'was' if len(names) == 1 else 'were'} {what} at {of[0].at_ns / 1e9:.3f} s: {reason}")
    if len(alike) > ENDINGS_MAX:
        lines.append(f"and {len(alike) - ENDINGS_MAX:,} more reasons why streams were not let in or broken off")
    return lines


def batches_of(run: LiveRun, start_ns: int, end_ns: int) -> list[Batch]:
    """The batches that ran between start and end, in order of dispatch, with their rows."""
    record, sessions = run.record, run.schedule.sessions
    began_ns, ended_ns = record.dispatched_ns, record.dispatched_ns + record.occupied_ns
    ran = (record.batch_size > 0) & (record.occupied_ns > 0)
    chosen = np.flatnonzero(ran & (began_ns < end_ns) & (ended_ns > start_ns) & (began_ns > start_ns - LONGEST_NS))
    models = sorted({session.model for session in sessions})
    model_of = np.array([0, *(models.index(session.model) for session in sessions)])[run.schedule.frames.stream_id]
    order = chosen[np.lexsort((began_ns[chosen], record.batch_size[chosen], model_of[chosen]))]
    batches: list[Batch] = []
    last = (-1, -1)
    for index in order.tolist():
        of = (int(model_of[index]), int(record.batch_size[index]))
        late = int(record.outcome[index] == FrameOutcome.LATE)
        at_ns = int(began_ns[index])
        batch = batches[-1] if batches else None
        if batch and of == last and batch.frames < batch.size and at_ns - batch.start_ns <= SAME_BATCH_NS:
            batch.frames += 1
            batch.late += late
            batch.end_ns = max(batch.end_ns, int(ended_ns[index]))
        else:
            batches.append(Batch(0, models[of[0]], of[1], at_ns, int(ended_ns[index]), 1, late))
        last = of
    return _in_rows(sorted(batches, key=lambda batch: batch.start_ns))


def _in_rows(batches: list[Batch]) -> list[Batch]:
    last: list[Batch] = []  # of each row
    for batch in batches:
        for row, before in enumerate(last):
            if before.end_ns - batch.start_ns <= OVERLAP * (before.end_ns - before.start_ns):
                before.end_ns = min(before.end_ns, batch.start_ns)
                batch.lane = row
                last[row] = batch
                break
        else:
            batch.lane = len(last)
            last.append(batch)
    return batches
