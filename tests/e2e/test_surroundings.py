"""`duly serve` where it was not developed: in odd folders, with odd variables, closed files and few descriptors."""

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from duly.metrics_server import SCRAPES_MAX
from duly.worker.confine import OPEN_FILES_MAX
from duly_client import BlockingClient
from tests import graphs

USERS_FILES = ("signal", "json", "queue", "select", "numpy", "onnxruntime", "duly", "sitecustomize", "encodings")
CLUSTER = {
    "DULY_SERVICE_HOST": "10.96.0.7",
    "DULY_PORT": "tcp://10.96.0.7:8500",
    "DULY_STREAMS_SERVICE_PORT_GRPC": "8500",
}
X = np.arange(4, dtype=np.float32)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the model `double` (y = 2x, 4 wide), which loads quickly."""
    graphs.save(tmp_path / "models", "double", graphs.scaling(), toml="batch_sizes = [1]\n")
    return tmp_path / "models"


class Serving:
    """A server that serves, with its log."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == "serving":
                break
        else:
            raise AssertionError(f"the server ended before it served: {self.log}")
        self._rest = threading.Thread(target=self._read, args=(process.stderr,))
        self._rest.start()

    def _read(self, lines: Iterator[str]) -> None:
        self.log += map(json.loads, lines)

    def entry(self, event: str) -> dict[str, Any]:
        return next(entry for entry in self.log if entry["event"] == event)

    @property
    def address(self) -> str:
        return str(self.entry("serving")["address"])

    def workers(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]


@contextlib.contextmanager
def serve(repository: Path, *options: str, ends: int = 0, **started: Any) -> Iterator[Serving]:
    """`ends`: with which status it is to end, after SIGTERM where the test has not ended it already."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    started["env"] = {**os.environ, **started.get("env", {}), "PYTHONPATH": path}
    command = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(repository), "--log-format", "json"]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", *options], stderr=subprocess.PIPE, text=True, **started
    )
    with process:
        try:
            serving = Serving(process)
            yield serving
            process.terminate()
            assert process.wait() == ends
            serving._rest.join()
        finally:
            process.kill()


def asks(address: str) -> list[float]:
    """What the model `double` answers to X."""
    with BlockingClient(address, open_timeout_s=30) as client, client.stream("double", budget_ms=60_000) as stream:
        stream.send(X)
        outcome = next(stream)
        assert outcome.ok, outcome.reason
        return [float(value) for value in next(iter(outcome.outputs.values()))]


def replaced(server: Serving) -> None:
    """Kills a worker; returns when every model is served by one again."""
    before = server.workers()
    os.kill(before[0], signal.SIGKILL)
    while len(now := server.workers()) < len(before) or before[0] in now:
        assert not any(entry["event"] == "worker could not be replaced" for entry in server.log), server.log


def test_a_users_folder_and_variables_change_nothing(repository: Path, tmp_path: Path) -> None:
    """Workers import nothing from the working folder, which would print on their standard output, and end them."""
    work = tmp_path / "work"
    work.mkdir()
    for name in USERS_FILES:
        (work / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user was run')")
    gone = str(tmp_path / "none")
    variables = CLUSTER | {
        "http_proxy": "http://127.0.0.1:9",
        "PYTHONSTARTUP": str(work / "signal.py"),
        "PYTHONOPTIMIZE": "2",
        "TMPDIR": gone,
        "HOME": gone,
        "OMP_NUM_THREADS": "0",
        "LC_ALL": "C",
    }
    with serve(repository, cwd=work, env=variables, umask=0o077, stdin=subprocess.DEVNULL) as server:
        assert asks(server.address) == [0, 2, 4, 6]
        replaced(server)
        assert asks(server.address) == [0, 2, 4, 6]
    assert server.entry("variables of the container platform are no settings")["variables"] == (
        "DULY_PORT DULY_SERVICE_HOST DULY_STREAMS_SERVICE_PORT_GRPC"
    )
    assert not any(entry["event"] == "worker printed" for entry in server.log), "libraries have nothing to warn of"


def test_a_folder_that_is_gone_closed_files_blocked_signals_and_a_low_limit(repository: Path, tmp_path: Path) -> None:
    """Sockets must not get the numbers of closed files: a worker's own would be replaced by its standard input."""
    work = tmp_path / "work"
    work.mkdir()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def surroundings() -> None:
        work.rmdir()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.close(0)
        os.close(1)

    with serve(repository, cwd=work, preexec_fn=surroundings) as server:
        assert asks(server.address) == [0, 2, 4, 6]
        soft = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)[0]
        assert soft == server.entry("open files")["limit"] == min(hard, 65_536)
        for process in server.workers():  # which need few, and are confined
            assert resource.prlimit(process, resource.RLIMIT_NOFILE) == (min(hard, OPEN_FILES_MAX),) * 2
        replaced(server)


def test_no_standard_file_at_all(repository: Path, tmp_path: Path) -> None:
    with subprocess.Popen(**on_socket(repository, tmp_path), preexec_fn=lambda: os.closerange(0, 3)) as server:
        try:
            assert asks(f"unix:{tmp_path}/duly.sock") == [0, 2, 4, 6]
            server.terminate()
            assert server.wait() == 0
        finally:
            server.kill()


def test_a_log_that_nobody_reads(repository: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    flags = fcntl.fcntl(writing, fcntl.F_GETFL)
    fcntl.fcntl(writing, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    fcntl.fcntl(writing, fcntl.F_SETFL, flags)
    with (
        os.fdopen(reading, "rb") as log,
        subprocess.Popen(**on_socket(repository, tmp_path), stderr=writing) as server,
    ):
        try:
            os.close(writing)
            assert asks(f"unix:{tmp_path}/duly.sock") == [0, 2, 4, 6]
            assert not log.read1(1_000_000).strip(b"\0")
            server.terminate()  # and now somebody reads
            first = json.loads(log.read().splitlines()[0])
            assert first["lines_lost"] >= 2, first
            assert server.wait() == 0
        finally:
            server.kill()


def on_socket(repository: Path, folder: Path) -> dict[str, Any]:
    """How to start a server that listens on a socket in `folder`."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(repository)]
    return {
        "args": [*command, "--log-format", "json", "--listen", f"unix:{folder}/duly.sock"],
        "env": {**os.environ, "PYTHONPATH": path},
    }


def test_connections_leave_descriptors_for_a_new_worker(repository: Path) -> None:
    limit = 96

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    with serve(repository, "--metrics", "127.0.0.1:0", preexec_fn=few) as server, contextlib.ExitStack() as stack:
        agreed = server.entry("open files")
        assert agreed["limit"] == limit
        assert 0 < agreed["connections_max"] < limit
        assert server.entry(
            "fewer clients can connect than streams may open: raise the hard limit (ulimit -Hn, LimitNOFILE=)"
        )
        metrics = str(server.entry("serving")["metrics"])
        client = stack.enter_context(BlockingClient(server.address))
        stream = stack.enter_context(client.stream("double", budget_ms=60_000))
        for address, places in ((server.address, agreed["connections_max"]), (metrics, SCRAPES_MAX)):
            host, _, port = address.rpartition(":")
            for place in range(places + 20):
                silent = stack.enter_context(socket.create_connection((host, int(port))))
                if place >= places:  # it came after the last place was taken
                    silent.settimeout(60)
                    with contextlib.suppress(ConnectionResetError):
                        assert silent.recv(1) == b"", "it is closed at once"
        for _ in range(len(server.workers())):
            replaced(server)
        stream.send(X)
        assert next(stream).ok, "who was connected before is served"
