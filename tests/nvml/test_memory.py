"""What memory a GPU has, and who has how much of it."""

from duly.nvml.library import Library
from duly.nvml.memory import GpuMemory, gpu_memory
from tests.nvml import stand_in as nvml

WHOLE, PART = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-00000000000a"


def test_it_tells_what_is_in_use_and_by_whom(library: Library) -> None:
    nvml.fresh(nvml.Gpu(WHOLE, used_bytes=5, total_bytes=16, processes={7: 3, 8: None}))
    assert gpu_memory(library, WHOLE) == GpuMemory(16, 5, {7: 3})


def test_a_driver_that_does_not_tell_of_processes(library: Library) -> None:
    nvml.fresh(nvml.Gpu(WHOLE, used_bytes=5, total_bytes=16, processes=None))
    assert gpu_memory(library, WHOLE) == GpuMemory(16, 5, {})


def test_a_part_of_a_gpu_has_memory_of_its_own(library: Library) -> None:
    nvml.fresh(nvml.Gpu(WHOLE))
    nvml.PARTS.append(nvml.Gpu(PART, used_bytes=1, total_bytes=4, parent=nvml.GPUS[0], instances=(1, 0)))
    assert gpu_memory(library, PART) == GpuMemory(4, 1, {})


def test_it_is_not_known_where_nvml_does_not_say(library: Library) -> None:
    assert gpu_memory(library, WHOLE) is None, "no such GPU"
    nvml.fresh(nvml.Gpu(WHOLE, error=nvml.NVML_ERROR_GPU_IS_LOST))
    assert gpu_memory(library, WHOLE) is None
    library.rest("for the test")
    assert gpu_memory(library, WHOLE) is None
