"""The folder's tests need build/peers/ros2, which `make peers-ros2` makes."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from tests import graphs
from tests.peers.ros2.processes import ENVIRONMENT, Listener, Process, Sensors, server

Run = Callable[..., Process]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.peers)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def environment(worker_domain: int) -> dict[str, str]:
    """Of processes of ROS: they hear only each other, and never leave the machine."""
    if not (ENVIRONMENT / ".ready").exists():
        pytest.skip("there is no ROS 2 in build/peers/ros2; `make peers-ros2` puts it there")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ROS_", "RMW_", "PYTHON"))}
    return inherited | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": str(worker_domain)}


@pytest.fixture(scope="session")
def worker_domain() -> int:
    """A number for this run, so that two at once on one machine do not hear each other."""
    return 1 + os.getpid() % 100


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`copy` gives back pictures of any size, `imu` doubles six numbers; `both` adds one number to the six."""
    root = tmp_path_factory.mktemp("served") / "models"
    graphs.save(root, "copy", graphs.copying(("N", "H", "W", 3), graphs.UINT8))
    graphs.save(root, "imu", graphs.doubling(("N", 6)))
    inputs = [graphs.value("motion", ("N", 6)), graphs.value("distance", ("N", 1))]
    add = helper.make_node("Add", ["motion", "distance"], ["y"])
    graphs.save(root, "both", graphs.model([add], inputs, [graphs.value("y", ("N", 6))]))
    return root


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    """Of one server for all tests of a module that leave it as it was."""
    with server(models) as (_, address):
        yield address


@pytest.fixture
def sensors(environment: dict[str, str]) -> Iterator[Sensors]:
    process = Sensors(environment)
    yield process
    process.close()


@pytest.fixture
def listen(environment: dict[str, str]) -> Iterator[Callable[..., Listener]]:
    """Starts a listener to the node's outcomes, its diagnostics, and further topics."""
    started: list[Listener] = []

    def start(**topics: str) -> Listener:
        usual = {"/duly/outcomes": "duly_msgs/msg/Outcome", "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray"}
        started.append(Listener(environment, **(usual | topics)))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Iterator[Run]:
    """Starts the node with settings; waits until its streams are open unless `opens` is False."""
    started: list[Process] = []

    def start(settings: dict[str, Any], *arguments: str, opens: bool = True) -> Process:
        config = tmp_path / f"node{len(started)}.yaml"
        config.write_text(json.dumps(settings))  # which is YAML, too
        node = Process(ENVIRONMENT / "bin" / "duly-ros2", "--config", config, *arguments, environment=environment)
        started.append(node)
        if opens:
            for _ in settings["streams"]:
                node.until(lambda line: "is open" in line, "open stream")
        return node

    yield start
    for each in started:
        each.close()
