"""What a confined worker can still do, and what not, tried on the kernel that the tests run on."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from duly.models.spec import ModelConfig
from duly.models.trust import Trust
from duly.runtime.worker_command import worker_environment
from duly.worker import confine as confining
from duly.worker.seccomp import Allowed, _program
from tests import graphs

HERE = Path(__file__).parents[2]
BYTES_MAX = 1 << 30
WHOLE = pytest.mark.skipif(bool(confining.lacking()), reason="this kernel lacks what confines workers")


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("models")
    for name in ("mine", "other"):
        graphs.save(root, name, graphs.doubling())
    command = [sys.executable, "-P", "-m", "tests.isolation.attacks"]
    command += [str(root / "mine"), str(root / "other/1/model.onnx"), str(BYTES_MAX)]
    environment = worker_environment(os.environ)
    environment["PYTHONPATH"] += f"{os.pathsep}{HERE}"
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@WHOLE
def test_what_a_hijacked_worker_would_try_is_refused(tried: dict[str, Any]) -> None:
    allowed = {name: what for name, what in tried["refused"].items() if what == "done"}
    assert not allowed


@WHOLE
def test_what_a_worker_needs_goes_on(tried: dict[str, Any]) -> None:
    failed = {name: what for name, what in tried["done"].items() if what != "done"}
    assert not failed


@WHOLE
def test_no_dump_of_its_memory_and_first_to_end_when_memory_is_short(tried: dict[str, Any]) -> None:
    assert tried["core"] == 0
    assert tried["oom_score_adj"] > 0


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("allowed", [Allowed(), Allowed(unix_sockets=True, pinning=True)])
def test_jumps_of_the_filter_stay_inside_it(machine: str, allowed: Allowed) -> None:
    steps = [tuple(step) for step in map(_unpacked, _program(allowed, 4321, machine))]
    assert steps[-1][0] == 0x06, "it ends in an answer"
    for at, (code, if_true, if_false, _) in enumerate(steps):
        if code & 0x07 == 0x05:
            assert at + 1 + max(if_true, if_false) < len(steps)


def _unpacked(step: bytes) -> tuple[int, int, int, int]:
    code, if_true, if_false, operand = struct.unpack("HBBI", step)
    return code, if_true, if_false, operand


def test_a_required_sandbox_that_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(confining.landlock, "abi", lambda: 0)
    monkeypatch.setattr(confining.seccomp, "available", lambda: False)
    lacking = confining.lacking()
    assert any("Landlock" in each for each in lacking)
    assert any("seccomp" in each for each in lacking)
    monkeypatch.setattr(confining, "_limit", lambda trust, accelerated: None)
    monkeypatch.setattr(confining.kernel, "no_new_privileges", lambda: None)
    monkeypatch.setattr(confining.kernel, "keep_capabilities", lambda kept: None)
    with pytest.raises(confining.LoadError, match="sandbox = require, but no Landlock"):
        confining.confine(Trust(sandbox="require"), ModelConfig(), "cpu:0", tmp_path, tmp_path)


def test_other_models_stay_hidden_where_the_import_path_is_above_them(tmp_path: Path) -> None:
    for name in ("app/code", "app/models/mine/1", "app/models/other/1"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "app/main.py").touch()
    found = set(confining._without(tmp_path, tmp_path / "app/models"))
    assert found == {tmp_path / "app/code", tmp_path / "app/main.py"}


LOADS_A_DRIVER = """
import ctypes
import sys
from pathlib import Path
from duly.models.spec import ModelConfig
from duly.models.trust import Trust
from duly.worker.confine import confine
folder, lane = Path(sys.argv[1]), sys.argv[2]
confine(Trust(sandbox="require"), ModelConfig(), lane, folder, folder)
try:
    ctypes.CDLL("/usr/local/nvidia/lib64/libcuda.so.1")
    print("loaded")
    open("/usr/local/nvidia/lib64/libcuda.so.1", "r+b")
    print("written")
except OSError:
    print("refused")
"""
IN_A_CONTAINER = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay -o "lowerdir=/usr/local,upperdir=$1/upper,workdir=$1/work" none /usr/local
mkdir -p /usr/local/nvidia/lib64
cp "$2" /usr/local/nvidia/lib64/libcuda.so.1
shift 2
exec "$@"
"""
"""Lays a library where containers have NVIDIA's driver, for the command alone: in a namespace of its own."""


@WHOLE
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(("lane", "said"), [("cuda:0", ["loaded", "refused"]), ("cpu:0", ["refused"])])
def test_a_worker_on_a_gpu_reads_the_driver_where_containers_have_it(
    tmp_path: Path, lane: str, said: list[str]
) -> None:
    layer, model, driver = tmp_path / "layer", tmp_path / "model", tmp_path / "driver.so"
    layer.mkdir()
    model.mkdir()
    (tmp_path / "driver.c").write_text("int cuInit(unsigned flags) { return flags; }")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", driver, tmp_path / "driver.c"], check=True)
    container = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", IN_A_CONTAINER, "sh", layer, driver]
    if shutil.which("unshare") is None or subprocess.run([*container, "true"], capture_output=True).returncode:
        pytest.skip("this kernel gives its users no namespaces with file systems of their own")
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    environment.pop("LD_LIBRARY_PATH", None)
    command = [*container, sys.executable, "-c", LOADS_A_DRIVER, model, lane]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == said


CLIENT_OF_MPS = """
import sys
from pathlib import Path
from duly.models.spec import ModelConfig
from duly.models.trust import Trust
from duly.worker.confine import confine
folder, pipes, lane = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
confine(Trust(sandbox="require"), ModelConfig(), lane, folder, folder)
try:
    with open(pipes / "control", "r+") as control:
        control.write("asked")
except OSError as error:
    print(error.strerror)
"""


@WHOLE
@pytest.mark.parametrize(("lane", "said"), [("cuda:0", ""), ("cpu:0", "Permission denied")])
def test_a_worker_on_a_gpu_reaches_the_daemon_of_mps(tmp_path: Path, lane: str, said: str) -> None:
    model, pipes = tmp_path / "model", tmp_path / "mps"
    model.mkdir()
    pipes.mkdir()
    (pipes / "control").touch()
    command = [sys.executable, "-c", CLIENT_OF_MPS, str(model), str(pipes), lane]
    environment = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": str(pipes), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == said
    assert (pipes / "control").read_text() == ("" if said else "asked")
