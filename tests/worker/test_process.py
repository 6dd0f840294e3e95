"""Life and death of a worker process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from duly.worker import channel
from duly.worker.pin_memory import pin
from tests import graphs
from tests.worker.client import TIMEOUT_S, LoadFailed, Worker, answer_to_load, load_body, version_of


def test_worker_ends_when_the_servers_end_of_the_channel_closes(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling())
    with Worker(version_of(tmp_path, "double")) as worker:
        name = Path(f"/proc/{worker.process.pid}/comm").read_text().strip()
        assert name == "duly double/1"
    assert worker.process.returncode == 0


def test_worker_ends_when_told_to_stop(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling())
    with Worker(version_of(tmp_path, "double")) as worker:
        worker.socket.send(channel.encode_text(channel.STOP, {}))
        assert worker.process.wait(TIMEOUT_S) == 0
        assert worker.socket.recv(1) == b""


SERVER = """
import subprocess, sys, os
worker = subprocess.Popen([sys.executable, "-m", "duly.worker.main", sys.argv[1], str(os.getpid())],
                          pass_fds=[int(sys.argv[1])])
os.close(int(sys.argv[1]))
print(worker.pid, flush=True)
sys.stdin.read()
"""


def test_worker_dies_with_a_server_that_is_killed_though_its_socket_lives_on(tmp_path: Path) -> None:
    ours, theirs = channel.socket_pair()
    ours.settimeout(TIMEOUT_S)
    with ours:
        with theirs:
            server = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        with server:
            assert server.stdout is not None
            server.stdout.readline()
            # An answer means that the worker runs; there is no such model, but this one would have ended by itself.
            graphs.save(tmp_path, "double", graphs.doubling())
            ours.send(channel.encode_text(channel.LOAD, load_body(version_of(tmp_path, "double"))))
            message, descriptors = answer_to_load(ours, {})
            os.close(descriptors[0])
            assert channel.kind_of(message) == channel.READY
            server.send_signal(signal.SIGKILL)
            assert ours.recv(1) == b""


def test_worker_whose_server_died_before_it_began_dies_too() -> None:
    ours, theirs = channel.socket_pair()
    with ours, theirs:
        no_parent = "1"
        worker = subprocess.run(
            [sys.executable, "-m", "duly.worker.main", str(theirs.fileno()), no_parent],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=TIMEOUT_S,
            check=False,
        )
    assert worker.returncode == -signal.SIGKILL


def test_broken_installation_is_told_to_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs.save(tmp_path / "models", "double", graphs.doubling())
    other = tmp_path / "site" / "onnxruntime_gpu-1.31.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    monkeypatch.syspath_prepend(other.parent)
    with pytest.raises(LoadFailed, match="are installed together and overwrite each other"):
        Worker(version_of(tmp_path / "models", "double"))


def test_pages_are_not_pinned_where_there_is_no_gpu() -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    region = channel.Region.create(4096, 4096)
    assert not pin(region.inputs, 0)
    region.close()
