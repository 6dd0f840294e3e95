"""Which GPU a lane is on: CUDA is asked, by whatever name and order it counts."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from duly.nvml.gpus import cuda_devices, devices_of_lanes, find_gpu
from duly.nvml.library import Library
from duly.runtime.worker_command import worker_environment
from tests.nvml import stand_in as nvml

A, B, C = (f"00000000-0000-0000-0000-{number:012}" for number in (1, 2, 3))
WHOLE = 0xFFFFFFFF
CUDA = """
/* Counts the devices that the variable CUDA_VISIBLE_DEVICES names by the last digits of their UUIDs. */
#include <stdlib.h>
#include <string.h>
static const char *names(void) { const char *set = getenv("CUDA_VISIBLE_DEVICES"); return set ? set : ""; }
int cuInit(unsigned flags) { return getenv("BROKEN") ? 999 : 0; }
int cuDeviceGetCount(int *count) { *count = (int)strlen(names()); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetUuid(unsigned char *uuid, int device) { memset(uuid, 0xff, 16); return 0; }
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    memset(uuid, 0, 16);
    uuid[15] = (unsigned char)(names()[device] - '0');
    return 0;
}
"""


def asked(folder: Path, **variables: str) -> list[str]:
    return cuda_devices({**worker_environment(os.environ), "LD_LIBRARY_PATH": str(folder), **variables})


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_cuda_is_asked_in_the_environment_of_the_workers(tmp_path: Path) -> None:
    (tmp_path / "cuda.c").write_text(CUDA)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "cuda.c"], check=True)
    assert asked(tmp_path, CUDA_VISIBLE_DEVICES="31") == [C, A]
    assert asked(tmp_path, CUDA_VISIBLE_DEVICES="") == []
    assert asked(tmp_path, CUDA_VISIBLE_DEVICES="31", BROKEN="1") == []


def test_without_cuda_there_is_none(tmp_path: Path) -> None:
    assert asked(tmp_path) == []


def test_a_lane_is_on_the_device_of_its_number_in_the_order_of_cuda() -> None:
    lanes = ["cpu:0", "cuda:0", "cuda:1", "cuda:2", "webgpu:0", "tensorrt-rtx:0"]
    assert devices_of_lanes([*lanes, "cuda:1/2"], [C, A]) == {"cuda:0": C, "cuda:1": A, "cuda:1/2": A}
    assert devices_of_lanes(lanes, [B]) == {"cuda:0": B, "tensorrt-rtx:0": B}
    assert devices_of_lanes(lanes, []) == {}


def test_nvml_counts_otherwise_and_is_asked_by_uuid(library: Library) -> None:
    nvml.fresh(nvml.Gpu(A), nvml.Gpu(B), nvml.Gpu(C))
    library.begun()
    gpu = find_gpu(nvml, C)
    assert (gpu.device, gpu.part, gpu.name) == (nvml.GPUS[2], nvml.GPUS[2], "gpu-2")
    assert gpu.concerns(WHOLE, WHOLE)
    with pytest.raises(nvml.NVMLError_NotFound):
        find_gpu(nvml, "00000000-0000-0000-0000-000000000009")


def test_one_that_is_lost_does_not_hide_the_others(library: Library) -> None:
    lost, whole = nvml.Gpu(A, error=nvml.NVML_ERROR_GPU_IS_LOST), nvml.Gpu(B)
    nvml.fresh(lost, whole)
    nvml.PARTS.append(nvml.Gpu(C, parent=whole, instances=(3, 0)))
    library.begun()
    assert find_gpu(nvml, B).name == "gpu-1"
    part = find_gpu(nvml, C)
    assert (part.device, part.part, part.gpu_instance) == (whole, nvml.PARTS[0], 3)
    for device in (A, "00000000-0000-0000-0000-000000000009"):
        with pytest.raises(nvml.NVMLError_GpuIsLost):
            find_gpu(nvml, device)


def test_of_a_part_what_happens_to_others_is_none_of_its_business(library: Library) -> None:
    whole = nvml.Gpu(A)
    nvml.fresh(nvml.Gpu(B), whole)
    nvml.PARTS.append(nvml.Gpu(C, parent=whole, instances=(3, 0)))
    library.begun()
    gpu = find_gpu(nvml, C)
    assert (gpu.device, gpu.part, gpu.name) == (whole, nvml.PARTS[0], "gpu-1")
    assert gpu.concerns(3, 0)
    assert gpu.concerns(WHOLE, WHOLE), "what happens to the GPU happens to all of it"
    assert not gpu.concerns(4, 0)
    assert not gpu.concerns(3, 1)
