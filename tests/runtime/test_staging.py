"""Frames that are brought to their lane while it still runs the batch before."""

import asyncio
import os
import random
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from duly.core.events import DispatchBatch, Foreseen, FramesCancelled, LaneUp, ModelReady, WarmLane
from duly.core.types import Frame, JointFrame, OutcomeStatus, StreamClass
from duly.metrics import Metrics
from duly.models.spec import Signature
from duly.runtime.driver import Driver
from duly.runtime.held_frames import HeldFrame, HeldFrames, InputData
from duly.runtime.shared_memory import ClientMemory, SharedData
from duly.runtime.staged_rows import StagedRows, as_dispatched
from duly.runtime.staging import Lead, Staging
from duly.runtime.worker_port import BatchResult
from tests.runtime.fake_lane import Clock, FakeLane
from tests.runtime.held import take
from tests.runtime.scripted import Bench, ScriptedProcess, Stream, payload
from tests.runtime.test_driver import MS, TERMS
from tests.runtime.test_driver import Stream as Sink
from tests.runtime.test_faults import once

GPU = "cuda:0"


def frames(*seqs: int, streams: tuple[int, ...] = ()) -> list[Frame]:
    return [Frame(seq, streams[nth] if streams else seq, seq, "m/1", 1000) for nth, seq in enumerate(seqs)]


class TestStagedRows:
    def test_frames_keep_the_rows_where_they_lie(self) -> None:
        staged = StagedRows(4)
        for row, seq in enumerate((11, 12, 13, 14)):
            staged.put(row, seq)
        asked = frames(13, 15, 11)
        assert staged.order(asked) == [2, 1, 0]
        assert staged.known(asked, [2, 1, 0])[0] == [0, 2]
        assert staged.order(frames(12, 13)) == [1, 0], "a row beyond the batch is no use to it"

    def test_nothing_lies_there(self) -> None:
        staged = StagedRows(2)
        assert staged.order(frames(1, 2)) == [0, 1]
        assert staged.known(frames(1, 2), [0, 1]) == ([], frozenset())

    def test_frames_of_a_stream_keep_their_order(self) -> None:
        staged = StagedRows(3)
        staged.put(0, 2)
        assert staged.order(frames(1, 2)) == [1, 0]
        assert staged.order(frames(1, 2, streams=(7, 7))) == [0, 1]

    def test_only_what_the_worker_was_told_of_is_known_to_it(self) -> None:
        staged = StagedRows(3)
        staged.put(0, 1)
        staged.put(1, 2)
        number = staged.tell([0, 1])
        staged.put(1, 3)
        assert staged.known(frames(1, 3), [0, 1]) == ([0, 1], frozenset({0}))
        assert staged.tell([1]) == number + 1
        assert staged.known(frames(1, 3), [0, 1])[1] == {0, 1}
        staged.clear()
        assert staged.known(frames(1, 3), [0, 1]) == ([], frozenset())

    @pytest.mark.parametrize("seed", range(50))
    def test_every_frame_has_one_row(self, seed: int) -> None:
        rng = random.Random(seed)
        staged = StagedRows(8)
        for row in range(8):
            staged.put(row, rng.choice([0, 100 + row]))
        seqs = rng.sample(range(96, 110), rng.randint(1, 8))
        asked = frames(*seqs, streams=tuple(rng.choices(range(12), k=len(seqs))))
        order = staged.order(asked)
        assert sorted(order) == list(range(len(asked)))
        of_stream: dict[int, list[int]] = {}
        for index in order:
            of_stream.setdefault(asked[index].stream_id, []).append(index)
        assert all(indices == sorted(indices) for indices in of_stream.values())

    def test_results_are_told_as_the_batch_was_dispatched(self) -> None:
        result = BatchResult(
            1, 2, lambda row: [(0, (), bytes([row]))], {0: "a"}, {2: "c"}, (10, 11, 12), False, {1: ("g",)}
        )
        told = as_dispatched(result, [2, 0, 1])
        assert [told.outputs(index)[0][2][0] for index in range(3)] == [1, 2, 0]
        assert (told.invalid, told.failed, told.guards) == ({2: "a"}, {1: "c"}, {0: ("g",)})
        assert told.read_ns == [11, 12, 10]


# ---- when frames are brought ahead ----


def test_it_is_asked_as_early_as_copying_takes() -> None:
    lead = Lead()
    assert lead.ask_ns(100) == 75
    lead.took(20, whole=True)
    assert lead.ask_ns(100) == 60
    lead.took(35, whole=False)
    assert lead.ask_ns(100) == 0, "who has come to half of it within 35 ns may need 70"
    for _ in range(100):
        lead.took(1, whole=True)
    assert lead.ask_ns(100) == 75


class Lanes:
    """A driver with a model on fake lanes that take frames ahead."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.driver = Driver(Metrics(), 1000, self.clock)
        self.lanes = [FakeLane("m/1", f"gpu:{number}") for number in range(count)]
        for lane in self.lanes:
            lane.stages = True
            self.driver.submit(LaneUp(lane.lane))
            self.driver.add_worker(lane)
            self.driver.submit(ModelReady("m/1", lane.lane, "default", {1: (MS,), 4: (MS,)}, True))
        self.stream = self.driver.open_stream(Sink(), TERMS)
        self._frame_id = 0

    async def send(self, count: int = 1) -> None:
        for _ in range(count):
            self._frame_id += 1
            take(self.driver, self.clock, self.stream, self._frame_id, "m/1", 500 * MS, b"x")
        await asyncio.sleep(0)

    async def turn(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)


async def test_what_waits_is_brought_to_the_lane_that_runs() -> None:
    bench = Lanes(1)
    await bench.send()
    await bench.send(2)
    await bench.turn()
    assert bench.lanes[0].staged == [(2, 3)]


async def test_frames_that_come_later_are_brought_after_the_others_until_the_batch_is_full() -> None:
    bench = Lanes(1)
    await bench.send()
    for _ in range(5):
        await bench.send()
        await bench.turn()
    assert bench.lanes[0].staged == [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)]


async def test_copying_goes_on_in_turns_until_the_batch_begins() -> None:
    bench = Lanes(1)
    (lane,) = bench.lanes
    lane.leaves = 3
    await bench.send()
    await bench.send(2)
    await bench.turn()
    await bench.turn()
    assert lane.staged == [(2, 3)] * 4
    lane.leaves = 1 << 30
    await bench.send(1)
    await bench.turn()
    assert lane.staged[-1] == (2, 3, 4)
    bench.driver.submit(FramesCancelled(bench.stream, (2, 4)))
    await bench.turn()
    assert lane.staged[-1] == (3,)
    bench.driver.submit(FramesCancelled(bench.stream, (3,)))
    calls = len(lane.staged)
    await bench.turn()
    assert len(lane.staged) == calls, "nothing waits any more"


async def test_a_lane_that_takes_nothing_ahead_is_left_alone() -> None:
    bench = Lanes(1)
    bench.lanes[0].stages = False
    await bench.send()
    await bench.send(2)
    await bench.turn()
    assert bench.lanes[0].staged == []


async def test_only_the_lane_that_is_free_first_gets_what_waits() -> None:
    bench = Lanes(2)
    await bench.send()
    bench.clock.now_ns += MS // 2
    await bench.send()
    await bench.send(2)
    await bench.turn()
    assert [lane.staged for lane in bench.lanes] == [[(3, 4)], []]
    bench.clock.now_ns += MS // 2
    bench.lanes[0].end(bench.driver)
    await bench.send(1)
    await bench.turn()
    assert [lane.staged for lane in bench.lanes] == [[(3, 4)], [(5,)]], "the other one is next now"


async def test_frames_are_brought_to_the_worker_of_their_own_model() -> None:
    bench = Lanes(1)
    other = FakeLane("n/1", "gpu:0")
    other.stages = True
    bench.driver.add_worker(other)
    bench.driver.submit(ModelReady("n/1", "gpu:0", "default", {1: (MS,), 4: (MS,)}, True))
    await bench.send()
    for frame_id in (100, 101):
        take(bench.driver, bench.clock, bench.stream, frame_id, "n/1", 500 * MS, b"x")
    await bench.turn()
    assert (bench.lanes[0].staged, other.staged) == ([], [(2, 3)])


async def test_a_joint_frame_is_brought_with_all_its_pieces() -> None:
    held = HeldFrames(1000)
    signature = Signature(inputs=(), outputs=(), batch_sizes=(1,), any_size=True, stateful=False)
    pieces = frames(1, 2)
    for piece in pieces:
        payload_of_piece = [InputData(0, (1,), bytes([piece.seq]))]
        held.put(HeldFrame(piece, StreamClass.STANDARD, signature, 0, 0, payload=payload_of_piece))
    joint = JointFrame(7, 1, tuple(pieces))
    lane = FakeLane("m/1", "gpu:0")
    lane.stages = True
    foreseen = Foreseen("gpu:0", "m/1", "default", [joint], full=False)
    staging = Staging(lambda _: foreseen, {("m/1", "gpu:0"): lane}, held, lambda _: False, Clock(), Metrics())
    staging.add(lane)
    staging.began(DispatchBatch(1, "gpu:0", "m/1", "default", [], 0), lane)
    await asyncio.sleep(0)
    assert lane.staged == [(joint.seq,)]
    held.drop(pieces[0])  # its client has withdrawn it
    staging.began(DispatchBatch(2, "gpu:0", "m/1", "default", [], 0), lane)
    await asyncio.sleep(0)
    assert lane.staged == [(joint.seq,)]


async def test_frames_whose_payload_may_change_are_not_brought_ahead() -> None:
    bench = Lanes(1)
    bench.driver.read_apart["m/1"] = lambda held: None
    await bench.send()
    await bench.send(2)
    await bench.turn()
    assert bench.lanes[0].staged == []


async def test_whatever_fails_on_it_ends_it_and_nothing_else() -> None:
    bench = Lanes(1)
    once(bench.driver, "foresee")
    with capture_logs() as logs:
        await bench.send()
        await bench.send(2)
        await bench.turn()
        bench.lanes[0].end(bench.driver)
        await bench.turn()
    assert bench.lanes[0].running
    assert bench.lanes[0].staged == []
    assert len(logs) == 1


# ---- with workers as they are ----


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    bench = Bench(monkeypatch, GPU)
    await bench.start()
    yield bench
    await bench.supervisor.close()


async def running_and_waiting(bench: Bench, streams: int = 3) -> tuple[list[Stream], ScriptedProcess]:
    """The stream of a frame that runs, and streams that have one each that waits and was brought ahead."""
    opened = []
    for _ in range(1 + streams):
        opened.append(bench.open())
        bench.send(next(reversed(bench.streams)))
        await bench.turn()
    assert bench.running is not None
    return opened, bench.running


async def test_the_batch_that_was_foreseen_is_copied_ahead(bench: Bench) -> None:
    streams, process = await running_and_waiting(bench)
    process.answer()
    await bench.turn()
    assert process.copied_ahead == 3
    await bench.until(lambda: not bench.driver.held)
    for stream in streams:
        stream.check(is_open=True)


async def test_frames_that_were_withdrawn_meanwhile_are_not_run(bench: Bench) -> None:
    streams, process = await running_and_waiting(bench)
    stream_id = list(bench.streams)[1]
    bench.driver.submit(FramesCancelled(stream_id, tuple(streams[1].sent)))
    extra = bench.open()
    bench.send(next(reversed(bench.streams)))
    process.answer()
    await bench.turn()
    assert process.copied_ahead == 2
    await bench.until(lambda: not bench.driver.held)
    for stream in [*streams, extra]:
        stream.check(is_open=True)
    assert next(iter(streams[1].outcomes.values())).status is OutcomeStatus.CANCELLED
    assert next(iter(extra.outcomes.values())).status is OutcomeStatus.ON_TIME


async def test_a_worker_that_dies_takes_what_was_brought_there_with_it(bench: Bench) -> None:
    streams, process = await running_and_waiting(bench)
    process.kill()
    await bench.until(lambda: not bench.driver.held)
    for stream in streams:
        stream.check(is_open=True)
    assert [next(iter(stream.outcomes.values())).status.name for stream in streams[1:]] == ["ON_TIME"] * 3


class Alone:
    """A worker of the bench that the test gives batches itself, without a scheduler."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.worker = bench.catalogue.find("m", "1").workers[GPU]
        self.results: dict[int, list[int]] = {}
        self._batch_id = 0
        self.worker._on_batch = self._ended
        self._sizes: dict[int, int] = {}

    def stage(self, *seqs: int, bytes_max: int = 1 << 20) -> bool:
        return self.worker.stage(frames(*seqs), self._payloads(seqs), bytes_max)

    async def run(self, *seqs: int, slow: bool = True) -> list[int]:
        """Returns what the frames of a batch came to, each of which should be its seq. `slow`: whether the worker has
        had the time to copy what it was told of.
        """
        if slow:
            await self.bench.turn()
        self._batch_id += 1
        self._sizes[self._batch_id] = len(seqs)
        batch = DispatchBatch(self._batch_id, GPU, "m/1", "default", frames(*seqs), MS)
        assert self.worker.run(batch, self._payloads(seqs))
        await self.bench.turn()
        for process in self.bench.processes:
            if process.asked is not None:
                process.answer()
        await self.bench.turn()
        return self.results[self._batch_id]

    def _payloads(self, seqs: tuple[int, ...]) -> list[list[InputData]]:
        return [[InputData(0, (2,), payload(seq))] for seq in seqs]

    def _ended(self, batch_id: int, result: BatchResult | str) -> None:
        assert isinstance(result, BatchResult), result
        size = self._sizes.get(batch_id, 0)
        self.results[batch_id] = [int.from_bytes(result.outputs(index)[0][2], "little") for index in range(size)]


async def test_rows_that_were_filled_for_one_slot_are_none_of_the_other(bench: Bench) -> None:
    alone = Alone(bench)
    alone.stage(1, 2)
    assert await alone.run(3) == [3]
    assert await alone.run(1, 2) == [1, 2]


async def test_a_worker_that_is_warmed_forgets_what_was_brought_there(bench: Bench) -> None:
    alone = Alone(bench)
    alone.stage(1, 2)
    assert alone.worker.warm(WarmLane(77, GPU, "m/1", "default"))
    await bench.turn()
    assert await alone.run(1, 2) == [1, 2]


async def test_frames_that_are_staged_again_replace_those_that_are_expected_no_more(bench: Bench) -> None:
    alone = Alone(bench)
    alone.stage(1, 2, 3)
    alone.stage(2, 4)
    assert await alone.run(2, 4) == [2, 4]
    alone.stage(5, 6)
    alone.stage(7, 5, 8)
    assert await alone.run(8, 5, slow=False) == [8, 5]


async def test_what_lies_in_memory_shared_with_a_client_is_copied_ahead_if_it_is_there(bench: Bench) -> None:
    alone = Alone(bench)
    fd = os.memfd_create("test")
    os.write(fd, payload(1) + bytes(4))
    memory = ClientMemory(1, fd)
    there, beyond = ([InputData(0, (2,), SharedData(memory, offset, 8))] for offset in (0, 8))
    worker = alone.worker
    assert not worker.stage(frames(1, 2), [there, beyond], 1 << 20)
    assert not worker.stage(frames(2), [beyond], 8), "it is tried but once"
    assert worker._staged.seqs == [1, 0, 0, 0], "the other one ends before its time: whoever runs it says so"
    memory.close()
    worker.stage(frames(1, 3), [there, there], 1 << 20)
    assert worker._staged.seqs == [1, 0, 0, 0], "it was read before"
    assert worker._staged.refused == {3}, "what is not expected any more is remembered no longer"
    assert await alone.run(1) == [1]


async def test_only_so_much_is_copied_at_once(bench: Bench) -> None:
    alone = Alone(bench)
    assert alone.stage(1, 2, 3, bytes_max=8)
    assert alone.worker._staged.seqs == [1, 0, 0, 0]
    assert alone.stage(1, 2, 3, bytes_max=9)
    assert not alone.stage(1, 2, 3, bytes_max=9)
    assert await alone.run(1, 2, 3) == [1, 2, 3]


@pytest.mark.parametrize("seed", range(100))
async def test_whatever_was_brought_there_every_frame_gets_its_own_result(bench: Bench, seed: int) -> None:
    alone, rng = Alone(bench), random.Random(seed)
    for _ in range(20):
        for _ in range(rng.randint(0, 3)):
            alone.stage(*rng.sample(range(1, 9), rng.randint(1, 4)), bytes_max=rng.choice([8, 100]))
            await bench.turn(rng.randint(0, 2))
        batch = rng.sample(range(1, 9), rng.randint(1, 4))
        assert await alone.run(*batch, slow=rng.random() < 0.5) == batch
