"""MLPerf's MultiStream scenario: queries of several samples, sent at once, one query after the other.

Taken over (Inference Rules from 1.0 on, "Scenarios"): a query has 8 samples; the next is sent as soon as all samples of
the one before are answered; the metric is the 99th percentile of the time from sending a query to its last answer,
estimated as early stopping has it. And from the rules up to 0.7: the largest N whose queries keep within a bound at the
99th percentile, here the budget; but the queries of those came at a fixed interval, ours are closed loop as in 1.0.

Ours: each sample of a query goes over a stream of its own, as N sensors that fire together do; a query of which a
sample got no result, since the server dropped it, took too long, however soon that was told; and a run lasts shorter
than 600 s, so that few queries are told as what they are: no percentile. A result in these terms is no MLPerf result.

A closed loop waits with the target when that is slow, and so says nothing about a sensor that does not (coordinated
omission). It is here to be compared with what others publish.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context

import numpy as np
import uvloop

from duly_client.types import Encoding, Payload
from duly_load.capacity.confidence import Counts, percentile_ns
from duly_load.capacity.search import Trial
from duly_load.generator.keep_cpus_awake import awake
from duly_load.generator.run import Sending
from duly_load.generator.stalls import Watch
from duly_load.payloads.prepared import PayloadError, prepare
from duly_load.protocols.address import Address
from duly_load.protocols.by_address import target_of
from duly_load.protocols.connection import Connection, FrameAnswer, Refused, Target, TargetError
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.validity import STALLED_MAX
from duly_load.scenario.arrivals import Poisson
from duly_load.scenario.live import LiveSensor
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.schedule import Session

SAMPLES = 8
"""Of a query, whose percentile is told."""
SAMPLES_MAX = 512
ANSWER_WAIT_S = 30.0
"""A target that takes longer for a query is not there any more."""
QUERIES_MAX = 1_000_000
"""Of one run."""
STRETCH_MAX = 10
WARM_QUERIES = 16
"""Are not counted."""
OPEN_S = 120.0
"""How long frames may take to prepare and streams to open."""
OVER_S = 30.0
"""How long the process that sends may take to begin and to end, beyond what its queries may."""


@dataclass(frozen=True, slots=True)
class Queries:
    """What became of them, in their order."""

    samples: int
    """Of each."""
    sent_ns: Sequence[int]
    """Since the first that counts."""
    latency_ns: Sequence[int]
    """Until the last answer."""
    whole: Sequence[bool]
    """All its samples got a result."""
    begin_ns: int = 0
    """When the first that counts was sent, on the monotonic clock."""
    stalled: float = 0.0
    """Share of the time in which the machine stood still, see `duly_load.generator.stalls`."""
    refused: str = ""
    """The target did not let in so many streams, in its own words; then there are no queries."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Why they say nothing of the target, in words; empty: they are valid."""
        if self.stalled <= STALLED_MAX:
            return ()
        return (f"the machine stood still for {self.stalled:.0%} of the time, {STALLED_MAX:.0%} may be",)

    def percentile_ns(self, percentile: float) -> int | None:
        """Of the time a query takes; None: there are too few, or of too many some samples got no result."""
        never = 1 << 62
        told = [took if whole else never for took, whole in zip(self.latency_ns, self.whole, strict=True)]
        found = percentile_ns(told, percentile)
        return None if found == never else found

    def trial(self, seed: int, budget_ns: int) -> Trial:
        """In which a query is on time when all of it came within `budget_ns`; its load is the samples of a query."""
        window = np.array(self.sent_ns, np.int64) // 1_000_000_000
        within = np.array(self.latency_ns, np.int64) <= budget_ns
        on_time = window[within & np.array(self.whole, np.bool_)]
        windows = int(window.max(initial=0)) + 1
        counts = Counts(np.bincount(window, minlength=windows), np.bincount(on_time, minlength=windows))
        took_s = (self.sent_ns[-1] + self.latency_ns[-1]) / 1e9 if self.sent_ns else 0.0
        rate = self.samples * len(self.sent_ns) / took_s if took_s else 0.0
        return Trial(self.samples, seed, rate, self.samples, counts, self.refused, self.problems)


def ask(
    address: Address,
    sensor: LiveSensor,
    samples: int,
    seed: int,
    seconds: float,
    least: int,
    sending: Sending,
) -> Queries:
    """Queries of `samples` frames of the sensor, one after the other, for `seconds` and until there are `least` of
    them, though for `STRETCH_MAX` times as long at most. Of `sending`, what is about processors counts.

    They are sent by a process of their own, since here a thread watches for stalls.

    Raises TargetError where the target is not there or breaks off, PayloadError where the frames are not what it takes,
    ScenarioError where `sending` is not permitted.
    """
    context = get_context("spawn")
    mine, its = context.Pipe(duplex=False)
    wanted = _Wanted(address, sensor, samples, seed, seconds, least, sending.realtime)
    process = context.Process(target=_send, args=(its, wanted), name="queries", daemon=True)
    with mine, awake(sending.keep_awake), Watch() as watch:
        try:
            process.start()
            its.close()
            if not mine.poll(wanted.over_s):
                raise TargetError(f"queries of {samples} were not over after {wanted.over_s:g} s")
            told = mine.recv()
        except EOFError:
            raise TargetError("the process that sends queries ended by itself") from None
        finally:
            if process.pid is not None:
                process.kill()
                process.join()
        if isinstance(told, Exception):
            raise told
        assert isinstance(told, Queries)
        if not told.sent_ns:
            return told
        took_ns = told.sent_ns[-1] + told.latency_ns[-1]
        return replace(told, stalled=watch.stalls(told.begin_ns).share(0, max(1, took_ns)))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """As `ask` has it."""

    address: Address
    sensor: LiveSensor
    samples: int
    seed: int
    seconds: float
    least: int
    realtime: bool

    @property
    def over_s(self) -> float:
        """The longest that all may take."""
        stretch = STRETCH_MAX if self.least else 1
        return OPEN_S + (WARM_QUERIES + 1) * ANSWER_WAIT_S + stretch * self.seconds + OVER_S


def _send(way: "connection.Connection[object, object]", wanted: _Wanted) -> None:
    """The process's whole life."""
    with suppress(KeyboardInterrupt, BrokenPipeError):  # whoever started it tells, or is gone
        try:
            if wanted.realtime:
                os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            way.send(uvloop.run(_ask(wanted)))
        except PermissionError:
            way.send(ScenarioError("--realtime: the scheduling class SCHED_RR needs root or CAP_SYS_NICE"))
        except (TargetError, PayloadError) as error:
            way.send(error)


class _Query:
    """The query that is under way, told by all its streams."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.done = asyncio.Event()
        self.ending = ""
        self.begin()

    def begin(self) -> None:
        self.missing = self.samples
        self.whole = True
        self.last_ns = 0
        if not self.ending:
            self.done.clear()

    def answered(self, answer: FrameAnswer) -> None:
        self.whole &= answer.outcome in (FrameOutcome.ON_TIME, FrameOutcome.LATE)
        self.last_ns = max(self.last_ns, answer.at_ns)
        self.missing -= 1
        if not self.missing:
            self.done.set()

    def ended(self, reason: str) -> None:
        self.ending = reason
        self.done.set()


async def _ask(wanted: _Wanted) -> Queries:
    sensor, samples = wanted.sensor, wanted.samples
    # Nobody knows how often a closed loop sends, so that the server is not told a period either.
    one = sensor.model_copy(update={"count": 1, "backlog": "ALL", "arrivals": Poisson(kind="poisson", rate_hz=1)})
    query = _Query(samples)
    async with target_of(wanted.address) as target, AsyncExitStack() as open_streams:
        try:
            async with asyncio.timeout(OPEN_S):
                inputs = await target.inputs(sensor.model)
                name = f"stream {sensor.name}"
                prepared = await asyncio.to_thread(prepare, sensor.payloads, inputs, wanted.seed, name)
                encoding = prepared.encoding
                streams = [await _opened(target, one, nth, encoding, query, open_streams) for nth in range(samples)]
        except Refused as refused:
            return Queries(samples, [], [], [], refused=str(refused))
        except TimeoutError:
            raise TargetError(f"{samples} streams were not open after {OPEN_S:g} s") from None
        return await _one_after_the_other(streams, prepared.frames, query, wanted.seconds, wanted.least)


async def _opened(
    target: Target, sensor: LiveSensor, nth: int, encoding: Encoding | None, query: _Query, open_streams: AsyncExitStack
) -> Connection:
    name = f"{sensor.name}-{nth}"
    session = Session(nth + 1, name, 0, sensor.stream_class, sensor.model, sensor.budget_ns, 0, 0)
    stream = target.connection(sensor, session, encoding, query)
    await stream.open()
    open_streams.push_async_callback(stream.close)
    return stream


async def _one_after_the_other(
    streams: Sequence[Connection], frames: Sequence[Payload], query: _Query, seconds: float, least: int
) -> Queries:
    sent_ns: list[int] = []
    latency_ns: list[int] = []
    whole: list[bool] = []
    for nth in range(QUERIES_MAX):
        query.begin()
        begin_ns, begin_unix_ns = time.monotonic_ns(), time.time_ns()
        gone_s = (begin_ns - sent_ns[0]) / 1e9 if sent_ns else 0.0
        if gone_s >= seconds and (len(sent_ns) >= least or gone_s >= STRETCH_MAX * seconds):
            break
        first = nth * len(streams)
        payloads = [frames[(first + slot) % len(frames)] for slot in range(len(streams))]
        try:
            async with asyncio.timeout(ANSWER_WAIT_S):
                for slot, stream in enumerate(streams):
                    await stream.send(first + slot, payloads[slot], begin_unix_ns)
                await query.done.wait()
        except TimeoutError:
            raise TargetError(f"a query of {len(streams)} was not answered within {ANSWER_WAIT_S:g} s") from None
        if query.ending:
            raise TargetError(query.ending)
        if nth >= WARM_QUERIES:
            sent_ns.append(begin_ns)
            latency_ns.append(query.last_ns - begin_ns)
            whole.append(query.whole)
    return Queries(len(streams), [at_ns - sent_ns[0] for at_ns in sent_ns], latency_ns, whole, sent_ns[0])
