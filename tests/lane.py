"""The lane that tests load their models on: cpu:0, or that of `pytest --lane`, on whose device they hold as well.

A test that cannot hold on all devices says on which it does, and why: `@pytest.mark.holds_on("cpu", why="...")`. A
device of WebGPU is made by SwiftShader, Vulkan in software, where the environment names no other driver.
"""

import os
import tempfile
from pathlib import Path

import pytest

from duly.accelerators import is_lane

CPU_LANE = "cpu:0"
SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
"""Where Debian's package chromium has it."""
DRIVERS = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
"""What Vulkan's loader reads; the second is what it was called before."""
_given = CPU_LANE


def lane() -> str:
    """The lane's name."""
    return _given


def set_up(config: pytest.Config) -> None:
    """Reads the option, and has workers, which inherit it, find a device."""
    global _given
    _given = config.getoption("lane")
    if not is_lane(_given):
        raise pytest.UsageError(f"--lane {_given}: there is no such lane")
    if not _given.startswith("webgpu:") or any(name in os.environ for name in DRIVERS):
        return
    if not SWIFTSHADER.exists():
        raise pytest.UsageError("WebGPU needs a driver for Vulkan: apt-get install chromium libvulkan1")
    folder = tempfile.TemporaryDirectory(prefix="duly-")
    config.add_cleanup(folder.cleanup)
    os.environ |= dict.fromkeys(DRIVERS, str(SWIFTSHADER))
    os.environ["XDG_RUNTIME_DIR"] = folder.name


def pass_over(items: list[pytest.Item]) -> None:
    """Marks what cannot hold on this lane as skipped, with its reason."""
    kind = _given.partition(":")[0]
    for item in items:
        for mark in item.iter_markers("holds_on"):
            if kind not in mark.args:
                item.add_marker(pytest.mark.skip(reason=f"on {kind}: {mark.kwargs['why']}"))
