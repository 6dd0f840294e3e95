"""`duly serve` as its own process: how it starts, stops, is killed, and what it leaves behind (nothing)."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import grpc
import psutil
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from duly.app import App
from duly.runtime.driver import FAILURES_MAX
from duly.v1 import inference_pb2 as pb
from duly.v1 import server_pb2, server_pb2_grpc
from tests.e2e.wire import FAILED, ON_TIME, SHED, Wire, frame


class Serving:
    """A `duly serve` that is ready, with JSON logs on stderr."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.log: list[dict[str, object]] = []
        self.address = str(self.event("serving")["address"])

    def event(self, name: str) -> dict[str, object]:
        """Waits for a log line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            entry = json.loads(line)
            self.log.append(entry)
            if entry["event"] == name:
                return entry
        raise AssertionError(f"the server ended before it said {name!r}: {self.log}")

    @property
    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


@contextlib.contextmanager
def duly_serve(repository: Path, *options: str) -> Iterator[Serving]:
    command = [sys.executable, "-m", "duly.cli", "serve", "--models", str(repository), "--log-format", "json"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", *options], stderr=subprocess.PIPE, text=True, env=environment
    )
    with process:
        try:
            yield Serving(process)
        finally:
            process.kill()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(repository: Path, signum: int) -> None:
    with duly_serve(repository) as server:
        workers = server.workers
        assert len(workers) == 2
        async with grpc.aio.insecure_channel(server.address) as channel, Wire(channel, model="double") as wire:
            assert (await wire.ask(frame(1))).status == ON_TIME
            server.process.send_signal(signum)
            error = await wire.error()
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert [a.kind for a in wire.advice] == [pb.StreamAdvice.KIND_DRAINING]
        assert server.process.wait() == 0
        assert not any(worker.is_running() for worker in workers)


async def test_drain_over_the_wire_answers_everything(repository: Path) -> None:
    with duly_serve(repository) as server:
        async with grpc.aio.insecure_channel(server.address) as channel, Wire(channel, model="double") as wire:
            await wire.send(*(frame(i) for i in range(1, 51)))
            await server_pb2_grpc.ServerServiceStub(channel).Drain(server_pb2.DrainRequest())
            await wire.error()
            assert sorted(wire.outcomes) == list(range(1, 51))
            assert {o.status for o in wire.outcomes.values()} <= {ON_TIME, SHED}
        assert server.process.wait() == 0


@pytest.mark.parametrize("busy", [False, True])
async def test_a_worker_that_is_stopped_holds_up_no_drain(repository: Path, busy: bool) -> None:
    """By default the server waits for a hanging worker for longer than this whole drain may take. Where this machine is
    so busy that the server finds out that the workers were stopped before it drains, it may replace them.
    """
    count = 40 if busy else 0
    with duly_serve(repository, "--drain-grace-s", "0.5") as server:
        workers = server.workers
        async with grpc.aio.insecure_channel(server.address) as channel, Wire(channel, model="double") as wire:
            statistics = server_pb2_grpc.ServerServiceStub(channel)
            for worker in workers:
                os.kill(worker.pid, signal.SIGSTOP)
            await wire.send(*(frame(i) for i in range(1, 1 + count)))
            taken = 0
            while taken < count:
                now = (await statistics.GetStatistics(server_pb2.GetStatisticsRequest())).statistics
                answered = sum(each.frames for model in now.models for each in model.outcomes)
                taken = now.frames_in_flight + answered
            server.process.send_signal(signal.SIGTERM)
            await wire.error()
        assert server.process.wait() == 0
        assert sorted(wire.outcomes) == list(range(1, 1 + count))
        assert server.process.stderr is not None
        if "worker hangs" not in server.process.stderr.read():
            assert {o.status for o in wire.outcomes.values()} == ({FAILED, SHED} if busy else set())
            reasons = {o.reason for o in wire.outcomes.values() if o.status == FAILED}
            assert reasons <= {"the server stopped while the frame ran"}
        assert not any(worker.is_running() for worker in workers)


async def test_a_scheduler_that_keeps_failing_ends_the_server_with_everything_answered(server: App) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel, Wire(channel, model="double") as wire:
        assert (await wire.ask(frame(1))).status == ON_TIME
        for frame_id in range(2, 3 + FAILURES_MAX):
            assert not server.failed
            server.driver.scheduler.step = broken_step  # type: ignore[method-assign]
            assert (await wire.ask(frame(frame_id))).status == FAILED
        await server.run()
        assert server.failed
        assert (await wire.error()).code() is grpc.StatusCode.UNAVAILABLE


def broken_step(now_ns: int, event: object) -> NoReturn:
    raise RuntimeError("a bug of the scheduler's")


def test_nothing_outlives_a_killed_server(repository: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    with duly_serve(repository) as server:
        workers = server.workers
        os.kill(workers[0].pid, signal.SIGSTOP)  # one hangs
        server.process.kill()
        server.process.wait()
        psutil.wait_procs(workers)
        assert not any(worker.is_running() for worker in workers)
    assert set(os.listdir("/dev/shm")) <= before


def scrape(address: str) -> dict[str, Metric]:
    with urllib.request.urlopen(f"http://{address}/metrics") as page:
        return {family.name: family for family in text_string_to_metric_families(page.read().decode())}


async def test_unix_socket_and_metrics(repository: Path, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/duly.sock"
    with duly_serve(repository, "--listen", address, "--metrics", "127.0.0.1:0") as server:
        assert server.address == address
        async with grpc.aio.insecure_channel(address) as channel, Wire(channel, model="double") as wire:
            assert (await wire.ask(frame(1))).status == ON_TIME
        families = scrape(str(server.log[-1]["metrics"]))
        on_time = [s for s in families["duly_outcomes"].samples if s.labels["status"] == "ON_TIME" and s.value]
        assert [(s.labels["model"], s.value) for s in on_time] == [("double/1", 1)]


def test_a_taken_address_is_said_before_any_model_is_loaded(repository: Path, tmp_path: Path) -> None:
    with duly_serve(repository) as server:
        command = [sys.executable, "-m", "duly.cli", "serve", "--models", str(repository), "--listen", server.address]
        second = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert second.returncode == 1
        assert f"cannot listen on {server.address}: Address already in use" in second.stderr
        assert "Traceback" not in second.stderr
        assert "loading" not in second.stderr
