"""The scheduler: decides what runs, when and in which batch, and that every frame gets exactly one outcome.

The scheduler is sans-IO: the host calls `step(now_ns, event)` with facts and carries out the actions that come back,
and it calls again with `TimerFired` at `next_wake_ns()`. The scheduler reads no clock, starts nothing and changes only
itself; equal logs of (now, event) give equal actions.

The law: every frame of a `FramesArrived` is followed by exactly one `ResolveFrame`, whatever else happens.

Theory of operation. Each event updates streams, lanes or models; then every free lane is offered a batch.

    ledger ......... streams, what waits, and how each frame ends
    fusion ......... frames of several streams that run as one: until they are joined, and who else is told
    spare_time ..... frames that nobody waits for, and when they may run
    lanes .......... what runs where
    model_table .... models, their variants, and how long those take

The folders decide. `dispatch` chooses what a free lane does next, `variants` which variant a frame is for, `admission`
whether a stream may open (it asks for `demands` and `plans` here), and `timing` learns how long batches take. This file
decides what needs both frames and lanes: which doomed frame runs as a probe, when an idle lane is warmed again, how a
finished batch updates the profile.
"""

from typing import assert_never

from duly.core.advice import Adviser
from duly.core.dispatch.batch_caps import caps_ns
from duly.core.dispatch.best_effort_share import ClassShares
from duly.core.dispatch.choose import DispatchContext, Hold, foreseen, next_batch, something_waits
from duly.core.dispatch.deferral import may_hold
from duly.core.dispatch.large_frames import Startable
from duly.core.events import (
    Action,
    Advice,
    AdviseStream,
    BatchFailed,
    BatchFinished,
    BatchSizesLimited,
    DrainRequested,
    Event,
    Foreseen,
    FrameRead,
    FrameRefused,
    FramesArrived,
    FramesCancelled,
    FramesTurnedOut,
    LaneDown,
    LaneUp,
    ModelGone,
    ModelReady,
    StreamClosed,
    StreamOpened,
    TimerFired,
    WaitingEvicted,
)
from duly.core.fusion.groups import FusionGroups
from duly.core.lanes import Lanes
from duly.core.ledger import FrameLedger
from duly.core.model_table import ModelTable
from duly.core.spare_time import SpareTime
from duly.core.state import Batch, StreamState, VariantState
from duly.core.types import ModelPlan, StreamClass, StreamDemand, StreamTerms
from duly.core.variants.demand_by_rank import switch_variants
from duly.core.variants.ladder import TICK_NS
from duly.core.waiting import QueuedFrame

PROBE_AFTER_NS = 200_000_000
"""A lane that has not run a variant for this long may run a doomed frame as a probe, as a plan must not prevent its own
correction. While probes show that the plan is spoilt, further ones may follow at once."""
PROBE_SPOILT_PERCENT = 80
"""A probe that takes less than this share of its plan, in percent, shows that the plan is spoilt."""
CRITICAL_MISSED_NS = 1_000_000_000
"""After a CRITICAL frame was missed, CRITICAL frames are under overload's rules for this long."""


class Scheduler:
    def __init__(self) -> None:
        self._actions: list[Action] = []
        """The actions of this step, in order; the ledger and the lanes add theirs."""
        self._models = ModelTable()
        self._frames = FrameLedger(self._models, self._actions)
        self._fusion = FusionGroups(self._models, self._frames, self._actions)
        self._lanes = Lanes(self._actions)
        self._spare = SpareTime(self._models, self._lanes, self._actions)
        self._lane_wake_ns: int | None = None
        """When the next lane that holds, or that is to be warmed, is looked at again; None: there is none."""
        self._tick_ns = 0
        """Variants may be switched again with the first event from this time on."""
        self._adviser = Adviser()
        self._drain_ns: int | None = None
        frames = self._frames
        self._context = DispatchContext(
            variants=frames.queued_variants,
            streams=frames.streams,
            lanes=0,
            lanes_free=0,
            best_effort=False,
            cap_ns={},
            shares=ClassShares(),
            promised=False,
            critical_missed=False,
            merit=frames.merit,
            freshness=frames.freshness,
            models=self._models,
        )
        self._bound_blocking()

    # ---- the whole contract ----

    def step(self, now_ns: int, event: Event) -> list[Action]:
        """Takes in an event and returns what the host is to do about it, in this order. `now_ns` must never go back
        from one call to the next.
        """
        frames, lanes, spare = self._frames, self._lanes, self._spare
        self._actions.clear()
        doomed: dict[int, tuple[QueuedFrame, VariantState]] = {}
        fusion = self._fusion
        if isinstance(event, FramesArrived):
            came = event.frames
            if spare.streams:
                came = spare.arrived(now_ns, came, frames.draining)
            if fusion.members:
                came = fusion.joiner.arrived(now_ns, came, frames.draining)
            alone = len(came) == 1 and lanes.free and not frames.waiting
            for frame in came:
                before = doomed.pop(frame.stream_id, None) if doomed else None
                if before is not None:
                    # A newer frame has come. The older one cannot be a probe either, as no lane is given away before
                    # all frames have come.
                    frames.drop(now_ns, *before)
                arrived = frames.arrived(now_ns, frame)
                if arrived is None:
                    pass  # it has its answer
                elif arrived[0].due_ns < now_ns + arrived[1].single_plan_ns_min:
                    doomed[frame.stream_id] = arrived
                elif not alone or not self._run_alone(now_ns, *arrived):
                    frames.wait(now_ns, *arrived)
        elif isinstance(event, BatchFinished):
            self._batch_finished(now_ns, event)
        else:
            self._happened(now_ns, event)
        if self._drain_ns is not None and now_ns >= self._drain_ns:
            frames.end_all_waiting()
        if fusion.members:
            fusion.joiner.passed(now_ns)
        if frames.drop_ns is not None and now_ns >= frames.drop_ns:
            self._drop_overdue(now_ns)
        if now_ns >= self._tick_ns:
            if self._models.has_variants:
                elapsed_ns = now_ns - self._tick_ns + TICK_NS
                switch_variants(now_ns, elapsed_ns, self._models.by_name, frames.streams.values(), len(lanes.up))
            self._tick_ns = now_ns + TICK_NS
        self._lane_wake_ns = None
        if lanes.free and frames.waiting:
            self._fill(now_ns)
            if self._context.to_read:
                frames.read_apart(self._context.to_read)
        # Frames predicted to miss may still run as probes, on lanes that this event left idle.
        for queued, variant in sorted(doomed.values(), key=_class_of) if doomed else ():
            self._doomed(now_ns, queued, variant)
        if lanes.free and self._models.rewarmed and frames.streams:
            self._warm_idle(now_ns)
        if spare.waiting:
            spare.settle(now_ns, lanes.free > 0 and not frames.waiting and not fusion.joiner.waiting)
        if now_ns >= self._adviser.due_ns and not frames.draining:
            self._actions += self._adviser.tick(now_ns, frames.streams, self._models.by_name, lanes.up)
        if fusion.members:
            fusion.settle()
        return self._actions.copy()

    def next_wake_ns(self) -> int | None:
        """Returns the latest time at which to call `step` with TimerFired; None: nothing is pending."""
        wake_ns = self._frames.drop_ns
        if self._lane_wake_ns is not None and (wake_ns is None or self._lane_wake_ns < wake_ns):
            wake_ns = self._lane_wake_ns
        joiner = self._fusion.joiner
        if joiner.waiting and joiner.wake_ns is not None and (wake_ns is None or joiner.wake_ns < wake_ns):
            wake_ns = joiner.wake_ns
        if self._drain_ns is not None and self._frames.waiting and (wake_ns is None or self._drain_ns < wake_ns):
            wake_ns = self._drain_ns
        if self._spare.waiting:
            spare_ns = self._spare.wake_ns()
            if spare_ns is not None and (wake_ns is None or spare_ns < wake_ns):
                wake_ns = spare_ns
        return wake_ns

    def foresee(self, lane: str, now_ns: int) -> Foreseen | None:
        """Returns what the lane would run next, if it ends what it runs when that usually ends, and nothing happens
        until then. None: it runs nothing, nothing waits for it, or another lane is expected to take that before. It
        changes nothing, so whether the host asks has no effect on what is decided.
        """
        running = self._lanes.batch_on(lane)
        if running is None or not self._frames.waiting:
            return None
        ends_ns = _ends_ns(running)
        batch = foreseen(max(now_ns, ends_ns), lane, len(self._lanes.up), self._context)
        if batch is None:
            return None
        for other, state in self._lanes.up.items():
            sooner = self._lanes.batch_on(other) if other != lane and state.batch_id is not None else None
            if sooner is not None and other in batch.variant.profiles and _ends_ns(sooner) < ends_ns:
                return None
        variant = batch.variant
        full = len(batch.frames) == variant.profiles[lane].batch_max
        return Foreseen(lane, variant.model, variant.name, [queued.frame for queued in batch.frames], full)

    def _terms(self) -> dict[int, StreamTerms]:
        """The terms of all open streams but those of spare time, by the ids with which their frames come."""
        groups, members = self._fusion.joiner.groups, self._fusion.members
        terms = {
            stream_id: stream.terms for stream_id, stream in self._frames.streams.items() if stream_id not in groups
        }
        return terms | {stream_id: member.terms for stream_id, member in members.items()}

    # ---- for statistics and admission ----

    def frames_waiting_by_model(self) -> dict[str, int]:
        """Returns how many frames wait for each model. It may be called from any thread."""
        return {
            name: sum(variant.waiting.count for variant in list(model.variants.values()))
            for name, model in list(self._models.by_name.items())
        }

    def frames_demoted_by_model(self) -> dict[str, int]:
        """Returns how many frames came faster than their streams' stated periods. It may be called from any thread."""
        return dict(self._frames.demoted)

    def planned_one_ns(self, model: str, rank_max: int) -> int:
        """Returns the planned execution time of a batch of one, in the fastest variant up to that rank on the fastest
        lane; 0 where no lane serves the model.
        """
        return self._models.planned_one_ns(model, rank_max)

    def planned_ns(self, model: str, lane: str, variant: str | None = None) -> list[int]:
        """Returns the planned execution times of batches of 1, 2, ... on that lane, for the named variant or else the
        most accurate one that the lane serves. The list is empty where the lane does not serve it.
        """
        return self._models.planned_ns(model, lane, variant)

    def lane_count(self) -> int:
        return len(self._lanes.up)

    def plans(self) -> dict[str, ModelPlan]:
        """Returns the plans that admission counts with, by model: for each variant that of its slowest lane."""
        return self._models.plans(self._lanes.up, self._frames.extras_ns())

    def demands(self, now_ns: int) -> list[StreamDemand]:
        """Returns the open streams as admission counts them, with the phases that were measured."""
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
                pinned=stream.terms.pinned,
            )
            for stream_id, stream in self._frames.streams.items()
        ]

    # ---- what happens ----

    def _happened(self, now_ns: int, event: Event) -> None:
        """Handles every event but frames that arrive and batches that finish."""
        match event:
            case BatchFailed():
                self._batch_failed(now_ns, event.batch_id, event.reason)
            case StreamOpened() if event.terms.spare:
                self._spare.opened(now_ns, event.stream_id, event.terms, self._terms())
            case StreamOpened():
                self._spare.other_opened(now_ns, event.stream_id, event.terms)
                if event.terms.fusion is None:
                    self._frames.opened(event)
                else:
                    self._fusion.opened(event.stream_id, event.terms, event.terms.fusion)
                self._bound_blocking()
            case StreamClosed():
                self._spare.closed(event.stream_id)
                if event.stream_id in self._fusion.members:
                    self._fusion.closed(now_ns, event.stream_id)
                else:
                    self._frames.closed(event.stream_id)
                self._bound_blocking(closed=True)
            case FrameRefused():
                if event.stream_id in self._fusion.members:
                    self._fusion.refused(event.stream_id, event.captured_ns)
                else:
                    self._frames.refused(event.stream_id)
            case FramesCancelled():
                if event.stream_id in self._fusion.members:
                    self._fusion.cancelled(now_ns, event.stream_id, event.frame_ids)
                else:
                    self._frames.cancelled(now_ns, event)
            case WaitingEvicted():
                if event.stream_id in self._fusion.members:
                    self._fusion.evicted(now_ns, event.stream_id)
                else:
                    self._frames.evicted(now_ns, event.stream_id)
            case FrameRead():
                self._frames.was_read(now_ns, event)
            case FramesTurnedOut():
                fused = event.stream_id in self._fusion.members
                turned_out = self._fusion.as_group(event) if fused else event
                if turned_out is not None:
                    self._frames.turned_out(now_ns, turned_out)
            case LaneUp():
                self._lanes.came_up(now_ns, event.lane)
            case LaneDown():
                for name in list(self._models.by_name):
                    self._model_gone(now_ns, name, event.lane, event.reason)
                self._lanes.went_down(event.lane)
            case ModelReady():
                self._model_ready(now_ns, event)
            case ModelGone():
                if event.model in self._models.by_name:
                    self._model_gone(now_ns, event.model, event.lane, event.reason, event.back_ns, event.innocent)
            case BatchSizesLimited():
                self._models.limited(event)
                self._frames.plan_drop()
                self._bound_blocking()
            case DrainRequested():
                self._drain_ns = event.until_ns
                self._frames.draining = self._context.draining = True
                self._fusion.joiner.drains()
                self._spare.end_all()
                for stream_id in self._frames.streams:
                    self._actions.append(AdviseStream(stream_id, Advice.DRAINING, "the server stops"))
            case TimerFired() | FramesArrived() | BatchFinished():
                pass  # a timer only lets time pass, and `step` handles the other two itself
            case _:
                assert_never(event)

    def _model_ready(self, now_ns: int, event: ModelReady) -> None:
        lane = self._lanes.up.get(event.lane)
        if lane is not None:
            variant = self._models.ready(event, lane.speed)
            variant.probe_ns[event.lane] = now_ns + PROBE_AFTER_NS
            self._frames.plan_drop()
            self._bound_blocking()

    def _model_gone(
        self, now_ns: int, name: str, lane: str | None, reason: str, back_ns: int = 0, innocent: bool = False
    ) -> None:
        """Takes the model off that lane, or unloads it for good where `lane` is None."""
        lost: list[Batch] = []
        for batch_id in self._lanes.running(name, lane):
            if back_ns and lane is not None:
                batch = self._lanes.ended(now_ns, batch_id)
                if batch is not None:
                    lost.append(batch)
            else:
                self._batch_failed(now_ns, batch_id, reason)
        if lane is None:
            self._frames.unloaded(now_ns, name, reason)
            self._spare.unloaded(name, reason)
            self._fusion.unloaded(name, reason)
            self._models.unloaded(name)
        else:
            self._models.gone(name, lane)
            for batch in lost:
                self._batch_lost(now_ns, batch, reason, back_ns, innocent)
            self._frames.requeue(now_ns, name)
        self._frames.state_lost(name, lane)
        self._frames.plan_drop()
        self._bound_blocking()

    def _bound_blocking(self, *, closed: bool = False) -> None:
        """Computes the caps of batches again after streams, or the plans of single frames, have changed. What CRITICAL
        streams were promised rests on the caps at that time, so that while one is open caps only fall, unless a stream
        has `closed`.
        """
        context, tightest_ns = self._context, self._frames.tightest_ns()
        caps = caps_ns(tightest_ns, self._models.longest_one_ns(self._frames.models_open))
        if StreamClass.CRITICAL in tightest_ns and context.promised and not closed:
            caps = {stream_class: min(cap_ns, context.cap_ns[stream_class]) for stream_class, cap_ns in caps.items()}
        context.cap_ns = caps
        context.promised = StreamClass.CRITICAL in tightest_ns
        self._context.best_effort = StreamClass.BEST_EFFORT in tightest_ns
        self._context.floors = self._frames.floors

    # ---- free lanes ----

    def _fill(self, now_ns: int) -> None:
        """Gives the free lanes the batches that they are to run, if any."""
        context, frames, lanes = self._context, self._frames, self._lanes
        missed_ns = frames.critical_missed_ns
        context.critical_missed = missed_ns is not None and now_ns - missed_ns < CRITICAL_MISSED_NS
        context.lanes = len(lanes.up)
        again = True
        while again:
            again, self._lane_wake_ns = False, None
            for lane, state in lanes.up.items():
                if state.batch_id is None:
                    context.lanes_free = lanes.free
                    chosen = next_batch(now_ns, lane, context)
                    if isinstance(chosen, Batch):
                        frames.take(chosen)
                        self._start(now_ns, lane, chosen)
                        # The frames that another lane holds for may have gone with this batch.
                        again = self._lane_wake_ns is not None
                        if not frames.waiting:
                            break
                    elif isinstance(chosen, Hold) and (
                        self._lane_wake_ns is None or chosen.until_ns < self._lane_wake_ns
                    ):
                        self._lane_wake_ns = chosen.until_ns

    def _run_alone(self, now_ns: int, queued: QueuedFrame, variant: VariantState) -> bool:
        """Runs a frame that came alone at once, while nothing waits and a lane is free; `next_batch` would do the same.
        Returns False where there is something to weigh, or where no free lane serves the frame in time.
        """
        context, lanes_up = self._context, len(self._lanes.up)
        if (
            queued.extra_ns
            or variant.stateful
            or context.best_effort
            or (lanes_up > 1 and may_hold(lanes_up, 1, lanes_up))
        ):
            return False
        for lane, state in self._lanes.up.items():
            if state.batch_id is None and lane in variant.profiles:
                planned_ns = variant.profiles[lane].plan_ns[1]
                if queued.frame.deadline_ns >= now_ns + planned_ns:
                    self._start(now_ns, lane, Batch(variant, [queued], planned_ns))
                    return True
        return False

    def _drop_overdue(self, now_ns: int) -> None:
        frames = self._frames
        overdue = frames.overdue(now_ns)
        if self._models.has_variants:
            # All that can be in time elsewhere wait there before any lane is given to what cannot.
            overdue = [late for late in overdue if not frames.rescue(now_ns, *late)]
        for queued, variant in sorted(overdue, key=_class_of):
            if frames.remove(queued):
                self._doomed(now_ns, queued, variant)
        self._frames.plan_drop()

    def _doomed(self, now_ns: int, queued: QueuedFrame, variant: VariantState) -> None:
        """Drops a frame that no lane can serve in time by its plan, in any variant, or runs it all the same on a lane
        that has nothing else to do.
        """
        lane = self._probe_lane(now_ns, queued, variant) if self._lanes.free else None
        if lane is None:
            self._frames.drop(now_ns, queued, variant)
        else:
            planned_ns = variant.profiles[lane].plan_ns[1] + queued.extra_ns
            probe = now_ns > variant.probe_ns[lane] and not queued.extra_ns
            self._start(now_ns, lane, Batch(variant, [queued], planned_ns, probe=probe))

    def _probe_lane(self, now_ns: int, queued: QueuedFrame, variant: VariantState) -> str | None:
        """Returns a lane that has nothing else to do and may run the frame against its plan: one that has not run the
        variant for long, or that usually is quick enough for the frame, or any if the plan is a guess from the sizes of
        other frames. None: there is no such lane.
        """
        frame = queued.frame
        left_ns = frame.deadline_ns - now_ns
        if queued.reading:
            return None
        guess = frame.untried and queued.extra_ns > 0
        if queued.extra_ns:
            startable = Startable(now_ns, self._frames.streams, self._models)
            if variant.single_plan_ns_max + queued.extra_ns > startable.limit_ns(queued.stream_class):
                return None
        for lane in variant.profiles:
            usual_ns = variant.profiles[lane].usual_one_ns + queued.extra_ns
            due = left_ns >= usual_ns or (left_ns > 0 and (guess or now_ns > variant.probe_ns[lane]))
            may_start = not variant.stateful or self._frames.streams[frame.stream_id].may_start(queued, variant, lane)
            if due and may_start and self._lanes.is_free(lane) and not something_waits(now_ns, lane, self._context):
                return lane
        return None

    def _warm_idle(self, now_ns: int) -> None:
        """Runs zeros on lanes that have been idle for so long that they would be slow at first, and notes when the next
        one is due.
        """
        for lane, state in self._lanes.up.items():
            if state.batch_id is not None:
                continue
            warmed = [variant for variant in self._models.rewarmed if lane in variant.profiles]
            if not warmed:
                continue
            shortest_ns = min([variant.profiles[lane].plan_ns[1] for variant in warmed])
            shortest = next(variant for variant in warmed if variant.profiles[lane].plan_ns[1] == shortest_ns)
            warm_ns = state.ended_ns + shortest.warm_after_ns
            if warm_ns > now_ns:
                if self._lane_wake_ns is None or warm_ns < self._lane_wake_ns:
                    self._lane_wake_ns = warm_ns
            elif not something_waits(now_ns, lane, self._context):  # else the lane holds for what waits
                self._lanes.warm(now_ns, lane, shortest)

    # ---- batches ----

    def _start(self, now_ns: int, lane: str, batch: Batch) -> None:
        """Starts a batch whose frames are in no queue."""
        self._frames.started(now_ns, lane, batch)
        self._lanes.start(now_ns, lane, batch)
        batch.variant.probe_ns[lane] = now_ns + PROBE_AFTER_NS
        if self._frames.waiting:
            self._note_outranked(now_ns, lane, batch)

    def _note_outranked(self, now_ns: int, lane: str, batch: Batch) -> None:
        """Notes which waiting variants the batch was preferred to, so that the reason of a frame that misses can say
        so, and counts the batch for the share of BEST_EFFORT.
        """
        most_critical = batch.frames[0].stream_class
        best_effort_waits = False
        for other in self._frames.queued_variants:
            if lane in other.profiles:
                best_effort_waits |= bool(other.waiting.by_class[StreamClass.BEST_EFFORT])
                if batch.by_overload:
                    other.passed_over_ns = now_ns
                if most_critical is not StreamClass.BEST_EFFORT:
                    other.outranked_ns[StreamClass.BEST_EFFORT] = now_ns
                    if most_critical is StreamClass.CRITICAL:
                        other.outranked_ns[StreamClass.STANDARD] = now_ns
        self._context.shares.began(most_critical, batch.planned_ns, best_effort_waits)

    def _batch_finished(self, now_ns: int, event: BatchFinished) -> None:
        batch = self._lanes.ended(now_ns, event.batch_id)
        if batch is None or not batch.frames:  # a lane that was warmed has run no frames
            return
        if batch.spare:
            self._spare.finished(now_ns, batch, event)
            return
        if batch.variant.stateful:
            self._frames.ended(batch)
        # Frames that did not run say nothing about how long a batch of that size takes.
        if not event.invalid and not event.failed and event.extra_ns >= 0:
            finished_ns = now_ns if event.finished_ns is None else event.finished_ns
            self._learn(now_ns, batch, finished_ns - batch.started_ns - event.extra_ns)
        self._frames.finished(now_ns, batch, event)

    def _batch_failed(self, now_ns: int, batch_id: int, reason: str) -> None:
        batch = self._lanes.ended(now_ns, batch_id)
        if batch is not None and batch.spare:
            self._spare.failed(batch, reason)
        elif batch is not None:
            if batch.variant.stateful:
                self._frames.ended(batch)
            self._frames.failed(now_ns, batch, reason)

    def _batch_lost(self, now_ns: int, batch: Batch, reason: str, back_ns: int, innocent: bool) -> None:
        """Ends a batch whose worker is gone, or lets its frames wait again, so that they run one by one: whichever the
        worker died of then takes no other with it. In a drain there is no time for that. `back_ns`: by when there is
        another worker. `innocent`: it died of none of them.
        """
        if batch.variant.stateful:
            self._frames.ended(batch)
        if batch.spare:
            self._spare.failed(batch, reason)
            return
        tried = len(batch.frames) < 2 and not (innocent and any([not queued.alone for queued in batch.frames]))
        if tried or batch.variant.stateful or self._frames.draining:
            self._frames.failed(now_ns, batch, reason)
            return
        start_ns = now_ns if batch.variant.profiles else max(now_ns, back_ns)
        one_ns = batch.planned_ns  # more than one of them takes
        self._frames.retried(now_ns, batch, reason, start_ns + one_ns)

    def _learn(self, now_ns: int, batch: Batch, actual_ns: int) -> None:
        lane, variant = batch.lane, batch.variant
        profile = variant.profiles.get(lane)
        if profile is None:
            return
        if batch.probe and actual_ns * 100 < batch.planned_ns * PROBE_SPOILT_PERCENT:
            variant.probe_ns[lane] = now_ns
        before, planned_ns, longest_ns = profile.plan_ns, variant.single_plan_ns_min, variant.single_plan_ns_max
        lane_changed = profile.observe(len(batch.frames), actual_ns, after_idle=batch.after_idle, probe=batch.probe)
        if profile.plan_ns is before:
            return
        if lane_changed:
            self._models.refit(lane, variant)
            self._frames.plan_drop()
        variant.plan()
        if variant.single_plan_ns_min > planned_ns:
            self._frames.plan_drop()
        if lane_changed or variant.single_plan_ns_max != longest_ns:
            self._bound_blocking()


def _class_of(doomed: tuple[QueuedFrame, VariantState]) -> StreamClass:
    return doomed[0].stream_class


def _ends_ns(batch: Batch) -> int:
    """Returns when a batch that runs should end, as such batches usually do."""
    profile = batch.variant.profiles.get(batch.lane)
    if profile is None or not 0 < len(batch.frames) <= profile.batch_max:
        return batch.started_ns + batch.planned_ns
    size = len(batch.frames)
    return batch.started_ns + profile.usual_ns[size] + max(0, batch.planned_ns - profile.plan_ns[size])


def _phase_ns(now_ns: int, stream: StreamState) -> int:
    """Returns how long after `now_ns` the stream's next frame is due, in ns; -1 where that is not known."""
    last_ns, period_ns = stream.arrived_ns, stream.terms.period_ns
    if last_ns < 0 or period_ns <= 0:
        return -1
    return (last_ns - now_ns) % period_ns
