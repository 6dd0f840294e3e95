"""Batches for which there is no memory: their frames are FAILED, and from then on batches are smaller."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from duly.core.types import OutcomeStatus
from duly.runtime.catalogue import VersionState
from duly.worker import channel
from tests.runtime.scripted import LANE, Bench, Change


def full(size_max: int) -> Change:
    """Answers that there is no memory for the batch, only for one of that size."""
    return lambda done: channel.encode_text(
        channel.FAILED, {"reason": "out of memory", "size_max": size_max}, done.batch_id
    )


def in_a_bench(monkeypatch: pytest.MonkeyPatch, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def whole() -> None:
        bench = Bench(monkeypatch)
        await bench.start()
        await story(bench)
        await bench.until(lambda: not bench.driver.held)
        await bench.supervisor.close()

    with capture_logs():
        asyncio.run(whole())


async def fills(bench: Bench, size: int) -> None:
    """Waits until a batch of `size` frames runs. What runs before is answered."""
    for _ in range(100):
        running = bench.running
        assert running is not None
        assert running.asked is not None
        if len(running.asked.frames) == size:
            return
        assert len(running.asked.frames) < size, "a larger batch than there is memory for"
        running.answer()
        await bench.turn()
    raise AssertionError(f"no batch of {size}")


def test_the_batch_fails_and_smaller_ones_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        stream = bench.open()
        bench.send(1, 9)
        await bench.turn()
        await fills(bench, 4)
        assert bench.running is not None
        bench.running.answer(full(2))
        await bench.turn()
        failed = [outcome for outcome in stream.outcomes.values() if outcome.status is OutcomeStatus.FAILED]
        assert [outcome.reason for outcome in failed] == ["out of memory"] * 4
        await fills(bench, 2)
        await bench.until(lambda: not bench.driver.held)
        assert len(bench.driver.scheduler.planned_ns("m/1", LANE)) == 2
        assert len(bench.driver.scheduler.planned_ns("n/1", LANE)) == 4, "the memory of another model's worker"
        served = bench.catalogue.find("m", "1")
        assert served.sizes_max == {(LANE, "default"): 2}
        assert served.state is VersionState.READY
        assert served.trouble == "for want of memory batches have at most as many frames: 2 on cpu:0 (default)"
        assert served.failure == ""
        assert bench.processes[0].alive

    in_a_bench(monkeypatch, story)


def test_a_fresh_scheduler_knows_the_limit_and_a_fresh_worker_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        bench.open()
        bench.send(1, 4)
        await bench.turn()
        await fills(bench, 4)
        assert bench.running is not None
        bench.running.answer(full(1))
        await bench.turn()
        bench.driver.scheduler = None  # type: ignore[assignment]  # so that the next step fails
        bench.send(1)
        await bench.turn()
        assert bench.recording.fresh == 1
        assert len(bench.driver.scheduler.planned_ns("m/1", LANE)) == 1
        next(iter(bench.catalogue.find("m", "1").workers.values())).give_up("for the test")
        await bench.until(lambda: bench.catalogue.find("m", "1").state is VersionState.READY)
        assert len(bench.driver.scheduler.planned_ns("m/1", LANE)) == 4
        assert bench.catalogue.find("m", "1").sizes_max == {}

    in_a_bench(monkeypatch, story)


def test_a_worker_without_memory_for_a_single_frame_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        stream = bench.open()
        bench.send(1)
        await bench.turn()
        worker = bench.running
        assert worker is not None
        worker.answer(full(0))
        await bench.turn()
        assert [outcome.reason for outcome in stream.outcomes.values()] == ["out of memory"]
        assert not worker.alive
        await bench.serves()
        assert bench.driver.blame.peaceful, "no frame is to blame"

    in_a_bench(monkeypatch, story)


def test_what_a_limit_cannot_be_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that says it is replaced, as after any other answer that makes no sense."""

    async def story(bench: Bench) -> None:
        for lie in (4, 3, -1, True, "2", 1 << 70):
            stream = bench.open()
            stream_id = next(reversed(bench.streams))
            bench.send(stream_id, 4)
            await bench.turn()
            await fills(bench, 4)
            worker = bench.running
            assert worker is not None
            worker.answer(full(lie))  # type: ignore[arg-type]
            await bench.turn()
            assert not worker.alive
            await bench.until(lambda: not bench.driver.held)
            assert len(stream.outcomes) == 4
            await bench.serves()
            assert len(bench.driver.scheduler.planned_ns("m/1", LANE)) == 4
            bench.close(stream_id)

    in_a_bench(monkeypatch, story)
