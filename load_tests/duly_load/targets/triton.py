"""NVIDIA Triton with its Python backend, as `duly_load.targets.tritonserver` runs it.

The backend's own process runs the graph in ONNX Runtime; `instance_group` gives
as many of them as the scenario has lanes. Batching is Triton's dynamic batching without a delay.

There are two of it, since a request's own `timeout` takes effect only where the model has a queue policy with a default
timeout, and that costs: Triton then no longer prepares the next batch while one runs, and its batcher now and then
misses that it may go on and sleeps for half a second although requests wait (core, src/dynamic_batch_scheduler.cc,
`default_wait_microseconds`; server#8870 is a related fault). So requests without a timeout belong to the one without
the policy.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from duly_load.protocols.address import Address
from duly_load.scenario.scenario import Scenario
from duly_load.targets.inside import INSIDE
from duly_load.targets.kserve_peer import KservePeer, cpu_lanes, write_peer_models
from duly_load.targets.models import PeerModel, PeerTensor
from duly_load.targets.tritonserver import ENVIRONMENT, running_triton

QUEUE_TIMEOUT_US = 600_000_000
"""The timeout of requests without one of their own: longer than any budget."""
QUEUE_POLICY = f"""default_queue_policy {{
  timeout_action: REJECT
  default_timeout_microseconds: {QUEUE_TIMEOUT_US}
  allow_timeout_override: true
}}"""


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
        instances = cpu_lanes(self.name, scenario)
        models = write_peer_models(folder, scenario)
        repository = folder / "repository"
        for model in models:
            write_model(repository / model.name, model, instances, self._timeouts)
        with running_triton(self.name, repository, folder, [model.name for model in models]) as triton:
            address = Address("kserve", triton.grpc, timeout=self._timeouts)
            yield KservePeer("Triton", triton.process, address, triton.http_port)


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
