"""Frames that take longer than usual ones of their model: which of them may start, and what a batch with them takes.

Theory. What a frame takes beyond a usual one (`Frame.extra_ns`) is known when it comes, from its size. A large frame is
due as much earlier as it takes longer (`waiting`), so that all rules which plan for single frames hold as they are. Two
things are left.

A batch takes the plan for its size, and what each of its frames takes beyond that. So it is cut to those of its first
frames that still meet every deadline in it.

A lane is not preemptive, and what was promised to more critical streams was promised with usual frames in mind: their
proof counts the longest of those as blocking, and nothing else. A larger frame may start only where it ends soon enough
for what more critical streams are expected to send next. Let a stream's next frame be expected one period after its
last, less JITTER_PART of the period, and due its budget later. A run of H now is harmless if

    H + sum of the streams' frames + H * sum of (frame / period) <= the earliest of these due times - now,

the demand bound of `admission/critical_proof` with the phases that were measured. CRITICAL streams count with all their
frames. STANDARD streams were promised less, and count with the longest. Who is not critical enough waits for a gap, and
is SHED where none comes: no rule of a queue could give the lane back once such a frame runs.

Mostly it is the decoding of a picture that takes so long, which needs no lane. A frame that finds no gap is read beside
the lanes by the host, where it can (`apart_ns`), and is a usual one from then on.
"""

from collections.abc import Mapping, Sequence

from duly.core.model_table import ModelTable
from duly.core.state import Batch, StreamState
from duly.core.timing.profile import Plan
from duly.core.types import StreamClass
from duly.core.waiting import Entry, QueuedFrame

JITTER_PART = 8
"""A frame may come so early, as a part of its period."""
UNBOUND_NS = 1 << 60


def blocking_max_ns(
    now_ns: int, stream_class: StreamClass, streams: Mapping[int, StreamState], models: ModelTable
) -> int:
    """Returns for how long a run of frames of that class may block a lane from now on. It may be negative."""
    room_ns, busy = UNBOUND_NS, 1.0
    critical_ns = longest_ns = 0
    for stream in streams.values():
        terms = stream.terms
        if terms.stream_class >= stream_class:
            continue
        critical = terms.stream_class is StreamClass.CRITICAL
        period_ns = terms.period_ns
        if not period_ns and not critical:
            continue  # nothing is known of when it sends, and nothing was promised to it
        frame_ns = models.promised_one_ns(terms.model) + stream.extra_ns
        next_ns = now_ns
        if period_ns:
            busy += frame_ns / period_ns
            if stream.arrived_ns >= 0:
                next_ns = max(now_ns, stream.arrived_ns + period_ns - period_ns // JITTER_PART)
        room_ns = min(room_ns, next_ns + min(terms.budget_ns, stream.left_ns) - now_ns)
        longest_ns = max(longest_ns, frame_ns)
        if critical:
            critical_ns += frame_ns
    return int((room_ns - max(critical_ns, longest_ns)) / busy)


class Startable:
    """Tells which large frames may start now. What it works out holds for one choice."""

    __slots__ = ("_limits_ns", "_models", "_now_ns", "_streams", "to_read")

    def __init__(self, now_ns: int, streams: Mapping[int, StreamState], models: ModelTable) -> None:
        self._now_ns = now_ns
        self._streams = streams
        self._models = models
        self._limits_ns: dict[StreamClass, int] = {}
        self.to_read: list[QueuedFrame] = []
        """Those held back that the host can read beside the lanes."""

    def limit_ns(self, stream_class: StreamClass) -> int:
        """Returns for how long a run of that class with large frames may block its lane."""
        limit_ns = self._limits_ns.get(stream_class)
        if limit_ns is None:
            limit_ns = blocking_max_ns(self._now_ns, stream_class, self._streams, self._models)
            self._limits_ns[stream_class] = limit_ns
        return limit_ns

    def of(self, lists: list[list[Entry]], plan: Plan) -> list[list[Entry]]:
        """Returns the entries without those that are being read, and those that must wait for a gap, which are noted
        as held back.
        """
        startable: list[list[Entry]] = []
        for entries in lists:
            kept: list[Entry] = []
            for entry in entries:
                queued = entry[2]
                if queued.reading:
                    continue
                if queued.extra_ns:
                    planned_ns = plan.plan_ns[1] + queued.extra_ns
                    queued.held_back = planned_ns > self.limit_ns(queued.stream_class)
                if not queued.held_back:
                    kept.append(entry)
                elif queued.apart_ns:
                    self.to_read.append(queued)
            startable.append(kept)
        return startable


def extra_ns(entries: Sequence[Entry]) -> int:
    """Returns what these frames take together beyond usual ones."""
    return sum([entry[2].extra_ns for entry in entries])


def fitted(now_ns: int, batch: Batch, plan: Plan, cap_ns: int, startable: Startable) -> Batch:
    """Returns the batch with what its large frames take planned, cut to so many of its first frames that all of them
    are still in time, and that it blocks its lane for no longer than it may. The first frame stays in any case.
    """
    frames = batch.frames
    most_critical = min([queued.stream_class for queued in frames])
    limit_ns = min(cap_ns, startable.limit_ns(most_critical))
    total_ns = frames[0].extra_ns
    until_ns = frames[0].frame.deadline_ns
    fit = 1
    for size in range(2, len(frames) + 1):
        queued = frames[size - 1]
        total_ns += queued.extra_ns
        until_ns = min(until_ns, queued.frame.deadline_ns)
        planned_ns = plan.plan_ns[size] + total_ns
        if total_ns and (now_ns + planned_ns > until_ns or planned_ns > limit_ns):
            break
        fit = size
    size = fit if fit == len(frames) else plan.largest_efficient(fit)
    kept = frames[:size]
    planned_ns = plan.plan_ns[size] + sum([queued.extra_ns for queued in kept])
    return Batch(batch.variant, kept, planned_ns, by_overload=batch.by_overload, probe=batch.probe)
