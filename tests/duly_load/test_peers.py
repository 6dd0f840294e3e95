"""Servers that the harness starts itself: ours run for real, of the others what is written for them."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import psutil
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper

from duly_load.cli.main import cli
from duly_load.generator import die_with_parent
from duly_load.scenario.scenario import Scenario, parse_scenario
from duly_load.scenario.serve import Serve
from duly_load.targets.all_peers import PEERS
from duly_load.targets.duly_and_floor import OwnServer
from duly_load.targets.environment import Environment
from duly_load.targets.kserve_peer import write_peer_models
from duly_load.targets.mlserver import write_settings
from duly_load.targets.models import PeerTensor
from duly_load.targets.peer import PeerError
from duly_load.targets.server_process import ServerProcess
from duly_load.targets.triton import write_model

TINY = {"name": "tiny", "dense": {"width": 4}, "batch_sizes": [2, 1]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, so that no peer is installed."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DULY_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a server's files go."""
    place = tmp_path / "server"
    place.mkdir()
    return place


def scenario(*models: dict[str, Any], **served: Any) -> Scenario:
    arrivals = {"kind": "periodic", "rate_hz": 10}
    stream = {"name": "camera", "model": models[0]["name"], "budget_ms": 100, "arrivals": arrivals}
    content = {"name": "test", "duration_s": 1.0, "serve": {"model": list(models), **served}, "stream": [stream]}
    return parse_scenario(content, "test", Path())


def add_model(root: Path, name: str, toml: str = "", batch: str | int = "N") -> dict[str, Any]:
    """A model with two inputs and two outputs in a duly repository; as a scenario names it."""
    a = helper.make_tensor_value_info("a", TensorProto.FLOAT, [batch, 2, "W"])
    b = helper.make_tensor_value_info("b", TensorProto.INT64, [batch, 3])
    c = helper.make_tensor_value_info("c", TensorProto.FLOAT, [batch, 2, "W"])
    d = helper.make_tensor_value_info("d", TensorProto.INT64, [batch])
    nodes = [
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("ReduceSum", ["b", "axes"], ["d"], keepdims=0),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, name, [a, b], [c, d], [axes])
    folder = root / name
    (folder / "3").mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "3/m.onnx")
    if toml:
        (folder / "model.toml").write_text(toml)
    return {"name": name, "folder": str(folder)}


# ---- ours ----


def healthy(server: OwnServer, service: str = "") -> bool:
    with grpc.insecure_channel(server.address.endpoint) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture(scope="module")
def two_lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """duly with two models on each of two lanes."""
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("DULY_LISTEN", "not an address: it must not reach the server")
        asked = scenario(TINY, TINY | {"name": "other"}, lanes=["cpu:0", "cpu:1"])
        with PEERS["duly"].start(asked, tmp_path_factory.mktemp("duly")) as server:
            assert isinstance(server, OwnServer)
            yield server


def test_duly_serves_the_models_of_the_scenario(two_lanes: OwnServer) -> None:
    assert healthy(two_lanes, "tiny")
    assert healthy(two_lanes, "other")
    assert two_lanes.version.startswith("duly ")
    assert two_lanes.died() == ""
    before_s = two_lanes.cpu_s()
    assert before_s > 0, "its workers have warmed the models up"
    while two_lanes.cpu_s() == before_s:
        assert healthy(two_lanes), "each question costs it a little"


def test_workers_are_told_apart_by_lane_and_a_replacement_is_found(two_lanes: OwnServer) -> None:
    first = two_lanes.workers()
    assert sorted(first) == ["cpu:0", "cpu:1"]
    assert all("duly.worker.main" in psutil.Process(pid).cmdline() for pid in first.values())
    # First the worker of one model goes, then that of the other: what the lane has afterwards took the place of one.
    worker, gone = first["cpu:1"], set[int]()
    for _ in range(2):
        os.kill(worker, signal.SIGKILL)
        gone.add(worker)
        while (found := two_lanes.workers().get("cpu:1", worker)) in gone:
            pass
        worker = found
    assert "duly.worker.main" in psutil.Process(worker).cmdline()
    assert two_lanes.workers()["cpu:0"] == first["cpu:0"]


def test_floor_answers_and_has_no_workers(folder: Path) -> None:
    with PEERS["floor"].start(scenario(TINY), folder) as server:
        assert isinstance(server, OwnServer)
        assert healthy(server)
        assert server.workers() == {}
        assert server.cpu_s() > 0
        os.kill(server.pid, signal.SIGKILL)
        while not server.died():
            pass
        assert "ended by SIGKILL; its log is empty" in server.died()
        with pytest.raises(PeerError, match="floor is gone"):
            server.cpu_s()


def test_nothing_of_a_server_is_left_when_its_block_is_left(folder: Path) -> None:
    def interrupted() -> list[psutil.Process]:
        with PEERS["duly"].start(scenario(TINY), folder) as server:
            assert isinstance(server, OwnServer)
            tree.extend(server._process.tree())
            raise KeyboardInterrupt

    tree: list[psutil.Process] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(tree) == 2, "the server and one worker"
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in tree)


def test_a_server_ends_when_the_harness_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, {die_with_parent.__file__!r}, str(os.getpid()), "sleep", "600"])
print(child.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as harness:
        assert harness.stdout is not None
        server = psutil.Process(int(harness.stdout.readline()))
        while server.name() != "sleep":
            pass
        harness.kill()
        harness.wait()
        psutil.wait_procs([server], timeout=30)
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_a_model_that_is_broken_is_told_with_the_servers_log(tmp_path: Path, folder: Path) -> None:
    broken = tmp_path / "models" / "broken"
    (broken / "1").mkdir(parents=True)
    (broken / "1" / "model.onnx").write_bytes(b"not a graph")
    with (
        pytest.raises(PeerError, match=r"duly did not get ready: .* ended with status 1; the end of its log, .*broken"),
        PEERS["duly"].start(scenario({"name": "broken", "folder": str(broken)}), folder),
    ):
        pass


def test_a_command_that_is_not_there_is_said(folder: Path) -> None:
    with (
        pytest.raises(PeerError, match="/no/such/server: cannot be started: No such file or directory"),
        ServerProcess("ghost", ["/no/such/server"], folder, {}) as process,
    ):
        process.wait_until(lambda: False)


# ---- what the others are given ----


def read_pbtxt(text: str) -> dict[str, list[Any]]:
    """Protobuf's text format as lists of values by key: what it takes to see that Triton reads what was meant."""
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[\w.-]+|[{}\[\],:]', text)

    def value() -> Any:
        token = tokens.pop(0)
        if token == "{":
            return message("}")
        if token == "[":
            items = []
            while tokens[0] != "]":
                items.append(value())
                if tokens[0] == ",":
                    tokens.pop(0)
            tokens.pop(0)
            return items
        return json.loads(token) if token[0] in '"-0123456789' or token in ("true", "false") else token

    def message(end: str) -> dict[str, list[Any]]:
        fields: dict[str, list[Any]] = {}
        while tokens and tokens[0] != end:
            key = tokens.pop(0)
            if tokens[0] == ":":
                tokens.pop(0)
            fields.setdefault(key, []).append(value())
        if tokens:
            tokens.pop(0)
        return fields

    return message("}")


def test_a_folder_model_becomes_its_graph(tmp_path: Path, folder: Path) -> None:
    toml = '[[input]]\nname = "left"\ntensor = "a"\n[[input]]\nname = "b"\n'
    asked = scenario(add_model(tmp_path, "pair", toml) | {"batch_sizes": [8, 1]})
    (model,) = write_peer_models(folder, asked)
    assert model.name == "pair"
    assert model.file == tmp_path / "pair" / "3" / "m.onnx"
    assert model.batch_max == 8
    assert model.inputs == (PeerTensor("left", "a", "FP32", (2, -1)), PeerTensor("b", "b", "INT64", (3,)))
    assert model.outputs == (PeerTensor("c", "c", "FP32", (2, -1)), PeerTensor("d", "d", "INT64", ()))
    assert (folder / "models/pair/model.toml").read_text() == "batch_sizes = [1, 8]\n" + toml


def test_triton_gets_a_configuration_that_lets_requests_time_out(tmp_path: Path, folder: Path) -> None:
    (model,) = write_peer_models(folder, scenario(add_model(tmp_path, "pair")))
    write_model(tmp_path / "pair-of-triton", model, 2, timeouts=True)
    config = read_pbtxt((tmp_path / "pair-of-triton" / "config.pbtxt").read_text())
    assert config["name"] == ["pair"]
    assert config["backend"] == ["python"]
    assert config["max_batch_size"] == [8]
    assert config["instance_group"] == [{"kind": ["KIND_CPU"], "count": [2]}]
    assert config["input"] == [
        {"name": ["a"], "data_type": ["TYPE_FP32"], "dims": [[2, -1]]},
        {"name": ["b"], "data_type": ["TYPE_INT64"], "dims": [[3]]},
    ]
    assert config["output"] == [
        {"name": ["c"], "data_type": ["TYPE_FP32"], "dims": [[2, -1]]},
        {"name": ["d"], "data_type": ["TYPE_INT64"], "dims": [[1]], "reshape": [{"shape": [[]]}]},
    ]
    (policy,) = config["dynamic_batching"][0]["default_queue_policy"]
    assert policy["timeout_action"] == ["REJECT"]
    assert policy["allow_timeout_override"] == [True]
    assert policy["default_timeout_microseconds"][0] >= 60_000_000, "no budget is as long"
    write_model(tmp_path / "plain", model, 2, timeouts=False)
    assert read_pbtxt((tmp_path / "plain" / "config.pbtxt").read_text()) == config | {"dynamic_batching": [{}]}
    compile((tmp_path / "pair-of-triton" / "1" / "model.py").read_text(), "model.py", "exec")


def test_mlserver_gets_settings_for_each_model(folder: Path) -> None:
    models = write_peer_models(folder, scenario(TINY, {"name": "mlp", "graph": "mlp", "batch_sizes": [4]}))
    write_settings(folder / "settings", models, 3, 8000, 8001)
    server = json.loads((folder / "settings" / "settings.json").read_text())
    assert (server["http_port"], server["grpc_port"], server["parallel_workers"]) == (8000, 8001, 3)
    tiny, mlp = (
        json.loads((folder / "settings" / name / "model-settings.json").read_text()) for name in ("tiny", "mlp")
    )
    assert (tiny["max_batch_size"], mlp["max_batch_size"]) == (2, 4)
    assert mlp["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 256]}]


def test_the_graph_runs_under_the_names_that_clients_use(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from duly_load.targets.inside.graph_session import GraphSession

    toml = '[[input]]\nname = "left"\ntensor = "a"\n[[input]]\nname = "b"\n[[output]]\nname = "sum"\ntensor = "d"\n'
    (model,) = write_peer_models(folder, scenario(add_model(tmp_path, "pair", toml)))
    (folder / "graph.json").write_text(model.graph_json())
    outputs = GraphSession(folder).run({"left": np.zeros((2, 2, 5), np.float32), "b": np.array([[1, 2, 3], [4, 5, 6]])})
    assert {name: array.tolist() for name, array in outputs.items()} == {"sum": [6, 15]}


def test_a_graph_of_one_frame_is_not_batched(tmp_path: Path, folder: Path) -> None:
    (model,) = write_peer_models(folder, scenario(add_model(tmp_path, "single", batch=1)))
    assert model.batch_max == 1


@pytest.mark.parametrize(
    ("toml", "batch", "more", "said"),
    [
        ("[constants]\nb = 1\n", "N", {}, "its model.toml has constants, which duly alone can do"),
        ('[[state]]\noutput = "c"\ninput = "a"\n', "N", {}, "its model.toml has state"),
        ("threads = 4\n", "N", {}, "threads = 4, but servers are compared at 1"),
        (
            "batch_sizes = [1, 2]\n",
            "N",
            {"batch_sizes": [1, 4]},
            r"batch_sizes = \[1, 2\] in .*, \[1, 4\] in the scenario",
        ),
        ("threads = \n", "N", {}, "model.toml: not TOML"),
        ("", 5, {}, "its batch dimension is fixed"),
        ('[[input]]\nname = "z"\n', "N", {}, "names 'z', which its graph does not have"),
        ("nonsense = 1\n", "N", {}, "nonsense: there is no such key"),
    ],
)
def test_models_that_cannot_be_compared_are_told(
    tmp_path: Path, folder: Path, toml: str, batch: str | int, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(PeerError, match=said):
        write_peer_models(folder, scenario(add_model(tmp_path, "odd", toml, batch) | more))


def test_a_scenario_without_models_has_nothing_to_serve(folder: Path) -> None:
    asked = scenario(TINY).model_copy(update={"serve": Serve()})
    with pytest.raises(PeerError, match="names no models"), PEERS["duly"].start(asked, folder):
        pass


# ---- installing ----


@pytest.mark.parametrize("name", ["triton", "mlserver"])
def test_a_peer_that_is_not_installed_says_what_to_type(name: str, folder: Path) -> None:
    said = f"it is not installed: duly-load peers install {name}"
    assert PEERS[name].missing() == said
    with pytest.raises(PeerError, match=f"{name}: {said}"), PEERS[name].start(scenario(TINY), folder):
        pass
    listed = CliRunner().invoke(cli, ["peers", "list"])
    assert listed.exit_code == 0
    assert "not installed" in listed.output


def test_installing_nobody_is_the_users_mistake_and_ours_are_there() -> None:
    assert CliRunner().invoke(cli, ["peers", "install", "nobody"]).exit_code == 2
    result = CliRunner().invoke(cli, ["peers", "install", "floor"])
    assert (result.exit_code, result.output) == (0, "floor: is there already; --force installs it anew\n")
    result = CliRunner().invoke(cli, ["peers", "install", "floor", "--force"])
    assert "there is nothing to install" in result.output


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A peer whose only package lies in a folder, as a wheel made by hand."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    about = "stand_in-1.0.dist-info"
    with zipfile.ZipFile(wheels / "stand_in-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("stand_in.py", "HERE = 1\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return Environment("stand-in", ("stand-in==1.0",))


def test_an_environment_is_whole_or_not_there(package: Environment, cache: Path) -> None:
    assert "not installed" in package.missing()
    told: list[str] = []
    package.install(told.append)
    assert package.missing() == ""
    assert told[0].startswith("stand-in: making an environment")
    assert "stand-in: Successfully installed stand-in-1.0" in told
    subprocess.run([package.python, "-c", "import stand_in"], check=True)
    assert (package.packages / "stand_in.py").is_file()

    other = Environment("stand-in", ("stand-in==1.0", "there-is-no-such-package==7"))
    assert "with other packages than stand-in==1.0, there-is-no-such-package==7" in other.missing()
    with pytest.raises(PeerError, match=r"stand-in can't be installed.*there-is-no-such-package==7"):
        other.install(told.append)
    assert package.missing() == "", "what failed leaves what was there"
    assert [path.name for path in (cache / "peers").iterdir() if path.name != ".lock"] == [package.folder.name]
