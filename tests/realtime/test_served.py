"""Real servers in real time, as one sees them from outside, and what takes it back."""

import json
import os
import resource
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import onnx
import psutil
import pytest
from onnx import helper

from duly.realtime import scheduling, wakefulness
from duly.start_error import StartError
from duly_client import BlockingClient, Status
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.test_surroundings import Serving, asks, serve
from tests.e2e.wire import ON_TIME, Wire, frame
from tests.realtime.needs import needs_rights

TWO_CPUS = len(os.sched_getaffinity(0)) >= 2
ENDLESS = 1e12


def spinning() -> onnx.ModelProto:
    """y[N,4] = 2 * x, after as many turns of a loop as the first number says."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("Identity", ["kept"], ["keeps"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("kept", onnx.TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("goes", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("keeps", onnx.TensorProto.INT64, []),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["turns"], to=onnx.TensorProto.INT64),
        helper.make_node("Loop", ["turns", "", "turns"], ["last"], body=body),
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Sub", ["last", "turns"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["zero"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Add", ["scaled", "zero"], ["y"]),
    ]
    rows = [graphs.value("x", ["N", 4])], [graphs.value("y", ["N", 4])]
    return graphs.model(nodes, *rows, {"factor": np.float32(2)})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return graphs.save(tmp_path / "models", "double", graphs.scaling(), toml="batch_sizes = [1]\n")


def status(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(f"{name}:"))


def policies(pid: int) -> set[tuple[int, int]]:
    """The policy of each thread with its marks, and its priority."""
    return {
        (os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority) for thread in scheduling.threads(pid)
    }


def urgent(*priorities: int) -> set[tuple[int, int]]:
    return {(os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, priority) for priority in priorities}


def child(server: Serving, name: str) -> psutil.Process:
    (found,) = [each for each in psutil.Process(server.process.pid).children() if each.name() == name]
    return found


def until(true: Callable[[], object]) -> None:
    """Looks until it is so; the time-out of the test is the limit."""
    while not true():
        os.sched_yield()


def metric(server: Serving, name: str) -> float:
    with urllib.request.urlopen(f"http://{server.entry('serving')['metrics']}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@needs_rights
def test_all_of_it_is_seen_from_outside(repository: Path) -> None:
    with serve(repository, "--realtime", "--threads", "2", "--metrics", "127.0.0.1:0") as server:
        pid, worker, watchdog = (
            server.process.pid,
            child(server, "duly double/1").pid,
            child(server, "duly watchdog").pid,
        )
        assert asks(server.address) == [0, 2, 4, 6]
        until(lambda: policies(pid) == urgent(scheduling.LOOP_PRIORITY, scheduling.BESIDE_PRIORITY))
        assert os.sched_getparam(pid).sched_priority == scheduling.LOOP_PRIORITY
        assert len(scheduling.threads(worker)) > 1, "the session has a pool"
        assert policies(worker) == urgent(scheduling.WORKER_PRIORITY)
        assert policies(watchdog) == urgent(scheduling.WATCHDOG_PRIORITY)
        for each in (pid, worker, watchdog):
            assert int(status(each, "VmLck").split()[0]) > 0.9 * int(status(each, "VmSize").split()[0])
            assert status(each, "THP_enabled") == "0"
        assert wakefulness.WAKEFULNESS in {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        soft, hard = resource.prlimit(worker, resource.RLIMIT_RTTIME)
        assert (soft, hard >= 10_000_000) == (1_000_000, True)
        assert metric(server, "duly_realtime") == 1

        os.kill(worker, signal.SIGKILL)
        until(lambda: any(entry["event"] == "worker replaced" for entry in server.log))
        other = child(server, "duly double/1").pid
        assert policies(other) == urgent(scheduling.WORKER_PRIORITY)
        assert status(other, "VmLck") != "0 kB"
        assert asks(server.address) == [0, 2, 4, 6]
    assert server.entry("real time")["workers"] == scheduling.WORKER_PRIORITY


@pytest.mark.skipif(not TWO_CPUS, reason="a lane and the server need a processor each")
def test_lanes_have_processors_of_their_own_without_any_right(repository: Path, tmp_path: Path) -> None:
    taken, *left = sorted(os.sched_getaffinity(0), reverse=True)
    samples = tmp_path / "samples"
    samples.mkdir()
    with serve(repository, "--cpus", str(taken), "--sample", str(samples)) as server:
        assert asks(server.address) == [0, 2, 4, 6]
        assert os.sched_getaffinity(child(server, "duly double/1").pid) == {taken}
        until(lambda: any(each.name() == "duly samples" for each in psutil.Process(server.process.pid).children()))
        beside = server.process.pid, child(server, "duly samples").pid
        assert all(os.sched_getaffinity(thread) == set(left) for pid in beside for thread in scheduling.threads(pid))
    assert server.entry("processors")["cpu:0"] == str(taken)


@needs_rights
def test_what_the_server_starts_beside_the_lanes_stays_less_urgent_than_all(repository: Path, tmp_path: Path) -> None:
    with serve(repository, "--realtime", "--sample", str(tmp_path)) as server:
        until(lambda: any(each.name() == "duly samples" for each in psutil.Process(server.process.pid).children()))
        writer = child(server, "duly samples").pid
        until(lambda: {policy & ~os.SCHED_RESET_ON_FORK for policy, _ in policies(writer)} == {os.SCHED_IDLE})
        assert status(writer, "VmLck") == "0 kB"


@needs_rights
def test_a_worker_that_spins_is_ordinary_then_ended_and_replaced_while_others_go_on(tmp_path: Path) -> None:
    models = graphs.save(tmp_path / "models", "spinning", spinning(), toml="batch_sizes = [1]\n")
    with serve(models, "--realtime", "--metrics", "127.0.0.1:0") as server:
        worker = child(server, "duly spinning/1").pid
        with BlockingClient(server.address) as client, client.stream("spinning", budget_ms=60_000) as stream:
            stream.send(np.full(4, ENDLESS, np.float32))
            # The test runs as any other process, and comes to this line.
            until(lambda: {policy & ~os.SCHED_RESET_ON_FORK for policy, _ in policies(worker)} == {os.SCHED_OTHER})
            assert metric(server, "duly_realtime") == 1
            assert next(stream).status is Status.FAILED
            stream.send(np.zeros(4, np.float32))
            assert next(stream).ok
        assert policies(child(server, "duly spinning/1").pid) == urgent(scheduling.WORKER_PRIORITY)
    events = [entry["event"] for entry in server.log]
    assert events.index("worker overruns, it is ordinary") < events.index("worker hangs, it is killed")
    assert events.index("worker hangs, it is killed") < events.index("worker replaced")


@needs_rights
def test_a_server_whose_loop_is_lost_gives_the_processor_back_and_serves_on(repository: Path) -> None:
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-P", "-m", "tests.realtime.lost_server", str(repository)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    assert "the event loop gave no sign of life" in done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert min(found["before"]) > 0
    assert found["after"] == [0, 0]
    assert found["fallbacks"] == {"server": 1, "worker": 0}
    assert found["status"] == ON_TIME


@needs_rights
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_nothing_is_urgent_that_nobody_watches_over(repository: Path, how: signal.Signals) -> None:
    with serve(repository, "--realtime", "--metrics", "127.0.0.1:0") as server:
        child(server, "duly watchdog").send_signal(how)
        until(lambda: metric(server, "duly_realtime") == 0)
        for pid in (server.process.pid, child(server, "duly double/1").pid):
            assert policies(pid) <= {(os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, 0), (os.SCHED_OTHER, 0)}
        assert asks(server.address) == [0, 2, 4, 6]
    assert server.entry("real time is over: the server and its workers run as any other process")


@needs_rights
def test_a_watchdog_that_is_stopped_ends_with_a_server_that_is_killed(repository: Path) -> None:
    with serve(repository, "--realtime", ends=-signal.SIGKILL) as server:
        watchdog = child(server, "duly watchdog")
        watchdog.send_signal(signal.SIGSTOP)
        server.process.kill()
        watchdog.wait()


@needs_rights
def test_without_the_rights_it_does_not_start_and_says_what_grants_them(repository: Path) -> None:
    path = os.pathsep.join(filter(None, sys.path))
    duly = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(repository), "--listen", "127.0.0.1:0"]
    limits = "--bounding-set=-sys_nice,-ipc_lock,-sys_resource"
    lowered = ["prlimit", "--rtprio=0", "--memlock=65536", "setpriv", limits]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([*lowered, *duly, "--realtime"], capture_output=True, text=True, env=environment)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("duly: ")]
    assert done.returncode == 1
    for words in (
        "no CAP_SYS_NICE, and RLIMIT_RTPRIO is 0",
        "LimitRTPRIO=13",
        "--cap-add SYS_NICE",
        "--ulimit rtprio=13",
    ):
        assert words in line
    for words in ("no CAP_IPC_LOCK, and RLIMIT_MEMLOCK is 65,536 bytes", "LimitMEMLOCK=infinity"):
        assert words in line


@needs_rights
async def test_processors_are_held_awake_as_long_as_the_server_runs_and_no_longer(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    monkeypatch.setattr(wakefulness, "WAKEFULNESS", str(device))

    def held() -> bool:
        return str(device) in {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}

    before = [status(os.getpid(), name) for name in ("VmLck", "THP_enabled")]
    async with serving(repository, realtime=True) as app, grpc.aio.insecure_channel(app.address) as channel:
        assert (device.read_bytes(), held()) == (bytes(4), True)
        async with Wire(channel, model="double") as wire:
            assert (await wire.ask(frame(1))).status == ON_TIME
    assert not held()
    assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER
    assert [status(os.getpid(), name) for name in ("VmLck", "THP_enabled")] == before


async def test_it_is_refused_where_the_device_is_not_there(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakefulness, "WAKEFULNESS", "/dev/there-is-no-such-device")
    with pytest.raises(StartError, match=r"realtime: .* cannot be held, .* wake_ahead needs none of that"):
        async with serving(repository, realtime=True):
            pass
