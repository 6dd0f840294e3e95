"""What the worker of a lane on a GPU is told of memory and of priority. No process is started."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from duly.models.repository import ModelVersion
from duly.models.sizes import SizeLimits
from duly.models.spec import ModelConfig
from duly.models.trust import Trust
from duly.runtime.worker_launch import ORDINARY, Place, start_worker
from duly.runtime.worker_load import WorkerError
from duly.worker import channel

GB = 1_000_000_000


class Told:
    """What would have been started: its environment, and the LOAD message."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.env: dict[str, str] = {}
        self.load: dict[str, Any] = {}
        monkeypatch.setattr("duly.runtime.worker_process.subprocess.Popen", self._popen)

    def _popen(self, command: list[str], pass_fds: list[int], env: dict[str, str], **_: object) -> None:
        with socket.socket(fileno=os.dup(pass_fds[0])) as connection:
            self.load = channel.decode_text(channel.receive_text(connection)[0])[1]
        self.env = env
        raise OSError(12, "for the test")

    def start(self, lane: str, config: ModelConfig, place: Place = ORDINARY, **trust: int) -> "Told":
        version = ModelVersion("m", "1", Path(), Path(), config, ())
        with pytest.raises(WorkerError, match="cannot be started"):
            start_worker(
                version, lane, 1, SizeLimits(), lambda *_: None, lambda _: None, None, Trust(**trust), place=place
            )
        return self

    @property
    def mps(self) -> dict[str, str]:
        return {name: value for name, value in self.env.items() if name.startswith("CUDA_MPS")}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Told:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    return Told(monkeypatch)


@pytest.mark.parametrize(
    ("model", "server", "room", "told_bytes"),
    [(None, 0, 0, 0), (3 * GB, 0, 0, 3 * GB), (3 * GB, 2 * GB, 9 * GB, 2 * GB), (None, 0, 5 * GB, 5 * GB)],
)
async def test_the_least_of_what_it_may_have(
    told: Told, model: int | None, server: int, room: int, told_bytes: int
) -> None:
    config = ModelConfig(device_memory_bytes_max=model)
    place = Place(device_memory_bytes_max=room)
    told.start("cuda:0", config, place, worker_device_memory_bytes_max=server)
    assert told.load["device_memory_bytes_max"] == told_bytes


async def test_under_mps_its_environment_and_its_streams_have_the_priority_of_its_class(
    told: Told, tmp_path: Path
) -> None:
    config = ModelConfig(default_class="BEST_EFFORT", device_memory_bytes_max=2 << 30)
    usual = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    told.start("cuda:0/2", config, Place(shares_device=True))
    assert (told.mps, told.load["stream_class"]) == (usual, ""), "MPS is not on"
    (tmp_path / "control").touch()
    of_mps = {"CUDA_MPS_CLIENT_PRIORITY": "1", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=2048M"}
    told.start("cuda:0/2", config, Place(shares_device=True))
    assert (told.mps, told.load["stream_class"]) == (usual | of_mps, "BEST_EFFORT")
    told.start("cuda:0", config, Place())
    assert (told.mps, told.load["stream_class"]) == (usual | of_mps, ""), "nobody else runs on the GPU"
    told.start("cpu:0", config, Place())
    assert (told.mps, told.load["stream_class"]) == (usual, "")
