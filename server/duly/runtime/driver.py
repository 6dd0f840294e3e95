"""The only caller of the scheduler: reads the clock, calls `step`, carries out what comes back, keeps the one timer.

Everything here runs on the event loop. Frames that come within one turn of the loop go to the scheduler together, so
that they share a batch rather than the first one running alone. Dispatches of a step are carried out before its
resolutions, so that a lane never waits for outcomes to be delivered. The outputs of the batch that ended stay readable
in the worker's other slot.

Everything goes through `_step`, and nothing raises out of it. A batch that can't be handed to its worker fails, a sink
that raises loses its stream, and a recorder that raises is let go. Any other exception there means that the scheduler,
or this file, is wrong about what runs: every frame that is held is answered FAILED, workers that run something are
given up, and a fresh scheduler takes over from the facts. Workers are given up rather than waited for, because a lane
whose scheduler does not know what runs on it looks like a silent one; the cost is a reload of the model.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import assert_never

import structlog

from duly.core.events import (
    Advice,
    AdviseStream,
    BatchFailed,
    BatchFinished,
    BatchSizesLimited,
    DispatchBatch,
    Event,
    FrameRead,
    FramesArrived,
    ModelGone,
    ReadApart,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
    TimerFired,
    WarmLane,
)
from duly.core.scheduler import Scheduler
from duly.core.types import Frame, StreamTerms, pieces_of
from duly.metrics import Metrics
from duly.runtime.awake import BATCH_NS_MAX, Awake
from duly.runtime.blame import Blame
from duly.runtime.delivery import Delivery
from duly.runtime.facts import Facts
from duly.runtime.frame_costs import FrameCosts
from duly.runtime.hand_over import HandOver
from duly.runtime.held_frames import HeldFrame, HeldFrames, InputData
from duly.runtime.outcome import BatchRun, Outcome, Sink, Tap
from duly.runtime.recorder import Recorder, SafeRecorder
from duly.runtime.staging import Staging
from duly.runtime.worker_port import BatchResult, LaneWorker, NoRoom

_log = structlog.get_logger("duly.driver")

TIMER_NS_MIN = 1_000_000
"""The shortest timer, because libuv's timers count in milliseconds."""
FAILURES_MAX = 5
FAILURES_NS = 60_000_000_000
"""A scheduler that fails more than FAILURES_MAX times within FAILURES_NS will go on failing. Every failure costs all
frames in flight and reloads of models, so that streams are better off at another server or a fresh process. Fewer
failures may be one odd chain of events."""


NOT_CARRIED = "the state of the stream could not be carried over from the version before"


class Driver:
    def __init__(
        self,
        metrics: Metrics,
        payload_bytes_max: int,
        clock: Callable[[], int] = time.monotonic_ns,
        record: Recorder | None = None,
        fatal: Callable[[str], None] = lambda reason: None,
        unheard: Callable[[int, Outcome], None] = lambda now_ns, outcome: None,
        *,
        stay_awake: bool = False,
        copy_ahead: bool = True,
    ) -> None:
        """`clock` gives nanoseconds that never go back. `fatal(reason)` is called when the process should drain and
        end, `unheard(now_ns, outcome)` for each outcome of a stream that has closed, which nobody else hears of.
        `stay_awake`: whether nothing sleeps while something is about to happen (`awake`). `copy_ahead`: whether frames
        are brought to their lanes before their batches begin (`staging`).
        """
        self.scheduler = Scheduler()
        self.held = HeldFrames(payload_bytes_max)
        self.costs: dict[str, FrameCosts] = {}
        """What frames take beyond usual ones, for the models whose frames have several sizes."""
        self.read_apart: dict[str, Callable[[HeldFrame], None]] = {}
        """What reads frames beside the lanes and reports to `frame_read`, for the models where that can be."""
        self.limited: Callable[[BatchSizesLimited], None] = lambda limit: None
        """Is told of each limit of batches, once it holds."""
        self.blame = Blame()
        self.seqs = count(1)
        """Gives the next number for a frame."""
        self.clock = clock
        self._recording = SafeRecorder(record) if record is not None else None
        self._fatal = fatal
        self._facts = Facts()
        self._failures: deque[int] = deque(maxlen=FAILURES_MAX + 1)
        """The last times at which the scheduler failed, in ns."""
        self._loop = asyncio.get_running_loop()
        self._awake = Awake(clock) if stay_awake else None
        self._workers: dict[tuple[str, str], LaneWorker] = {}
        self._copy_ahead = copy_ahead
        self._staging = Staging(
            lambda lane: self.scheduler.foresee(lane, clock()),
            self._workers,
            self.held,
            self.read_apart.__contains__,
            clock,
            metrics,
        )
        self._delivery = Delivery(metrics, self.held, self._close_soon, unheard)
        self._runs: dict[int, BatchRun] = {}
        self._hand_overs: dict[int, HandOver] = {}
        """The batches of `_runs` that have not begun yet, since states of their streams are on their way."""
        self._warming: dict[int, WarmLane] = {}
        self._arrivals: list[Frame] = []
        """The frames that have come in this turn of the loop."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._stream_id = 0
        self._answered: asyncio.Future[None] | None = None
        """Done when the next frames are answered, if anybody waits for that."""

    # ---- for streams ----

    def open_stream(self, sink: Sink, terms: StreamTerms) -> int:
        self._stream_id += 1
        self._delivery.sinks[self._stream_id] = sink
        self.submit(StreamOpened(self._stream_id, terms))
        return self._stream_id

    def open_group(self, sink: Sink) -> int:
        """Returns an id for the stream of a fusion group, to which joint frames belong. It is open as long as a member
        is; `sink` hears what the group is told of, and no outcomes, which go to the members.
        """
        self._stream_id += 1
        self._delivery.sinks[self._stream_id] = sink
        return self._stream_id

    def close_stream(self, stream_id: int) -> None:
        """Answers the stream's waiting frames CANCELLED before it returns. Those that run are answered when their batch
        ends.
        """
        self.submit(StreamClosed(stream_id))
        self.forget_stream(stream_id)

    def forget_stream(self, stream_id: int) -> None:
        """Forgets a stream that has closed, or a group whose last member has."""
        self._delivery.sinks.pop(stream_id, None)
        self.blame.forget(stream_id)
        for worker in list(self._workers.values()):
            try:
                worker.forget(stream_id)
            except Exception:
                _log.exception("worker cannot be told to forget a stream", model=worker.model, lane=worker.lane)

    def _close_soon(self, stream_id: int) -> None:
        """Closes the stream on a later turn of the loop, as a step must not be entered from within a step."""
        self._loop.call_soon(self.close_stream, stream_id)

    def take_frame(self, held: HeldFrame) -> None:
        """Takes a frame, whose number must come from `seqs`. Its outcome goes to the sink of its stream on a later turn
        of the loop.
        """
        self.held.put(held)
        if self._awake is not None:
            self._awake.came()
        self._arrivals.append(held.frame)
        if len(self._arrivals) == 1:
            self._loop.call_soon(self._admit)

    def expect_frame(self, model: str, ns: int) -> None:
        """A frame for that model is due in so long."""
        if self._awake is not None:
            self._awake.expect(ns, partial(self._rouse, model))

    def _rouse(self, model: str) -> None:
        for worker in self._workers.values():
            if worker.model == model:
                worker.rouse()

    def sink(self, stream_id: int) -> Sink | None:
        """Returns where outcomes of a stream go; None: it has closed."""
        return self._delivery.sinks.get(stream_id)

    def add_tap(self, tap: Tap) -> None:
        """Shows `tap` each frame that has a result from now on, until it raises again and again."""
        self._delivery.taps = [*(self._delivery.taps or ()), tap]

    def has_tap(self, tap: Tap) -> bool:
        """Whether it still looks at frames: one that raises again and again is let go."""
        return tap in (self._delivery.taps or ())

    def remove_tap(self, tap: Tap) -> None:
        """Shows `tap` no more frames."""
        self._delivery.taps = [other for other in self._delivery.taps or () if other != tap] or None

    # ---- for workers ----

    def add_worker(self, worker: LaneWorker) -> None:
        self._workers[worker.model, worker.lane] = worker
        if self._copy_ahead:
            self._staging.add(worker)
        if self._awake is not None:
            worker.rouse()

    def remove_worker(self, worker: LaneWorker) -> None:
        if self._workers.get((worker.model, worker.lane)) is worker:
            del self._workers[worker.model, worker.lane]
        for action in list(self._warming.values()):
            if (action.model, action.lane) == (worker.model, worker.lane):
                del self._warming[action.batch_id]

    def worker_ended(self, worker: LaneWorker, reason: str, back_s: float, blameless: bool = False) -> None:
        """Takes the worker's place away, as it has ended unasked, and finds out whose fault that may be. `reason`: why
        what ran on it is FAILED. `back_s`: when to expect another, in seconds. `blameless`: it is known that no frame
        is to blame, so that one that ran alone is tried once more.
        """
        self.remove_worker(worker)
        now_ns = self.clock()
        place = worker.model, worker.lane
        run = next((run for run in self._runs.values() if (run.batch.model, run.batch.lane) == place), None)
        if run is not None and run.batch.batch_id not in self._hand_overs and not blameless:
            reason += self._put_blame(now_ns, run.batch)
        self.submit(ModelGone(worker.model, worker.lane, reason, now_ns + int(back_s * 1e9), blameless))
        if run is not None and self._runs.get(run.batch.batch_id) is run:
            del self._runs[run.batch.batch_id]  # as all of its frames wait again

    def _put_blame(self, now_ns: int, batch: DispatchBatch) -> str:
        """Notes that a worker died while it ran the batch. Returns what to add to the reason for that."""
        tried = []
        principal = ""
        for frame in batch.frames:
            helds = self.held.of((frame,))
            if helds:
                tried.append((frame.stream_id, helds[0].worker_died))
                principal = helds[0].principal
            for held in helds:
                held.worker_died = True
        is_open = [each for each in tried if each[0] in self._delivery.sinks]
        barred = self.blame.died(now_ns, is_open, alone=len(tried) == 1)
        if len(tried) == 1:
            (stream_id, again), (frame,) = tried[0], batch.frames
            _log.warning(
                "worker died of a frame that ran alone",
                model=batch.model,
                lane=batch.lane,
                stream=stream_id,
                frame=frame.frame_id,
                again=again,
            )
            if self.blame.died_alone(now_ns, principal, batch.model, stream_id):
                text = "new streams of a client are barred, workers die of frames of its streams"
                _log.error(text, model=batch.model, principal=principal)
        for stream_id in barred:
            _log.error("stream is barred, workers die of its frames", model=batch.model, stream=stream_id)
        certain = len(tried) == 1 and tried[0][1]
        return "; the frame ran alone, and a worker had ended before while it ran it" if certain else ""

    def batch_ended(self, batch_id: int, result: BatchResult | NoRoom | str) -> None:
        """Takes the report of a worker on a batch: its result, or why it failed."""
        running = self._runs.get(batch_id)
        if running is None and self._warming.pop(batch_id, None) is None:
            return
        if isinstance(result, NoRoom):
            if running is not None and result.size_max:
                self._limit(running.batch, result.size_max)  # before the lane is free for another such batch
                if self._runs.get(batch_id) is not running:
                    return
            result = result.reason
        if isinstance(result, str):
            self._step(BatchFailed(batch_id, result), None)
            return
        event = BatchFinished(batch_id, finished_ns=result.finished_ns)
        if running is None:
            self._step(event, None)
            return
        if not self.blame.peaceful:
            self.blame.went_well([frame.stream_id for frame in running.batch.frames])
            for frame in running.batch.frames:
                for held in self.held.of((frame,))[:1]:
                    if frame.stream_id in self._delivery.sinks:
                        self.blame.went_well_for(held.principal, running.batch.model, frame.stream_id)
        running.started_ns, running.finished_ns = result.started_ns, result.finished_ns
        if result.invalid or result.failed:
            frames = running.batch.frames
            event.invalid = {frames[i].seq: reason for i, reason in result.invalid.items()}
            event.failed = {frames[i].seq: reason for i, reason in result.failed.items()}
        if result.guards is not None:
            ran = running.batch.frames
            running.guards = {
                piece.seq: names for index, names in result.guards.items() for piece in pieces_of(ran[index])
            }
        event.failed |= running.stateless
        costs = self.costs.get(running.batch.model)
        if costs is not None:
            frames = running.batch.frames
            larger = [frame.extra_ns > 0 for frame in frames]
            ran_ns = result.finished_ns - result.started_ns
            whole = not result.invalid and not result.failed
            event.extra_ns = costs.observe(self.held.payloads(frames), larger, result.read_ns, ran_ns, whole)
        if running.batch.moves_state:
            event.extra_ns = -1  # how long the states were on their way says nothing about the model
        self._step(event, result)

    def _limit(self, batch: DispatchBatch, size_max: int) -> None:
        """Has the variant of that batch run only smaller ones on its lane, until its worker is replaced."""
        limit = BatchSizesLimited(batch.model, batch.lane, batch.variant, size_max)
        _log.warning(
            "batches are smaller from now on, for want of memory",
            model=batch.model,
            lane=batch.lane,
            variant=batch.variant,
            failed=len(batch.frames),
            size_max=size_max,
        )
        self.submit(limit)
        self.limited(limit)

    # ---- for what reads beside the lanes ----

    def _read_apart(self, frame: Frame) -> None:
        for held in self.held.of((frame,)):
            read = self.read_apart.get(frame.model)
            if read is None:
                self.frame_read(held)
            else:
                read(held)

    def frame_read(
        self, held: HeldFrame, payload: Sequence[InputData] | None = None, invalid: str = "", failed: str = ""
    ) -> None:
        """Takes a frame that was read beside the lanes, as the `payload` of a usual one. Without one and without a
        reason it could not be read there, and waits for a lane that can.
        """
        frame = held.frame
        done = payload is not None and self.held.replace(held, payload)
        extra_ns = frame.extra_ns - frame.apart_ns if done else frame.extra_ns
        self.submit(FrameRead(frame.stream_id, frame.frame_id, extra_ns, invalid, failed))

    # ---- the loop ----

    def submit(self, event: Event) -> None:
        self._facts.note(event)
        self._step(event, None)

    async def drained(self) -> None:
        """Returns when no frame is unanswered."""
        while self.held:
            await self._some_answered(None)

    async def finished(self, models: Collection[str], seconds: float) -> None:
        """Returns when no frame of these versions is unanswered, or after so many seconds."""
        until_s = self._loop.time() + seconds
        while self.held.any_of(models) and (left_s := until_s - self._loop.time()) > 0:
            await self._some_answered(left_s)

    async def _some_answered(self, seconds: float | None) -> None:
        if self._answered is None:
            self._answered = self._loop.create_future()
        await asyncio.wait([self._answered], timeout=seconds)  # several may wait for it

    def stop_running(self, reason: str) -> None:
        """Ends a drain: answers every frame that is still held. Frames that run are FAILED with `reason`, and their
        workers are given up. Nothing runs from then on.
        """
        self.submit(TimerFired())  # what waits is SHED by the scheduler, whose drain is over
        self._facts.nothing_runs_any_more()
        self._start_anew(reason)

    def _admit(self) -> None:
        if self._arrivals:
            frames, self._arrivals = self._arrivals, []
            self._step(FramesArrived(frames), None)
            self._staging.changed()

    def _step(self, event: Event, result: BatchResult | None) -> None:
        if self._arrivals:
            self._admit()  # frames that came before the event go before it
        now_ns = self.clock()
        try:
            self._carry_out(now_ns, event, result)
        except Exception:
            self._failed(now_ns, event)

    def _carry_out(self, now_ns: int, event: Event, result: BatchResult | None) -> None:
        """Passes the event to the scheduler and carries out its actions. Whatever is raised here is a bug of the
        scheduler or of this file.
        """
        if self._recording is not None:
            self._recording.event(now_ns, event)
        actions = self.scheduler.step(now_ns, event)
        if self._recording is not None:
            self._recording.actions(actions)
        resolved: list[ResolveFrame] = []
        for action in actions:
            match action:
                case ResolveFrame():
                    resolved.append(action)
                case DispatchBatch():
                    self._dispatch(now_ns, action)
                case WarmLane():
                    self._warm(action)
                case ReadApart():
                    self._loop.call_soon(self._read_apart, action.frame)  # it may report at once
                case AdviseStream():
                    self._delivery.advise(action)
                case _:
                    assert_never(action)
        if resolved:
            self._delivery.resolve(now_ns, resolved, self._runs, result)
            if self._answered is not None:
                self._tell_answered()
        wake_ns = self.scheduler.next_wake_ns()
        if wake_ns is not None and (self._timer is None or wake_ns < self._timer_ns):
            self._arm(now_ns, wake_ns)

    # ---- actions ----

    def _dispatch(self, now_ns: int, action: DispatchBatch) -> None:
        self._runs[action.batch_id] = BatchRun(action, now_ns)
        if action.moves_state:
            hand_over = HandOver(action, self._workers, self._handed_over)
            self._hand_overs[action.batch_id] = hand_over
            try:
                waits = hand_over.start()
            except Exception:  # what was not asked for does not come
                _log.exception("states cannot be asked for", model=action.model, lane=action.lane)
                waits = False
            if not waits:
                self._handed_over(hand_over)
        else:
            self._begin(action, None)

    def _handed_over(self, hand_over: HandOver) -> None:
        """Starts the batch, whose states have come as far as they come at all, unless it has ended meanwhile."""
        action = hand_over.action
        if self._hand_overs.get(action.batch_id) is hand_over:
            del self._hand_overs[action.batch_id]
        run = self._runs.get(action.batch_id)
        if run is not None and run.batch is action:
            self._begin(action, hand_over)
        hand_over.close()

    def _begin(self, action: DispatchBatch, hand_over: HandOver | None) -> None:
        worker = self._workers.get((action.model, action.lane))
        try:
            payloads = self.held.payloads(action.frames)
            asked = action
            if worker is not None and hand_over is not None:
                lost = self._without_state(action, hand_over.give_to(worker))
                asked = replace(action, resets_state=(*action.resets_state, *lost))
            if worker is not None and worker.run(asked, payloads, self.held.last_of(action.frames)):
                for frame in action.frames if hand_over is not None else ():
                    if frame.stream_id not in self._delivery.sinks:  # it has closed while the state was on its way
                        worker.forget(frame.stream_id)
                self._staging.began(action, worker)
                if self._awake is not None:
                    self._stay_awake_for(self._awake, worker, action)
                return
            reason = "the worker is gone"
        except Exception as error:
            _log.error("batch not started", model=action.model, lane=action.lane, reason=_told(error))
            reason = "the batch could not be handed to its worker"
        # A step must not be entered from within a step.
        self._loop.call_soon(self._not_started, action, reason)

    def _stay_awake_for(self, awake: Awake, worker: LaneWorker, action: DispatchBatch) -> None:
        """Waits for a short batch without sleeping, where there is nothing else to do meanwhile."""
        if action.planned_ns <= BATCH_NS_MAX and len(self.held) == len(action.frames):
            awake.wait_for(partial(worker.has_answered, action.batch_id))

    def _without_state(self, action: DispatchBatch, lost: dict[int, int]) -> list[int]:
        """Tells streams that start anew since their state was lost on its way, and has frames fail where the stream
        insists on its state. `lost`: the streams, by the seq of their frames. Returns these seqs.
        """
        run = self._runs[action.batch_id]
        run.lost_state = tuple(lost)
        for seq, stream_id in lost.items():
            if self._facts.skips(stream_id):
                run.stateless[seq] = NOT_CARRIED
            else:
                told = f"{NOT_CARRIED}; it starts anew"
                self._delivery.advise(AdviseStream(stream_id, Advice.VERSION_CHANGED, told))
        if lost:
            _log.warning("states not carried over", model=action.model, lane=action.lane, streams=len(lost))
        return list(lost)

    def _warm(self, action: WarmLane) -> None:
        self._warming[action.batch_id] = action
        worker = self._workers.get((action.model, action.lane))
        try:
            if worker is not None and worker.warm(action):
                return
        except Exception as error:
            _log.error("lane not warmed", model=action.model, lane=action.lane, reason=_told(error))
        self._loop.call_soon(self._not_started, action, "the worker is gone")

    def _not_started(self, action: DispatchBatch | WarmLane, reason: str) -> None:
        """Fails the batch, unless a fresh scheduler has taken over meanwhile, which numbers its batches from one
        again.
        """
        running = self._runs.get(action.batch_id)
        if action is (running.batch if running is not None else self._warming.get(action.batch_id)):
            self.batch_ended(action.batch_id, reason)

    # ---- when something is broken ----

    def _failed(self, now_ns: int, event: Event) -> None:
        _log.exception("scheduler failed, a fresh one takes over", what=type(event).__name__, frames=len(self.held))
        self._failures.append(now_ns)
        if self._recording is not None:
            self._recording.failed()
        self._start_anew("the scheduler failed while the frame was waiting or running")
        if len(self._failures) > FAILURES_MAX and now_ns - self._failures[0] < FAILURES_NS:
            self._fatal(f"the scheduler failed {len(self._failures)} times within a minute")

    def _start_anew(self, reason: str) -> None:
        """Answers every frame that is held, gives up what runs, and lets a fresh scheduler take over."""
        runs = {
            piece.seq: run for run in self._runs.values() for frame in run.batch.frames for piece in pieces_of(frame)
        }
        self._runs.clear()
        self._hand_overs.clear()
        self._warming.clear()
        self._arrivals.clear()
        self._staging.stop_all()
        now_ns = self.clock()
        for held in self.held.all():
            # What is the server's own has no run then: its version has not failed on it.
            self._delivery.fail(now_ns, held, None if held.spare else runs.get(held.frame.seq), reason)
        self._tell_answered()
        self.scheduler = Scheduler()
        if self._recording is not None:
            self._recording.begin_anew()
        try:
            for event in self._facts.events():
                self._carry_out(now_ns, event, None)
        except Exception:
            _log.exception("a fresh scheduler failed on what is true")
            self.scheduler = Scheduler()
            if self._recording is not None:
                self._recording.begin_anew()
            self._fatal("the scheduler cannot be started anew")
        for stream_id in self._facts.advised_streams():  # the fresh scheduler does not know what they were advised
            self._delivery.advise(AdviseStream(stream_id, Advice.SPEED_UP, "the scheduler starts anew"))
        stateful = self._facts.stateful_streams()
        for worker in list(self._workers.values()):
            try:
                for stream_id in stateful:
                    worker.forget(stream_id)
                if worker.busy:
                    worker.give_up(reason)
            except Exception:
                _log.exception("worker cannot be given up", model=worker.model, lane=worker.lane)

    def _tell_answered(self) -> None:
        if self._answered is not None:
            self._answered.set_result(None)
            self._answered = None

    # ---- the timer ----

    def _arm(self, now_ns: int, wake_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = wake_ns
        self._timer = self._loop.call_later(max(wake_ns - now_ns, TIMER_NS_MIN) / 1e9, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._step(TimerFired(), None)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
