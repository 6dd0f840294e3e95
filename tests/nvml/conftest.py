"""A driver that is loaded, and NVML as made up by the tests."""

from pathlib import Path

import pytest

from duly.nvml.library import Library
from tests.nvml import stand_in
from tests.runtime.fake_lane import Clock


@pytest.fixture(autouse=True)
def machine() -> None:
    stand_in.fresh()


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06\n")
    return file


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def library(driver: Path, clock: Clock) -> Library:
    return Library(stand_in.__name__, driver, clock)
