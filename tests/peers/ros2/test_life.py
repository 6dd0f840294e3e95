"""The node's life as others lead it, its settings as parameters, its launch files, and what it passes on of advice."""

import json
import shlex
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import graphs
from tests.peers.ros2.conftest import Run
from tests.peers.ros2.processes import ENVIRONMENT, PYTHON, Listener, Process, Sensors, closing, server

Listen = Callable[..., Listener]
KIND = "std_msgs/msg/Float32MultiArray"
NUMBERS = {"data": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
LAUNCH = Path(__file__).parents[3] / "clients" / "ros2" / "launch"


def settings(address: str, **more: Any) -> dict[str, Any]:
    stream = {
        "model": "imu",
        "topic": "/numbers",
        "type": "Float32MultiArray",
        "budget_ms": 60_000,
        "qos": {"depth": 5},
    }
    return {"server": address, "streams": {"s": stream | {"publish": {"tensors": "~/tensors"}}}} | more


def test_transitions_are_for_others_to_call_where_the_node_does_not_start_itself(
    address: str, sensors: Sensors, listen: Listen, run: Run
) -> None:
    listener = listen(**{"/duly/tensors": "duly_msgs/msg/Tensors"})
    run(settings(address, autostart=False), opens=False)
    assert listener.diagnosis("not configured")
    assert sensors.do({"transition": "configure"})
    assert not sensors.do({"transition": "deactivate"}), "it is not active"
    assert sensors.do({"transition": "activate"})
    for _ in range(2):
        before = len(listener.all("/duly/tensors"))
        sensors.until_heard(listener, "/numbers", KIND, NUMBERS, before)
        assert sensors.do({"transition": "deactivate"})
        assert sensors.do({"transition": "cleanup"})
        assert listener.diagnosis("not configured")
        assert sensors.do({"transition": "configure"})
        assert sensors.do({"transition": "activate"})


def test_a_stream_that_is_refused_fails_to_configure_and_says_why(
    address: str, sensors: Sensors, listen: Listen, run: Run
) -> None:
    listener = listen()
    told = settings(address, autostart=False, open_timeout_s=1.0)
    told["streams"]["s"]["model"] = "nobody"
    run(told, opens=False)
    assert not sensors.do({"transition": "configure"})
    status = listener.diagnosis("nobody")
    assert "streams.s: " in status["message"]
    assert not sensors.do({"transition": "activate"}), "it is unconfigured"


def test_parameters_are_settings_and_launch_files_run_the_command(
    address: str, sensors: Sensors, listen: Listen, environment: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "robot.yaml"
    config.write_text(json.dumps(settings("127.0.0.1:1")))
    (executable,) = ET.parse(LAUNCH / "duly_ros2.launch.xml").iter("executable")
    command = executable.attrib["cmd"]
    told = subprocess.run(
        [
            PYTHON,
            "-c",
            "import sys, json, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))",
            LAUNCH / "duly_ros2.launch.yaml",
        ],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert json.loads(told.stdout)["launch"][-1]["executable"]["cmd"] == command, "both files run the same"
    for name, value in (("config", str(config)), ("name", "duly"), ("use_sim_time", "false")):
        command = command.replace(f"$(var {name})", value)
    program, *arguments = shlex.split(command)
    listener = listen(**{"/duly/tensors": "duly_msgs/msg/Tensors"})
    parameters = ["-p", f"server:={address}", "-p", "streams.s.publish.tensors:=/duly/tensors"]
    node = Process(ENVIRONMENT / "bin" / program, *arguments, *parameters, environment=environment)
    with closing(node):
        node.until(lambda line: "is open" in line, "open stream")
        sensors.until_heard(listener, "/numbers", KIND, NUMBERS, 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("streams: [1", "expected ',' or ']'"),
        ("streams: {s: {model: m, topic: /t, type: Image, bugdet_ms: 3}}", "did you mean 'budget_ms'?"),
    ],
)
def test_mistakes_in_the_file_are_named(
    listen: Listen, environment: dict[str, str], tmp_path: Path, content: str, said: str
) -> None:
    config = tmp_path / "robot.yaml"
    config.write_text(content)
    node = Process(ENVIRONMENT / "bin" / "duly-ros2", "--config", config, environment=environment)
    with closing(node):
        node.until(lambda line: said in line, said)


def test_advice_is_passed_on(sensors: Sensors, listen: Listen, run: Run, tmp_path: Path) -> None:
    models = graphs.save(tmp_path / "models", "slow", graphs.slow(rounds=20), toml="batch_sizes = [1]\n")
    listener = listen(**{"/duly/advice": "duly_msgs/msg/Advice"})
    with server(models) as (_, address):
        told = settings(address)
        told["streams"]["s"] |= {"model": "slow", "budget_ms": 200, "publish": {}, "qos": {"history": "keep_all"}}
        run(told)
        sensors.tell({"topic": "/numbers", "type": KIND, "fields": {"data": [0.5]}, "count": 10_000, "every_ms": 1})
        advice = listener.hear("/duly/advice", lambda message: message, "advice")
    assert (advice["stream"], advice["kind"]) == ("s", "SLOW_DOWN")
    assert advice["period_ms"] > 0
