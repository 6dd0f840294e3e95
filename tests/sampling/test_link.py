"""The process that writes samples, as the server has it: whatever becomes of it, nobody waits, and nothing is lost
uncounted.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from duly.runtime.tasks import watch_over
from duly.sampling import link as module
from duly.sampling import wire
from duly.sampling.limits import DrawnLimits, StoreLimits, WriterSettings
from duly.sampling.link import WriterLink
from duly.sampling.sample import form_meta, frame_meta
from duly.sampling.store import read
from duly.sampling.wire import Joined
from tests.sampling.made import sample

GIB = 1 << 30


class Bench:
    def __init__(self, folder: Path, groups_max: int = 100) -> None:
        drawn, store = DrawnLimits(GIB, groups_max), StoreLimits(GIB, 1e6)
        self.living: dict[str, list[str]] = {}
        self.link = WriterLink(WriterSettings("auto", str(folder), drawn, str(folder), store), lambda: self.living)
        self.sent = 0

    def keep(self, frame_id: int, group: str = "s-1") -> None:
        """Hands over a frame that is to be kept in both places."""
        kept = sample(frame_id)
        tensors = [(name, list(array.shape), array.nbytes) for name, array in kept.arrays.items()]
        body = {"form": form_meta(kept.form), "frame": frame_meta(kept), "tensors": tensors, "store": True}
        body |= {"group": group, "place": frame_id}
        data = [array.tobytes() for array in kept.arrays.values()]
        size_bytes = sum(map(len, data))
        self.link.send(wire.encoded(wire.FRAME, body, size_bytes), data, size_bytes, 2)
        self.sent += 2

    def label(self, frame_id: int, number: int) -> "asyncio.Future[list[tuple[Joined, str]]] | None":
        item = {"stream": "s-1", "frame_id": frame_id, "weight": 1.0, "source": "", "sizes": [8]}
        item["tensors"] = [("label", "INT64", [])]
        body = {"principal": "somebody", "any_stream": False, "models": ["*"], "names": {}, "items": [item]}
        return self.link.ask(body, [number.to_bytes(8, "little")], 8)

    @property
    def accounted(self) -> int:
        counts = self.link.counts
        return sum(counts.written.values()) + sum(counts.dropped.values())

    @property
    def pid(self) -> int:
        """The process, once it is there; 0: it is not."""
        mine = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        found = [int(pid) for pid in mine if b"duly.sampling.main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return found[0] if found else 0


@asynccontextmanager
async def running(folder: Path, groups_max: int = 100) -> AsyncIterator[Bench]:
    bench = Bench(folder, groups_max)
    task = watch_over("writer", bench.link.run)
    try:
        yield bench
    finally:
        await bench.link.close(task)
        assert not bench.pid


async def until(there: Callable[[], object]) -> None:
    while not there():
        await asyncio.sleep(0.005)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ended is started again at once."""
    monkeypatch.setattr(module, "BACK_OFF_SECONDS", 0.01)
    monkeypatch.setattr(module, "BACK_OFF_SECONDS_MAX", 0.05)


async def test_what_is_handed_over_is_written_by_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await until(lambda: bench.link.is_there)
        for frame_id in range(50):
            bench.keep(frame_id)
    assert bench.link.counts.written == {"m": 100}
    assert not bench.link.counts.dropped
    assert [each.frame_id for each in read(tmp_path)] == list(range(50))


async def test_it_is_confined_and_gets_what_is_left_over(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await until(lambda: bench.link.is_there)
        bench.keep(1)
        await until(lambda: bench.link.counts.written["m"] >= 1)
        check_confined(bench.pid, tmp_path)


def check_confined(pid: int, folder: Path) -> None:
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert status["Threads"].strip() == "1"
    assert Path(f"/proc/{pid}/comm").read_text().startswith("duly samples")
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    opened = [link for link in links if link.startswith("/") and link != "/dev/null"]
    assert opened == [str(folder)], "nothing stays open but the folder, which is taken so"


@pytest.mark.parametrize("step", range(8))
async def test_killed_at_any_step_it_is_replaced_and_everything_is_accounted_for(
    tmp_path: Path, quick: None, step: int
) -> None:
    async with running(tmp_path) as bench:
        await until(lambda: bench.pid)
        asked = None
        match step:
            case 0:  # before it is ready
                bench.keep(0)
            case 1:  # frames wait in the queue, and half of one is on its way
                for frame_id in range(600):
                    bench.keep(frame_id)
                while bench.link._queue and not isinstance(bench.link._queue[0], memoryview):
                    await asyncio.sleep(0)
            case 2:  # frames were taken, and wait for others to be written with
                for frame_id in range(20):
                    bench.keep(frame_id)
                await until(lambda: bench.link.counts.written["m"] >= 20)
            case 3:  # labels wait to be written
                bench.keep(0)
                await until(lambda: bench.link.counts.written["m"] >= 1)
                asked = bench.label(0, 1)
                await until(lambda: not bench.link._queue)
            case 4:  # it is stopped, and takes nothing
                await until(lambda: bench.link.is_there)
                os.kill(bench.pid, signal.SIGSTOP)
                for frame_id in range(200):
                    bench.keep(frame_id)
                asked = bench.label(0, 1)
            case 5:  # nothing happens
                await until(lambda: not bench.link._queue)
            case _:  # somewhere in the middle of writing
                for frame_id in range(200):
                    bench.keep(frame_id)
                await until(lambda: bench.link.counts.written["m"] >= 20 * step)
        os.kill(bench.pid, signal.SIGKILL)
        await until(lambda: bench.link.counts.restarts)
        assert bench.accounted == bench.sent
        if asked is not None:
            await asyncio.wait([asked])
            assert asked.cancelled(), "nobody knows what became of it"
        await until(lambda: bench.link.is_there)
        before = bench.link.counts.written["m"]
        for frame_id in (9000, 9001):
            bench.keep(frame_id)
        await until(lambda: bench.link.counts.written["m"] >= before + 4)
        asked = bench.label(9000, 1)
        assert asked is not None
        assert (await asked)[0][0] is Joined.JOINED
    broken: list[Path] = []
    kept = {each.frame_id: each for each in read(tmp_path, lambda path, reason: broken.append(path))}
    assert not broken
    assert kept.keys() >= {9000, 9001}
    assert kept[9000].labels == {"label": 1}
    assert all(np.array_equal(each.inputs["x"], np.full(4, each.frame_id)) for each in kept.values())


async def test_two_servers_never_write_into_one_folder(tmp_path: Path, quick: None) -> None:
    first, second = Bench(tmp_path), Bench(tmp_path)
    its_task = watch_over("first writer", first.link.run)
    await until(lambda: first.link.is_there)
    first.keep(1)
    await until(lambda: first.link.counts.written["m"] >= 2)
    task = watch_over("second writer", second.link.run)
    await until(lambda: second.link.problem)
    assert second.link.problem == (
        f"another server keeps frames in {tmp_path}: give each a folder of its own, or end the other one"
    )
    second.keep(2)
    restarts = second.link.counts.restarts
    await until(lambda: second.link.counts.restarts > restarts + 1)
    assert not second.link.counts.written
    assert second.link.counts.dropped == {"writer_down": 2}
    await first.link.close(its_task)
    await until(lambda: not second.link.problem)  # it goes on once the first one has ended
    second.keep(3)
    await second.link.close(task)
    assert first.link.problem == ""
    assert second.link.counts.written == {"m": 2}
    assert [each.frame_id for each in read(tmp_path)] == [1, 3]


async def test_a_queue_that_is_full_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_BYTES_MAX", 20_000)
    async with running(tmp_path) as bench:
        await until(lambda: bench.link.is_there and not bench.link._queue)
        os.kill(bench.pid, signal.SIGSTOP)
        most = 0
        for frame_id in range(2000):
            bench.keep(frame_id)
            if frame_id % 10 == 0:
                await asyncio.sleep(0)
            most = max(most, bench.link._queued_bytes)
        assert most <= 20_000
        assert bench.link.counts.dropped["queue_full"] > 1000
        assert bench.label(1, 1) is None or bench.link._queued_bytes <= 20_000
        bench.link._queued_bytes += 20_000
        assert not bench.link.tell_ended("m", "s-1"), "it is to be told again"
        bench.link._queued_bytes -= 20_000
        os.kill(bench.pid, signal.SIGCONT)
        await until(lambda: bench.accounted == bench.sent)
    assert 0 < len(list(read(tmp_path))) < 2000


async def test_it_takes_no_word_that_makes_no_sense_of_the_process(tmp_path: Path, quick: None) -> None:
    async with running(tmp_path) as bench:
        await until(lambda: bench.link.is_there)
        for said in (wire.encoded(wire.STATUS, {}), wire.HEAD.pack(wire.READY, 1 << 31, 0), b""):
            restarts = bench.link.counts.restarts
            bench.link._messages.feed(said)
            if not said:
                bench.link._messages.feed(wire.encoded(wire.ANSWERS, {"call": "x", "answers": 3}))
            bench.link._hear_all()
            await until(lambda restarts=restarts: bench.link.counts.restarts > restarts)  # type: ignore[misc]
            await until(lambda: bench.link.is_there)


async def test_frames_before_the_process_is_there_are_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.keep(1)
    assert bench.link.counts.dropped == {"writer_down": 2}
    assert bench.label(1, 1) is None
    assert bench.link.tell_ended("m", "s-1"), "nobody has to hear it"


async def test_a_new_process_removes_samples_of_no_stream_that_goes_on(tmp_path: Path, quick: None) -> None:
    async with running(tmp_path, groups_max=3) as bench:
        await until(lambda: bench.link.is_there)
        for nth, group in enumerate(("r-1", "r-2", "r-3")):
            bench.keep(nth, group)
        await until(lambda: bench.accounted == bench.sent)
        bench.living = {"m": ["r-1", "r-3"], "other": ["r-2"]}  # the end of r-2 was told to the one that is killed now
        os.kill(bench.pid, signal.SIGKILL)
        await until(lambda: bench.link.counts.restarts and bench.link.is_there)
        for nth, group in enumerate(("r-4", "r-5"), 3):
            bench.keep(nth, group)
        await until(lambda: bench.accounted == bench.sent)
        assert bench.link.counts.dropped["full"] == 1, "all three go on"
        assert bench.link.tell_ended("m", "r-1")
        bench.keep(5, "r-5")
        await until(lambda: bench.accounted == bench.sent)
        assert bench.link.counts.dropped["full"] == 1
    assert sorted(path.name for path in (tmp_path / "m" / "samples").iterdir()) == ["r-3", "r-4", "r-5"]
