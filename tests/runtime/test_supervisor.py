"""Versions come and go: what follows them hears of it in time, and a caller that goes away leaves nothing half done."""

import asyncio
from pathlib import Path

import pytest

from duly.core.events import LaneUp
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig
from tests.runtime.scripted import LANE, Bench, ScriptedProcess

OTHER_LANE = "cpu:1"


def version(number: str) -> ModelVersion:
    return ModelVersion("m", number, Path(), Path(), ModelConfig(), ())


async def test_a_version_has_changed_as_soon_as_its_first_lane_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that follow it check their frames by what it takes now, not by what it took when it was loaded before."""
    bench = Bench(monkeypatch)
    bench.catalogue.lanes = (LANE, OTHER_LANE)
    bench.driver.submit(LaneUp(OTHER_LANE))
    counts: list[int] = []
    popen = bench._popen

    def start(command: list[str], pass_fds: list[int], stdin: int, env: dict[str, str]) -> ScriptedProcess:
        counts.append(bench.catalogue.changes_count)
        return popen(command, pass_fds, stdin, env)

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
        assert await anext(changes) == ["n"]
    assert sum(process.alive for process in processes) == 1
    await bench.supervisor.close()
