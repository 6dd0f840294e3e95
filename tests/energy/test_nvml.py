"""Counters of GPUs, read through a module that stands in for NVML's."""

from pathlib import Path

import pytest

from duly.energy.nvml import TRIED_AGAIN_READS, Nvml
from duly.energy.totals import Reading
from tests.energy import nvml_stand_in as nvml

MODULE = nvml.__name__


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "GPUS", [])
    monkeypatch.setattr(nvml, "STATE", {"begun": 0, "init_error": 0})


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06\n")
    return file


def test_each_gpu_is_read_and_one_without_a_counter_is_named(driver: Path) -> None:
    nvml.GPUS[:] = [1500, -nvml.NVML_ERROR_NOT_SUPPORTED, 7, -nvml.NVML_ERROR_GPU_IS_LOST]
    readings, missing = Nvml(MODULE, driver).read()
    assert readings == [Reading("gpu-0", 1_500_000), Reading("gpu-2", 7000)]
    assert [each.reason for each in missing] == [
        "gpu-1: does not count its energy, which GPUs do from Volta on",
        "gpu-3: GPU is lost",
    ]


def test_without_a_driver_nothing_is_missed_until_there_is_one(tmp_path: Path) -> None:
    driver = tmp_path / "version"
    reader = Nvml(MODULE, driver)
    nvml.GPUS[:] = [1]
    assert reader.read() == ([], [])
    driver.write_text("")
    assert reader.read() == ([Reading("gpu-0", 1000)], [])


def test_without_the_package_it_says_what_to_install(driver: Path) -> None:
    readings, (missing,) = Nvml("no_such_module_of_nvml", driver).read()
    assert readings == []
    assert missing.reason == "NVML: the module no_such_module_of_nvml cannot be imported: ModuleNotFoundError"
    assert missing.advice == "pip install nvidia-ml-py"


def test_a_library_that_cannot_be_begun_with_is_tried_again_later(driver: Path) -> None:
    nvml.GPUS[:] = [1]
    nvml.STATE["init_error"] = nvml.NVML_ERROR_DRIVER_NOT_LOADED
    reader = Nvml(MODULE, driver)
    assert [each.reason for each in reader.read()[1]] == ["NVML: Driver Not Loaded"]
    nvml.STATE["init_error"] = 0
    for _ in range(TRIED_AGAIN_READS):
        assert [each.reason for each in reader.read()[1]] == ["NVML: Driver Not Loaded"]
    assert reader.read() == ([Reading("gpu-0", 1000)], [])


def test_a_driver_that_goes_while_it_is_read_is_begun_with_anew(driver: Path) -> None:
    nvml.GPUS[:] = [1]
    reader = Nvml(MODULE, driver)
    reader.read()
    nvml.STATE["begun"] = 0
    assert [each.reason for each in reader.read()[1]] == ["NVML: Uninitialized"]
    for _ in range(TRIED_AGAIN_READS):
        assert reader.read()[0] == []
    assert reader.read()[0] == [Reading("gpu-0", 1000)]
