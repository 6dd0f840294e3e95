"""What the machine is and what is installed on it, as far as it may be told: no names, no paths, no serial numbers."""

import ctypes
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnxruntime

from duly_load.results.machine import look
from tests.gpu import nvidia_smi
from tests.gpu.requirements import CHECKOUT
from tests.gpu.stages import Asked, own_seconds

PACKAGES = (
    "duly", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-webgpu", "nvidia-cublas",
    "nvidia-cudnn-cu13", "nvidia-cuda-runtime", "nvidia-ml-py", "tensorrt-cu13-libs", "onnx", "numpy", "grpcio",
    "protobuf", "uvloop",
)  # fmt: skip
LEFT_SECONDS = 3.0
"""Of its time, what it does not give to `duly doctor`: for its own start, and to write what that has said."""
MPS_CONTROL = "nvidia-cuda-mps"
"""How names of its processes begin, which the kernel cuts to 15 characters."""


def run(asked: Asked) -> None:
    until_s = time.monotonic() + own_seconds(asked.seconds) - LEFT_SECONDS
    found: dict[str, object] = {"lane": asked.lane, "rehearsal": asked.rehearsal}
    if asked.lane.startswith("cuda:"):
        index = int(asked.lane.partition(":")[2])
        found |= {"gpus": len(nvidia_smi.listed()), "gpu": nvidia_smi.known(nvidia_smi.facts, index)}
        found |= {"idle": nvidia_smi.known(nvidia_smi.state, index), "MPS": _mps()}
        found["versions"] = nvidia_smi.known(nvidia_smi.driver) | dict(_libraries())
    found["onnxruntime"] = {
        "version": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "build": onnxruntime.get_build_info(),
    }
    found["packages"] = dict(_packages())
    found["machine"] = look().to_json()
    found["duly"] = _commit(asked.commit)
    asked.write(found)
    found["doctor"] = _doctor(asked.lane, max(until_s - time.monotonic(), 1.0))
    asked.write(found)


def _packages() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def _libraries() -> Iterator[tuple[str, str]]:
    """The versions of the libraries that a worker would find, asked of themselves."""
    onnxruntime.preload_dlls()
    for name, library, ask in (
        ("CUDA runtime", "libcudart.so.13", _cuda_version),
        ("cuDNN", "libcudnn.so.9", _cudnn_version),
        ("TensorRT", "libnvinfer.so.10", _tensorrt_version),
    ):
        try:
            yield name, ask(ctypes.CDLL(library))
        except (OSError, AttributeError):
            yield name, "not found"


def _cuda_version(library: ctypes.CDLL) -> str:
    version = ctypes.c_int()
    library.cudaRuntimeGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _cudnn_version(library: ctypes.CDLL) -> str:
    library.cudnnGetVersion.restype = ctypes.c_size_t
    version = library.cudnnGetVersion()  # 90800 is 9.8.0
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def _tensorrt_version(library: ctypes.CDLL) -> str:
    version = library.getInferLibVersion()  # 101601 is 10.16.1
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def _mps() -> bool:
    """Whether the daemon of CUDA's Multi-Process Service runs here."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().startswith(MPS_CONTROL):
                return True
        except OSError:
            continue
    return False


def _commit(said: str) -> dict[str, str]:
    """What of duly runs here. `said`: the commit, where git is not to be asked."""
    found = {"version": importlib.metadata.version("duly")}
    for name, command in (
        ("commit", ["rev-parse", "HEAD"]),
        ("changed", ["status", "--porcelain", "--untracked-files=no"]),
    ):
        try:
            done = subprocess.run(
                ["git", *command], cwd=CHECKOUT, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            unknown = "not known, as this is no checkout of git: --commit says it"
            return found | {"commit": f"{said}, as was said, without git" if said else unknown}
        found[name] = done.stdout.strip()
    return found | {"changed": f"{len(found['changed'].splitlines())} files"}


def _doctor(lane: str, seconds: float) -> object:
    command = [sys.executable, "-P", "-m", "duly.cli", "doctor", "--json", "--lanes", lane]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=os.environ)
        return json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        return f"duly doctor gave nothing in {seconds:.0f} s: {type(error).__name__}"
