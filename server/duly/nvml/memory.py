"""What memory a GPU has, and who has how much of it."""

from types import ModuleType
from typing import NamedTuple

from duly.nvml.gpus import find_gpu
from duly.nvml.library import Library


class GpuMemory(NamedTuple):
    """The memory of a GPU, or of a part of one, at one moment."""

    total_bytes: int
    used_bytes: int
    """What is in use, by whoever."""
    of_processes: dict[int, int]
    """What processes have of it, by their ids, as far as the driver tells. The ids are those of the system."""


def gpu_memory(library: Library, device: str) -> GpuMemory | None:
    """Returns the memory of the GPU, or part, with that UUID; None: NVML does not tell. It may block for as long as the
    driver takes.
    """
    with library.held:
        nvml = library.begun()
        if nvml is None:
            return None
        try:
            part = find_gpu(nvml, device).part
            memory = nvml.nvmlDeviceGetMemoryInfo(part)
            return GpuMemory(int(memory.total), int(memory.used), _of_processes(nvml, part))
        except nvml.NVMLError:
            return None


def _of_processes(nvml: ModuleType, part: object) -> dict[int, int]:
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(part)
    except nvml.NVMLError:
        return {}
    return {int(each.pid): int(each.usedGpuMemory) for each in running if each.usedGpuMemory}
