"""The accounts of streams and their frames: every frame gets exactly one outcome.

Theory of operation. A frame is waiting or running, never both, and it leaves either state through `_answer` alone;
`finished` does the same in place for most results, to save time. `fates` has every way in which a frame can end, as a
table; `docs/fates.md` draws it.

Streams of stateful models are pinned to one lane, where the worker keeps their state. They run at most one frame at a
time, the oldest that waits. A frame that is not run leaves a gap. By the terms of the stream the frames behind it go
on, start the state anew, or are SKIPPED. Another version of the model is such a gap, unless it takes the state over.
"""

from bisect import bisect_left, insort
from collections import Counter

from duly.core import fates
from duly.core.backlog import keeps_all, superseded
from duly.core.events import (
    Action,
    Advice,
    AdviseStream,
    BatchFinished,
    FrameRead,
    FramesCancelled,
    FramesTurnedOut,
    ReadApart,
    ResolveFrame,
    StreamOpened,
)
from duly.core.fates import RESULTS, Fate
from duly.core.merit import FRESHNESS_MAX, Merit, Principals
from duly.core.model_table import ModelTable, rescuer, variant_for
from duly.core.policing import Policer
from duly.core.state import Batch, StreamState, VariantState
from duly.core.types import Frame, GapPolicy, JointFrame, OutcomeStatus, StreamClass, StreamTerms, in_ms
from duly.core.waiting import QueuedFrame

EXTRA_FRAMES = 8
"""How much a stream's frames take beyond usual ones falls by one part of so many with each frame that takes less."""


class FrameLedger:
    __slots__ = (
        "_actions",
        "_budgets_ns",
        "_models",
        "_principals",
        "critical_missed_ns",
        "demoted",
        "draining",
        "drop_ns",
        "floors",
        "models_open",
        "queued_variants",
        "streams",
        "waiting",
    )

    def __init__(self, served: ModelTable, actions: list[Action]) -> None:
        """`actions`: what the host is to do, in this order; the ledger adds the outcomes."""
        self._models = served
        self._actions = actions
        self.streams: dict[int, StreamState] = {}
        self.waiting = 0
        """How many frames wait for all models together."""
        self.queued_variants: list[VariantState] = []
        """Variants that have waiting frames, in the order of `ModelTable.variants`. `choose` reads this very list."""
        self.drop_ns: int | None = None
        """No waiting frame is doomed before this time; None: no frame waits."""
        self.draining = False
        """Whether the server drains, so that new frames are SHED."""
        self.critical_missed_ns: int | None = None
        """When a CRITICAL frame was last missed; None: never."""
        self.floors = 0
        """How many open streams have a floor."""
        self.models_open: Counter[str] = Counter()
        """How many streams are open, by the model that they were opened for."""
        self._budgets_ns: dict[StreamClass, list[int]] = {stream_class: [] for stream_class in StreamClass}
        """The budgets of the open streams by class, in ascending order."""
        self.demoted: Counter[str] = Counter()
        """How many frames came faster than their streams' stated periods, by model."""
        self._principals = Principals()

    # ---- streams ----

    def opened(self, event: StreamOpened) -> None:
        self.streams[event.stream_id] = StreamState(event.terms)
        self._count_terms(event.terms)

    def closed(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._end_waiting(stream, fates.CLOSED_WAITING)
            del self.streams[stream_id]
            self._discount_terms(stream.terms)

    def changed(self, stream_id: int, terms: StreamTerms) -> None:
        """Goes on with a stream on other terms, as that of a fusion group, whose members come and go. None of its
        frames may wait. Where it has another gap policy, a gap before counts no more.
        """
        stream = self.streams[stream_id]
        if terms == stream.terms:
            return
        stream.gap &= stream.terms.gap is terms.gap
        self._discount_terms(stream.terms)
        self._count_terms(terms)
        stream.terms, stream.merit, stream.policer = terms, Merit(terms), Policer(terms)

    def _count_terms(self, terms: StreamTerms) -> None:
        insort(self._budgets_ns[terms.stream_class], terms.budget_ns)
        self.floors += terms.floor_window > 0
        self.models_open[terms.model] += 1

    def _discount_terms(self, terms: StreamTerms) -> None:
        budgets_ns = self._budgets_ns[terms.stream_class]
        del budgets_ns[bisect_left(budgets_ns, terms.budget_ns)]
        self.floors -= terms.floor_window > 0
        self.models_open[terms.model] -= 1
        if not self.models_open[terms.model]:
            del self.models_open[terms.model]

    def refused(self, stream_id: int) -> None:
        """Notes that the host answered a frame of the stream itself, which leaves a gap in a stateful stream."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.terms.gap is not None:
            stream.gap = True

    def tightest_ns(self) -> dict[StreamClass, int]:
        """Returns the smallest budget of each class that has open streams."""
        return {stream_class: budgets_ns[0] for stream_class, budgets_ns in self._budgets_ns.items() if budgets_ns}

    # ---- frames that come and wait ----

    def arrived(self, now_ns: int, frame: Frame) -> tuple[QueuedFrame, VariantState] | None:
        """Takes in a frame. Returns it with the variant that it is for, or None where it has its answer. The caller
        must let it `wait`, run it, or `drop` it where no lane can serve it in time by its plan.
        """
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            self._answer(None, frame, fates.CAME_AFTER_CLOSE.status, fates.CAME_AFTER_CLOSE.wording)
            return None
        terms = stream.terms
        if stream.policer.conforms(now_ns):
            queued = QueuedFrame(frame, terms.stream_class, now_ns)
        else:
            queued = self._demoted(now_ns, stream, frame)
        if terms.gap is not None:
            if frame.model != stream.model and (stream.home is not None or stream.waiting):
                # Unless it takes the state over, another version goes on without what the one before remembers.
                stream.gap |= not self._models.hands_over(stream.model, frame.model)
            queued.resets_state = stream.gap and terms.gap is GapPolicy.RESET
            stream.gap = stream.gap and terms.gap is GapPolicy.SKIP
        stream.unanswered += 1
        stream.arrived_ns = now_ns
        stream.left_ns = frame.deadline_ns - now_ns
        if frame.extra_ns or stream.extra_ns:
            stream.extra_ns = max(frame.extra_ns, stream.extra_ns - stream.extra_ns // EXTRA_FRAMES - 1)
        stream.pace.arrived += 1
        stream.model = frame.model
        model = self._models.by_name.get(frame.model)
        if self.draining:
            self._end(now_ns, stream, queued, fates.CAME_WHILE_DRAINING)
        elif model is None:
            reason = fates.MODEL_NOT_LOADED.says(model=frame.model)
            self._end(now_ns, stream, queued, fates.MODEL_NOT_LOADED, reason)
        elif stream.unanswered > terms.frames_in_flight_max:
            reason = fates.OVER_CREDIT.says(frames_max=terms.frames_in_flight_max)
            self._end(now_ns, stream, queued, fates.OVER_CREDIT, reason)
        elif stream.gap and terms.gap is not None:
            self._end(now_ns, stream, queued, fates.BEHIND_GAP)
        else:
            if self._models.has_variants:
                model.arrived[terms.stream_class] += 1
            variant = model.only or variant_for(now_ns, queued, model, terms)
            queued.rank = variant.rank
            variant.arrivals.arrived(now_ns)
            return queued, variant
        return None

    def _demoted(self, now_ns: int, stream: StreamState, frame: Frame) -> QueuedFrame:
        """Lets a frame that came faster than its stream's stated period count as BEST_EFFORT. Its stream is told."""
        self.demoted[frame.model] += 1
        terms = stream.terms
        knows = stream.pace.period_ns > terms.period_ns  # it was told something slower
        if terms.advise and terms.gap is None and not self.draining and not knows and stream.policer.tells(now_ns):
            reason = f"frames come faster than the stated period of {in_ms(terms.period_ns)} and count as BEST_EFFORT"
            self._actions.append(AdviseStream(frame.stream_id, Advice.SLOW_DOWN, reason, terms.period_ns))
        return QueuedFrame(frame, StreamClass.BEST_EFFORT, now_ns)

    def wait(self, now_ns: int, queued: QueuedFrame, variant: VariantState) -> None:
        """Lets a frame that has just arrived wait for that variant. It may take the place of an older one."""
        frame = queued.frame
        stream = self.streams[frame.stream_id]
        stream.waiting[frame.frame_id] = queued
        self._enter(stream, queued, variant)
        oldest = superseded(stream)
        if oldest is not None:
            self._withdraw(now_ns, stream, oldest, *_superseded_by(frame))

    def overdue(self, now_ns: int) -> list[tuple[QueuedFrame, VariantState]]:
        """Returns the waiting frames whose latest start has passed, with the variants that they wait for."""
        return [
            (queued, variant)
            for variant in self.queued_variants
            for queued in variant.waiting.due_before(now_ns + variant.single_plan_ns_min)
        ]

    def rescue(self, now_ns: int, queued: QueuedFrame, variant: VariantState) -> bool:
        """Moves an overdue frame that waits for `variant` to a faster one, where it keeps its place in the stream.
        Returns False where none is fast enough.
        """
        frame = queued.frame
        terms = self.streams[frame.stream_id].terms
        faster = rescuer(now_ns, queued, self._models.by_name[frame.model], terms)
        if faster is not None:
            self._move(queued, variant, faster)
        return faster is not None

    def remove(self, queued: QueuedFrame) -> bool:
        """Takes an overdue frame out of its queue. The caller must `drop` it or run it all the same. Returns False
        where it waits no more, since it was SKIPPED along with one before it.
        """
        stream = self.streams[queued.frame.stream_id]
        waits = queued.frame.frame_id in stream.waiting
        if waits:
            self._unwait(stream, queued)
        return waits

    def requeue(self, now_ns: int, name: str) -> None:
        """Moves frames of the model whose variant no lane serves any more to a variant that a lane serves, if any."""
        model = self._models.by_name[name]
        for variant in model.variants.values():
            if not variant.profiles:
                for queued in list(variant.waiting):
                    other = variant_for(now_ns, queued, model, self.streams[queued.frame.stream_id].terms)
                    if other is not variant and other.profiles:
                        self._move(queued, variant, other)

    def _move(self, queued: QueuedFrame, variant: VariantState, other: VariantState) -> None:
        variant.waiting.remove(queued)
        self._leave_queue(variant)
        queued.rank = other.rank
        self._enter_queue(other)
        other.waiting.add(queued)

    def drop(self, now_ns: int, queued: QueuedFrame, variant: VariantState) -> None:
        """Ends a doomed frame that is in no queue."""
        frame = queued.frame
        outranked_ns = variant.outranked_ns[queued.stream_class]
        planned_ns = variant.single_plan_ns_min and variant.single_plan_ns_min + queued.extra_ns
        if queued.held_back:
            needed_ns = variant.single_plan_ns_min + queued.frame.extra_ns
            fate, reason = fates.WOULD_BLOCK, fates.WOULD_BLOCK.says(needed=in_ms(needed_ns))
        else:
            fate, reason = fates.of_doomed(
                now_ns, frame.deadline_ns, queued.arrived_ns, planned_ns, outranked_ns, variant.passed_over_ns
            )
        stream = self.streams[frame.stream_id]
        if fate.missed and queued.stream_class is not stream.terms.stream_class:
            fate, reason = fates.UNPROMISED, fates.UNPROMISED.says(period=in_ms(stream.terms.period_ns))
        self._end(now_ns, stream, queued, fate, reason)

    def plan_drop(self) -> None:
        """Works out `drop_ns` again. Call it after plans have changed or frames were dropped."""
        self.drop_ns = None
        for variant in self.queued_variants:
            due_ns = variant.waiting.due_first_ns()
            assert due_ns is not None
            self._drop_by(due_ns, variant)

    def cancelled(self, now_ns: int, event: FramesCancelled) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            for frame_id in event.frame_ids:
                queued = stream.waiting.get(frame_id)
                if queued is not None:
                    self._withdraw(now_ns, stream, queued, fates.WITHDRAWN, fates.WITHDRAWN.wording)

    def evicted(self, now_ns: int, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            for queued in list(stream.waiting.values()):
                self._withdraw(now_ns, stream, queued, fates.EVICTED, fates.EVICTED.wording)

    def read_apart(self, found: list[QueuedFrame]) -> None:
        """Has the host read these frames beside the lanes; until then none of them may start. `found`, which is
        emptied, may name a frame several times.
        """
        for queued in found:
            stream = self.streams.get(queued.frame.stream_id)
            if not queued.apart_ns or stream is None or stream.waiting.get(queued.frame.frame_id) is not queued:
                continue
            self._note_read(queued, True, queued.extra_ns - queued.apart_ns)
            queued.apart_ns = 0
            self._actions.append(ReadApart(queued.frame))
        found.clear()

    def was_read(self, now_ns: int, event: FrameRead) -> None:
        """Lets a frame start that was read beside the lanes, or could not be, if it still waits."""
        stream = self.streams.get(event.stream_id)
        queued = stream.waiting.get(event.frame_id) if stream is not None else None
        if stream is None or queued is None or not queued.reading:
            return
        variant = self._note_read(queued, False, event.extra_ns)
        self._drop_by(queued.due_ns, variant)
        if event.invalid:
            self._withdraw(now_ns, stream, queued, fates.NOT_READABLE_APART, event.invalid)
        elif event.failed:
            self._withdraw(now_ns, stream, queued, fates.READING_FAILED, event.failed)

    def end_all_waiting(self) -> None:
        """Ends every frame that waits, as the drain is over."""
        for stream in self.streams.values():
            self._end_waiting(stream, fates.DRAIN_OVER)

    def unloaded(self, now_ns: int, name: str, reason: str) -> None:
        """Ends every frame that waits for a model which is about to be unloaded."""
        self.demoted.pop(name, None)
        for variant in self._models.by_name[name].variants.values():
            for queued in list(variant.waiting):
                stream = self.streams[queued.frame.stream_id]
                self._withdraw(now_ns, stream, queued, fates.MODEL_UNLOADED, reason)

    def state_lost(self, name: str, lane: str | None) -> None:
        """Notes that the worker of the model on that lane, or on every lane where `lane` is None, is gone with the
        state that it kept for streams. Whatever runs next for these streams starts anew, on any lane.
        """
        for stream in self.streams.values():
            if stream.home is not None and stream.home[0] == name and lane in (None, stream.home[1]):
                stream.home, stream.state_lost = None, True
                if stream.terms.gap is GapPolicy.SKIP:
                    stream.gap = True
                    self._end_waiting(stream, fates.GAP_BEFORE)

    # ---- frames that run ----

    def take(self, batch: Batch) -> None:
        """Takes the frames of the batch out of their queue."""
        frames = batch.frames
        batch.variant.waiting.take(frames)
        self._leave_queue(batch.variant)
        self.waiting -= len(frames)
        for queued in frames:
            frame = queued.frame
            stream = self.streams[frame.stream_id]
            del stream.waiting[frame.frame_id]
            if not frame.must_run:
                stream.supersedable -= 1

    def started(self, now_ns: int, lane: str, batch: Batch) -> None:
        """Charges the lane time of a batch to the principals of its frames. If the model keeps state, it pins their
        streams to the lane.
        """
        frames = batch.frames
        share_ns = (batch.planned_ns - sum([queued.extra_ns for queued in frames])) / len(frames)
        charged_ns = 0.0
        principal = self.streams[frames[0].frame.stream_id].terms.principal
        for queued in frames:
            stream = self.streams[queued.frame.stream_id]
            whose = stream.terms.principal
            if whose != principal:
                self._principals.served(now_ns, principal, charged_ns)
                principal, charged_ns = whose, 0.0
            charged_ns += share_ns + queued.extra_ns
            if batch.variant.stateful:
                stream.running += 1
                home = batch.variant.model, lane
                if not queued.resets_state and stream.moves_to(batch.variant):
                    queued.moves_from = stream.home
                else:
                    queued.resets_state |= stream.state_lost or stream.home not in (None, home)
                stream.home, stream.home_layout, stream.state_lost = home, batch.variant.state_layout, False
        self._principals.served(now_ns, principal, charged_ns)

    def ended(self, batch: Batch) -> None:
        """Notes that the frames of a batch of a stateful model run no more. Their outcomes follow."""
        for queued in batch.frames:
            stream = self.streams.get(queued.frame.stream_id)
            if stream is not None:
                stream.running -= 1

    def finished(self, now_ns: int, batch: Batch, event: BatchFinished) -> None:
        batch_id, size = batch.batch_id, len(batch.frames)
        for queued in batch.frames:
            frame = queued.frame
            stream = self.streams.get(frame.stream_id)
            if frame.seq in event.invalid:
                fate, reason = fates.NOT_READABLE, event.invalid[frame.seq]
            elif frame.seq in event.failed:
                fate, reason = fates.MODEL_FAILED, event.failed[frame.seq]
            elif stream is None:
                fate, reason = fates.CLOSED_RUNNING, fates.CLOSED_RUNNING.wording
            elif now_ns <= frame.deadline_ns:
                fate, reason = fates.IN_TIME, ""
                if stream.merit.untouched_by_hit and stream.terms.gap is None and not self._models.has_variants:
                    # This is what `_end` would do, written out because most frames end here.
                    self._actions.append(ResolveFrame(frame, OutcomeStatus.ON_TIME, "", batch_id, size))
                    stream.unanswered -= 1
                    stream.pace.served += 1
                    continue
            else:
                fate, reason = fates.RAN_LATE, fates.RAN_LATE.wording
            self._end(now_ns, stream, queued, fate, reason, batch_id, size)

    def failed(self, now_ns: int, batch: Batch, reason: str) -> None:
        for queued in batch.frames:
            stream = self.streams.get(queued.frame.stream_id)
            self._end(now_ns, stream, queued, fates.BATCH_LOST, reason, batch.batch_id, len(batch.frames))

    def extras_ns(self) -> dict[str, int]:
        """Returns for each model what frames of its streams take beyond usual ones: the median of the streams. Those of
        BEST_EFFORT do not count, so that nobody makes others look slow without being counted as a load.
        """
        extras_ns: dict[str, list[int]] = {}
        for stream in self.streams.values():
            if stream.arrived_ns >= 0 and stream.terms.stream_class is not StreamClass.BEST_EFFORT:
                extras_ns.setdefault(stream.model, []).append(stream.extra_ns)
        return {name: sorted(of_model)[len(of_model) // 2] for name, of_model in extras_ns.items()}

    def retried(self, now_ns: int, batch: Batch, reason: str, deadline_ns: int) -> None:
        """Lets the frames of a batch that was lost wait again, to run alone; those that are due before `deadline_ns`
        have no time for that, and are answered.
        """
        for queued in batch.frames:
            frame = queued.frame
            stream = self.streams.get(frame.stream_id)
            if stream is None or queued.due_ns < deadline_ns:
                self._end(now_ns, stream, queued, fates.BATCH_LOST, reason, batch.batch_id, len(batch.frames))
                continue
            queued.alone = True
            ids = sorted([*stream.waiting, frame.frame_id])
            stream.waiting = {frame_id: stream.waiting.get(frame_id, queued) for frame_id in ids}
            self._enter(stream, queued, batch.variant)
        for queued in batch.frames:
            stream = self.streams.get(queued.frame.stream_id)
            oldest = superseded(stream) if stream is not None else None
            while stream is not None and oldest is not None:
                newer = stream.waiting[next(reversed(stream.waiting))].frame
                self._withdraw(now_ns, stream, oldest, *_superseded_by(newer))
                oldest = superseded(stream)

    def merit(self, queued: QueuedFrame) -> float:
        """Returns what the frame is worth under overload."""
        stream = self.streams[queued.frame.stream_id]
        return stream.merit.value * self._principals.factor(stream.terms.principal)

    def freshness(self, queued: QueuedFrame) -> float:
        """Returns what the frame is worth when a window is chosen: more where its stream has missed frames, so that the
        stream's newest result is older.
        """
        stream = self.streams[queued.frame.stream_id]
        return 1.0 if keeps_all(stream.terms) else min(stream.merit.value, FRESHNESS_MAX)

    # ---- the ways into and out of the queues ----

    def _note_read(self, queued: QueuedFrame, reading: bool, extra_ns: int) -> VariantState:
        """Puts a frame to its new place in the queue of its variant, which is returned, as it is due otherwise now."""
        variant = self._models.by_name[queued.frame.model].variants[queued.rank]
        variant.waiting.remove(queued)
        queued.is_read(reading, extra_ns)
        variant.waiting.add(queued)
        return variant

    def _unwait(self, stream: StreamState, queued: QueuedFrame) -> None:
        frame = queued.frame
        del stream.waiting[frame.frame_id]
        if not frame.must_run:
            stream.supersedable -= 1
        variant = self._models.by_name[frame.model].variants[queued.rank]
        variant.waiting.remove(queued)
        self._leave_queue(variant)
        self.waiting -= 1

    def _enter(self, stream: StreamState, queued: QueuedFrame, variant: VariantState) -> None:
        """Puts a frame that waits in its stream into the queue of the variant."""
        if not queued.frame.must_run:
            stream.supersedable += 1
        self._enter_queue(variant)
        variant.waiting.add(queued)
        self.waiting += 1
        self._drop_by(queued.due_ns, variant)

    def _enter_queue(self, variant: VariantState) -> None:
        """Lists the variant as queued if nothing waits for it yet. Call it before a frame is added."""
        if not variant.waiting.count:
            variants, at = self.queued_variants, len(self.queued_variants)
            while at and variants[at - 1].number > variant.number:
                at -= 1
            variants.insert(at, variant)

    def _leave_queue(self, variant: VariantState) -> None:
        """Removes the variant from the queued ones if nothing waits for it. Call it after frames were removed."""
        if not variant.waiting.count:
            self.queued_variants.remove(variant)

    def _drop_by(self, due_ns: int, variant: VariantState) -> None:
        """Moves `drop_ns` to where the latest start of a frame that is due then has passed, if that comes earlier."""
        drop_ns = due_ns - variant.single_plan_ns_min + 1
        if self.drop_ns is None or drop_ns < self.drop_ns:
            self.drop_ns = drop_ns

    def withdraw(self, now_ns: int, stream_id: int, queued: QueuedFrame, fate: Fate, reason: str) -> None:
        """Ends a frame if it still waits."""
        self._withdraw(now_ns, self.streams[stream_id], queued, fate, reason)

    def _withdraw(self, now_ns: int, stream: StreamState, queued: QueuedFrame, fate: Fate, reason: str) -> None:
        """Ends a frame if it still waits; one that no longer does was SKIPPED along with one before it."""
        if queued.frame.frame_id in stream.waiting:
            self._unwait(stream, queued)
            self._end(now_ns, stream, queued, fate, reason)

    def _end_waiting(self, stream: StreamState, fate: Fate, after_id: int = -1) -> None:
        """Gives every frame of the stream that waits behind that frame id the same end."""
        for queued in [queued for frame_id, queued in stream.waiting.items() if frame_id > after_id]:
            self._unwait(stream, queued)
            self._answer(stream, queued.frame, fate.status, fate.wording)

    # ---- outcomes ----

    def _end(
        self,
        now_ns: int,
        stream: StreamState | None,
        queued: QueuedFrame,
        fate: Fate,
        reason: str | None = None,
        batch_id: int = 0,
        batch_size: int = 0,
    ) -> None:
        """Ends a frame that no longer waits or runs, and does what follows for the frames behind it. Without `reason`
        the client gets the wording of the fate, which must then have nothing to fill in.
        """
        frame = queued.frame
        self._answer(stream, frame, fate.status, fate.wording if reason is None else reason, batch_id, batch_size)
        if stream is None:
            return
        # A frame that was superseded by one that came together with it has cost nobody anything.
        if queued.stream_class is not stream.terms.stream_class:
            pass  # it was demoted: nobody owed it anything, and nothing may be gained by what it missed
        elif fate is fates.IN_TIME or (fate.missed and now_ns > queued.arrived_ns):
            self._judge(now_ns, stream, frame, fate)
        elif fate is fates.OVER_CREDIT:
            stream.pace.missed += 1  # no miss of the lanes, but a frame that the stream sends for nothing
        if stream.terms.gap is None or fate.status in RESULTS:
            return
        if stream.terms.gap is GapPolicy.SKIP:
            stream.gap = True
            self._end_waiting(stream, fates.GAP_BEFORE, frame.frame_id)
        elif stream.terms.gap is GapPolicy.RESET:
            behind = next((frame_id for frame_id in stream.waiting if frame_id > frame.frame_id), None)
            if behind is None:
                stream.gap = True
            else:
                stream.waiting[behind].resets_state = True

    def _judge(self, now_ns: int, stream: StreamState, frame: Frame, fate: Fate) -> None:
        """Notes for later choices whether the lanes served the frame in time."""
        stream.pace.served += not fate.missed
        stream.pace.missed += fate.missed
        if fate.missed or not stream.merit.untouched_by_hit:
            stream.merit.ended(not fate.missed)
        if fate.status is OutcomeStatus.SUPERSEDED:
            return
        if fate.missed and stream.terms.stream_class is StreamClass.CRITICAL:
            self.critical_missed_ns = now_ns
        model = self._models.by_name.get(frame.model) if self._models.has_variants else None
        if model is not None:
            model.on_time += not fate.missed
            model.missed += fate.missed

    def turned_out(self, now_ns: int, event: FramesTurnedOut) -> None:
        """Takes back what `_judge` noted of frames that were answered ON_TIME, and notes what became of them."""
        stream = self.streams.get(event.stream_id)
        counts = event.status is not OutcomeStatus.SUPERSEDED
        if stream is not None:
            for _ in range(event.frames):
                stream.merit.turned_out(event.missed)
            stream.pace.served = max(0, stream.pace.served - event.frames)
            stream.pace.missed += event.frames if event.missed else 0
            if event.missed and counts and stream.terms.stream_class is StreamClass.CRITICAL:
                self.critical_missed_ns = now_ns
        model = self._models.by_name.get(event.model) if self._models.has_variants else None
        if model is not None:
            model.on_time = max(0, model.on_time - event.frames)
            model.missed += event.frames if event.missed and counts else 0

    def _answer(
        self,
        stream: StreamState | None,
        frame: Frame,
        status: OutcomeStatus,
        reason: str,
        batch_id: int = 0,
        batch_size: int = 0,
    ) -> None:
        """Answers a frame."""
        self._actions.append(ResolveFrame(frame, status, reason, batch_id, batch_size))
        if stream is not None:
            stream.unanswered -= 1


def _superseded_by(newer: Frame) -> tuple[Fate, str]:
    """The fate of a frame whose place that one takes, with the reason. No client knows the ids of joint frames."""
    if isinstance(newer, JointFrame):
        return fates.JOINT_SUPERSEDED, fates.JOINT_SUPERSEDED.wording
    return fates.SUPERSEDED, fates.SUPERSEDED.says(newer=newer.frame_id)
