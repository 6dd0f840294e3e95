"""Counters of GPUs, read through a module that stands in for NVML's."""

from pathlib import Path

import pytest

from duly.energy.nvml import Nvml
from duly.energy.totals import Reading
from duly.nvml.library import TRIED_AGAIN_NS, Library
from tests.nvml import stand_in as nvml
from tests.runtime.fake_lane import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(tmp_path: Path, clock: Clock) -> Nvml:
    return Nvml(Library(nvml.__name__, tmp_path, clock))


def counting(*millijoules: int) -> None:
    nvml.fresh(*(nvml.Gpu(f"00000000-0000-0000-0000-{nth:012}", millijoules=mj) for nth, mj in enumerate(millijoules)))


def test_each_gpu_is_read_and_one_without_a_counter_is_named(reader: Nvml) -> None:
    counting(1500, -nvml.NVML_ERROR_NOT_SUPPORTED, 7, -nvml.NVML_ERROR_GPU_IS_LOST)
    readings, missing = reader.read()
    assert readings == [Reading("gpu-0", 1_500_000), Reading("gpu-2", 7000)]
    assert [each.reason for each in missing] == [
        "gpu-1: does not count its energy, which GPUs do from Volta on",
        "gpu-3: GPU is lost",
    ]


def test_without_a_driver_nothing_is_missed(tmp_path: Path) -> None:
    assert Nvml(Library(nvml.__name__, tmp_path / "nowhere")).read() == ([], [])


def test_a_library_that_cannot_be_begun_with_is_missed(reader: Nvml) -> None:
    counting(1)
    nvml.STATE["init_error"] = nvml.NVML_ERROR_DRIVER_NOT_LOADED
    readings, (missing,) = reader.read()
    assert (readings, missing.reason) == ([], "NVML: Driver Not Loaded")
    assert missing.advice == "nvidia-smi should work as the server's user"


def test_a_driver_that_goes_while_it_is_read_is_begun_with_anew(reader: Nvml, clock: Clock) -> None:
    counting(1)
    reader.read()
    nvml.STATE["begun"] = 0
    assert [each.reason for each in reader.read()[1]] == ["NVML: Uninitialized"]
    clock.now_ns += TRIED_AGAIN_NS
    assert reader.read() == ([Reading("gpu-0", 1000)], [])
