"""One open stream between a fake front end and a real scheduler: every frame leaves once, and with the truth."""

import asyncio
from dataclasses import replace
from random import Random

import pytest

from duly.core import fates
from duly.core.events import Advice, FramesTurnedOut
from duly.core.types import BacklogPolicy, OutcomeStatus
from duly.runtime.outcome import Outcome
from duly.streams.clock import AGE_NS_MAX, ClockRelation
from duly.streams.errors import CallError, InvalidTerms
from duly.streams.memory import Memory
from duly.streams.ordering import OrderingPolicy
from duly.streams.outbox import (
    MESSAGE_FIELDS_BYTES_MAX,
    MESSAGE_OUTCOMES_MAX,
    MESSAGE_RESULT_BYTES_MAX,
    NOTICES_MAX,
    Advised,
    Outbox,
)
from duly.streams.stream import SLOW_WRITE_NS, Stream
from duly.v1 import inference_pb2, tensor_pb2
from duly.worker.channel import DIMS_MAX
from tests.streams.bench import LIMITS, MS, Bench, notices, statuses, version, written

ON_TIME, LATE, SHED = OutcomeStatus.ON_TIME, OutcomeStatus.LATE, OutcomeStatus.SHED


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.fixture
def told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[FramesTurnedOut]:
    """What the scheduler is told of results that turned out otherwise."""
    events: list[FramesTurnedOut] = []
    submit = bench.driver.submit

    def listen(event: object) -> None:
        if isinstance(event, FramesTurnedOut):
            events.append(event)
        submit(event)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.driver, "submit", listen)
    return events


# ---- what comes in ----


async def test_an_id_that_is_used_up_ends_the_call(bench: Bench) -> None:
    stream = bench.open()
    bench.send(stream, 3)
    with pytest.raises(CallError, match="frame id 3 came after 3") as error:
        stream.take(3, 0, 0, False, 0)
    assert (error.value.reason, error.value.field) == ("FRAME_ID_NOT_INCREASING", "frame_id")


@pytest.mark.parametrize("budget_ns", [-1, 60_001 * MS])
async def test_an_impossible_budget_is_invalid_and_the_stream_goes_on(bench: Bench, budget_ns: int) -> None:
    stream = bench.open()
    assert stream.take(1, 0, budget_ns, False, 0) is None
    bench.send(stream, 2)
    bench.end_batch()
    outcomes = await written(stream)
    assert statuses(outcomes) == {1: OutcomeStatus.INVALID, 2: ON_TIME}
    assert outcomes[0].reason == f"budget_nano should be 0 to {60_000 * MS}, got {budget_ns}"


@pytest.mark.parametrize(
    ("limits", "size_bytes", "reason"),
    [
        (LIMITS, 41, "more than 100 bytes of the stream are unanswered"),
        (
            replace(LIMITS, principal=replace(LIMITS.principal, bytes_in_flight_max=90)),
            31,
            "more than 90 bytes of the principal's streams are unanswered",
        ),
        (replace(LIMITS, server=replace(LIMITS.server, bytes_in_flight_max=80)), 21, fates.MEMORY_FULL.wording),
    ],
)
async def test_bytes_over_a_limit_are_shed_and_room_comes_back(limits: object, size_bytes: int, reason: str) -> None:
    bench = Bench(limits)  # type: ignore[arg-type]
    stream = bench.open()
    bench.send(stream, 1, size_bytes=60)
    bench.send(stream, 2, size_bytes=size_bytes)
    (shed,) = await written(stream)
    assert (shed.held.frame.frame_id, shed.status, shed.reason) == (2, SHED, reason)
    bench.end_batch()
    assert statuses(await written(stream)) == {1: ON_TIME}
    stream.written()
    bench.send(stream, 3, size_bytes=60)
    bench.end_batch()
    assert statuses(await written(stream)) == {3: ON_TIME}
    assert bench.use.bytes == bench.driver.held.bytes == 0


@pytest.mark.parametrize(
    ("limits", "size_bytes", "reason"),
    [
        (LIMITS, 101, "the frame has 101 bytes, at most 100 are taken (bytes_in_flight_max)"),
        (
            replace(LIMITS, principal=replace(LIMITS.principal, bytes_in_flight_max=50)),
            51,
            "the frame has 51 bytes, at most 50 are taken (principal_bytes_in_flight_max)",
        ),
        (
            replace(LIMITS, server=replace(LIMITS.server, bytes_in_flight_max=80)),
            81,
            "the frame has 81 bytes, at most 80 are taken (payload_bytes_max)",
        ),
    ],
)
async def test_a_frame_that_can_never_be_taken_is_invalid(limits: object, size_bytes: int, reason: str) -> None:
    bench = Bench(limits)  # type: ignore[arg-type]
    stream = bench.open()
    bench.send(stream, 1, size_bytes=size_bytes)
    (outcome,) = await written(stream)
    assert (outcome.status, outcome.reason) == (OutcomeStatus.INVALID, reason)
    bench.send(stream, 2, size_bytes=size_bytes - 1)
    bench.end_batch()
    assert statuses(await written(stream)) == {2: ON_TIME}


# ---- results that wait to be read; those of the bench have twice the bytes of their frames ----


@pytest.mark.parametrize("ordering", [OrderingPolicy.UNORDERED, OrderingPolicy.ARRIVAL, OrderingPolicy.MONOTONIC])
async def test_results_that_nobody_reads_are_bounded_and_the_client_hears_of_it(
    bench: Bench, told: list[FramesTurnedOut], ordering: OrderingPolicy
) -> None:
    stream = bench.open(ordering=ordering)
    for frame_id in (1, 2, 3):
        bench.send(stream, frame_id, size_bytes=25)
        bench.end_batch()
    assert bench.host.memory.result_bytes == 100
    assert not stream.outbox.has_room.is_set(), "nothing more comes in until something is read"
    outcomes = await written(stream)
    assert statuses(outcomes) == {1: ON_TIME, 2: ON_TIME, 3: SHED}
    assert outcomes[2].outputs is None
    assert outcomes[2].reason == "more than 100 bytes of results wait for the client to read them"
    assert told == [FramesTurnedOut(stream.stream_id, "m/1", 1, SHED, missed=False)]
    stream.written()
    assert stream.outbox.has_room.is_set()
    assert bench.host.memory.result_bytes == 0
    bench.send(stream, 4, size_bytes=25)
    bench.end_batch()
    assert statuses(await written(stream)) == {4: ON_TIME}


async def test_the_only_result_of_a_stream_is_kept_whatever_others_do_not_read() -> None:
    bench = Bench(replace(LIMITS, server=replace(LIMITS.server, bytes_in_flight_max=120)))
    idle, other = bench.open(), bench.open()
    for stream, frame_id in ((idle, 1), (idle, 2), (other, 1), (other, 2)):
        bench.send(stream, frame_id, size_bytes=25)
        bench.end_batch()
    assert statuses(await written(idle)) == {1: ON_TIME, 2: ON_TIME}
    assert statuses(await written(other)) == {1: ON_TIME, 2: SHED}
    large = bench.open()
    bench.send(large, 1, size_bytes=100)
    bench.end_batch()
    assert statuses(await written(large)) == {1: ON_TIME}
    for stream in (idle, other, large):
        stream.close()
        stream.abandon()
        stream.written()  # what was being written when the call ended
    assert bench.host.memory.result_bytes == 0


async def test_a_result_that_is_outrun_is_counted_no_more(bench: Bench) -> None:
    stream = bench.open(ordering=OrderingPolicy.MONOTONIC, backlog_policy=BacklogPolicy.ALL)
    held = [stream.take(frame_id, 0, 0, False, 0) for frame_id in (1, 2)]
    for frame_id in (1, 0):
        frame = held[frame_id]
        assert frame is not None
        stream.deliver(Outcome(frame, ON_TIME, "", None, [(0, (9,), bytes(9))]))
    assert bench.host.memory.result_bytes == 9


@pytest.mark.parametrize("count", [1, 50, 500])
async def test_names_and_shapes_of_outputs_count_for_a_message_too(bench: Bench, count: int) -> None:
    names = [f"an_output_with_a_rather_long_name_{number}" for number in range(count)]
    streams = [bench.open(), bench.open(outputs=("y",))]
    bench.activate(version("2", "y", *names))
    room = []
    for stream, outputs in zip(streams, (["y", *names], ["y"]), strict=True):
        assert stream.take(1, 0, 0, False, 0) is not None
        room.append(stream.outbox.message_outcomes_max)
        tensors = [tensor_pb2.Tensor(name=name, shape=[1 << 40] * DIMS_MAX) for name in outputs]
        outcomes = [inference_pb2.Outcome(frame_id=1 << 60, outputs=tensors)] * room[-1]
        assert inference_pb2.OutcomeBatch(outcomes=outcomes).ByteSize() < MESSAGE_FIELDS_BYTES_MAX
        for frame_id in range(room[-1] + 1):
            stream.outbox.put(Outcome(stream.take(frame_id + 2, 0, 0, False, 0), ON_TIME, ""))  # type: ignore[arg-type]
        assert len(stream.outbox.take()) == room[-1]
    assert room == [10 if count == 500 else MESSAGE_OUTCOMES_MAX, MESSAGE_OUTCOMES_MAX]


async def test_outcomes_are_not_sent_together_beyond_what_every_client_reads(bench: Bench) -> None:
    outbox = Outbox(64, Memory(1000))
    frame = bench.open().take(1, 0, 0, False, 0)
    assert frame is not None
    sizes = [MESSAGE_RESULT_BYTES_MAX // 2, MESSAGE_RESULT_BYTES_MAX // 2, 1, 2 * MESSAGE_RESULT_BYTES_MAX, 1, 1]
    for size in sizes:
        outbox.put(Outcome(frame, ON_TIME, "", result_bytes=size))
    taken = []
    while outbox.outcomes:
        taken.append([outcome.result_bytes for outcome in outbox.take()])
    assert taken == [sizes[:2], sizes[2:3], sizes[3:4], sizes[4:]]


async def test_a_principal_is_counted_with_all_its_streams() -> None:
    bench = Bench(replace(LIMITS, principal=replace(LIMITS.principal, bytes_in_flight_max=90)))
    one, other = bench.open(), bench.open()
    bench.send(one, 1, size_bytes=60)
    bench.send(other, 1, size_bytes=60)
    assert statuses(await written(other)) == {1: SHED}


async def test_the_budget_counts_from_capture_where_the_clocks_are_related(bench: Bench) -> None:
    stream = bench.open(clock=ClockRelation(offset_ns=7 * MS, uncertainty_ns=MS))
    now_ns = bench.clock.now_ns
    held = stream.take(1, 100 * MS, 0, False, 127 * MS)
    assert held is not None
    assert (held.capture_to_receipt_ns, held.clock_uncertainty_ns) == (20 * MS, MS)
    assert held.frame.deadline_ns == now_ns - 20 * MS + 50 * MS


@pytest.mark.parametrize(("captured_ns", "age_ns"), [(200 * MS, 0), (-AGE_NS_MAX, AGE_NS_MAX)])
def test_an_impossible_age_is_the_clocks_error(captured_ns: int, age_ns: int) -> None:
    assert ClockRelation(0, 1).capture_to_receipt_ns(captured_ns, 100 * MS) == age_ns


# ---- versions ----


async def test_a_stream_follows_the_active_version_and_says_so_once(bench: Bench) -> None:
    stream = bench.open()
    bench.activate(version("2"))
    for frame_id in (1, 2):
        held = stream.take(frame_id, 0, 0, False, 0)
        assert held is not None
        assert held.frame.model == "m/2"
    assert await notices(stream) == [Advised(Advice.VERSION_CHANGED, "version 2 is active", 0, "2")]


async def test_a_stream_that_asked_for_a_version_stays_with_it(bench: Bench) -> None:
    stream = bench.open(version="1")
    bench.activate(version("2"))
    held = stream.take(1, 0, 0, False, 0)
    assert held is not None
    assert held.frame.model == "m/1"
    assert await notices(stream) == []


async def test_a_version_loaded_again_is_used_as_it_is_now(bench: Bench) -> None:
    stream = bench.open()
    again = version("1", "y", "z")
    bench.activate(again)
    held = stream.take(1, 0, 0, False, 0)
    assert held is not None
    assert held.signature is again.signature
    assert await notices(stream) == []


async def test_a_version_without_a_wanted_output_ends_the_stream(bench: Bench) -> None:
    stream = bench.open(outputs=("y",))
    bench.activate(version("2", "other"))
    with pytest.raises(InvalidTerms, match="there is no output 'y'; there are: other"):
        stream.take(1, 0, 0, False, 0)


# ---- the final verdict ----


async def test_a_result_that_is_sent_past_its_deadline_is_late_and_the_scheduler_hears_of_it(
    bench: Bench, told: list[FramesTurnedOut]
) -> None:
    stream = bench.open()
    bench.send(stream, 1)
    bench.end_batch()
    bench.clock.now_ns += 60 * MS  # the loop was busy with something else
    (outcome,) = await written(stream)
    assert (outcome.status, outcome.reason) == (LATE, fates.SENT_LATE.wording)
    assert told == [FramesTurnedOut(stream.stream_id, "m/1", 1, LATE, missed=True)]
    assert bench.counts() == {"LATE": 1}


async def test_a_result_that_waited_for_its_client_to_read_is_no_miss_of_the_lanes(
    bench: Bench, told: list[FramesTurnedOut]
) -> None:
    stream = bench.open()
    bench.send(stream, 1)
    bench.end_batch()
    assert statuses(await written(stream)) == {1: ON_TIME}
    bench.send(stream, 2)
    bench.end_batch()
    bench.clock.now_ns += 60 * MS
    assert stream.stuck_ns(bench.clock.now_ns) == 60 * MS > SLOW_WRITE_NS
    stream.written()
    (outcome,) = await written(stream)
    assert (outcome.status, outcome.reason) == (LATE, fates.READ_LATE.wording)
    assert told == [FramesTurnedOut(stream.stream_id, "m/1", 1, LATE, missed=False)]


async def test_a_result_outrun_by_a_newer_one_is_superseded(bench: Bench, told: list[FramesTurnedOut]) -> None:
    stream = bench.open(ordering=OrderingPolicy.MONOTONIC)
    older, newer = stream.take(1, 0, 0, False, 0), stream.take(2, 0, 0, False, 0)
    assert older is not None
    assert newer is not None
    stream.deliver(Outcome(newer, ON_TIME, "", outputs=[(0, (1,), b"2")]))
    stream.deliver(Outcome(older, ON_TIME, "", outputs=[(0, (1,), b"1")]))
    delivered, outrun = await written(stream)
    assert delivered.status is ON_TIME
    assert (outrun.status, outrun.outputs) == (OutcomeStatus.SUPERSEDED, None)
    assert told == [FramesTurnedOut(stream.stream_id, "m/1", 1, OutcomeStatus.SUPERSEDED, missed=True)]


async def test_a_late_result_outrun_by_a_newer_one_is_superseded_as_it_is_counted(
    bench: Bench, told: list[FramesTurnedOut]
) -> None:
    stream = bench.open(ordering=OrderingPolicy.MONOTONIC)
    older, newer = stream.take(1, 0, 0, False, 0), stream.take(2, 0, 0, False, 0)
    assert older is not None
    assert newer is not None
    stream.deliver(Outcome(newer, ON_TIME, "", outputs=[(0, (1,), b"2")]))
    stream.deliver(Outcome(older, LATE, fates.RAN_LATE.wording, outputs=[(0, (1,), b"1")]))
    assert statuses(await written(stream)) == {1: OutcomeStatus.SUPERSEDED, 2: ON_TIME}
    assert bench.counts() == {"SUPERSEDED": 1, "ON_TIME": 1}
    assert told == [], "the scheduler knows of it as a miss already"


async def test_a_client_that_is_gone_leaves_cancelled_frames_and_no_miss(
    bench: Bench, told: list[FramesTurnedOut]
) -> None:
    stream = bench.open()
    bench.send(stream, 1)
    bench.send(stream, 2)
    bench.end_batch()
    stream.close()
    stream.abandon()
    assert stream.next() is None
    bench.end_batch()  # of frame 2, which nobody hears of
    assert told == [FramesTurnedOut(stream.stream_id, "m/1", 1, OutcomeStatus.CANCELLED, missed=False)]
    assert bench.counts() == {"CANCELLED": 2}
    assert bench.use.bytes == 0


# ---- what goes out ----


async def test_while_too_much_waits_to_be_written_nothing_is_read(bench: Bench) -> None:
    stream = bench.open()
    room = stream.terms.frames_in_flight_max + MESSAGE_OUTCOMES_MAX
    for frame_id in range(1, room + 2):
        assert stream.outbox.has_room.is_set()
        assert stream.take(frame_id, 0, -1, False, 0) is None
    assert not stream.outbox.has_room.is_set()
    stream.next()
    stream.written()
    assert stream.outbox.has_room.is_set()


async def test_notices_are_bounded_as_well(bench: Bench) -> None:
    stream = bench.open()
    for number in range(NOTICES_MAX + 1):
        assert stream.outbox.has_room.is_set()
        stream.ping(number, 0, None)
    assert not stream.outbox.has_room.is_set()


async def test_a_stream_that_finishes_waits_for_its_last_outcome(bench: Bench) -> None:
    stream = bench.open()
    bench.send(stream, 1)
    stream.finish()
    assert stream.next() is None
    assert not stream.over
    waits = asyncio.ensure_future(stream.outbox.changed.wait())
    bench.end_batch()
    await waits
    assert isinstance(stream.next(), tuple)
    assert stream.next() is None
    assert stream.over


async def test_a_lost_outcome_ends_the_stream(bench: Bench) -> None:
    stream = bench.open()
    stream.fail()
    with pytest.raises(CallError, match="its log says more"):
        stream.next()


@pytest.mark.parametrize("seed", range(60))
async def test_every_frame_leaves_once_and_is_counted_once(seed: int) -> None:
    """Whatever becomes of streams: each frame taken is written or counted as unread, and its bytes are given back."""
    random, bench = Random(seed), Bench()
    policies, backlogs = list(OrderingPolicy), [BacklogPolicy.ALL, BacklogPolicy.LATEST]
    streams: list[Stream] = []
    taken: dict[int, int] = {}
    read: dict[int, list[int]] = {}
    for _ in range(random.randint(5, 80)):
        match random.choice(["open", "send", "send", "send", "end", "pass", "write", "close", "invalid"]):
            case "open" if len(streams) < 4:
                stream = bench.open(ordering=random.choice(policies), backlog_policy=random.choice(backlogs))
                streams.append(stream)
                taken[stream.stream_id], read[stream.stream_id] = 0, []
            case "send" if streams:
                stream = random.choice(streams)
                taken[stream.stream_id] += 1
                bench.send(stream, taken[stream.stream_id], size_bytes=random.randint(1, 60))
            case "invalid" if streams:
                stream = random.choice(streams)
                taken[stream.stream_id] += 1
                stream.take(taken[stream.stream_id], 0, -1, False, 0)
            case "end" if bench.lane.running:
                bench.end_batch()
            case "pass":
                bench.clock.now_ns += random.randint(0, 40) * MS
            case "write" if streams:
                stream = random.choice(streams)
                read[stream.stream_id] += [o.held.frame.frame_id for o in await written(stream)]
            case "close" if streams:
                stream = streams.pop(random.randrange(len(streams)))
                stream.close()
                stream.abandon()
                assert stream.next() is None
    while bench.lane.running:
        bench.end_batch()
    for stream in streams:
        read[stream.stream_id] += [o.held.frame.frame_id for o in await written(stream)]
        assert sorted(read[stream.stream_id]) == list(range(1, taken[stream.stream_id] + 1))
    assert all(len(ids) == len(set(ids)) for ids in read.values())
    assert sum(bench.counts().values()) == sum(taken.values())
    assert bench.use.bytes == bench.driver.held.bytes == 0
