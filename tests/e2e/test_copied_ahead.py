"""Whole servers whose processor counts as a device with memory of its own: frames are copied there beside the run
before, and every frame gets its own result.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

import grpc
import pytest

from duly import accelerators
from duly.v1 import inference_pb2 as pb
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import CANCELLED, EXPIRED, FAILED, ON_TIME, SUPERSEDED, Wire, array, frame
from tests.worker import made_up_gpu

STREAMS, FRAMES, FRAMES_MAX = 6, 60, 6000
"""Each stream sends so many frames, and more until enough of them were brought ahead."""
AHEAD = 10


@pytest.fixture(params=[False, True], ids=["copied late", "copied early"])
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """Where the made-up library of CUDA notes its copies."""
    monkeypatch.setattr(accelerators, "ACCELERATORS", made_up_gpu.with_memory(accelerators.ACCELERATORS))
    script = [sys.executable, "-P", str(Path(made_up_gpu.__file__))]
    monkeypatch.setattr(
        "duly.runtime.worker_process.worker_command", lambda descriptor: [*script, str(descriptor), str(os.getpid())]
    )
    monkeypatch.setenv("MADE_UP_CUDART", str(made_up_gpu.library(tmp_path)))
    monkeypatch.setenv("MADE_UP_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("MADE_UP_LOST", str(tmp_path / "lost"))
    if request.param:
        monkeypatch.setenv("MADE_UP_EARLY", "1")
    return tmp_path / "log"


def was_pinned(log: Path) -> bool:
    return any(line.startswith("pin ") for line in log.read_text().splitlines())


async def test_every_frame_gets_its_own_result_whatever_becomes_of_the_others(log: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    graphs.save(tmp_path / "models", "m", graphs.scaling(), "batch_sizes = [1, 2, 4]")
    async with serving(tmp_path / "models") as app, grpc.aio.insecure_channel(app.address) as channel:

        def ahead() -> int:
            return sum(times.copied_ahead for times in app.metrics._lanes.values())

        async def stream(number: int) -> set[int]:
            latest = number % 2 == 1
            policy = pb.BACKLOG_POLICY_LATEST if latest else pb.BACKLOG_POLICY_ALL
            async with Wire(channel, model="m", backlog_policy=policy) as wire:
                frame_id = 0
                while frame_id < FRAMES or (ahead() < AHEAD and frame_id < FRAMES_MAX):
                    frame_id += 1
                    value = 100 * number + frame_id
                    budget = {"budget_nano": 200_000} if rng.random() < 0.1 else {}
                    await wire.send(frame(frame_id, [value, number, frame_id, 1], **budget))
                    if rng.random() < 0.1:
                        await wire.write(pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=[frame_id])))
                await wire.finish()
            assert sorted(wire.outcomes) == list(range(1, frame_id + 1))
            for frame_id, outcome in wire.outcomes.items():
                if outcome.status == ON_TIME:
                    assert array(outcome).tolist() == [2 * (100 * number + frame_id), 2 * number, 2 * frame_id, 2]
            return {outcome.status for outcome in wire.outcomes.values()}

        statuses = set().union(*await asyncio.gather(*[stream(number) for number in range(STREAMS)]))
        assert ahead() >= AHEAD
    assert was_pinned(log), "the worker has its slots pinned"
    assert ON_TIME in statuses
    assert SUPERSEDED in statuses
    assert FAILED not in statuses
    assert statuses & {CANCELLED, EXPIRED}


async def test_a_device_that_is_lost_in_a_copy_costs_its_batch_at_most_and_comes_back(
    log: Path, tmp_path: Path
) -> None:
    graphs.save(tmp_path / "models", "m", graphs.scaling(), "batch_sizes = [1, 2, 4]")
    async with (
        serving(tmp_path / "models") as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="m", default_budget_nano=60 * 10**9) as wire,
    ):
        assert (await wire.ask(frame(1))).status == ON_TIME
        (before,) = app.catalogue.find("m").workers.values()
        (tmp_path / "lost").touch()
        await wire.send(frame(2), frame(3))
        while app.catalogue.find("m").workers.get("cpu:0") is before:
            await asyncio.sleep(0)
        (tmp_path / "lost").unlink()
        assert {(await wire.outcome(frame_id)).status for frame_id in (2, 3)} <= {ON_TIME, FAILED}
        assert (await wire.ask(frame(4))).status == ON_TIME


async def test_nothing_is_copied_ahead_where_that_is_off(log: Path, tmp_path: Path) -> None:
    graphs.save(tmp_path / "models", "m", graphs.scaling(), "batch_sizes = [1, 2, 4]")
    async with (
        serving(tmp_path / "models", copy_ahead=False) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="m") as wire,
    ):
        await wire.send(*[frame(frame_id) for frame_id in range(1, 60)])
        await wire.finish()
        assert {outcome.status for outcome in wire.outcomes.values()} == {ON_TIME}
        assert sum(times.copied_ahead for times in app.metrics._lanes.values()) == 0
