"""Frames that run in spare time only, and never at the expense of any other frame.

A stream whose terms say `spare` is the host's own: nobody waits for its frames. It is in no account of the ledger, so
that it counts for no advice, no admission, no cap and no fairness, and what its runs take teaches the lane's profiles
nothing. Of each such stream one frame waits, the newest, until it is due.

Theory. A run cannot be interrupted, so that one which delays nobody has to end before anybody else sends. Such a frame
starts only on a lane that is free while nothing at all waits, and only where its run ends before the next frame of any
open stream is expected:

    after its last frame, in as long as its stated period or the shortest of its last gaps, whichever is less,
    and 1/JITTER_PART of that sooner.

The shortest of recent gaps is what a regular sender never undercuts by much, and next to nothing for an irregular one.
Where that leaves too little time, a frame may come at any moment, and nothing is certain. A run then takes no more than
1/BUDGET_PART of the stream's budget, so that a frame which does come meanwhile can still be in time, and begins only
where that is improbable:

    of a regular stream, or one with a stated period, that is overdue: once it has been silent for OVERDUE_GAPS of its
        gaps and RARE times as long as the run, as who has been silent for long mostly stays so for a while,
    of an irregular stream: once it has been silent for LULL times as long as the run, and if its mean gap is RARE
        times as long; or once it has been silent for as long as that,
    of one of which fewer than GAPS gaps are known, and of streams yet to come: after RARE times as long as the run.

What a run takes is what the variant is planned to take alone, or the longest of the stream's last runs, if that is
more, and 1/MARGIN_PART on top. A long run that was an accident would keep all others from running that could show it:
so it counts for LONGEST_NS at most.
"""

from collections.abc import Mapping

from duly.core import fates
from duly.core.events import Action, BatchFinished, ResolveFrame
from duly.core.fates import Fate
from duly.core.lanes import Lanes
from duly.core.model_table import ModelTable
from duly.core.state import Batch, VariantState
from duly.core.timing.arrival_rate import ArrivalGap
from duly.core.types import Frame, StreamClass, StreamTerms
from duly.core.waiting import QueuedFrame

GAPS = 16
"""So many gaps of a stream must be known; the shortest of the last GAPS to 2 * GAPS counts."""
RUNS = 16
"""The longest of the last RUNS to 2 * RUNS runs counts."""
LONGEST_NS = 2_000_000_000
JITTER_PART = 8
RARE = 32
LULL = 8
OVERDUE_GAPS = 4
BUDGET_PART = 4
MARGIN_PART = 8
REGULAR = 2
"""A stream is regular where its mean gap is no longer than so many times its shortest one."""
LOOK_NS_EACH = 2_000
"""Looking for a gap takes longer, the more streams are open. After a look in vain the next one comes so much later for
each of them, which keeps what looking costs to a few percent of the host's time."""
NEVER_NS = 1 << 64


class Rhythm:
    """When a stream, or any new one, sends next."""

    __slots__ = ("_before_ns", "_budget_ns", "_gaps", "_last_ns", "_mean", "_period_ns", "_shortest_ns")

    def __init__(self, now_ns: int, period_ns: int, budget_ns: int) -> None:
        """`period_ns` as stated; 0: it is not. `budget_ns`: 0 where that is not known."""
        self._last_ns = now_ns
        self._period_ns = period_ns
        self._budget_ns = budget_ns
        self._gaps = 0
        self._mean = ArrivalGap()
        self._shortest_ns = NEVER_NS
        """The shortest of the last gaps, of GAPS at most."""
        self._before_ns = NEVER_NS
        """The shortest of the GAPS gaps before these."""

    def came(self, now_ns: int) -> None:
        """Notes a frame. Those that come together count as one."""
        gap_ns = now_ns - self._last_ns
        if not gap_ns:
            return
        self._last_ns = now_ns
        self._mean.arrived(now_ns)
        if self._gaps and self._gaps % GAPS == 0:
            self._before_ns, self._shortest_ns = self._shortest_ns, NEVER_NS
        self._shortest_ns = min(self._shortest_ns, gap_ns)
        self._gaps += 1

    def from_ns(self, now_ns: int, needed_ns: int) -> int:
        """Returns from when on a run that needs so long may start for the stream's sake, unless a frame of it comes
        before: now or later; NEVER_NS: not at all.
        """
        gap_ns, mean_ns, period_ns = NEVER_NS, 0, self._period_ns
        if self._gaps >= GAPS:
            gap_ns, mean_ns = min(self._shortest_ns, self._before_ns), int(self._mean.gap_ns)
        if period_ns:
            gap_ns = min(gap_ns, period_ns)
        if gap_ns < NEVER_NS and now_ns + needed_ns <= self._last_ns + gap_ns - gap_ns // JITTER_PART:
            return now_ns
        if 0 < self._budget_ns < BUDGET_PART * needed_ns:
            return NEVER_NS
        silent_ns = RARE * needed_ns
        if period_ns or (mean_ns and mean_ns <= REGULAR * gap_ns):
            silent_ns = max(silent_ns, OVERDUE_GAPS * max(mean_ns, period_ns))
        elif silent_ns <= mean_ns:
            silent_ns = LULL * needed_ns
        return max(now_ns, self._last_ns + silent_ns)


class SpareStream:
    """A stream whose frames run in spare time only."""

    __slots__ = ("_before_ns", "_longest_ns", "_runs", "ran_ns", "terms", "waiting")

    def __init__(self, terms: StreamTerms) -> None:
        self.terms = terms
        self.waiting: QueuedFrame | None = None
        self.ran_ns = -1
        """When its last run began; -1: none has."""
        self._runs = self._longest_ns = self._before_ns = 0

    def took(self, ns: int) -> None:
        """Notes what a run took."""
        if self._runs and self._runs % RUNS == 0:
            self._before_ns, self._longest_ns = self._longest_ns, 0
        self._longest_ns = max(self._longest_ns, ns)
        self._runs += 1

    def needed_ns(self, now_ns: int, variant: VariantState, lane: str, extra_ns: int) -> int:
        """Returns what a frame of it needs on that lane, with a margin."""
        if now_ns - self.ran_ns > LONGEST_NS:
            self._longest_ns = self._before_ns = 0
        profile = variant.profiles[lane]
        planned_ns = max(profile.plan_ns[1], profile.one_ns_max) + extra_ns
        planned_ns = max(planned_ns, self._longest_ns, self._before_ns)
        return planned_ns + planned_ns // MARGIN_PART


class SpareTime:
    __slots__ = ("_actions", "_gap_ns", "_lanes", "_look_ns", "_models", "_newcomers", "_rhythms", "streams", "waiting")

    def __init__(self, models: ModelTable, lanes: Lanes, actions: list[Action]) -> None:
        """`actions`: what the host is to do, in this order; the outcomes are added to it."""
        self._models = models
        self._lanes = lanes
        self._actions = actions
        self.streams: dict[int, SpareStream] = {}
        self.waiting = 0
        """How many frames wait."""
        self._rhythms: dict[int, Rhythm] = {}
        """Of every other open stream, by its id, as long as `streams` is not empty."""
        self._newcomers = Rhythm(0, 0, 0)
        """When new streams come."""
        self._look_ns = 0
        """No gap is looked for before."""
        self._gap_ns = NEVER_NS
        """When a frame that waits may find time, unless anybody sends before."""

    # ---- streams ----

    def opened(self, now_ns: int, stream_id: int, terms: StreamTerms, others: Mapping[int, StreamTerms]) -> None:
        """Adds a stream. `others`: the terms of those that are open and are none of spare time."""
        if not self.streams:
            self._newcomers = Rhythm(now_ns, 0, 0)
            for other_id, other in others.items():
                self._rhythms[other_id] = Rhythm(now_ns, other.period_ns, other.budget_ns)
        self.streams[stream_id] = SpareStream(terms)

    def other_opened(self, now_ns: int, stream_id: int, terms: StreamTerms) -> None:
        if self.streams:
            self._newcomers.came(now_ns)
            self._rhythms[stream_id] = Rhythm(now_ns, terms.period_ns, terms.budget_ns)

    def closed(self, stream_id: int) -> None:
        """Ends the stream, or forgets another one. What waits of it is CANCELLED."""
        stream = self.streams.get(stream_id)
        if stream is None:
            self._rhythms.pop(stream_id, None)
            return
        self._end_waiting(stream, fates.CLOSED_WAITING)
        del self.streams[stream_id]
        if not self.streams:
            self._rhythms.clear()

    # ---- frames ----

    def arrived(self, now_ns: int, came: list[Frame], draining: bool) -> list[Frame]:
        """Takes the frames that are for spare time, and returns the others."""
        others: list[Frame] = []
        for frame in came:
            stream = self.streams.get(frame.stream_id)
            if stream is None:
                rhythm = self._rhythms.get(frame.stream_id)
                if rhythm is not None:
                    rhythm.came(now_ns)
                others.append(frame)
                continue
            model = self._models.by_name.get(frame.model)
            if draining:
                self._answer(frame, fates.CAME_WHILE_DRAINING)
            elif model is None:
                self._answer(frame, fates.MODEL_NOT_LOADED, fates.MODEL_NOT_LOADED.says(model=frame.model))
            elif any([variant.stateful for variant in model.variants.values()]):
                self._answer(frame, fates.SPARE_STATE)
            else:
                self._end_waiting(stream, fates.SPARE_OUTRUN)
                stream.waiting = QueuedFrame(frame, StreamClass.BEST_EFFORT, now_ns)
                self.waiting += 1
        return others

    def settle(self, now_ns: int, may_run: bool) -> None:
        """Ends what is overdue, and starts frames on free lanes as far as there is time. `may_run`: whether a lane is
        free and nothing else waits. Call it once in each step in which a frame waits.
        """
        for stream in self.streams.values():
            if stream.waiting is not None and stream.waiting.frame.deadline_ns < now_ns:
                self._end_waiting(stream, fates.NO_SPARE_TIME)
        self._gap_ns = NEVER_NS
        if not may_run or not self.waiting:
            return
        if now_ns < self._look_ns:
            self._gap_ns = self._look_ns
            return
        for stream in sorted(self.streams.values(), key=_ran_ns):
            if stream.waiting is not None:
                self._try(now_ns, stream, stream.waiting)
        self._look_ns = now_ns + LOOK_NS_EACH * len(self._rhythms)
        self._gap_ns = max(self._gap_ns, self._look_ns)

    def _try(self, now_ns: int, stream: SpareStream, queued: QueuedFrame) -> None:
        """Starts the frame on a lane where there is time, or notes when there may be."""
        for lane in self._lanes.up:
            variant = self._variant(queued.frame.model, lane)
            if variant is None or not self._lanes.is_free(lane):
                continue
            start_ns = self._from_ns(now_ns, stream.needed_ns(now_ns, variant, lane, queued.extra_ns))
            if start_ns <= now_ns:
                stream.waiting, stream.ran_ns = None, now_ns
                self.waiting -= 1
                planned_ns = variant.profiles[lane].plan_ns[1] + queued.extra_ns
                self._lanes.start(now_ns, lane, Batch(variant, [queued], planned_ns, spare=True))
                return
            self._gap_ns = min(self._gap_ns, start_ns)

    def finished(self, now_ns: int, batch: Batch, event: BatchFinished) -> None:
        frame = batch.frames[0].frame
        stream = self.streams.get(frame.stream_id)
        if frame.seq in event.invalid:
            self._answer(frame, fates.NOT_READABLE, event.invalid[frame.seq], batch)
        elif frame.seq in event.failed:
            self._answer(frame, fates.MODEL_FAILED, event.failed[frame.seq], batch)
        elif stream is None:
            self._answer(frame, fates.CLOSED_RUNNING, batch=batch)
        else:
            stream.took(now_ns - batch.started_ns)
            self._answer(frame, fates.IN_TIME if now_ns <= frame.deadline_ns else fates.RAN_LATE, batch=batch)

    def failed(self, batch: Batch, reason: str) -> None:
        self._answer(batch.frames[0].frame, fates.BATCH_LOST, reason, batch)

    def unloaded(self, name: str, reason: str) -> None:
        """Ends what waits for a model that is unloaded."""
        for stream in self.streams.values():
            if stream.waiting is not None and stream.waiting.frame.model == name:
                self._end_waiting(stream, fates.MODEL_UNLOADED, reason)

    def end_all(self) -> None:
        """Ends everything that waits, as the server drains."""
        for stream in self.streams.values():
            self._end_waiting(stream, fates.NO_SPARE_TIME)

    def wake_ns(self) -> int | None:
        """Returns when a frame that waits is overdue, or may find time; None: none waits."""
        due_ns = [stream.waiting.frame.deadline_ns + 1 for stream in self.streams.values() if stream.waiting]
        return min([*due_ns, self._gap_ns]) if due_ns else None

    def _from_ns(self, now_ns: int, needed_ns: int) -> int:
        """From when on a run that needs so long may start; NEVER_NS: not as long as nobody sends."""
        from_ns = self._newcomers.from_ns(now_ns, needed_ns)
        for rhythm in self._rhythms.values():
            if from_ns == NEVER_NS:
                break
            from_ns = max(from_ns, rhythm.from_ns(now_ns, needed_ns))
        return from_ns

    def _variant(self, name: str, lane: str) -> VariantState | None:
        """The most accurate variant that the lane serves; None: it serves none."""
        model = self._models.by_name.get(name)
        for variant in model.variants.values() if model is not None else ():
            if lane in variant.profiles:
                return variant
        return None

    def _end_waiting(self, stream: SpareStream, fate: Fate, reason: str | None = None) -> None:
        queued, stream.waiting = stream.waiting, None
        if queued is not None:
            self.waiting -= 1
            self._answer(queued.frame, fate, reason)

    def _answer(self, frame: Frame, fate: Fate, reason: str | None = None, batch: Batch | None = None) -> None:
        """Answers a frame. Without `reason` it gets the wording of the fate, which must have nothing to fill in."""
        batch_id = batch.batch_id if batch is not None else 0
        said = fate.wording if reason is None else reason
        self._actions.append(ResolveFrame(frame, fate.status, said, batch_id, int(batch is not None)))


def _ran_ns(stream: SpareStream) -> int:
    return stream.ran_ns
