"""Which lanes a server has where nobody says."""

import importlib.metadata
import os

from duly.accelerators import ACCELERATORS
from duly.hardware import nvidia_gpus


def default_lanes() -> tuple[str, ...]:
    """The lanes of the ONNX Runtime that is installed: one for each NVIDIA GPU that this process may use, the CPU
    device of OpenVINO, the GPU of WebGPU; else `cpu:0`. Other devices are for who sets `lanes`, as they cannot be
    counted without loading drivers.
    """
    for each in ACCELERATORS:
        if each.wheel and each.kind != "cpu" and _is_installed(each.wheel):
            if each.kind == "cuda":
                return _cuda_lanes() or ("cpu:0",)
            return (f"{each.kind}:{each.first}",)
    return ("cpu:0",)


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _cuda_lanes() -> tuple[str, ...]:
    gpus = len(nvidia_gpus())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = min(gpus, sum(name.strip() not in ("", "-1") for name in visible.split(",")))
    return tuple(f"cuda:{index}" for index in range(gpus))
