"""`duly doctor` on the accelerator that is installed here: it says that it runs, and where it cannot, why."""

import pytest

from duly.accelerators import CPU, of_lane
from duly.doctor.accelerators import examine_providers
from duly.doctor.finding import Level, ProviderFinding
from duly.models.trust import Trust
from tests.accelerators.test_served import LLVMPIPE
from tests.lane import DRIVERS


def told(provider: str, lane: str) -> ProviderFinding:
    found = [each for each in examine_providers([lane], Trust()) if isinstance(each, ProviderFinding)]
    return next(each for each in found if each.provider == provider)


def test_what_truly_runs(lane: str) -> None:
    row = of_lane(lane)
    found = told(row.provider, lane)
    assert (found.level, found.runs, found.lane) == (Level.OK, True, lane)
    assert found.installed.startswith(row.wheel)
    assert found.devices
    assert told(CPU, lane).runs


def test_a_device_that_is_not_there(lane: str, missing: str) -> None:
    found = told(of_lane(lane).provider, missing)
    assert (found.level, found.runs) == (Level.PROBLEM, False)
    assert found.advice


def test_the_software_vulkan_that_webgpu_refuses(lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not lane.startswith("webgpu:"):
        pytest.skip("it is WebGPU's")
    if not LLVMPIPE.exists():
        pytest.skip("the package mesa-vulkan-drivers is not installed")
    for name in DRIVERS:
        monkeypatch.setenv(name, str(LLVMPIPE))
    found = told(of_lane(lane).provider, lane)
    assert (found.level, found.runs) == (Level.PROBLEM, False)
    assert "No supported adapters" in found.found
    assert found.devices.startswith("processor llvmpipe")
    assert found.advice.startswith("Vulkan finds no GPU")
