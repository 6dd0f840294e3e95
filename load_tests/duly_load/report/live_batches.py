"""Batches of a live run, put together from what frames were told of theirs: when it was dispatched, how long until the
answer was sent, how many it held.

Frames of one model whose batches have one size and were dispatched at one moment ran together. Targets don't say on
which lane: batches that ran side by side lie in rows, each in the first that is free. What is told of a batch's end has
the sending of its answers in it, while the lane runs the next one already; where that overlap is small, the batch ends
where the next begins.
"""

from dataclasses import dataclass

import numpy as np

from duly_load.report.lanes import LANES_MAX, LanePanel
from duly_load.report.window import BATCHES_MAX, given_up_ms
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import LiveRun

SAME_BATCH_NS = 200_000
"""Frames of one batch tell of its dispatch, each by its own clock reading, at most so far apart."""
OVERLAP = 0.25
"""Share of a batch's time that may be the sending of its answers."""
LONGEST_NS = 2_000_000_000
"""Batches that began longer before the window are not looked for."""


@dataclass(slots=True)
class Batch:
    model: str
    size: int
    """As told; frames that were never answered are missing from `frames`."""
    start_ns: int
    """Since the schedule's zero."""
    end_ns: int
    frames: int
    late: int
    row: int = 0


def tells(run: LiveRun) -> bool:
    """Whether the target told when batches were dispatched."""
    return bool(np.any((run.record.dispatched_ns > 0) & (run.record.occupied_ns > 0)))


def batches_of(run: LiveRun, start_ns: int, end_ns: int) -> list[Batch]:
    """Those that ran between start and end, in order of dispatch, with their rows."""
    record, sessions = run.record, run.schedule.sessions
    began_ns, ended_ns = record.dispatched_ns, record.dispatched_ns + record.occupied_ns
    ran = (record.batch_size > 0) & (record.occupied_ns > 0)
    chosen = np.flatnonzero(ran & (began_ns < end_ns) & (ended_ns > start_ns) & (began_ns > start_ns - LONGEST_NS))
    models = sorted({session.model for session in sessions})
    model_of = np.array([0, *(models.index(session.model) for session in sessions)])[run.schedule.frames.stream_id]
    order = chosen[np.lexsort((began_ns[chosen], record.batch_size[chosen], model_of[chosen]))]
    batches: list[Batch] = []
    last = (-1, -1)
    for nth in order.tolist():
        of = (int(model_of[nth]), int(record.batch_size[nth]))
        late = int(record.outcome[nth] == FrameOutcome.LATE)
        at_ns = int(began_ns[nth])
        batch = batches[-1] if batches else None
        if batch and of == last and batch.frames < batch.size and at_ns - batch.start_ns <= SAME_BATCH_NS:
            batch.frames += 1
            batch.late += late
            batch.end_ns = max(batch.end_ns, int(ended_ns[nth]))
        else:
            batches.append(Batch(models[of[0]], of[1], at_ns, int(ended_ns[nth]), 1, late))
        last = of
    return _in_rows(sorted(batches, key=lambda batch: batch.start_ns))


def _in_rows(batches: list[Batch]) -> list[Batch]:
    last: list[Batch] = []
    """Of each row."""
    for batch in batches:
        for row, before in enumerate(last):
            if before.end_ns - batch.start_ns <= OVERLAP * (before.end_ns - before.start_ns):
                before.end_ns = min(before.end_ns, batch.start_ns)
                batch.row = row
                last[row] = batch
                break
        else:
            batch.row = len(last)
            last.append(batch)
    return batches


def readable(batches: list[Batch], start_ns: int, width_ns: int) -> bool:
    """Whether no row began more batches within the window than can be told apart."""
    began = [batch.row for batch in batches if start_ns <= batch.start_ns < start_ns + width_ns]
    return max(np.bincount(np.array(began, np.int64)).tolist(), default=0) <= BATCHES_MAX


def lane_panel(name: str, run: LiveRun, batches: list[Batch], start_ns: int, width_ns: int) -> LanePanel:
    """What is to be drawn of the batches and of the frames that never ran; at most `LANES_MAX` rows."""
    end_ns = start_ns + width_ns
    shown = [
        batch
        for batch in batches
        if batch.row < LANES_MAX and batch.start_ns < end_ns and batch.end_ns > max(start_ns, batch.start_ns)
    ]
    rows = [f"row {row + 1}" for row in range(max((batch.row for batch in shown), default=0) + 1)]
    record = run.record
    answered_ns = run.schedule.captures_ns + record.latency_ns
    return LanePanel(
        name,
        rows,
        [rows[batch.row] for batch in shown],
        [batch.model for batch in shown],
        [batch.size for batch in shown],
        [(batch.start_ns - start_ns) / 1e6 for batch in shown],
        [(batch.end_ns - start_ns) / 1e6 for batch in shown],
        [batch.late for batch in shown],
        [False] * len(shown),
        [_text(batch) for batch in shown],
        given_up_ms(
            answered_ns, record.outcome, (record.batch_size == 0) & (record.latency_ns > 0), start_ns, width_ns
        ),
    )


def _text(batch: Batch) -> str:
    took = f"took {(batch.end_ns - batch.start_ns) / 1e6:.2f} ms"
    return f"{took}, {batch.late} late" if batch.late else took
