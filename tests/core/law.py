"""The law of the core, checked from outside: `Witness` steps the real scheduler and holds it to its promises.

It knows only what went in and what came out, and the plans that the scheduler publishes (`accounts`). Every promise is
an assertion whose message has the time and the frame or batch.

Out of scope: which of several lawful batches is best. The stories show what the rules prefer.
"""

import re
from collections import Counter

from duly.core.advice import AGAIN_NS, CHANGE_MIN, PERIOD_NS_MAX, REVERSAL_NS
from duly.core.dispatch.batch_caps import BLOCKING_NS, SINGLES
from duly.core.dispatch.deferral import LANES_PER_MODEL
from duly.core.events import (
    Action,
    Advice,
    AdviseStream,
    BatchFinished,
    DispatchBatch,
    Event,
    FrameRead,
    FramesArrived,
    FramesCancelled,
    ModelGone,
    ReadApart,
    ResolveFrame,
    StreamClosed,
    WaitingEvicted,
    WarmLane,
)
from duly.core.fates import EVICTED, FATES, Fate, State
from duly.core.policing import TELL_NS
from duly.core.scheduler import CRITICAL_MISSED_NS, PROBE_AFTER_NS, Scheduler
from duly.core.types import BacklogPolicy, Frame, GapPolicy, JointFrame, OutcomeStatus, StreamClass
from tests.core.accounts import Accounts, Running, Stream

WORDS = [(fate, re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(fate.wording)))) for fate in FATES]
"""The table of fates, each with its wording as a pattern, in which anything may be filled in."""
HOSTS_WORDS = "{reason}"
MISSED = (OutcomeStatus.LATE, OutcomeStatus.EXPIRED, OutcomeStatus.SHED)


class Witness:
    """A scheduler whose answers are checked. `step` and `next_wake_ns` are those of the scheduler."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.log: list[tuple[int, Event]] = []
        """The events that went in, each with its time."""
        self.answers: list[list[Action]] = []
        """The actions that came out of each step."""
        self.accounts = Accounts(self.scheduler)
        self._told: dict[int, tuple[int, bool, int]] = {}
        """By stream that was told to slow down or to speed up: when last, whether to slow down, the period."""
        self._told_of: dict[int, int] = {}
        """By stream that was told that it sends faster than it stated, when last."""
        self._foreseen: dict[str, list[int]] = {}
        """By lane, the frames that it would have run next after the step before."""
        self.seen: Counter[str] = Counter()
        """How often each of the rarer rules applied, and each row of the table of fates."""

    def step(self, now_ns: int, event: Event) -> list[Action]:
        self.log.append((now_ns, event))
        self.accounts.note(now_ns, event)
        actions = self.scheduler.step(now_ns, event)
        self.answers.append(actions)
        self.accounts.note_joints(now_ns, actions)
        self.accounts.note_ranks(actions)
        for action in actions:
            match action:
                case ResolveFrame():
                    self._resolved(now_ns, event, action)
                case DispatchBatch():
                    self._dispatched(now_ns, event, action)
                case WarmLane():
                    self._warmed(now_ns, action)
                case ReadApart():
                    self._read_apart(now_ns, action.frame)
                case AdviseStream():
                    self._advised(now_ns, action)
        self._ended(now_ns)
        self.accounts.settle_groups()
        self._settled(now_ns)
        self._foresee(now_ns, actions)
        return actions

    def next_wake_ns(self) -> int | None:
        return self.scheduler.next_wake_ns()

    def assert_replays(self) -> None:
        """Asserts that the recorded log gives the same actions on a new scheduler."""
        fresh = Scheduler()
        for (now_ns, event), actions in zip(self.log, self.answers, strict=True):
            assert fresh.step(now_ns, event) == actions, f"{now_ns}: {event} does not replay"

    # ---- what is foreseen ----

    def _foresee(self, now_ns: int, actions: list[Action]) -> None:
        """Asks for every lane what it would run next. `assert_replays` never asks: that must change nothing."""
        accounts = self.accounts
        for action in actions:
            if isinstance(action, DispatchBatch):
                foreseen = self._foreseen.pop(action.lane, None)
                self.seen["came as foreseen"] += foreseen == [frame.seq for frame in action.frames]
        waiting = {frame.seq for frame in accounts.waiting()}
        for lane in accounts.lanes:
            told = f"{now_ns}: what {lane} is to run next"
            foreseen = self.scheduler.foresee(lane, now_ns)
            running = [each for each in accounts.batches.values() if each.action.lane == lane]
            if foreseen is None:
                self._foreseen.pop(lane, None)
                continue
            assert running, f"{told}: it is free"
            seqs = [frame.seq for frame in foreseen.frames]
            assert foreseen.lane == lane, told
            assert seqs, f"{told}: no frames"
            assert len(seqs) == len(set(seqs)), f"{told}: a frame twice"
            assert waiting.issuperset(seqs), f"{told}: a frame that does not wait"
            assert {frame.model for frame in foreseen.frames} == {foreseen.model}, f"{told}: frames of another model"
            self._foreseen[lane] = seqs
            self.seen["foreseen"] += 1

    # ---- how frames end ----

    def _resolved(self, now_ns: int, event: Event, action: ResolveFrame) -> None:
        accounts, frame, status = self.accounts, action.frame, action.status
        told = f"{now_ns}: frame {frame.stream_id}/{frame.frame_id} {status.name} ({action.reason})"
        if frame.seq in accounts.spare.frames:
            self._assert_fate(now_ns, action, told)
            accounts.spare.resolved(now_ns, event, action, accounts, told)
            self.seen["spare frames"] += 1
            return
        if frame.seq in accounts.pieces and not isinstance(frame, JointFrame):
            self._piece_resolved(now_ns, event, action, told)
            return
        assert accounts.unanswered.pop(frame.seq, None) is frame, f"{told}: never came, or is answered already"
        assert action.reason or status is OutcomeStatus.ON_TIME, f"{told}: no reason"
        if isinstance(frame, JointFrame):
            accounts.fused.note_answered(frame, told)
            self.seen["joint frames"] += 1
        stream = accounts.streams.get(frame.stream_id)
        self._assert_fate(now_ns, action, told)
        if frame.seq in accounts.batch_of:
            running = accounts.batches[accounts.batch_of.pop(frame.seq)]
            size = len(running.frames)
            assert (action.batch_id, action.batch_size) == (running.action.batch_id, size), f"{told}: wrong batch"
            assert running.end is not None, f"{told}: its batch still runs"
            assert status is _status_after_run(now_ns, frame, stream, running.end), told
        else:
            assert (action.batch_id, action.batch_size) == (0, 0), f"{told}: never ran"
            assert self._may_end_unrun(now_ns, event, action, stream), f"{told}: no ground for it"
            if stream is not None:
                del stream.waiting[frame.frame_id]
        if stream is not None:
            stream.outcomes[frame.frame_id] = status
            if status in MISSED and accounts.stream_class(frame) is StreamClass.CRITICAL:
                accounts.critical_missed_ns = now_ns

    def _piece_resolved(self, now_ns: int, event: Event, action: ResolveFrame, told: str) -> None:
        accounts = self.accounts
        found = self._assert_fate(now_ns, action, told)
        joint = accounts.fused.joints.get(action.frame.seq)
        if joint is not None:
            self.seen["parted"] += 1
            accounts.note_parted(joint)
        accounts.fused.resolved(now_ns, event, action, found, told)
        self.seen["pieces"] += 1

    def _assert_fate(self, now_ns: int, action: ResolveFrame, told: str) -> list[Fate]:
        """The status and the reason are those of a row of the state that the frame is in. Returns these rows."""
        seq = action.frame.seq
        if seq in self.accounts.batch_of:
            states = {State.RUNNING}
        elif self.accounts.arrived_ns[seq] == now_ns:
            states = {State.ARRIVING, State.WAITING}
        else:
            states = {State.WAITING}
        fates = [
            fate
            for fate, words in WORDS
            if fate.state in states and fate.status is action.status and words.fullmatch(action.reason)
        ]
        assert fates, f"{told}: no such fate of a frame that is {' or '.join(sorted(s.value for s in states))}"
        # Rows in the host's words fit any reason: one with words of its own goes before.
        least = min(fate.wording == HOSTS_WORDS for fate in fates)
        found = [fate for fate in fates if (fate.wording == HOSTS_WORDS) == least]
        self.seen.update(map(row, found))
        return found

    def _may_end_unrun(self, now_ns: int, event: Event, action: ResolveFrame, stream: Stream | None) -> bool:
        frame = action.frame
        if stream is None:
            return action.status is OutcomeStatus.CANCELLED
        terms = stream.terms
        if isinstance(event, StreamClosed) and event.stream_id == frame.stream_id:
            return action.status is OutcomeStatus.CANCELLED
        match action.status:
            case OutcomeStatus.EXPIRED:
                return not self.accounts.may_be_in_time(now_ns, frame, terms)
            case OutcomeStatus.SUPERSEDED:
                arrived = self.accounts.came
                newer = any(f.stream_id == frame.stream_id and f.frame_id > frame.frame_id for f in arrived)
                newer |= isinstance(event, ModelGone) and max(stream.waiting) > frame.frame_id
                oldest = next((waiting for waiting in stream.waiting.values() if not waiting.must_run), None)
                return newer and oldest is frame and terms.backlog is not BacklogPolicy.ALL
            case OutcomeStatus.SHED:
                return self._may_be_shed(now_ns, event, action, stream)
            case OutcomeStatus.SKIPPED:
                return terms.gap is GapPolicy.SKIP and not stream.intact(frame.frame_id)
            case OutcomeStatus.CANCELLED:
                return isinstance(event, FramesCancelled) and frame.frame_id in event.frame_ids
            case OutcomeStatus.INVALID:
                return isinstance(event, FrameRead) and action.reason == event.invalid
            case OutcomeStatus.FAILED:
                read = isinstance(event, FrameRead) and action.reason == event.failed
                return read or frame.model not in self.accounts.stateful
            case _:
                return False

    def _may_be_shed(self, now_ns: int, event: Event, action: ResolveFrame, stream: Stream) -> bool:
        """Whether the ground that the reason names is there."""
        accounts, frame, reason = self.accounts, action.frame, action.reason
        arrives = isinstance(event, FramesArrived) and frame in event.frames
        if reason == EVICTED.wording:
            of = [piece.stream_id for piece in frame.pieces] if isinstance(frame, JointFrame) else [frame.stream_id]
            return isinstance(event, WaitingEvicted) and event.stream_id in of
        if reason.startswith("came faster than the stream's stated period"):
            self.seen["demoted"] += 1
            return frame.seq in accounts.demoted and not accounts.may_be_in_time(now_ns, frame, stream.terms)
        if reason.startswith("overload: "):
            # The classes of the frames with which lanes that serve its variant have begun since it arrived.
            given = [
                cls
                for cls, at_ns in accounts.given_ns.get(accounts.variant(frame), {}).items()
                if at_ns >= accounts.arrived_ns[frame.seq]
            ]
            self.seen[reason] += 1
            doomed = not accounts.may_be_in_time(now_ns, frame, stream.terms)
            if reason == "overload: the lane was given to more critical frames":
                return doomed and any(cls < accounts.stream_class(frame) for cls in given)
            return doomed and bool(given) and reason == "overload: passed over for a batch that serves more"
        if reason.startswith("it is large"):
            doomed = not accounts.may_be_in_time(now_ns, frame, stream.terms)
            return doomed and frame.extra_ns > 0 and accounts.stream_class(frame) is not StreamClass.CRITICAL
        if reason == "the server is draining":
            return arrives and accounts.drain_ns is not None
        if reason == "the server stopped before its turn":
            return accounts.drain_ns is not None and now_ns >= accounts.drain_ns
        unanswered = sum(status is None for status in stream.outcomes.values())
        credit = stream.terms.frames_in_flight_max
        return arrives and unanswered > credit and reason == f"more than {credit} frames of the stream are unanswered"

    # ---- what lanes do ----

    def _dispatched(self, now_ns: int, event: Event, batch: DispatchBatch) -> None:
        accounts, frames = self.accounts, batch.frames
        told = f"{now_ns}: batch {batch.batch_id} of {batch.model} {batch.variant} on {batch.lane}"
        assert frames, f"{told}: no frames"
        rank = accounts.rank[frames[0].seq]
        lane, worker = accounts.lanes.get(batch.lane), accounts.workers.get((batch.model, rank, batch.lane))
        assert lane is not None, f"{told}: the lane is not up"
        assert lane.batch_id is None, f"{told}: the lane is not free"
        assert worker is not None, f"{told}: the model has no worker of rank {rank} there"
        assert worker.variant == batch.variant, f"{told}: frames of the queue of {worker.variant}"
        if frames[0].seq in accounts.spare.frames:
            accounts.spare.started(now_ns, batch, accounts, told)
            accounts.note_started(now_ns, Running(batch, rank, now_ns, probe=False))
            self.seen["spare runs"] += 1
            return
        assert len(frames) <= worker.batch_max, f"{told}: {len(frames)} frames"
        plan_ns = accounts.planned_ns((batch.model, rank), batch.lane)
        extra_ns = sum(accounts.extra_ns[frame.seq] for frame in frames)
        assert batch.planned_ns == plan_ns[len(frames)] + extra_ns, f"{told}: not the published plan"
        in_time = all(now_ns + batch.planned_ns <= frame.deadline_ns for frame in frames)
        guess = any(frame.untried and accounts.extra_ns[frame.seq] > 0 for frame in frames)
        tried = not in_time and (guess or worker.spoilt or now_ns - worker.last_run_ns > PROBE_AFTER_NS)
        probe = tried and not extra_ns  # a large frame says nothing about the plan of usual ones
        usually_ns = now_ns + accounts.profile((batch.model, rank), batch.lane).usual_one_ns + extra_ns
        worth_a_try = len(frames) == 1 and (usually_ns if not tried else now_ns + 1) <= frames[0].deadline_ns
        most_critical = min(frames, key=accounts.stream_class)
        blocks = extra_ns and accounts.would_block(now_ns, most_critical, batch.planned_ns, large=True)
        assert not blocks, f"{told}: takes {batch.planned_ns}, which more critical streams have no room for"
        self.seen["large"] += extra_ns > 0
        self.seen["guesses tried"] += guess and not in_time
        assert in_time or worth_a_try, f"{told}: planned to be late"
        cap_ns = accounts.cap_ns(accounts.stream_class(frames[0]), BLOCKING_NS, SINGLES)
        assert len(frames) == 1 or batch.planned_ns <= cap_ns, f"{told}: longer than {cap_ns}"
        gives_way = accounts.gives_way(batch.lane)
        for frame in frames:
            of = f"frame {frame.stream_id}/{frame.frame_id}"
            assert frame.model == batch.model, f"{told}: {of} waits for {frame.model}"
            assert frame.seq in accounts.unanswered, f"{told}: {of} is answered"
            terms = accounts.streams[frame.stream_id].terms
            assert rank <= terms.variant_rank_max, f"{told}: {of} is to have rank {terms.variant_rank_max} or better"
            assert accounts.may_start(frame, batch.lane), f"{told}: {of} may not run"
            assert frame.seq not in accounts.reading, f"{told}: {of} is being read"
            self._started(batch, frame)
        alone = [frame for frame in frames if frame.seq in accounts.alone]
        assert not alone or len(frames) == 1, f"{told}: {len(alone)} of {len(frames)} frames must be alone"
        self.seen["alone"] += bool(alone)
        self.seen["tried again"] += bool(alone) and not frames[0].alone
        self.seen["batches"] += 1
        self.seen["limited"] += worker.limited
        self.seen["probes"] += probe
        self.seen["risks"] += not in_time and not probe
        self.seen["less accurate"] += rank > 0
        assert in_time or not accounts.runnable(now_ns, batch.lane), f"{told}: a risk before what can be in time"
        self._assert_precedence(now_ns, batch, gives_way, told)
        accounts.note_started(now_ns, Running(batch, rank, now_ns, probe))
        accounts.note_share(batch)

    def _read_apart(self, now_ns: int, frame: Frame) -> None:
        """A frame that more critical streams leave no gap for is read beside the lanes, once."""
        accounts, told = self.accounts, f"{now_ns}: frame {frame.stream_id}/{frame.frame_id} is read apart"
        stream = accounts.streams.get(frame.stream_id)
        assert stream is not None, f"{told}: its stream is closed"
        assert stream.waiting.get(frame.frame_id) is frame, f"{told}: it does not wait"
        assert frame.apart_ns > 0, f"{told}: it cannot be"
        assert frame.seq not in accounts.read, f"{told}: for the second time"
        assert accounts.stream_class(frame) is not StreamClass.CRITICAL, f"{told}: nothing is more critical"
        accounts.read.add(frame.seq)
        accounts.reading.add(frame.seq)
        accounts.extra_ns[frame.seq] -= frame.apart_ns
        self.seen["read apart"] += 1

    def _started(self, batch: DispatchBatch, frame: Frame) -> None:
        stream = self.accounts.streams[frame.stream_id]
        del stream.waiting[frame.frame_id]
        stream.running += 1
        self.accounts.batch_of[frame.seq] = batch.batch_id
        if stream.terms.gap is None:
            return
        told = f"frame {frame.stream_id}/{frame.frame_id}"
        home = (batch.model, batch.lane)
        lost = stream.state_lost or stream.home not in (None, home)
        gap = stream.after_gap(frame.frame_id)
        intact = stream.intact(frame.frame_id)
        assert stream.terms.gap is not GapPolicy.SKIP or intact, f"{told} runs after a gap"
        resets = gap and stream.terms.gap is GapPolicy.RESET
        handed = stream.home is not None and stream.home[0] != batch.model
        moves = handed and not resets and self.accounts.takes(batch.model, stream.home_layout)
        moved = [(model, lane) for seq, model, lane in batch.moves_state if seq == frame.seq]
        assert moved == ([stream.home] if moves else []), f"{told}: state moves from {moved}, it is at {stream.home}"
        resets |= lost and not moves
        reset = frame.seq in batch.resets_state
        assert reset == resets, f"{told}: state lost {lost}, gap {gap}, moves {moves}, reset {reset}"
        self.seen["state moves"] += moves
        stream.home, stream.state_lost = home, False
        stream.home_layout = self.accounts.states[batch.model][0]

    def _assert_precedence(self, now_ns: int, batch: DispatchBatch, gives_way: bool, told: str) -> None:
        """Asserts that no more critical frame of any model that could have run here is left behind, except STANDARD
        frames for what is owed to BEST_EFFORT, and that no CRITICAL batch takes a frame before its turn.
        """
        accounts, frames, left = self.accounts, batch.frames, self.accounts.runnable(now_ns, batch.lane)
        most, least = accounts.stream_class(frames[0]), max(accounts.stream_class(frame) for frame in frames)
        in_time_ns = now_ns + batch.planned_ns
        for frame in left:
            its_class = accounts.stream_class(frame)
            # Frames that are due before a batch of that size ends can't ride along.
            rides = accounts.variant(frame) == accounts.variant(frames[0]) and in_time_ns <= accounts.due_ns(frame)
            bound = least if rides else most
            owed = gives_way and its_class is StreamClass.STANDARD and least is StreamClass.BEST_EFFORT
            self.seen["gives way"] += owed and its_class < bound
            assert owed or its_class >= bound, f"{told}: goes before {frame.stream_id}/{frame.frame_id}"
        missed_ns = self.accounts.critical_missed_ns
        if most is not StreamClass.CRITICAL or (missed_ns is not None and now_ns - missed_ns < CRITICAL_MISSED_NS):
            return
        turns_ns = [
            accounts.due_ns(frame)
            for frame in left
            if accounts.stream_class(frame) is most and accounts.variant(frame) != accounts.variant(frames[0])
        ]
        if turns_ns:
            self.seen["critical turns"] += 1
            assert least is most, f"{told}: takes less critical frames along while CRITICAL ones wait"
            assert max(map(accounts.due_ns, frames)) <= min(turns_ns), f"{told}: takes a frame before its turn"

    def _warmed(self, now_ns: int, warm: WarmLane) -> None:
        accounts = self.accounts
        told = f"{now_ns}: warm-up {warm.batch_id} of {warm.model} {warm.variant} on {warm.lane}"
        assert accounts.lanes[warm.lane].batch_id is None, f"{told}: the lane is not free"
        rank, worker = next(
            (rank, worker)
            for (model, rank, lane), worker in accounts.workers.items()
            if (model, worker.variant, lane) == (warm.model, warm.variant, warm.lane)
        )
        idle_ns = now_ns - accounts.lanes[warm.lane].ended_ns
        assert 0 < worker.warm_after_ns <= idle_ns, f"{told}: idle for {idle_ns}"
        assert not accounts.runnable(now_ns, warm.lane), f"{told}: frames could run there"
        self.seen["warm-ups"] += 1
        accounts.note_started(now_ns, Running(warm, rank, now_ns, probe=False))

    # ---- what streams are told ----

    def _advised(self, now_ns: int, action: AdviseStream) -> None:
        told = f"{now_ns}: stream {action.stream_id} is told to {action.advice.name} to {action.period_ns} ns"
        stream = self.accounts.streams.get(action.stream_id)
        assert stream is not None, f"{told}: it is closed"
        if action.advice is Advice.DRAINING:
            return
        assert stream.terms.advise, f"{told}: it is not to be told"
        assert stream.terms.gap is None, f"{told}: its state needs every frame"
        assert self.accounts.drain_ns is None, f"{told}: the server drains"
        assert action.reason, f"{told}: no reason"
        slower = action.advice is Advice.SLOW_DOWN
        if "stated period" in action.reason:
            self._told_of_its_period(now_ns, action, stream, told)
            return
        before_ns, was_slower, period_ns = self._told.get(action.stream_id, (None, slower, 0))
        assert action.period_ns != period_ns, f"{told}: which it knows"
        assert slower == (action.period_ns > 0 and (not period_ns or action.period_ns > period_ns)), f"{told}: no"
        assert not slower or 0 < action.period_ns <= PERIOD_NS_MAX, f"{told}: too seldom"
        if action.period_ns and period_ns:
            assert abs(action.period_ns - period_ns) >= CHANGE_MIN * period_ns, f"{told}: {period_ns} is as good"
        pause_ns = AGAIN_NS if slower == was_slower else REVERSAL_NS
        assert before_ns is None or now_ns - before_ns >= pause_ns, f"{told}: again, since {before_ns}"
        self._told[action.stream_id] = now_ns, slower, action.period_ns
        self.seen[action.advice.name] += 1

    def _told_of_its_period(self, now_ns: int, action: AdviseStream, stream: Stream, told: str) -> None:
        assert action.advice is Advice.SLOW_DOWN, told
        assert action.period_ns == stream.terms.period_ns, told
        event = self.log[-1][1]
        assert isinstance(event, FramesArrived), told
        came = [frame for frame in event.frames if frame.stream_id == action.stream_id]
        assert any(frame.seq in self.accounts.demoted for frame in came), f"{told}: it keeps to it"
        before_ns = self._told_of.get(action.stream_id)
        assert before_ns is None or now_ns - before_ns >= TELL_NS, f"{told}: again, since {before_ns}"
        self._told_of[action.stream_id] = now_ns
        self.seen["told of its period"] += 1

    # ---- what holds between steps ----

    def _ended(self, now_ns: int) -> None:
        accounts = self.accounts
        for batch_id, running in list(accounts.batches.items()):
            if running.end is not None:
                left = [frame.seq for frame in running.frames if accounts.batch_of.get(frame.seq) == batch_id]
                assert not left, f"{now_ns}: batch {batch_id} ended, frames {left} have no answer"
                del accounts.batches[batch_id]
        if accounts.closing is not None:
            accounts.streams.pop(accounts.closing, None)

    def _settled(self, now_ns: int) -> None:
        accounts, waiting = self.accounts, self.accounts.waiting()
        assert sum(self.scheduler.frames_waiting_by_model().values()) == len(waiting), (
            f"{now_ns}: {len(waiting)} frames should wait"
        )
        wake_ns = self.next_wake_ns()
        accounts.fused.settled(now_ns, wake_ns, accounts.stateful)
        accounts.spare.settled(now_ns, wake_ns, accounts.batch_of)
        assert wake_ns is None or wake_ns > now_ns, f"{now_ns}: asks to be woken at {wake_ns}, again and again"
        for frame in waiting:
            told = f"{now_ns}: frame {frame.stream_id}/{frame.frame_id}"
            assert frame.model in accounts.stateful, f"{told} waits for a model that is not loaded"
            latest_start_ns = accounts.due_ns(frame) - (accounts.planned_one_ns(accounts.variant(frame)) or 0)
            assert now_ns <= latest_start_ns, f"{told} waits past its latest start"
            assert wake_ns is not None, f"{told} waits and nobody will wake"
            assert wake_ns <= latest_start_ns + 1, f"{told} is due at {latest_start_ns}, the wake at {wake_ns}"
        for name, lane in accounts.lanes.items():
            if lane.batch_id is None:
                self._assert_idle(now_ns, name, wake_ns)
        if accounts.drain_ns is not None and now_ns >= accounts.drain_ns:
            assert not waiting, f"{now_ns}: {len(waiting)} frames wait after the drain"
        for stream_id, stream in accounts.streams.items():
            terms = stream.terms
            supersedable = sum(not frame.must_run for frame in stream.waiting.values())
            told = f"{now_ns}: stream {stream_id}"
            assert terms.backlog is BacklogPolicy.ALL or supersedable <= terms.backlog_frames, f"{told}: backlog"
            assert len(stream.waiting) + stream.running <= terms.frames_in_flight_max, f"{told}: over its credit"
            assert terms.gap is None or stream.running <= 1, f"{told}: {stream.running} frames run on one state"

    def _assert_idle(self, now_ns: int, lane: str, wake_ns: int | None) -> None:
        """Asserts that a free lane either could serve nothing that waits, or holds for more until the batch is ripe."""
        accounts, told = self.accounts, f"{now_ns}: {lane} idles"
        runnable = accounts.runnable(now_ns, lane)
        if not runnable:
            for (model, _, at), worker in accounts.workers.items():
                if at == lane and worker.warm_after_ns and accounts.streams:
                    due_ns = accounts.lanes[lane].ended_ns + worker.warm_after_ns
                    assert now_ns < due_ns, f"{told} and is cold, {model} would warm it since {due_ns}"
                    assert wake_ns is not None, f"{told} and nobody will warm it"
                    assert wake_ns <= due_ns, f"{told} and is cold at {due_ns}, the wake at {wake_ns}"
            return
        self.seen["holds"] += 1
        classes = {accounts.stream_class(frame) for frame in runnable}
        assert StreamClass.CRITICAL not in classes, f"{told} while CRITICAL frames wait"
        assert accounts.drain_ns is None, f"{told} while the server drains"
        owed = StreamClass.BEST_EFFORT in classes and accounts.gives_way(lane)
        # Only a bound of what is owed is known. Where something may be owed, either class may be the one that holds.
        flaws = [
            self._flaw_of_hold(now_ns, lane, [f for f in runnable if accounts.stream_class(f) is first], wake_ns)
            for first in ({StreamClass.BEST_EFFORT, min(classes)} if owed else {min(classes)})
        ]
        assert not all(flaws), f"{told}: {flaws}"

    def _flaw_of_hold(self, now_ns: int, lane: str, runnable: list[Frame], wake_ns: int | None) -> str:
        """Why these frames of one class should run on the lane now; empty: the lane may hold for more."""
        by_variant: dict[tuple[str, int], list[int]] = {}
        for frame in runnable:
            by_variant.setdefault(self.accounts.variant(frame), []).append(self.accounts.due_ns(frame))
        lanes = len(self.accounts.lanes)
        if lanes < 2 or lanes < LANES_PER_MODEL * len(by_variant):
            return f"frames of {sorted(by_variant)} wait, {lanes} lanes are up"
        for variant, deadlines_ns in by_variant.items():
            plan_ns, more = self.accounts.planned_ns(variant, lane), len(deadlines_ns) + 1
            if more >= len(plan_ns):
                return f"the batch of {variant} is full"
            if (
                self.accounts.profile(variant, lane).largest_efficient(more) != more
                or plan_ns[more] > more * plan_ns[1]
            ):
                return f"another frame of {variant} would not pay"
            ripe_at_ns = min(deadlines_ns) - plan_ns[more]
            if now_ns >= ripe_at_ns:
                return f"{variant} is ripe since {ripe_at_ns}"
            if wake_ns is None or wake_ns > ripe_at_ns:
                return f"{variant} is ripe at {ripe_at_ns}, the wake at {wake_ns}"
        return ""


def row(fate: Fate) -> str:
    """The name under which the witness counts a row of the table of fates."""
    return f"{fate.state.value}: {fate.cause}"


def _status_after_run(now_ns: int, frame: Frame, stream: Stream | None, end: Event) -> OutcomeStatus:
    if not isinstance(end, BatchFinished):
        return OutcomeStatus.FAILED
    if frame.seq in end.invalid:
        return OutcomeStatus.INVALID
    if frame.seq in end.failed:
        return OutcomeStatus.FAILED
    if stream is None:
        return OutcomeStatus.CANCELLED
    return OutcomeStatus.ON_TIME if now_ns <= frame.deadline_ns else OutcomeStatus.LATE
