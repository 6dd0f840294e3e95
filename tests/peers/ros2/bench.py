"""What the node costs: `make bench-ros2`. Pictures of 640x480 in RGB, one at a time, in alternating rounds

- over a topic and back to the process that published them (self),
- through a plain node of rclpy in another process, which answers with their headers (relay),
- through the node and a duly server whose model takes them and does next to nothing (node),
- from the Python client to the same server, without ROS (client).

The bridge costs what the node takes longer than a relay and the client together: it is a relay in whose middle the
client waits for the server. What it takes longer than a topic to itself is shown, too.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from onnx import helper

from duly_client import Client
from tests import graphs
from tests.peers.ros2.processes import ENVIRONMENT, HERE, PYTHON, Process, closing

ROUNDS, COUNT = 5, 110
NAMES = ("self", "relay", "client", "node")


def save_model(root: Path) -> None:
    """A model that takes a picture and gives back one pixel."""
    bounds = {"starts": np.array([0, 0]), "ends": np.array([1, 1]), "axes": np.array([1, 2])}
    node = helper.make_node("Slice", ["x", *bounds], ["y"])
    picture = graphs.value("x", ("N", 480, 640, 3), graphs.UINT8)
    graphs.save(
        root, "look", graphs.model([node], [picture], [graphs.value("y", ("N", 1, 1, 3), graphs.UINT8)], bounds)
    )


async def client_times(address: str) -> list[float]:
    picture = np.zeros((480, 640, 3), np.uint8)
    found = []
    async with Client(address) as client, client.stream("look", budget_ms=5000) as stream:
        for _ in range(COUNT):
            began_ns = time.monotonic_ns()
            await stream.send(picture)
            await anext(stream)
            found.append((time.monotonic_ns() - began_ns) / 1e6)
            await asyncio.sleep(0.002)
    return found[10:]


def main() -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ROS_", "RMW_", "PYTHON"))}
    domain = str(101 + os.getpid() % 100)
    environment = inherited | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": domain}
    with tempfile.TemporaryDirectory(prefix="duly-") as folder:
        root = Path(folder)
        save_model(root / "models")
        serve = ("serve", "--models", root / "models", "--listen", "127.0.0.1:0", "--local", root / "d.sock")
        server = Process(sys.executable, "-m", "duly.cli", *serve, environment=dict(os.environ))
        with closing(server):
            told = server.until(lambda line: '"serving"' in line and json.loads(line), "server")
            address = str(told["address"])
            stream = {"model": "look", "topic": "/camera", "type": "Image", "budget_ms": 5000}
            (root / "node.yaml").write_text(json.dumps({"server": address, "streams": {"front": stream}}))
            command = (ENVIRONMENT / "bin" / "duly-ros2", "--config", root / "node.yaml")
            node = Process(*command, environment=environment)
            relay = Process(PYTHON, HERE / "meter.py", "relay", environment=environment)
            meter = Process(PYTHON, HERE / "meter.py", environment=environment)
            with closing(node, relay, meter):
                node.until(lambda line: "is open" in line, "open stream")
                meter.until(lambda line: line == '"ready"', "meter")
                medians: dict[str, list[float]] = {name: [] for name in NAMES}
                for _ in range(ROUNDS):
                    for name in NAMES:
                        if name == "client":
                            times = asyncio.run(client_times(address))
                        else:
                            meter.tell({"way": name, "count": COUNT})
                            times = meter.until(lambda line: "times" in line and json.loads(line), "times")["times"]
                        medians[name].append(statistics.median(times))
    medians["node - relay - client"] = [
        through - plain - own
        for through, plain, own in zip(medians["node"], medians["relay"], medians["client"], strict=True)
    ]
    medians["node - self"] = [node - own for node, own in zip(medians["node"], medians["self"], strict=True)]
    medians["node - self - client"] = [
        total - own for total, own in zip(medians["node - self"], medians["client"], strict=True)
    ]
    print(f"milliseconds, p50 of {COUNT - 10} pictures of 640x480; median (lowest, highest) of {ROUNDS} rounds")
    for name, found in medians.items():
        print(f"{name:24} {statistics.median(found):7.3f} ({min(found):.3f}, {max(found):.3f})")


if __name__ == "__main__":
    main()
