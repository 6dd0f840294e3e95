"""Servers of this project as peers: duly itself, and the floor that runs no model."""

import importlib.metadata
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from duly_client.proxy import channel_options
from duly_load.protocols.address import Address
from duly_load.scenario.scenario import Scenario
from duly_load.targets.models import THREADS, write_repository
from duly_load.targets.peer import PeerError
from duly_load.targets.server_process import ServerProcess, clean_environ, free_ports

ASK_TIMEOUT_S = 1.0
RECONNECT = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
"""The channel connects again quickly, as nobody listens while the server starts."""
STREAMS_MIN, STREAMS_MAX = 1024, 65_536
"""duly's own default, and the most that it can be configured to."""
FLOOR = [sys.executable, "-P", "-m", "duly_load.targets.null_echo"]
TUNED_FLOOR = [sys.executable, "-P", "-m", "duly_load.targets.tuned_echo"]
WORKER = "duly.worker.main"
"""The module that stands in the command line of duly's workers."""
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class OwnServer:
    """One of ours that runs; see `duly_load.targets.peer.Server`."""

    def __init__(self, process: ServerProcess, address: Address, metrics: str, lanes: Sequence[str]) -> None:
        """The server is ready. `lanes`: those of its workers, in the order in which it starts them; none: they are not
        distinguished.
        """
        self.address = address
        self.metrics = metrics
        self.version = f"{process.name} {importlib.metadata.version('duly')}"
        self.pid = process.pid
        self.cpu_s = process.cpu_s
        self.died = process.died
        self._process = process
        found = self.worker_processes() if lanes else []
        self._places = [(lane, found[index % len(found)]) for index, lane in enumerate(lanes)] if found else []
        if len(found) != len(self._places):
            raise PeerError(f"{process.name} has {len(found)} workers, should have one for each model on each lane")

    def workers(self) -> dict[str, int]:
        """Process id of a worker on each lane. A lane is left out while its workers are gone, and where workers of
        several lanes went at once, since those that took their places can't be distinguished.
        """
        alive = self.worker_processes()
        places = {worker for _, worker in self._places}
        lost = [index for index, (_, worker) in enumerate(self._places) if worker not in alive]
        if len({self._places[index][0] for index in lost}) == 1:
            for index, worker in zip(lost, [worker for worker in alive if worker not in places], strict=False):
                self._places[index] = (self._places[index][0], worker)
        return {lane: worker.pid for lane, worker in reversed(self._places) if worker in alive}

    def worker_processes(self) -> list[psutil.Process]:
        """Those of its workers, the oldest first. A process is known by its id and when it began."""
        return [process for process in self._process.tree() if WORKER in _command(process)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


class Own:
    """One of our servers, which comes with this package."""

    def __init__(self, name: str, about: str, needs: tuple[str, ...]) -> None:
        """`needs`: modules that it can't do without."""
        self.name = name
        self.about = about
        self._needs = needs

    def missing(self) -> str:
        lacks = [module for module in self._needs if importlib.util.find_spec(module) is None]
        return f"it lacks {', '.join(lacks)}: pip install 'duly[cpu]'" if lacks else ""

    def install(self, say: Callable[[str], None]) -> None:
        """Nothing to do, or not for us. Raises PeerError."""
        if lacks := self.missing():
            raise PeerError(f"{self.name}: {lacks}")
        say(f"{self.name}: comes with duly-load, there is nothing to install")


class Duly(Own):
    """`duly serve`.

    Admission advises, since every peer takes every stream: at the door of an overloaded server, duly would else refuse
    what it can't serve, and would be compared at a smaller load than the others.
    """

    def __init__(self, name: str, about: str, protocol: Literal["duly", "kserve"]) -> None:
        super().__init__(name, about, ("uvloop", "onnxruntime"))
        self._protocol = protocol

    @contextmanager
    def start(self, scenario: Scenario, folder: Path) -> Iterator[OwnServer]:
        """See `duly_load.targets.peer.Peer`."""
        models = [model.name for model in scenario.serve.model]
        write_repository(folder / "models", scenario.serve.model)
        streams = 2 * sum(sensor.count for sensor in scenario.stream)  # a stream that ends may meet its successor
        command = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(folder / "models")]
        command += ["--lanes", ",".join(scenario.serve.lanes), "--threads", str(THREADS), "--admission", "advise"]
        command += ["--streams-max", str(min(max(streams, STREAMS_MIN), STREAMS_MAX))]
        if self._protocol == "kserve":
            # As Triton lets clients, unless it is told not to; perf_analyzer has several connections.
            command += ["--kserve-shared-memory", "principal"]
        (port,) = free_ports(1)
        command += ["--metrics", f"127.0.0.1:{port}"]
        # One after another and each on all lanes, so `duly.runtime.model_host` loads them.
        lanes = [*scenario.serve.lanes] * len(models)
        metrics = f"http://127.0.0.1:{port}/metrics"
        # Over KServe's protocol, requests say what frames say over duly's.
        address = replace(_loopback(self._protocol), duly_terms=self._protocol == "kserve")
        with running(self.name, command, folder, address, models, lanes, metrics) as server:
            yield server


class Floor(Own):
    """`duly_load.targets.null_echo`: what is left of a server when no model runs."""

    def __init__(self, name: str, about: str, protocol: Literal["duly", "kserve"]) -> None:
        super().__init__(name, about, ("uvloop",))
        self._protocol = protocol

    @contextmanager
    def start(self, scenario: Scenario, folder: Path) -> Iterator[OwnServer]:
        """See `duly_load.targets.peer.Peer`."""
        with running(self.name, FLOOR, folder, _loopback(self._protocol)) as server:
            yield server


def _loopback(protocol: Literal["duly", "kserve"]) -> Address:
    """A free address on loopback, as for peers without UNIX sockets: only the servers shall differ."""
    return Address(protocol, f"127.0.0.1:{free_ports(1)[0]}")


@contextmanager
def running(
    name: str,
    command: list[str],
    folder: Path,
    address: Address | None = None,
    models: Sequence[str] = (),
    lanes: Sequence[str] = (),
    metrics: str = "",
) -> Iterator[OwnServer]:
    """A server of ours, ready with `models`. `address`: where it is to listen; None: on a UNIX socket, for duly.v1.
    `lanes`, `metrics`: see `OwnServer`. Raises PeerError.
    """
    # Not in `folder`: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="duly-") as short:
        at = address or Address("duly", f"unix:{short}/{name}.sock")
        with (
            ServerProcess(name, [*command, "--listen", at.endpoint], folder, clean_environ("DULY_")) as process,
            grpc.insecure_channel(at.endpoint, [*RECONNECT, *channel_options(at.endpoint)]) as channel,
        ):
            stub = health_pb2_grpc.HealthStub(channel)
            process.wait_until(lambda: all(_serves(stub, model, process) for model in ("", *models)))
            yield OwnServer(process, at, metrics, lanes)


def _serves(stub: health_pb2_grpc.HealthStub, model: str, process: ServerProcess) -> bool:
    """Whether the server (`model` empty) or a model of it is healthy. Raises PeerError where it will not be."""
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=model), timeout=ASK_TIMEOUT_S)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.NOT_FOUND):
            return False
        raise PeerError(f"{process.name}: its health check failed: {error.details()}") from error
    if model and answer.status == _NOT_SERVING:
        raise PeerError(f"{process.name} can't serve the model {model}{process.log_tail()}")
    return bool(answer.status == _SERVING)
