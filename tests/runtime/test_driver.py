"""The driver between a scheduler and a fake lane: what it promises to streams and to memory."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.events import Action, Event, LaneUp, ModelGone, ModelReady, TimerFired
from duly.core.scheduler import Scheduler
from duly.core.timing.profile import MARGIN_PERCENT
from duly.core.types import BacklogPolicy, OutcomeStatus, StreamClass, StreamTerms
from duly.metrics import Metrics
from duly.runtime.driver import Driver
from duly.runtime.outcome import Outcome
from duly.runtime.worker_port import BatchResult
from tests.runtime.fake_lane import Clock, FakeLane
from tests.runtime.held import take

MS = 1_000_000
TERMS = StreamTerms(StreamClass.STANDARD, BacklogPolicy.ALL, 0, 100 * MS, 64)


@dataclass
class Stream:
    """Keeps what it is told."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)

    def deliver(self, outcome: Outcome) -> None:
        assert outcome.held.frame.frame_id not in self.outcomes, "answered twice"
        self.outcomes[outcome.held.frame.frame_id] = outcome

    def advise(self, advice: object, reason: str, period_ns: int) -> None:
        self.advice.append(reason)

    def fail(self) -> None:
        raise AssertionError("nothing raised here")


@dataclass
class Log:
    """Keeps the events."""

    told: list[tuple[int, Event]]

    def event(self, now_ns: int, event: Event) -> None:
        self.told.append((now_ns, event))

    def actions(self, actions: list[Action]) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class Bench:
    driver: Driver
    clock: Clock
    lane: FakeLane
    log: list[tuple[int, Event]]

    def send(self, stream_id: int, frame_id: int, budget_ns: int = 50 * MS, *, together: bool = False) -> None:
        take(self.driver, self.clock, stream_id, frame_id, "m/1", budget_ns, bytes([frame_id % 256]))
        if not together:
            self.driver.submit(TimerFired())  # anything that happens brings the frames that came before


def new_bench() -> Bench:
    clock = Clock()
    log: list[tuple[int, Event]] = []
    driver = Driver(Metrics(), 1000, clock, Log(log))
    lane = FakeLane("m/1", "cpu:0")
    driver.submit(LaneUp("cpu:0"))
    driver.add_worker(lane)
    driver.submit(ModelReady("m/1", "cpu:0", "default", {1: (MS,), 4: (2 * MS,)}, True))
    return Bench(driver, clock, lane, log)


@pytest.fixture
async def bench() -> Bench:
    return new_bench()


async def test_a_result_reaches_its_stream_and_its_payload_is_forgotten(bench: Bench) -> None:
    stream = Stream()
    stream_id = bench.driver.open_stream(stream, TERMS)
    bench.send(stream_id, 7)
    assert bench.driver.held.bytes == 1
    bench.clock.now_ns += MS
    bench.lane.end(bench.driver)
    outcome = stream.outcomes[7]
    assert outcome.status is OutcomeStatus.ON_TIME
    assert outcome.outputs == [(0, (1,), b"\x07\x07")]
    assert outcome.run is not None
    assert (outcome.run.batch.model, len(outcome.run.batch.frames)) == ("m/1", 1)
    assert bench.driver.held.bytes == 0
    assert not outcome.held.payload, "outcomes may wait long for a client that does not read"


async def test_the_worker_hears_which_frames_are_the_last_of_their_streams(bench: Bench) -> None:
    ids = [bench.driver.open_stream(Stream(), TERMS) for _ in range(3)]
    for frame_id, marks in ((1, True), (2, False)):
        for stream_id in ids:
            last = marks and stream_id == ids[1]
            take(bench.driver, bench.clock, stream_id, frame_id, "m/1", 50 * MS, bytes([stream_id]), last=last)
        bench.driver.submit(TimerFired())
        heard = []
        while bench.lane.running:
            ((action, _),) = bench.lane.running
            heard += [action.frames[index].stream_id for index in bench.lane.last]
            bench.lane.end(bench.driver)
        assert heard == ([ids[1]] if marks else [])


async def test_the_next_batch_starts_before_outcomes_are_handed_over(bench: Bench) -> None:
    order: list[str] = []

    class Watching(Stream):
        def deliver(self, outcome: Outcome) -> None:
            super().deliver(outcome)
            order.append(f"outcome {outcome.held.frame.frame_id}, {len(bench.lane.running)} running")

    stream_id = bench.driver.open_stream(Watching(), TERMS)
    bench.send(stream_id, 1)
    bench.send(stream_id, 2)
    bench.lane.end(bench.driver)
    assert order == ["outcome 1, 1 running"]


async def test_frames_of_one_turn_of_the_loop_share_a_batch(bench: Bench) -> None:
    stream = Stream()
    stream_id = bench.driver.open_stream(stream, TERMS)
    for frame_id in (1, 2, 3):
        bench.send(stream_id, frame_id, together=True)
    assert not bench.lane.running
    while not bench.lane.running:
        await asyncio.sleep(0)
    assert [frame.frame_id for frame in bench.lane.running[0][0].frames] == [1, 2, 3]
    bench.lane.end(bench.driver)
    assert sorted(stream.outcomes) == [1, 2, 3]


async def test_what_the_profile_learns_holds_no_delay_of_the_loop(bench: Bench) -> None:
    stream_id = bench.driver.open_stream(Stream(), TERMS)
    for frame_id in range(1, 40):
        bench.send(stream_id, frame_id)
        finished_ns = bench.clock.now_ns = bench.clock.now_ns + MS
        bench.clock.now_ns += 7 * MS  # the loop was busy with something else
        bench.lane.end(bench.driver, finished_ns)
    assert bench.driver.scheduler.planned_ns("m/1", "cpu:0")[0] == MS + MS * MARGIN_PERCENT // 100


async def test_reasons_of_single_frames_reach_them(bench: Bench) -> None:
    stream = Stream()
    stream_id = bench.driver.open_stream(stream, TERMS)
    for frame_id in range(1, 6):
        bench.send(stream_id, frame_id)
    bench.clock.now_ns += MS
    bench.lane.end(bench.driver)
    bench.lane.end(bench.driver, invalid={1: "NaN"}, failed={2: "too large"})
    statuses = {i: (o.status.name, o.reason) for i, o in stream.outcomes.items()}
    assert statuses == {
        1: ("ON_TIME", ""),
        2: ("ON_TIME", ""),
        3: ("INVALID", "NaN"),
        4: ("FAILED", "too large"),
        5: ("ON_TIME", ""),
    }


async def test_a_worker_that_takes_no_batch_fails_it(bench: Bench) -> None:
    stream = Stream()
    stream_id = bench.driver.open_stream(stream, TERMS)
    bench.lane.gone = True
    bench.send(stream_id, 1)
    assert not stream.outcomes, "a step is never entered from within a step"
    await bench.driver.drained()
    assert stream.outcomes[1].status is OutcomeStatus.FAILED


async def idle_gpu(bench: Bench) -> Stream:
    """The lane belongs to a device that was idle for so long that it is to be warmed; a frame waits for it."""
    bench.driver.submit(ModelReady("m/1", "cpu:0", "default", {1: (MS,)}, True, warm_after_ns=1000 * MS))
    stream = Stream()
    stream_id = bench.driver.open_stream(stream, TERMS)
    bench.clock.now_ns += 1001 * MS
    bench.driver.submit(TimerFired())
    assert [(action.lane, action.model, action.variant) for action in bench.lane.warming] == [
        ("cpu:0", "m/1", "default")
    ]
    bench.send(stream_id, 1)
    assert not bench.lane.running, "the lane is taken"
    return stream


async def test_an_idle_lane_is_warmed_and_no_outcome_comes_of_it(bench: Bench) -> None:
    stream = await idle_gpu(bench)
    now_ns = bench.clock.now_ns
    bench.driver.batch_ended(bench.lane.warming[0].batch_id, BatchResult(now_ns, now_ns, lambda index: []))
    assert not stream.outcomes
    bench.lane.end(bench.driver)
    assert stream.outcomes[1].status is OutcomeStatus.ON_TIME


async def test_a_lane_whose_warming_fails_goes_on(bench: Bench) -> None:
    stream = await idle_gpu(bench)
    bench.driver.batch_ended(bench.lane.warming[0].batch_id, "the device is lost")
    bench.driver.batch_ended(bench.lane.warming[0].batch_id, "the device is lost")
    bench.lane.end(bench.driver)
    assert stream.outcomes[1].status is OutcomeStatus.ON_TIME


async def test_a_worker_that_is_gone_warms_nothing(bench: Bench) -> None:
    bench.lane.gone = True
    bench.driver.submit(ModelReady("m/1", "cpu:0", "default", {1: (MS,)}, True, warm_after_ns=1000 * MS))
    bench.driver.open_stream(Stream(), TERMS)
    bench.clock.now_ns += 1001 * MS
    bench.driver.submit(TimerFired())
    await asyncio.sleep(0)
    assert type(bench.log[-1][1]).__name__ == "BatchFailed"


async def test_a_closed_stream_hears_nothing_more_and_workers_forget_it(bench: Bench) -> None:
    stream = Stream()
    stream_id = bench.driver.open_stream(stream, TERMS)
    for frame_id in (1, 2):
        bench.send(stream_id, frame_id)
    bench.driver.close_stream(stream_id)
    assert {i: o.status for i, o in stream.outcomes.items()} == {2: OutcomeStatus.CANCELLED}
    bench.lane.end(bench.driver)
    assert 1 not in stream.outcomes
    assert bench.lane.forgotten == [stream_id]
    assert len(bench.driver.held) == 0


async def test_what_ran_for_a_stream_that_has_closed_is_charged_to_its_principal(bench: Bench) -> None:
    """Else a quota of lane time would hold nobody who closes his streams soon enough."""
    stream_id = bench.driver.open_stream(Stream(), TERMS)
    charged: list[tuple[int, float]] = []
    bench.send(stream_id, 1, together=True)
    next(iter(bench.driver.held._by_seq.values())).ran = lambda now_ns, lane_ns: charged.append((now_ns, lane_ns))
    bench.driver.submit(TimerFired())
    bench.driver.close_stream(stream_id)
    bench.lane.end(bench.driver)
    assert charged == [(bench.clock.now_ns, 0)]


async def test_the_timer_tells_a_doomed_frame_while_the_lane_is_busy(bench: Bench) -> None:
    told = asyncio.Event()

    class Waiting(Stream):
        def deliver(self, outcome: Outcome) -> None:
            super().deliver(outcome)
            told.set()

    stream = Waiting()
    stream_id = bench.driver.open_stream(stream, TERMS)
    bench.send(stream_id, 1)
    bench.send(stream_id, 2, budget_ns=2 * MS)
    bench.clock.now_ns += 2 * MS
    await told.wait()
    assert stream.outcomes[2].status is OutcomeStatus.EXPIRED
    assert bench.lane.running


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 2), st.integers(0, 40)),
        st.tuples(st.just("end"), st.just(0), st.just(0)),
        st.tuples(st.just("pass"), st.just(0), st.integers(1, 30)),
        st.tuples(st.just("close"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("die"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_every_frame_is_answered_once_and_the_log_replays(actions: list[tuple[str, int, int]]) -> None:
    async def story() -> None:
        bench = new_bench()
        streams = {nth: Stream() for nth in range(3)}
        ids = {nth: bench.driver.open_stream(stream, TERMS) for nth, stream in streams.items()}
        sent: dict[int, list[int]] = {nth: [] for nth in streams}
        frame_ids: Iterator[int] = iter(range(1, 1000))
        for kind, nth, amount in actions:
            if kind == "send" and nth in ids:
                frame_id = next(frame_ids)
                sent[nth].append(frame_id)
                bench.send(ids[nth], frame_id, amount * MS)
            elif kind == "end" and bench.lane.running:
                bench.lane.end(bench.driver)
            elif kind == "pass":
                bench.clock.now_ns += amount * MS
            elif kind == "close" and nth in ids:
                bench.driver.close_stream(ids.pop(nth))
            elif kind == "die":
                bench.lane.running.clear()
                bench.driver.submit(ModelGone("m/1", "cpu:0", "died"))
                bench.driver.submit(ModelReady("m/1", "cpu:0", "default", {1: (MS,), 4: (2 * MS,)}, True))
        while bench.lane.running:
            bench.lane.end(bench.driver)
        for nth in ids:
            assert sorted(streams[nth].outcomes) == sent[nth]
        assert len(bench.driver.held) == 0
        assert bench.driver.held.bytes == 0
        replayed = Scheduler()
        actions_again = [replayed.step(now_ns, event) for now_ns, event in bench.log]
        again = Scheduler()
        assert actions_again == [again.step(now_ns, event) for now_ns, event in bench.log]

    asyncio.run(story())
