"""MLServer, Seldon's server in Python that KServe uses too, with a runtime of our own that calls ONNX Runtime.

It answers unary calls. Batching is its adaptive batching, which waits up to `max_batch_time` for a batch to fill.
Models run in its inference workers, as they do by default: one for each of the scenario's lanes.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from duly_load.protocols.address import Address
from duly_load.scenario.scenario import Scenario
from duly_load.targets.environment import Environment
from duly_load.targets.inside import INSIDE
from duly_load.targets.kserve_peer import KservePeer, cpu_lanes, write_peer_models
from duly_load.targets.models import PeerModel, PeerTensor
from duly_load.targets.peer import PeerError
from duly_load.targets.server_process import ServerProcess, clean_environ, free_ports, models_ready

MESSAGE_BYTES_MAX = 64 << 20
BATCH_WAIT_S = 0.001
"""The `max_batch_time`; without one it does not batch."""
ENVIRONMENT = Environment("mlserver", ("mlserver==1.7.1", "onnxruntime==1.31.1", "uvloop==0.21.0"))


class MLServer:
    """See `duly_load.targets.peer.Peer`."""

    name = "mlserver"
    about = "MLServer 1.7, ONNX Runtime in its inference workers, adaptive batching; unary gRPC"

    def missing(self) -> str:
        return ENVIRONMENT.missing()

    def install(self, say: Callable[[str], None]) -> None:
        ENVIRONMENT.install(say)

    @contextmanager
    def start(self, scenario: Scenario, folder: Path) -> Iterator[KservePeer]:
        """See `duly_load.targets.peer.Peer`."""
        if missing := self.missing():
            raise PeerError(f"{self.name}: {missing}")
        lanes = cpu_lanes(self.name, scenario)
        models = write_peer_models(folder, scenario)
        http, port = free_ports(2)
        write_settings(folder / "settings", models, lanes, http, port)
        command = [str(ENVIRONMENT.python), "-m", "mlserver.cli.main", "start", str(folder / "settings")]
        environ = clean_environ("DULY_", "MLSERVER_", "PYTHON") | {"PYTHONPATH": str(INSIDE)}
        with ServerProcess(self.name, command, folder, environ) as process:
            process.wait_until(lambda: models_ready(http, [model.name for model in models]))
            yield KservePeer("MLServer", process, Address("kserve", f"127.0.0.1:{port}", unary=True), http)


def write_settings(folder: Path, models: list[PeerModel], lanes: int, http_port: int, grpc_port: int) -> None:
    """settings.json and, for each model, NAME/model-settings.json and what its runtime reads."""
    folder.mkdir()
    server = {
        "host": "127.0.0.1",
        "http_port": http_port,
        "grpc_port": grpc_port,
        "grpc_max_message_length": MESSAGE_BYTES_MAX,
        "metrics_endpoint": None,
        "debug": False,
        "parallel_workers": lanes,
    }
    (folder / "settings.json").write_text(json.dumps(server, indent=2), encoding="utf-8")
    for model in models:
        place = folder / model.name
        place.mkdir()
        (place / "graph.json").write_text(model.graph_json(), encoding="utf-8")
        settings = {
            "name": model.name,
            "implementation": "mlserver_runtime.GraphRuntime",
            "parameters": {"uri": str(place)},
            "max_batch_size": model.batch_max,
            "max_batch_time": BATCH_WAIT_S,
            "inputs": _tensors(model.inputs),
            "outputs": _tensors(model.outputs),
        }
        (place / "model-settings.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _tensors(tensors: tuple[PeerTensor, ...]) -> list[dict[str, object]]:
    """The tensors in the form of its metadata, with the batch first."""
    return [{"name": each.name, "datatype": each.datatype, "shape": [-1, *each.shape]} for each in tensors]
