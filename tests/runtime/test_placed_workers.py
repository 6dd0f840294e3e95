"""Workers are placed before they are started, count as long as their processes are there, and are replaced."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig
from duly.runtime.catalogue import ModelError, VersionState
from duly.runtime.device_memory import DeviceMemory
from duly.worker import channel
from tests.runtime.scripted import Bench, ScriptedProcess


def in_a_bench(monkeypatch: pytest.MonkeyPatch, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def whole() -> None:
        bench = Bench(monkeypatch)
        await bench.start()
        await story(bench)
        await bench.supervisor.close()
        assert bench.placement.claims == ()

    with capture_logs():
        asyncio.run(whole())


def version(folder: Path, name: str, weights: int) -> ModelVersion:
    (folder / "model.onnx").write_bytes(bytes(weights))
    return ModelVersion(name, "1", folder, folder, ModelConfig(), ())


def test_what_does_not_fit_is_not_even_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        before = list(bench.processes)
        with pytest.raises(ModelError, match=r"large/1: cpu:0 has 0.0 MB.* large/1 \(this, at least\)"):
            await bench.host._load(version(tmp_path, "large", 2000))
        assert bench.processes == before
        assert bench.catalogue.versions("large")[0].state is VersionState.FAILED
        assert [claim.key for claim in bench.placement.claims] == ["m/1", "n/1"]
        await bench.host._load(version(tmp_path, "large", 900))
        await bench.host.unload("large", "1")
        assert [claim.key for claim in bench.placement.claims] == ["m/1", "n/1"]

    in_a_bench(monkeypatch, story)


def test_a_worker_that_dies_is_replaced_though_its_memory_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        for claim in bench.placement.claims:
            claim.size_bytes = 400
        bench.memory = replace(bench.memory, used_bytes=800)
        await bench.placement.claim("x/1", "cpu:0", 1)  # what others have is known from then on
        bench.placement.gone(bench.placement.claims[-1])
        dies = bench.catalogue.find("m", "1").workers["cpu:0"]
        dies.give_up("for the test")
        await bench.turn(20)
        await bench.until(lambda: bench.catalogue.find("m", "1").state is VersionState.READY)
        assert len(bench.placement.claims) == 2
        await bench.serves()

    in_a_bench(monkeypatch, story)


def test_no_worker_is_started_on_a_lane_that_goes_down_while_it_is_placed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def story(bench: Bench) -> None:
        async def goes_down(lane: str) -> DeviceMemory:
            monkeypatch.setattr(bench.placement, "_memory", bench._memory)
            bench.supervisor.lane_down("cpu:0", "for the test")
            bench.processes.clear()
            return bench.memory

        monkeypatch.setattr(bench.placement, "_memory", goes_down)
        with pytest.raises(ModelError, match="late/1: cpu:0 is down: for the test"):
            await bench.host._load(version(tmp_path, "late", 1))
        assert not bench.processes
        await bench.turn(20)
        assert bench.placement.claims == ()

    in_a_bench(monkeypatch, story)


def test_the_last_worker_of_a_version_that_gives_nothing_finite_leaves_no_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(bench: Bench) -> None:
        loaded = bench.catalogue.find("m", "1")
        dies = loaded.workers["cpu:0"]
        loaded.hollow = dies.hollow = True
        dies.give_up("for the test")
        await bench.turn(20)
        await bench.until(lambda: [claim.key for claim in bench.placement.claims] == ["n/1"])
        assert loaded.state is VersionState.FAILED

    in_a_bench(monkeypatch, story)


def test_a_load_for_which_memory_ends_says_who_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        def fails(self: ScriptedProcess, model: str) -> None:
            said = {"reason": f"{model}/model.onnx: CUDA failure 2: out of memory", "full": True}
            self.say(channel.encode_text(channel.LOAD_FAILED, said))

        for claim in bench.placement.claims:
            claim.size_bytes = 400_000_000
        bench.memory = replace(bench.memory, total_bytes=16_000_000_000, used_bytes=15_500_000_000)
        monkeypatch.setattr(ScriptedProcess, "_load", fails)
        with pytest.raises(ModelError) as refused:
            await bench.host._load(version(tmp_path, "large", 1))
        assert str(refused.value) == (
            "large/1: large/1/model.onnx: CUDA failure 2: out of memory; cpu:0 has 16.0 GB, of which 0.5 GB are free; "
            "loaded there: 2 other versions 0.8 GB; unload a version, take smaller batch_sizes, or use fewer lanes of "
            "that device"
        )

    in_a_bench(monkeypatch, story)
