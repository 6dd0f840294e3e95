"""Stories: the scheduler's behaviour as files that can be read aloud, in the manner of etcd/raft's `testdata`.

A story is a text file of paragraphs. A paragraph with a line `----` is a scene: above that line are commands, below it
is what the scheduler did about them, or `ok` where it did nothing. Lines that begin with `#`, and paragraphs without
`----`, are prose.

    lane cpu:0                                        up; `lane-down cpu:0 reason="..."`
    model detect/1 lane=cpu:0 1=10ms 4=20ms           warm-up runs by batch size; words: fixed (takes no other sizes),
                                                      stateful; runs=30 of each size; variant=fp32 rank=0;
                                                      warm_after=1s state=a (its layout); word: takes_state
    gone detect/1 lane=cpu:0 reason="..."             its worker there; without `lane` the model is unloaded; back=1s:
                                                      when another worker is expected; word: innocent
    stream 1 model=detect/1 budget=100ms              class=STANDARD backlog=LATEST (KEEP_LAST:3, ALL) credit=64
                                                      gap=CONTINUE (stateful models) rank_max=1 period=20ms
                                                      principal=north floor=3/4; words: policed, advise, follow (is
                                                      told to slow down; keeps frames of `traffic` back as it is told),
                                                      spare (its frames run in spare time only)
                                                      fusion=rig:left/left,right (group, its input of which inputs)
                                                      tolerance=10ms wait=NEWEST (EXACT, WITHIN_DEADLINE)
    frame 1/7                                         of stream 1, id 7; budget, model: else the stream's; age=5ms since
                                                      capture, or captured=3ms, a point in time; words: must_run, alone
    frames 1/7 1/8 2/1                                the same of several that come together
    traffic 1 2 period=20ms for=1s                    each stream sends once in a period, evenly spread; batches take as
                                                      long as at warm-up; prints what streams are told, and what became
                                                      of all frames, in sum, when the last has its outcome
    cancel 1/7 1/8                                    frames of one stream
    refused 1                                         a frame of it, by the host; captured=3ms
    evict 1                                           its memory is needed
    turned-out 1 model=detect/1 frames=2 status=LATE  of stream 1, which were ON_TIME; word: missed
    close 1                                           the stream
    finish 3                                          the batch; invalid=1/7 or failed=1/7, reason="..."
    fail 3 reason="..."                               the batch
    drain until=100ms                                 a point in time
    timer                                             fires although nothing is due
    advance                                           nothing but time passes
    plan detect/1 lane=cpu:0                          prints the planned times of batches of 1, 2, ...
    waiting                                           prints how many frames wait for each model, and the next wake

Every command takes `at=3ms`, the time on the story's clock; without it no time passes. Before the command, the timer
fires whenever the scheduler has asked for it on the way there. Every step is also checked against the law
(`law.Witness`).
"""

import shlex
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from duly.core.events import (
    Action,
    Advice,
    AdviseStream,
    BatchFailed,
    BatchFinished,
    DispatchBatch,
    DrainRequested,
    Event,
    FrameRead,
    FrameRefused,
    FramesArrived,
    FramesCancelled,
    FramesTurnedOut,
    LaneDown,
    LaneUp,
    ModelGone,
    ModelReady,
    ReadApart,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
    TimerFired,
    WaitingEvicted,
    WarmLane,
)
from duly.core.timing.profile import MARGIN_PERCENT
from duly.core.types import (
    VARIANT_RANK_ANY,
    BacklogPolicy,
    Frame,
    Fusion,
    FusionWait,
    GapPolicy,
    JointFrame,
    OutcomeStatus,
    StreamClass,
    StreamTerms,
    larger,
)
from duly_client.pace import Pace
from tests.core.law import Witness

SEPARATOR = "----"
GROUP_IDS = 100
"""Streams of fusion groups have the ids from here on."""
UNIT_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


def parse_ns(text: str) -> int:
    """Nanoseconds of `3ms`, `1.5ms`, `2s`, `10us`, `1ns`. Raises ValueError on anything else."""
    number = text.rstrip("nums")
    unit = text[len(number) :]
    if unit not in UNIT_NS or not number:
        raise ValueError(f"a time is a number and one of {', '.join(UNIT_NS)}, got {text!r}")
    return int(Decimal(number) * UNIT_NS[unit])


def format_ms(time_ns: int) -> str:
    return f"{(Decimal(time_ns) / UNIT_NS['ms']).normalize():f}ms"


@dataclass
class Command:
    """A verb, its words and its `key=value` options. What nothing takes from it is an error."""

    text: str
    verb: str
    words: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, line: str) -> "Command":
        verb, *rest = shlex.split(line)
        command = cls(line, verb)
        for word in rest:
            key, equals, value = word.partition("=")
            if equals:
                command.options[key] = value
            else:
                command.words.append(word)
        return command

    def word(self) -> str:
        if not self.words:
            raise ValueError(f"{self.text!r} needs one more word")
        return self.words.pop(0)

    def option(self, key: str, default: str | None = None) -> str:
        value = self.options.pop(key, default)
        if value is None:
            raise ValueError(f"{self.text!r} needs {key}=")
        return value

    def flag(self, name: str) -> bool:
        if name in self.words:
            self.words.remove(name)
            return True
        return False

    def assert_used_up(self) -> None:
        if self.words or self.options:
            raise ValueError(f"{self.text!r}: nobody knows {[*self.words, *self.options]}")


class Story:
    """One run of a story, on a clock that starts at `start_ns`."""

    def __init__(self, start_ns: int) -> None:
        self.witness = Witness()
        self._start_ns = start_ns
        self._now_ns = start_ns
        self._models: dict[int, str] = {}
        """The model of each stream."""
        self._budgets_ns: dict[int, int] = {}
        self._groups: dict[str, int] = {}
        """The id of the stream of each fusion group."""
        self._fused: set[int] = set()
        """The streams that are members of a group."""
        self._seqs: dict[tuple[int, int], int] = {}
        """The `seq` of each frame; keys are stream id and frame id."""
        self._last_ids: dict[int, int] = {}
        """The highest frame id of each stream so far."""
        self._variants: dict[str, set[str]] = {}
        """The names of the variants of each model."""
        self._paces: dict[int, Pace] = {}
        """The pace of each stream that follows advice."""
        self._lines: list[str] = []

    def replay(self, text: str) -> str:
        """Returns the story with what the scheduler did below each `----`. Raises ValueError where it can't be read."""
        return "\n\n".join(self._paragraph(paragraph) for paragraph in text.strip().split("\n\n")) + "\n"

    def unanswered(self) -> list[str]:
        accounts = self.witness.accounts
        frames = [*accounts.unanswered.values(), *accounts.pieces.values()]
        return [f"{frame.stream_id}/{frame.frame_id}" for frame in frames]

    def _paragraph(self, paragraph: str) -> str:
        lines = paragraph.strip("\n").split("\n")
        if SEPARATOR not in lines:
            return "\n".join(lines)
        told = lines[: lines.index(SEPARATOR)]
        self._lines = []
        for line in told:
            if not line.startswith("#"):
                self._run(Command.parse(line))
        return "\n".join([*told, SEPARATOR, *(self._lines or ["ok"])])

    def _run(self, command: Command) -> None:
        if "at" in command.options:
            self._advance(self._start_ns + parse_ns(command.option("at")))
        match command.verb:
            case "advance":
                pass
            case "plan":
                plan = self.witness.scheduler.planned_ns(command.word(), command.option("lane"))
                self._lines.append(" ".join(f"{size}={format_ms(time_ns)}" for size, time_ns in enumerate(plan, 1)))
            case "waiting":
                waiting = self.witness.scheduler.frames_waiting_by_model()
                wake_ns = self.witness.next_wake_ns()
                wake = "never" if wake_ns is None else self._time(wake_ns)
                self._lines.append(" ".join([*(f"{model}={n}" for model, n in waiting.items()), f"wake={wake}"]))
            case "traffic":
                streams = [int(command.word()) for _ in list(command.words)]
                self._traffic(streams, parse_ns(command.option("period")), parse_ns(command.option("for")))
            case _:
                self._step(self._event(command))
        command.assert_used_up()

    def _advance(self, to_ns: int) -> None:
        if to_ns < self._now_ns:
            raise ValueError(f"time never goes back: it is {self._time(self._now_ns)}, not {self._time(to_ns)}")
        while (wake_ns := self.witness.next_wake_ns()) is not None and wake_ns <= to_ns:
            self._now_ns = wake_ns
            self._step(TimerFired())
        self._now_ns = to_ns

    def _event(self, command: Command) -> Event:
        match command.verb:
            case "lane":
                return LaneUp(command.word())
            case "lane-down":
                return LaneDown(command.word(), command.option("reason"))
            case "model":
                return self._model(command)
            case "gone":
                back = command.options.pop("back", None)
                back_ns = self._start_ns + parse_ns(back) if back else 0
                innocent = command.flag("innocent")
                lane = command.options.pop("lane", None)
                return ModelGone(command.word(), lane, command.option("reason"), back_ns, innocent)
            case "stream":
                return self._stream(command)
            case "frame":
                return FramesArrived([self._frame(command)])
            case "frames":
                return FramesArrived([self._frame(command) for _ in list(command.words)])
            case "cancel":
                frames = [self._ids(command.word()) for _ in list(command.words)]
                return FramesCancelled(frames[0][0], tuple(frame_id for _, frame_id in frames))
            case "read":
                stream_id, frame_id = self._ids(command.word())
                invalid, failed = command.option("invalid", ""), command.option("failed", "")
                return FrameRead(stream_id, frame_id, parse_ns(command.option("extra", "0ms")), invalid, failed)
            case "refused":
                captured = command.options.pop("captured", None)
                captured_ns = None if captured is None else self._start_ns + parse_ns(captured)
                return FrameRefused(int(command.word()), captured_ns)
            case "evict":
                return WaitingEvicted(int(command.word()))
            case "turned-out":
                status, missed = OutcomeStatus[command.option("status")], command.flag("missed")
                count, model = int(command.option("frames")), command.option("model")
                return FramesTurnedOut(int(command.word()), model, count, status, missed)
            case "close":
                return StreamClosed(int(command.word()))
            case "finish":
                invalid, failed = command.options.pop("invalid", None), command.options.pop("failed", None)
                reason = command.options.pop("reason", "")
                return BatchFinished(int(command.word()), self._bad(invalid, reason), self._bad(failed, reason))
            case "fail":
                return BatchFailed(int(command.word()), command.option("reason"))
            case "drain":
                return DrainRequested(self._start_ns + parse_ns(command.option("until")))
            case "timer":
                return TimerFired()
            case _:
                raise ValueError(f"nobody knows the command {command.text!r}")

    def _model(self, command: Command) -> ModelReady:
        runs = int(command.option("runs", "30"))
        fixed, stateful = command.flag("fixed"), command.flag("stateful")
        sizes = [key for key in command.options if key.isdigit()]
        samples_ns = {int(size): (parse_ns(command.option(size)),) * runs for size in sizes}
        model, lane, variant = command.word(), command.option("lane"), command.option("variant", "default")
        rank, warm_after_ns = int(command.option("rank", "0")), parse_ns(command.option("warm_after", "0ms"))
        self._variants.setdefault(model, set()).add(variant)
        layout, takes = command.option("state", ""), command.flag("takes_state")
        return ModelReady(model, lane, variant, samples_ns, not fixed, stateful, rank, warm_after_ns, layout, takes)

    def _stream(self, command: Command) -> StreamOpened:
        stream_id = int(command.word())
        self._models[stream_id] = command.option("model")
        self._budgets_ns[stream_id] = parse_ns(command.option("budget"))
        backlog, _, frames = command.option("backlog", "LATEST").partition(":")
        gap = command.options.pop("gap", None)
        follows = command.flag("follow")
        if follows:
            self._paces[stream_id] = Pace()
        floor_frames, _, floor_window = command.option("floor", "0/0").partition("/")
        terms = StreamTerms(
            stream_class=StreamClass[command.option("class", "STANDARD")],
            backlog=BacklogPolicy[backlog],
            backlog_frames=int(frames) if frames else int(backlog == "LATEST"),
            budget_ns=self._budgets_ns[stream_id],
            frames_in_flight_max=int(command.option("credit", "64")),
            gap=None if gap is None else GapPolicy[gap],
            model=self._models[stream_id],
            period_ns=parse_ns(command.option("period", "0ms")),
            variant_rank_max=int(command.option("rank_max", str(VARIANT_RANK_ANY))),
            principal=command.option("principal", ""),
            floor_frames=int(floor_frames),
            floor_window=int(floor_window),
            advise=command.flag("advise") or follows,
            policed=command.flag("policed"),
            spare=command.flag("spare"),
            fusion=self._fusion(stream_id, command),
        )
        return StreamOpened(stream_id, terms)

    def _fusion(self, stream_id: int, command: Command) -> Fusion | None:
        if "fusion" not in command.options:
            return None
        member, _, names = command.option("fusion").partition("/")
        group, _, own = member.partition(":")
        self._fused.add(stream_id)
        inputs = tuple(names.split(","))
        group_id = self._groups.setdefault(group, GROUP_IDS + len(self._groups))
        tolerance_ns, wait = parse_ns(command.option("tolerance", "0ms")), command.option("wait", "NEWEST")
        return Fusion(group_id, group, inputs, inputs.index(own), tolerance_ns, FusionWait[wait])

    def _frame(self, command: Command) -> Frame:
        stream_id, frame_id = self._ids(command.word())
        budget_ns = parse_ns(command.options.get("budget", f"{self._budgets_ns[stream_id]}ns"))
        captured_ns = self._now_ns - parse_ns(command.options.get("age", "0ms"))
        if "captured" in command.options:
            captured_ns = self._start_ns + parse_ns(command.options["captured"])
        deadline_ns = captured_ns + budget_ns
        model = command.options.get("model", self._models[stream_id])
        must_run, alone = command.flag("must_run"), command.flag("alone")
        extra_ns, apart_ns = (parse_ns(command.options.get(name, "0ms")) for name in ("extra", "apart"))
        if not command.words:
            for option in ("budget", "age", "captured", "model", "extra", "apart"):
                command.options.pop(option, None)
        frame = self._new_frame(stream_id, frame_id, model, deadline_ns, must_run, alone)
        if stream_id in self._fused:
            frame.captured_ns = captured_ns
        return larger(frame, extra_ns, apart_ns)

    def _new_frame(
        self, stream_id: int, frame_id: int, model: str, deadline_ns: int, must_run: bool, alone: bool = False
    ) -> Frame:
        seq = self._seqs[stream_id, frame_id] = len(self._seqs) + 1
        self._last_ids[stream_id] = frame_id
        return Frame(seq, stream_id, frame_id, model, deadline_ns, must_run, alone)

    def _traffic(self, streams: list[int], period_ns: int, duration_ns: int) -> None:
        """Sends frames, ends batches and fires timers, each at its time, until every frame has an answer."""
        arrivals = [
            (self._now_ns + nth * period_ns // len(streams), stream_id) for nth, stream_id in enumerate(streams)
        ]
        until_ns = self._now_ns + duration_ns
        actions: list[Action] = []
        kept_back: Counter[int] = Counter()
        while arrivals or self.witness.accounts.unanswered:
            running = self.witness.accounts.batches.values()
            ends = [(batch.started_ns + _takes_ns(batch.action), batch.action.batch_id) for batch in running]
            end_ns, batch_id = min(ends, default=(until_ns + duration_ns, 0))
            due_ns, stream_id = min(arrivals, default=(until_ns + duration_ns, 0))
            wake_ns = self.witness.next_wake_ns()
            event: Event
            if wake_ns is not None and wake_ns < min(end_ns, due_ns):
                at_ns, event = wake_ns, TimerFired()
            elif end_ns <= due_ns:
                at_ns, event = end_ns, BatchFinished(batch_id)
            else:
                arrivals.remove((due_ns, stream_id))
                if due_ns + period_ns < until_ns:
                    arrivals.append((due_ns + period_ns, stream_id))
                pace = self._paces.get(stream_id)
                if pace is not None and not pace.due(due_ns):
                    kept_back[stream_id] += 1
                    continue
                if pace is not None:
                    pace.sent(due_ns)
                at_ns, frame_id = due_ns, self._last_ids.get(stream_id, 0) + 1
                deadline_ns = due_ns + self._budgets_ns[stream_id]
                event = FramesArrived(
                    [self._new_frame(stream_id, frame_id, self._models[stream_id], deadline_ns, must_run=False)]
                )
            self._now_ns = max(self._now_ns, at_ns)
            for action in self.witness.step(self._now_ns, event):
                actions.append(action)
                if isinstance(action, AdviseStream):
                    self._lines.append(f"{self._time(self._now_ns)} {self._told(action)}")
                    if action.stream_id in self._paces:
                        self._paces[action.stream_id].advised(self._now_ns, action.period_ns, 0.5)
        self._lines += self._in_sum(actions, kept_back)

    def _in_sum(self, actions: list[Action], kept_back: Counter[int]) -> list[str]:
        """One line for each stream: how many frames ended how, and which variants ran them where there are several."""
        outcomes = {stream_id: Counter({"kept back": frames}) for stream_id, frames in kept_back.items()}
        for action in actions:
            match action:
                case ResolveFrame():
                    outcomes.setdefault(action.frame.stream_id, Counter())[action.status.name] += 1
                case DispatchBatch() if len(self._variants[action.model]) > 1:
                    for frame in action.frames:
                        outcomes.setdefault(frame.stream_id, Counter())[f"by {action.variant}"] += 1
        return [
            f"stream {stream_id}: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
            for stream_id, counts in sorted(outcomes.items())
        ]

    def _bad(self, frame: str | None, reason: str) -> dict[int, str]:
        return {} if frame is None else {self._seqs[self._ids(frame)]: reason}

    def _ids(self, frame: str) -> tuple[int, int]:
        stream_id, _, frame_id = frame.partition("/")
        return int(stream_id), int(frame_id)

    def _step(self, event: Event) -> None:
        for action in self.witness.step(self._now_ns, event):
            self._lines += [f"{self._time(self._now_ns)} {line}" for line in self._told(action).split("\n")]

    def _time(self, at_ns: int) -> str:
        return format_ms(at_ns - self._start_ns)

    def _told(self, action: Action) -> str:
        match action:
            case DispatchBatch():
                frames = " ".join(
                    f"{_name(frame)}{' (new state)' * (frame.seq in action.resets_state)}"
                    + "".join(f" (state of {name} on {lane})" for s, name, lane in action.moves_state if s == frame.seq)
                    for frame in action.frames
                )
                return (
                    f"dispatch batch {action.batch_id} on {action.lane}: {self._variant(action)} frames {frames}, "
                    f"planned {format_ms(action.planned_ns)}"
                )
            case WarmLane():
                return f"warm batch {action.batch_id} on {action.lane}: {self._variant(action)}"
            case ResolveFrame():
                reason = f": {action.reason}" if action.reason else ""
                frames = action.frame.pieces if isinstance(action.frame, JointFrame) else (action.frame,)
                return "\n".join(f"frame {_name(frame)} {action.status.name}{reason}" for frame in frames)
            case ReadApart():
                return f"read frame {action.frame.stream_id}/{action.frame.frame_id} apart"
            case AdviseStream():
                period = f" every {format_ms(action.period_ns)}" if action.period_ns else ""
                return f"advise stream {action.stream_id} {Advice(action.advice).name}{period}: {action.reason}"

    def _variant(self, action: DispatchBatch | WarmLane) -> str:
        return f"{action.model} {action.variant}" if len(self._variants[action.model]) > 1 else action.model


def _takes_ns(action: DispatchBatch | WarmLane) -> int:
    """How long a batch of `traffic` runs."""
    return action.planned_ns * 100 // (100 + MARGIN_PERCENT) if isinstance(action, DispatchBatch) else UNIT_NS["ms"]


def _name(frame: Frame) -> str:
    """Stream and frame id, of a joint frame those of its pieces."""
    if isinstance(frame, JointFrame):
        return "+".join(map(_name, frame.pieces))
    return f"{frame.stream_id}/{frame.frame_id}"
