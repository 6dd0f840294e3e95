"""NVIDIA's MPS: whether it is on, and what workers are told of it. The daemon is a folder laid out as it does."""

from pathlib import Path

import pytest

from duly.mps import client_variables, mps_folder


@pytest.fixture
def on(tmp_path: Path) -> dict[str, str]:
    """The environment of a server where the daemon runs."""
    (tmp_path / "control").touch()
    return {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}


def test_it_is_on_where_its_daemon_is(on: dict[str, str], tmp_path: Path) -> None:
    assert mps_folder(on) == tmp_path
    (tmp_path / "control").unlink()
    assert mps_folder(on) is None
    assert mps_folder({"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "none")}) is None


@pytest.mark.parametrize(("stream_class", "priority"), [("CRITICAL", "0"), ("STANDARD", "0"), ("BEST_EFFORT", "1")])
def test_the_class_of_a_model_is_the_priority_of_its_workers(
    on: dict[str, str], stream_class: str, priority: str
) -> None:
    assert client_variables(on, "cuda:0", stream_class) == {"CUDA_MPS_CLIENT_PRIORITY": priority}


def test_memory_is_bounded_for_the_device_of_the_lane(on: dict[str, str]) -> None:
    told = client_variables(on, "cuda:1/2", "STANDARD", 2_500_000_000)
    assert told["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "1=2384M"
    assert client_variables(on, "cuda:0", "STANDARD", 5)["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=1M"


def test_what_is_set_for_the_server_holds(on: dict[str, str]) -> None:
    own = on | {"CUDA_MPS_CLIENT_PRIORITY": "0", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=1G"}
    assert client_variables(own, "cuda:0", "BEST_EFFORT", 1 << 30) == {}


@pytest.mark.parametrize("lane", ["cpu:0", "webgpu:0", "migraphx:0", "openvino:GPU"])
def test_other_lanes_are_told_nothing(on: dict[str, str], lane: str) -> None:
    assert client_variables(on, lane, "BEST_EFFORT", 1 << 30) == {}


def test_without_it_nothing_is_told(tmp_path: Path) -> None:
    assert client_variables({"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}, "cuda:0", "BEST_EFFORT", 1 << 30) == {}
