"""The scheduler: decides what runs, when and in which batch, and that every frame gets exactly one outcome.

Sans-IO. The host calls `step(now_ns, event)` with facts and carries out the actions that come back; it calls again with
`TimerFired` at `next_wake_ns()`. The scheduler reads no clock, starts nothing and changes only itself; equal logs of
(now, event) give equal actions.

The law: every frame of a `FramesArrived` is followed by exactly one `ResolveFrame`, whatever else happens.

Theory of operation. A frame is waiting or running, never both; `_answer` is the only way out of either.

    FramesArrived -> over its credit, draining, doomed ........ resolved at once
                 --> waiting --> superseded by a newer frame .. SUPERSEDED
                             --> latest start passed .......... to a faster variant, else EXPIRED | SHED
                             --> withdrawn, stream closed ..... CANCELLED
                             --> running --> BatchFinished .... ON_TIME | LATE | INVALID | FAILED
                                         --> BatchFailed ...... FAILED

This file keeps the accounts; what a free lane does next is decided by `choice` and the policies that it names, which
variant a frame is for by `variants`, whether a stream may open by `admission`, which asks `demands` and `plans` here.

Streams of stateful models are pinned to one lane, where the worker keeps their state, and have at most one frame
running, the oldest that waits.
"""

from bisect import bisect_left, insort

from duly.core.admission import ModelPlan, StreamDemand
from duly.core.blocking import caps_ns
from duly.core.choice import Batch, Hold, Situation, next_batch, something_waits
from duly.core.events import (
    Action,
    Advice,
    AdviseStream,
    BatchFailed,
    BatchFinished,
    DispatchBatch,
    DrainRequested,
    Event,
    FrameRefused,
    FramesArrived,
    FramesCancelled,
    LaneDown,
    LaneUp,
    ModelGone,
    ModelReady,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
    WarmLane,
)
from duly.core.fairness import Principals
from duly.core.overload import drop_reason
from duly.core.profile import Profile
from duly.core.shares import ClassShares
from duly.core.state import LaneState, ModelState, RunningBatch, StreamState, VariantState
from duly.core.switching import switch_variants
from duly.core.types import BacklogPolicy, Frame, GapPolicy, OutcomeStatus, StreamClass
from duly.core.variants import TICK_NS

PROBE_AFTER_NS = 200_000_000
"""A lane that did not run a model for so long may try a doomed frame against the plan: a plan must not starve its own
correction. While such probes show that the plan is spoilt, further ones may follow at once."""
PROBE_SPOILT_PERCENT = 80
"""A probe that takes less than this much of its plan shows that the plan is spoilt."""
CRITICAL_MISSED_NS = 1_000_000_000
"""For so long after a CRITICAL frame was missed, CRITICAL frames are under overload's rules."""

_GAP = "the state of its stream misses a frame or is lost; open a new stream"
_MISSED = (OutcomeStatus.LATE, OutcomeStatus.EXPIRED, OutcomeStatus.SUPERSEDED, OutcomeStatus.SHED)


class Scheduler:
    def __init__(self) -> None:
        self._streams: dict[int, StreamState] = {}
        self._models: dict[str, ModelState] = {}
        self._lanes: dict[str, LaneState] = {}
        self._running: dict[int, RunningBatch] = {}
        self._waiting = 0
        """Frames that wait, of all models."""
        self._batch_id = 0
        self._budgets_ns: dict[StreamClass, list[int]] = {stream_class: [] for stream_class in StreamClass}
        """Of the open streams, in order."""
        self._principals = Principals()
        self._lanes_free = 0
        self._several = False
        """A model has several variants."""
        self._critical_missed_ns: int | None = None
        self._drop_ns: int | None = None
        """No waiting frame is doomed before this."""
        self._hold_ns: int | None = None
        """When a lane that holds looks again."""
        self._tick_ns = 0
        """When the variants' controls look again; they do with the first event after that."""
        self._drain_ns: int | None = None
        self._actions: list[Action] = []
        self._about = Situation([], self._streams, 0, 0, False, {}, ClassShares(), False, self._merit)
        self._bound_blocking()

    # ---- the whole contract ----

    def step(self, now_ns: int, event: Event) -> list[Action]:
        """What to do about `event`, in this order. `now_ns` never goes back from one call to the next."""
        actions: list[Action] = []
        self._actions = actions
        if isinstance(event, FramesArrived):
            for frame in event.frames:
                self._frame_arrived(now_ns, frame, frame is event.frames[-1])
        elif isinstance(event, BatchFinished):
            self._batch_finished(now_ns, event)
        else:
            self._happened(now_ns, event)
        if self._drain_ns is not None and now_ns >= self._drain_ns:
            for stream in self._streams.values():
                self._end_waiting(stream, OutcomeStatus.SHED, "the server stopped before its turn")
        if self._drop_ns is not None and now_ns >= self._drop_ns:
            self._drop_doomed(now_ns)
        if now_ns >= self._tick_ns:
            if self._several:
                elapsed_ns = now_ns - self._tick_ns + TICK_NS
                switch_variants(now_ns, elapsed_ns, self._models, self._streams.values(), len(self._lanes))
            self._tick_ns = now_ns + TICK_NS
        self._hold_ns = None
        if self._lanes_free:
            if self._waiting:
                self._fill(now_ns)
            if self._lanes_free and self._streams:
                self._warm_idle(now_ns)
        return actions

    def next_wake_ns(self) -> int | None:
        """When to call `step` with TimerFired at the latest; None: nothing pending."""
        wake_ns = self._drop_ns
        if self._hold_ns is not None and (wake_ns is None or self._hold_ns < wake_ns):
            wake_ns = self._hold_ns
        if self._drain_ns is not None and self._waiting and (wake_ns is None or self._drain_ns < wake_ns):
            wake_ns = self._drain_ns
        return wake_ns

    # ---- for statistics and admission ----

    def frames_waiting(self) -> int:
        return self._waiting

    def frames_waiting_by_model(self) -> dict[str, int]:
        """May be called from any thread."""
        return {
            name: sum(variant.waiting.count for variant in list(model.variants.values()))
            for name, model in list(self._models.items())
        }

    def planned_one_ns(self, model: str, rank_max: int) -> int:
        """Planned execution time of a batch of one of the fastest variant up to that rank, on the fastest lane; 0 where
        no lane serves the model.
        """
        known = self._models.get(model)
        return min((variant.planned_one_ns for variant in known.served_from(0, rank_max)), default=0) if known else 0

    def planned_ns(self, model: str, lane: str, variant: str | None = None) -> list[int]:
        """Planned execution times of batches of 1, 2, ... of a variant (the best where none is named) on that lane;
        empty where it does not serve the model.
        """
        known = self._models.get(model)
        for candidate in known.variants.values() if known else ():
            if lane in candidate.profiles and variant in (None, candidate.name):
                return candidate.profiles[lane].plan_ns[1:]
        return []

    def lane_count(self) -> int:
        return len(self._lanes)

    def plans(self) -> dict[str, ModelPlan]:
        """What admission reckons with: by model, for each variant the plan of the slowest lane that serves it."""
        plans = {}
        for name, model in self._models.items():
            served = [variant for variant in model.variants.values() if variant.profiles]
            if served:
                lanes = tuple(lane for lane in self._lanes if lane in served[0].profiles)
                ranks = tuple(variant.slowest_plan() for variant in served)
                plans[name] = ModelPlan(name, lanes, ranks)
        return plans

    def demands(self, now_ns: int) -> list[StreamDemand]:
        """The open streams as admission counts them, with the phases that were measured."""
        return [
            StreamDemand(
                stream_id=stream_id,
                model=stream.model,
                stream_class=stream.terms.stream_class,
                period_ns=stream.terms.period_ns,
                budget_ns=stream.terms.budget_ns,
                phase_ns=_phase_ns(now_ns, stream),
                variant_rank_max=stream.terms.variant_rank_max,
                backlog=stream.terms.backlog,
            )
            for stream_id, stream in self._streams.items()
        ]

    # ---- streams and frames ----

    def _happened(self, now_ns: int, event: Event) -> None:
        """Everything but frames that come and batches that finish."""
        match event:
            case BatchFailed():
                self._batch_failed(now_ns, event)
            case StreamOpened():
                self._streams[event.stream_id] = StreamState(event.terms)
                insort(self._budgets_ns[event.terms.stream_class], event.terms.budget_ns)
                self._about.floors += event.terms.floor_window > 0
                self._bound_blocking()
            case StreamClosed():
                self._stream_closed(event.stream_id)
            case FrameRefused():
                stream = self._streams.get(event.stream_id)
                if stream is not None and stream.terms.gap is not None:
                    stream.gap = True
            case FramesCancelled():
                self._frames_cancelled(event)
            case LaneUp():
                if event.lane not in self._lanes:
                    self._lanes[event.lane] = LaneState(now_ns)
                    self._lanes_free += 1
            case LaneDown():
                for name in list(self._models):
                    self._model_gone(now_ns, ModelGone(name, event.lane, event.reason))
                if self._lanes.pop(event.lane, None) is not None:
                    # What ran there has ended just now.
                    self._lanes_free -= 1
            case ModelReady():
                self._model_ready(now_ns, event)
            case ModelGone():
                self._model_gone(now_ns, event)
            case DrainRequested():
                self._drain_ns = event.until_ns
                self._about.draining = True
                for stream_id in self._streams:
                    self._actions.append(AdviseStream(stream_id, Advice.DRAINING, "the server stops"))
            case _:
                pass

    def _stream_closed(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._end_waiting(stream, OutcomeStatus.CANCELLED, "its stream closed")
            del self._streams[stream_id]
            budgets_ns = self._budgets_ns[stream.terms.stream_class]
            del budgets_ns[bisect_left(budgets_ns, stream.terms.budget_ns)]
            self._about.floors -= stream.terms.floor_window > 0
            self._bound_blocking()

    def _bound_blocking(self) -> None:
        budgets_ns = self._budgets_ns
        single_ns = max([variant.longest_one_ns for variant in self._about.variants], default=0)
        self._about.cap_ns = caps_ns({cls: budgets_ns[cls][0] for cls in StreamClass if budgets_ns[cls]}, single_ns)
        self._about.best_effort = bool(self._budgets_ns[StreamClass.BEST_EFFORT])

    def _frame_arrived(self, now_ns: int, frame: Frame, last: bool) -> None:
        """`last`: no other frame comes with the event, so that a lane that is free now has nothing better to do."""
        frame.arrived_ns = now_ns
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            self._actions.append(ResolveFrame(frame, OutcomeStatus.CANCELLED, "its stream is closed"))
            return
        terms = stream.terms
        frame.stream_class = terms.stream_class
        if terms.gap is not None:
            frame.reset_state = stream.gap and terms.gap is GapPolicy.RESET
            stream.gap = stream.gap and terms.gap is GapPolicy.SKIP
        stream.unanswered += 1
        stream.arrived_ns = now_ns
        stream.model = frame.model
        model = self._models.get(frame.model)
        if self._drain_ns is not None:
            self._resolve(now_ns, stream, frame, OutcomeStatus.SHED, "the server is draining")
        elif model is None:
            self._resolve(now_ns, stream, frame, OutcomeStatus.FAILED, f"model {frame.model} is not loaded")
        elif stream.unanswered > terms.frames_in_flight_max:
            reason = f"more than {terms.frames_in_flight_max} frames of the stream are unanswered"
            self._resolve(now_ns, stream, frame, OutcomeStatus.SHED, reason)
        elif stream.gap and terms.gap is not None:
            self._resolve(now_ns, stream, frame, OutcomeStatus.SKIPPED, _GAP)
        else:
            if self._several:
                model.arrived[frame.stream_class] += 1
            variant = model.only or self._variant_for(now_ns, frame, model, stream)
            frame.rank = variant.rank
            variant.arrivals.arrived(now_ns)
            if frame.deadline_ns < now_ns + variant.planned_one_ns:
                self._doomed(now_ns, stream, frame, variant, self._probe_lane(now_ns, frame, variant) if last else None)
                return
            self._wait(stream, frame, variant)
            if terms.backlog is not BacklogPolicy.ALL and stream.supersedable > terms.backlog_frames:
                oldest = next(waiting for waiting in stream.waiting.values() if not waiting.must_run)
                reason = f"frame {frame.frame_id} took its place"
                self._withdraw(now_ns, stream, oldest, OutcomeStatus.SUPERSEDED, reason)

    def _variant_for(self, now_ns: int, frame: Frame, model: ModelState, stream: StreamState) -> VariantState:
        """The variant that the control wants, or the first faster one that can still serve the frame in time; the
        fastest that it accepts where none can.
        """
        rank_max = stream.terms.variant_rank_max
        served = model.served_from(model.control.rank_for(frame.stream_class, rank_max), rank_max)
        in_time = (variant for variant in served if frame.deadline_ns >= now_ns + variant.planned_one_ns)
        return next(in_time, None) or next(iter(reversed(served or list(model.variants.values()))))

    def _doomed(self, now_ns: int, stream: StreamState, frame: Frame, variant: VariantState, lane: str | None) -> None:
        """A frame that no lane can serve in time by its plan, in any variant: dropped, or tried all the same on a lane
        that has nothing else to do.
        """
        if lane is None:
            preferred_ns = variant.preferred_ns[frame.stream_class]
            status, reason = drop_reason(frame, variant.planned_one_ns, now_ns, preferred_ns, variant.passed_ns)
            self._resolve(now_ns, stream, frame, status, reason)
        else:
            planned_ns = variant.profiles[lane].plan_ns[1]
            self._start(now_ns, lane, Batch(variant, [frame], planned_ns), probe=now_ns > variant.probe_ns[lane])

    def _probe_lane(self, now_ns: int, frame: Frame, variant: VariantState) -> str | None:
        """A lane with nothing else to do that may try a frame against its plan: one that has not run the variant for
        long, or that usually is quick enough for the frame.
        """
        if not self._lanes_free:
            return None
        for lane in variant.profiles:
            left_ns = frame.deadline_ns - now_ns
            due = left_ns >= variant.profiles[lane].usual_ns[1] or (left_ns > 0 and now_ns > variant.probe_ns[lane])
            may_start = not variant.stateful or self._streams[frame.stream_id].may_start(frame, lane)
            if due and may_start and self._is_free(lane) and not something_waits(now_ns, lane, self._about):
                return lane
        return None

    def _is_free(self, lane: str) -> bool:
        return lane in self._lanes and self._lanes[lane].batch_id is None

    def _frames_cancelled(self, event: FramesCancelled) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            for frame_id in event.frame_ids:
                frame = stream.waiting.get(frame_id)
                if frame is not None:
                    self._withdraw(0, stream, frame, OutcomeStatus.CANCELLED, "withdrawn by the client")

    def _wait(self, stream: StreamState, frame: Frame, variant: VariantState) -> None:
        stream.waiting[frame.frame_id] = frame
        if not frame.must_run:
            stream.supersedable += 1
        variant.waiting.add(frame)
        self._waiting += 1
        self._drop_by(frame.deadline_ns, variant)

    def _unwait(self, stream: StreamState, frame: Frame) -> None:
        del stream.waiting[frame.frame_id]
        if not frame.must_run:
            stream.supersedable -= 1
        self._models[frame.model].variants[frame.rank].waiting.remove(frame)
        self._waiting -= 1

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
            self._critical_missed_ns = now_ns
        model = self._models.get(frame.model) if self._several else None
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

    def _drop_doomed(self, now_ns: int) -> None:
        for variant in self._about.variants:
            if not variant.waiting.count:
                continue
            for frame in variant.waiting.due_before(now_ns + variant.planned_one_ns):
                stream = self._streams[frame.stream_id]
                if frame.frame_id in stream.waiting:
                    faster = self._faster(now_ns, frame, stream)
                    if faster is None:
                        self._unwait(stream, frame)
                        self._doomed(now_ns, stream, frame, variant, self._probe_lane(now_ns, frame, variant))
                    else:
                        # It keeps its place in the stream.
                        variant.waiting.remove(frame)
                        frame.rank = faster.rank
                        faster.waiting.add(frame)
        self._plan_drop()

    def _faster(self, now_ns: int, frame: Frame, stream: StreamState) -> VariantState | None:
        """The most accurate variant that can still serve a frame which its own can't."""
        model = self._models[frame.model]
        if model.only is not None:
            return None
        rescuers = model.served_from(frame.rank + 1, stream.terms.variant_rank_max)
        return next((variant for variant in rescuers if frame.deadline_ns >= now_ns + variant.planned_one_ns), None)

    def _plan_drop(self) -> None:
        self._drop_ns = None
        for variant in self._about.variants:
            if variant.waiting.count:
                deadline_ns = variant.waiting.deadline_first_ns()
                assert deadline_ns is not None
                self._drop_by(deadline_ns, variant)

    def _drop_by(self, deadline_ns: int, variant: VariantState) -> None:
        """Looks again when the latest start of such a frame has passed, if not before."""
        drop_ns = deadline_ns - variant.planned_one_ns + 1
        if self._drop_ns is None or drop_ns < self._drop_ns:
            self._drop_ns = drop_ns

    # ---- lanes and batches ----

    def _fill(self, now_ns: int) -> None:
        """Gives the free lanes the batches that they are to run, if any."""
        about = self._about
        about.lanes = len(self._lanes)
        about.critical_missed = (
            self._critical_missed_ns is not None and now_ns - self._critical_missed_ns < CRITICAL_MISSED_NS
        )
        again = True
        while again:
            again, self._hold_ns = False, None
            for lane, state in self._lanes.items():
                if state.batch_id is None:
                    about.lanes_free = self._lanes_free
                    chosen = next_batch(now_ns, lane, about)
                    if isinstance(chosen, Batch):
                        self._take(chosen)
                        self._start(now_ns, lane, chosen, probe=False)
                        # What another lane holds for may be gone with it.
                        again = self._hold_ns is not None
                        if not self._waiting:
                            break
                    elif isinstance(chosen, Hold) and (self._hold_ns is None or chosen.until_ns < self._hold_ns):
                        self._hold_ns = chosen.until_ns

    def _take(self, batch: Batch) -> None:
        """Its frames wait no more."""
        batch.variant.waiting.take(batch.frames)
        self._waiting -= len(batch.frames)
        streams = self._streams
        for frame in batch.frames:
            stream = streams[frame.stream_id]
            del stream.waiting[frame.frame_id]
            if not frame.must_run:
                stream.supersedable -= 1

    def _merit(self, frame: Frame) -> float:
        stream = self._streams[frame.stream_id]
        return stream.merit.value * self._principals.factor(stream.terms.principal)

    def _start(self, now_ns: int, lane: str, batch: Batch, *, probe: bool) -> None:
        variant, frames = batch.variant, batch.frames
        self._batch_id += 1
        action = DispatchBatch(self._batch_id, lane, variant.model, variant.name, frames, batch.planned_ns)
        self._occupy(lane, RunningBatch(action, variant, now_ns, probe))
        variant.probe_ns[lane] = now_ns + PROBE_AFTER_NS
        self._account(now_ns, frames, batch.planned_ns)
        if variant.stateful:
            for frame in frames:
                stream = self._streams[frame.stream_id]
                stream.running += 1
                frame.reset_state |= stream.state_lost or stream.home not in (None, (variant.model, lane))
                stream.home, stream.state_lost = (variant.model, lane), False
        if self._waiting:
            self._note_preference(now_ns, lane, batch)

    def _account(self, now_ns: int, frames: list[Frame], planned_ns: int) -> None:
        """Charges the lane time of a batch to the principals of its frames."""
        share_ns = planned_ns / len(frames)
        charged_ns = 0.0
        principal = self._streams[frames[0].stream_id].terms.principal
        for frame in frames:
            whose = self._streams[frame.stream_id].terms.principal
            if whose != principal:
                self._principals.served(now_ns, principal, charged_ns)
                principal, charged_ns = whose, 0.0
            charged_ns += share_ns
        self._principals.served(now_ns, principal, charged_ns)

    def _note_preference(self, now_ns: int, lane: str, batch: Batch) -> None:
        """So that a frame which misses can be told whom the lane was given to instead."""
        most_critical = batch.frames[0].stream_class
        best_effort_waits = False
        for other in self._about.variants:
            if other.waiting.count and lane in other.profiles:
                best_effort_waits |= bool(other.waiting.by_class[StreamClass.BEST_EFFORT])
                if batch.by_overload:
                    other.passed_ns = now_ns
                if most_critical is not StreamClass.BEST_EFFORT:
                    other.preferred_ns[StreamClass.BEST_EFFORT] = now_ns
                    if most_critical is StreamClass.CRITICAL:
                        other.preferred_ns[StreamClass.STANDARD] = now_ns
        self._about.shares.began(most_critical, batch.planned_ns, best_effort_waits)

    def _occupy(self, lane: str, running: RunningBatch) -> None:
        self._lanes[lane].batch_id = running.action.batch_id
        self._lanes_free -= 1
        self._running[running.action.batch_id] = running
        self._actions.append(running.action)

    def _warm_idle(self, now_ns: int) -> None:
        """Runs zeros on lanes that have been idle for so long that they would be slow at first; wakes for the next."""
        for lane, state in self._lanes.items():
            warming = [v for v in self._about.variants if v.warm_after_ns and lane in v.profiles]
            if state.batch_id is not None or not warming:
                continue
            shortest_ns = min(variant.profiles[lane].plan_ns[1] for variant in warming)
            shortest = next(variant for variant in warming if variant.profiles[lane].plan_ns[1] == shortest_ns)
            warm_ns = state.ended_ns + shortest.warm_after_ns
            if warm_ns > now_ns:
                if self._hold_ns is None or warm_ns < self._hold_ns:
                    self._hold_ns = warm_ns
            elif not something_waits(now_ns, lane, self._about):  # else it holds
                self._batch_id += 1
                warm = WarmLane(self._batch_id, lane, shortest.model, shortest.name)
                self._occupy(lane, RunningBatch(warm, shortest, now_ns, probe=False))

    def _batch_finished(self, now_ns: int, event: BatchFinished) -> None:
        running = self._end(now_ns, event.batch_id)
        if running is None or isinstance(running.action, WarmLane):
            return
        frames = running.action.frames
        # Frames that did not run say nothing about how long a batch of that size takes.
        if not event.invalid and not event.failed:
            finished_ns = now_ns if event.finished_ns is None else event.finished_ns
            self._learn(now_ns, running, len(frames), finished_ns - running.started_ns)
        for frame in frames:
            stream = self._streams.get(frame.stream_id)
            if frame.seq in event.invalid:
                status, reason = OutcomeStatus.INVALID, event.invalid[frame.seq]
            elif frame.seq in event.failed:
                status, reason = OutcomeStatus.FAILED, event.failed[frame.seq]
            elif stream is None:
                status, reason = OutcomeStatus.CANCELLED, "its stream closed"
            elif now_ns <= frame.deadline_ns:
                status, reason = OutcomeStatus.ON_TIME, ""
                if stream.merit.spotless and stream.terms.gap is None and not self._several:
                    # What `_resolve` would do, which is most of what happens.
                    self._answer(stream, frame, status, reason, event.batch_id, len(frames))
                    continue
            else:
                status, reason = OutcomeStatus.LATE, "it ran longer than planned"
            self._resolve(now_ns, stream, frame, status, reason, event.batch_id, len(frames))

    def _learn(self, now_ns: int, running: RunningBatch, size: int, actual_ns: int) -> None:
        lane, variant = running.action.lane, running.variant
        profile = variant.profiles.get(lane)
        if profile is None:
            return
        assert isinstance(running.action, DispatchBatch)
        if running.probe and actual_ns * 100 < running.action.planned_ns * PROBE_SPOILT_PERCENT:
            variant.probe_ns[lane] = now_ns
        planned_ns, longest_ns = variant.planned_one_ns, variant.longest_one_ns
        changed = profile.observe(size, actual_ns, after_idle=running.probe)
        if changed:
            for other in self._about.variants:
                if other is not variant and lane in other.profiles:
                    other.profiles[lane].refit()
                    other.plan()
            self._plan_drop()
        variant.plan()
        if variant.planned_one_ns > planned_ns:
            self._plan_drop()
        if changed or variant.longest_one_ns != longest_ns:
            self._bound_blocking()

    def _batch_failed(self, now_ns: int, event: BatchFailed) -> None:
        running = self._end(now_ns, event.batch_id)
        if running is not None:
            frames = running.frames
            for frame in frames:
                stream = self._streams.get(frame.stream_id)
                self._resolve(now_ns, stream, frame, OutcomeStatus.FAILED, event.reason, event.batch_id, len(frames))

    def _end(self, now_ns: int, batch_id: int) -> RunningBatch | None:
        """Takes the batch off its lane; None where it has ended before, as when its lane went down."""
        running = self._running.pop(batch_id, None)
        if running is None:
            return None
        state = self._lanes.get(running.action.lane)
        if state is not None and state.batch_id == batch_id:
            state.batch_id = None
            state.ended_ns = now_ns
            self._lanes_free += 1
        if running.variant.stateful:
            for frame in running.frames:
                stream = self._streams.get(frame.stream_id)
                if stream is not None:
                    stream.running -= 1
        return running

    # ---- models ----

    def _model_ready(self, now_ns: int, event: ModelReady) -> None:
        if event.lane not in self._lanes:
            return
        model = self._models.setdefault(event.model, ModelState())
        variant = model.variants.get(event.rank)
        if variant is None:
            variant = VariantState(event.model, event.variant, event.rank, event.stateful)
            model.add(variant)
            self._about.variants.append(variant)
            self._several = len(self._about.variants) > len(self._models)
        speed = self._lanes[event.lane].speed
        variant.profiles[event.lane] = Profile(event.samples_ns, event.any_size, speed)
        variant.probe_ns[event.lane] = now_ns + PROBE_AFTER_NS
        variant.warm_after_ns = event.warm_after_ns
        variant.plan()
        self._plan_drop()
        self._bound_blocking()

    def _model_gone(self, now_ns: int, event: ModelGone) -> None:
        model = self._models.get(event.model)
        if model is None:
            return
        for batch_id, running in list(self._running.items()):
            if running.action.model == event.model and event.lane in (None, running.action.lane):
                self._batch_failed(now_ns, BatchFailed(batch_id, event.reason))
        for variant in model.variants.values():
            if event.lane is not None:
                variant.profiles.pop(event.lane, None)
                variant.plan()
            else:
                for frame in list(variant.waiting):
                    stream = self._streams[frame.stream_id]
                    self._withdraw(now_ns, stream, frame, OutcomeStatus.FAILED, event.reason)
                self._about.variants.remove(variant)
        if event.lane is None:
            del self._models[event.model]
            self._several = len(self._about.variants) > len(self._models)
        for stream in self._streams.values():
            if stream.home is not None and stream.home[0] == event.model and event.lane in (None, stream.home[1]):
                # Its state went with the worker: whatever runs next starts anew, on any lane.
                stream.home, stream.state_lost = None, True
                if event.lane is not None and stream.terms.gap is GapPolicy.SKIP:
                    stream.gap = True
                    self._end_waiting(stream, OutcomeStatus.SKIPPED, _GAP)
        self._plan_drop()
        self._bound_blocking()


def _phase_ns(now_ns: int, stream: StreamState) -> int:
    """When its next frame is due after `now_ns`; -1 where that is not known."""
    last_ns, period_ns = stream.arrived_ns, stream.terms.period_ns
    if last_ns < 0 or period_ns <= 0:
        return -1
    return (last_ns - now_ns) % period_ns
