"""Which GPU a lane is on, as NVML has it.

`cuda:1` is the second device that CUDA counts, and NVML counts otherwise: in the order of the PCI bus, without regard
to CUDA_VISIBLE_DEVICES, and parts of MIG apart from all. Both know UUIDs, so that these are what a lane is found by.
"""

import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple

_ASK_SECONDS_MAX = 30.0
_WHOLE = 0xFFFFFFFF
"""As NVML names the instance where a GPU is not divided."""


class Gpu(NamedTuple):
    """A GPU, or a part of one (MIG), as NVML has it until it is begun with anew."""

    device: Any
    """The handle of the whole GPU."""
    part: Any
    """The handle of the part; of the whole GPU where it is not divided."""
    name: str
    """NVML's and nvidia-smi's number of the GPU, as `gpu-0`."""
    gpu_instance: int
    compute_instance: int

    def concerns(self, gpu_instance: int, compute_instance: int) -> bool:
        """Whether an event of the GPU with these numbers is of this part of it, or of the whole."""
        return all(
            one == other or _WHOLE in (one, other)
            for one, other in ((gpu_instance, self.gpu_instance), (compute_instance, self.compute_instance))
        )


def cuda_devices(environ: Mapping[str, str]) -> list[str]:
    """Returns the UUIDs of the GPUs that CUDA counts in a process of this environment, in its order; none: it counts
    none, or cannot be asked. It may block for as long as the driver takes.
    """
    command = [sys.executable, "-P", "-m", "duly.nvml.cuda_order"]
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=_ASK_SECONDS_MAX, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(uuid.UUID(line)) for line in done.stdout.split()] if done.returncode == 0 else []


def devices_of_lanes(lanes: Sequence[str], devices: Sequence[str]) -> dict[str, str]:
    """Returns the UUID of the GPU of each lane that is on one. `devices`: see `cuda_devices`.

    What the plugin of TensorRT-RTX counts is known only where there is but one.
    """
    found = {}
    for lane in lanes:
        kind, _, number = lane.partition("/")[0].partition(":")  # of several lanes on one GPU, too
        if (kind == "cuda" or (kind == "tensorrt-rtx" and len(devices) == 1)) and int(number) < len(devices):
            found[lane] = devices[int(number)]
    return found


def whole_gpu(nvml: ModuleType, number: int) -> Gpu:
    """Returns the GPU with NVML's number, not divided. Raises NVMLError where it does not answer."""
    return _whole(nvml, nvml.nvmlDeviceGetHandleByIndex(number))


def find_gpu(nvml: ModuleType, device: str) -> Gpu:
    """Returns the GPU with that UUID, or the part. Raises NVMLError where it is not there or does not answer."""
    try:
        return _by_uuid(nvml, device)
    except nvml.NVMLError_NotFound:
        raise
    except nvml.NVMLError:
        # By a UUID all GPUs are lost "if any GPU has fallen off the bus" (nvml.h), by an index "the target GPU" is.
        for number in range(int(nvml.nvmlDeviceGetCount())):
            with suppress(nvml.NVMLError):
                whole = whole_gpu(nvml, number)
                if nvml.nvmlDeviceGetUUID(whole.device) == f"GPU-{device}":
                    return whole
                for handle in _parts(nvml, whole):
                    if nvml.nvmlDeviceGetUUID(handle) == f"MIG-{device}":
                        return _part(nvml, handle)
        raise


def _by_uuid(nvml: ModuleType, device: str) -> Gpu:
    try:
        return _whole(nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{device}"))
    except nvml.NVMLError_NotFound:
        return _part(nvml, nvml.nvmlDeviceGetHandleByUUID(f"MIG-{device}"))


def _whole(nvml: ModuleType, handle: Any) -> Gpu:
    return Gpu(handle, handle, f"gpu-{int(nvml.nvmlDeviceGetIndex(handle))}", _WHOLE, _WHOLE)


def _part(nvml: ModuleType, handle: Any) -> Gpu:
    instances = int(nvml.nvmlDeviceGetGpuInstanceId(handle)), int(nvml.nvmlDeviceGetComputeInstanceId(handle))
    whole = _whole(nvml, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))
    return Gpu(whole.device, handle, whole.name, *instances)


def _parts(nvml: ModuleType, whole: Gpu) -> list[Any]:
    handles = []
    for number in range(int(nvml.nvmlDeviceGetMaxMigDeviceCount(whole.device))):
        with suppress(nvml.NVMLError_NotFound):  # a number may be free
            handles.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole.device, number))
    return handles
