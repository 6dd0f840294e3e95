"""The accounts of streams and their frames: every frame gets exactly one outcome.

Theory of operation. A frame is waiting or running, never both; `_answer` is the only way out of either.

    arrived -> over its credit, draining, behind a gap ..... resolved at once
            -> doomed ...................................... told to the caller, who runs or drops it
           --> waiting --> superseded by a newer frame ..... SUPERSEDED
                       --> latest start passed ............. to a faster variant, else as doomed
                       --> withdrawn, stream closed ........ CANCELLED
                       --> running --> finished ............ ON_TIME | LATE | INVALID | FAILED
                                   --> failed .............. FAILED

Streams of stateful models are pinned to one lane, where the worker keeps their state, and have at most one frame
running, the oldest that waits. A frame of theirs that is not run leaves a gap: what comes behind it is SKIPPED, or
starts the state anew, as its terms say.
"""

from bisect import bisect_left, insort
from collections import Counter

from duly.core.backlog import keeps_all, superseded
from duly.core.dispatch.choose import Batch
from duly.core.dispatch.merit import FRESHNESS_MAX, Principals
from duly.core.dispatch.overload import drop_reason
from duly.core.events import Action, BatchFinished, FramesCancelled, ResolveFrame, StreamOpened
from duly.core.model_table import ModelTable, rescuer, variant_for
from duly.core.state import RunningBatch, StreamState, VariantState
from duly.core.types import Frame, GapPolicy, OutcomeStatus, StreamClass

_GAP = "the state of its stream misses a frame or is lost; open a new stream"
_MISSED = (OutcomeStatus.LATE, OutcomeStatus.EXPIRED, OutcomeStatus.SUPERSEDED, OutcomeStatus.SHED)


class FrameLedger:
    __slots__ = (
        "_actions",
        "_budgets_ns",
        "_principals",
        "_served",
        "critical_missed_ns",
        "draining",
        "drop_ns",
        "floors",
        "models_open",
        "queued",
        "streams",
        "waiting",
    )

    def __init__(self, served: ModelTable, actions: list[Action]) -> None:
        """`actions`: what the host is to do, in this order; outcomes are added."""
        self._served = served
        self._actions = actions
        self.streams: dict[int, StreamState] = {}
        self.waiting = 0
        """Frames that wait, of all models."""
        self.queued: list[VariantState] = []
        """Variants with frames waiting, in the order of `model_table.variants`; `choose` looks at this very list."""
        self.drop_ns: int | None = None
        """No waiting frame is doomed before this."""
        self.draining = False
        """Nothing new is taken."""
        self.critical_missed_ns: int | None = None
        """When a CRITICAL frame last was."""
        self.floors = 0
        """Open streams that have one."""
        self.models_open: Counter[str] = Counter()
        """Streams by the model that they were opened for."""
        self._budgets_ns: dict[StreamClass, list[int]] = {stream_class: [] for stream_class in StreamClass}
        """Of the open streams, in order."""
        self._principals = Principals()

    # ---- streams ----

    def opened(self, event: StreamOpened) -> None:
        self.streams[event.stream_id] = StreamState(event.terms)
        insort(self._budgets_ns[event.terms.stream_class], event.terms.budget_ns)
        self.floors += event.terms.floor_window > 0
        self.models_open[event.terms.model] += 1

    def closed(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._end_waiting(stream, OutcomeStatus.CANCELLED, "its stream closed")
            del self.streams[stream_id]
            budgets_ns = self._budgets_ns[stream.terms.stream_class]
            del budgets_ns[bisect_left(budgets_ns, stream.terms.budget_ns)]
            self.floors -= stream.terms.floor_window > 0
            self.models_open[stream.terms.model] -= 1
            if not self.models_open[stream.terms.model]:
                del self.models_open[stream.terms.model]

    def refused(self, stream_id: int) -> None:
        """The host answered a frame of the stream itself."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.terms.gap is not None:
            stream.gap = True

    def tightest_ns(self) -> dict[StreamClass, int]:
        """The smallest budget of each class that has open streams."""
        return {stream_class: budgets_ns[0] for stream_class, budgets_ns in self._budgets_ns.items() if budgets_ns}

    # ---- frames that come and wait ----

    def arrived(self, now_ns: int, frame: Frame) -> VariantState | None:
        """The variant that the frame is for where no lane can serve it in time by its plan: the caller is to `drop` it
        or to run it all the same. Else None, and nothing is left to do.
        """
        frame.arrived_ns = now_ns
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            self._actions.append(ResolveFrame(frame, OutcomeStatus.CANCELLED, "its stream is closed"))
            return None
        terms = stream.terms
        frame.stream_class = terms.stream_class
        if terms.gap is not None:
            frame.reset_state = stream.gap and terms.gap is GapPolicy.RESET
            stream.gap = stream.gap and terms.gap is GapPolicy.SKIP
        stream.unanswered += 1
        stream.arrived_ns = now_ns
        stream.pace.arrived += 1
        stream.model = frame.model
        model = self._served.by_name.get(frame.model)
        if self.draining:
            self._resolve(now_ns, stream, frame, OutcomeStatus.SHED, "the server is draining")
        elif model is None:
            self._resolve(now_ns, stream, frame, OutcomeStatus.FAILED, f"model {frame.model} is not loaded")
        elif stream.unanswered > terms.frames_in_flight_max:
            reason = f"more than {terms.frames_in_flight_max} frames of the stream are unanswered"
            self._resolve(now_ns, stream, frame, OutcomeStatus.SHED, reason)
        elif stream.gap and terms.gap is not None:
            self._resolve(now_ns, stream, frame, OutcomeStatus.SKIPPED, _GAP)
        else:
            if self._served.several:
                model.arrived[frame.stream_class] += 1
            variant = model.only or variant_for(now_ns, frame, model, terms)
            frame.rank = variant.rank
            variant.arrivals.arrived(now_ns)
            if frame.deadline_ns < now_ns + variant.planned_one_ns:
                return variant
            self._wait(stream, frame, variant)
            oldest = superseded(stream)
            if oldest is not None:
                reason = f"frame {frame.frame_id} took its place"
                self._withdraw(now_ns, stream, oldest, OutcomeStatus.SUPERSEDED, reason)
        return None

    def overdue(self, now_ns: int) -> list[tuple[Frame, VariantState]]:
        """Waiting frames whose latest start has passed, and the variants that they wait for."""
        return [
            (frame, variant)
            for variant in self.queued
            for frame in variant.waiting.due_before(now_ns + variant.planned_one_ns)
        ]

    def rescue_or_remove(self, now_ns: int, frame: Frame, variant: VariantState) -> bool:
        """A frame that waits for `variant` overdue goes to a faster one, where it keeps its place in the stream. True
        where none is fast enough: it waits no more, and the caller is to `drop` it or to run it all the same.
        """
        stream = self.streams[frame.stream_id]
        if frame.frame_id not in stream.waiting:
            return False  # it was SKIPPED along with one before it
        faster = rescuer(now_ns, frame, self._served.by_name[frame.model], stream.terms)
        if faster is None:
            self._unwait(stream, frame)
            return True
        self._move(frame, variant, faster)
        return False

    def requeue(self, now_ns: int, name: str) -> None:
        """Frames of the model whose variant no lane serves any more wait for another that one does, if there is."""
        model = self._served.by_name[name]
        for variant in model.variants.values():
            if not variant.profiles:
                for frame in list(variant.waiting):
                    other = variant_for(now_ns, frame, model, self.streams[frame.stream_id].terms)
                    if other is not variant and other.profiles:
                        self._move(frame, variant, other)

    def _move(self, frame: Frame, variant: VariantState, other: VariantState) -> None:
        variant.waiting.remove(frame)
        self._leave_queue(variant)
        frame.rank = other.rank
        self._enter_queue(other)
        other.waiting.add(frame)

    def drop(self, now_ns: int, frame: Frame, variant: VariantState) -> None:
        """A doomed frame that does not wait."""
        preferred_ns = variant.preferred_ns[frame.stream_class]
        status, reason = drop_reason(frame, variant.planned_one_ns, now_ns, preferred_ns, variant.passed_ns)
        self._resolve(now_ns, self.streams[frame.stream_id], frame, status, reason)

    def plan_drop(self) -> None:
        """Plans have changed, or frames were dropped."""
        self.drop_ns = None
        for variant in self.queued:
            deadline_ns = variant.waiting.deadline_first_ns()
            assert deadline_ns is not None
            self._drop_by(deadline_ns, variant)

    def cancelled(self, event: FramesCancelled) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            for frame_id in event.frame_ids:
                frame = stream.waiting.get(frame_id)
                if frame is not None:
                    self._withdraw(0, stream, frame, OutcomeStatus.CANCELLED, "withdrawn by the client")

    def end_all_waiting(self, reason: str) -> None:
        for stream in self.streams.values():
            self._end_waiting(stream, OutcomeStatus.SHED, reason)

    def unloaded(self, now_ns: int, name: str, reason: str) -> None:
        """The model is about to be served no more."""
        for variant in self._served.by_name[name].variants.values():
            for frame in list(variant.waiting):
                self._withdraw(now_ns, self.streams[frame.stream_id], frame, OutcomeStatus.FAILED, reason)

    def state_lost(self, name: str, lane: str | None) -> None:
        """Of streams that a worker of the model on that lane, or on any, kept the state of: whatever runs next starts
        anew, on any lane.
        """
        for stream in self.streams.values():
            if stream.home is not None and stream.home[0] == name and lane in (None, stream.home[1]):
                stream.home, stream.state_lost = None, True
                if lane is not None and stream.terms.gap is GapPolicy.SKIP:
                    stream.gap = True
                    self._end_waiting(stream, OutcomeStatus.SKIPPED, _GAP)

    # ---- frames that run ----

    def take(self, batch: Batch) -> None:
        """Its frames wait no more."""
        frames = batch.frames
        batch.variant.waiting.take(frames)
        self._leave_queue(batch.variant)
        self.waiting -= len(frames)
        for frame in frames:
            stream = self.streams[frame.stream_id]
            del stream.waiting[frame.frame_id]
            if not frame.must_run:
                stream.supersedable -= 1

    def started(self, now_ns: int, lane: str, batch: Batch) -> None:
        """Charges the lane time of a batch to the principals of its frames; pins their streams to the lane."""
        frames = batch.frames
        share_ns = batch.planned_ns / len(frames)
        charged_ns = 0.0
        principal = self.streams[frames[0].stream_id].terms.principal
        for frame in frames:
            stream = self.streams[frame.stream_id]
            whose = stream.terms.principal
            if whose != principal:
                self._principals.served(now_ns, principal, charged_ns)
                principal, charged_ns = whose, 0.0
            charged_ns += share_ns
            if batch.variant.stateful:
                stream.running += 1
                frame.reset_state |= stream.state_lost or stream.home not in (None, (batch.variant.model, lane))
                stream.home, stream.state_lost = (batch.variant.model, lane), False
        self._principals.served(now_ns, principal, charged_ns)

    def ended(self, running: RunningBatch) -> None:
        """Its frames run no more; their outcomes follow."""
        if running.variant.stateful:
            for frame in running.frames:
                stream = self.streams.get(frame.stream_id)
                if stream is not None:
                    stream.running -= 1

    def finished(self, now_ns: int, frames: list[Frame], event: BatchFinished) -> None:
        batch_id, size = event.batch_id, len(frames)
        for frame in frames:
            stream = self.streams.get(frame.stream_id)
            if frame.seq in event.invalid:
                status, reason = OutcomeStatus.INVALID, event.invalid[frame.seq]
            elif frame.seq in event.failed:
                status, reason = OutcomeStatus.FAILED, event.failed[frame.seq]
            elif stream is None:
                status, reason = OutcomeStatus.CANCELLED, "its stream closed"
            elif now_ns <= frame.deadline_ns:
                status, reason = OutcomeStatus.ON_TIME, ""
                if stream.merit.spotless and stream.terms.gap is None and not self._served.several:
                    # What `_resolve` would do, which is most of what happens.
                    stream.pace.served += 1
                    self._answer(stream, frame, status, reason, batch_id, size)
                    continue
            else:
                status, reason = OutcomeStatus.LATE, "it ran longer than planned"
            self._resolve(now_ns, stream, frame, status, reason, batch_id, size)

    def failed(self, now_ns: int, frames: list[Frame], batch_id: int, reason: str) -> None:
        for frame in frames:
            stream = self.streams.get(frame.stream_id)
            self._resolve(now_ns, stream, frame, OutcomeStatus.FAILED, reason, batch_id, len(frames))

    def merit(self, frame: Frame) -> float:
        """What it is worth under overload."""
        stream = self.streams[frame.stream_id]
        return stream.merit.value * self._principals.factor(stream.terms.principal)

    def freshness(self, frame: Frame) -> float:
        """What it is worth to a window: more where what its stream missed leaves its newest result older."""
        stream = self.streams[frame.stream_id]
        return 1.0 if keeps_all(stream.terms) else min(stream.merit.value, FRESHNESS_MAX)

    # ---- the ways into and out of the queues ----

    def _wait(self, stream: StreamState, frame: Frame, variant: VariantState) -> None:
        stream.waiting[frame.frame_id] = frame
        if not frame.must_run:
            stream.supersedable += 1
        self._enter_queue(variant)
        variant.waiting.add(frame)
        self.waiting += 1
        self._drop_by(frame.deadline_ns, variant)

    def _unwait(self, stream: StreamState, frame: Frame) -> None:
        del stream.waiting[frame.frame_id]
        if not frame.must_run:
            stream.supersedable -= 1
        variant = self._served.by_name[frame.model].variants[frame.rank]
        variant.waiting.remove(frame)
        self._leave_queue(variant)
        self.waiting -= 1

    def _enter_queue(self, variant: VariantState) -> None:
        """Before a frame is added."""
        if not variant.waiting.count:
            queued, at = self.queued, len(self.queued)
            while at and queued[at - 1].number > variant.number:
                at -= 1
            queued.insert(at, variant)

    def _leave_queue(self, variant: VariantState) -> None:
        """After frames were removed."""
        if not variant.waiting.count:
            self.queued.remove(variant)

    def _drop_by(self, deadline_ns: int, variant: VariantState) -> None:
        """Looks again when the latest start of such a frame has passed, if not before."""
        drop_ns = deadline_ns - variant.planned_one_ns + 1
        if self.drop_ns is None or drop_ns < self.drop_ns:
            self.drop_ns = drop_ns

    def _withdraw(self, now_ns: int, stream: StreamState, frame: Frame, status: OutcomeStatus, reason: str) -> None:
        """Ends a frame that waits; one that no longer does was SKIPPED along with one before it."""
        if frame.frame_id in stream.waiting:
            self._unwait(stream, frame)
            self._resolve(now_ns, stream, frame, status, reason)

    def _end_waiting(self, stream: StreamState, status: OutcomeStatus, reason: str, after_id: int = -1) -> None:
        """Ends every frame of the stream that waits behind that frame id, alike."""
        for frame in [frame for frame_id, frame in stream.waiting.items() if frame_id > after_id]:
            self._unwait(stream, frame)
            self._answer(stream, frame, status, reason)

    # ---- outcomes ----

    def _resolve(
        self,
        now_ns: int,
        stream: StreamState | None,
        frame: Frame,
        status: OutcomeStatus,
        reason: str,
        batch_id: int = 0,
        batch_size: int = 0,
    ) -> None:
        """Ends a frame that no longer waits or runs, with what follows for the frames behind it."""
        self._answer(stream, frame, status, reason, batch_id, batch_size)
        if stream is None:
            return
        if status is OutcomeStatus.ON_TIME:
            stream.pace.served += 1
        elif status is OutcomeStatus.SHED or (status in _MISSED and now_ns > frame.arrived_ns):
            stream.pace.missed += 1
        if status is OutcomeStatus.ON_TIME or (status in _MISSED and now_ns > frame.arrived_ns):
            # A frame that was hopeless when it came says nothing about what the lanes can do.
            self._judge(now_ns, stream, frame, status)
        if stream.terms.gap is None or status in (OutcomeStatus.ON_TIME, OutcomeStatus.LATE):
            return
        if stream.terms.gap is GapPolicy.SKIP:
            stream.gap = True
            self._end_waiting(stream, OutcomeStatus.SKIPPED, _GAP, frame.frame_id)
        elif stream.terms.gap is GapPolicy.RESET:
            behind = next((frame_id for frame_id in stream.waiting if frame_id > frame.frame_id), None)
            if behind is None:
                stream.gap = True
            else:
                stream.waiting[behind].reset_state = True

    def _judge(self, now_ns: int, stream: StreamState, frame: Frame, status: OutcomeStatus) -> None:
        """Notes for coming choices whether the lanes served the frame as it wants."""
        missed = status is not OutcomeStatus.ON_TIME
        if missed or not stream.merit.spotless:
            stream.merit.ended(not missed)
        if status is OutcomeStatus.SUPERSEDED:
            return
        if missed and frame.stream_class is StreamClass.CRITICAL:
            self.critical_missed_ns = now_ns
        model = self._served.by_name.get(frame.model) if self._served.several else None
        if model is not None:
            model.on_time += not missed
            model.missed += missed

    def _answer(
        self,
        stream: StreamState | None,
        frame: Frame,
        status: OutcomeStatus,
        reason: str,
        batch_id: int = 0,
        batch_size: int = 0,
    ) -> None:
        """The one way out."""
        self._actions.append(ResolveFrame(frame, status, reason, batch_id, batch_size))
        if stream is not None:
            stream.unanswered -= 1
