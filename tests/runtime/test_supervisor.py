"""Versions come and go: what follows them hears of it in time, and a caller that goes away leaves nothing half done."""

import asyncio
import errno
import re
from pathlib import Path
from typing import NoReturn

import pytest

from duly.core.events import LaneUp
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig
from duly.runtime.catalogue import ModelError, VersionState
from tests.runtime.scripted import LANE, Bench, ScriptedProcess

OTHER_LANE = "cpu:1"
PUBLISH = "a version never changes once it is loaded: put the new files into m/2, moved in whole"
OTHER_FILE = "m/1/model.onnx has other contents than when it was loaded (SHA-256 111111111111, was 000000000000)"


def version(number: str) -> ModelVersion:
    return ModelVersion("m", number, Path(), Path(), ModelConfig(), ())


async def test_a_version_has_changed_as_soon_as_its_first_lane_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that follow it check their frames by what it takes now, not by what it took when it was loaded before."""
    bench = Bench(monkeypatch)
    bench.catalogue.lanes = (LANE, OTHER_LANE)
    bench.driver.submit(LaneUp(OTHER_LANE))
    counts: list[int] = []
    popen = bench._popen

    def start(command: list[str], pass_fds: list[int], **_: object) -> ScriptedProcess:
        counts.append(bench.catalogue.changes_count)
        return popen(command, pass_fds)

    monkeypatch.setattr("duly.runtime.worker_process.subprocess.Popen", start)
    await bench.host._load(version("1"))
    before_first, before_second = counts
    assert before_second > before_first
    await bench.supervisor.close()


async def test_an_unload_whose_caller_goes_away_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    await bench.start()
    await bench.host._load(version("2"))
    processes = list(bench.processes)
    changes = bench.catalogue.changes()
    assert await anext(changes) == ["m", "n"]
    call = asyncio.create_task(bench.host.unload("m", ""))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(10):
        assert await anext(changes) == ["n"], "who watches hears of it before its workers have ended"
        while sum(process.alive for process in processes) != 1:
            await asyncio.sleep(0)
        assert await anext(changes) == ["n"]
    assert sum(process.alive for process in processes) == 1
    await bench.supervisor.close()


def find_other_files_from(nth: int, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `nth` worker to be started, and those after it, find other files than the ones before."""
    popen = bench._popen
    started = 0

    def start(command: list[str], pass_fds: list[int], **_: object) -> ScriptedProcess:
        nonlocal started
        started += 1
        if started == nth:
            bench.found.sha256["m/1"] = "1" * 64
        return popen(command, pass_fds)

    monkeypatch.setattr("duly.runtime.worker_process.subprocess.Popen", start)


async def test_a_second_lane_must_find_what_the_first_one_did(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.catalogue.lanes = (LANE, OTHER_LANE)
    find_other_files_from(2, bench, monkeypatch)
    with pytest.raises(ModelError, match=re.escape(f"m/1: {OTHER_FILE}; {PUBLISH}")) as refused:
        await bench.host._load(version("1"))
    assert refused.value.reason == "LOAD_FAILED"
    (loaded,) = bench.catalogue.all_versions()
    assert (loaded.state, loaded.workers) == (VersionState.FAILED, {})
    assert not any(process.alive for process in bench.processes)
    assert loaded.signature is None, "a server that has loaded nothing else serves nothing"
    assert loaded.fingerprint is None, "it never served on all lanes, so that nothing binds the next load"
    assert (await bench.host._load(version("1"))).state is VersionState.READY
    await bench.supervisor.close()


async def test_a_version_that_is_replaced_by_another_is_given_up_on_all_lanes_and_never_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    bench.catalogue.lanes = (LANE, OTHER_LANE)
    bench.driver.submit(LaneUp(OTHER_LANE))
    find_other_files_from(3, bench, monkeypatch)
    loaded = await bench.host._load(version("1"))
    bench.catalogue.activate(loaded)
    for worker in list(loaded.workers.values()):
        worker.kill()
    await bench.until(lambda: loaded.state is VersionState.FAILED and not bench.supervisor._replacements)
    assert loaded.error == f"{OTHER_FILE}; {PUBLISH}"
    assert not loaded.workers
    assert not any(process.alive for process in bench.processes)
    with pytest.raises(ModelError, match="has other contents than when it was loaded"):
        bench.catalogue.find("m")
    await bench.supervisor.close()


async def test_the_newest_version_that_is_ready_takes_the_place_of_one_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    versions = {number: await bench.host._load(version(number)) for number in ("1", "2", "3", "4")}
    bench.catalogue.activate(versions["1"])
    versions["4"].state = VersionState.RECOVERING
    bench.catalogue.fail(versions["2"], "not the active one")
    assert bench.catalogue.active("m") is versions["1"]
    bench.catalogue.fail(versions["1"], "its files have changed")
    assert bench.catalogue.active("m") is versions["3"]
    bench.catalogue.fail(versions["3"], "its files have changed")
    assert bench.catalogue.active("m") is versions["3"], "there is none, and the reason is better than nothing"
    await bench.supervisor.close()


async def test_who_watches_hears_why_a_worker_cannot_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    loaded = await bench.host._load(version("1"))

    def start(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EMFILE, "")

    monkeypatch.setattr("duly.runtime.worker_process.subprocess.Popen", start)
    changes = bench.catalogue.changes()
    next(iter(loaded.workers.values())).kill()
    async with asyncio.timeout(10):
        while await anext(changes) and not loaded.error:
            pass
    assert loaded.state is VersionState.RECOVERING
    assert loaded.error == "its worker process cannot be started: Too many open files"
    await bench.supervisor.close()
