"""NVIDIA Triton: the `tritonserver` binary out of the wheel of nvidia-pytriton, with its Python backend.

The backend's own process runs the graph in ONNX Runtime, since the wheel has no other backend; `instance_group` gives
as many of them as the scenario has lanes. Batching is Triton's dynamic batching without a delay.

There are two of it, since a request's own `timeout` takes effect only where the model has a queue policy with a default
timeout, and that costs: Triton then no longer prepares the next batch while one runs, and its batcher now and then
misses that it may go on and sleeps for half a second although requests wait (core, src/dynamic_batch_scheduler.cc,
`default_wait_microseconds`; server#8870 is a related fault). So requests without a timeout belong to the one without
the policy.
"""

import json
import secrets
import shutil
import sys
import sysconfig
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

QUEUE_TIMEOUT_US = 600_000_000
"""The timeout of requests without one of their own: longer than any budget."""
QUEUE_POLICY = f"""default_queue_policy {{
  timeout_action: REJECT
  default_timeout_microseconds: {QUEUE_TIMEOUT_US}
  allow_timeout_override: true
}}"""
STUB = "triton_python_backend_stub"
SHARED_MEMORY = Path("/dev/shm")
ENVIRONMENT = Environment("triton", ("nvidia-pytriton==0.7.0", "onnxruntime==1.31.1", "numpy==1.26.4"))


class Triton:
    """See `duly_load.targets.peer.Peer`."""

    def __init__(self, name: str, about: str, timeouts: bool) -> None:
        """`timeouts`: requests carry one, and it takes effect."""
        self.name = name
        self.about = about
        self._timeouts = timeouts

    def missing(self) -> str:
        return ENVIRONMENT.missing()

    def install(self, say: Callable[[str], None]) -> None:
        ENVIRONMENT.install(say)

    @contextmanager
    def start(self, scenario: Scenario, folder: Path) -> Iterator[KservePeer]:
        """See `duly_load.targets.peer.Peer`."""
        if missing := self.missing():
            raise PeerError(f"{self.name}: {missing}")
        instances = cpu_lanes(self.name, scenario)
        models = write_peer_models(folder, scenario)
        for model in models:
            write_model(folder / "repository" / model.name, model, instances, self._timeouts)
        _write_backend(folder / "backends" / "python")
        shared = f"duly_triton_{secrets.token_hex(8)}_"
        http, port = free_ports(2)
        command = [str(ENVIRONMENT.packages / "pytriton" / "tritonserver" / "bin" / "tritonserver")]
        command += [f"--model-repository={folder / 'repository'}", f"--backend-directory={folder / 'backends'}"]
        command += ["--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1"]
        command += [f"--grpc-port={port}", "--allow-metrics=false", "--log-info=false"]
        command += [f"--backend-config=python,shm-region-prefix-name={shared}"]
        try:
            with ServerProcess(self.name, command, folder, _environ()) as process:
                process.wait_until(lambda: models_ready(http, [model.name for model in models]))
                yield KservePeer(
                    "Triton", process, Address("kserve", f"127.0.0.1:{port}", timeout=self._timeouts), http
                )
        finally:
            for left in SHARED_MEMORY.glob(f"{shared}*"):  # by a backend that was killed
                left.unlink(missing_ok=True)


def write_model(folder: Path, model: PeerModel, instances: int, timeouts: bool) -> None:
    """The model as a folder of Triton's repository: config.pbtxt, 1/model.py and what that reads."""
    (folder / "1").mkdir(parents=True)
    shutil.copyfile(INSIDE / "triton_backend.py", folder / "1" / "model.py")
    (folder / "graph.json").write_text(model.graph_json(), encoding="utf-8")
    (folder / "config.pbtxt").write_text(_config(model, instances, timeouts), encoding="utf-8")


def _config(model: PeerModel, instances: int, timeouts: bool) -> str:
    """`inference.ModelConfig` in protobuf's text format."""
    inputs = "".join(_tensor("input", tensor) for tensor in model.inputs)
    outputs = "".join(_tensor("output", tensor) for tensor in model.outputs)
    return f"""\
name: {json.dumps(model.name)}
backend: "python"
max_batch_size: {model.batch_max}
{inputs}{outputs}\
instance_group {{ kind: KIND_CPU count: {instances} }}
dynamic_batching {{ {QUEUE_POLICY if timeouts else ""} }}
"""


def _tensor(kind: str, tensor: PeerTensor) -> str:
    # An empty `dims` is not allowed: one element is sent as [1] and reaches the model without it.
    dims = ", ".join(map(str, tensor.shape)) if tensor.shape else "1"
    reshape = "" if tensor.shape else " reshape { shape: [ ] }"
    name, datatype = json.dumps(tensor.name), f"TYPE_{tensor.datatype}"
    return f"{kind} {{ name: {name} data_type: {datatype} dims: [ {dims} ]{reshape} }}\n"


def _write_backend(folder: Path) -> None:
    """Triton looks for the stub of this Python version beside the backend, the wheel keeps it elsewhere."""
    triton = ENVIRONMENT.packages / "pytriton" / "tritonserver"
    stub = triton / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / STUB
    if not stub.exists():
        has = ", ".join(sorted(path.name for path in stub.parents[1].iterdir()))
        raise PeerError(
            f"triton has no backend for Python {sys.version_info.major}.{sys.version_info.minor}, but {has}"
        )
    folder.mkdir(parents=True)
    for path in (*(triton / "backends" / "python").iterdir(), stub):
        if path.is_file():
            (folder / path.name).symlink_to(path)


def _environ() -> dict[str, str]:
    """The environment for the binary and the Python that is embedded in the backend."""
    libraries = (ENVIRONMENT.packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    return clean_environ("DULY_", "TRITON", "PYTHON") | {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONHOME": sys.base_prefix,
        "PEER_PATH": f"{ENVIRONMENT.packages}:{INSIDE}",
    }
