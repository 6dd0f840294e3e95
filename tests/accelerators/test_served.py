"""Models are served on the device of an accelerator: really there, in batches, and again after a worker or the device
itself was lost.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from duly.accelerators import CPU, kind_of, of_lane
from duly.app import App
from duly.runtime.catalogue import LoadedVersion, VersionState
from duly.start_error import StartError
from duly.worker.confine import lacking
from tests import graphs
from tests.accelerators.conftest import HERE
from tests.e2e.serving import serving
from tests.e2e.test_hostile_workers import replaced
from tests.e2e.test_lane_down import scraped
from tests.e2e.waiting import until
from tests.e2e.wire import EXPIRED, FAILED, ON_TIME, Wire, array, frame
from tests.lane import DRIVERS
from tests.lane import lane as given

LLVMPIPE = Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")
TOML = 'default_budget_ms = 20000\nbatch_sizes = [1, 2, 4]\ndefault_backlog = "ALL"\n'
SHAPE = (3, 8, 8)


def seeing() -> onnx.ModelProto:
    """A convolution, its bias and a ReLU: what every accelerator is for."""
    rng = np.random.default_rng(5)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in {"w": (4, *SHAPE[:1], 3, 3), "b": (4,)}.items()
    ]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv"), helper.make_node("Relu", ["c"], ["y"], "relu")],
        "seeing",
        [graphs.value("x", ("N", *SHAPE))],
        [graphs.value("y", ("N", 4, 6, 6))],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def expected(values: np.ndarray) -> np.ndarray:
    """What the CPU makes of one picture."""
    import onnxruntime

    session = onnxruntime.InferenceSession(seeing().SerializeToString(), providers=[CPU])
    (result,) = session.run(None, {"x": values[None]})
    return np.asarray(result[0])


def tolerance() -> float:
    """How far answers may be from the CPU's: GPUs of NVIDIA multiply with 10 bits of mantissa (TF32)."""
    return 3e-2 if kind_of(given()) == "cuda" else 1e-4


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(count)]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return graphs.save(tmp_path / "models", "eye", seeing(), TOML)


@pytest.fixture
async def server(models: Path, lane: str) -> AsyncIterator[App]:
    async with serving(models, lanes=(lane,)) as app:
        yield app


@pytest.fixture
async def channel(server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


def loaded(app: App, model: str = "eye") -> LoadedVersion:
    (version,) = app.catalogue.versions(model)
    return version


async def asked(channel: grpc.aio.Channel, count: int) -> None:
    """Each of so many frames that come at once gets the answer that the CPU gives."""
    async with Wire(channel, model="eye", default_budget_nano=60 * 10**9) as wire:
        sent = pictures(count)
        await wire.send(*(frame(nth, each) for nth, each in enumerate(sent, start=1)))
        for nth, each in enumerate(sent, start=1):
            outcome = await wire.outcome(nth)
            assert outcome.status == ON_TIME, outcome.reason
            np.testing.assert_allclose(array(outcome), expected(each), rtol=1e-3, atol=tolerance())


async def test_the_device_runs_the_graph_in_batches(server: App, channel: grpc.aio.Channel, lane: str) -> None:
    assert loaded(server).providers == [(of_lane(lane).provider,)]
    await asked(channel, 1)
    await asked(channel, 11)


async def test_a_worker_that_is_killed_is_replaced_on_the_device(
    server: App, channel: grpc.aio.Channel, lane: str
) -> None:
    (worker,) = loaded(server).workers.values()
    async with Wire(channel, model="eye", default_budget_nano=60 * 10**9) as wire:
        os.kill(worker.pid, signal.SIGSTOP)  # so that the frame is sure to run when it dies
        await wire.send(frame(1, pictures(1)[0]))
        await until(lambda: worker.busy, "the frame runs")
        os.kill(worker.pid, signal.SIGKILL)
        outcome = await wire.outcome(1)
        assert outcome.status in (ON_TIME, FAILED)
    await replaced(loaded(server), worker)
    await asked(channel, 5)
    assert loaded(server).providers == [(of_lane(lane).provider,)]


# ---- a device that is not there ----


async def refused(models: Path, lane: str) -> str:
    with pytest.raises(StartError) as error:
        async with serving(models, lanes=(lane,)):
            pass
    return str(error.value)


async def test_a_device_that_is_not_there_is_refused_and_the_cpu_does_not_take_its_place(
    models: Path, lane: str, missing: str
) -> None:
    reason = await refused(models, missing)
    assert of_lane(lane).provider in reason
    assert str(models) not in reason


async def test_the_software_vulkan_that_webgpu_refuses_is_no_silent_cpu(
    models: Path, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime makes a session of the CPU of it, with a line in the log."""
    if not lane.startswith("webgpu:"):
        pytest.skip("it is WebGPU's")
    if not LLVMPIPE.exists():
        pytest.skip("the package mesa-vulkan-drivers is not installed")
    for name in DRIVERS:
        monkeypatch.setenv(name, str(LLVMPIPE))
    assert "No supported adapters" in await refused(models, lane)


# ---- a device that is lost ----


@pytest.fixture
def losing(lane: str, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that, while it is there, has the device of eye's worker fail as one that has fallen off its bus. One of
    that name beside the model `other` does the same to that one's, as a worker can open no file of other models.
    """
    if not lane.startswith("webgpu:"):
        pytest.skip("a processor cannot be lost")
    if shutil.which("cc") is None or not Path("/usr/include/vulkan/vk_layer.h").exists():
        pytest.skip("a C compiler and the package libvulkan-dev make the layer that loses a device")
    folder = tmp_path / "layer"
    folder.mkdir()
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "liblosing.so", HERE / "losing_layer.c"], check=True)
    (folder / "losing.json").write_text(
        '{"file_format_version": "1.2.0", "layer": {"name": "VK_LAYER_DULY_losing", "type": "GLOBAL", '
        '"library_path": "./liblosing.so", "api_version": "1.3.0", "implementation_version": "1", "description": ""}}'
    )
    lost = models / "eye/lost"
    monkeypatch.setenv("VK_LAYER_PATH", str(folder))
    monkeypatch.setenv("VK_INSTANCE_LAYERS", "VK_LAYER_DULY_losing")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setenv("LOSING_FILES", f"{lost}:{models / 'other/lost'}")
    return lost


async def test_a_device_that_is_lost_takes_its_worker_along_and_another_serves_once_it_is_back(
    losing: Path, models: Path, lane: str
) -> None:
    async with (
        serving(models, lanes=(lane,), metrics="127.0.0.1:0") as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="eye", default_budget_nano=120 * 10**9) as wire,
    ):
        await asked(channel, 1)
        (before,) = loaded(app).workers.values()
        loaded(app).load_s = 10.0  # so that a frame with 5 s cannot wait for another worker
        (picture,) = pictures(1)
        os.kill(before.pid, signal.SIGSTOP)  # so that the frames are sure to run when the device is lost
        await wire.send(frame(1, picture, budget_nano=5 * 10**9), frame(2, picture))
        await until(lambda: before.busy, "the frames run")
        losing.touch()
        os.kill(before.pid, signal.SIGCONT)
        outcome = await wire.outcome(1)
        assert outcome.status == FAILED
        assert "the device of its lane was lost" in outcome.reason
        assert app.driver.blame.peaceful, "nobody is blamed"
        assert loaded(app).state is VersionState.RECOVERING
        assert not loaded(app).workers, "nothing serves there as long as the device is lost"
        assert f'duly_lane_up{{lane="{lane}"}} 1.0' in await scraped(app)
        await wire.send(frame(3, picture, budget_nano=10**8))
        assert (await wire.outcome(3)).status == EXPIRED, "it has waited for the lane"
        losing.unlink()
        await replaced(loaded(app), before)
        assert (await wire.outcome(2)).status == ON_TIME, "it ran once more, as it had the time"
        (after,) = loaded(app).workers.values()
        assert after is not before
        await asked(channel, 5)


@pytest.mark.skipif(bool(lacking()), reason="this kernel lacks what keeps workers from the files of other models")
async def test_versions_beside_it_keep_their_workers_until_those_lose_the_device_too(
    losing: Path, models: Path, lane: str
) -> None:
    graphs.save(models, "other", seeing(), TOML)
    async with (
        serving(models, lanes=(lane,)) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="eye") as wire,
        Wire(channel, model="other", default_budget_nano=600 * 10**9) as beside,
    ):
        (before,) = loaded(app).workers.values()
        (neighbour,) = loaded(app, "other").workers.values()
        (picture,) = pictures(1)
        losing.touch()
        await wire.send(frame(1, picture))
        assert (await wire.outcome(1)).status != ON_TIME
        assert not loaded(app).workers
        assert (await beside.ask(frame(1, picture))).status == ON_TIME
        assert loaded(app, "other").workers == {lane: neighbour}
        lost_too = losing.parents[1] / "other/lost"
        lost_too.touch()
        await beside.send(frame(2, picture))
        await until(lambda: not loaded(app, "other").workers, "it has lost the device as well")
        lost_too.unlink()
        await replaced(loaded(app, "other"), neighbour)
        assert (await beside.outcome(2)).status == ON_TIME
        losing.unlink()
        await replaced(loaded(app), before)
        assert app.driver.blame.peaceful, "nobody is blamed"
