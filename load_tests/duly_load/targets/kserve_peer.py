"""What the peers of the KServe v2 protocol share: each serves the graphs of models alone, over TCP on loopback."""

import json
from pathlib import Path

from duly_load.protocols.address import Address
from duly_load.scenario.scenario import Scenario
from duly_load.targets.models import PeerModel, peer_models, write_repository
from duly_load.targets.peer import PeerError
from duly_load.targets.server_process import ServerProcess, ask


class KservePeer:
    """See `duly_load.targets.peer.Server`."""

    def __init__(self, name: str, process: ServerProcess, address: Address, http_port: int) -> None:
        """The server is ready."""
        self.address = address
        self.metrics = ""
        said = ask(http_port, "v2")
        self.version = name if said is None else f"{name} {json.loads(said)['version']}"
        self.pid = process.pid
        self.cpu_s = process.cpu_s
        self.died = process.died

    def workers(self) -> dict[str, int]:
        """No workers are known: lanes are duly's."""
        return {}


def write_peer_models(folder: Path, scenario: Scenario) -> list[PeerModel]:
    """The scenario's models, with their graphs in `folder`. Raises PeerError."""
    write_repository(folder / "models", scenario.serve.model)
    return peer_models(folder / "models", scenario.serve.model)


def cpu_lanes(name: str, scenario: Scenario) -> int:
    """How many batches of a model may run at once. Raises PeerError where a lane is no CPU."""
    if others := [lane for lane in scenario.serve.lanes if not lane.startswith("cpu:")]:
        raise PeerError(f"{name} is run on CPUs alone here; lanes: should be cpu:0 and such, got {', '.join(others)}")
    return len(scenario.serve.lanes)
