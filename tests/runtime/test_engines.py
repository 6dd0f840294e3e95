"""What a worker gets that asks for an engine: one that is there, the right to make it, or nothing."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from duly.accelerators import TENSORRT
from duly.models.digests import FileDigest
from duly.models.sizes import SizeLimits
from duly.models.spec import ModelConfig, Provider
from duly.runtime import worker_process
from duly.runtime.engine_store import EngineStore, KeyLock, NotTrusted, key_of
from duly.runtime.engines import ENGINES_MAX, BadQuestion, EngineCounts, Engines, WorkerEngines
from duly.runtime.worker_launch import check_version
from tests import graphs
from tests.worker.client import version_of

CONTENTS = {"m/1/model.onnx": FileDigest("aa", 9), "m/1/w.bin": FileDigest("bb", 9)}
ASKED: dict[str, Any] = {"files": ["m/1/model.onnx", "m/1/w.bin"], "parts": {"device": {"name": "NVIDIA L4"}}}


class Bench:
    def __init__(self, folder: Path) -> None:
        self.counts = EngineCounts()
        self.store = EngineStore(folder, 1 << 20)

    def worker(self, model: str = "m/1") -> WorkerEngines:
        return WorkerEngines(self.store, model, "cuda:0", self.counts)

    async def made(self, worker: WorkerEngines, question: dict[str, Any] = ASKED) -> Path:
        """Has the worker make what it asks for."""
        answer = await worker.answer(question, CONTENTS)
        assert not answer["there"]
        folder = Path(answer["folder"])
        (folder / "trt_1.engine").write_bytes(b"engine")
        return folder


def takes(worker: WorkerEngines, folder: Path, made_s: float, ready_s: float) -> None:
    """Has the worker's only engine be written so long after it was begun with, and the worker be ready then."""
    (engine,) = worker._engines.values()
    engine.began_s -= ready_s
    written_ns = engine.began_ns + int(made_s * 1e9)
    os.utime(folder / "trt_1.engine", ns=(written_ns, written_ns))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "engines")
    yield bench
    bench.store.close()


async def test_an_engine_is_made_once_and_then_given(bench: Bench) -> None:
    first = bench.worker()
    folder = await bench.made(first)
    assert folder.parent == first.folder
    await first.keep()
    assert not list(folder.iterdir())
    second = bench.worker("other/7")
    other = {name.replace("m/1", "other/7"): digest for name, digest in CONTENTS.items()}
    answer = await second.answer(ASKED | {"files": list(other)}, other)
    assert answer["there"]
    assert (Path(answer["folder"]) / "trt_1.engine").read_bytes() == b"engine"
    await second.keep()
    assert not list(second.folder.rglob("*.engine"))
    assert bench.counts.by_model() == {("m", "made"): 1, ("other", "reused"): 1}


async def test_how_long_it_took_is_known_though_all_else_is_new(bench: Bench) -> None:
    first = bench.worker()
    folder = await bench.made(first)
    takes(first, folder, 90, 100)
    await first.keep()
    answer = await bench.worker().answer(ASKED | {"parts": {"device": {"name": "NVIDIA L40S"}}}, CONTENTS)
    assert not answer["there"]
    assert answer["seconds"] == 90


async def test_no_engine_took_longer_than_its_worker_whatever_the_files_say(bench: Bench) -> None:
    first = bench.worker()
    folder = await bench.made(first)
    takes(first, folder, 1e6, 100)
    await first.keep()
    assert 100 <= (await bench.worker().answer(ASKED, CONTENTS))["seconds"] < 1e6


async def test_where_nothing_was_written_nobody_knows_how_long_it_takes(bench: Bench) -> None:
    first = bench.worker()
    folder = await bench.made(first)
    takes(first, folder, 90, 100)
    (folder / "trt_1.engine").unlink()
    await first.keep()
    answer = await bench.worker().answer(ASKED, CONTENTS)
    assert (answer["there"], answer["seconds"]) == (False, 0.0)


async def test_nothing_of_a_worker_that_was_not_ready_is_kept(bench: Bench) -> None:
    first = bench.worker()
    await bench.made(first)
    await first.end()
    assert not first.folder.exists()
    await bench.made(bench.worker())


async def test_another_waits_until_it_is_made(bench: Bench) -> None:
    first, second = bench.worker(), bench.worker()
    await bench.made(first)
    waiting = asyncio.create_task(second.answer(ASKED, CONTENTS))
    while not second.waits:
        await asyncio.sleep(0)
    assert not waiting.done()
    await first.keep()
    assert (await waiting)["there"]
    assert not second.waits


async def test_another_makes_it_where_the_first_one_dies(bench: Bench) -> None:
    first, second = bench.worker(), bench.worker()
    await bench.made(first)
    waiting = asyncio.create_task(second.answer(ASKED, CONTENTS))
    while not second.waits:
        await asyncio.sleep(0)
    await first.end()
    answer = await waiting
    assert (answer["there"], bool(answer["folder"])) == (False, True)


async def test_nobody_waits_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly.runtime.engines.WAIT_SECONDS_MAX", 0.0)
    first, second = bench.worker(), bench.worker()
    await bench.made(first)
    await bench.made(second)
    await first.keep()
    await second.keep()
    assert (await bench.worker().answer(ASKED, CONTENTS))["there"]


async def test_a_worker_that_ends_while_it_waits_leaves_no_lock(bench: Bench) -> None:
    first, second = bench.worker(), bench.worker()
    await bench.made(first)
    waiting = asyncio.create_task(second.answer(ASKED, CONTENTS))
    while not second.waits:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await second.end()
    await first.end()
    await bench.made(bench.worker())


async def test_a_worker_that_ends_just_as_it_may_make_it_leaves_no_lock(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, goes_on = threading.Event(), threading.Event()
    has_room = bench.store.has_room

    def slow() -> bool:
        looks.set()
        goes_on.wait()
        return has_room()

    monkeypatch.setattr(bench.store, "has_room", slow)
    first = bench.worker()
    asking = asyncio.create_task(first.answer(ASKED, CONTENTS))
    while not looks.is_set():
        await asyncio.sleep(0)
    asking.cancel()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await first.end()
    lock = bench.store.lock(key_of({"model.onnx": "aa", "w.bin": "bb"}, ASKED["parts"]))
    assert lock is not None
    lock.release()


async def test_the_loop_goes_on_while_a_lock_is_taken_and_one_that_comes_too_late_is_given_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk on the net that is slow to answer."""
    looks, goes_on, taken = threading.Event(), threading.Event(), threading.Event()
    lock = bench.store.lock

    def slow(key: str) -> KeyLock | None:
        looks.set()
        goes_on.wait()
        found = lock(key)
        taken.set()
        return found

    monkeypatch.setattr(bench.store, "lock", slow)
    first = bench.worker()
    asking = asyncio.create_task(first.answer(ASKED, CONTENTS))
    while not looks.is_set():
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await first.end()
    goes_on.set()
    await asyncio.to_thread(taken.wait)
    key = key_of({"model.onnx": "aa", "w.bin": "bb"}, ASKED["parts"])
    while (again := lock(key)) is None:
        await asyncio.sleep(0)
    again.release()


async def test_a_lock_is_given_back_once_where_the_disk_fills_up_between_two_attempts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.worker()
    await bench.made(first)
    monkeypatch.setattr(bench.store, "has_room", lambda: False)
    assert (await first.answer(ASKED | {"damaged": True}, CONTENTS))["folder"] == ""
    await first.end()  # which raises EBADF where it closes a descriptor that is closed


async def test_an_engine_that_does_not_work_is_thrown_away(bench: Bench) -> None:
    first = bench.worker()
    await bench.made(first)
    await first.keep()
    second = bench.worker()
    assert (await second.answer(ASKED, CONTENTS))["there"]
    await bench.made(second, ASKED | {"damaged": True})
    await second.keep()
    assert (await bench.worker().answer(ASKED, CONTENTS))["there"]


async def test_what_a_worker_dies_of_is_thrown_away(bench: Bench) -> None:
    first = bench.worker()
    await bench.made(first)
    await first.keep()
    second = bench.worker()
    await second.answer(ASKED, CONTENTS)
    await second.end()
    await second.distrust()
    await bench.made(bench.worker())


class Given(Engines):
    """Gives workers an engine at once, as if they had asked for it."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(lambda: bench.store, bench.counts)
        self._bench = bench

    async def begin(self, model: str, lane: str, config: ModelConfig) -> WorkerEngines:
        engines = self._bench.worker()
        assert (await engines.answer(ASKED, CONTENTS))["there"]
        return engines


async def test_what_a_check_dies_of_is_thrown_away(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.worker()
    await bench.made(first)
    await first.keep()
    dies = [sys.executable, "-c", "import os; os.abort()"]
    monkeypatch.setattr(worker_process, "worker_command", lambda descriptor: dies)
    version = version_of(graphs.save(tmp_path, "m", graphs.doubling()), "m")
    checked = await check_version(version, ("cpu:0",), 1, SizeLimits(), 60.0, engines=Given(bench))
    assert "ended while it was loaded" in (checked.problem or "")
    await bench.made(bench.worker())


async def test_on_a_full_disk_nothing_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly.runtime.engine_store.FREE_BYTES_MIN", 1 << 80)
    answer = await bench.worker().answer(ASKED, CONTENTS)
    assert answer == {"folder": "", "there": False, "seconds": 0.0}
    monkeypatch.undo()
    await bench.made(bench.worker())  # its lock was given back


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"files": [], "parts": {}},
        {"files": "m/1/model.onnx", "parts": {}},
        {"files": ["m/1/model.onnx"], "parts": []},
        {"files": ["/etc/passwd"], "parts": {}},
        {"files": ["m/1/model.onnx"], "parts": {"x": "y" * 200_000}},
    ],
)
async def test_questions_that_make_no_sense_are_refused(bench: Bench, question: dict[str, Any]) -> None:
    with pytest.raises(BadQuestion):
        await bench.worker().answer(question, CONTENTS)


async def test_a_worker_may_not_ask_without_end(bench: Bench) -> None:
    worker = bench.worker()
    for number in range(ENGINES_MAX):
        await worker.answer(ASKED | {"parts": {"number": number}}, CONTENTS)
    with pytest.raises(BadQuestion):
        await worker.answer(ASKED, CONTENTS)


async def test_a_worker_that_writes_far_too_much_is_given_up(tmp_path: Path) -> None:
    engines = Engines(lambda: EngineStore(tmp_path / "engines", 1000), EngineCounts())
    worker = await engines.begin("m/1", "openvino:CPU", ModelConfig())
    assert worker is not None
    told: list[str] = []
    worker.on_too_large = told.append
    answer = await worker.answer(ASKED, CONTENTS)
    junk = Path(answer["folder"]) / "junk"
    junk.write_bytes(b"x" * 2000)
    await engines.look()
    assert not told
    junk.write_bytes(b"x" * 2001)
    await engines.look()
    assert told == ["it wrote far more than an engine (see engine_cache_bytes_max)"]
    await worker.end()
    await engines.look()
    assert len(told) == 1
    engines.close()


async def test_a_folder_is_opened_only_where_something_is_compiled(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    engines = Engines(lambda: EngineStore(folder, 1 << 20), EngineCounts())
    assert await engines.begin("m/1", "cpu:0", ModelConfig()) is None
    assert await engines.begin("m/1", "cuda:0", ModelConfig()) is None
    assert not folder.exists()
    worker = await engines.begin("m/1", "cuda:0", ModelConfig(providers=(Provider(name=TENSORRT),)))
    assert worker is not None
    worker.abandon()
    assert not worker.folder.exists()
    assert await engines.begin("m/1", "openvino:CPU", ModelConfig()) is not None
    engines.close()


async def test_the_loop_goes_on_while_the_folder_is_opened(tmp_path: Path) -> None:
    goes_on = threading.Event()

    def slow() -> EngineStore:
        assert goes_on.wait(30), "nothing else came to its turn"
        return EngineStore(tmp_path / "engines", 1 << 20)

    engines = Engines(slow, EngineCounts())
    asyncio.get_running_loop().call_soon(goes_on.set)
    both = await asyncio.gather(*(engines.begin(key, "openvino:CPU", ModelConfig()) for key in ("m/1", "n/1")))
    assert all(both)
    engines.close()


async def test_a_folder_that_cannot_be_used_is_asked_for_once() -> None:
    asked = []

    def refuse() -> EngineStore:
        asked.append(1)
        raise NotTrusted("others may write to it")

    engines = Engines(refuse, EngineCounts())
    assert [await engines.begin("m/1", "openvino:CPU", ModelConfig()) for _ in range(3)] == [None] * 3
    assert len(asked) == 1
