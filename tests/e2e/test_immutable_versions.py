"""A version never changes once it is loaded, and its files may. Who finds others says so and serves none."""

import asyncio
import itertools
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import pytest_asyncio
from onnx import helper
from structlog.testing import capture_logs

from duly.app import App, check_models
from duly.config import ServerConfig
from duly.runtime.catalogue import LoadedVersion, ModelError, VersionState
from duly.v1 import inference_pb2 as pb
from duly.v1 import model_pb2, model_pb2_grpc
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import FAILED, ON_TIME, Wire, array, frame, reason

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIDTH = 64
NUMBERS = itertools.count()
TOML = "batch_sizes = [1]\n"
PUBLISH = "a version never changes once it is loaded: put the new files into {}/2, moved in whole"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """One server for all tests; each loads a model of its own."""
    root = tmp_path_factory.mktemp("immutable") / "models"
    graphs.save(root, "other", graphs.scaling(), TOML)
    async with serving(root) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def wires(server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def root(server: App) -> Path:
    return server._config.models


@pytest.fixture
def name() -> str:
    """A model of the test's own."""
    return f"m{next(NUMBERS)}"


def adding(value: float, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """y = x + w, with w = `value` in w.bin; further outputs are copies."""
    proto = graphs.with_tensor("main", graphs.external("w", weights(value), "w.bin"), ("N", WIDTH))
    for other in outputs[1:]:
        proto.graph.node.append(helper.make_node("Identity", ["y"], [other]))
        proto.graph.output.append(graphs.value(other, ["N", WIDTH]))
    return proto


def weights(value: float) -> np.ndarray:
    return np.full(WIDTH, value, np.float32)


def put(root: Path, name: str, value: float, toml: str = TOML, version: int = 1) -> Path:
    graphs.save(root, name, adding(value), toml, version=version)
    (root / name / str(version) / "w.bin").write_bytes(weights(value).tobytes())
    return root / name / str(version)


def zeros(frame_id: int, **fields: object) -> pb.Frame:
    return frame(frame_id, np.zeros(WIDTH), **fields)


async def value(wire: Wire, frame_id: int) -> float:
    """What the model adds."""
    outcome = await wire.ask(zeros(frame_id, budget_nano=60 * 10**9))
    assert outcome.status == ON_TIME, outcome.reason
    (added,) = np.unique(array(outcome))
    return float(added)


def version_of(app: App, key: str) -> LoadedVersion:
    (loaded,) = (loaded for loaded in app.catalogue.all_versions() if loaded.key == key)
    return loaded


async def until(app: App, true: Callable[[], bool]) -> None:
    changes = app.catalogue.changes()
    async with asyncio.timeout(60):
        while await anext(changes) and not true():
            pass


async def replaced(app: App, key: str, lane: str = "cpu:0") -> LoadedVersion:
    """Kills the worker. Returns when it has been replaced, or cannot be."""
    loaded = version_of(app, key)
    killed = loaded.workers[lane]
    killed.kill()

    def over() -> bool:
        back = loaded.workers.get(lane) not in (None, killed)
        return loaded.state is VersionState.FAILED or back or bool(loaded.error)

    await until(app, over)
    return loaded


# ---- files that change under a version that serves ----


def overwritten(folder: Path) -> None:
    with (folder / "w.bin").open("r+b") as file:
        file.write(weights(9).tobytes())


def cut_off(folder: Path) -> None:
    os.truncate(folder / "w.bin", 0)


def deleted(folder: Path) -> None:
    shutil.rmtree(folder)


def another_in_its_place(folder: Path) -> None:
    (folder / "new").write_bytes(weights(9).tobytes())
    (folder / "new").rename(folder / "w.bin")


def overwritten_through_a_hard_link(folder: Path) -> None:
    os.link(folder / "w.bin", folder.parent / "same.bin")
    (folder.parent / "same.bin").write_bytes(weights(9).tobytes())


def link_turned(folder: Path) -> None:
    (folder / "w.bin").rename(folder / "w.1.bin")
    (folder / "w.bin").symlink_to("w.1.bin")
    (folder / "w.2.bin").write_bytes(weights(9).tobytes())
    (folder / "link").symlink_to("w.2.bin")
    (folder / "link").rename(folder / "w.bin")


CHANGES: dict[Callable[[Path], None], str] = {
    overwritten: "w.bin has other contents than when it was loaded",
    another_in_its_place: "w.bin has other contents than when it was loaded",
    overwritten_through_a_hard_link: "w.bin has other contents than when it was loaded",
    link_turned: "w.bin has other contents than when it was loaded",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_changed_files_change_nothing_until_a_worker_is_replaced_which_fails_the_version(
    server: App, wires: grpc.aio.Channel, root: Path, name: str, change: Callable[[Path], None]
) -> None:
    folder = put(root, name, 3)
    await server.host.load(name, "")
    async with (
        Wire(wires, model=name) as wire,
        Wire(wires, model=name, version="1") as pinned,
        Wire(wires, model="other") as other,
    ):
        assert await value(wire, 1) == 3
        change(folder)
        assert await value(wire, 2) == 3
        waiting = asyncio.create_task(pinned.ask(zeros(1, budget_nano=60 * 10**9)))
        loaded = await replaced(server, f"{name}/1")
        assert loaded.state is VersionState.FAILED
        assert not loaded.workers
        expected = f"{name}/1/{CHANGES[change]}"
        assert loaded.error.startswith(expected)
        assert loaded.error.endswith(PUBLISH.format(name))
        early = await waiting
        assert (early.status, early.reason) in ((FAILED, loaded.error), (FAILED, "its worker process ended")) or (
            early.status == ON_TIME
        )
        for stream in (wire, pinned):
            late = await stream.ask(zeros(3))
            assert (late.status, late.reason) == (FAILED, loaded.error)
        assert (await other.ask(frame(1))).status == ON_TIME
        with pytest.raises(grpc.aio.AioRpcError, match="has other contents") as refused:
            async with Wire(wires, model=name):
                pass
        assert reason(refused.value) == "MODEL_NOT_READY"
        stub = model_pb2_grpc.ModelServiceStub(wires)
        (told,) = (await stub.GetModel(model_pb2.GetModelRequest(name=name))).model.versions
        assert (told.state, told.error) == (model_pb2.MODEL_STATE_FAILED, loaded.error)
    assert not server.driver.held


async def test_frames_that_wait_for_a_worker_hear_that_the_version_has_failed(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    folder = put(root, name, 3)
    await server.host.load(name, "")
    async with Wire(wires, model=name) as wire:
        assert await value(wire, 1) == 3
        overwritten(folder)
        loaded = version_of(server, f"{name}/1")
        loaded.workers["cpu:0"].kill()
        await until(server, lambda: not loaded.workers)
        assert loaded.state is VersionState.RECOVERING
        late = await wire.ask(zeros(2, budget_nano=60 * 10**9))
        assert (late.status, late.reason) == (FAILED, loaded.error)
        assert "w.bin has other contents" in late.reason


async def test_files_that_are_gone_do_not_hurt_and_may_come_back(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    folder = put(root, name, 3)
    await server.host.load(name, "")
    async with Wire(wires, model=name) as wire:
        assert await value(wire, 1) == 3
        deleted(folder)
        assert await value(wire, 2) == 3
        loaded = await replaced(server, f"{name}/1")
        assert loaded.state is VersionState.RECOVERING
        assert loaded.error == f"{name}/1/model.onnx: there is no such file"
        late = await wire.ask(zeros(3, budget_nano=60 * 10**9))
        assert (late.status, late.reason) == (FAILED, loaded.error)
        put(root, "unseen", 3)
        (root / "unseen/1").rename(folder)
        shutil.rmtree(root / "unseen")
        await until(server, lambda: loaded.state is VersionState.READY)
        assert await value(wire, 4) == 3


async def test_a_model_with_other_outputs_never_answers_for_its_predecessor(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    folder = put(root, name, 3)
    await server.host.load(name, "")
    async with Wire(wires, model=name) as wire, Wire(wires, model=name, outputs=["y"]) as chosen:
        assert await value(wire, 1) == 3
        onnx.save(adding(3, ("y", "z")), folder / "model.onnx")
        loaded = version_of(server, f"{name}/1")
        killed = loaded.workers["cpu:0"]
        killed.kill()
        outcomes = [await wire.ask(zeros(seq, budget_nano=60 * 10**9)) for seq in (2, 3)]
        outcomes.append(await chosen.ask(zeros(1)))
        assert loaded.state is VersionState.FAILED
        assert {outcome.status for outcome in outcomes} == {FAILED}
        assert outcomes[-1].reason == loaded.error
        assert loaded.error.startswith(f"{name}/1/model.onnx has ")


async def test_files_that_no_longer_load_at_all_fail_the_version_too(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    folder = put(root, name, 3)
    await server.host.load(name, "")
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-7])
    loaded = await replaced(server, f"{name}/1")
    assert loaded.state is VersionState.FAILED
    assert loaded.error.startswith(f"{name}/1/model.onnx has ")


async def test_a_link_to_a_release_is_followed_once(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    """`1 -> releases/a` turned to `releases/b`, as deployments do: version 1 is what it was."""
    releases = root / name / ".releases"
    for release, added in (("a", 3), ("b", 9)):
        put(releases / release, "m", added)
        (releases / release / "m/1").rename(releases / f"{release}.files")
    (root / name / "model.toml").write_text("warmup_runs = 3\n" + TOML)
    (root / name / "1").symlink_to(".releases/a.files")
    await server.host.load(name, "")
    async with Wire(wires, model=name) as wire:
        assert await value(wire, 1) == 3
        (root / name / "next").symlink_to(".releases/b.files")
        (root / name / "next").rename(root / name / "1")
        assert (await replaced(server, f"{name}/1")).state is VersionState.READY
        assert await value(wire, 2) == 3
        with pytest.raises(grpc.aio.AioRpcError, match=r"w\.bin has other contents") as refused:
            await model_pb2_grpc.ModelServiceStub(wires).LoadModel(model_pb2.LoadModelRequest(name=name))
        assert reason(refused.value) == "VERSION_CHANGED"


async def test_streams_move_to_another_version_that_is_ready(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    folder = put(root, name, 3)
    await server.host.load(name, "1")
    put(root, name, 5, version=2)
    await server.host.load(name, "2")
    async with Wire(wires, model=name) as follows, Wire(wires, model=name, version="1") as pinned:
        assert await value(follows, 1) == 3
        overwritten(folder)
        loaded = await replaced(server, f"{name}/1")
        assert await value(follows, 2) == 5
        assert [(advice.kind, advice.version) for advice in follows.advice] == [
            (pb.StreamAdvice.KIND_VERSION_CHANGED, "2")
        ]
        late = await pinned.ask(zeros(1))
        assert (late.status, late.reason) == (FAILED, loaded.error)
        assert (await server.host.load(name, "2")).state is VersionState.READY
        # The files are as they were again, and so is the version.
        (folder / "w.bin").write_bytes(weights(3).tobytes())
        assert (await server.host.load(name, "1")).state is VersionState.READY
        assert await value(pinned, 2) == 3
        assert await value(follows, 3) == 5


async def test_a_version_that_failed_gives_way_to_a_new_one(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    folder = put(root, name, 3)
    await server.host.load(name, "1")
    async with Wire(wires, model=name) as follows:
        assert await value(follows, 1) == 3
        overwritten(folder)
        await replaced(server, f"{name}/1")
        with pytest.raises(grpc.aio.AioRpcError, match=r"w\.bin has other contents") as refused:
            await model_pb2_grpc.ModelServiceStub(wires).LoadModel(model_pb2.LoadModelRequest(name=name))
        assert reason(refused.value) == "VERSION_CHANGED"
        put(root, name, 5, version=2)
        await server.host.load(name, "")
        assert await value(follows, 2) == 5


async def test_weights_of_any_variant_count(server: App, root: Path, name: str) -> None:
    toml = TOML + "".join(f'[[variant]]\nname = "{n}"\nfile = "{n}.onnx"\n' for n in ("a", "b"))
    folder = put(root, name, 3, toml)
    for variant in ("a", "b"):
        graphs.save(root, name, graphs.scaling(factor=2.0), toml, file=f"{variant}.onnx")
    await server.host.load(name, "")
    graphs.save(root, name, graphs.scaling(factor=7.0), toml, file="b.onnx")
    loaded = await replaced(server, f"{name}/1")
    assert loaded.error.startswith(f"{name}/1/b.onnx has other contents than when it was loaded")
    assert (folder / "w.bin").exists(), "which no variant names, so that it does not count"
    assert set(loaded.fingerprint.contents) == {f"{name}/1/a.onnx", f"{name}/1/b.onnx"}  # type: ignore[union-attr]


# ---- load_model on a version that is loaded ----


def of_the_settings(folder: Path) -> None:
    toml = "warmup_runs = 3\n" + TOML + 'default_budget_ms = 500\nlabels = "names"\ndefault_class = "CRITICAL"\n'
    (folder.parent / "model.toml").write_text(toml)


def of_the_labels(folder: Path) -> None:
    (folder.parent / "names").write_text("cat\nfox\n")


LOADS = {
    of_the_settings: "{0}/model.toml: default_budget_ms was 100, is 500; {0}/model.toml: default_class was "
    '"STANDARD", is "CRITICAL"; a version',
    of_the_labels: '{0}/names: label 1 was "dog", is "fox"; a version',
    overwritten: "{0}/1/w.bin has other contents than when it was loaded (SHA-256 ",
    cut_off: "{0}/1/w.bin has 0 bytes, it had 256 when it was loaded; a version",
    deleted: "the repository holds no model",
}


async def test_a_load_of_a_version_that_has_changed_is_refused(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    folder = put(root, name, 3, TOML + 'labels = "names"\n')
    (root / name / "names").write_text("cat\ndog\n")
    await server.host.load(name, "")
    stub = model_pb2_grpc.ModelServiceStub(wires)
    request = model_pb2.LoadModelRequest(name=name)
    before = (await stub.LoadModel(request)).model
    with (root / name / "model.toml").open("a") as file:
        file.write("# a remark, and a default spelt out\ndefault_budget_ms = 100\n")
    shutil.copytree(root / name, root / ".kept")
    async with Wire(wires, model=name) as wire:
        for change, text in LOADS.items():
            assert (await stub.LoadModel(request)).model == before, "nothing has changed that counts"
            change(folder)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.LoadModel(request)
            details = refused.value.details() or ""
            if change is not deleted:
                assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
                assert reason(refused.value) == "VERSION_CHANGED"
                begin = f"{name}/1 was loaded, and the repository holds something else since: "
                assert details.startswith(begin + text.format(name))
                assert details.endswith(f"{PUBLISH.format(name)}, or unload {name}/1 and load it again")
            await stub.ActivateVersion(model_pb2.ActivateVersionRequest(name=name, version="1"))
            assert version_of(server, f"{name}/1").state is VersionState.READY
            shutil.rmtree(root / name)
            shutil.copytree(root / ".kept", root / name)
            before = (await stub.GetModel(model_pb2.GetModelRequest(name=name))).model
        assert await value(wire, 1) == 3


async def test_a_new_version_has_the_new_settings_and_the_old_one_its_own(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    put(root, name, 3, TOML + "default_budget_ms = 200\n")
    await server.host.load(name, "")
    put(root, name, 5, TOML + "default_budget_ms = 400\n", version=2)
    await server.host.load(name, "")
    budgets = {each.version.version: each.version.config.default_budget_ms for each in server.catalogue.versions(name)}
    assert budgets == {"1": 200, "2": 400}
    assert (await replaced(server, f"{name}/1")).state is VersionState.READY, (
        "its settings are those it was loaded with"
    )


async def test_an_unload_forgets_and_the_log_tells_of_other_contents(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    folder = put(root, name, 3)
    await server.host.load(name, "")
    overwritten(folder)
    await server.host.unload(name, "")
    with capture_logs() as log:
        await server.host.load(name, "")
    (told,) = (entry for entry in log if entry["event"] == "another version than was unloaded")
    assert told["log_level"] == "warning"
    assert told["changes"].startswith(f"{name}/1/w.bin has other contents than when it was loaded")
    async with Wire(wires, model=name) as wire:
        assert await value(wire, 1) == 9


async def test_watching_tells_of_a_version_that_failed(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    folder = put(root, name, 3)
    await server.host.load(name, "")
    watch = model_pb2_grpc.ModelServiceStub(wires).WatchModels(model_pb2.WatchModelsRequest())
    cut_off(folder)
    version_of(server, f"{name}/1").workers["cpu:0"].kill()
    while (change := await watch.read()).model.name != name or (
        change.model.versions[0].state != model_pb2.MODEL_STATE_FAILED
    ):
        pass
    assert "w.bin has 0 bytes, it had 256 when it was loaded" in change.model.versions[0].error
    watch.cancel()


async def test_a_version_whose_copy_is_under_way_fails_with_words_until_it_is_whole(
    server: App, wires: grpc.aio.Channel, root: Path, name: str
) -> None:
    put(root, name, 3)
    await server.host.load(name, "1")
    put(root, name, 5, version=2)
    whole = (root / name / "2/w.bin").read_bytes()
    reason = (
        f"{name}/2/model.onnx: its external data file w.bin is open for writing; is it still being written? Move a "
        "version into its place in whole"
    )
    with (root / name / "2/w.bin").open("wb") as copy:
        copy.write(whole[:100])
        copy.flush()
        with pytest.raises(ModelError, match=re.escape(reason)):
            await server.host.load(name, "")
        (found,) = await asyncio.to_thread(check_models, ServerConfig(models=only(root, name, 2), threads=1))
        assert found.problem == reason
        copy.write(whole[100:])
    async with Wire(wires, model=name) as wire:
        assert await value(wire, 1) == 3
        assert (await server.host.load(name, "")).state is VersionState.READY
        await server.host.activate(name, "2")
        assert await value(wire, 2) == 5


def only(root: Path, name: str, version: int) -> Path:
    """A repository with nothing but that version of the model, by links."""
    other = root.parent / f"only-{name}"
    (other / name).mkdir(parents=True)
    (other / name / "model.toml").symlink_to(root / name / "model.toml")
    (other / name / str(version)).symlink_to(root / name / str(version))
    return other
