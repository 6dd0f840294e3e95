"""Which GPUs this process may use."""

import importlib.metadata
import os
import subprocess


def default_lanes() -> tuple[str, ...]:
    """One lane for each NVIDIA GPU that this process may use, if onnxruntime-gpu is installed; else `cpu:0`."""
    try:
        importlib.metadata.version("onnxruntime-gpu")
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (importlib.metadata.PackageNotFoundError, OSError, subprocess.SubprocessError):
        return ("cpu:0",)
    gpus = sum(line.startswith("GPU ") for line in listing.splitlines())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = min(gpus, sum(name.strip() not in ("", "-1") for name in visible.split(",")))
    return tuple(f"cuda:{index}" for index in range(gpus)) or ("cpu:0",)
