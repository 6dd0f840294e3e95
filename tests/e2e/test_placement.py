"""A real server places its models in the memory of the machine: what does not fit is refused before it is loaded."""

import os
import signal
from pathlib import Path

import grpc
import pytest

from duly.app import App
from duly.runtime.catalogue import ModelError, VersionState
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.waiting import until
from tests.e2e.wire import ON_TIME, Wire, frame

TERABYTE = 10**12


def weigh(root: Path, name: str, size_bytes: int) -> Path:
    """Puts weights beside the graph: a file without anything in it, which takes no room on the disk."""
    file = root / name / "1" / "model.onnx.data"
    with file.open("wb") as weights:
        weights.truncate(size_bytes)
    return file


def has_bytes(app: App, key: str) -> int:
    """What a worker of that version was measured to have."""
    placement = app._supervisor.placement
    assert placement is not None
    return next(claim.size_bytes for claim in placement.claims if claim.key == key and claim.warm)


def allow(app: App, size_bytes: int) -> None:
    """Sets what all models may have together, as of what was measured."""
    placement = app._supervisor.placement
    assert placement is not None
    placement._bytes_max = size_bytes


async def serves(app: App, name: str) -> bool:
    async with grpc.aio.insecure_channel(app.address) as channel, Wire(channel, model=name) as wire:
        return (await wire.ask(frame(1))).status == ON_TIME


@pytest.mark.asyncio
async def test_what_fits_serves_and_the_rest_is_refused_with_the_sum(tmp_path: Path) -> None:
    for name in ("a", "large", "z"):
        graphs.save(tmp_path, name, graphs.scaling())
    weights = weigh(tmp_path, "large", TERABYTE)
    async with serving(tmp_path) as app:
        assert await serves(app, "a")
        assert await serves(app, "z"), "it comes after the one that does not fit"
        (large,) = app.catalogue.versions("large")
        assert large.state is VersionState.FAILED
        assert "in use by others: 1 other version " in large.error
        assert "+ large/1 (this, at least) 1000.0 GB = 1000." in large.error
        assert not large.starting
        weights.unlink()
        await app.host.load("large", "1")
        assert await serves(app, "large")


@pytest.mark.asyncio
async def test_workers_are_replaced_and_versions_loaded_again_by_what_was_measured(tmp_path: Path) -> None:
    graphs.save(tmp_path, "a", graphs.scaling())
    graphs.save(tmp_path, "b", graphs.scaling())
    async with serving(tmp_path) as app:
        a, b = has_bytes(app, "a/1"), has_bytes(app, "b/1")
        assert min(a, b) > 10_000_000
        await app.host.unload("b", "1")
        allow(app, a + b // 2)
        with pytest.raises(
            ModelError, match=r"lane_memory_bytes_max\): 1 other version .* \+ b/1 \(this, as measured\) .* = "
        ):
            await app.host.load("b", "1")
        killed = app.catalogue.find("a", "1").workers["cpu:0"]
        os.kill(killed.pid, signal.SIGKILL)
        await until(lambda: killed not in app.catalogue.find("a", "1").workers.values())
        await until(lambda: app.catalogue.find("a", "1").state is VersionState.READY)
        assert await serves(app, "a")
        allow(app, 3 * (a + b))
        await app.host.load("b", "1")
        assert await serves(app, "b")


@pytest.mark.asyncio
async def test_memory_that_ends_while_a_model_is_loaded(tmp_path: Path) -> None:
    """A gigabyte is taken by each run, and the worker may have less."""
    nodes = [
        graphs.helper.make_node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=1),
        graphs.helper.make_node("Expand", ["most", "wide"], ["many"]),
        graphs.helper.make_node("ReduceMax", ["many"], ["y"], axes=[1], keepdims=1),
    ]
    inputs, outputs = [graphs.value("x", ["N", 4])], [graphs.value("y", ["N", 1])]
    wide = {"wide": graphs.np.int64([1, 1 << 28])}
    graphs.save(tmp_path, "takes", graphs.model(nodes, inputs, outputs, wide), "batch_sizes = [1]\n")
    graphs.save(tmp_path, "a", graphs.scaling())
    async with serving(tmp_path, worker_memory_bytes_max=700 << 20) as app:
        (takes,) = app.catalogue.versions("takes")
        error = takes.error
        assert "warm-up with a batch of 1: " in error
        assert " are free; loaded there: 1 other version " in error
        assert error.endswith("take smaller batch_sizes, or let workers have more (worker_memory_bytes_max)")
        assert await serves(app, "a")
