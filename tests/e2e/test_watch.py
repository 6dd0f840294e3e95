"""New versions come into the repository of a running server: they are loaded, judged, made active, or named with what
is wrong. What serves is not touched.
"""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from duly.app import App
from duly.metric_families import Families
from duly.runtime import repository_watch
from duly.runtime.catalogue import LoadedVersion, ModelError, VersionState
from duly.runtime.repository_watch import RepositoryWatch
from duly.v1 import inference_pb2 as pb
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import ON_TIME, Wire, array, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOML = "batch_sizes = [1]\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    root = tmp_path_factory.mktemp("watched") / "models"
    graphs.save(root, "m", graphs.scaling_one(1.0), TOML)
    async with serving(root, versions_max=3) as app:
        yield app


@pytest.fixture
def root(server: App) -> Path:
    return server._config.models


@pytest.fixture
def watch(server: App) -> RepositoryWatch:
    """A watch that takes a change for settled at once."""
    return RepositoryWatch(server.host, server.catalogue, activate=True, settle_s=0)


def publish(root: Path, version: int, factor: float = 0.0, proto: object = None) -> None:
    """Puts a version into its place in whole, as a deployment should."""
    graphs.save(root.parent / "made", "m", proto or graphs.scaling_one(factor), version=version)  # type: ignore[arg-type]
    (root.parent / "made" / "m" / str(version)).rename(root / "m" / str(version))


def warnings(logs: list[dict[str, object]]) -> list[str]:
    return [str(line["reason"]) for line in logs if line["log_level"] in ("warning", "error") and "reason" in line]


async def test_versions_are_followed(server: App, root: Path, watch: RepositoryWatch) -> None:
    await watch.look()
    async with grpc.aio.insecure_channel(server.address) as channel, Wire(channel, model="m") as wire:
        publish(root, 2, 2.0)
        await watch.look()
        outcome = await wire.ask(frame(1, [[5]]))
        assert (outcome.version, array(outcome).tolist()) == ("2", [10])

        # What is broken is named everywhere, and once in the log; the others serve.
        with capture_logs() as logs:
            (root / "m" / "3").mkdir()
            (root / "m" / "3" / "model.onnx").write_bytes(b"no graph at all")
            await watch.look()
            await watch.look()
            (root / "m" / "x").touch()
            await watch.look()
        assert len(warnings(logs)) == 1, warnings(logs)
        (text,) = warnings(logs)
        assert "m/3/model.onnx: is not a whole ONNX file" in text
        failed = server.catalogue.get("m", "3")
        assert failed is not None
        assert (failed.state, "not a whole ONNX file" in failed.error) == (VersionState.FAILED, True)
        registry = CollectorRegistry()
        registry.register(Families(server.metrics))
        server.metrics.set_gauges(server._gauges)
        assert b'duly_version_state{model="m/3",state="FAILED"} 1.0' in generate_latest(registry)
        assert (await wire.ask(frame(2, [[5]]))).version == "2"

        # It is mended in place, and tried again.
        shutil.rmtree(root / "m" / "3")
        await watch.look()
        publish(root, 3, 3.0)
        await watch.look()
        assert (await wire.ask(frame(3, [[5]]))).version == "3"

        # Who goes back by hand stays there.
        await server.host.activate("m", "2")
        (root / "m" / "y").touch()
        await watch.look()
        assert (await wire.ask(frame(4, [[5]]))).version == "2"

        # There is room for three: the oldest that nobody uses goes.
        publish(root, 4, 4.0)
        await watch.look()
        assert [loaded.version.version for loaded in server.catalogue.versions("m")] == ["4", "3", "2"]
        assert (await wire.ask(frame(5, [[5]]))).version == "4"

        # Settings that cannot be read leave the versions where they are.
        settings = root / "m" / "model.toml"
        before = settings.read_text("utf-8")
        with capture_logs() as logs:
            settings.write_text(before + "batch_sizes = 'x'\n", "utf-8")
            await watch.look()
        assert "its files have changed; what was loaded serves until it is unloaded" in warnings(logs)
        assert not [warning for warning in warnings(logs) if "are gone" in warning]
        settings.write_text(before, "utf-8")
        await watch.look()

        # What is gone from the disk serves on, and is told once.
        with capture_logs() as logs:
            shutil.rmtree(root / "m" / "4")
            for _ in range(3):
                await watch.look()
        assert warnings(logs) == ["its files are gone; what was loaded serves until it is unloaded"]
        outcome = await wire.ask(frame(6, [[5]]))
        assert (outcome.status, outcome.version) == (ON_TIME, "4")


async def test_a_version_waits_until_it_is_whole(server: App, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = RepositoryWatch(server.host, server.catalogue, activate=True, settle_s=3600)
    publish(root, 5, 5.0)
    for _ in range(3):
        await watch.look()
    assert server.catalogue.get("m", "5") is None, "it has not settled"
    watch = RepositoryWatch(server.host, server.catalogue, activate=False, settle_s=0)
    with (root / "m" / "5" / "model.onnx").open("ab"):
        await watch.look()
        assert server.catalogue.get("m", "5") is None, "somebody writes to it"
    (root / "m" / "6.tmp").mkdir()
    await watch.look()
    loaded, active = server.catalogue.get("m", "5"), server.catalogue.active("m")
    assert loaded is not None
    assert loaded.state is VersionState.READY
    assert active not in (None, loaded), "it is loaded and no more"


async def test_a_model_that_takes_long_keeps_no_other_waiting(
    server: App, root: Path, watch: RepositoryWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_watch, "PATIENCE_SECONDS", 0.01)
    await watch.look()
    made, held, asked = root.parent / "made", asyncio.Event(), Counter[str]()

    async def load(name: str, version: str) -> LoadedVersion:
        asked[name] += 1
        if name == "a_slow":
            await held.wait()
        raise ModelError("LOAD_FAILED", "it was only tried")

    monkeypatch.setattr(server.host, "load", load)
    for name in ("a_slow", "b_quick"):
        graphs.save(made, name, graphs.scaling_one(2.0), TOML)
        (made / name).rename(root / name)
    for _ in range(3):
        await watch.look()
    assert asked == {"a_slow": 1, "b_quick": 1}, "each is tried once, and neither waits for the other"
    held.set()
    while watch._following:
        await asyncio.sleep(0)
    for name in ("a_slow", "b_quick"):
        shutil.rmtree(root / name)
    await watch.look()


async def test_a_version_that_breaks_promises_is_loaded_and_not_activated(
    server: App, root: Path, watch: RepositoryWatch
) -> None:
    await watch.look()
    before = server.catalogue.active("m")
    terms = {"stream_class": pb.STREAM_CLASS_CRITICAL, "expected_period_nano": 10**9, "default_budget_nano": 10**6}
    async with grpc.aio.insecure_channel(server.address) as channel, Wire(channel, model="m", **terms) as wire:
        publish(root, 7, proto=graphs.slow(rounds=60))
        with capture_logs() as logs:
            await watch.look()
            await watch.look()
        assert server.catalogue.active("m") is before
        assert [text.partition(":")[0] for text in warnings(logs)] == ["loaded and not activated"]
        assert (await wire.ask(frame(1, [[5]]))).version != "7"


async def test_odd_things_and_a_repository_that_goes_do_no_harm(
    server: App, root: Path, watch: RepositoryWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watch.look()
    for name, make in {"pipe": os.mkfifo, "zero": lambda path: os.symlink("/dev/zero", path)}.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.onnx").touch()
        make(root / name / "model.toml")
    (root / "loop").symlink_to("loop")
    await watch.look()
    assert {name: server.catalogue.problems[name] for name in ("pipe", "zero")} == {
        "pipe": "pipe/model.toml: is no ordinary file",
        "zero": "zero/model.toml: is no ordinary file",
    }
    monkeypatch.setattr(repository_watch, "LOOK_SECONDS", 0)
    running = asyncio.create_task(watch.run())
    shutil.move(root, root.with_name("elsewhere"))
    with capture_logs() as logs:
        while not warnings(logs):
            await asyncio.sleep(0)
        with pytest.raises(ModelError, match="the repository cannot be read; see the server's log"):
            await server.host.load("m", "")
    assert [line["event"] for line in logs] == [
        "the repository cannot be watched, what is loaded serves on",
        "the repository cannot be read",
    ]
    async with grpc.aio.insecure_channel(server.address) as channel, Wire(channel, model="m") as wire:
        assert (await wire.ask(frame(1, [[5]]))).status == ON_TIME
    shutil.move(root.with_name("elsewhere"), root)
    for name in ("pipe", "zero"):
        shutil.rmtree(root / name)
    while server.catalogue.problems:
        await asyncio.sleep(0)
    running.cancel()
