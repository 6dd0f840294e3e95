"""Workers that stop, hang and crash: how soon they are replaced, and who pays for it."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from duly.app import App
from duly.config import ServerConfig
from duly.runtime import blame
from duly.runtime.catalogue import LoadedVersion, VersionState
from duly.runtime.worker_process import Worker
from tests.e2e import hostile_worker
from tests.e2e.hostile_worker import POISON
from tests.e2e.serving import serving
from tests.e2e.test_hostile_workers import add, replaced
from tests.e2e.wire import FAILED, ON_TIME, Wire, array, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")


def worker_of(app: App, model: str) -> tuple[LoadedVersion, Worker]:
    loaded = app.catalogue.find(model)
    (worker,) = loaded.workers.values()
    return loaded, worker


# ---- workers that run a graph ----


async def test_the_memory_of_a_worker_cannot_be_taken_from_under_the_server(
    shared_server: App, shared_channel: grpc.aio.Channel
) -> None:
    _, worker = worker_of(shared_server, "double")
    folder = f"/proc/{worker.pid}/fd"
    links = [f"{folder}/{fd}" for fd in os.listdir(folder)]
    regions = [link for link in links if os.readlink(link).startswith("/memfd:duly")]
    assert regions
    for size in (0, 1 << 30):
        for fd in regions:
            with pytest.raises(PermissionError):
                os.truncate(fd, size)
    async with Wire(shared_channel, model="double") as wire:
        assert (await wire.ask(frame(1))).status == ON_TIME


async def test_a_worker_that_is_stopped_while_it_idles_is_replaced_before_a_frame_pays(
    shared_server: App, shared_channel: grpc.aio.Channel
) -> None:
    loaded, worker = worker_of(shared_server, "double")
    other, undisturbed = worker_of(shared_server, "sum")
    os.kill(worker.pid, signal.SIGSTOP)
    await replaced(loaded, worker)
    async with Wire(shared_channel, model="double") as wire:
        assert (await wire.ask(frame(1))).status == ON_TIME
    assert list(other.workers.values()) == [undisturbed]


async def test_a_worker_that_is_stopped_while_it_runs_is_replaced_and_says_so(
    shared_server: App, shared_channel: grpc.aio.Channel
) -> None:
    loaded, worker = worker_of(shared_server, "double")
    async with Wire(shared_channel, model="double") as wire:
        os.kill(worker.pid, signal.SIGSTOP)
        outcome = await wire.ask(frame(1))
        assert (outcome.status, "was stopped for" in outcome.reason) == (FAILED, True)
        await replaced(loaded, worker)
        assert (await wire.ask(frame(2))).status == ON_TIME


# ---- workers that run none, see `hostile_worker` ----


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A repository with the models `evil` and `good`."""
    script = [sys.executable, "-P", str(Path(hostile_worker.__file__))]
    monkeypatch.setattr(
        "duly.runtime.worker_process.worker_command", lambda descriptor: [*script, str(descriptor), str(os.getpid())]
    )
    add(tmp_path, "evil", 1)
    add(tmp_path, "good", 1)
    before = set(psutil.Process().children())
    yield tmp_path
    assert set(psutil.Process().children()) <= before, "no worker outlives its server"


async def serves(channel: grpc.aio.Channel, model: str, values: object = (1, 2, 3, 4)) -> None:
    async with Wire(channel, model=model) as wire:
        outcome = await wire.ask(frame(1, values))
        assert (outcome.status, array(outcome).tolist()) == (ON_TIME, list(values))  # type: ignore[call-overload]


@pytest.mark.parametrize("how", hostile_worker.HANGS)
async def test_a_model_that_hangs_at_the_start_does_not_keep_others_from_serving(
    monkeypatch: pytest.MonkeyPatch, hostile: Path, how: str
) -> None:
    monkeypatch.setattr("duly.runtime.model_host.START_IDLE_SECONDS_MAX", 0.2)
    monkeypatch.setattr("duly.runtime.model_host.START_LOOK_SECONDS", 0.05)
    (hostile / "evil" / "1" / "mode").write_text(how)
    async with serving(hostile) as app, grpc.aio.insecure_channel(app.address) as channel:
        (evil,) = app.catalogue.versions("evil")
        assert evil.state is VersionState.LOADING
        await serves(channel, "good")


async def test_a_model_that_takes_long_at_the_start_comes_later(monkeypatch: pytest.MonkeyPatch, hostile: Path) -> None:
    monkeypatch.setattr("duly.runtime.model_host.START_IDLE_SECONDS_MAX", 0.2)
    monkeypatch.setattr("duly.runtime.model_host.START_LOOK_SECONDS", 0.05)
    (hostile / "evil" / "1" / "mode").write_text("it is stopped")
    async with serving(hostile) as app, grpc.aio.insecure_channel(app.address) as channel:
        (evil,) = app.catalogue.versions("evil")
        (worker,) = evil.starting
        await serves(channel, "good")
        (hostile / "evil" / "1" / "mode").write_text("")
        os.kill(worker.pid, signal.SIGKILL)  # its load fails
        while evil.state is VersionState.LOADING:
            await asyncio.sleep(0.01)
        assert evil.state is VersionState.FAILED
        await app.host.load("evil", "1")
        await serves(channel, "evil")


@pytest.mark.parametrize("how", hostile_worker.HANGS)
async def test_a_replacement_that_hangs_is_given_up_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, hostile: Path, how: str
) -> None:
    monkeypatch.setattr("duly.runtime.samplers.LOAD_STILL_NS", 0)
    mode = hostile / "evil" / "1" / "mode"
    async with serving(hostile) as app, grpc.aio.insecure_channel(app.address) as channel:
        loaded, worker = worker_of(app, "evil")
        mode.write_text(how)
        os.kill(worker.pid, signal.SIGKILL)
        while not loaded.error:
            await serves(channel, "good")
        mode.write_text("")
        await replaced(loaded, worker)
        await serves(channel, "evil")


async def test_a_server_that_ends_while_workers_are_replaced_leaves_none_behind(hostile: Path) -> None:
    async with serving(hostile) as app:
        loaded, worker = worker_of(app, "evil")
        (hostile / "evil" / "1" / "mode").write_text("it is stopped")
        os.kill(worker.pid, signal.SIGKILL)
        while not loaded.starting:
            await asyncio.sleep(0.01)
        app._supervisor.replace_no_more()  # as at the end of a drain


async def test_what_shares_a_batch_with_poison_is_served_and_the_stream_of_the_poison_is_barred(hostile: Path) -> None:
    mode = hostile / "evil" / "1" / "mode"
    async with serving(hostile) as app, grpc.aio.insecure_channel(app.address) as channel:
        async with (
            Wire(channel, model="evil", default_budget_nano=60 * 10**9) as honest,
            Wire(channel, model="evil", default_budget_nano=60 * 10**9) as other,
            Wire(channel, model="evil", default_budget_nano=60 * 10**9) as poisoner,
        ):
            mode.write_text("poison")
            poison = 0
            while True:
                poison += 1
                await honest.send(frame(2 * poison))
                await asyncio.gather(
                    poisoner.send(frame(poison, [POISON, 0, 0, 0])),
                    honest.send(frame(2 * poison + 1)),
                    other.send(frame(poison)),
                )
                outcome = await poisoner.outcome(poison)
                assert outcome.status == FAILED
                for served in [await honest.outcome(2 * poison), await honest.outcome(2 * poison + 1)]:
                    assert served.status == ON_TIME
                assert (await other.outcome(poison)).status == ON_TIME
                if not outcome.batch_size:
                    break
            assert outcome.reason == "the model's workers died of frames of this stream; none is run for now"
            assert poison <= blame.STRIKES_MAX + 1
            _, worker = worker_of(app, "evil")
            assert (await poisoner.ask(frame(poison + 1, [POISON, 0, 0, 0]))).status == FAILED
            assert (await honest.ask(frame(2 * poison + 2))).status == ON_TIME
            assert worker_of(app, "evil")[1] is worker
        while app.driver.blame._records:  # nothing is kept of streams that closed
            await asyncio.sleep(0.01)
        await serves(channel, "good")


async def test_a_client_that_comes_again_with_its_poison_is_barred_and_others_are_served(hostile: Path) -> None:
    (hostile / "evil" / "1" / "mode").write_text("poison")
    async with (
        serving(hostile) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="evil", default_budget_nano=60 * 10**9) as honest,
    ):
        assert (await honest.ask(frame(1))).status == ON_TIME
        reasons = []
        while not reasons or not reasons[-1].startswith("the model's workers died of frames of several streams"):
            assert len(reasons) <= blame.DEATHS_MAX, reasons
            async with Wire(channel, model="evil", default_budget_nano=60 * 10**9) as poisoner:
                reasons.append((await poisoner.ask(frame(1, [POISON, 0, 0, 0]))).reason)
            assert (await honest.ask(frame(1 + len(reasons)))).status == ON_TIME


async def test_a_version_that_crashes_at_once_is_paused_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, hostile: Path
) -> None:
    monkeypatch.setattr("duly.runtime.blame.PAUSE_S", 0.5)
    mode = hostile / "evil" / "1" / "mode"
    async with serving(hostile) as app, grpc.aio.insecure_channel(app.address) as channel:
        loaded, worker = worker_of(app, "evil")
        async with Wire(channel, model="evil") as wire, Wire(channel, model="good") as good:
            mode.write_text("it dies at once")
            os.kill(worker.pid, signal.SIGKILL)
            while "in a row as soon as they ran" not in loaded.error:
                await asyncio.sleep(0.01)
            outcome = await wire.ask(frame(1))
            assert (outcome.status, "in a row as soon as they ran" in outcome.reason) == (FAILED, True)
            assert (await good.ask(frame(1))).status == ON_TIME
            mode.write_text("")
            await replaced(loaded, worker)
            assert loaded.error == ""
            assert (await wire.ask(frame(2))).status == ON_TIME


async def test_a_server_that_is_stopped_while_its_models_hang_at_the_start_leaves_no_worker(hostile: Path) -> None:
    for model in ("evil", "good"):
        (hostile / model / "1" / "mode").write_text("it is stopped")
    app = App(ServerConfig(models=hostile, listen="127.0.0.1:0"))
    start = asyncio.create_task(app.start())
    while not any(loaded.starting for loaded in app.catalogue.all_versions()):
        await asyncio.sleep(0.01)
    start.cancel()
    await asyncio.wait([start])
    assert start.cancelled()
    await app.close()
