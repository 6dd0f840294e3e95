"""Whatever native code of a graph does with its worker's socket, memory and process: the worker is replaced, its batch
FAILED, its lane is back, and nobody else notices.
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from duly.app import App
from duly.runtime.catalogue import LoadedVersion, ModelError
from duly.runtime.worker_process import Worker
from duly.v1 import model_pb2, model_pb2_grpc
from tests.e2e import hostile_worker
from tests.e2e.serving import serving
from tests.e2e.wire import FAILED, ON_TIME, Wire, array, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        script = [sys.executable, "-P", str(Path(hostile_worker.__file__))]
        patch.setattr(
            "duly.runtime.worker_process.worker_command",
            lambda descriptor: [*script, str(descriptor), str(os.getpid())],
        )
        patch.setattr("duly.runtime.blame.FRUITLESS_MAX", 1000)  # it dies once in each test
        patch.setattr("duly.runtime.hang.BUSY_NS", 200_000_000)  # it has nothing to compute
        yield patch


def add(root: Path, name: str, version: int, mode: str = "") -> Path:
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"not read")
    (folder / "mode").write_text(mode)
    return folder / "mode"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    add(root, "evil", 1)
    add(root, "good", 1)
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(patched: pytest.MonkeyPatch, root: Path) -> AsyncIterator[App]:
    async with serving(root) as app:
        yield app


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def link(server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(autouse=True)
def no_memory_is_left_open(server: App) -> Iterator[None]:
    before = memory_open()
    yield
    assert memory_open() <= before


def memory_open() -> int:
    """How many descriptors of anonymous memory this process has, its own and what workers gave it."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum("/memfd:" in os.readlink(link) for link in links if os.path.islink(link))


@pytest.mark.parametrize("lie", hostile_worker.LOADS)
async def test_a_load_that_lies_fails_alone(server: App, link: grpc.aio.Channel, root: Path, lie: str) -> None:
    number = 2 + list(hostile_worker.LOADS).index(lie)
    add(root, "evil", number, lie)
    async with Wire(link, model="good") as other:
        with pytest.raises(ModelError) as refused:
            await server.host.load("evil", str(number))
        assert refused.value.reason == "LOAD_FAILED"
        assert len(str(refused.value)) < 5000
        assert (await other.ask(frame(1))).status == ON_TIME
    await server.host.unload("evil", str(number))


async def test_what_is_compiled_is_told_while_it_is(
    server: App, link: grpc.aio.Channel, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time-out of a load does not count meanwhile."""
    monkeypatch.setattr(server._supervisor, "_load_timeout_s", 1.0)
    mode = add(root, "slow", 1, "compiles")
    (root / "slow/model.toml").write_text('providers = [{ name = "OpenVINOExecutionProvider" }]\n')
    models = model_pb2_grpc.ModelServiceStub(link)
    loading = asyncio.create_task(server.host.load("slow", "1"))
    told = re.compile(r"made-up provider compiles model.onnx, for \d+ s so far; it took 210 s before \(cpu:0\)")
    began_s = asyncio.get_running_loop().time()
    async for seen in models.WatchModels(model_pb2.WatchModelsRequest()):
        assert not loading.done()
        if seen.model.name == "slow" and told.fullmatch(seen.model.versions[0].progress):
            break
    with pytest.raises(ModelError, match=f"is not ready: it is being loaded: {told.pattern}"):
        server.catalogue.find("slow")
    while asyncio.get_running_loop().time() < began_s + 1.5:  # longer than the time-out
        assert (await models.ListModels(model_pb2.ListModelsRequest())).models
        assert not loading.done()
    (mode.parent / "compiled").touch()
    await loading
    async with Wire(link, model="slow") as wire:
        assert (await wire.ask(frame(1))).status == ON_TIME
    listed = await models.ListModels(model_pb2.ListModelsRequest())
    assert [model.versions[0].progress for model in listed.models if model.name == "slow"] == [""]
    await server.host.unload("slow", "1")


async def test_who_has_nothing_to_compile_gets_no_time_for_it(
    server: App, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._supervisor, "_load_timeout_s", 1.0)
    add(root, "claims", 1, "compiles")
    with pytest.raises(ModelError, match=r"not ready after 1 s \(load_timeout_s\)"):
        await server.host.load("claims", "1")
    await server.host.unload("claims", "1")


@pytest.mark.parametrize("words", hostile_worker.HARMLESS_LOADS)
async def test_odd_words_of_a_load_are_cut_short(server: App, link: grpc.aio.Channel, root: Path, words: str) -> None:
    number = 1000 + list(hostile_worker.HARMLESS_LOADS).index(words)
    add(root, "evil", number, words)
    await server.host.load("evil", str(number))
    async with Wire(link, model="evil", version=str(number)) as wire:
        assert (await wire.ask(frame(1))).status == ON_TIME
    await server.host.unload("evil", str(number))


@pytest.mark.parametrize("act", hostile_worker.RUNS)
async def test_what_a_worker_does_harms_its_batch_alone(
    server: App, link: grpc.aio.Channel, root: Path, act: str
) -> None:
    mode = root / "evil" / "1" / "mode"
    loaded = server.catalogue.find("evil", "1")
    async with Wire(link, model="evil", version="1") as wire, Wire(link, model="good") as other:
        assert (await wire.ask(frame(1))).status == ON_TIME
        (worker,) = loaded.workers.values()
        mode.write_text(act)
        asked = asyncio.create_task(wire.ask(frame(2)))
        assert (await other.ask(frame(1))).status == ON_TIME
        outcome = await asked
        mode.write_text("")
        if act in hostile_worker.HARMLESS or act in hostile_worker.FATAL_LATER:
            assert outcome.status == ON_TIME
        else:
            assert outcome.status == FAILED
            assert 0 < len(outcome.reason) <= 4000
        if act in hostile_worker.FATAL or act in hostile_worker.FATAL_LATER:
            await replaced(loaded, worker)
        after = await wire.ask(frame(3))
        assert (after.status, array(after).tolist()) == (ON_TIME, [1, 2, 3, 4])
        (now,) = loaded.workers.values()
        assert (now is worker) == (act in hostile_worker.HARMLESS or act in hostile_worker.FAILING)
    assert not server.driver.held


async def replaced(loaded: LoadedVersion, worker: Worker) -> None:
    """Returns when another worker serves in its place."""
    async with asyncio.timeout(60):
        while worker in loaded.workers.values() or not loaded.workers:
            await asyncio.sleep(0.01)
    assert worker.ended
