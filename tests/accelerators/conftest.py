"""A server on the device of whichever ONNX Runtime is installed here: `make accelerators` runs these tests in an
environment for each.

A device of WebGPU is made by SwiftShader, Vulkan in software, where VK_DRIVER_FILES names no other driver.
"""

import os
from pathlib import Path

import pytest

from duly.default_lanes import default_lanes

HERE = Path(__file__).parent
SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
"""Where Debian's package chromium has it."""
DRIVERS = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
"""What Vulkan's loader reads; the second is what it was called before."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.accelerators)


@pytest.fixture(scope="session")
def lane() -> str:
    (first, *_) = default_lanes()
    assert not first.startswith("cpu:"), "run by make accelerators: ONNX Runtime is to be one for an accelerator"
    return first


@pytest.fixture(scope="session", autouse=True)
def device(lane: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Has workers, which inherit it, find a device."""
    if not lane.startswith("webgpu:") or any(name in os.environ for name in DRIVERS):
        return
    assert SWIFTSHADER.exists(), "WebGPU needs a driver for Vulkan: apt-get install chromium libvulkan1"
    os.environ |= dict.fromkeys(DRIVERS, str(SWIFTSHADER))
    os.environ["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("runtime"))
