"""The clock filter: what it claims is true, whatever the network does."""

import asyncio
import random
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.v1 import inference_pb2
from duly_client import Client
from duly_client.call import Call
from duly_client.clock import DRIFT_MAX_PPM, EXCHANGES, Clock, ClockEstimate
from duly_client.connection import PING_PERIOD_S, PINGS_AT_OPEN
from tests.client.scripted_server import HOUR_NS, OpenedStream, ScriptedServer, on_time, serving

SECOND_NS = 10**9
X = np.zeros(4, np.float32)
START_NS = 1_700_000_000 * SECOND_NS


class TwoHosts:
    """True time, and two wall clocks that drift apart. Delays are of true time."""

    def __init__(self, offset_ns: int, drift_ppm: float) -> None:
        self.now_ns = 0
        self._offset_ns = offset_ns
        self._drift_ppm = drift_ppm

    @property
    def offset_ns(self) -> int:
        return self._offset_ns + round(self.now_ns * self._drift_ppm / 1e6)

    @property
    def client_ns(self) -> int:
        return START_NS + self.now_ns

    @property
    def server_ns(self) -> int:
        return self.client_ns + self.offset_ns

    def step_server(self, by_ns: int) -> None:
        self._offset_ns += by_ns

    def exchange(self, clock: Clock, up_ns: int, held_ns: int, down_ns: int) -> None:
        sent_ns = self.client_ns
        self.now_ns += up_ns
        server_received_ns = self.server_ns
        self.now_ns += held_ns
        server_sent_ns = self.server_ns
        self.now_ns += down_ns
        clock.add(sent_ns, server_received_ns, server_sent_ns, self.client_ns)


delays_ns = st.one_of(st.integers(0, 200_000), st.integers(0, 3 * SECOND_NS))


@given(
    offset_ns=st.integers(-2 * HOUR_NS, 2 * HOUR_NS),
    drift_ppm=st.floats(-DRIFT_MAX_PPM, DRIFT_MAX_PPM),
    exchanges=st.lists(
        st.tuples(delays_ns, st.integers(0, 50_000), delays_ns, st.integers(0, 60 * SECOND_NS)),
        min_size=1,
        max_size=2 * EXCHANGES,
    ),
)
def test_the_error_is_never_larger_than_the_uncertainty(
    offset_ns: int, drift_ppm: float, exchanges: list[tuple[int, int, int, int]]
) -> None:
    hosts, clock = TwoHosts(offset_ns, drift_ppm), Clock()
    for up_ns, held_ns, down_ns, pause_ns in exchanges:
        hosts.exchange(clock, up_ns, held_ns, down_ns)
        for _ in range(2):  # right after it, and after a pause
            estimate = clock.estimate(hosts.client_ns)
            assert estimate is not None
            assert abs(estimate.offset_ns - hosts.offset_ns) <= estimate.uncertainty_ns
            assert estimate.uncertainty_ns > 0
            hosts.now_ns += pause_ns


def test_the_quickest_exchange_bounds_it() -> None:
    """One quick exchange among slow and lopsided ones is worth all of them."""
    chance = random.Random(4)
    hosts, clock = TwoHosts(HOUR_NS, 0), Clock()
    for nth in range(EXCHANGES):
        quick = nth == 5
        hosts.exchange(clock, 50_000 if quick else chance.randrange(10**6, 10**8), 10_000, 50_000 if quick else 10**6)
    estimate = clock.estimate(hosts.client_ns)
    assert estimate is not None
    assert estimate.uncertainty_ns < 50_000 + 10 + hosts.now_ns * DRIFT_MAX_PPM // 10**6
    assert abs(estimate.offset_ns - HOUR_NS) <= estimate.uncertainty_ns


def test_it_believes_a_clock_that_was_set() -> None:
    hosts, clock = TwoHosts(0, 0), Clock()
    for _ in range(EXCHANGES):
        hosts.exchange(clock, 100_000, 0, 100_000)
    hosts.step_server(-SECOND_NS)
    hosts.exchange(clock, 100_000, 0, 100_000)
    estimate = clock.estimate(hosts.client_ns)
    assert estimate is not None
    assert abs(estimate.offset_ns + SECOND_NS) <= estimate.uncertainty_ns < 200_000


def test_it_knows_nothing_at_first_and_less_as_time_goes_by() -> None:
    clock = Clock()
    assert clock.estimate(START_NS) is None
    hosts = TwoHosts(7, 0)
    hosts.exchange(clock, 0, 0, 0)
    now, later = clock.estimate(hosts.client_ns), clock.estimate(hosts.client_ns + SECOND_NS)
    assert now is not None
    assert later is not None
    assert later.uncertainty_ns - now.uncertainty_ns == SECOND_NS * DRIFT_MAX_PPM // 10**6
    assert now == ClockEstimate(7, now.uncertainty_ns)


@pytest.mark.parametrize("ahead_ns", [0, HOUR_NS, -HOUR_NS])
async def test_the_server_learns_of_a_skewed_clock_before_the_first_frame(ahead_ns: int) -> None:
    """Its pings stop carrying no estimate before a frame comes, so that every budget counts from capture."""
    server = ScriptedServer(clock_ahead_ns=ahead_ns)
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        known = [ping.HasField("clock") for ping in server.pings]
        await stream.send(np.zeros(4, np.float32))
        await anext(stream)
        await server.until(lambda: len(server.pings) == 8)
        estimate = stream.clock
    assert known[0] is False
    last = server.pings[-1].clock
    assert server.pings[1].HasField("clock")
    assert abs(last.offset_nano - ahead_ns) <= last.uncertainty_nano
    assert estimate is not None
    assert abs(estimate.offset_ns - ahead_ns) <= estimate.uncertainty_ns


# ---- clocks that are set ----


class SetClock:
    """The wall clock of this process, which a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real_ns = time.time_ns
        self.ahead_ns = 0
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + self.ahead_ns)


@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    return SetClock(monkeypatch)


def age_ns(server: ScriptedServer, received_ns: int, frame: inference_pb2.Frame) -> int:
    """How old a server takes the frame to be, by the estimate that it was told last."""
    return received_ns - frame.capture_time_unix_nano - server.pings[-1].clock.offset_nano


@pytest.mark.parametrize("steps_ms", [[-500], [-30_000], [3600_000], [-40, -40, 90], [7]])
async def test_a_clock_that_is_set_is_told_before_the_next_frame(own_clock: SetClock, steps_ms: list[int]) -> None:
    ages_ns: list[int] = []
    true_ns = time.time_ns

    async def judging(stream: OpenedStream) -> None:
        await stream.greet()
        async for frame in stream.frames():
            ages_ns.append(age_ns(stream.server, true_ns() - own_clock.ahead_ns, frame))
            await stream.answer(on_time(frame))

    server = ScriptedServer(judging)
    server.now_ns = lambda: true_ns() - own_clock.ahead_ns  # the server is on another machine
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        await stream.send(X)
        outcomes = [await anext(stream)]
        for step_ms in steps_ms:
            own_clock.ahead_ns += step_ms * 1_000_000
            for _ in range(3):
                await stream.send(X)
                outcomes.append(await anext(stream))
        estimate = stream.clock
    assert all(outcome.ok and 0 < outcome.latency_ns < SECOND_NS for outcome in outcomes)
    # Half a second is the most that a busy machine takes; the least step that is not corrected would be 7 ms ahead.
    assert all(-5_000_000 < age < SECOND_NS // 2 for age in ages_ns), ages_ns
    assert estimate is not None
    assert abs(estimate.offset_ns + own_clock.ahead_ns) <= estimate.uncertainty_ns


async def test_a_clock_that_is_set_while_a_ping_leaves_is_told_before_the_next_frame(
    own_clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages_ns: list[int] = []
    true_ns = time.time_ns
    write = Call.write
    sending: list[asyncio.Task[int]] = []

    async def judging(stream: OpenedStream) -> None:
        await stream.greet()
        async for frame in stream.frames():
            ages_ns.append(age_ns(stream.server, true_ns() - own_clock.ahead_ns, frame))
            await stream.answer(on_time(frame))

    def set_meanwhile(call: Call, message: bytes) -> None:
        write(call, message)
        if armed and inference_pb2.StreamRequest.FromString(message).HasField("clock_ping"):
            armed.clear()
            own_clock.ahead_ns += SECOND_NS
            sending.append(asyncio.create_task(stream.send(X)))  # the frame waits for the ping's write

    armed: list[bool] = []
    monkeypatch.setattr(Call, "write", set_meanwhile)
    server = ScriptedServer(judging)
    server.now_ns = lambda: true_ns() - own_clock.ahead_ns
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        await stream.send(X)
        await anext(stream)
        armed.append(True)
        assert stream._connection is not None
        stream._connection._ping_now()
        await anext(stream)
        await sending[0]
    assert all(-SECOND_NS // 2 < age < SECOND_NS // 2 for age in ages_ns), ages_ns


async def test_one_ping_is_to_come_though_the_clock_was_set_under_way(
    own_clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each step of a clock that is set little by little would add a series of pings."""
    loop, true_ns, timers = asyncio.get_running_loop(), time.time_ns, []
    call_later = loop.call_later

    def noted(delay_s: float, *call: Any, **context: Any) -> asyncio.TimerHandle:
        timer = call_later(delay_s, *call, **context)
        if delay_s == PING_PERIOD_S:
            timers.append(timer)
        return timer

    def set_while_the_last_ping_is_answered() -> int:
        if len(server.pings) == PINGS_AT_OPEN:
            own_clock.ahead_ns = SECOND_NS
        return true_ns() - own_clock.ahead_ns

    monkeypatch.setattr(loop, "call_later", noted)
    server = ScriptedServer()
    server.now_ns = set_while_the_last_ping_is_answered
    async with serving(server) as target, Client(target) as client, client.stream("echo") as stream:
        await server.until(lambda: len(server.pings) == PINGS_AT_OPEN + 1)
        await stream.send(X)
        assert (await anext(stream)).ok, "behind the last pong"
        assert sum(not timer.cancelled() for timer in timers) == 1
