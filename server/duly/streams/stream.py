"""One open stream, whatever protocol its client speaks, with its terms, clock and credit, the version that it follows,
and its outbox.

A front end reads frames off its wire and hands them over in two steps: `take` gives each frame its place, and then
`submit` or `refuse` says what is in it. It writes what `next` gives it. Every frame that was taken leaves through the
outbox exactly once, or is counted as unread.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from duly.core.events import Advice, FrameRefused, FramesCancelled, WaitingEvicted
from duly.core.fates import (
    DOES_NOT_FIT,
    MEMORY_FULL,
    OVER_BYTES,
    PRINCIPAL_OVER_BYTES,
    VERSION_NOT_SERVED,
    Fate,
)
from duly.core.policing import Policer
from duly.core.types import Frame, FusionWait, StreamClass, StreamTerms, Verdict, larger
from duly.models.sizes import SizeLimits
from duly.models.spec import VIDEO
from duly.runtime.catalogue import Catalogue, LoadedVersion
from duly.runtime.driver import Driver
from duly.runtime.held_frames import HeldFrame, InputData
from duly.runtime.outcome import Outcome
from duly.streams.cheap_work import Budget, CheapWork, SharedBudget
from duly.streams.clock import ClockRelation, FarOff
from duly.streams.errors import REASON_CHARS_MAX, CallError
from duly.streams.fusion import FusionGroup, one_input
from duly.streams.limits import Limits, PrincipalUse
from duly.streams.loop_lag import LoopLag
from duly.streams.memory import Memory
from duly.streams.ordering import ordering
from duly.streams.outbox import Advised, ClockAsked, Notice, Opened, Outbox
from duly.streams.planned_delay import PlannedDelay
from duly.streams.results import Results
from duly.streams.terms import StreamRequest, signature_of, stream_terms, wanted_outputs
from duly.streams.verdict import Verdicts
from duly.streams.video import KEPT_NS_MAX, Video
from duly.streams.wall_clock import WallClock

_log = structlog.get_logger("duly.stream")

CANCELS_A_TOKEN = 128
"""So many ids to cancel in one message cost about as much as one more message."""
CANCELS_A_TURN = 1024
"""How many frames one message may cancel before other streams have their turn."""
SLOW_WRITE_NS = 10_000_000
"""A write that takes longer than this waits for the client to read. What comes after it has waited for that, too."""
PERIODS_SILENT = 10
"""A stream whose client has sent nothing for so many of its periods is silent."""
CHEAP_PER_S, CHEAP_BURST = 4, 64
"""How many pings, cancelled frames and refused frames a stream has for nothing; what is more comes out of the budget of
all streams."""
CHEAP_PER_S_CRITICAL = 250
"""A CRITICAL stream has as many as frames by its stated period, but no more than this: nothing that others do should
hold up what was promised.
"""
CHEAP_PER_S_ALL, CHEAP_BURST_ALL = 5000, 2500
_NOT_CAPTURED = "its capture time should be stated: the fusion group joins frames that have the same (EXACT)"
_BROKEN = "the server failed on an outcome of the stream; its log says more"


@dataclass(slots=True)
class StreamHost:
    """What all streams of a server share."""

    driver: Driver
    catalogue: Catalogue
    verdicts: Verdicts
    limits: Limits
    advise: bool
    """Whether clients are advised to slow down, and that they may speed up."""
    wall: WallClock = field(default_factory=WallClock)
    """The clock of all times since 1970 that clients see."""
    refused: Counter[str] = field(default_factory=Counter)
    """How many frames were answered at the door, by the cause of their fate."""
    key_of: "Callable[[Stream], str] | None" = None
    """Gives the key by which clients name a stream when they send labels; None: no frames are kept."""
    memory: Memory = field(init=False)
    lag: LoopLag = field(init=False)
    cheap: SharedBudget = field(init=False)
    """What all streams share of work that is cheap each time."""

    def __post_init__(self) -> None:
        clock = self.driver.clock
        server = self.limits.server
        self.memory = Memory(server.bytes_in_flight_max, server.shared_bytes_max)
        self.lag = LoopLag(clock)
        self.cheap = SharedBudget(clock, CHEAP_PER_S_ALL, CHEAP_BURST_ALL)


class Stream:
    """An open stream. It is the runtime's Sink for its frames."""

    def __init__(
        self,
        asked: StreamRequest,
        served: LoadedVersion,
        host: StreamHost,
        principal: str,
        use: PrincipalUse,
        connection: str = "",
        key: str = "",
    ) -> None:
        """`use`: what the principal uses with all its streams. `connection`: what tells its connection from others.
        `key`: by which it is drawn for a version that is tried on some streams. Raises InvalidTerms.
        """
        self.connection = connection
        self.key = key
        self.asked = asked
        self.terms = stream_terms(asked, served, host.limits.stream, principal)
        self.principal = principal
        self.wanted = wanted_outputs(asked.outputs, signature_of(served))
        """Names of the outputs to send; empty: all."""
        self.wall = host.wall
        self.clock = asked.clock
        self._clock_of_ns: int | None = None  # how far the server's clock had been set when `clock` was measured
        self._pong_of_ns: int | None = None  # the same, when the client was last told the time
        self._far_off = FarOff()
        self.outbox = Outbox(self.terms.frames_in_flight_max, host.memory)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the stream is over, with the reason as an exception unless all is well."""
        self.stream_id = 0
        self.fusion: FusionGroup | None = None
        """The group that it is a member of; None: none."""
        self._runs_as = 0
        """Id of the stream that its frames belong to when they run: its own, or that of its group."""
        self.verdict: Verdict | None = None
        """What admission said of the stream; None until it is open."""
        self.log = _log
        self._host = host
        # What every frame needs is held here, where it is one look-up away.
        self._driver = host.driver
        self._catalogue = host.catalogue
        self._stream_limits = host.limits.stream
        self._principal_bytes_max = host.limits.principal.bytes_in_flight_max
        self._server_bytes_max = host.limits.server.bytes_in_flight_max
        self._frame_bytes_max = host.limits.frame.frame_bytes_max
        self._memory = host.memory
        self._lag = host.lag
        self.use = use
        self._cheap = CheapWork(Budget(host.driver.clock, _cheap_per_s(self.terms), CHEAP_BURST), host.cheap)
        self._evictions = Policer(self.terms)
        """Frames of others give way to this stream no more often than it has frames by its stated period."""
        self._owed_ns = 0
        """How long the client has to wait before more is read from it, as its cheap work was too much."""
        self._ordering = ordering(asked.ordering)
        self._newest_id = -1
        self.frame_bytes = 0
        """Bytes of payload that are unanswered."""
        self._results = Results(host.limits.stream.bytes_in_flight_max, host.memory)
        self._written_outcomes = 0
        """How many outcomes the transport is being given."""
        self.heard_ns = self.opened_ns = host.driver.clock()
        """When the last frame or ping came."""
        self._received_ns = self.opened_ns
        """When the newest frame counts as received."""
        self._unanswered = 0
        self._ending = False
        self.over = False
        """Whether all is written and nothing more will come, which is known once `next` has found nothing."""
        self.closed = False
        """Whether no more frames are taken."""
        self._broken = False
        """Whether an outcome got lost on its way to the outbox, so that the stream must end."""
        self._write_began_ns = 0
        self._client_slow = False
        """Whether what is in the outbox has waited for the client to read what was written before."""
        self._video: Video | None = None
        """What is kept of its video; None: no version that served it takes any."""
        self._input_bytes_max: list[int] = []
        self._delay: PlannedDelay | None = None
        self.planned_delay_ns = 0
        """How long the next frame is planned to take, where the model gives action chunks; 0: it gives none."""
        self._failure = ""
        """Why the version that serves the stream cannot; empty: it can."""
        self._changes_count = host.catalogue.changes_count
        """The catalogue's `changes_count` when the stream last looked."""
        self._drawn = False
        """Whether it was drawn for a version that is tried."""
        if not asked.version and host.catalogue.has_canary(served.version.name):
            self._changes_count = -1  # admission judges it with the active version; from its first frame on it follows
        self._serve_with(served)

    def _serve_with(self, served: LoadedVersion) -> None:
        self.served = served
        self.model = served.key
        """Version that serves the stream now, NAME/VERSION."""
        self._signature = signature_of(served)
        """What the version took when the stream began to use it. It may be loaded again from other files meanwhile."""
        asked = self.asked.fusion
        self.signature = self._signature if asked is None else one_input(served, asked.input)
        """What a frame of this stream has: all of it, or one input alone where the others come on other streams."""
        names = [spec.name for spec in self.signature.outputs if not self.wanted or spec.name in self.wanted]
        if asked is not None:
            names += [spec.name for spec in self._signature.inputs]
        self.outbox.fit_to(names)
        if any(not set(VIDEO).isdisjoint(spec.encodings) for spec in self.signature.inputs):
            self._video = self._video or Video(self.stream_id)
            self._input_bytes_max = [spec.bytes_max for spec in self.signature.inputs]
        if self.signature.chunk is None:
            self._delay, self.planned_delay_ns = None, 0
        elif self._delay is None:
            self._delay = PlannedDelay()

    @property
    def stream_class(self) -> StreamClass:
        """How critical its frames are: what they are joined with may be more so than it asked for."""
        return self.terms.stream_class if self.fusion is None else self.fusion.stream_class

    @property
    def variants(self) -> list[str]:
        """Names of the model's variants, best first."""
        return self.served.version.config.variant_names

    def open(self, verdict: Verdict | None = None) -> None:
        """Makes the stream known to the scheduler; from then on it must be closed. With a `verdict` the client gets a
        notice that it is open.
        """
        self.terms.advise = self._host.advise and verdict is not None and self.fusion is None
        self.stream_id = self._driver.open_stream(self, self.terms)
        self._runs_as = self.stream_id if self.fusion is None else self.fusion.stream_id
        if self._video is not None:
            self._video.stream_id = self.stream_id
        self._memory.opened(self)
        self.verdict = verdict
        self.log = _log.bind(stream=self.stream_id, stream_name=self.asked.stream_name, model=self.model)
        if verdict is not None:
            self.outbox.notify(Opened())

    def planned_one_ns(self) -> int:
        """Returns the planned time of a batch of one, in the fastest variant that the stream accepts."""
        return self._driver.scheduler.planned_one_ns(self.model, self.terms.variant_rank_max)

    # ---- in ----

    def take(
        self, frame_id: int, captured_unix_ns: int, budget_ns: int, must_run: bool, received_unix_ns: int
    ) -> HeldFrame | None:
        """Gives a frame its place in the stream. Returns None where it is answered already; otherwise the caller must
        `submit` or `refuse` it at once.

        `captured_unix_ns` is by the client's clock, 0: not known. A `budget_ns` of 0 stands for the stream's default.
        Raises CallError where the id is used up, and InvalidTerms where the stream can't go on with a new version.
        """
        if frame_id <= self._newest_id:
            text = f"frame id {frame_id} came after {self._newest_id}; ids must increase"
            raise CallError("FRAME_ID_NOT_INCREASING", text, "frame_id")
        self._newest_id = frame_id
        if self._changes_count != self._catalogue.changes_count:
            self._follow()
        driver, terms = self._driver, self.terms
        now_ns = driver.clock()
        self.heard_ns = now_ns
        lag_ns = self._lag.held_up_ns(now_ns) if now_ns > self._lag.suspect_ns else 0
        if lag_ns:  # but it came after the frame before it
            lag_ns = min(lag_ns, now_ns - self._received_ns)
        budget_ns = budget_ns or terms.budget_ns
        age_ns = uncertainty_ns = 0
        if self.clock is not None and captured_unix_ns:
            by_ns = 0 if self._clock_of_ns is None else self.wall.moved_ns - self._clock_of_ns
            age_ns = self.clock.capture_to_receipt_ns(captured_unix_ns, received_unix_ns - by_ns)
            uncertainty_ns = self.clock.uncertainty_ns
            if self._far_off.unrelated(now_ns, age_ns, budget_ns):
                age_ns = uncertainty_ns = 0
            elif lag_ns:
                lag_ns = min(lag_ns, age_ns)
                age_ns -= lag_ns
        if lag_ns:
            now_ns -= lag_ns
            received_unix_ns -= lag_ns
        self._received_ns = now_ns
        limit_ns = self._stream_limits.budget_ns_max
        possible = 0 < budget_ns <= limit_ns
        deadline_ns = now_ns - age_ns + budget_ns if possible else now_ns  # what is written must fit the wire
        blame = driver.blame
        alone = not blame.peaceful and blame.runs_alone(self._runs_as)
        frame = Frame(next(driver.seqs), self.stream_id, frame_id, self.model, deadline_ns, must_run, alone)
        fusion = self.fusion
        if fusion is not None:
            exact = fusion.asked.wait is FusionWait.EXACT
            frame.captured_ns = captured_unix_ns if exact else now_ns - age_ns
            possible = possible and not (exact and not captured_unix_ns)
        held = HeldFrame(frame, terms.stream_class, self.signature, now_ns, received_unix_ns, age_ns, uncertainty_ns)
        held.principal = terms.principal
        held.last = self.asked.single
        held.drawn = self._drawn
        self._unanswered += 1
        if self._ordering is not None:
            self._ordering.arrived(frame_id)
        if not possible:
            reason = f"{self.asked.budget_name} should be 0 to {limit_ns}, got {budget_ns}"
            if 0 < budget_ns <= limit_ns:
                reason = _NOT_CAPTURED
            self.refuse(held, DOES_NOT_FIT, reason)
        elif self._failure:
            self.refuse(held, VERSION_NOT_SERVED, self._failure)
        elif not blame.peaceful and (bar := blame.bar(now_ns, terms.principal, self.model, self._runs_as)):
            self.refuse(held, bar, bar.wording)
        else:
            return held
        return None

    def submit(self, held: HeldFrame, payload: Sequence[InputData], size_bytes: int) -> None:
        """Passes a frame that fits its model to the scheduler, if there is room for its bytes; else it is SHED."""
        use = self.use
        if self._video is not None and self.frame_bytes + size_bytes > self._stream_limits.bytes_in_flight_max:
            self._count_kept(self._video.forget())  # what is kept must not keep out what is new
        if size_bytes > self._frame_bytes_max:
            self.refuse(held, DOES_NOT_FIT, _beyond_limits(size_bytes, self._host.limits.frame))
        elif use.meter is not None and (over := use.meter.over(held.received_ns, size_bytes)):
            self.refuse(held, *over)
        elif self.frame_bytes + size_bytes > self._stream_limits.bytes_in_flight_max:
            self.refuse(held, OVER_BYTES, OVER_BYTES.says(bytes_max=self._stream_limits.bytes_in_flight_max))
        elif 0 < self._principal_bytes_max < use.bytes + size_bytes and not self._evict(
            lambda: use.bytes + size_bytes <= self._principal_bytes_max, same_principal=True
        ):
            reason = PRINCIPAL_OVER_BYTES.says(bytes_max=self._principal_bytes_max)
            self.refuse(held, PRINCIPAL_OVER_BYTES, reason)
        elif self._driver.held.bytes + size_bytes > self._server_bytes_max and not self._evict(
            lambda: self._driver.held.bytes + size_bytes <= self._server_bytes_max, same_principal=False
        ):
            self.refuse(held, MEMORY_FULL, MEMORY_FULL.wording)
        else:
            if self._video is not None:
                payload = self._video.taken(held.frame.frame_id, payload, self._input_bytes_max)
            held.payload, held.size_bytes = payload, size_bytes
            if use.meter is not None:
                held.ran = use.meter.ran
            self.frame_bytes += size_bytes
            use.bytes += size_bytes
            costs = self._driver.costs.get(self.model)
            if costs is not None and self.fusion is not None:
                reading_ns = costs.reading_ns(payload)
                if reading_ns:
                    held.frame = larger(held.frame, reading_ns, untried=costs.reading_untried(payload))
            elif costs is not None:
                extra_ns, reading_ns = costs.extra_ns(payload)
                if extra_ns:
                    apart_ns = reading_ns if self.model in self._driver.read_apart else 0
                    held.frame = larger(held.frame, extra_ns, apart_ns, untried=costs.untried(payload))
            self._driver.take_frame(held)
            if self.terms.period_ns:
                self._driver.expect_frame(self.model, self.terms.period_ns)

    def refuse(self, held: HeldFrame, fate: Fate, reason: str) -> None:
        """Answers a frame that the scheduler never sees."""
        self._host.refused[fate.cause] += 1
        self._owed_ns = max(self._owed_ns, self._cheap.done())
        if self.fusion is not None:
            self._driver.submit(FrameRefused(self.stream_id, held.frame.captured_ns))
        elif self.terms.gap is not None:
            self._driver.submit(FrameRefused(self.stream_id))
        self.deliver(Outcome(held, fate.status, reason[:REASON_CHARS_MAX]))

    def _evict(self, fits: Callable[[], bool], *, same_principal: bool) -> bool:
        if not same_principal and not self._evictions.conforms(self._driver.clock()):
            return False
        return self._memory.evict_frames(self, fits, same_principal)

    def shed_waiting(self) -> None:
        """Answers all waiting frames SHED, as more critical ones need their room."""
        self._driver.submit(WaitingEvicted(self.stream_id))
        if self._video is not None:
            self._count_kept(self._video.forget())

    async def cancel(self, frame_ids: Sequence[int]) -> None:
        """Cancels frames whose results nobody wants any more."""
        for start in range(0, len(frame_ids), CANCELS_A_TURN):
            self.withdraw(frame_ids[start : start + CANCELS_A_TURN])
            await self.give_way()
            if self.closed:
                return

    def withdraw(self, frame_ids: Sequence[int]) -> None:
        """Cancels at most CANCELS_A_TURN frames."""
        self._driver.submit(FramesCancelled(self.stream_id, tuple(frame_ids)))
        self._owed_ns = max(self._owed_ns, self._cheap.done(1 + len(frame_ids) // CANCELS_A_TOKEN))

    async def give_way(self) -> None:
        """Lets other streams have their turn, because a long message must not hold them up, and waits for room in the
        outbox.
        """
        await asyncio.sleep(0)
        await self.room()

    async def room(self) -> None:
        """Waits for room in the outbox, and until the client has waited for the cheap work that was too much."""
        while True:
            if self._owed_ns:
                owed_ns, self._owed_ns = self._owed_ns, 0
                await asyncio.wait([self.ended], timeout=owed_ns / 1e9)
            if self.outbox.has_room.is_set():
                return
            await self.outbox.has_room.wait()

    @property
    def has_room(self) -> bool:
        """Whether more may be read from the client at once."""
        return not self._owed_ns and self.outbox.has_room.is_set()

    def wait_with(self, message_bytes: int) -> None:
        """Counts a message of that size, whose frames wait until there is room; 0: they wait no more."""
        if message_bytes:
            self._memory.hold_message(self, message_bytes)
        else:
            self._memory.release_message(self)

    def ping(self, ping_id: int, client_send_unix_ns: int, clock: ClockRelation | None) -> None:
        """Answers a client that asks for the time. `clock`: how the clocks relate, where the client knows."""
        received_unix_ns = self.wall.now_ns()
        self.heard_ns = self._driver.clock()
        self._owed_ns = max(self._owed_ns, self._cheap.done())
        if clock is not None:
            self.clock = clock
            # It was measured by the last answer: if the server's clock was set since, it is of before. Who has had none
            # knows the relation otherwise, such as being on the same host, and is right whatever is set.
            self._clock_of_ns = self._pong_of_ns
        self._pong_of_ns = self.wall.moved_ns
        self.outbox.notify(ClockAsked(ping_id, client_send_unix_ns, received_unix_ns))

    def follow(self) -> None:
        """Follows a change in the catalogue, if there was one: another version may be active, or the same one may have
        been loaded again. `take` does so, too; who reads a frame by `signature` does it before. Raises InvalidTerms
        where the version lacks a wanted output.
        """
        if self._changes_count != self._catalogue.changes_count:
            self._follow()

    def _follow(self) -> None:
        served, catalogue = self.served, self._catalogue
        self._changes_count = catalogue.changes_count
        if self.asked.version:
            now = catalogue.current(served)
        else:
            now = catalogue.follows(served.version.name, self.key, served if self._newest_id >= 0 else None)
            self._drawn = catalogue.draws(served.version.name, self.key)
        self._failure = now.failure if now is not None else ""
        if now is None or now.signature is None:
            return  # it is gone, or being loaded again
        if now is served and now.signature is self._signature:
            return
        wanted_outputs(self.wanted, now.signature)
        if self.fusion is not None:
            self.fusion.check_inputs(now)
        before, stateful = self.model, self.signature.stateful or now.signature.stateful
        self._serve_with(now)
        if now.key != before or stateful:
            happened = "is active" if now is catalogue.active(now.version.name) else "is tried on this stream"
            if now.key == before:
                happened = "was loaded again"
            state = ""
            if stateful:
                carried = now.takes_state_of(served) and catalogue.current(served) is served
                state = "; the state of the stream " + ("is carried over" if carried else "starts anew with it")
            self.advise(Advice.VERSION_CHANGED, f"version {now.version.version} {happened}{state}", 0)

    # ---- out ----

    def deliver(self, outcome: Outcome) -> None:
        size_bytes = outcome.held.size_bytes
        if self._video is not None and not self.closed:
            ran = outcome.run is not None
            self._count_kept(self._video.answered(self._driver.clock(), outcome.held.frame.frame_id, ran))
        self.frame_bytes -= size_bytes
        self.use.bytes -= size_bytes
        if outcome.outputs and not self._results.keep(self, outcome):
            self.outbox.overflow()
        if self._ordering is None:
            self.outbox.put(outcome)
            return
        leave = self._ordering.push(outcome)
        if not leave:
            self.outbox.hold()
            return
        self.outbox.release(len(leave) - 1)
        for leaving in leave:
            self.outbox.put(leaving)
        if outcome.outputs is None and outcome.result_bytes:
            self._results.drop(outcome)

    def forget_old_video(self, now_ns: int) -> None:
        """Gives up access units that were kept for long. It must be called periodically."""
        if self._video is not None:
            self._count_kept(self._video.forget(until_ns=now_ns - KEPT_NS_MAX))

    def _count_kept(self, more_bytes: int) -> None:
        """Counts access units that are kept though their frames are answered."""
        self.frame_bytes += more_bytes
        self.use.bytes += more_bytes
        self._driver.held.bytes += more_bytes

    @property
    def label_key(self) -> str:
        """By what its client names it when it sends labels, also later; empty: none of its frames are kept."""
        return self._host.key_of(self) if self._host.key_of is not None else ""

    @property
    def result_bytes(self) -> int:
        """Bytes of results that are not written yet."""
        return self._results.bytes

    def shed_results(self) -> None:
        """Withholds all results that the transport has not been given, as more critical ones need their room."""
        held = self._ordering.held() if self._ordering is not None else ()
        self._results.shed((*self.outbox.outcomes, *held))

    def advise(self, advice: Advice, reason: str, period_ns: int) -> None:
        self.outbox.notify(Advised(advice, reason, period_ns, self.served.version.version))

    def fail(self) -> None:
        self._broken = True
        if self.fusion is not None:
            self.fusion.leave(self)
        self.outbox.changed.set()

    def next(self) -> Notice | tuple[int, Sequence[Outcome]] | None:
        """Returns what is to be written now: a notice, or (now_ns, outcomes), which count as sent at that time. Call
        `written` when that is done. None: there is nothing, and more may come unless `over` is set. Raises CallError
        where an outcome got lost.
        """
        outbox = self.outbox
        if outbox.notices:
            self._write_began_ns = self._driver.clock()
            return outbox.notices.popleft()
        if outbox.outcomes:
            self._write_began_ns = now_ns = self._driver.clock()
            outcomes = outbox.take()
            self._unanswered -= len(outcomes)
            self._written_outcomes = len(outcomes)
            self._results.writing(outcomes)
            for event in self._host.verdicts.sent(now_ns, outcomes, self._client_slow):
                self._driver.submit(event)
            if self._delay is not None:
                for outcome in outcomes:
                    took_ns = now_ns - outcome.held.received_ns
                    self._delay.answered(outcome.held.frame.model, outcome.status, took_ns)
                self.planned_delay_ns = self._delay.ns(self.model, self.planned_one_ns())
            return now_ns, outcomes
        if self._broken:
            raise CallError("INTERNAL", _BROKEN)
        self.over = self._ending and not self._unanswered
        self._client_slow = False
        outbox.changed.clear()
        return None

    def written(self) -> None:
        """Notes that the transport has taken what `next` gave."""
        self._client_slow = self._driver.clock() - self._write_began_ns > SLOW_WRITE_NS
        self._write_began_ns = 0
        self._results.written()
        self.outbox.written(self._written_outcomes)
        self._written_outcomes = 0

    def stuck_ns(self, now_ns: int) -> int:
        """Returns for how long the client has not taken what is written to it; 0: nothing is being written."""
        return now_ns - self._write_began_ns if self._write_began_ns else 0

    def silent_ns(self, now_ns: int) -> int:
        """Returns for how long the client has sent nothing though it should have: since the stream opened where no
        frame has come, and since PERIODS_SILENT periods after the last message where it stated one; 0: it is not.
        """
        if self._newest_id < 0:
            return now_ns - self.opened_ns
        period_ns = self.terms.period_ns
        return max(0, now_ns - self.heard_ns - PERIODS_SILENT * period_ns) if period_ns else 0

    # ---- the end ----

    def end(self, error: Exception | None) -> None:
        """Notes that the stream is over. `error`: the reason, where that ends the call, too."""
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)

    def finish(self) -> None:
        """Notes that no more frames come. `over` is set when all are answered and sent."""
        self._ending = True
        self.outbox.changed.set()

    def close(self) -> None:
        """Closes the stream: what waits is CANCELLED, and no frame is run for it any more. `next` gives what there is,
        and then None.
        """
        self.closed = True
        self.outbox.close()
        self._memory.closed(self)
        self._memory.release_message(self)
        self._driver.close_stream(self.stream_id)
        if self.fusion is not None:
            self.fusion.leave(self)
        if self._ordering is not None:
            left = self._ordering.release()
            self.outbox.release(len(left))
            for outcome in left:
                self.outbox.put(outcome)
        self._unanswered = len(self.outbox.outcomes)
        if self._video is not None:
            self._count_kept(self._video.forget())
        self.use.bytes -= self.frame_bytes  # of frames that still run, whose outcomes go nowhere
        self.frame_bytes = 0
        self.finish()

    def abandon(self) -> None:
        """Counts what was not sent, as nobody reads any more. `next` returns None from then on."""
        for event in self._host.verdicts.unread(self._driver.clock(), self.outbox.clear()):
            self._driver.submit(event)
        self._results.clear()
        self._written_outcomes = 0
        self._unanswered = 0
        self.finish()


def _cheap_per_s(terms: StreamTerms) -> float:
    if terms.stream_class is not StreamClass.CRITICAL or not terms.period_ns:
        return CHEAP_PER_S
    return max(CHEAP_PER_S, min(CHEAP_PER_S_CRITICAL, 1e9 / terms.period_ns))


def _beyond_limits(size_bytes: int, limits: SizeLimits) -> str:
    """The reason for a frame that can never be taken. Its client may do something about it, or ask the operator to."""
    setting, bytes_max = next(iter(limits.settings.items()))
    return f"the frame has {size_bytes} bytes, at most {bytes_max} are taken ({setting})"
