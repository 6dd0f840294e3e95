"""NVML is begun with, found gone, begun with anew, and let go of."""

from pathlib import Path

from duly.nvml.library import TRIED_AGAIN_NS, Library
from tests.nvml import stand_in as nvml
from tests.runtime.fake_lane import Clock


def test_without_a_driver_nothing_is_missed_until_there_is_one(tmp_path: Path) -> None:
    driver = tmp_path / "version"
    library = Library(nvml.__name__, driver)
    assert (library.begun(), library.why_not) == (None, "")
    driver.write_text("")
    assert library.begun() is nvml


def test_without_the_package_it_says_what_to_install(driver: Path) -> None:
    library = Library("no_such_module_of_nvml", driver)
    assert library.begun() is None
    assert library.why_not == "NVML: the module no_such_module_of_nvml cannot be imported: ModuleNotFoundError"
    assert library.advice == "pip install nvidia-ml-py"


def test_a_library_that_cannot_be_begun_with_is_tried_again_later(library: Library, clock: Clock) -> None:
    nvml.STATE["init_error"] = nvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert (library.begun(), library.why_not) == (None, "NVML: Driver Not Loaded")
    nvml.STATE["init_error"] = 0
    clock.now_ns += TRIED_AGAIN_NS - 1
    assert (library.begun(), library.why_not) == (None, "NVML: Driver Not Loaded")
    clock.now_ns += 1
    assert (library.begun(), library.why_not) == (nvml, "")


def test_what_was_given_up_is_begun_with_anew(library: Library, clock: Clock) -> None:
    assert library.begun() is nvml
    library.give_up("Uninitialized")
    assert nvml.STATE["begun"] == 0
    assert (library.begun(), library.why_not) == (None, "NVML: Uninitialized")
    clock.now_ns += TRIED_AGAIN_NS
    assert library.begun() is nvml


def test_nobody_holds_a_gpu_while_it_rests(library: Library) -> None:
    library.begun()
    library.rest("so that the GPU can be reset")
    assert nvml.STATE["begun"] == 0
    assert (library.begun(), library.why_not) == (None, "NVML: so that the GPU can be reset")
    library.wake()
    assert library.begun() is nvml
