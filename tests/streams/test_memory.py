"""Memory that streams share: where there is no room, less critical streams make it, and no stream gives way to an
equal."""

import asyncio
from dataclasses import replace
from random import Random

import pytest

from duly.core.types import BacklogPolicy, OutcomeStatus, StreamClass
from duly.streams.errors import CallError
from duly.streams.limits import PrincipalLimits, PrincipalUse, ServerLimits
from duly.streams.ordering import OrderingPolicy
from duly.streams.outbox import MESSAGE_OUTCOMES_MAX
from tests.streams.bench import LIMITS, MS, Bench, statuses, written

ALL = {"backlog_policy": BacklogPolicy.ALL, "expected_period_ns": MS}
ON_TIME, SHED = OutcomeStatus.ON_TIME, OutcomeStatus.SHED
CRITICAL, STANDARD, BEST_EFFORT = StreamClass
NEEDED = "overload: its memory was needed for more critical frames"


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_less_critical_frames_that_wait_make_room_for_more_critical_ones(bench: Bench) -> None:
    low = bench.open(stream_class=BEST_EFFORT, **ALL)
    most, little = bench.open(stream_class=STANDARD, **ALL), bench.open(stream_class=STANDARD, **ALL)
    high = bench.open(stream_class=CRITICAL, **ALL)
    bench.send(low, 1, size_bytes=25)  # it runs
    bench.send(low, 2, 3, 4, size_bytes=25)
    bench.send(most, 1, 2, 3, 4, size_bytes=25)
    bench.send(little, 1)
    assert statuses(await written(low)) == {2: SHED, 3: SHED, 4: SHED}
    bench.send(high, 1, size_bytes=74)
    assert await written(most) == []
    bench.send(high, 2, size_bytes=25)
    assert [(outcome.status, outcome.reason) for outcome in await written(most)] == [(SHED, NEEDED)] * 4
    assert [stream.frame_bytes for stream in (low, most, little, high)] == [25, 0, 1, 99]
    assert bench.driver.held.bytes == 125


async def test_who_sends_faster_than_promised_makes_nobody_give_way_for_that(bench: Bench) -> None:
    """Anybody may say that a stream is CRITICAL, with a period that is long enough to be promised."""
    low = [bench.open(stream_class=STANDARD, **ALL) for _ in range(2)]
    rare = bench.open(stream_class=CRITICAL, **{**ALL, "expected_period_ns": 1_000_000 * MS})
    gave_way = []
    for turn in range(6):
        for stream in low:  # they take all the memory that is left
            bench.send(stream, *range(turn * 20, turn * 20 + 20), size_bytes=10)
        before = rare.frame_bytes
        bench.send(rare, turn, size_bytes=10)
        gave_way.append(rare.frame_bytes > before)
    assert gave_way == [True] * 3 + [False] * 3, "a burst of two periods, as where it is policed"


async def test_equals_do_not_give_way(bench: Bench) -> None:
    streams = [bench.open(stream_class=BEST_EFFORT, **ALL) for _ in range(3)]
    for stream in streams:
        bench.send(stream, 1, 2, size_bytes=50)
    assert statuses(await written(streams[2])) == {1: SHED, 2: SHED}
    assert [await written(stream) for stream in streams[:2]] == [[], []]


async def test_frames_of_one_principal_make_room_for_its_own_more_critical_ones() -> None:
    limits = replace(LIMITS, principal=PrincipalLimits(bytes_in_flight_max=100), server=ServerLimits(8, 500))
    bench = Bench(limits)
    other = bench.open(stream_class=BEST_EFFORT, **ALL)
    bench.use = PrincipalUse()
    low, high = bench.open(stream_class=BEST_EFFORT, **ALL), bench.open(stream_class=CRITICAL, **ALL)
    bench.send(other, 1, 2, size_bytes=50)
    bench.send(low, 1, 2, size_bytes=50)
    bench.send(high, 1, size_bytes=50)
    assert statuses(await written(low)) == {1: SHED, 2: SHED}
    assert await written(high) == []
    assert (await written(other), other.frame_bytes) == ([], 100)


async def test_unread_results_make_room_for_those_of_more_critical_streams(bench: Bench) -> None:
    """Results of the bench have twice the bytes of their frames; 100 may wait for a stream, 200 for all."""
    low = [
        bench.open(stream_class=BEST_EFFORT, ordering=ordering, **ALL)
        for ordering in (OrderingPolicy.UNORDERED, OrderingPolicy.ARRIVAL)
    ]
    for stream in low:
        for frame_id in (1, 2):
            bench.send(stream, frame_id, size_bytes=25)
            bench.end_batch()
    high = bench.open(stream_class=CRITICAL, **ALL)
    bench.send(high, 1, size_bytes=25)
    bench.end_batch()
    assert [outcome.outputs is not None for outcome in await written(high)] == [True]
    assert bench.host.memory.result_bytes == 150
    assert statuses(await written(low[0])) == {1: SHED, 2: SHED}
    assert statuses(await written(low[1])) == {1: ON_TIME, 2: ON_TIME}


async def test_outcomes_behind_a_frame_that_is_not_answered_count_as_unwritten(bench: Bench) -> None:
    """Under ARRIVAL they are held back, however many come: beyond the credit nothing is read."""
    stream = bench.open(ordering=OrderingPolicy.ARRIVAL, **ALL)
    bench.send(stream, 1)
    room = stream.terms.frames_in_flight_max + MESSAGE_OUTCOMES_MAX
    for frame_id in range(2, room + 2):
        assert stream.outbox.has_room.is_set()
        assert stream.take(frame_id, 0, -1, False, 0) is None
    assert stream.take(room + 2, 0, -1, False, 0) is None
    assert not stream.outbox.has_room.is_set()
    stream.ping(1, 0, None)
    stream.next()
    stream.written()
    assert not stream.outbox.has_room.is_set(), "a pong makes no room"
    bench.end_batch()
    while stream.next() is not None:
        stream.written()
    assert stream.outbox.has_room.is_set()
    assert bench.host.memory.outcomes == 0


async def test_outcomes_of_all_streams_together_are_bounded(bench: Bench) -> None:
    bench.host.memory.outcomes_max = 3
    greedy, modest = bench.open(**ALL), bench.open(**ALL)
    for frame_id in range(1, 5):
        greedy.take(frame_id, 0, -1, False, 0)
    modest.take(1, 0, -1, False, 0)
    assert not greedy.outbox.has_room.is_set()
    modest.next()
    modest.written()
    assert modest.outbox.has_room.is_set(), "who has read everything may go on"
    greedy.next()
    greedy.written()
    assert greedy.outbox.has_room.is_set()


async def test_messages_whose_frames_wait_are_bounded_the_least_critical_end_first(bench: Bench) -> None:
    streams = [bench.open(stream_class=cls, **ALL) for cls in (CRITICAL, BEST_EFFORT, BEST_EFFORT, STANDARD)]
    for stream in streams[:3]:
        stream.wait_with(66)
    assert not any(stream.ended.done() for stream in streams)
    streams[3].wait_with(66)
    assert [stream.ended.done() for stream in streams] == [False, True, False, False]
    assert isinstance(streams[1].ended.exception(), CallError)
    for stream in streams:
        stream.wait_with(0)
    streams[3].wait_with(190)
    assert not streams[3].ended.done()


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_left_counted_whatever_happens(seed: int) -> None:
    """Random frames, results, writes and ends, under tight limits: every frame leaves once, and all accounts are 0."""
    random = Random(seed)
    limits = replace(LIMITS, principal=PrincipalLimits(bytes_in_flight_max=250), server=ServerLimits(64, 300))
    bench = Bench(limits)
    memory = bench.host.memory
    memory.outcomes_max = 20
    uses = [PrincipalUse(), PrincipalUse()]
    sent = 0
    for _ in range(12):
        streams = []
        for _ in range(random.randint(1, 6)):
            bench.use = random.choice(uses)
            streams.append(
                bench.open(
                    stream_class=random.choice(list(StreamClass)), ordering=random.choice(list(OrderingPolicy)), **ALL
                )
            )
        ids = dict.fromkeys(streams, 0)
        for _ in range(60):
            stream = random.choice(streams)
            match random.randrange(4):
                case 0 | 1:
                    ids[stream] += 1
                    bench.send(stream, ids[stream], size_bytes=random.choice([1, 30, 60]))
                    sent += 1
                case 2 if bench.lane.busy:
                    bench.end_batch()
                case _:
                    if stream.next() is not None and random.random() < 0.8:
                        stream.written()
            assert bench.driver.held.bytes <= 300
            assert memory.result_bytes == sum(stream.result_bytes for stream in streams)
        for stream in random.sample(streams, len(streams)):
            stream.close()
            if random.random() < 0.5:
                while stream.next() is not None:
                    stream.written()
            stream.abandon()
        while bench.lane.busy:
            bench.end_batch()
        await asyncio.sleep(0)
    assert sum(bench.counts().values()) == sent
    assert (memory.result_bytes, memory.outcomes) == (0, 0)
    assert [stream.frame_bytes for stream in streams] == [0] * len(streams)
    assert [use.bytes for use in uses] == [0, 0]
    assert len(bench.driver.held) == 0
